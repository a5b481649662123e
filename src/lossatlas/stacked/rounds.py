"""Methods that play rounds and carry the replica axis R themselves: their seeds stand side by side in one run.

A method of steps on fresh data (bandits, teachers and students, tasks drawn anew) has no mini-batches that a vmap could
share. It writes `one_step` for all replicas with a leading axis R in parameters and buffers; alone it is R = 1, and
hydra/launcher=stacked concatenates the seeds of an arm.
"""

from collections.abc import Callable, Sequence
from typing import Any, ClassVar

import torch
from torch import Tensor

from lossatlas.lit import LitModule
from lossatlas.replicas import merge_replicas
from lossatlas.seeding import draws


class Rounds(LitModule):
    """A round is a step of all replicas; R = 1 as built, `stack` concatenates.

    A subclass gives `one_step`, `note`, `replica` and the names that are `shared`, and calls `hold` when it is built.

    Attributes:
        shared: first words of the names of parameters and buffers that have no axis R.
        every: rounds between two points of a curve, which `note` fills; 0 for none.

    Example:
        >>> class Walk(Rounds):
        ...     def one_step(self, t):
        ...         self.x += self.drawn(f"step/{t}", lambda g: torch.randn(2, generator=g))
        ...         return self.x.square().sum(1)
        >>> def made(seed):
        ...     walk = Walk(None, seed=seed, rounds=3)
        ...     walk.hold(x=torch.zeros(1, 2))
        ...     return walk
        >>> both, alone = Walk.stack([made(0), made(7)]), made(7)
        >>> for walk in (both, alone):
        ...     _ = walk.play(torch.arange(3))
        >>> bool((both.x[1] == alone.x[0]).all())
        True
    """

    shared: ClassVar[tuple[str, ...]] = ("loss_sum",)
    every: int = 0
    replica_seed: Tensor
    losses_sum: Tensor
    diverged: Tensor

    # ---------------------------------------------------------------- what a paper gives
    def one_step(self, t: int) -> Tensor:
        """Round t of all replicas; returns their losses (R,)."""
        raise NotImplementedError(f"{type(self).__name__} does not say what a round does: override one_step")

    def note(self, point: int) -> None:
        """Fills a point of the curve, before round `point * every` and after the last."""

    def replica(self, i: int) -> dict[str, Any]:
        """What a run of replica i alone would leave: error, metrics, rows of its curves, units, extras."""
        raise NotImplementedError(
            f"{type(self).__name__} does not say what a replica leaves: override replica"
        )

    def begin(self) -> None:
        """Called before each chunk of rounds, for what is made late, such as optimisers."""

    # ---------------------------------------------------------------- what it has
    def hold(self, **buffers: Tensor) -> None:
        """Registers a replica's own state, each tensor with the leading axis R = 1.

        Raises:
            ValueError: a tensor without that axis.
        """
        for name, value in buffers.items():
            if value.shape[:1] != (1,):
                raise ValueError(f"hold needs a leading axis of one replica, {name} has {tuple(value.shape)}")
        own = {
            "replica_seed": torch.tensor([self.seed]),
            "losses_sum": torch.zeros(1, dtype=torch.float64),
            "diverged": torch.zeros(1, dtype=torch.bool),
        }
        for name, value in {**own, **buffers}.items():
            self.register_buffer(name, value)

    def drawn(self, purpose: str, sample: Callable[[torch.Generator], Tensor]) -> Tensor:
        """(R, ...) what each replica draws from its own stream: the same beside others as alone."""
        return draws(self.replica_seed.tolist(), purpose, sample).to(self.device)

    def play(self, rounds: Tensor) -> Tensor:
        """A chunk of rounds; returns their losses, averaged over replicas that have not diverged."""
        self.begin()
        values = []
        for t in rounds.tolist():
            if self.every and t % self.every == 0:
                self.note(t // self.every)
            values.append(self.one_step(t))
        end = int(rounds[-1]) + 1
        if self.every and end % self.every == 0:
            self.note(end // self.every)
        loss = torch.stack(values)
        self.losses_sum += loss.sum(dim=0, dtype=torch.float64)
        self.diverged |= ~loss.isfinite().all(dim=0)
        fine = ~self.diverged
        return loss[:, fine].mean(dim=1) if bool(fine.any()) else loss[:, 0]

    @property
    def can_stack(self) -> bool:
        """Its rounds are vectorised over replicas: `stack`."""
        return True

    @classmethod
    def stack(cls, replicas: "Sequence[Rounds]", scalars: Any = None) -> Any:
        """One module with the replicas' parameters and buffers, in order.

        Raises:
            ValueError: parts of different sizes.
        """
        return merge_replicas(replicas, cls.shared)

    def results(self) -> dict[str, float]:
        """Metrics of the first replica; train/loss is logged by the training."""
        return {name: v for name, v in self.replica(0)["metrics"].items() if name.startswith("test/")}

    def extras(self) -> dict[str, Any]:
        """Those of the first replica."""
        return self.replica(0)["extras"]

    def curve_rows(self) -> list[dict[str, float]]:
        """The curve of the first replica."""
        return self.replica(0)["rows"]
