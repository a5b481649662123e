"""Clothes under a texture that tells nothing: the images of the study."""

import math
from typing import NamedTuple

import torch
from jaxtyping import Float
from torch import Tensor
from torch.nn import functional

from lossatlas.data import Data
from lossatlas.seeding import stream

RANK = 20  # dimensions of the texture, where an image has as many
BLUR, WIDTH = 1.5, 7  # pixels: deviation and size of the Gaussian that smooths it


class Images(NamedTuple):
    """Standardised images (n, C, s, s) and labels 0..K-1 of both splits, and the basis of the texture (rank, C s s)."""

    x: Tensor
    y: Tensor
    x_test: Tensor
    y_test: Tensor
    Q: Tensor

    def like(self, other: Tensor) -> "Images":
        """On the device and in the precision of another tensor, labels as they are."""
        x, x_test, Q = (t.to(other) for t in (self.x, self.x_test, self.Q))
        return Images(x, self.y.to(other.device), x_test, self.y_test.to(other.device), Q)


def texture_basis(channels: int, side: int) -> Float[Tensor, "k D"]:
    """Q: orthonormal rows from the QR decomposition of smoothed white noise, the same for every run.

    The noise is smoothed around the image's edges (circularly), so that no place is special.
    """
    half, rank = WIDTH // 2, min(RANK, channels * side * side)
    noise = torch.randn(rank, channels, side, side, generator=stream(0, "dcc/texture"), dtype=torch.float64)
    bell = torch.exp(-torch.arange(-half, half + 1.0, dtype=torch.float64).square() / (2 * BLUR**2))
    kernel = torch.outer(bell, bell) / bell.sum() ** 2
    padded = functional.pad(noise, [half] * 4, mode="circular")
    smooth = functional.conv2d(padded.flatten(0, 1)[:, None], kernel[None, None]).reshape(rank, -1)
    return torch.linalg.qr(smooth.mT).Q.mT.float()


def textured(data: Data, classes: list[int] | None, side: int, amplitude: float, seed: int) -> Images:
    """Images of some classes, pooled and standardised, plus amplitude times t = sqrt(D / rank) w Q, w ~ N(0, I).

    t is drawn for each image apart from its class and has the variance 1 of the images.

    Args:
        data: a set of images.
        classes: labels kept, numbered anew in this order; None keeps all.
        side: pixels a side after average pooling, at most the images' own.
        amplitude: >= 0; 0 adds nothing.
        seed: of the w.

    Raises:
        ValueError: a class or size that the set does not have, or amplitude.
    """
    kept = list(range(data.classes)) if classes is None else list(classes)
    if len(kept) < 2 or len(set(kept)) < len(kept) or not set(kept) <= set(range(data.classes)):
        raise ValueError(f"classes must be at least two different ones of 0..{data.classes - 1}, got {kept}")
    if len(data.shape) != 3 or not 1 <= side <= data.shape[-1] or not 0 <= amplitude < math.inf:
        raise ValueError(
            f"textured images need side <= {data.shape[-1]} and a finite amplitude >= 0, got {side=}, {amplitude=}"
        )
    number = torch.full((data.classes,), -1)
    number[kept] = torch.arange(len(kept))
    found = {}
    for name in ("train", "test"):
        split = getattr(data, name)
        rows = (number[split.y] >= 0).nonzero()[:, 0]
        x = data.batch(split, rows, train=False).x
        found[name] = functional.adaptive_avg_pool2d(x, side), number[split.y[rows]]
    mean, std = found["train"][0].mean(), found["train"][0].std()
    Q = texture_basis(data.shape[0], side)
    made: dict[str, Tensor] = {}
    for name, (x, y) in found.items():
        x = (x - mean) / std
        if amplitude > 0:
            w = torch.randn(len(x), len(Q), generator=stream(seed, f"dcc/texture/{name}"))
            x = x + amplitude * math.sqrt(Q.shape[1] / len(Q)) * (w @ Q).reshape(x.shape)
        made |= {name: x, f"{name} y": y}
    return Images(made["train"], made["train y"], made["test"], made["test y"], Q)
