"""Running log-mean-exp per sample, kept on the logarithm.

u <- (1 - gamma) u + gamma g with g a mean of exponentials: neither u nor g need fit a float, log u does. Compositional
objectives (f(E g) with an f that is not linear) divide by it: a mini-batch's own mean would be biased.
"""

import math

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor, nn

from lossatlas.losses import put_finite


@torch.no_grad()
def log_ema(
    log_u: Float[Tensor, "*n"], log_new: Float[Tensor, "*m"], gamma: float, fresh: Bool[Tensor, "*n"]
) -> Float[Tensor, "*m"]:
    """log((1 - gamma) u + gamma g) from log u and log g; log g itself where the state is fresh.

    Args:
        log_u: what is kept.
        log_new: log g, of a shape that log_u broadcasts to.
        gamma: weight of the new value, in (0, 1].
        fresh: never moved before; log_u is not read there.

    Raises:
        ValueError: gamma outside (0, 1].

    Example:
        >>> log_u, log_new = torch.tensor([0.0, 0.0]), torch.tensor([1024.0, 1024.0])
        >>> log_ema(log_u, log_new, 0.25, torch.tensor([False, True])).round(decimals=2)  # 1024 + log .25; 1024
        tensor([1022.6100, 1024.0000])
    """
    if not 0 < gamma <= 1:
        raise ValueError(f"log_ema needs gamma in (0, 1], the weight of the new value, got {gamma=}")
    kept = math.log1p(-gamma) if gamma < 1 else -math.inf
    moved = torch.logaddexp(log_u + kept, log_new + math.log(gamma))
    return torch.where(fresh, log_new, moved)


class LogEMA(nn.Module):
    """`log_ema` of each training sample, its state in buffers: checkpoints and stacks carry it.

    Args:
        gamma: weight of the new value, in (0, 1].
        n: samples to allocate for; None leaves it to `allocate`.

    Attributes:
        log_u: buffer (n,) float; visits: buffer (n,) int64. Before the first visit log_u is 0 and not used.
        skipped: buffer, int64, values left out because they were not finite.

    Raises:
        ValueError: gamma outside (0, 1].

    Example:
        >>> average = LogEMA(gamma=0.5, n=3)
        >>> index = torch.tensor([2, 0])
        >>> average(index, torch.tensor([0.0, 1.0]))
        tensor([0., 1.])
        >>> average(index, torch.tensor([0.0, 1.0])), average.visits
        (tensor([0., 1.]), tensor([2, 0, 2]))
    """

    log_u: Tensor
    visits: Tensor
    skipped: Tensor

    def __init__(self, gamma: float, n: int | None = None) -> None:
        super().__init__()
        if not 0 < gamma <= 1:
            raise ValueError(f"LogEMA needs gamma in (0, 1], the weight of the new value, got {gamma=}")
        self.gamma = gamma
        self.register_buffer("log_u", torch.empty(0))
        self.register_buffer("visits", torch.empty(0, dtype=torch.int64))
        self.register_buffer("skipped", torch.zeros((), dtype=torch.int64), persistent=False)
        if n is not None:
            self.allocate(n)

    def allocate(self, n: int) -> None:
        """n samples that were never visited; device and dtype stay."""
        self.log_u, self.visits = self.log_u.new_zeros(n), self.visits.new_zeros(n)

    @torch.no_grad()
    def forward(self, index: Int[Tensor, " b"], log_new: Float[Tensor, " b"]) -> Float[Tensor, " b"]:
        """log u of these samples with the new values in; stored where the module trains.

        Values that are not finite are not stored: the sample keeps what it had.
        """
        moved = log_ema(
            self.log_u[index].to(log_new.dtype), log_new.detach(), self.gamma, self.visits[index] == 0
        )
        if self.training:
            good = put_finite(self.log_u, index, moved)
            self.visits[index] += good
            self.skipped += (~good).sum()
        return moved
