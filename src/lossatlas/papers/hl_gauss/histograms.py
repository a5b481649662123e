"""From numbers to histograms: the support, and the target distributions of eq. 1 to 3 of the room's head."""

import math
from dataclasses import dataclass

import torch
from jaxtyping import Float
from torch import Tensor


@dataclass(frozen=True)
class Support:
    """m bins of equal width on [v_min, v_max].

    Args:
        v_min, v_max: ends, finite, v_min < v_max, in units of the targets.
        m: number of bins, >= 2.

    Raises:
        ValueError: ends out of order or not finite, fewer than two bins.

    Example:
        >>> Support(-1.0, 1.0, 4).centres(torch.zeros(()))
        tensor([-0.7500, -0.2500,  0.2500,  0.7500])
    """

    v_min: float
    v_max: float
    m: int

    def __post_init__(self) -> None:
        if not -math.inf < self.v_min < self.v_max < math.inf:  # written so that NaN fails, too
            raise ValueError(f"a support needs finite v_min < v_max, got {self.v_min} and {self.v_max}")
        if self.m < 2:
            raise ValueError(f"a support needs m >= 2 bins, got {self.m}")

    @property
    def w(self) -> float:
        """Width of a bin."""
        return (self.v_max - self.v_min) / self.m

    def edges(self, like: Tensor) -> Tensor:
        """(m + 1,) edges b_0..b_m with the dtype and on the device of `like`."""
        return torch.linspace(self.v_min, self.v_max, self.m + 1, dtype=like.dtype, device=like.device)

    def centres(self, like: Tensor) -> Tensor:
        """(m,) centres z_1..z_m with the dtype and on the device of `like`."""
        half = self.w / 2
        return torch.linspace(
            self.v_min + half, self.v_max - half, self.m, dtype=like.dtype, device=like.device
        )


def normal_mass(low: Tensor, high: Tensor) -> Tensor:
    """F(high) - F(low) of the standard normal for low <= high, of any common shape.

    The difference is taken in the lower tail, where F is small: in the upper one both are 1 up to rounding,
    and nothing of a mass of 1e-30 would be left.
    """
    upper = low > 0
    a, b = torch.where(upper, -high, low), torch.where(upper, -low, high)
    # erfc keeps its digits there; torch.special.ndtr is 0 from -9 on
    return (torch.erfc(-b * math.sqrt(0.5)) - torch.erfc(-a * math.sqrt(0.5))) / 2


def gaussian_histogram(y: Float[Tensor, "*n"], support: Support, ratio: float) -> Float[Tensor, "*n m"]:
    """HL-Gauss, eq. 1: the mass of a normal around y in each bin, cut off at the ends of the support.

    Args:
        y: numbers inside the support.
        support: bins.
        ratio: deviation of the normal in bin widths, > 0.
    """
    u = (support.edges(y) - y[..., None]) / (ratio * support.w)
    return normal_mass(u[..., :-1], u[..., 1:]) / normal_mass(u[..., :1], u[..., -1:])


def two_hot(y: Float[Tensor, "*n"], support: Support) -> Float[Tensor, "*n m"]:
    """Two-Hot, eq. 2: mass on the two centres around y whose mean is y.

    Args:
        y: numbers; below z_1 and above z_m all mass is on the end.
        support: bins.
    """
    z = support.centres(y)
    y = y.clamp(support.v_min + support.w / 2, support.v_max - support.w / 2)
    return (1 - (y[..., None] - z).abs() / support.w).clamp(min=0)


def project(
    q: Float[Tensor, "*n m"], r: Float[Tensor, "*n"], discount: Float[Tensor, "*n"], support: Support
) -> Float[Tensor, "*n m"]:
    """C51, eq. 3: the distribution of r + discount Z, Z on the centres with masses q, back on the centres.

    Args:
        q: masses of the next state's value, summing to 1.
        r: rewards.
        discount: gamma, 0 where the episode ended; a time limit does not end it.
        support: bins.
    """
    moved = r[..., None] + discount[..., None] * support.centres(r)
    return (q[..., None] * two_hot(moved, support)).sum(dim=-2)
