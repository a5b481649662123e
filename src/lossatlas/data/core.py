"""What a data set is once it is in memory: tensors, batched by indexing."""

from collections.abc import Iterator
from dataclasses import dataclass, field, replace
from typing import NamedTuple

import torch
from jaxtyping import Float, Int
from torch import Tensor

from lossatlas.data.augment import Augment, TwoViews
from lossatlas.seeding import stream

BLOCK = 2**22  # bytes of rows that are gathered at once: within a core's cache, many small mini-batches


class Batch(NamedTuple):
    """One mini-batch: x (b, *shape), y (b,) given labels or numbers, index (b,) positions within the split."""

    x: Tensor
    y: Tensor
    index: Tensor


@dataclass
class Split:
    """Rows of one split.

    Args:
        x: (n, *shape), float32 standardised or uint8 images (n, C, H, W).
        y: (n,) int64 labels, or float32 numbers, as given, noisy where noise was asked for.
        y_clean: (n,) the true ones; the same tensor as y where there is no noise.
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
        classes: K, labels lie in [0, K); 0 where y are numbers to be regressed.
        train, test, val: the splits; val only where a fold of the training rows was asked for.
        mean, std: (C,) of pixels in [0, 1], images only.
        augment: what is done to raw training images, or None.
        source: where the bytes came from, for the record.
        digest: sha256 of the canonical rows or the text before any split, limit or noise; "" for made-up rows.
    """

    name: str
    classes: int
    train: Split
    test: Split
    val: Split | None = None
    mean: Tensor | None = None
    std: Tensor | None = None
    augment: Augment | TwoViews | None = None
    source: str = ""
    digest: str = ""
    _drawn: dict[int, tuple[int, Tensor]] = field(default_factory=dict, repr=False)

    @property
    def shape(self) -> tuple[int, ...]:
        """The shape of one sample."""
        return tuple(self.train.x.shape[1:])

    def draws(self, seed: int, epoch: int, index: Int[Tensor, " b"]) -> Float[Tensor, "b ..."] | None:
        """What decides the augmentation of training samples in an epoch; None where there is none.

        A function of (seed, epoch, sample) alone: batch and chunk size, number of processes, the point at which
        a run was cut, and whatever else draws numbers change nothing. Each replica passes its own seed.

        Args:
            seed, epoch: >= 0.
            index: positions in the training split.
        """
        if self.augment is None:
            return None
        if (
            self._drawn.get(seed, (None,))[0] != epoch
        ):  # one table per seed: 12 bytes a sample, 80 with two views
            table = self.augment.draw(len(self.train), stream(seed, f"augment/{epoch}"))
            self._drawn[seed] = (epoch, table)
        return self._drawn[seed][1][index.cpu()]

    def batch(
        self,
        split: Split | str,
        index: Int[Tensor, " b"],
        train: bool,
        draws: Float[Tensor, "b ..."] | None = None,
    ) -> Batch:
        """Gather rows; images are augmented (train only), scaled to [0, 1] and normalised per channel.

        Augmentation comes before normalisation, so that padding is black as in the usual pipelines.

        Args:
            draws: of `self.draws`; without them the augmentation draws from torch's global generator.

        Shapes:
            index (b,) -> Batch of (b, *shape) float32, (b,) int64 or float32, (b,); x (b, 2, *shape) where
                training has two views.

        Example:
            >>> from lossatlas.data import load
            >>> load("letter", 26, [16], fake=True).batch("train", torch.arange(64), train=True).x.shape
            torch.Size([64, 16])
        """
        rows: Split = getattr(self, split) if isinstance(split, str) else split
        x = rows.x.index_select(0, index)  # copies whole rows; rows.x[index] goes pixel by pixel
        if train and self.augment is not None:
            x = self.augment(x) if draws is None else self.augment.apply(x, draws)
        if x.dtype == torch.uint8:
            x = self._normalise(x)
        return Batch(x, rows.y[index], index)

    def batches(
        self,
        split: Split | str,
        index: Int[Tensor, " m"],
        size: int,
        train: bool,
        draws: Float[Tensor, "m ..."] | None = None,
    ) -> Iterator[Batch]:
        """`batch` over parts of `size` samples, the same values; as many parts are gathered at once as fit BLOCK.

        Small rows are bound by the calls, so many parts share one; images by memory, so parts stay in the cache.
        """
        row = 4 * self.train.x[0].numel()  # as float32
        block = size * max(1, BLOCK // (row * size))
        for start in range(0, len(index), block):
            part = slice(start, start + block)
            whole = self.batch(split, index[part], train, None if draws is None else draws[part])
            yield from map(Batch._make, zip(*(column.split(size) for column in whole), strict=True))

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
