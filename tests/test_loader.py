"""Chunks of indices: every sample once an epoch, order from (seed, epoch), exact resuming, shares of processes."""

import pytest
import torch

from lossatlas.loader import Blocks, ChunkLoader


def epoch(loader: ChunkLoader, number: int) -> torch.Tensor:
    loader.set_epoch(number)
    return torch.cat(list(loader))


@pytest.mark.parametrize(("n", "batch", "chunk"), [(100, 8, 3), (96, 8, 3), (7, 64, 25), (65, 64, 1)])
def test_every_sample_once_and_as_many_chunks_as_promised(n, batch, chunk):
    loader = ChunkLoader(n, batch, chunk, seed=3)
    assert sorted(epoch(loader, 0).tolist()) == list(range(n))
    assert len(list(loader)) == len(loader)


def test_the_order_depends_on_seed_and_epoch_alone():
    a, b = ChunkLoader(50, 8, 2, seed=1), ChunkLoader(50, 8, 5, seed=1)
    assert torch.equal(epoch(a, 4), epoch(b, 4))
    assert not torch.equal(epoch(a, 4), epoch(a, 5))
    assert not torch.equal(epoch(a, 4), epoch(ChunkLoader(50, 8, 2, seed=2), 4))


@pytest.mark.parametrize("cut", [1, 2, 6])
def test_a_cut_epoch_goes_on_with_what_was_not_seen(cut):
    whole = ChunkLoader(100, 8, 2, seed=0)
    whole.set_epoch(3)
    chunks = list(whole)
    first = ChunkLoader(100, 8, 2, seed=0)
    first.set_epoch(3)
    taken = iter(first)
    for _ in range(cut):
        next(taken)
    second = ChunkLoader(100, 8, 2, seed=0)
    second.load_state_dict(first.state_dict())
    second.set_epoch(3)
    rest = list(second)
    assert len(rest) == len(chunks) - cut
    assert all(torch.equal(a, b) for a, b in zip(rest, chunks[cut:], strict=True))
    assert len(list(second)) == len(chunks)  # the next epoch is whole again


def test_processes_share_every_mini_batch():
    alone = ChunkLoader(100, 8, 2, seed=0)
    shares = [ChunkLoader(100, 8, 2, seed=0, rank=rank, world=2) for rank in range(2)]
    for together, left, right in zip(alone, *shares, strict=True):
        for batch, a, b in zip(together.split(8), left.split(4), right.split(4), strict=True):
            assert sorted(batch.tolist()) == sorted([*a.tolist(), *b.tolist()])
    with pytest.raises(ValueError, match="multiple"):
        ChunkLoader(100, 9, 2, seed=0, world=2)


def test_blocks_are_in_order_and_shared():
    assert torch.cat(list(Blocks(10, 4))).tolist() == list(range(10))
    parts = [torch.cat(list(Blocks(10, 4, rank, 2))) for rank in range(2)]
    assert sorted(torch.cat(parts).tolist()) == list(range(10))
