"""Noise levels: how training draws sigma and how sampling steps through it (Karras et al., 2022)."""

import math

import torch
from jaxtyping import Float
from torch import Tensor


def log_uniform(u: Float[Tensor, "*b"], low: float, high: float) -> Float[Tensor, "*b"]:
    """Uniform numbers in [0, 1] to noise levels whose logarithm is uniform between those of low and high.

    Raises:
        ValueError: not 0 < low <= high.

    Example:
        >>> log_uniform(torch.tensor([0.0, 0.5, 1.0]), 0.01, 1.0)
        tensor([0.0100, 0.1000, 1.0000])
    """
    check_range(low, high)
    return torch.exp(math.log(low) + u * (math.log(high) - math.log(low)))


def check_range(low: float, high: float) -> None:
    """Raises ValueError unless 0 < low <= high < infinity."""
    if not 0 < low <= high < math.inf:
        raise ValueError(f"noise levels need 0 < low <= high, got {low=}, {high=}")


def log_normal(n: Float[Tensor, "*b"], mean: float = -1.2, std: float = 1.2) -> Float[Tensor, "*b"]:
    """Standard normal numbers to noise levels whose logarithm is normal: EDM's training distribution."""
    return torch.exp(mean + std * n)


def karras_levels(steps: int, low: float, high: float, rho: float = 7.0) -> Float[Tensor, " steps_and_0"]:
    """EDM's sampling levels, from high to low, then 0 (their equation 5).

    Args:
        steps: >= 1; one step goes from high to 0.

    Raises:
        ValueError: steps < 1, or not 0 < low <= high.

    Example:
        >>> [round(v, 3) for v in karras_levels(3, 0.1, 10.0).tolist()]
        [10.0, 1.451, 0.1, 0.0]
    """
    check_range(low, high)
    if steps < 1:
        raise ValueError(f"sampling needs steps >= 1, got {steps}")
    ramp = torch.linspace(0, 1, steps, dtype=torch.float64)
    levels = (high ** (1 / rho) + ramp * (low ** (1 / rho) - high ** (1 / rho))) ** rho
    return torch.cat([levels, levels.new_zeros(1)]).float()
