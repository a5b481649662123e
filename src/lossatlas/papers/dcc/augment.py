"""Differentiable siamese augmentation (DSA; Zhao and Bilen, ICML 2021).

Each operation is a smooth function of the images, so that the synthetic ones can be moved through it. The draw is made
apart from the images. In matching, the real and the synthetic images of a class see the same one; in a network's
training a mini-batch has one operation and every image its own numbers, as in the authors' code.
"""

import math
from typing import NamedTuple

import torch
from jaxtyping import Float
from torch import Tensor
from torch.nn import functional

OPERATIONS = ("flip", "shift", "cutout", "scale", "rotate", "colour")
RATIO = {"shift": 0.125, "cutout": 0.5, "scale": 1.2, "rotate": 15.0}
COLOUR = {"brightness": 1.0, "saturation": 2.0, "contrast": 0.5}


class Draw(NamedTuple):
    """Operation and four uniform numbers in [0, 1) that it takes: (1, 4) for all images or (n, 4), one row an image."""

    operation: str
    u: Tensor


def draw(g: torch.Generator, images: int = 1) -> Draw:
    """One augmentation; with `images` > 1 every image has numbers of its own."""
    k = int(torch.randint(len(OPERATIONS), (), generator=g))
    return Draw(OPERATIONS[k], torch.rand(images, 4, generator=g))


def apply(x: Float[Tensor, "n C H W"], d: Draw) -> Float[Tensor, "n C H W"]:
    """The change of every image, differentiable in x.

    Raises:
        ValueError: neither one row of numbers nor one an image.
    """
    if len(d.u) not in (1, len(x)):
        raise ValueError(f"a draw has numbers for one or for all {len(x)} images, got {len(d.u)} rows")
    a, b, c, e = d.u.to(x).expand(len(x), 4)[:, :, None, None, None].unbind(1)  # (n, 1, 1, 1) each
    if d.operation == "flip":
        return torch.where(a < 0.5, x.flip(-1), x)
    if d.operation == "shift":
        return _shifted(x, a.flatten(), b.flatten())
    if d.operation == "cutout":
        return x * _kept(x, a, b)
    zero = torch.zeros_like(a.flatten())
    if d.operation == "scale":  # uniform, each side apart
        low = 1 / RATIO["scale"]
        sy, sx = (low + (RATIO["scale"] - low) * u.flatten() for u in (a, b))
        return _warp(x, [[sx, zero], [zero, sy]])
    if d.operation == "rotate":
        angle = (2 * a.flatten() - 1) * math.radians(RATIO["rotate"])
        return _warp(x, [[angle.cos(), -angle.sin()], [angle.sin(), angle.cos()]])
    x = x + COLOUR["brightness"] * (c - 0.5)
    grey = x.mean(1, keepdim=True)
    x = (x - grey) * (COLOUR["saturation"] * a) + grey
    middle = x.mean((1, 2, 3), keepdim=True)
    return (x - middle) * (1 + COLOUR["contrast"] * (2 * e - 1)) + middle


def _shifted(x: Tensor, a: Tensor, b: Tensor) -> Tensor:
    """By whole pixels, zeros from outside."""
    side = x.shape[-1]
    room = max(1, round(RATIO["shift"] * side))
    dy, dx = ((u * (2 * room + 1)).floor().long()[:, None] for u in (a, b))
    line, n = torch.arange(side, device=x.device), torch.arange(len(x), device=x.device)
    padded = functional.pad(x, [room] * 4).permute(0, 2, 3, 1)
    return padded[n[:, None, None], (dy + line)[:, :, None], (dx + line)[:, None]].permute(0, 3, 1, 2)


def _kept(x: Tensor, a: Tensor, b: Tensor) -> Tensor:
    """(n, 1, side, side): 0 within the square, 1 outside."""
    side = x.shape[-1]
    size = max(1, round(RATIO["cutout"] * side))
    line = torch.arange(side, device=x.device)
    top, left = ((u * (side + 1)).floor() - size // 2 for u in (a, b))
    rows, columns = line[:, None], line[None]
    inside = (rows >= top) & (rows < top + size) & (columns >= left) & (columns < left + size)
    return (~inside).to(x)


def _warp(x: Tensor, matrix: list[list[Tensor]]) -> Tensor:
    theta = torch.stack([torch.stack([*row, torch.zeros_like(row[0])], dim=1) for row in matrix], dim=1)
    grid = functional.affine_grid(theta, list(x.shape), align_corners=False)
    return functional.grid_sample(x, grid, padding_mode="zeros", align_corners=False)
