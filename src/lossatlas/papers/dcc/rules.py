"""The arms: what a set of images is made by."""

from dataclasses import dataclass

import torch
from torch import Tensor

CHOICES = ("random", "kcenter", "whole")


@dataclass(frozen=True)
class Matching:
    """Images that are moved so that their gradients match the real ones.

    Args:
        contrast: DCC's distance of the mean gradients, else DC's class by class.
        warmup_outer, warmup_inner: DC's distance is used while the network's number is below the first and the move's
            number on it below the second, both.
        augment: one random augmentation a class and move for both sets (DSA, DSAC).

    Raises:
        ValueError: a warm-up below 0.
    """

    contrast: bool
    warmup_outer: int = 0
    warmup_inner: int = 0
    augment: bool = False

    def __post_init__(self) -> None:
        if min(self.warmup_outer, self.warmup_inner) < 0:
            raise ValueError(f"a warm-up has no fewer than 0 steps, got {self}")

    def contrasts(self, outer: int, inner: int) -> bool:
        """Whether this move uses the mean gradients."""
        return self.contrast and not (outer < self.warmup_outer and inner < self.warmup_inner)


@dataclass(frozen=True)
class RealImages:
    """Real images, not moved.

    Args:
        by: random (those that the matching arms start from), kcenter (greedy k-centre on a trained network's features)
            or whole (all real images: the upper bound).

    Raises:
        ValueError: another choice.
    """

    by: str

    def __post_init__(self) -> None:
        if self.by not in CHOICES:
            raise ValueError(f"real images are chosen by {', '.join(CHOICES)}, got {self.by!r}")


def k_centers(features: Tensor, k: int) -> Tensor:
    """(k,) positions of greedy k-centre: the row nearest the mean, then again and again the row farthest from those.

    Args:
        features: (n, d).
        k: 1..n.

    Raises:
        ValueError: k out of range.

    Example:
        >>> k_centers(torch.tensor([[0.0], [1.0], [5.0], [6.0]]), 2)  # the mean is 3
        tensor([1, 3])
    """
    if not 1 <= k <= len(features):
        raise ValueError(f"k-centre needs 1 <= k <= {len(features)} rows, got {k}")
    chosen = [(features - features.mean(0)).norm(dim=1).argmin()]
    nearest = (features - features[chosen[0]]).norm(dim=1)
    for _ in range(k - 1):
        chosen.append(nearest.argmax())
        nearest = torch.minimum(nearest, (features - features[chosen[-1]]).norm(dim=1))
    return torch.stack(chosen)
