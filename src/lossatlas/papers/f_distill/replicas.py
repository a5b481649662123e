"""What the exact and the learned study share: rounds that all replicas (seeds) of an arm take side by side."""

from collections.abc import Sequence
from typing import Any, ClassVar, Self

import torch
from torch import Tensor

from lossatlas.lit import LitModule
from lossatlas.replicas import merge_replicas


class LitReplicas(LitModule):
    """A round is a step of all replicas; R = 1 as built, `stack` concatenates.

    A subclass gives `one_step`, `note`, `replica` and what is `shared`, and calls `hold` when it is built.
    """

    shared: ClassVar[tuple[str, ...]] = ("loss_sum",)
    every: int  # steps between points of the curve
    replica_seed: Tensor
    moments: Tensor
    curve: Tensor
    losses_sum: Tensor
    diverged: Tensor

    def hold(self, curve: Tensor) -> None:
        """Buffers of a replica's own, all with the leading axis R.

        Args:
            curve: (1, points, numbers a point) float64.
        """
        for name, value in {
            "replica_seed": torch.tensor([self.seed]),
            "moments": torch.zeros(1, 4, dtype=torch.float64),
            "curve": curve,
            "losses_sum": torch.zeros(1, dtype=torch.float64),
            "diverged": torch.zeros(1, dtype=torch.bool),
        }.items():
            self.register_buffer(name, value)
        self._adams: list[torch.optim.Adam] = []

    def one_step(self, t: int) -> Tensor:
        """Step t of all replicas; returns their losses (R,)."""
        raise NotImplementedError

    def note(self, point: int) -> None:
        """Fills a point of the curve."""
        raise NotImplementedError

    def replica(self, i: int) -> dict[str, Any]:
        """What a run of replica i alone would leave: error, metrics, rows of its curves, units, extras."""
        raise NotImplementedError

    def play(self, rounds: Tensor) -> Tensor:
        """A chunk of steps; returns their losses, averaged over replicas that have not diverged."""
        if not self._adams:
            self.configure_optimizers()
        values = []
        for t in rounds.tolist():
            if t % self.every == 0:
                self.note(t // self.every)
            values.append(self.one_step(t))
        end = int(rounds[-1]) + 1
        if end % self.every == 0:
            self.note(end // self.every)
        loss = torch.stack(values)
        self.losses_sum += loss.sum(dim=0, dtype=torch.float64)
        self.diverged |= ~loss.isfinite().all(dim=0)
        fine = ~self.diverged
        return loss[:, fine].mean(dim=1) if bool(fine.any()) else loss[:, 0]

    @property
    def can_stack(self) -> bool:
        """Its steps are vectorised over replicas: `stack`."""
        return True

    @classmethod
    def stack(cls, replicas: Sequence[Self], scalars: Any = None) -> Self:
        """One module with the replicas' parameters, in order."""
        return merge_replicas(replicas, cls.shared)

    def results(self) -> dict[str, float]:
        """Metrics of the first replica; train/loss is logged by the training."""
        return {name: v for name, v in self.replica(0)["metrics"].items() if name.startswith("test/")}

    def extras(self) -> dict[str, Any]:
        """Samples and curves of the first replica."""
        return self.replica(0)["extras"]

    def curve_rows(self) -> list[dict[str, float]]:
        """The curve of the first replica."""
        return self.replica(0)["rows"]
