"""Grokking as the transition from lazy to rich training (Kumar, Bordelon, Gershman, Pehlevan; ICLR 2024).

Idea     a network groks when it first fits the data as a kernel machine, with initial features that fit the target
         badly, and learns features afterwards. alpha sets how lazy the start is, e how well the initial kernel is
         aligned; no weight decay is needed.
Symbols  x in R^D, y = (b.x)^2 / 2, |b| = 1; W (N, D) with rows w_i(0) ~ N(0, I/D); P training points; r = f - y.
Eq. 1    f(x) = (alpha/N) sum_i [phi(w_i.x) - phi(w_i(0).x)], phi(h) = h + (e/2) h^2 (centred: f = 0 at the start)
Eq. 2    L = mean_mu r_mu^2 / (2 alpha^2), gradient descent with learning rate eta N
Eq. 3    f(x) = alpha (dw.x + (e/2) x'dM x), dw = mean_i (w_i - w_i(0)), dM = mean_i (w_i w_i' - w_i(0) w_i(0)')
         for x ~ N(0, I): E (f - y)^2 = 2 tr A^2 + (tr A)^2 + alpha^2 |dw|^2, A = (alpha e dM - b b')/2
Eq. 4    K(x, z) = mean_i phi'(w_i.x) phi'(w_i.z) x.z = (1 + e w.x + e w.z + e^2 x'M z) x.z, w and M the means above
Limits   alpha -> infinity: the linearised model, kernel fixed; e = 0: linear, its test error never below 3/4.
Differs  D = 25 instead of 100; the Gaussian test error is exact (eq. 3), as is that of a kernel solution (eq. 4);
         the alignment with y y' is centred (CKA).
"""

from lossatlas.papers.grokking.kernel import alignment, combine, flow_until, kernel, min_norm
from lossatlas.papers.grokking.nets import LitScaled, ModularTransformer, modular_table
from lossatlas.papers.grokking.network import (
    Centred,
    LazyMSE,
    QuadraticNet,
    descend,
    draw,
    gaussian_error,
    moments,
)
from lossatlas.papers.grokking.poly import LitPoly

__all__ = [
    "Centred",
    "LazyMSE",
    "LitPoly",
    "LitScaled",
    "ModularTransformer",
    "QuadraticNet",
    "alignment",
    "combine",
    "descend",
    "draw",
    "flow_until",
    "gaussian_error",
    "kernel",
    "min_norm",
    "modular_table",
    "moments",
]
