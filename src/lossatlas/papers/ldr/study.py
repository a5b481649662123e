"""The LDR study: its LitModule, the rank statistic of its card, its figure."""

from typing import TYPE_CHECKING, Any

import torch
from sklearn.metrics import roc_auc_score
from torch import Tensor

from lossatlas.lit import LitModule
from lossatlas.losses import tell_skipped
from lossatlas.metrics.classes import predicted

if TYPE_CHECKING:
    from matplotlib.figure import Figure

    DataFrame = Any  # pandas' own hints call every column a Series or a DataFrame

BINS = 40


class LitLDR(LitModule):
    """Training on given (noisy) labels; logs accuracy against given and clean labels, and lambda_i.

    Metrics besides those of LitModule: train/top1_given and train/top1_clean at each evaluation;
    lambda/mean_clean and lambda/mean_flipped each epoch and lambda/auc at the end, for a loss with
    lambda_i on noisy labels.
    """

    def on_train_epoch_start(self) -> None:
        """Pruned GCE decides once an epoch, after its warm-up, which samples it trusts."""
        refresh = getattr(self.loss, "refresh", None)
        if refresh is None or self.data is None:
            return
        assert self.trainer.max_epochs is not None
        if self.current_epoch >= self.loss.warm_up * self.trainer.max_epochs:  # type: ignore[union-attr, operator]
            p = self.scores(self.data.train).softmax(dim=1)
            refresh(p.gather(1, self.data.train.y[:, None])[:, 0])

    def on_train_epoch_end(self) -> None:
        """Curves of the epoch, before the schedule moves on."""
        assert self.data is not None
        train = self.data.train
        if self.evaluates_now():
            named = predicted(self.scores(train))
            self.log("train/top1_given", (named == train.y).float().mean())
            self.log("train/top1_clean", (named == train.y_clean).float().mean())
        flipped = train.y != train.y_clean
        if self.lambda_i is not None and flipped.any():
            self.log("lambda/mean_clean", self.lambda_i[~flipped].mean())
            self.log("lambda/mean_flipped", self.lambda_i[flipped].mean())
            if self.current_epoch + 1 == self.trainer.max_epochs:
                self.log("lambda/auc", roc_auc_score(flipped.cpu().numpy(), self.lambda_i.cpu().numpy()))
        tell_skipped(self.loss)
        super().on_train_epoch_end()

    @property
    def lambda_i(self) -> Tensor | None:
        """(n,) one lambda per training sample, or None for a loss without."""
        return getattr(self.loss, "lambda_i", None)

    def extras(self) -> dict[str, Any]:
        """Histograms of lambda_i for clean and flipped samples."""
        assert self.data is not None
        flipped = self.data.train.y != self.data.train.y_clean
        if self.lambda_i is None or not flipped.any():
            return {}
        low, high = float(self.lambda_i.min()), float(self.lambda_i.max())
        high = max(high, low + 1e-6)  # equal lambdas still make a histogram
        groups = {"clean": self.lambda_i[~flipped], "flipped": self.lambda_i[flipped]}
        counts = {name: torch.histc(x.cpu(), BINS, low, high).int().tolist() for name, x in groups.items()}
        return {"lambda_histogram": {"low": low, "high": high, **counts}}


def mean_rank(records: "DataFrame", arm: str, arms: list[str], levels: list[str]) -> "DataFrame":
    """Rank by test/top1 of one arm among `arms` (1 the best, ties share the mean), averaged over noise levels.

    Args:
        records: tidy rows of ldr_noisy; a failed or diverged run (no metric) ranks last.
        arm: whose rank.
        arms, levels: the comparison; rows of other arms or noise levels are left out.

    Returns:
        One row per seed that has every arm at every level: unit, arm, value.
    """
    records = records[records["arm"].isin(arms) & records["noise"].isin(levels)]
    wide = records.pivot_table(
        index=["seed", "noise"], columns="arm", values="test/top1", dropna=False, aggfunc="first"
    )
    present = records.groupby(["seed", "noise"])["arm"].nunique().reindex(wide.index)
    ranks = wide.rank(axis=1, ascending=False, na_option="bottom")[arm].where(present == len(arms))
    frame = ranks.unstack("noise").reindex(columns=levels).dropna().mean(axis=1).rename("value").reset_index()
    frame["unit"] = [f"s{seed}" for seed in frame["seed"]]
    frame["arm"] = arm
    return frame[["unit", "arm", "value"]]


def figure(records: "DataFrame") -> "Figure":
    """Test accuracy against noise with 95 % t intervals, and lambda_i of clean and flipped samples at u30."""
    import json

    import matplotlib.pyplot as plt
    import numpy as np
    from scipy.stats import t

    from lossatlas.study import arm_styles

    styles = arm_styles(records)
    records = records[(records["experiment"] == "ldr_noisy") & (records["status"] == "done")]
    levels = [n for n in ("u00", "u30", "u60", "u90", "c10", "c30", "c50") if n in set(records["noise"])]
    fig, (left, right) = plt.subplots(1, 2, figsize=(11, 4.2), width_ratios=[3, 2], layout="constrained")
    for k, (arm, rows) in enumerate(records.groupby("arm", sort=False)):
        groups = [rows.loc[rows["noise"] == n, "test/top1"].dropna() for n in levels]
        half = [t.ppf(0.975, len(g) - 1) * g.sem() if len(g) > 1 else 0.0 for g in groups]
        place = np.arange(len(levels)) + (k - 4) * 0.05
        bold = {"lw": 2.4, "zorder": 5} if arm == "aldr_kl" else {"lw": 1.2}
        means = [g.mean() for g in groups]
        left.errorbar(place, means, half, ms=5, label=arm, **styles[arm], **bold)
    left.set(
        xticks=range(len(levels)), xticklabels=levels, xlabel="label noise", ylabel="test top-1 accuracy"
    )
    left.legend(ncols=2, fontsize=8)
    chosen = records[(records["arm"] == "aldr_kl") & (records["noise"] == "u30") & (records["extras"] != "")]
    for _, row in chosen.head(1).iterrows():
        bars = json.loads(row["extras"])["lambda_histogram"]
        edges = np.linspace(bars["low"], bars["high"], len(bars["clean"]) + 1)
        for name, colour in (("clean", "C0"), ("flipped", "C1")):
            share = np.array(bars[name]) / max(sum(bars[name]), 1)
            right.stairs(
                share, edges, fill=True, alpha=0.5, color=colour, label=f"{name} ({sum(bars[name])})"
            )
        right.set_title(f"ALDR-KL at u30, seed {row['seed']}: AUC {row['lambda/auc']:.3f}", fontsize=10)
        right.legend(fontsize=8)
    right.set(xlabel=r"$\lambda_i$ after training", ylabel="share of samples")
    return fig
