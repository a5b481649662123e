"""Top-K sparse softmax gating: rates of maximum likelihood in mixtures of experts (Nguyen et al.; ICLR 2024).

Idea     a gate keeps the K largest logits. With the true number of experts density and experts are learned at the
         parametric rate; with too many the density still is, if the fitted gate keeps enough of them, but gate and
         expert parameters of the copies interact and slow down; with too few kept the density stays wrong.
Symbols  x in [0, 1], k fitted and k* true experts, logits l_i = b1_i x + b0_i, active set: the K largest, ties kept.
Eq. 1    g(y | x) = sum_i pi_i(x) N(y | a_i x + c_i, s_i^2), pi = softmax of the active logits, 0 elsewhere   (model.py)
Eq. 2    generalised EM: responsibilities; weighted least squares; one damped Newton step of the gate            (em.py)
Eq. 3    Voronoi cells A_j: fitted experts nearest to true j in (b1, a, c, s); D1 and D2 weigh their errors  (losses.py)
Differs  the paper starts EM near the truth, as here; our noise does not shrink with n, and a repetition stops by its
         own gain. A gate moves its boundary only past data points, where the likelihood jumps: it stays near its start,
         gate errors are logged and no claim is made of them. D1 and D2 are our reading of the paper's weights.
"""

from lossatlas.papers.topk_moe.em import fit
from lossatlas.papers.topk_moe.losses import hellinger, voronoi_cells, voronoi_errors
from lossatlas.papers.topk_moe.model import Experts, gate, log_density, sample

__all__ = ["Experts", "fit", "gate", "hellinger", "log_density", "sample", "voronoi_cells", "voronoi_errors"]
