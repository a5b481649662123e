"""A long-tailed part of a data set, and labelled images for the probe that are not in it."""

import torch
from jaxtyping import Int
from torch import Tensor

from lossatlas.data import Split
from lossatlas.seeding import stream


def class_sizes(classes: int, n_max: int, ratio: float) -> list[int]:
    """n_max ratio^(k / (K - 1)) for k = 0 .. K - 1, rounded: from head to tail.

    Args:
        classes: K, >= 2.
        n_max: images of the head, >= 1.
        ratio: tail over head, in (0, 1]; 1 is balanced.

    Raises:
        ValueError: an argument out of range, or a tail without an image.

    Example:
        >>> class_sizes(3, 100, 0.01)
        [100, 10, 1]
    """
    if classes < 2 or n_max < 1 or not 0 < ratio <= 1:
        raise ValueError(
            f"class sizes need K >= 2, n_max >= 1 and ratio in (0, 1], got {classes}, {n_max}, {ratio}"
        )
    sizes = [round(n_max * ratio ** (k / (classes - 1))) for k in range(classes)]
    if sizes[-1] < 1:
        raise ValueError(f"the rarest class would have no image: raise {n_max=} or {ratio=}")
    return sizes


def long_tail(
    train: Split, classes: int, sizes: list[int], labelled: int, seed: int
) -> tuple[Split, Split, Int[Tensor, " K"]]:
    """(pretraining set, labelled images, pi): class pi[k] keeps sizes[k] images, each class has `labelled` others.

    pi and the images are drawn from the seed alone, so every arm of a seed sees the same. labelled = 0 probes on the
    pretraining set's own labels.

    Raises:
        ValueError: a class has too few images.
    """
    generator = stream(seed, "isogclr/tail")
    pi = torch.randperm(classes, generator=generator)
    order = torch.randperm(len(train), generator=generator)
    y = train.y.cpu()[order]
    kept, probed = [], []
    for k, c in enumerate(pi.tolist()):
        rows = order[y == c]
        if len(rows) < sizes[k] + labelled:
            raise ValueError(
                f"class {c} has {len(rows)} training images, the study takes {sizes[k]} and {labelled} labelled ones:"
                " lower n_max or labelled"
            )
        kept.append(rows[: sizes[k]])
        probed.append(rows[sizes[k] : sizes[k] + labelled])
    pretrain = _rows(train, torch.cat(kept))
    return pretrain, _rows(train, torch.cat(probed)) if labelled else pretrain, pi


def _rows(split: Split, rows: Tensor) -> Split:
    return Split(split.x[rows], split.y[rows], split.y_clean[rows])
