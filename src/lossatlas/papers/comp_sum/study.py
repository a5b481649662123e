"""The three experiments: training by a member of the family, adversarial training, the bounds without training."""

import math
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torchmetrics import MeanMetric

from lossatlas.data import Batch, Data
from lossatlas.lit import LitModule
from lossatlas.papers.comp_sum.attack import robust_correct
from lossatlas.papers.comp_sum.bounds import surrogate_regret, zero_one_regret
from lossatlas.papers.comp_sum.losses import CompSumLoss
from lossatlas.papers.comp_sum.probe import MEASURED, check_arguments, run_bounds, sample_pairs
from lossatlas.seeding import stream


class LitCompSum(LitModule):
    """Training by one comp-sum loss; logs how often its continuation was used, train/continued, so far."""

    def on_train_epoch_end(self) -> None:
        """The count of the run so far; it is a buffer of the loss, so a resumed run goes on counting."""
        if isinstance(self.loss, CompSumLoss):
            self.log("train/continued", self.loss.continued.float(), sync_dist=True, reduce_fx="sum")
        super().on_train_epoch_end()


class LitAdversarial(LitModule):
    """Training by a loss that attacks the net, evaluated by PGD on cross-entropy with restarts.

    Images are pixels in [0, 1] here and the net standardises them. Besides LitModule's metrics test/robust: the share
    of the first `attacked` test images that every restart leaves correct; val/robust on the validation fold.

    Args:
        radius: of the ball of the evaluation, in pixels, >= 0; 0 gives clean accuracy on those images.
        attacked: images of the test split (and of the fold) that are attacked, >= 1.
        attack_steps: PGD steps of the evaluation, >= 1.
        restarts: random starts per image, >= 1.
        settings: of LitModule.

    Raises:
        ValueError: the data are standardised or not in [0, 1]; a number out of range.
    """

    def __init__(
        self,
        data: Data,
        *,
        radius: float = 0.1,
        attacked: int = 1000,
        attack_steps: int = 40,
        restarts: int = 3,
        **settings: Any,
    ) -> None:
        super().__init__(data, **settings)
        whole = data.train.x.dtype == torch.uint8  # pixels, divided by 255 when they are batched
        if data.mean is not None or not (whole or bool(((data.train.x >= 0) & (data.train.x <= 1)).all())):
            raise ValueError(
                f"the attack needs images in [0, 1], {data.name} comes standardised: set data.mean=null"
                " data.std=null and let the net standardise, as the experiment's own net does"
            )
        if not 0 <= radius < math.inf or min(attacked, attack_steps, restarts) < 1:
            raise ValueError(
                "the evaluation needs radius >= 0 and attacked, attack_steps, restarts >= 1, got "
                f"{radius=}, {attacked=}, {attack_steps=}, {restarts=}"
            )
        self.radius, self.attacked = radius, attacked
        self.attack_steps, self.restarts = attack_steps, restarts
        self.robust = MeanMetric()

    def losses(self, batch: Batch) -> Tensor:
        """(b,) the loss attacks the net itself."""
        assert self.loss is not None
        return self.loss(self.net, batch.x, batch.y)

    def validation_step(self, index: Tensor, step: int) -> None:
        """Accuracy each time, the attack only after training, for it costs as much as an epoch."""
        super().validation_step(index, step)
        if self.trainer.state.fn == "validate":
            self._attack("val", index, step)

    def on_validation_epoch_end(self) -> None:
        """Logs val/top1, and val/robust where it was measured."""
        super().on_validation_epoch_end()
        self._log_robust("val/robust")

    def test_step(self, index: Tensor, step: int) -> None:
        """Accuracy, and the attack on the first `attacked` images."""
        super().test_step(index, step)
        self._attack("test", index, step)

    def on_test_epoch_end(self) -> None:
        """Logs test/top1... and test/robust."""
        super().on_test_epoch_end()
        self._log_robust("test/robust")

    def _attack(self, split: str, index: Tensor, step: int) -> None:
        index = index[index < self.attacked]
        if len(index):
            self.robust.update(
                self._survives(split, index, stream(self.seed, f"attack/{split}/{step}")).float()
            )

    @torch.inference_mode(False)  # Lightning evaluates in inference mode, an attack needs gradients
    def _survives(self, split: str, index: Tensor, starts: torch.Generator) -> Tensor:
        assert self.data is not None
        assert self.net is not None
        x, y, _ = self._cast(self.data.batch(split, index.clone().to(self.device), train=False))
        return robust_correct(self.net, x, y, self.radius, None, self.attack_steps, self.restarts, starts)

    def _log_robust(self, name: str) -> None:
        if self.robust.update_called:
            self.log(name, self.robust.compute())
            self.robust.reset()


class LitBounds(LitModule):
    """The bound of one tau on random pairs and by gradient search, a round for each number of classes.

    Metrics over all n: test/violations of test/pairs, test/search_violations, test/tightness (the least),
    test/max_ratio (the largest of samples and search). A unit for each n has what `run_bounds` found, as bound/...

    Args:
        tau: member of the family, >= 0.
        classes: numbers of classes n, each >= 2.
        samples: random pairs for each n, >= 1.
        starts, steps: of the gradient search, >= 1.
        settings: of LitModule; its rounds and data are not used.

    Raises:
        ValueError: no class number, or one below 2; tau or a count out of range.
    """

    def __init__(
        self,
        data: None,
        *,
        tau: float,
        classes: list[int],
        samples: int = 250_000,
        starts: int = 1000,
        steps: int = 300,
        **settings: Any,
    ) -> None:
        super().__init__(None, rounds=len(classes), **settings)
        if not classes:
            raise ValueError("the bounds need at least one number of classes, got none")
        for n in classes:
            check_arguments(tau, n, samples, self.seed, starts, steps)
        self.tau, self.classes = tau, list(classes)
        self.sizes = {"samples": samples, "starts": starts, "steps": steps}
        self.register_buffer("found", torch.zeros(len(classes), len(MEASURED), dtype=torch.float64))
        self.found: Tensor

    def play(self, rounds: Tensor) -> None:
        """All of one number of classes a round."""
        for k in rounds.tolist():
            found = run_bounds(self.tau, self.classes[k], seed=self.seed, **self.sizes)
            self.found[k] = torch.tensor([found[name] for name in MEASURED], dtype=torch.float64)

    def results(self) -> dict[str, float]:
        """Over all n."""
        column = {name: self.found[:, k] for k, name in enumerate(MEASURED)}
        total = {name: column[name].sum().item() for name in ("violations", "pairs", "search_violations")}
        ratio = torch.maximum(column["max_ratio"], column["search_ratio"]).max().item()
        extremes = {"tightness": column["tightness"].min().item(), "max_ratio": ratio}
        return {f"test/{name}": value for name, value in (total | extremes).items()}

    def unit_metrics(self) -> list[dict[str, Any]]:
        """One for each n."""
        names = [f"bound/{name}" for name in MEASURED]
        return [
            {"unit": k, "condition": {"n": n}, "metrics": dict(zip(names, row, strict=True))}
            for k, (n, row) in enumerate(zip(self.classes, self.found.tolist(), strict=True))
        ]

    def extras(self) -> dict[str, Any]:
        """Some pairs of the first n for the figure: surrogate and zero-one regret."""
        n = self.classes[0]
        q, h = sample_pairs(n, 2000, self.tau, np.random.default_rng(self.seed))
        regrets = torch.stack([surrogate_regret(q, h, self.tau), zero_one_regret(q, h)])
        regrets = regrets[:, regrets[1] > 0][:, :: max(1, int((regrets[1] > 0).sum()) // 100)]
        surrogate, zero_one = ([float(f"{v:.4g}") for v in row] for row in regrets.tolist())
        return {"points": {"n": n, "surrogate": surrogate, "zero_one": zero_one}}
