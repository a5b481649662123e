"""LDR: charge the worst label distribution near uniform (Zhu, Ying, Yang; ICML 2023).

Idea     a label may be wrong: an adversary picks p over the K classes and pays lambda KL(p, 1/K). In ALDR
         each training sample i has its own lambda_i: flat, unsure predictions get a large, robust one.
Symbols  f scores, y label, c margin, d_k = f_k - f_y + c 1[k != y], a = alpha log K / lambda0.
Eq. 1    LDR-KL: L(lambda) = max_p p.d - lambda KL(p, 1/K) = lambda log( (1/K) sum_k exp(d_k / lambda) )
Eq. 2    ALDR-KL: max_lambda L(lambda) - (a/2) (lambda - lambda0)^2, by one detached step a visit:
         lambda_i <- lambda0 - lambda0 KL(p_i, 1/K) / (alpha log K) at p_i = softmax(f / lambda_i), no margin.
Eq. 3    f <- f / (||f||_1 / K) first, of softplus(f) for LDR-KL; the gradient flows through the norm.
Limits   eq. 1: lambda -> 0 max_k d_k; lambda = 1, c = 0 cross-entropy - log K; lambda -> inf mean_k d_k.
         Eq. 2: lambda0 (1 - 1/alpha) <= lambda_i <= lambda0; alpha -> inf eq. 1 at lambda0. Its maximum
         may not be unique for alpha near 1; from lambda0 the steps fall to the largest stationary lambda.
Differs  (a) eq. 3 is a switch, off by default in LDR-KL so that the limits hold exactly. (b) As in the
         reference, not the paper, 1e-5 joins every p_k before the KL (`smoothing`). (c) The reference's MAE
         lacks the absolute value (always 0), its RLL has f_k - sum_j f_j for log p_k: not so here.
         (d) Ours: in eval mode samples without an index take one step from lambda0 (TGCE: 1(p_y > k_t)).
"""

from lossatlas.papers.ldr.baselines import CS, GCE, JS, MAE, MSE, RLL, SCE, TGCE, WW
from lossatlas.papers.ldr.combined import AGCE, AUL, NCE, RCE, NCEPlus
from lossatlas.papers.ldr.losses import ALDRKL, LDRKL

__all__ = ["AGCE", "ALDRKL", "AUL", "CS", "GCE", "JS", "LDRKL", "MAE", "MSE", "NCE", "RCE", "RLL", "SCE"]
__all__ += ["TGCE", "WW", "NCEPlus"]
