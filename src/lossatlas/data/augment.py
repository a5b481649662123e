"""Augmentation on whole batches with parameters drawn per sample (torchvision's v2 transforms draw one per batch)."""

import math
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


@dataclass(frozen=True)
class TwoViews:
    """Two independent random views of every image, as contrastive methods take them.

    In this order: shift and flip as `Augment`; brightness and contrast, each times a factor uniform in [1 - v, 1 + v]
    (contrast around the image's mean grey, as torchvision's ColorJitter); with probability `erase` one rectangle is
    painted black, its area uniform in 2 to 33 % and its aspect log-uniform in 0.3 to 1 / 0.3 (RandomErasing's).

    Args:
        padding, flip: as in `Augment`.
        brightness, contrast: v above, in [0, 1]; 0 leaves as it is.
        erase: probability in [0, 1].

    Shapes:
        (b, C, H, W) uint8 -> (b, 2, C, H, W) uint8; draws (b, 2, 10).

    Raises:
        ValueError: an argument out of range.

    Example:
        >>> TwoViews()(torch.zeros(2, 1, 28, 28, dtype=torch.uint8)).shape
        torch.Size([2, 2, 1, 28, 28])
    """

    padding: int = 4
    flip: float = 0.5
    brightness: float = 0.4
    contrast: float = 0.4
    erase: float = 0.5

    def __post_init__(self) -> None:
        Augment(self.padding, self.flip)  # refuses theirs
        for name in ("brightness", "contrast", "erase"):
            if not 0 <= getattr(self, name) <= 1:
                raise ValueError(f"{name} must lie in [0, 1], got {getattr(self, name)!r}")

    def __call__(self, x: UInt8[Tensor, "b C H W"], generator: torch.Generator | None = None) -> Tensor:
        """Draws and applies; without a generator from torch's global one, which the checkpoints carry."""
        return self.apply(x, self.draw(len(x), generator))

    def draw(self, n: int, generator: torch.Generator | None = None) -> Float[Tensor, "n 2 10"]:
        """Uniform numbers in [0, 1), always ten a view: Augment's three, brightness, contrast, and of the rectangle
        whether, area, aspect, row and column."""
        return torch.rand(n, 2, 10, generator=generator)

    def apply(
        self, x: UInt8[Tensor, "b C H W"], draws: Float[Tensor, "b 2 10"]
    ) -> UInt8[Tensor, "b 2 C H W"]:
        """The views that the draws decide."""
        draws = draws.to(x.device)
        return torch.stack([self._view(x, draws[:, v]) for v in range(2)], dim=1)

    def _view(self, x: Tensor, draws: Tensor) -> Tensor:
        x = Augment(self.padding, self.flip).apply(x, draws[:, :3])
        if self.brightness or self.contrast:
            x = self._light(x, draws[:, 3:5])
        if self.erase:
            x = x.masked_fill(self.erased(draws[:, 5:], x.shape[2], x.shape[3])[:, None], 0)
        return x

    def _light(self, x: Tensor, draws: Tensor) -> Tensor:
        brightness = 1 + self.brightness * (2 * draws[:, 0, None, None, None] - 1)
        contrast = 1 + self.contrast * (2 * draws[:, 1, None, None, None] - 1)
        y = (x.float() * brightness).clamp_(0, 255)
        grey = y if x.shape[1] == 1 else (y * y.new_tensor(LUMA)[:, None, None]).sum(1, keepdim=True)
        mean = grey.mean((1, 2, 3), keepdim=True)
        return torch.lerp(mean, y, contrast).clamp_(0, 255).round_().to(torch.uint8)

    def erased(self, draws: Float[Tensor, "b 5"], H: int, W: int) -> Tensor:
        """(b, H, W) bool: the rectangle of each image, empty for those that keep theirs."""
        share, area, aspect, row, column = draws.unbind(1)
        pixels = (ERASE_AREA[0] + (ERASE_AREA[1] - ERASE_AREA[0]) * area) * H * W
        ratio = torch.exp(math.log(ERASE_ASPECT) * (1 - 2 * aspect))
        h = (pixels * ratio).sqrt().round().clamp(1, H)
        w = (pixels / ratio).sqrt().round().clamp(1, W)
        top, left = (row * (H - h + 1)).floor()[:, None], (column * (W - w + 1)).floor()[:, None]
        y, x = torch.arange(H, device=draws.device), torch.arange(W, device=draws.device)
        rows = (y >= top) & (y < top + h[:, None]) & (share < self.erase)[:, None]
        return rows[:, :, None] & ((x >= left) & (x < left + w[:, None]))[:, None, :]


LUMA = (0.299, 0.587, 0.114)  # of red, green, blue in grey
ERASE_AREA, ERASE_ASPECT = (0.02, 0.33), 1 / 0.3
AUGMENTS = {
    "crop": Augment(flip=0.0),
    "flip": Augment(padding=0),
    "flip_crop": Augment(),
    "two_views": TwoViews(),
}


def make_augment(what: str | Mapping[str, Any], shape: tuple[int, ...]) -> Augment | TwoViews | None:
    """The augmentation of a name (none, crop, flip, flip_crop, two_views) or of {padding: pixels, flip: probability}.

    A mapping with `views: 2` gives two views and takes brightness, contrast and erase as well.

    Raises:
        UserError: unknown name, an argument out of range, or images asked for on rows.
    """
    if what == "none":
        return None
    names = ", ".join(["none", *AUGMENTS])
    if isinstance(what, Mapping):
        found = _from_mapping(what)
    elif what in AUGMENTS:
        found = AUGMENTS[what]
    else:
        raise UserError(f"data.augment must be one of {names} or {{padding: 4, flip: 0.5}}, got {what!r}")
    if len(shape) != 3:
        raise UserError(
            f"data.augment={what} needs images (C, H, W), this set has shape {list(shape)}: take none"
        )
    return found


def _from_mapping(what: Mapping[str, Any]) -> Augment | TwoViews:
    views, rest = what.get("views", 1), {str(k): v for k, v in what.items() if k != "views"}
    if views not in (1, 2):
        raise UserError(f"data.augment.views must be 1 or 2, got {views!r}")
    takes = "padding and flip" if views == 1 else "padding, flip, brightness, contrast and erase"
    try:
        return Augment(**rest) if views == 1 else TwoViews(**rest)
    except (TypeError, ValueError) as error:
        raise UserError(f"data.augment takes {takes}: {error}") from error
