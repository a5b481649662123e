"""The task of the plane: mixtures with an analytic teacher, and what is counted on student samples."""

import torch
from jaxtyping import Float
from torch import Tensor, nn

from lossatlas.diffusion import Denoiser, NoiseNet, grid, plain_embedding, ring
from lossatlas.replicas import ReplicaMLP

TARGETS = {"ring8": ring, "grid25": grid}
SIGMA_DATA = 4.0
SHOWN = 100  # student samples that a record keeps, for the figure


class Points(nn.Module):
    """Eight modes on a ring or 25 on a grid, every second one ten times rarer; student (2, *hidden, 2).

    Args:
        target: ring8 or grid25. hidden: widths of all three networks. start: factor on the student's last layer.

    Raises:
        ValueError: unknown target.
    """

    d = d_z = 2
    evaluated = 4096  # student samples

    def __init__(self, target: str = "ring8", hidden: tuple[int, ...] = (32, 32), start: float = 0.3) -> None:
        super().__init__()
        if target not in TARGETS:
            raise ValueError(f"Points knows the targets {', '.join(TARGETS)}, got {target!r}")
        self.mixture, self.hidden, self.start = TARGETS[target](), list(hidden), start

    def generator(self, rng: torch.Generator) -> nn.Module:
        """A student that starts near the origin, inside the ring."""
        return ReplicaMLP([2, *self.hidden, 2], rng, last=self.start)

    def fake(self, rng: torch.Generator) -> Denoiser:
        """The student's score network."""
        return Denoiser(self._net(2, rng), SIGMA_DATA)

    def discriminator(self, rng: torch.Generator) -> nn.Module:
        """Logit of teacher against student."""
        return self._net(1, rng)

    def _net(self, out: int, rng: torch.Generator) -> NoiseNet:
        return NoiseNet(2, out, self.hidden, rng, plain_scale, plain_embedding)

    def denoise(self, x: Float[Tensor, "R b d"], sigma: Float[Tensor, "R b 1"]) -> Float[Tensor, "R b d"]:
        """The teacher's."""
        return self.mixture.denoise(x, sigma)

    def log_density(self, x: Float[Tensor, "R b d"], sigma: Float[Tensor, "R b 1"]) -> Float[Tensor, "R b"]:
        """The noised teacher's, for the oracle of the ratio."""
        return self.mixture.log_density(x, sigma)

    def real(self, n: int, rng: torch.Generator) -> Float[Tensor, "n d"]:
        """Teacher data."""
        return self.mixture.sample(n, rng)

    def measure(self, x: Float[Tensor, "n d"]) -> dict[str, float]:
        """modes covered, tv of the mode shares, high_quality."""
        return mode_metrics(x, self.mixture.means, self.mixture.weights, float(self.mixture.sd[0]))

    def shown(self, x: Float[Tensor, "n d"]) -> list[int]:
        """Coordinates in hundredths, one after another."""
        return (x[:SHOWN] * 100).round().int().flatten().tolist()


def plain_scale(sigma: Tensor) -> Tensor:
    """EDM's c_in for the plane."""
    return (sigma.square() + SIGMA_DATA**2).rsqrt()


def mode_metrics(
    x: Float[Tensor, "n d"], means: Float[Tensor, "K d"], weights: Float[Tensor, " K"], sd: float
) -> dict[str, float]:
    """What samples say of a mixture of well separated modes.

    A sample belongs to the nearest mode and is of high quality within 3 sd of it. A mode is covered where at least a
    fifth of its share of all samples lies there in high quality; tv is the total variation of the shares of the nearest
    modes from the weights.

    Example:
        >>> mode_metrics(torch.tensor([[0.0], [0.1]]), torch.tensor([[0.0], [9.0]]), torch.tensor([0.5, 0.5]), 1.0)
        {'modes': 1.0, 'tv': 0.5, 'high_quality': 1.0}
    """
    near, at = torch.cdist(x, means).min(dim=1)
    good = near <= 3 * sd
    there = torch.bincount(at[good], minlength=len(means)).to(weights) / len(x)
    nearest = torch.bincount(at, minlength=len(means)).to(weights) / len(x)
    return {
        "modes": float((there >= 0.2 * weights).sum()),
        "tv": float((nearest - weights).abs().sum() / 2),
        "high_quality": float(good.float().mean()),
    }
