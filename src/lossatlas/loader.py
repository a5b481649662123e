"""Chunks of sample indices: what a Lightning "batch" is here.

A Lightning step costs a fixed overhead, so one step carries several mini-batches. The order is
drawn from (seed, epoch) alone and the position is in the checkpoint, so a run cut in mid-epoch
goes on with exactly the samples it had not seen.
"""

from collections.abc import Iterator

import torch
from torch import Tensor

from lossatlas.seeding import stream


class ChunkLoader:
    """Shuffled training indices, `chunk` mini-batches at a time.

    Args:
        n: number of training samples, >= 1.
        batch_size: samples of one mini-batch over all processes, a multiple of `world`.
        chunk: mini-batches per Lightning step, >= 1.
        seed: of the order; epoch e of two runs with one seed sees one order.
        rank, world: each process takes its part of every mini-batch, so that w processes with
            batch_size samples together do what one process does.

    Shapes:
        yields (up to chunk * batch_size / world,) int64. A process that gets none of a short last mini-batch
            yields its first sample, which `ranks.shares` weighs 0: all processes take every step together.

    Raises:
        ValueError: batch_size is no multiple of world.
    """

    def __init__(
        self,
        n: int,
        batch_size: int,
        chunk: int,
        seed: int,
        rank: int = 0,
        world: int = 1,
        shuffle: bool = True,
    ) -> None:
        if batch_size % world:
            raise ValueError(f"batch_size={batch_size} over {world} processes: make it a multiple")
        self.n, self.batch_size, self.chunk, self.seed = n, batch_size, chunk, seed
        self.rank, self.world, self.shuffle = rank, world, shuffle
        self.epoch, self.position, self._resume_at = 0, 0, 0
        self.sampler = self  # Lightning calls set_epoch on a loader's sampler

    def __len__(self) -> int:
        return -(-self.n // (self.batch_size * self.chunk))

    def set_epoch(self, epoch: int) -> None:
        """The epoch whose order the next iteration has."""
        self.epoch = epoch

    def order(self) -> Tensor:
        """(n,) int64: this epoch's order of the samples."""
        if not self.shuffle:
            return torch.arange(self.n)
        return torch.randperm(self.n, generator=stream(self.seed, f"order/{self.epoch}"))

    def __iter__(self) -> Iterator[Tensor]:
        order, step = self.order(), self.batch_size * self.chunk
        start, self._resume_at = self._resume_at, 0
        for position in range(start, len(self)):
            self.position = position + 1
            yield self._part(order[position * step : (position + 1) * step])
        self.position = 0

    def _part(self, index: Tensor) -> Tensor:
        if self.world == 1:
            return index
        dealt = [(b[self.rank :: self.world], b[:1]) for b in index.split(self.batch_size)]
        return torch.cat([part if len(part) else spare for part, spare in dealt])

    def state_dict(self) -> dict[str, int]:
        """How many chunks of the running epoch were handed out."""
        return {"position": self.position % len(self)}

    def load_state_dict(self, state: dict[str, int]) -> None:
        """The next iteration starts behind these chunks."""
        self._resume_at = state["position"]


class Blocks:
    """(0..n-1) in blocks of `size`, in order: evaluation in large batches; every process takes its part of each.

    An object of its own, because Lightning takes a list of tensors for a list of loaders.

    Shapes:
        yields (up to size,) int64.
    """

    def __init__(self, n: int, size: int, rank: int = 0, world: int = 1) -> None:
        self.parts = [block[rank::world] for block in torch.arange(n).split(size)]

    def __len__(self) -> int:
        return len(self.parts)

    def __iter__(self) -> Iterator[Tensor]:
        return iter(self.parts)
