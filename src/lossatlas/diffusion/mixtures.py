"""Mixtures of isotropic Gaussians: density, score and denoiser of the noised mixture in closed form."""

import math
from collections.abc import Sequence

import torch
from jaxtyping import Float
from torch import Tensor, nn


class Mixture(nn.Module):
    """sum_k w_k N(mean_k, sd_k^2 I); with noise sigma the components' variances grow by sigma^2.

    Args:
        means: (K, d). weights: K numbers > 0, normalised here. sd: one for all, or K, >= 0. dtype: of all three.

    Raises:
        ValueError: sizes that do not fit, a weight <= 0, a negative deviation.

    Example:
        >>> float(Mixture([[0.0]], [1.0], 1.0).score(torch.tensor([[2.0]]), torch.tensor([[1.0]])))
        -1.0
    """

    means: Tensor
    weights: Tensor
    sd: Tensor

    def __init__(
        self,
        means: Sequence[Sequence[float]],
        weights: Sequence[float],
        sd: float | Sequence[float],
        dtype: torch.dtype = torch.float32,
    ) -> None:
        super().__init__()
        centres, shares = torch.tensor(means, dtype=torch.float64), torch.tensor(weights, dtype=torch.float64)
        widths = torch.as_tensor(sd, dtype=torch.float64).expand(len(shares)).clone()
        if centres.ndim != 2 or len(centres) != len(shares):
            raise ValueError(
                f"a mixture needs means (K, d) and K weights, got {tuple(centres.shape)}, {len(shares)}"
            )
        if not bool((shares > 0).all()) or not bool((widths >= 0).all()):
            raise ValueError(f"a mixture needs weights > 0 and sd >= 0, got {weights=}, {sd=}")
        self.register_buffer("means", centres.to(dtype), persistent=False)
        self.register_buffer("weights", (shares / shares.sum()).to(dtype), persistent=False)
        self.register_buffer("sd", widths.to(dtype), persistent=False)

    @property
    def d(self) -> int:
        """Numbers of a point."""
        return self.means.shape[1]

    def _components(self, x: Tensor, sigma: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """log w_k N_k (.., K), x - mean_k (.., K, d) and the noised variances (.., K)."""
        apart = x[..., None, :] - self.means
        variance = self.sd.square() + sigma.square()
        squares = apart.square().sum(-1) / variance
        each = self.weights.log() - squares / 2 - self.d / 2 * torch.log(2 * math.pi * variance)
        return each, apart, variance

    def log_density(self, x: Float[Tensor, "*b d"], sigma: Float[Tensor, "*b 1"]) -> Float[Tensor, "*b"]:
        """Logarithm of the density of x + sigma e, noise level by point."""
        return self._components(x, sigma)[0].logsumexp(-1)

    def score(self, x: Float[Tensor, "*b d"], sigma: Float[Tensor, "*b 1"]) -> Float[Tensor, "*b d"]:
        """Gradient of `log_density` with respect to x."""
        each, apart, variance = self._components(x, sigma)
        return -((each.softmax(-1) / variance)[..., None] * apart).sum(-2)

    def denoise(self, x: Float[Tensor, "*b d"], sigma: Float[Tensor, "*b 1"]) -> Float[Tensor, "*b d"]:
        """E[clean | noised], x + sigma^2 score."""
        return x + sigma.square() * self.score(x, sigma)

    def sample(self, n: int, rng: torch.Generator) -> Float[Tensor, "n d"]:
        """n clean points."""
        at = torch.multinomial(self.weights.cpu(), n, replacement=True, generator=rng).to(self.means.device)
        normal = torch.randn(n, self.d, generator=rng, dtype=self.means.dtype).to(self.means.device)
        return self.means[at] + self.sd[at][:, None] * normal


def ring(modes: int = 8, radius: float = 4.0, sd: float = 0.3, rare: float = 0.1) -> Mixture:
    """Gaussians on a circle, every second one with weight `rare` against 1.

    Example:
        >>> ring(4).weights.tolist()[:2]
        [0.4545454680919647, 0.04545454680919647]
    """
    angles = [2 * math.pi * k / modes for k in range(modes)]
    means = [[radius * math.cos(a), radius * math.sin(a)] for a in angles]
    return Mixture(means, [rare if k % 2 else 1.0 for k in range(modes)], sd)


def grid(side: int = 5, apart: float = 2.0, sd: float = 0.3, rare: float = 0.1) -> Mixture:
    """Gaussians on a square grid around 0, every second one with weight `rare` against 1."""
    at = [(i - (side - 1) / 2) * apart for i in range(side)]
    means = [[x, y] for x in at for y in at]
    return Mixture(means, [rare if k % 2 else 1.0 for k in range(len(means))], sd)
