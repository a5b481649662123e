"""f-distill: one-step diffusion models by f-divergence distribution matching (Xu, Nie, Vahdat; 2025).

Idea     matching scores minimises the reverse KL, which seeks modes; any f-divergence has the same gradient but for a
         weight h of the density ratio, and an f that seeks modes less weighs up what the teacher likes.
Symbols  p teacher, q student x = G(z), both noised, x_t = x + sigma e; r = p(x_t) / q(x_t); D_f = E_q f(r).
Eq. 1    grad D_f = -E[h(r) w (score_p(x_t) - score_q(x_t)) dG/dtheta], h(r) = r^2 f''(r); h and scores are detached.
Eq. 2    h: 1 (rkl), r (fkl), r / (r + 1) (js), sqrt(r) / 4 (hellinger), r + 1 (jeffreys), 1 / (r + 1) (srkl).
Eq. 3    log r is the logit of a discriminator on noised points, clipped; h is divided by its batch mean.
Step     fake score s_q on student samples, discriminator, then generator by eq. 1 (plus lambda_gan times a GAN loss).
Limits   rkl is plain variational score distillation, whatever the discriminator; p = q: no gradient.
Differs  small nets without a common trunk: the discriminator has a network of its own; sigma is drawn log-uniformly;
         the clip's constant is ours; lambda_gan = 0, so that the weight alone tells the arms apart.
"""

from lossatlas.papers.f_distill.digits import Digits
from lossatlas.papers.f_distill.divergences import (
    Divergence,
    ForwardKL,
    Jeffreys,
    JensenShannon,
    ReverseKL,
    SoftenedReverseKL,
    SquaredHellinger,
)
from lossatlas.papers.f_distill.gauss import LitGauss
from lossatlas.papers.f_distill.learned import LitDistill
from lossatlas.papers.f_distill.losses import (
    generator_loss,
    logistic_loss,
    saturation_free_loss,
    update_weight,
)
from lossatlas.papers.f_distill.points import Points

__all__ = [
    "Digits",
    "Divergence",
    "ForwardKL",
    "Jeffreys",
    "JensenShannon",
    "LitDistill",
    "LitGauss",
    "Points",
    "ReverseKL",
    "SoftenedReverseKL",
    "SquaredHellinger",
    "generator_loss",
    "logistic_loss",
    "saturation_free_loss",
    "update_weight",
]
