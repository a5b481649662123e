"""DCC (Lee, Chun, Jung, Yun, Yoon; ICML 2022, arXiv 2202.02916): a few synthetic images that train like many real ones.

Condensation moves synthetic images S = {S_c} so that they give a network's weights the gradient that the real images
T = {T_c} give, while the network is drawn anew and trained on S between the moves. With l the cross-entropy and D the
distance of two gradients, sum over output neurons of 1 - cos:

    DC   minimises  sum_c D( grad l(S_c), grad l(T_c) )                         class by class
    DCC  minimises  D( (1/C) sum_c grad l(S_c), (1/C) sum_c grad l(T_c) )       the mean first

In the mean what all classes share cancels; what tells them apart is left. Early moves on fresh networks use DC for
warm-up (Section 3.3).
DSA and DSAC see both sets through one random, differentiable augmentation a class and move.

Rooms: matching (the distances), rules (the arms), augment (DSA), nets (the ConvNet), linear (the mechanism in closed
form), images (textured clothes), condense (the loop), figure.
"""

from lossatlas.papers.dcc.condense import LitCondense
from lossatlas.papers.dcc.linear import LitLinear
from lossatlas.papers.dcc.matching import (
    class_gradients,
    classwise_distance,
    contrastive_distance,
    gradient_distance,
)
from lossatlas.papers.dcc.nets import ConvNet
from lossatlas.papers.dcc.rules import Matching, RealImages

__all__ = [
    "ConvNet",
    "LitCondense",
    "LitLinear",
    "Matching",
    "RealImages",
    "class_gradients",
    "classwise_distance",
    "contrastive_distance",
    "gradient_distance",
]
