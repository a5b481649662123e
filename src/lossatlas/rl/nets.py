"""The value network of small games."""

import math
from collections.abc import Sequence

from jaxtyping import Float
from torch import Tensor, nn


class QNet(nn.Sequential):
    """Outputs for every action: 3 x 3 convolution for images, one hidden layer, ReLU between them.

    Args:
        shape: of an observation: (C, H, W), H and W >= 3, or (d,), which has no convolution.
        actions: >= 1.
        outputs: per action, >= 1: one for a number, m for a histogram.
        channels: of the convolution, >= 1; MinAtar's own agents have 16.
        hidden: width, >= 1.

    Shapes:
        x (b, *shape) float -> (b, actions, outputs).

    Raises:
        ValueError: a number out of range.

    Example:
        >>> import torch
        >>> QNet((4, 10, 10), actions=3, outputs=51)(torch.zeros(2, 4, 10, 10)).shape
        torch.Size([2, 3, 51])
    """

    def __init__(
        self, shape: Sequence[int], actions: int, outputs: int = 1, channels: int = 16, hidden: int = 128
    ) -> None:
        image = len(shape) == 3 and min(shape[1:]) >= 3
        if not (image or len(shape) == 1) or min(*shape, actions, outputs, channels, hidden) < 1:
            raise ValueError(
                f"QNet needs observations (C, H, W) of at least 3 x 3 or (d,) and counts >= 1, got "
                f"{tuple(shape)}, {actions=}, {outputs=}, {channels=}, {hidden=}"
            )
        first: list[nn.Module] = [nn.Conv2d(shape[0], channels, 3), nn.ReLU(), nn.Flatten()] if image else []
        width = channels * (shape[1] - 2) * (shape[2] - 2) if image else math.prod(shape)
        super().__init__(
            *first,
            nn.Linear(width, hidden),
            nn.ReLU(),
            nn.Linear(hidden, actions * outputs),
            nn.Unflatten(1, (actions, outputs)),
        )

    def forward(self, x: Float[Tensor, "b ..."]) -> Float[Tensor, "b actions outputs"]:
        """The outputs of every action."""
        return super().forward(x)
