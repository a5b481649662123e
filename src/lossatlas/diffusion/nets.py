"""A network of R replicas that is told the noise level."""

from collections.abc import Callable, Sequence

import torch
from jaxtyping import Float
from torch import Tensor, nn

from lossatlas.replicas import ReplicaMLP


class NoiseNet(nn.Module):
    """A ReplicaMLP that is told the noise level: it reads c(sigma) x and `embed(sigma)`.

    Args:
        d, out: numbers of a point and of the output. hidden: widths between.
        scale: sigma (R, b, 1) -> c. embed: sigma (R, b, 1) -> (R, b, n).
        rng: of the weights.
    """

    def __init__(
        self,
        d: int,
        out: int,
        hidden: Sequence[int],
        rng: torch.Generator,
        scale: Callable[[Tensor], Tensor],
        embed: Callable[[Tensor], Tensor],
    ) -> None:
        super().__init__()
        self.scale, self.embed = scale, embed
        width = embed(torch.ones(1, 1, 1)).shape[-1]
        self.body = ReplicaMLP([d + width, *hidden, out], rng)

    def forward(self, x: Float[Tensor, "R b d"], sigma: Float[Tensor, "R b 1"]) -> Float[Tensor, "R b K"]:
        """Output at noised points."""
        return self.body(torch.cat([self.scale(sigma) * x, self.embed(sigma)], dim=-1))
