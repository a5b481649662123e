"""Projected sign-gradient ascent in a ball of the maximum norm around the inputs of a model.

The box [0, 1] is that of pixels; another pair, or None for inputs without bounds, serves tables and embeddings.
During an attack every module is in evaluation mode, and no parameter receives a gradient.
"""

import math
from collections.abc import Callable, Iterator
from contextlib import contextmanager

import torch
from jaxtyping import Float
from torch import Tensor, nn

Objective = Callable[[Tensor, Tensor], Tensor]  # scores (n, K), y (n,) -> (n,) to be made large
Watch = Callable[[int, Tensor, Tensor], None]
Box = tuple[float, float] | None
PIXELS = (0.0, 1.0)


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


def ball(x: Tensor, radius: float, box: Box = PIXELS) -> tuple[Tensor, Tensor]:
    """Least and greatest point of the ball |x' - x|_inf <= radius cut to the box; refuses what lies outside of it.

    Example:
        >>> ball(torch.tensor([0.0, 0.5]), 0.25)
        (tensor([0.0000, 0.2500]), tensor([0.2500, 0.7500]))
        >>> ball(torch.tensor([-3.0]), 0.5, box=None)
        (tensor([-3.5000]), tensor([-2.5000]))
    """
    if not 0 <= radius < math.inf:
        raise ValueError(
            f"the attack needs a finite radius >= 0, got {radius=}: it is in units of the inputs"
        )
    if box is None:
        if not bool(torch.isfinite(x).all()):
            raise ValueError("the attack needs finite inputs, got NaN or infinity")
        return x - radius, x + radius
    low, high = box
    if not bool(((x >= low) & (x <= high)).all()):  # written so that NaN fails, too
        what = "images in [0, 1]" if tuple(box) == PIXELS else f"inputs in [{low:g}, {high:g}]"
        raise ValueError(f"the attack needs {what} without NaN: undo the standardisation first")
    return (x - radius).clamp(min=low), (x + radius).clamp(max=high)


def pgd(
    model: nn.Module,
    x: Float[Tensor, "n ..."],
    y: Tensor,
    objective: Objective,
    radius: float,
    step: float | None = None,
    steps: int = 5,
    generator: torch.Generator | None = None,
    *,
    box: Box = PIXELS,
    on_step: Watch | None = None,
) -> Float[Tensor, "n ..."]:
    """Projected sign-gradient ascent on a per-sample objective, from a uniform random start in the ball.

    Args:
        model: maps (n, *shape) to scores (n, K), or to what else the objective reads.
        x: inputs inside the box.
        y: labels or numbers, handed to the objective.
        objective: (scores, y) -> (n,), made large.
        radius: of the ball in the maximum norm, >= 0, in units of x; 0 returns x.
        step: length of a step, > 0; None: radius / 3.
        steps: number of steps, >= 1.
        generator: of the random start; None: torch's own.
        box: least and greatest value of an input, or None.
        on_step: called as (k, point, scores) with the point before step k = 0 .. steps - 1 and the model's
            output there, both detached: how many steps a sample withstands is counted so.

    Shapes:
        x (n, *shape), y (n,) -> (n, *shape), inside the ball and the box, detached.

    Raises:
        ValueError: x outside the box or NaN; radius, step or steps out of range.

    Example:
        >>> x, y, linear = torch.tensor([[0.5, 0.5]]), torch.tensor([0]), torch.nn.Linear(2, 1, bias=False)
        >>> with torch.no_grad():
        ...     value = linear.weight.copy_(torch.tensor([[1.0, -1.0]]))
        >>> pgd(linear, x, y, lambda f, y: f[:, 0], radius=0.1, steps=6)
        tensor([[0.6000, 0.4000]])
    """
    low, high = ball(x, radius, box)
    step = radius / 3 if step is None else step
    if steps < 1 or not (0 < step < math.inf or radius == 0):
        raise ValueError(f"the attack needs step > 0 and steps >= 1, got {step=}, {steps=}")
    if radius == 0:
        return x.detach().clone()
    device = x.device if generator is None else generator.device  # a CPU stream serves a net on a GPU
    start = torch.rand(x.shape, dtype=x.dtype, device=device, generator=generator).to(x.device)
    point = torch.clamp(x + radius * (2 * start - 1), low, high).detach()
    with frozen(model), torch.enable_grad():
        for k in range(steps):
            point.requires_grad_()
            scores = model(point)
            (slope,) = torch.autograd.grad(objective(scores, y).sum(), point)
            if on_step is not None:
                on_step(k, point.detach(), scores.detach())
            point = torch.clamp(point.detach() + step * slope.sign(), low, high)
    return point.detach()
