"""What the processes of one run have in common: who is who, shares of a mini-batch, per-sample state.

A mini-batch of `batch_size` samples is dealt over the processes, so that w of them do what one does: each
counts with the share of the samples it has. State of a training sample is changed by the one process that
saw the sample, and given to the others at a chunk's end.
"""

import contextlib
import importlib
import signal
from collections.abc import Sequence
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor

from lossatlas import launch
from lossatlas.callbacks import Checkpoints, Interrupted
from lossatlas.signals import heard_by


def shares(n: int, batch_size: int, chunk: int, position: int, rank: int, world: int) -> list[float]:
    """Weights of a process's part of each mini-batch of a chunk: its samples x world / all samples.

    The mean over processes of weight x mean over the part is then the mean over the mini-batch, also where
    a short last mini-batch cannot be dealt evenly. A process that got none of it repeats one at weight 0.

    Args:
        n: training samples.
        position: of the chunk in its epoch.

    Example:
        >>> shares(n=10, batch_size=4, chunk=3, position=0, rank=0, world=4)
        [1.0, 1.0, 2.0]
    """
    first = position * chunk * batch_size
    totals = [
        min(batch_size, n - start) for start in range(first, min(n, first + chunk * batch_size), batch_size)
    ]
    return [len(range(rank, total, world)) * world / total for total in totals]


def exchange(states: list[Tensor], index: Tensor) -> None:
    """Every process writes the rows that it changed into the others' tensors, in place.

    Args:
        states: tensors of one row per training sample, equal on all processes before their last steps.
        index: rows that this process changed; two processes may name one row only with equal values.

    Shapes:
        states (n, ...), index (m,) int64 with m of its own on each process.
    """
    if not states:
        return
    longest = torch.tensor(len(index), device=index.device)
    dist.all_reduce(longest, dist.ReduceOp.MAX)
    rows = torch.cat([index, index[:1].expand(int(longest) - len(index))])  # a row twice does no harm
    places = [torch.empty_like(rows) for _ in range(dist.get_world_size())]
    dist.all_gather(places, rows)
    for state in states:
        values = [torch.empty_like(state[rows]) for _ in places]
        dist.all_gather(values, state[rows])
        for place, value in zip(places, values, strict=True):
            state[place] = value


def gathered(parts: Sequence[Tensor]) -> list[Tensor]:
    """The whole mini-batch from every process's part of it, in the loader's order; alone, what came.

    The own rows keep their gradient, the others' have none: where every process computes the loss of the whole batch,
    the gradient of a parameter is the sum, not the mean, over processes.

    Args:
        parts: tensors with one row per sample of this process's part; process r has samples r, r + w, ...

    Shapes:
        (m, ...) each, m of its own on each process -> (b, ...) each.
    """
    if not dist.is_initialized() or dist.get_world_size() == 1:
        return list(parts)
    world, rank = dist.get_world_size(), dist.get_rank()
    counts = torch.zeros(world, dtype=torch.int64, device=parts[0].device)
    counts[rank] = len(parts[0])
    dist.all_reduce(counts)
    longest = int(counts.max())
    found = []
    for part in parts:
        own = torch.cat([part, part[:1].expand(longest - len(part), *part.shape[1:])]).contiguous()
        every = [torch.empty_like(own) for _ in range(world)]
        dist.all_gather(every, own.detach())
        every[rank] = own
        rows = torch.stack(every, dim=1).flatten(0, 1)  # row k of process r is sample k w + r
        found.append(rows[(torch.arange(longest, device=rows.device)[:, None] < counts).flatten()])
    return found


def trainer_arguments() -> dict[str, Any]:
    """What Lightning has to be told in a rank: that the ranks are there, and on how many machines."""
    environments: Any = importlib.import_module("pytorch_lightning.plugins.environments")

    # named, because Lightning would take a Slurm job of one task that starts ranks for a group of one
    elastic = environments.TorchElasticEnvironment.detect()
    return {
        "num_nodes": launch.nodes(),
        "plugins": [
            environments.TorchElasticEnvironment() if elastic else environments.LightningEnvironment()
        ],
    }


def strategy(name: str) -> Any:
    """Lightning's strategy of a rank; "fsdp" is FSDP2, which also runs on the CPU and keeps one checkpoint file."""
    from pytorch_lightning.strategies import ModelParallelStrategy  # type: ignore[attr-defined]

    if name != "fsdp":
        return name
    return ModelParallelStrategy(
        data_parallel_size=launch.world(), tensor_parallel_size=1, save_distributed_checkpoint=False
    )


class AgreedCheckpoints(Checkpoints):
    """Checkpoints of several processes: they save and stop at the same chunk, whichever clock or signal came first."""

    @contextlib.contextmanager
    def signals(self) -> Any:
        """A signal may come twice, from cluster and sweep; the sweep alone decides to end a rank at once."""

        def ask(signum: int, _: Any) -> None:
            self.stop_signal = self.stop_signal or signum

        with heard_by(ask):
            self._ask = ask
            yield
        self._ask = None

    def _maybe(self, trainer: Any) -> None:
        mine = [float(self._due()), float(self._asked())]
        agreed = torch.tensor(mine, device=trainer.strategy.root_device)
        dist.all_reduce(agreed, dist.ReduceOp.MAX)
        due, asked = map(int, agreed)
        if due or asked:
            self.save(trainer)
        if asked:
            raise Interrupted(f"stopped by {signal.Signals(asked).name}")
