"""Differentiable siamese augmentation (DSA; Zhao and Bilen, ICML 2021): one draw for all images of a batch.

Each operation is a smooth function of the images, so that the synthetic ones can be moved through it. The draw is made
apart from the images: the real and the synthetic images of a class see the same one.
"""

import math
from typing import NamedTuple

import torch
from jaxtyping import Float
from torch import Tensor
from torch.nn import functional

OPERATIONS = ("flip", "shift", "cutout", "scale", "rotate", "colour")
RATIO = {"shift": 0.125, "cutout": 0.5, "scale": 1.2, "rotate": 15.0, "brightness": 1.0, "contrast": 0.5}


class Draw(NamedTuple):
    """Operation and four uniform numbers in [0, 1) that it takes."""

    operation: str
    u: tuple[float, ...]


def draw(g: torch.Generator) -> Draw:
    """One augmentation."""
    k = int(torch.randint(len(OPERATIONS), (), generator=g))
    return Draw(OPERATIONS[k], tuple(torch.rand(4, generator=g).tolist()))


def apply(x: Float[Tensor, "n C H W"], d: Draw) -> Float[Tensor, "n C H W"]:
    """The same change of every image, differentiable in x."""
    a, b, c, e = d.u
    side = x.shape[-1]
    if d.operation == "flip":
        return x.flip(-1) if a < 0.5 else x
    if d.operation == "shift":
        room = max(1, round(RATIO["shift"] * side))
        dy, dx = (math.floor(u * (2 * room + 1)) for u in (a, b))
        return functional.pad(x, [room] * 4)[..., dy : dy + side, dx : dx + side]
    if d.operation == "cutout":
        size = max(1, round(RATIO["cutout"] * side))
        top, left = (math.floor(u * (side + 1)) - size // 2 for u in (a, b))
        keep = torch.ones_like(x[0, 0])
        keep[max(top, 0) : max(top + size, 0), max(left, 0) : max(left + size, 0)] = 0
        return x * keep
    if d.operation == "scale":
        sy, sx = (RATIO["scale"] ** (2 * u - 1) for u in (a, b))
        return _warp(x, [[sx, 0.0], [0.0, sy]])
    if d.operation == "rotate":
        angle = math.radians((2 * a - 1) * RATIO["rotate"])
        return _warp(x, [[math.cos(angle), -math.sin(angle)], [math.sin(angle), math.cos(angle)]])
    middle = x.mean((1, 2, 3), keepdim=True)
    lighter = x + RATIO["brightness"] * (c - 0.5)
    return (lighter - middle) * (1 + RATIO["contrast"] * (2 * e - 1)) + middle


def _warp(x: Tensor, matrix: list[list[float]]) -> Tensor:
    theta = x.new_tensor([[*row, 0.0] for row in matrix]).expand(len(x), 2, 3)
    grid = functional.affine_grid(theta, list(x.shape), align_corners=False)
    return functional.grid_sample(x, grid, padding_mode="zeros", align_corners=False)
