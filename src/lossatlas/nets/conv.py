"""Small convolutional networks for images of 8 to 64 pixels."""

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


NORMS = (None, "batch", "instance")
HEADS = ("gap", "flatten", "avgmax")


class AvgMax(nn.Module):
    """Mean and maximum over the places of each channel, side by side.

    Shapes:
        (n, C, H, W) -> (n, 2 C).
    """

    def forward(self, x: Float[Tensor, "n C H W"]) -> Float[Tensor, "n D"]:
        return torch.cat([x.mean((2, 3)), x.amax((2, 3))], dim=1)


class GlobalMean(nn.Module):
    """Mean over the places of each channel.

    Shapes:
        (n, C, H, W) -> (n, C).
    """

    def forward(self, x: Float[Tensor, "n C H W"]) -> Float[Tensor, "n C"]:
        return x.mean((2, 3))


class ConvNet(nn.Module):
    """Blocks of 3 x 3 convolution, norm, ReLU and pooling; a head; ReLU layers; linear scores.

    Args:
        channels: of the images, >= 1.
        classes: number of scores (or numbers of an embedding), >= 1.
        side: of the images in pixels.
        widths: output channels, one a block.
        strides: of the convolutions, padded by 1: one for all blocks or one a block, >= 1.
        pool: sides of the pooling windows, alike; 1 pools not.
        pooling: "avg" or "max". ceil: whether a window may stick out, so that 7 pixels become 4, not 3.
        norm: None, "batch" (the convolution then has no bias) or "instance" (a GroupNorm of a channel a group, which
            differentiates twice on every device).
        head: "gap" (mean over places), "avgmax" (mean and maximum) or "flatten".
        hidden: widths of linear layers with ReLU between head and scores.

    Shapes:
        x (n, channels, side, side) float -> (n, classes); `features(x)` (n, F), what the last linear layer reads.

    Raises:
        ValueError: a count out of range, an unknown choice, or nothing left of the image.

    Example:
        >>> net = ConvNet(1, 10, 14, widths=[16, 32], pool=2, pooling="max", ceil=True, head="flatten", hidden=[64])
        >>> net.features[-2], net(torch.zeros(3, 1, 14, 14)).shape
        (Linear(in_features=512, out_features=64, bias=True), torch.Size([3, 10]))
    """

    def __init__(
        self,
        channels: int,
        classes: int,
        side: int,
        widths: Sequence[int],
        strides: int | Sequence[int] = 1,
        pool: int | Sequence[int] = 1,
        pooling: str = "avg",
        ceil: bool = False,
        norm: str | None = None,
        head: str = "gap",
        hidden: Sequence[int] = (),
    ) -> None:
        depth = len(widths)
        steps = [strides] * depth if isinstance(strides, int) else list(strides)
        windows = [pool] * depth if isinstance(pool, int) else list(pool)
        if depth < 1 or len(steps) != depth or len(windows) != depth or pooling not in ("avg", "max"):
            raise ValueError(
                f"ConvNet needs a width, stride and pool a block and pooling avg or max, got {widths=}, {strides=}, "
                f"{pool=}, {pooling=}"
            )
        if min(channels, classes, side, *widths, *steps, *windows, *hidden) < 1:
            raise ValueError(
                f"ConvNet needs counts >= 1, got {channels=}, {classes=}, {side=}, "
                f"{widths=}, {strides=}, {pool=}, {hidden=}"
            )
        if norm not in NORMS or head not in HEADS:
            raise ValueError(f"ConvNet knows the norms {NORMS} and heads {HEADS}, got {norm=}, {head=}")
        super().__init__()
        blocks: list[nn.Module] = []
        for c_in, c_out, stride, window in zip([channels, *widths[:-1]], widths, steps, windows, strict=True):
            blocks.append(nn.Conv2d(c_in, c_out, 3, stride=stride, padding=1, bias=norm != "batch"))
            if norm:
                blocks.append(nn.BatchNorm2d(c_out) if norm == "batch" else nn.GroupNorm(c_out, c_out))
            blocks.append(nn.ReLU())
            if window > 1:
                blocks.append((nn.AvgPool2d if pooling == "avg" else nn.MaxPool2d)(window, ceil_mode=ceil))
            side = (side - 1) // stride + 1
            side = -(-side // window) if ceil else side // window
        if side < 1:
            raise ValueError(f"ConvNet: strides {steps} and pools {windows} leave no pixel of the images")
        blocks.append({"gap": GlobalMean, "flatten": nn.Flatten, "avgmax": AvgMax}[head]())
        width = widths[-1] * {"gap": 1, "flatten": side * side, "avgmax": 2}[head]
        for after in hidden:
            blocks += [nn.Linear(width, after), nn.ReLU()]
            width = after
        self.features = nn.Sequential(*blocks)
        self.scores = nn.Linear(width, classes)

    def forward(self, x: Float[Tensor, "n C H W"]) -> Float[Tensor, "n K"]:
        return self.scores(self.features(x))
