"""PGD in a ball around images: the attack that trains and the attack that evaluates.

Images are pixels in [0, 1] here, for the radius is given in pixels: a net that wants standardised inputs does
that itself, as its first layer. During an attack every module of the net is in evaluation mode.
"""

import math
from collections.abc import Callable, Iterator
from contextlib import contextmanager

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor, nn
from torch.nn.functional import cross_entropy

Objective = Callable[[Tensor, Tensor], Tensor]  # scores (n, K), y (n,) -> (n,) to be made large


@contextmanager
def frozen(net: nn.Module) -> Iterator[None]:
    """Evaluation mode for every module of the net, and back to each one's own mode afterwards."""
    modes = [(m, m.training) for m in net.modules()]
    net.eval()
    try:
        yield
    finally:
        for module, training in modes:
            module.training = training


def ball(x: Tensor, radius: float) -> tuple[Tensor, Tensor]:
    """Least and greatest point of the ball |x' - x|_inf <= radius cut to [0, 1]; refuses what is no image."""
    if not 0 <= radius < math.inf:
        raise ValueError(f"the attack needs a finite radius >= 0, got {radius=}: pixels are in [0, 1]")
    if not bool(((x >= 0) & (x <= 1)).all()):  # written so that NaN fails, too
        raise ValueError("the attack needs images in [0, 1] without NaN: undo the standardisation first")
    return (x - radius).clamp(min=0), (x + radius).clamp(max=1)


def pgd(
    net: nn.Module,
    x: Float[Tensor, "n ..."],
    y: Int[Tensor, " n"],
    objective: Objective,
    radius: float,
    step: float | None = None,
    steps: int = 5,
    generator: torch.Generator | None = None,
) -> Float[Tensor, "n ..."]:
    """Projected sign-gradient ascent on a per-sample objective, from a uniform random start in the ball.

    The net is in evaluation mode meanwhile, and no parameter receives a gradient.

    Args:
        net: maps (n, *shape) to scores (n, K).
        x: images in [0, 1].
        y: labels, handed to the objective.
        objective: (scores, y) -> (n,), made large.
        radius: of the ball in the maximum norm, >= 0; 0 returns x.
        step: length of a step, > 0; None: radius / 3.
        steps: number of steps, >= 1.
        generator: of the random start; None: torch's own.

    Shapes:
        x (n, *shape), y (n,) -> (n, *shape), inside the ball and inside [0, 1], detached.

    Raises:
        ValueError: x outside [0, 1] or NaN; radius, step or steps out of range.
    """
    low, high = ball(x, radius)
    step = radius / 3 if step is None else step
    if steps < 1 or not (0 < step < math.inf or radius == 0):
        raise ValueError(f"the attack needs step > 0 and steps >= 1, got {step=}, {steps=}")
    if radius == 0:
        return x.detach().clone()
    device = x.device if generator is None else generator.device  # a CPU stream serves a net on a GPU
    start = torch.rand(x.shape, dtype=x.dtype, device=device, generator=generator).to(x.device)
    point = torch.clamp(x + radius * (2 * start - 1), low, high).detach()
    with frozen(net), torch.enable_grad():
        for _ in range(steps):
            point.requires_grad_()
            (slope,) = torch.autograd.grad(objective(net(point), y).sum(), point)
            point = torch.clamp(point.detach() + step * slope.sign(), low, high)
    return point.detach()


def per_sample_cross_entropy(f: Tensor, y: Tensor) -> Tensor:
    """Cross-entropy, one value per sample: what the evaluation and at_pgd make large."""
    return cross_entropy(f, y, reduction="none")


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
        survives = torch.cat([net(part).argmax(1) for part in x.split(chunk)]) == y
        for _ in range(restarts):
            for part in survives.nonzero()[:, 0].split(chunk):
                point = pgd(net, x[part], y[part], per_sample_cross_entropy, radius, step, steps, generator)
                survives[part] = net(point).argmax(1) == y[part]
    return survives
