"""Optimistic online mirror descent between stochastic and adversarial losses (Chen, Tu, Zhao, Zhang; ICML 2023).

Idea     the losses of round t are drawn from D_t, which may move: fixed D_t is the stochastic setting, point masses
         the adversarial one. With the last gradient as hint the regret is governed by the noise sigma^2_{1:T} of the
         gradients and the drift Sigma^2_{1:T} of their means, not by the number of rounds.
Symbols  X convex, diameter D; |g| <= G; mean losses F_t, L-smooth; g_t = grad f_t(x_t);
         V_t = sum_{s<=t} |g_s - g_{s-1}|^2, g_0 = 0.
Eq. 1    xhat_{t+1} = argmin_X <g_t, x> + Dpsi_t(x, xhat_t);  x_{t+1} = argmin_X <g_t, x> + Dpsi_{t+1}(x, xhat_{t+1})
Eq. 2    convex: psi_t = |x|^2 / (2 eta_t), eta_t = D / sqrt(10 D^2 L^2 + 4 G^2 + V_{t-1})
Eq. 3    lambda-strongly convex: eta_t = 2 / (lambda t)
Eq. 4    alpha-exp-concave: psi_t = |x|^2_{H_t} / 2, H_t = (1 + beta G^2 / 2) I + (beta / 2) sum_{s<t} g_s g_s^T
Eq. 5    moving comparators: weights over copies of eq. 2 with constant eta_i (ensemble.py)
Differs  the study is ours, since the paper has no experiments. Every method starts at the centre of X. G is 2.5 on the
         ball, where Gaussian noise has no bound; beta = 1 stands beside the theorem's, at which no logarithm shows
         before 10^5 rounds.
"""

from lossatlas.papers.sea_omd.ensemble import Ensemble
from lossatlas.papers.sea_omd.learners import OFTRL, Descent, Newton, OptimisticDescent
from lossatlas.papers.sea_omd.projections import project_ball, project_ball_in_norm

__all__ = [
    "OFTRL",
    "Descent",
    "Ensemble",
    "Newton",
    "OptimisticDescent",
    "project_ball",
    "project_ball_in_norm",
]
