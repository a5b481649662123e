"""Corruptions of images by formula, on whole batches with a generator: shifts of the test distribution.

Every corruption takes images in [0, 1] and one number `strength`, and returns images in [0, 1]:

    gaussian_noise   standard deviation of additive noise
    shot_noise       photons of a white pixel; the Poisson count divided by it
    salt_and_pepper  probability that a pixel (all its channels) becomes black or white
    contrast         factor on the distance from the image's own mean
    brightness       added to every pixel
    darkness         factor on every pixel
    gamma            exponent
    blur             side of a box filter, odd; borders repeat
    pixelation       side of the blocks that are replaced by their mean
    fog              weight of a smooth random field (4 x 4 cells) that the image is mixed with
    shift            pixels to the right, black moves in
"""

from collections.abc import Callable

import torch
from jaxtyping import Float
from torch import Tensor
from torch.nn.functional import avg_pool2d, interpolate, pad

from lossatlas.errors import UserError
from lossatlas.schema import nearest

Generator = torch.Generator | None
FOG_CELLS = 4


def corrupt(
    x: Float[Tensor, "n C H W"], name: str, strength: float, generator: torch.Generator | None = None
) -> Float[Tensor, "n C H W"]:
    """The corruption `name` of the head of this file.

    Args:
        x: images in [0, 1].
        name: of the corruption.
        strength: its one number; 0 noise, factor 1, side 1 and weight 0 leave the images as they are.
        generator: of the random ones, on the CPU; the same generator state gives the same corruption.

    Raises:
        UserError: no such corruption, or a strength out of its range.

    Example:
        >>> corrupt(torch.full((1, 1, 2, 2), 0.5), "brightness", 0.25).unique()
        tensor([0.7500])
    """
    if name not in CORRUPTIONS:
        raise UserError(f"no corruption {name!r}; {nearest(name, CORRUPTIONS)}")
    function, (low, high), whole = CORRUPTIONS[name]
    if not low <= strength <= high or (whole and strength != int(strength)):
        kind = "a whole number" if whole else "a number"
        raise UserError(f"the strength of {name} is {kind} in [{low}, {high}], got {strength}")
    return function(x, strength, generator).clamp(0, 1)


def smooth_field(
    n: int, side: int, cells: int, generator: torch.Generator | None = None, mode: str = "bilinear"
) -> Float[Tensor, "n 1 side side"]:
    """Random fields that vary slowly: uniform numbers on a coarse grid, interpolated.

    Args:
        n: number of fields.
        side: pixels, >= cells.
        cells: of the coarse grid along one side, >= 1.
        generator: on the CPU.
        mode: bilinear, or bicubic, which may leave [0, 1] and is clamped to it.

    Raises:
        ValueError: cells out of range.

    Example:
        >>> smooth_field(2, 28, 4).shape
        torch.Size([2, 1, 28, 28])
    """
    if not 1 <= cells <= side:
        raise ValueError(f"a smooth field needs 1 <= cells <= side, got {cells=}, {side=}")
    coarse = torch.rand(n, 1, cells, cells, generator=generator)
    return interpolate(coarse, size=(side, side), mode=mode, align_corners=False).clamp(0, 1)


def _uniform(x: Tensor, channels: int, generator: Generator) -> Tensor:
    """Uniform numbers (n, channels, H, W) for a batch, drawn on the CPU."""
    return torch.rand(len(x), channels, *x.shape[2:], generator=generator).to(x)


def _gaussian_noise(x: Tensor, strength: float, generator: Generator) -> Tensor:
    return x + strength * torch.randn(x.shape, generator=generator).to(x)


def _shot_noise(x: Tensor, strength: float, generator: Generator) -> Tensor:
    return torch.poisson((x * strength).cpu(), generator=generator).to(x) / strength


def _salt_and_pepper(x: Tensor, strength: float, generator: Generator) -> Tensor:
    u = _uniform(x, 1, generator)
    return torch.where(u < strength, (u < strength / 2).to(x), x)


def _contrast(x: Tensor, strength: float, _: Generator) -> Tensor:
    mean = x.mean(dim=(1, 2, 3), keepdim=True)
    return mean + strength * (x - mean)


def _blur(x: Tensor, strength: float, _: Generator) -> Tensor:
    side = int(strength)
    if side % 2 == 0:
        raise UserError(f"the side of a box blur is odd, got {side}: take {side + 1}")
    return avg_pool2d(pad(x, [side // 2] * 4, mode="replicate"), side, stride=1)


def _pixelation(x: Tensor, strength: float, _: Generator) -> Tensor:
    side = int(strength)
    blocks = avg_pool2d(x, side, ceil_mode=True, count_include_pad=False)
    large = blocks.repeat_interleave(side, 2).repeat_interleave(side, 3)
    return large[..., : x.shape[2], : x.shape[3]]


def _fog(x: Tensor, strength: float, generator: Generator) -> Tensor:
    if x.shape[2] != x.shape[3]:
        raise UserError(f"fog needs square images, got {x.shape[2]} x {x.shape[3]}")
    return (1 - strength) * x + strength * smooth_field(len(x), x.shape[2], FOG_CELLS, generator).to(x)


def _shift(x: Tensor, strength: float, _: Generator) -> Tensor:
    step = int(strength)
    if step >= x.shape[3]:
        raise UserError(f"a shift by {step} pixels leaves nothing of images {x.shape[3]} wide")
    return pad(x, [step, 0, 0, 0])[..., : x.shape[3]]


# name -> function, range of the strength, whether it is a whole number
CORRUPTIONS: dict[str, tuple[Callable[[Tensor, float, Generator], Tensor], tuple[float, float], bool]] = {
    "gaussian_noise": (_gaussian_noise, (0, 10), False),
    "shot_noise": (_shot_noise, (1e-3, 1e9), False),
    "salt_and_pepper": (_salt_and_pepper, (0, 1), False),
    "contrast": (_contrast, (0, 10), False),
    "brightness": (lambda x, strength, _: x + strength, (-1, 1), False),
    "darkness": (lambda x, strength, _: x * strength, (0, 1), False),
    "gamma": (lambda x, strength, _: x**strength, (1e-3, 1e3), False),
    "blur": (_blur, (1, 1024), True),
    "pixelation": (_pixelation, (1, 1024), True),
    "fog": (_fog, (0, 1), False),
    "shift": (_shift, (0, 1024), True),
}
