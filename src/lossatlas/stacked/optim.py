"""One optimiser for R replicas whose parameters are stacked along a leading axis.

The optimisers listed here treat every number of a parameter by itself, so on stacked parameters they do to each
replica what they would do to it alone. What they have in common only, the learning rate and the norm of the
gradient, is made per replica here.
"""

from collections.abc import Sequence

import torch
from jaxtyping import Float
from torch import Tensor

ELEMENTWISE = (
    torch.optim.SGD, torch.optim.Adam, torch.optim.AdamW, torch.optim.RMSprop, torch.optim.Adagrad,
    torch.optim.NAdam, torch.optim.RAdam,
)  # fmt: skip
# Whose update is lr times something that does not depend on lr, so that rates may differ between replicas.
LINEAR_IN_LR = (torch.optim.SGD, torch.optim.Adam, torch.optim.AdamW, torch.optim.RMSprop)


def per_replica(value: Float[Tensor, " R"], like: Tensor) -> Tensor:
    """(R,) viewed as (R, 1, ..), to be multiplied with a stacked parameter."""
    return value.view(-1, *([1] * (like.ndim - 1)))


@torch.no_grad()
def clip_each(params: Sequence[Tensor], largest: float) -> None:
    """Scales each replica's gradient to norm `largest` at most, as `clip_grad_norm_` does for one.

    Shapes:
        params: tensors (R, ...) with gradients of the same shape.
    """
    grads = [p.grad for p in params if p.grad is not None]
    norms = torch.stack([g.flatten(1).norm(dim=1) for g in grads]).norm(dim=0)
    share = (largest / (norms + 1e-6)).clamp(max=1.0)
    for g in grads:
        g.mul_(per_replica(share, g))


@torch.no_grad()
def step_each(optimizer: torch.optim.Optimizer, rates: Float[Tensor, " R"] | None) -> None:
    """One step of an optimiser of stacked parameters; with `rates` at its rate times each replica's factor.

    A step linear in the learning rate is scaled afterwards: p <- p_old + factor (p_new - p_old).
    """
    if rates is None:
        optimizer.step()
        return
    params = [p for group in optimizer.param_groups for p in group["params"]]
    before = [p.clone() for p in params]
    optimizer.step()
    for p, old in zip(params, before, strict=True):
        p.copy_(old + per_replica(rates.to(p), p) * (p - old))
