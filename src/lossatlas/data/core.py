"""What a data set is once it is in memory: tensors, batched by indexing."""

from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import NamedTuple

import torch
from jaxtyping import Int
from torch import Tensor


class Batch(NamedTuple):
    """One mini-batch: x (b, *shape), y (b,) given labels, index (b,) positions within the split."""

    x: Tensor
    y: Tensor
    index: Tensor


@dataclass
class Split:
    """Rows of one split.

    Args:
        x: (n, *shape), float32 standardised or uint8 images (n, C, H, W).
        y: (n,) int64 labels as given, noisy where noise was asked for.
        y_clean: (n,) int64 true labels; the same tensor as y where there is no noise.
    """

    x: Tensor
    y: Tensor
    y_clean: Tensor

    def __len__(self) -> int:
        return self.y.shape[0]

    def to(self, device: torch.device | str) -> "Split":
        """The same rows on `device`; y and y_clean stay one tensor where they were one."""
        y = self.y.to(device)
        return Split(self.x.to(device), y, y if self.y_clean is self.y else self.y_clean.to(device))


@dataclass
class Data:
    """A data set in memory.

    Args:
        name: as in conf/data.
        classes: K, labels lie in [0, K).
        train, test, val: the splits; val only where a fold of the training rows was asked for.
        mean, std: (C,) of pixels in [0, 1], images only.
        augment: takes and returns a raw uint8 batch (b, C, H, W); used on training batches.
        source: where the bytes came from, for the record.
    """

    name: str
    classes: int
    train: Split
    test: Split
    val: Split | None = None
    mean: Tensor | None = None
    std: Tensor | None = None
    augment: Callable[[Tensor], Tensor] | None = None
    source: str = ""

    @property
    def shape(self) -> tuple[int, ...]:
        """The shape of one sample."""
        return tuple(self.train.x.shape[1:])

    def batch(self, split: Split | str, index: Int[Tensor, " b"], train: bool) -> Batch:
        """Gather rows; images are augmented (train only), scaled to [0, 1] and normalised per channel.

        Augmentation comes before normalisation, so that padding is black as in the usual pipelines.

        Shapes:
            index (b,) -> Batch of (b, *shape) float32, (b,) int64, (b,).

        Example:
            >>> data.batch("train", torch.arange(64), train=True).x.shape
        """
        rows: Split = getattr(self, split) if isinstance(split, str) else split
        x = rows.x[index]
        if train and self.augment is not None:
            x = self.augment(x)
        if x.dtype == torch.uint8:
            x = self._normalise(x)
        return Batch(x, rows.y[index], index)

    def to(self, device: torch.device | str) -> "Data":
        """Everything on `device`."""
        move = {
            k: v.to(device)
            for k in ("train", "test", "val", "mean", "std")
            if (v := getattr(self, k)) is not None
        }
        return replace(self, **move)

    def _normalise(self, x: Tensor) -> Tensor:
        x = x.float().div_(255.0)
        if self.mean is None or self.std is None:
            return x
        return x.sub_(self.mean[:, None, None]).div_(self.std[:, None, None])
