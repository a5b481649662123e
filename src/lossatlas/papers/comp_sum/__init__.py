"""comp_sum: cross-entropy and its relatives as one family (Mao, Mohri, Zhong; ICML 2023).

Idea     Phi_tau of a sum of exponentials runs from sum-exponential to MAE; each member bounds zero-one error.
Symbols  h scores, n classes, u = sum_{y' != y} exp(h_y' - h_y) = 1/p_y - 1, g = log(1 + u), b 0-1 regret.
Eq. 1    l_tau = expm1((1-tau) g) / (1-tau), g at tau = 1; tau 0 sum-exponential, 1 CE, 1 + q GCE, 2 MAE.
Eq. 2    R01 - R01* + M01 <= Gamma_tau(R_tau - R_tau* + M_tau), Gamma = T^-1, M the minimizability gaps.
Eq. 3    T(b) = c (A^(2-tau) - 1) / (tau-1), A = ((1+b)^s + (1-b)^s) / 2, s = 1/(2-tau), c = 2^(1-tau) for
         tau < 1, n^(1-tau) above; tau = 1 the limit; T(b) = b n^(1-tau) / (tau-1) from tau = 2 on.
Eq. 4    l_tau of h / rho, plus nu max_{|x'-x|_inf <= radius} || D(x') - D(x) ||_2, D_y' = h_y - h_y', by PGD.
Differs  tau < 1 goes on along its tangent where exp((1-tau) g) would overflow, and counts that; rho = 1 and
         the norm as in the paper's experiments, not its margin theory; x, x' pass batch norm as one batch.
"""

from lossatlas.attacks import pgd
from lossatlas.papers.comp_sum.adversarial import ATPGD, MART, TRADES, AdvCompSumLoss, score_change
from lossatlas.papers.comp_sum.attack import robust_correct
from lossatlas.papers.comp_sum.bounds import (
    best_risk,
    gamma_bound,
    gamma_tau,
    minimizability_gap,
    risk,
    surrogate_regret,
    t_tau,
    two_class_tie,
    zero_one_regret,
)
from lossatlas.papers.comp_sum.losses import CompSumLoss, phi
from lossatlas.papers.comp_sum.probe import run_bounds, sample_pairs

__all__ = [
    "ATPGD",
    "MART",
    "TRADES",
    "AdvCompSumLoss",
    "CompSumLoss",
    "best_risk",
    "gamma_bound",
    "gamma_tau",
    "minimizability_gap",
    "pgd",
    "phi",
    "risk",
    "robust_correct",
    "run_bounds",
    "sample_pairs",
    "score_change",
    "surrogate_regret",
    "t_tau",
    "two_class_tie",
    "zero_one_regret",
]
