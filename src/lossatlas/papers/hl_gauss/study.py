"""The two experiments: targets that are noisy, and targets that move while the network stays."""

from typing import Any

import torch
from torch import Tensor, nn

from lossatlas.data import Batch, Data
from lossatlas.lit import LitModule
from lossatlas.papers.hl_gauss.targets import hashed_values, noisy_values


class LitNoisy(LitModule):
    """Regression to noisy targets, judged by the clean ones of the test images.

    Metrics: test/mse after the last epoch; with a validation fold test/mse_best, the same at the epoch whose
    error on the fold's noisy targets is least, curve/mse, the test error by epoch, and val/mse;
    train/clipped, targets outside the support that were trained on so far.

    Args:
        data: images; its labels are not used.
        noise, L: of the targets, see `noisy_values`.
        settings: of LitModule.

    Raises:
        ValueError: unknown noise, or L.
    """

    def __init__(
        self, data: Data, *, noise: str = "uniform", L: float = 0.0, seed: int = 0, **settings: Any
    ) -> None:
        super().__init__(noisy_values(data, noise, L, seed), seed=seed, **settings)
        # least error on the fold so far, and the test error at that epoch
        self.register_buffer("best", torch.full((2,), float("inf")))
        self.best: Tensor

    def on_train_epoch_end(self) -> None:
        """Logs train/clipped besides the loss."""
        self.log("train/clipped", self.loss.clipped.float(), sync_dist=True, reduce_fx="sum")  # type: ignore[union-attr, operator]
        super().on_train_epoch_end()

    def on_validation_epoch_end(self) -> None:
        """Logs val/mse and curve/mse, and remembers the best epoch."""
        assert self.data is not None
        found = torch.stack([self.val_scores.compute()["val/mse"], fit_error(self, self.data.test.y)])
        super().on_validation_epoch_end()
        self.log("curve/mse", found[1])
        if found[0] < self.best[0]:
            self.best.copy_(found)

    def on_test_epoch_end(self) -> None:
        """Logs test/mse and, with a fold, test/mse_best."""
        super().on_test_epoch_end()
        if torch.isfinite(self.best[0]):
            self.log("test/mse_best", self.best[1])


class LitMoving(LitModule):
    """Targets sin(M f) + b whose b moves on phase by phase, while network and optimiser are carried over.

    Metrics: test/fit_first, test/fit_last and test/fit_mean over the phases, where a phase's fit is the mean squared
    error of the prediction on its own training targets after its last epoch; test/fit_growth = last / first.

    Args:
        data: images; its labels are not used, nor are its test rows.
        M: of the targets, > 0.
        offsets: b of each phase, in order.
        epochs: of the whole run, a multiple of the number of phases.
        settings: of LitModule.

    Raises:
        ValueError: M; no offset; phases of unequal length.
    """

    def __init__(
        self, data: Data, *, M: float = 1e5, offsets: list[float], epochs: int, **settings: Any
    ) -> None:
        super().__init__(hashed_values(data, M), **settings)
        if not offsets or epochs % len(offsets):
            raise ValueError(
                f"phases need equal lengths: epochs must be a multiple of the {len(offsets)} offsets, got {epochs=}"
            )
        self.offsets, self.each = list(offsets), epochs // max(1, len(offsets))
        self.register_buffer("b", torch.zeros(()))
        self.register_buffer("fit", torch.full((len(offsets),), float("nan"), dtype=torch.float64))
        self.b: Tensor
        self.fit: Tensor

    @property
    def can_stack(self) -> bool:
        """Its losses are a function of parameters, buffers and mini-batch."""
        return True

    def losses(self, batch: Batch) -> Tensor:
        """(b,) with the targets of this phase."""
        return self.loss(self.net(batch.x), batch.y + self.b)  # type: ignore[misc]

    def on_train_epoch_start(self) -> None:
        """The offset of the phase."""
        self.b.fill_(self.offsets[self.current_epoch // self.each])

    def on_train_epoch_end(self) -> None:
        """At a phase's end the error of its fit."""
        assert self.data is not None
        phase, epoch = divmod(self.current_epoch, self.each)
        if epoch == self.each - 1:
            self.fit[phase] = fit_error(self, self.data.train.y + self.b, "train")
        self.log("train/clipped", self.loss.clipped.float(), sync_dist=True, reduce_fx="sum")  # type: ignore[union-attr, operator]
        super().on_train_epoch_end()

    def test_step(self, index: Tensor, _: int) -> None:
        """Nothing: unseen images cannot be known, their targets are hashes."""

    def on_test_epoch_end(self) -> None:
        """Logs how well the phases were fitted."""
        first, last = self.fit[0], self.fit[-1]
        self.log_dict(
            {
                "test/fit_first": first,
                "test/fit_last": last,
                "test/fit_mean": self.fit.mean(),
                "test/fit_growth": last / first,
            }
        )

    def extras(self) -> dict[str, Any]:
        """The fit of each phase."""
        return {"fit": [float(f"{v:.5g}") for v in self.fit.tolist()], "offsets": self.offsets}


@torch.no_grad()
def fit_error(module: LitModule, y: Tensor, split: str = "test") -> Tensor:
    """Mean squared error of the predictions on a whole split."""
    assert module.data is not None
    f = module.scores(getattr(module.data, split))
    loss: nn.Module | None = module.loss
    return (loss.predict(f) - y).square().mean()  # type: ignore[union-attr, operator]
