"""Label noise: what a fraction of the training labels becomes."""

from collections.abc import Sequence

import torch
from jaxtyping import Int
from torch import Tensor

from lossatlas.errors import UserError

KINDS = ("uniform", "class")


def noisy_labels(
    y: Int[Tensor, " n"],
    kind: str,
    rate: float,
    classes: int,
    pairs: Sequence[Sequence[int]],
    generator: torch.Generator,
) -> Int[Tensor, " n"]:
    """Labels after noise; y is left as it is.

    uniform: with probability `rate` a label is redrawn from all K classes, so it differs with rate (K-1)/K.
    class: with probability `rate` a label of a confusable pair becomes the other one; others never change.

    Args:
        y: true labels in [0, classes).
        kind: uniform or class.
        rate: xi, in [0, 1].
        classes: K.
        pairs: confusable classes, each class in one pair at most; needed by kind class.
        generator: a CPU generator.

    Raises:
        UserError: unknown kind, rate outside [0, 1], kind class without pairs.

    Example:
        >>> noisy_labels(torch.tensor([0, 2]), "class", 1.0, 3, [[0, 1]], torch.Generator())
        tensor([1, 2])
    """
    check_noise(kind, rate, classes, pairs)
    hit = torch.rand(len(y), generator=generator) < rate
    if kind == "uniform":
        return torch.where(hit, torch.randint(classes, (len(y),), generator=generator), y)
    other = torch.arange(classes)
    for a, b in pairs:
        other[a], other[b] = b, a
    return torch.where(hit, other[y], y)


def check_noise(kind: str, rate: float, classes: int, pairs: Sequence[Sequence[int]]) -> None:
    """Raises UserError where the noise cannot be drawn on this data set."""
    if kind not in KINDS:
        raise UserError(f"noise.kind must be one of {', '.join(KINDS)}, got {kind!r}")
    if isinstance(rate, bool) or not isinstance(rate, int | float) or not 0 <= rate <= 1:
        raise UserError(f"noise.rate must be a number in [0, 1], got {rate!r}")
    if kind == "class" and rate > 0 and not pairs:
        raise UserError(
            "class-dependent noise needs confusable pairs, this data set declares none: take noise=u30 or "
            "another u.., or declare `confusable` in its conf/data file"
        )
    members = [k for pair in pairs for k in pair]
    if any(len(pair) != 2 for pair in pairs) or len(set(members)) != len(members):
        raise UserError(f"confusable must be disjoint pairs of classes, got {[list(p) for p in pairs]}")
    if any(not 0 <= k < classes for k in members):
        raise UserError(f"confusable classes must lie in [0, {classes}), got {[list(p) for p in pairs]}")
