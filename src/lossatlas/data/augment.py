"""Augmentation on whole batches with parameters drawn per sample (torchvision's v2 transforms draw one per batch)."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import torch
from jaxtyping import Float, UInt8
from torch import Tensor

from lossatlas.errors import UserError


@dataclass(frozen=True)
class Augment:
    """A shift of up to `padding` pixels in each direction with black borders, and a horizontal flip.

    Each sample its own: what `v2.RandomCrop(size, padding=padding)` and `v2.RandomHorizontalFlip(flip)` do to
    single images. Sample i is decided by row i of the draws alone, so a batch in parts gets what the whole gets.

    Args:
        padding: pixels added on each side before the crop, >= 0.
        flip: probability of the flip, in [0, 1].

    Shapes:
        (b, C, H, W) uint8 -> the same.

    Raises:
        ValueError: an argument out of range.

    Example:
        >>> Augment(padding=4, flip=0.5)(torch.zeros(2, 3, 32, 32, dtype=torch.uint8)).shape
        torch.Size([2, 3, 32, 32])
    """

    padding: int = 4
    flip: float = 0.5

    def __post_init__(self) -> None:
        if isinstance(self.padding, bool) or not isinstance(self.padding, int) or self.padding < 0:
            raise ValueError(f"padding must be a number of pixels >= 0, got {self.padding!r}")
        if not 0 <= self.flip <= 1:
            raise ValueError(f"flip must be a probability in [0, 1], got {self.flip!r}")

    def __call__(self, x: UInt8[Tensor, "b C H W"], generator: torch.Generator | None = None) -> Tensor:
        """Draws and applies; without a generator from torch's global one, which the checkpoints carry."""
        return self.apply(x, self.draw(len(x), generator))

    def draw(self, n: int, generator: torch.Generator | None = None) -> Float[Tensor, "n 3"]:
        """Uniform numbers in [0, 1) that decide row shift, column shift and flip of n samples.

        Always three, on the CPU, row by row: neither a setting nor the device nor the size of the parts in
        which n samples come changes what is drawn later.
        """
        return torch.rand(n, 3, generator=generator)

    def parameters(self, draws: Float[Tensor, "b 3"]) -> tuple[Tensor, Tensor, Tensor]:
        """(b,) top and left of each window in the padded image, 0 to 2 padding, and (b,) whether it is flipped."""
        top, left = (draws[:, :2] * (2 * self.padding + 1)).long().unbind(1)
        return top, left, draws[:, 2] < self.flip

    def apply(self, x: UInt8[Tensor, "b C H W"], draws: Float[Tensor, "b 3"]) -> UInt8[Tensor, "b C H W"]:
        """The augmentation that the draws decide."""
        top, left, flipped = self.parameters(draws.to(x.device))
        if self.padding:
            x = _windows(x, self.padding, top, left)
        if self.flip:  # both, then a choice of rows: copies of whole images, no work per pixel
            both = torch.cat([x, x.flip(3)])
            x = both.index_select(0, torch.arange(len(x), device=x.device) + len(x) * flipped)
        return x


def _windows(x: Tensor, padding: int, top: Tensor, left: Tensor) -> Tensor:
    """One (C, H, W) window of each padded image.

    The padded batch is looked at as (every offset, C, H, W) with overlapping strides, so that a window is one
    row of index_select, copied line by line instead of by an index per pixel.
    """
    b, C, H, W = x.shape
    if b == 0:
        return x
    padded = torch.nn.functional.pad(x, [padding] * 4)
    image, plane, line, pixel = padded.stride()
    count = padded.numel() - (C - 1) * plane - (H - 1) * line - (W - 1)
    every = padded.as_strided((count, C, H, W), (pixel, plane, line, pixel))
    return every.index_select(0, torch.arange(b, device=x.device) * image + top * line + left)


AUGMENTS = {"crop": Augment(flip=0.0), "flip": Augment(padding=0), "flip_crop": Augment()}


def make_augment(what: str | Mapping[str, Any], shape: tuple[int, ...]) -> Augment | None:
    """The augmentation of a name (none, crop, flip, flip_crop) or of {padding: pixels, flip: probability}.

    Raises:
        UserError: unknown name, an argument out of range, or images asked for on rows.
    """
    if what == "none":
        return None
    names = ", ".join(["none", *AUGMENTS])
    if isinstance(what, Mapping):
        try:
            found = Augment(**what)
        except (TypeError, ValueError) as error:
            raise UserError(f"data.augment takes padding and flip: {error}") from error
    elif what in AUGMENTS:
        found = AUGMENTS[what]
    else:
        raise UserError(f"data.augment must be one of {names} or {{padding: 4, flip: 0.5}}, got {what!r}")
    if len(shape) != 3:
        raise UserError(
            f"data.augment={what} needs images (C, H, W), this set has shape {list(shape)}: take none"
        )
    return found
