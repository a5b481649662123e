"""The Z-loss and the spherical family (de Brebisson, Vincent; 2016; with Bouthillier: NIPS 2015).

Idea     softmax over D outputs costs O(D d) a sample. A loss that sees o = W h only through the target's o_c, the sum
         s and the sum of squares q takes its exact gradient step on W in O(d^2), whatever D is. The Z-loss is
         one: the softplus of the target's z-score, which a shift or a scale of the outputs does not change.
Symbols  o outputs, c target, D classes, d width of h, mu = s/D, sigma^2 = q/D - mu^2, z_k = (o_k - mu)/sigma,
         W = V U + 1 w^T, Q = W^T W, wbar = W^T 1, eta learning rate.
Eq. 1    L = softplus(a (b - z_c)) / a, a, b > 0
Eq. 2    dL/do = A 1 + B o + G e_c with scalars A, B, G of (o_c, s, q)
Eq. 3    W <- W (I - eta B h h^T) - eta (A 1 + G e_c) h^T kept as (V, U, w), see output.py
Limits   D = 2: z_c is 1 or -1 whatever o is (refused); a -> inf: max(b - z_c, 0); z_c <= sqrt(D - 1).
Differs  sigma^2 is at least eps, so that constant outputs stay finite; A, B, G come from autograd of the scalar
         function of (o_c, s, q), so that every loss of the family shares one update; U is folded into V by the
         Frobenius norms first, which bound its singular values at O(d^2).
"""

from lossatlas.papers.zloss.losses import OneHotMSE, SphericalSoftmax, TaylorSoftmax, ZLoss
from lossatlas.papers.zloss.output import SphericalOutput

__all__ = ["OneHotMSE", "SphericalOutput", "SphericalSoftmax", "TaylorSoftmax", "ZLoss"]
