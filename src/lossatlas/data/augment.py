"""Augmentation on whole batches with parameters drawn per sample (torchvision draws them per batch)."""

import torch
from jaxtyping import UInt8
from torch import Tensor

from lossatlas.errors import UserError


class FlipCrop:
    """Random shift by up to `padding` pixels with black borders, and a horizontal flip of half the images.

    Draws from torch's global generator, whose state the checkpoints carry.

    Args:
        padding: pixels added on each side before the crop, >= 0.

    Shapes:
        (b, C, H, W) uint8 -> the same.

    Example:
        >>> FlipCrop(4)(torch.zeros(2, 3, 32, 32, dtype=torch.uint8)).shape
        torch.Size([2, 3, 32, 32])
    """

    def __init__(self, padding: int = 4) -> None:
        self.padding = padding

    def __call__(self, x: UInt8[Tensor, "b C H W"]) -> UInt8[Tensor, "b C H W"]:
        b, C, H, W = x.shape
        shift = torch.randint(2 * self.padding + 1, (2, b, 1), device=x.device)
        flip = torch.rand(b, 1, device=x.device) < 0.5
        row = shift[0] + torch.arange(H, device=x.device)
        column = torch.arange(W, device=x.device).expand(b, W)
        column = shift[1] + torch.where(flip, W - 1 - column, column)
        padded = torch.nn.functional.pad(x, [self.padding] * 4)
        sample = torch.arange(b, device=x.device)[:, None, None, None]
        channel = torch.arange(C, device=x.device)[None, :, None, None]
        return padded[sample, channel, row[:, None, :, None], column[:, None, None, :]]


def make_augment(name: str, shape: tuple[int, ...]) -> FlipCrop | None:
    """The augmentation called `name`: none or flip_crop.

    Raises:
        UserError: unknown name, or images asked for on rows.
    """
    if name == "none":
        return None
    if name != "flip_crop":
        raise UserError(f"data.augment must be none or flip_crop, got {name!r}")
    if len(shape) != 3:
        raise UserError(
            f"data.augment=flip_crop needs images (C, H, W), this set has shape {list(shape)}: take none"
        )
    return FlipCrop()
