"""Adversarial MDPs with linear features: square-root regret by two remedies (Dai, Luo, Wei, Zimmert; ICML 2023).

Idea     policy optimisation runs an expert algorithm in every state on estimated Q-values. Linear estimates can be
         hugely negative, which exponential weights bear only at a small step size: regret K^(2/3). Either FTRL with
         the log-barrier, which bears any loss, or an estimate of the same mean that cannot be so negative: K^(1/2).
Symbols  layers h < H, states s, actions a, features phi(s,a) in R^d, norm <= 1, episodes k <= K, losses
         l_k(s,a) = <phi, theta_k> in [0, 1]; L_h the losses of the played trajectory from layer h on; q = P_pi(s,a).
Eq. 1    Sinv = (gamma I + E_pi phi phi^T)^-1                                        (estimators.py)
Eq. 2    Q(s,a) = Z L_h, Z = phi(s,a)^T Sinv phi(s_h,a_h)
Eq. 3    Q(s,a) = Z L_h - (H-h) (Z)_- + (H-h) E_pi (phi(s,a)^T Sinv phi(s',a'))_- >= -(H-h) / sqrt(gamma); mean of eq. 2
Eq. 4    B(s,a) = b(s,a) + (1 + 1/H) E_{s',a'} B(s',a'), b = beta (|phi(s,a)|^2_Sinv + E_a' |phi(s,a')|^2_Sinv)
Eq. 5    pi = argmin_p <p, G> + (1/eta) sum_a log(1/p_a), G = sum_j (Q_j - B_j); hedge: p_a ~ exp(-eta G_a)
Differs  the paper has no experiments: MDPs, losses and constants are ours. Eq. 1 inverts directly, for the paper's
         resampling, which stands beside it (`resampled_inverse`); eq. 3 has H - h for the paper's H, which is tighter.
         Covariances are exact unless `trajectories` are simulated. The simulator-free algorithm is not built.
"""

from lossatlas.papers.linear_mdp.estimators import (
    bonus,
    covariance,
    estimate,
    reduced_estimate,
    regularised_inverse,
    resampled_inverse,
)
from lossatlas.papers.linear_mdp.mdp import LinearMDP, draw_mdp
from lossatlas.papers.linear_mdp.policies import hedge, log_barrier

__all__ = [
    "LinearMDP",
    "bonus",
    "covariance",
    "draw_mdp",
    "estimate",
    "hedge",
    "log_barrier",
    "reduced_estimate",
    "regularised_inverse",
    "resampled_inverse",
]
