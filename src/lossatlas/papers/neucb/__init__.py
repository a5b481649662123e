"""NeuCB: contextual bandits with online neural regression (Deb, Ban, Zuo, He, Banerjee; ICLR 2024).

Idea     inverse-gap weighting turns an online regression oracle with small regret into a bandit; a random
         perturbation of the predictions gives a wide network's loss a unique minimum, hence log T regression regret.
Symbols  K arms, contexts x_a, losses y in [0, 1], theta the weights (theta_0 at initialisation), m width.
Eq. 1    f~(theta; x, e) = f(theta; x) + c_p sum_j (theta_j - theta_0j) e_j / m^(1/4), signs e^1..e^S fixed for the run
Eq. 2    loss (1/S) sum_s l(f~_s, y), l = (1/2 + f~ - y)^2 / 2 (squared) or -y log s(f~) - (1-y) log(1 - s(f~)) (kl)
Eq. 3    theta <- projection onto |theta - theta_0| <= rho of theta - eta grad, on the chosen arm's loss alone
Eq. 4    with gap_a = yhat_a - yhat_b, b the best arm, which gets the rest of the probability:
         p_a = 1 / (K + gamma gap_a) (NeuSquareCB), p_a = yhat_b / (K yhat_b + gamma gap_a) (NeuFastCB)
Limits   gamma = 0 or equal predictions: uniform; gamma -> infinity: greedy; mean of f~ over all signs = f.
Differs  f is the network minus itself at initialisation; constant steps and rho = infinity by default (1/t by
         `decay`); neural_ucb and neural_ts learn by the same single step a round, they do not re-train.
"""

from lossatlas.papers.neucb.bandit import Bandit, block_contexts, from_classes, visiting_order
from lossatlas.papers.neucb.learners import Confidence, NeuralLearner
from lossatlas.papers.neucb.lit import LitNeuCB
from lossatlas.papers.neucb.ridge import RidgeLearner
from lossatlas.papers.neucb.rules import choose, draw, epsilon_rule, fast_rule, square_rule

__all__ = [
    "Bandit",
    "Confidence",
    "LitNeuCB",
    "NeuralLearner",
    "RidgeLearner",
    "block_contexts",
    "choose",
    "draw",
    "epsilon_rule",
    "fast_rule",
    "from_classes",
    "square_rule",
    "visiting_order",
]
