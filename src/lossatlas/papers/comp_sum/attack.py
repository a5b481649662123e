"""PGD in a ball around images (lossatlas.attacks): its objective, and the attack that evaluates.

Images are pixels in [0, 1] here, for the radius is given in pixels: a net that wants standardised inputs does
that itself, as its first layer. During an attack every module of the net is in evaluation mode.
"""

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor, nn
from torch.nn.functional import cross_entropy

from lossatlas.attacks import ball, frozen, pgd
from lossatlas.losses import checked
from lossatlas.metrics.classes import predicted


def per_sample_cross_entropy(f: Tensor, y: Tensor) -> Tensor:
    """Cross-entropy, one value per sample: what the evaluation and at_pgd make large."""
    return cross_entropy(checked(f, y), y, reduction="none")  # which alone answers a label of -100 with 0


def robust_correct(
    net: nn.Module,
    x: Float[Tensor, "n ..."],
    y: Int[Tensor, " n"],
    radius: float,
    step: float | None = None,
    steps: int = 40,
    restarts: int = 3,
    generator: torch.Generator | None = None,
    chunk: int = 250,
) -> Bool[Tensor, " n"]:
    """Whether every restart of PGD on cross-entropy, and the clean image, is named correctly.

    A sample that is wrong already, without an attack or in an earlier restart, is not attacked again.

    Args:
        net: maps (n, *shape) to scores (n, K).
        x: images in [0, 1].
        y: true labels.
        radius: of the ball, >= 0; 0 gives clean correctness.
        step: length of a step, > 0; None: radius / 4, which 40 steps can cross ten times.
        steps: number of steps, >= 1.
        restarts: random starts per sample, >= 1; the worst one counts.
        generator: of the random starts; None: torch's own.
        chunk: samples per batch, >= 1.

    Raises:
        ValueError: as in `pgd`; restarts or chunk out of range.
    """
    if restarts < 1 or chunk < 1:
        raise ValueError(f"the evaluation needs restarts >= 1 and chunk >= 1, got {restarts=}, {chunk=}")
    ball(x, radius)
    step = radius / 4 if step is None else step
    with frozen(net), torch.no_grad():
        survives = torch.cat([predicted(net(part)) for part in x.split(chunk)]) == y
        for _ in range(restarts):
            for part in survives.nonzero()[:, 0].split(chunk):
                point = pgd(net, x[part], y[part], per_sample_cross_entropy, radius, step, steps, generator)
                survives[part] = predicted(net(point)) == y[part]
    return survives
