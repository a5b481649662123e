"""Several domains with the same classes: rotated images, and equal mini-batches of every domain."""

from collections.abc import Iterator, Sequence

import torch
from jaxtyping import Float, Int
from torch import Tensor

from lossatlas.data.core import Batch, Split
from lossatlas.errors import UserError
from lossatlas.seeding import stream


def rotated(x: Float[Tensor, "n C H W"], degrees: float) -> Float[Tensor, "n C H W"]:
    """Images turned counter-clockwise about their centre, bilinear, black corners.

    Args:
        x: images.
        degrees: any number; multiples of 90 of square images are exact.

    Example:
        >>> rotated(torch.eye(3)[None, None], 90.0)[0, 0]
        tensor([[0., 0., 1.],
                [0., 1., 0.],
                [1., 0., 0.]])
    """
    if degrees % 90 == 0 and x.shape[2] == x.shape[3]:
        return torch.rot90(x, int(degrees // 90), dims=(2, 3))
    from torchvision.transforms.v2.functional import InterpolationMode, rotate

    return rotate(x, degrees, interpolation=InterpolationMode.BILINEAR)


class Domains:
    """Mini-batches that hold the same number of rows of every domain.

    Each domain goes through its own shuffled rows again and again, so a small one is seen more often. Which rows step t
    takes is a function of (seed, t) alone: a run that was cut goes on with the rows it would have had.

    Args:
        splits: one of each domain, all with samples of one shape.
        size: rows of each domain in a mini-batch, >= 1.
        seed: of the order.

    Raises:
        UserError: no domain, an empty one, different shapes, or size < 1.

    Example:
        >>> one, two = (Split(torch.rand(n, 4), torch.zeros(n).long(), torch.zeros(n).long()) for n in (5, 3))
        >>> [batch.x.shape for batch in Domains([one, two], size=2, seed=0).mini_batches(torch.arange(2))]
        [torch.Size([2, 2, 4]), torch.Size([2, 2, 4])]
    """

    def __init__(self, splits: Sequence[Split], size: int, seed: int) -> None:
        if not splits or any(len(split) == 0 for split in splits):
            raise UserError("Domains needs at least one domain, and rows in each")
        if len({split.x.shape[1:] for split in splits}) > 1:
            raise UserError(
                f"domains have one shape of samples, got {[tuple(s.x.shape[1:]) for s in splits]}"
            )
        if size < 1:
            raise UserError(f"a mini-batch takes at least one row of each domain, got {size=}")
        self.splits, self.size, self.seed = list(splits), size, seed
        self._orders: dict[tuple[int, int], Tensor] = {}

    def rows(self, steps: Int[Tensor, " m"]) -> Int[Tensor, "m D size"]:
        """Positions within each domain that the mini-batches of these steps hold."""
        at = steps.cpu()[:, None] * self.size + torch.arange(self.size)
        return torch.stack([self._rows(d, at) for d in range(len(self.splits))], dim=1)

    def mini_batches(self, steps: Int[Tensor, " m"]) -> Iterator[Batch]:
        """One mini-batch a step: x (D, size, *shape), y (D, size), index (D, size) within each domain."""
        for rows in self.rows(steps):
            picked = [
                (split.x.index_select(0, i.to(split.x.device)), split.y[i.to(split.y.device)])
                for split, i in zip(self.splits, rows, strict=True)
            ]
            yield Batch(torch.stack([x for x, _ in picked]), torch.stack([y for _, y in picked]), rows)

    def _rows(self, d: int, at: Tensor) -> Tensor:
        """Rows of domain d at positions of its endless sequence of shuffled passes."""
        n = len(self.splits[d])
        passes = at // n
        orders = {e: self._order(d, e) for e in passes.unique().tolist()}
        first = min(orders)
        table = torch.cat([self._order(d, e) for e in range(first, max(orders) + 1)])
        self._orders = {key: v for key, v in self._orders.items() if key[0] != d or key[1] in orders}
        return table[at - first * n]

    def _order(self, d: int, e: int) -> Tensor:
        if (d, e) not in self._orders:
            generator = stream(self.seed, f"domains/{d}/{e}")
            self._orders[d, e] = torch.randperm(len(self.splits[d]), generator=generator)
        return self._orders[d, e]
