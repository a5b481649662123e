"""Denoisers with EDM's preconditioning, their training loss, and sampling by Heun's method (Karras et al., 2022)."""

import math
from collections.abc import Callable
from itertools import pairwise

import torch
from jaxtyping import Float
from torch import Tensor, nn


def edm_scales(sigma: Tensor, sigma_data: float) -> tuple[Tensor, Tensor, Tensor]:
    """c_skip, c_out and c_in at noise level sigma.

    Example:
        >>> [round(float(c), 3) for c in edm_scales(torch.tensor(1.0), 1.0)]
        [0.5, 0.707, 0.707]
    """
    total = sigma.square() + sigma_data**2
    return sigma_data**2 / total, sigma * sigma_data / total.sqrt(), total.rsqrt()


def plain_embedding(sigma: Float[Tensor, "R b 1"]) -> Float[Tensor, "R b 2"]:
    """log(sigma) / 2 and 1 / (1 + sigma): enough for a small net."""
    return torch.cat([sigma.log() / 2, 1 / (1 + sigma)], dim=-1)


def fourier_embedding(sigma: Float[Tensor, "R b 1"]) -> Float[Tensor, "R b 16"]:
    """Sines and cosines of log(sigma) / 4 at eight frequencies from 1 to 16."""
    frequencies = torch.logspace(0, math.log10(16), 8, dtype=sigma.dtype, device=sigma.device)
    angle = sigma.log() / 4 * frequencies
    return torch.cat([angle.sin(), angle.cos()], dim=-1)


class Denoiser(nn.Module):
    """D(x, sigma) = c_skip x + c_out F(x, sigma), the network scaling its own input by c_in.

    Args:
        net: F, (R, b, d), (R, b, 1) -> (R, b, d).
        sigma_data: standard deviation of the data, > 0.

    Raises:
        ValueError: sigma_data <= 0.
    """

    def __init__(self, net: nn.Module, sigma_data: float) -> None:
        super().__init__()
        if not 0 < sigma_data < math.inf:
            raise ValueError(f"Denoiser needs sigma_data > 0, got {sigma_data}")
        self.net, self.sigma_data = net, sigma_data

    def forward(self, x: Float[Tensor, "R b d"], sigma: Float[Tensor, "R b 1"]) -> Float[Tensor, "R b d"]:
        """The clean point expected at a noised one."""
        c_skip, c_out, _ = edm_scales(sigma, self.sigma_data)
        return c_skip * x + c_out * self.net(x, sigma)


def score_matching_loss(
    denoiser: Denoiser, x: Float[Tensor, "R b d"], sigma: Float[Tensor, "R b 1"], e: Float[Tensor, "R b d"]
) -> Float[Tensor, " R"]:
    """EDM's denoising loss, mean over batch and coordinates of |D(x + sigma e, sigma) - x|^2 / c_out^2."""
    _, c_out, _ = edm_scales(sigma, denoiser.sigma_data)
    return ((denoiser(x + sigma * e, sigma) - x) / c_out).square().mean(dim=(1, 2))


@torch.no_grad()
def heun_sample(
    denoise: Callable[[Tensor, Tensor], Tensor],
    x: Float[Tensor, "R b d"],
    levels: Float[Tensor, " steps_and_0"],
) -> Float[Tensor, "R b d"]:
    """EDM's deterministic sampler: from x, noise at levels[0], down to level 0 (their algorithm 1)."""
    for now, then in pairwise(levels):
        sigma = now.expand(*x.shape[:-1], 1)
        slope = (x - denoise(x, sigma)) / now
        moved = x + (then - now) * slope
        if then > 0:
            corrected = (moved - denoise(moved, then.expand_as(sigma))) / then
            moved = x + (then - now) * (slope + corrected) / 2
        x = moved
    return x
