"""Reusing a holdout set (Dwork, Feldman, Hardt, Pitassi, Reingold, Roth; STOC 2015 and Science 2015).

Idea     an analyst who chooses each question after the answers before fits the sample: after about n of them empirical
         answers are worthless. Answers through a private mechanism stay near the population for far more questions.
Symbols  population P on X, sample S of n points, query q: X -> [0, 1], truth q(P), empirical q(S), answer a.
Eq. 1    noise: a = q(S) + b z, b = alpha / sqrt(2 ln k) for k queries: n grows like sqrt(k), not like k
Eq. 2    private multiplicative weights: hypothesis D on X; if |q(D) - q(S) + Lap(b0)| <= T answer q(D), otherwise
         h = q(S) + Lap(b0) and D(x) <- D(x) exp(eta sgn(h - q(D)) q(x)) / Z, eta = T / 2; without noise at most
         log|X| / (eta T - eta^2 / 8) updates, whatever the number of queries
Eq. 3    Thresholdout: a = q(S_t) of the training half unless |q(S_h) - q(S_t)| > That + Lap(4 s), That = T + Lap(2 s);
         then a = q(S_h) + Lap(s), That is drawn anew, the budget falls by 1. The form of the published
         demonstration compares with T + s z, answers q(S_h) + s z' and has no budget.
Differs  constants and analysts are this study's; Laplace or Gaussian noise is a switch. Points a vote leaves at 0 count
         half, so that a classifier of no features has accuracy 1/2.
"""

from lossatlas.papers.thresholdout.analysts import SignAnalyst, Votes, choose_features
from lossatlas.papers.thresholdout.base import BudgetSpentError
from lossatlas.papers.thresholdout.mechanisms import (
    Naive,
    Noisy,
    PrivateWeights,
    Split,
    Thresholdout,
    noise_scale,
    update_bound,
)
from lossatlas.papers.thresholdout.samples import Points, Rows

__all__ = [
    "BudgetSpentError",
    "Naive",
    "Noisy",
    "Points",
    "PrivateWeights",
    "Rows",
    "SignAnalyst",
    "Split",
    "Thresholdout",
    "Votes",
    "choose_features",
    "noise_scale",
    "update_bound",
]
