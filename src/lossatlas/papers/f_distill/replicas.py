"""What the exact and the learned study share: rounds of replicas with moments of the weighted gradient and a curve."""

from typing import Any

import torch
from torch import Tensor

from lossatlas.stacked.rounds import Rounds


class LitReplicas(Rounds):
    """`Rounds` with the buffers and optimisers of both studies; a subclass calls `start` when it is built."""

    moments: Tensor
    curve: Tensor
    _adams: list[Any]

    def start(self, curve: Tensor) -> None:
        """Buffers of a replica's own, all with the leading axis R.

        Args:
            curve: (1, points, numbers a point) float64.
        """
        self.hold(moments=torch.zeros(1, 4, dtype=torch.float64), curve=curve)
        self._adams = []

    def begin(self) -> None:
        """Optimisers, where Lightning has not asked for them."""
        if not self._adams:
            self.configure_optimizers()
