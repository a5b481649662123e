"""The image study: pretraining on a long-tailed set, a linear probe, what tau became; two statistics of the card."""

import warnings
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from scipy.stats import spearmanr
from sklearn.linear_model import LogisticRegression
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler
from torch import Tensor

from lossatlas.data import Batch, Data, Split
from lossatlas.lit import LitModule
from lossatlas.loader import Blocks
from lossatlas.losses import tell_skipped
from lossatlas.nets import share_batch_norms
from lossatlas.papers.isogclr.embed import Embedder, alignment, uniformity
from lossatlas.papers.isogclr.tail import class_sizes, long_tail
from lossatlas.ranks import gathered

if TYPE_CHECKING:
    DataFrame = Any  # pandas' own hints call every column a Series or a DataFrame

RARE = 3  # classes of the tail
MEASURED = 2000  # pretraining images whose embeddings give alignment and uniformity


class LitContrastive(LitModule):
    """Contrastive pretraining by pairs of views; tested by logistic regression on frozen, standardised features.

    Metrics: linear/top1 on the test split, linear/tail (mean accuracy of the three rarest classes), linear/alignment,
    linear/uniformity; val/top1, the probe on the validation fold where there is one; with temperatures per sample
    tau/mean, tau/low, tau/high (5 % and 95 %), tau/spearman (class size, mean tau) and tau/class_k of the k-th largest
    class.

    Args:
        data: of images with `augment: two_views`; its training split is cut down here.
        n_max, ratio: images of the largest class, smallest over largest class (see `class_sizes`).
        labelled: images a class for the probe, none of them pretrained on; 0 takes the pretraining set and its labels.
        settings: of LitModule.

    Raises:
        ValueError: one view, too few images, or a last mini-batch of a single sample.
    """

    def __init__(
        self, data: Data, *, n_max: int = 1000, ratio: float = 0.02, labelled: int = 100, **settings: Any
    ) -> None:
        if data.augment is None or data.augment.draw(1).ndim != 3:
            raise ValueError("contrastive pretraining needs two views of each image: data.augment=two_views")
        if labelled < 0:
            raise ValueError(f"labelled must be a number of images a class >= 0, got {labelled}")
        self.sizes = class_sizes(data.classes, n_max, ratio)
        seed = int(settings.get("seed", 0))
        pretrain, probe, pi = long_tail(data.train, data.classes, self.sizes, labelled, seed)
        super().__init__(Data(**{**vars(data), "train": pretrain, "_drawn": {}}), **settings)
        if self.batch_size < 2 or len(pretrain) % self.batch_size == 1:
            raise ValueError(
                f"a mini-batch of {len(pretrain)} images would have a single one and no negatives (at least 2): "
                f"change batch_size={self.batch_size}"
            )
        self.probe, self.pi = probe, pi

    # ---------------------------------------------------------------- training
    def setup(self, stage: str) -> None:
        """Several processes normalise by the whole mini-batch, as one does."""
        world = self.trainer.world_size
        if world > 1 and self.net is not None:
            assert self.data is not None
            share_batch_norms(self.net)
            if 0 < (rest := len(self.data.train) % self.batch_size) < world:
                raise ValueError(
                    f"the last mini-batch has {rest} images for {world} processes: change batch_size"
                )
        super().setup(stage)

    def losses(self, batch: Batch) -> Tensor:
        """(b,) of the whole mini-batch, also where other processes embedded a part of it: all are negatives."""
        assert self.loss is not None
        e1, e2 = self(batch.x.transpose(0, 1).flatten(0, 1)).chunk(2)
        if self.trainer.world_size > 1:
            e1, e2, index = gathered([e1, e2, batch.index])
        else:
            index = batch.index
        return self.loss(e1, e2, index) if getattr(self.loss, "indexed", False) else self.loss(e1, e2)

    def step(self, batch: Batch) -> Tensor:
        """As LitModule's; each process has the whole loss but the gradient of its own embeddings: they add up."""
        self._share = float(self.trainer.world_size)
        return super().step(batch)

    @property
    def tau(self) -> Tensor | None:
        """(n,) temperatures, or None for a loss without one per sample."""
        tau = getattr(self.loss, "tau", None)
        assert self.data is not None
        return tau if isinstance(tau, Tensor) and len(tau) == len(self.data.train) else None

    # ---------------------------------------------------------------- evaluation
    def validation_step(self, index: Tensor, _: int) -> None:
        """Nothing by mini-batch: the probe is fitted once, after training."""

    def on_validation_epoch_end(self) -> None:
        """Logs val/top1 after training."""
        if self.trainer.state.fn == "validate":
            assert self.data is not None
            assert self.data.val is not None
            self.log("val/top1", float((self._probed(self.data.val)[0]).mean()))

    def test_dataloader(self) -> Blocks:
        """A single empty step."""
        return Blocks(1, 1)

    def test_step(self, index: Tensor, _: int) -> None:
        """Nothing by mini-batch."""

    def on_test_epoch_end(self) -> None:
        """Fits the probe, measures embeddings and temperatures."""
        assert self.data is not None
        tell_skipped(self.loss)
        right, y = self._probed(self.data.test)
        by_class = [float(right[y == c].mean()) if (y == c).any() else np.nan for c in self.pi.tolist()]
        self._accuracy = by_class
        e1, e2 = self._views()
        found = {"linear/top1": float(right.mean()), "linear/tail": float(np.nanmean(by_class[-RARE:]))}
        found |= {"linear/alignment": alignment(e1, e2), "linear/uniformity": uniformity(e1)}
        self.log_dict(found | self._tau_metrics())

    def _probed(self, split: Split) -> tuple[np.ndarray, np.ndarray]:
        """Whether the probe is right on each image of a split, and the labels."""
        probe = make_pipeline(StandardScaler(), LogisticRegression(max_iter=1000))
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # a smoke run's features may not converge
            probe.fit(self._features(self.probe), self.probe.y.cpu().numpy())
        y = split.y.cpu().numpy()
        return probe.predict(self._features(split)) == y, y

    @torch.no_grad()
    def _features(self, split: Split) -> np.ndarray:
        assert isinstance(self.net, Embedder)
        self.net.eval()
        blocks = (
            self._gather(split.to(self.device), i, train=False).x for i in Blocks(len(split), self.eval_batch)
        )
        return torch.cat([self.net.features(x) for x in blocks]).double().cpu().numpy()

    @torch.no_grad()
    def _views(self) -> tuple[Tensor, Tensor]:
        """Embeddings of two views of the first images of the pretraining set in a fixed order."""
        assert self.data is not None
        n = len(self.data.train)
        index = torch.arange(n)[:: -(-n // MEASURED)]
        draws = self.data.draws(self.seed, 10**6, index)
        x = self._cast(self.data.batch(self.data.train, index.to(self.device), train=True, draws=draws)).x
        self.eval()
        e1, e2 = self(x.transpose(0, 1).flatten(0, 1)).double().chunk(2)
        return e1, e2

    def _ranks(self) -> np.ndarray:
        """(n,) position of each pretraining image's class from head to tail."""
        assert self.data is not None
        return torch.argsort(self.pi)[self.data.train.y.cpu()].numpy()

    def _tau_metrics(self) -> dict[str, float]:
        if self.tau is None:
            return {}
        low, high = np.quantile(self.tau.double().cpu().numpy(), [0.05, 0.95])
        means = class_means(self.tau, self._ranks())
        found = {"tau/mean": float(self.tau.mean()), "tau/low": float(low), "tau/high": float(high)}
        if len(set(self.sizes)) > 1:
            found["tau/spearman"] = size_correlation(self.sizes, means)
        return found | {f"tau/class_{k}": mean for k, mean in enumerate(means)}

    def extras(self) -> dict[str, Any]:
        """Class by class from head to tail: sizes, accuracy, and the boxes of tau for the figure."""
        found: dict[str, Any] = {"sizes": self.sizes, "accuracy": [round(a, 4) for a in self._accuracy]}
        if self.tau is not None:
            found["tau"] = boxes(self.tau, self._ranks())
        return found


def class_means(tau: Tensor, ranks: np.ndarray) -> list[float]:
    """Mean temperature of each class, from head to tail."""
    values = tau.double().cpu().numpy()
    return [float(values[ranks == k].mean()) for k in range(int(ranks.max()) + 1)]


def size_correlation(sizes: list[int], means: list[float]) -> float:
    """Spearman's correlation of class size and mean temperature; 0 where all temperatures are equal."""
    if len(set(means)) < 2:
        return 0.0
    return float(spearmanr(sizes, means).statistic)  # type: ignore[attr-defined]


def boxes(tau: Tensor, ranks: np.ndarray) -> list[list[float]]:
    """5, 25, 50, 75 and 95 % of the temperatures of each class, from head to tail."""
    values = tau.double().cpu().numpy()
    cuts = [0.05, 0.25, 0.5, 0.75, 0.95]
    return [np.quantile(values[ranks == k], cuts).round(4).tolist() for k in range(int(ranks.max()) + 1)]


def at_tuned(records: "DataFrame", tuned: dict[str, str], metric: str) -> "DataFrame":
    """A metric of each arm at the setting tuned for it, per seed: unit, arm, value.

    Args:
        records: tidy rows of the image study.
        tuned: arm to its setting.
    """
    rows = records[[tuned.get(arm) == at for arm, at in zip(records["arm"], records["setting"], strict=True)]]
    return rows.assign(unit=rows["unit_id"], value=rows[metric])[["unit", "arm", "value"]].dropna()


def gains(records: "DataFrame", tuned: dict[str, str], arm: str, other: str, metric: str) -> "DataFrame":
    """Metric of `arm` minus that of `other` per seed, on the long-tailed and the balanced set: the arms here."""
    import pandas as pd

    found = []
    balanced = dict.fromkeys(tuned, "balanced")
    for name, where in (("longtail", tuned), ("balanced", balanced)):
        wide = at_tuned(records, where, metric).pivot(index="unit", columns="arm", values="value").dropna()
        found.append(pd.DataFrame({"unit": wide.index, "arm": name, "value": wide[arm] - wide[other]}))
    return pd.concat(found, ignore_index=True)
