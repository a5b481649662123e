"""What is trained: an encoder without its last layer, and a projection to the unit sphere."""

from collections.abc import Sequence

import torch
from jaxtyping import Float
from torch import Tensor, nn


def headless(net: nn.Module) -> int:
    """Replaces the last linear layer of a classifier by the identity, in place; returns the width of its features.

    Raises:
        ValueError: the net has no linear layer.
    """
    linear = [(name, m) for name, m in net.named_modules() if isinstance(m, nn.Linear)]
    if not linear:
        raise ValueError(f"the encoder needs a last linear layer to take off, {type(net).__name__} has none")
    name, last = linear[-1]
    parent, _, leaf = name.rpartition(".")
    setattr(net.get_submodule(parent), leaf, nn.Identity())
    return last.in_features


class Embedder(nn.Module):
    """Unit embeddings of images: encoder without its scores, then a ReLU network, normalised.

    Args:
        encoder: a classifier with a last linear layer, which is taken off.
        widths: of the projection's layers behind the features; the last is the embedding's.

    Shapes:
        x (n, C, H, W) float -> (n, widths[-1]); `features` (n, width of the encoder).

    Raises:
        ValueError: no width, or an encoder without a linear layer.
    """

    def __init__(self, encoder: nn.Module, widths: Sequence[int] = (64, 32)) -> None:
        super().__init__()
        if len(widths) == 0 or min(widths) < 1:
            raise ValueError(f"the projection needs at least one width >= 1, got {list(widths)}")
        self.encoder, before = encoder, headless(encoder)
        layers: list[nn.Module] = []
        for width in widths:
            layers += [nn.Linear(before, width), nn.ReLU()]
            before = width
        self.projection = nn.Sequential(*layers[:-1])

    def features(self, x: Float[Tensor, "n C H W"]) -> Float[Tensor, "n F"]:
        """What the linear probe sees."""
        return self.encoder(x)

    def forward(self, x: Float[Tensor, "n C H W"]) -> Float[Tensor, "n d"]:
        return nn.functional.normalize(self.projection(self.encoder(x)), dim=1)


def alignment(e1: Float[Tensor, "n d"], e2: Float[Tensor, "n d"]) -> float:
    """Mean squared distance of positive pairs (Wang and Isola, 2020)."""
    return (e1 - e2).square().sum(1).mean().item()


def uniformity(e: Float[Tensor, "n d"]) -> float:
    """log of the mean of exp(-2 |x - y|^2) over pairs (Wang and Isola, 2020); -4 at best."""
    distances = torch.pdist(e).square()
    return (
        torch.logsumexp(-2 * distances, 0) - torch.log(distances.new_tensor(float(len(distances))))
    ).item()
