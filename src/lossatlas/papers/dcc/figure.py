"""The figure of the dcc study: the linear mechanism, accuracy by texture, the images themselves."""

import json
from typing import TYPE_CHECKING, Any

import numpy as np

from lossatlas.study.panels import sample_grid

if TYPE_CHECKING:
    from matplotlib.figure import Figure

    DataFrame = Any  # pandas' own hints call every column a Series or a DataFrame

ORDER = ("random", "kcenter", "dc", "dcc", "dcc_warmup", "dsa", "dsac", "whole")
SHOWN = ("random", "dc", "dcc", "dcc_warmup")
AMPLITUDE = "1.0"  # of the images that are shown


def figure(records: "DataFrame") -> "Figure":
    """Alignment and common share in the linear study, accuracy against the texture; below, one seed's images by arm."""
    import matplotlib.pyplot as plt

    from lossatlas.study import arm_styles

    styles = arm_styles(records)
    done = records[records["status"] == "done"]
    linear, clothes = (done[done["experiment"] == f"dcc_{name}"] for name in ("linear", "condense"))
    with plt.rc_context({"font.size": 11}):
        fig: Any = plt.figure(figsize=(13, 5.6), layout="constrained")
        top, bottom = fig.subfigures(2, 1, height_ratios=[4.2, 1])
        axes = top.subplots(1, 3)
        units = linear[linear["unit"].notna()] if "unit" in linear else linear
        _by(axes[0], units, "M", "test/alignment", styles)
        axes[0].set(title="linear: cosine to the classes' own parts", xlabel="size M of the common part")
        _by(axes[1], units, "M", "test/share", styles)
        axes[1].set(title="linear: share of the common part", xlabel="size M of the common part")
        _by(axes[2], clothes, "a", "eval/top1", styles)
        axes[2].set(title="clothes: test accuracy", xlabel="amplitude a of the texture")
        for ax in axes:
            ax.set_ylabel("mean and 95 % interval")
            ax.grid(axis="y", alpha=0.3)
        handles, labels = axes[2].get_legend_handles_labels()
        if handles:
            axes[2].legend(handles, labels, frameon=False)
        _images(bottom, clothes)
    return fig


def _by(ax: Any, rows: "DataFrame", key: str, metric: str, styles: dict[str, dict[str, str]]) -> None:
    """Arms side by side at each value of a condition."""
    from scipy import stats

    rows = rows[rows[metric].notna()] if metric in rows else rows.iloc[:0]
    values = sorted(set(rows[key].astype(float))) if len(rows) else []
    arms = [arm for arm in ORDER if arm in set(rows["arm"])]
    for k, arm in enumerate(arms):
        mine = rows[rows["arm"] == arm]
        groups = [mine.loc[mine[key].astype(float) == v, metric].to_numpy(float) for v in values]
        half = [stats.t.ppf(0.975, len(g) - 1) * stats.sem(g) if len(g) > 1 else 0.0 for g in groups]
        x = np.arange(len(values)) + 0.6 * ((k + 0.5) / len(arms) - 0.5)
        means = [g.mean() if len(g) else np.nan for g in groups]
        ax.errorbar(x, means, half, ls="", ms=6, capsize=3, label=arm, **styles[arm])
    ax.set_xticks(range(len(values)), [f"{v:g}" for v in values])


def _images(fig: Any, rows: "DataFrame") -> None:
    """The first seed's synthetic images under the texture, all on one scale of grey."""
    if rows.empty or "a" not in rows:
        return
    rows = rows[(rows["a"].astype(str) == AMPLITUDE) & (rows["extras"] != "")]
    rows = rows[rows["seed"] == rows["seed"].min()]
    found = {arm: json.loads(text)["images"] for arm, text in zip(rows["arm"], rows["extras"], strict=True)}
    arms = [arm for arm in SHOWN if arm in found]
    if not arms:
        return
    sheets = {arm: np.array(found[arm], float) for arm in arms}
    low, high = np.percentile(np.concatenate(list(sheets.values())), [1, 99])
    for ax, arm in zip(np.atleast_1d(fig.subplots(1, len(arms))), arms, strict=True):
        side = round(sheets[arm].shape[1] ** 0.5)
        images = ((sheets[arm] - low) / (high - low)).clip(0, 1).reshape(-1, side, side)
        sample_grid(ax, 1 - images, columns=len(images))
        ax.set_title(f"{arm}, a = {float(AMPLITUDE):g}", fontsize=11)
