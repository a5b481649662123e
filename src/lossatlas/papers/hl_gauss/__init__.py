"""hl_gauss: value functions learnt by classification (Farebrother et al.; ICML 2024).

Idea     a number y is learnt as a histogram over bins by cross-entropy, not as a scalar by its square.
Symbols  bins of width w between edges b_0..b_m over [v_min, v_max], centres z_i, logits l, F the normal CDF.
Eq. 1    HL-Gauss: p_i = (F((b_i+1 - y)/s) - F((b_i - y)/s)) / (F((v_max - y)/s) - F((v_min - y)/s)), s = ratio w.
Eq. 2    Two-Hot: p_i = max(0, 1 - |y - z_i| / w), so that sum_i p_i z_i = y.
Eq. 3    C51: the mass q_j of each moved atom r + discount z_j is shared as in eq. 2.
Eq. 4    L = -sum_i p_i log softmax(l)_i, gradient softmax(l) - p; prediction Q = sum_i softmax(l)_i z_i.
Differs  all arms share the bin centres, so Two-Hot and C51 clip to [z_1, z_m], half a bin inside the support;
         every loss but C51's clips its targets to the support and counts them. The paper's own scale is Atari: here
         its two supervised mechanisms, noisy and moving targets, and DQN on MinAtar (dqn.py, which needs `rl`).
"""

from lossatlas.papers.hl_gauss.histograms import Support, gaussian_histogram, project, two_hot
from lossatlas.papers.hl_gauss.losses import C51Loss, CategoricalMSE, HLGauss, Huber, SquaredError, TwoHot
from lossatlas.papers.hl_gauss.targets import hashed_values, noisy_values, random_values

__all__ = [
    "C51Loss",
    "CategoricalMSE",
    "HLGauss",
    "Huber",
    "SquaredError",
    "Support",
    "TwoHot",
    "gaussian_histogram",
    "hashed_values",
    "noisy_values",
    "project",
    "random_values",
    "two_hot",
]
