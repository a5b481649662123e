"""Multilayer perceptron."""

from collections.abc import Sequence
from itertools import pairwise

from jaxtyping import Float
from torch import Tensor, nn

ACTIVATIONS: dict[str, type[nn.Module]] = {"tanh": nn.Tanh, "relu": nn.ReLU, "gelu": nn.GELU}


class MLP(nn.Sequential):
    """Linear layers with one activation between them, torch's default initialisation.

    Args:
        d: width of the input, >= 1.
        hidden: widths of the hidden layers; empty for a linear model.
        classes: number of outputs K, >= 1.
        activation: tanh, relu or gelu.

    Shapes:
        (b, d) float -> (b, K) float.

    Raises:
        ValueError: unknown activation.

    Example:
        >>> import torch
        >>> MLP(16, [16], 26)(torch.zeros(2, 16)).shape
        torch.Size([2, 26])
    """

    def __init__(self, d: int, hidden: Sequence[int], classes: int, activation: str = "tanh") -> None:
        if activation not in ACTIVATIONS:
            raise ValueError(f"MLP knows the activations {', '.join(ACTIVATIONS)}, got {activation!r}")
        widths = [d, *hidden]
        layers: list[nn.Module] = []
        for before, after in pairwise(widths):
            layers += [nn.Linear(before, after), ACTIVATIONS[activation]()]
        super().__init__(*layers, nn.Linear(widths[-1], classes))

    def forward(self, x: Float[Tensor, "b d"]) -> Float[Tensor, "b K"]:
        """Scores of a batch."""
        return super().forward(x)
