"""PRESTO: a rare class borrows strength from the steps before it (Faletto, Bien; ICML 2023).

Idea     ordered classes, one logit a boundary; L1 on differences of neighbouring slopes shrinks to proportional odds.
Symbols  y in 1..K, x standardised, alpha_k intercept, beta_k slopes, psi_1 = beta_1, psi_k = beta_k - beta_{k-1}.
Eq. 1    P(y <= k | x) = sigmoid(alpha_k + beta_k . x), k = 1..K-1; class probabilities are differences, > 0 at fit.
Eq. 2    minimise -(1/n) sum_i log P(y_i | x_i) + lambda sum_k sum_j |psi_kj|; alpha free, beta_1 is penalised, too.
Eq. 3    d psi_k = sum over l >= k of d beta_l; lambda_max = max |d loss / d psi| at psi = 0.
Limits   lambda >= lambda_max: class frequencies; first=False, lambda = inf: proportional odds; K = 2: l1 logistic.
Differs  proximal Newton (l1 part by FISTA and a solve) for coordinate descent; an optimum on the domain's edge is
         followed by a barrier instead of stopping; folds stratified by class; code counts y from 0.
"""

from lossatlas.papers.presto.estimator import Presto, RareLogistic
from lossatlas.papers.presto.path import Penalty, cross_validate, fit_path, lambda_grid
from lossatlas.papers.presto.simulate import load_table, simulate

__all__ = [
    "Penalty",
    "Presto",
    "RareLogistic",
    "cross_validate",
    "fit_path",
    "lambda_grid",
    "load_table",
    "simulate",
]
