"""Few-shot episodes and class-balanced batches: which rows, drawn on whole blocks of episodes."""

from collections.abc import Sequence
from typing import NamedTuple

import torch
from jaxtyping import Int
from torch import Tensor

from lossatlas.errors import UserError
from lossatlas.seeding import stream

BLOCK = 64  # episodes that share one random stream


class Episode(NamedTuple):
    """Rows of m episodes: classes (m, W), support (m, W, S), query (m, W, Q), as positions in the data."""

    classes: Tensor
    support: Tensor
    query: Tensor


def class_split(classes: int, sizes: Sequence[int], seed: int) -> list[Int[Tensor, " k"]]:
    """Disjoint sets of classes of the given sizes, by a permutation that depends on the seed alone.

    Args:
        classes: K, the classes are 0..K-1.
        sizes: of the sets; their sum is at most K.
        seed: >= 0.

    Raises:
        UserError: more classes asked for than there are.

    Example:
        >>> [len(part) for part in class_split(26, [12, 4, 10], seed=0)]
        [12, 4, 10]
    """
    if sum(sizes) > classes or min(sizes, default=0) < 0:
        raise UserError(
            f"a class split of sizes {list(sizes)} needs {sum(sizes)} classes, there are {classes}"
        )
    order = torch.randperm(classes, generator=stream(seed, "class split"))
    return [part.sort().values for part in order[: sum(sizes)].split(list(sizes))]


class Episodes:
    """Episodes of W ways: W classes, S support and Q query rows of each, no row twice in an episode.

    Episode number k depends on (seed, purpose, k) alone, whatever was drawn before and beside it. With ways = all
    classes and queries = 0 the support is a class-balanced batch.

    Args:
        y: (n,) labels.
        classes: the classes that episodes are made of; None takes all that occur.
        ways, shots, queries: W >= 1, S >= 1, Q >= 0.
        seed, purpose: of the draws; every arm of a seed sees the same episodes.

    Raises:
        UserError: fewer than W classes, or a class with fewer than S + Q rows.

    Example:
        >>> y = torch.arange(100) % 5
        >>> drawn = Episodes(y, None, ways=3, shots=2, queries=4, seed=0).draw(torch.arange(10))
        >>> drawn.support.shape, drawn.query.shape
        (torch.Size([10, 3, 2]), torch.Size([10, 3, 4]))
        >>> bool((y[drawn.query] == drawn.classes[:, :, None]).all())
        True
    """

    def __init__(
        self,
        y: Int[Tensor, " n"],
        classes: Int[Tensor, " k"] | Sequence[int] | None,
        ways: int,
        shots: int,
        queries: int,
        seed: int,
        purpose: str = "episodes",
    ) -> None:
        chosen = y.unique() if classes is None else torch.as_tensor(classes).unique()
        counts = (y[None].cpu() == chosen[:, None].cpu()).sum(1)
        if not (1 <= ways <= len(chosen) and shots >= 1 and queries >= 0):
            raise UserError(
                f"episodes need 1 <= ways <= {len(chosen)} classes, shots >= 1 and queries >= 0, "
                f"got {ways=}, {shots=}, {queries=}"
            )
        if int(counts.min()) < shots + queries:
            raise UserError(
                f"class {int(chosen[counts.argmin()])} has {int(counts.min())} rows, "
                f"an episode takes {shots + queries} of each class: fewer shots or queries"
            )
        self.chosen, self.counts = chosen.cpu(), counts
        # rows of each class, padded to the largest class
        self.table = torch.zeros(len(chosen), int(counts.max()), dtype=torch.int64)
        for k, label in enumerate(self.chosen.tolist()):
            self.table[k, : int(counts[k])] = (y.cpu() == label).nonzero()[:, 0]
        self.ways, self.shots, self.queries = ways, shots, queries
        self.seed, self.purpose = seed, purpose
        self._block: tuple[int, Episode] | None = None

    def draw(self, numbers: Int[Tensor, " m"]) -> Episode:
        """The episodes with these numbers, >= 0."""
        blocks = (numbers // BLOCK).tolist()
        drawn = {b: self._draw_block(b) for b in dict.fromkeys(blocks)}
        at = (numbers % BLOCK).tolist()
        parts = zip(*(tuple(t[i] for t in drawn[b]) for b, i in zip(blocks, at, strict=True)), strict=True)
        return Episode(*(torch.stack(part) for part in parts))

    def _draw_block(self, block: int) -> Episode:
        if self._block is not None and self._block[0] == block:
            return self._block[1]
        generator = stream(self.seed, f"{self.purpose}/{block}")
        K, most, W = len(self.chosen), self.table.shape[1], self.ways
        which = torch.rand(BLOCK, K, generator=generator).argsort(1)[:, :W]
        keys = torch.rand(BLOCK, W, most, generator=generator)
        keys = keys.masked_fill(
            torch.arange(most) >= self.counts[which][:, :, None], 2.0
        )  # padding comes last
        place = keys.argsort(2)[:, :, : self.shots + self.queries]
        rows = self.table[which[:, :, None], place]
        episode = Episode(self.chosen[which], rows[:, :, : self.shots], rows[:, :, self.shots :])
        self._block = (block, episode)
        return episode
