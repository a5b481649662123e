"""The card's figure: top-k error over k by loss, and time of a step against D."""

import json
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from matplotlib.figure import Figure

    DataFrame = Any  # pandas' own hints call every column a Series or a DataFrame

Styles = dict[str, dict[str, str]]


def figure(records: "DataFrame") -> "Figure":
    """Mean error over seeds for k = 1..100 (a panel per size of vocabulary), and step times in log-log."""
    import matplotlib.pyplot as plt

    from lossatlas.study import arm_styles

    styles = arm_styles(records)
    done = records[records["status"] == "done"]
    words = done[(done["experiment"] == "zloss_words") & (done["extras"] != "")]
    sizes = [size for size in ("small", "large", "whole") if size in set(words.get("size", []))]
    fig, axes = plt.subplots(
        1, len(sizes) + 1, figsize=(5.0 * len(sizes) + 5.2, 4.4), layout="constrained", squeeze=False
    )
    for ax, size in zip(axes[0], sizes, strict=False):
        _curves(ax, words[words["size"] == size], styles)
    _times(axes[0, -1], done[done["experiment"] == "zloss_speed"], styles)
    return fig


def _curves(ax: Any, rows: "DataFrame", styles: Styles) -> None:
    import numpy as np

    count = 0
    for arm, part in rows.groupby("arm", sort=False):
        extras = [json.loads(text) for text in part["extras"]]
        curves = np.array([e["error_curve"] for e in extras])
        count, mean, k = extras[0]["words"], curves.mean(0), np.arange(1, curves.shape[1] + 1)
        colour = styles[arm]["color"]
        at = [i - 1 for i in (1, 2, 5, 10, 20, 50, 100) if i <= len(k)]
        ax.plot(k, mean, **styles[arm], ms=5, markevery=at, label=f"{arm} (n = {len(curves)})")
        if len(curves) > 1:
            ax.fill_between(k, curves.min(0), curves.max(0), color=colour, alpha=0.2, lw=0)
    ax.set(xscale="log", ylim=(0, None), xlabel="k", ylabel="test top-k error (band: all seeds)")
    ax.set_xticks([1, 2, 5, 10, 20, 50, 100], ["1", "2", "5", "10", "20", "50", "100"])
    ax.set_title(f"next word, D = {count} words", fontsize=10)
    ax.legend(fontsize=9)


def _times(ax: Any, rows: "DataFrame", styles: Styles) -> None:
    rows = rows[rows["time/step_ms"].notna()] if "time/step_ms" in rows else rows.iloc[:0]
    for arm, part in rows.groupby("arm", sort=False):
        found = part.assign(D=part["D"].astype(float)).groupby("D")["time/step_ms"]
        mean, low, high = found.mean(), found.min(), found.max()
        ax.errorbar(mean.index, mean, [mean - low, high - mean], ms=5, capsize=3, label=arm, **styles[arm])
    ax.set(xscale="log", yscale="log", xlabel="number of words D", ylabel="time of a training step, ms")
    ax.set_title("output layer, d = 256, batch 100, one core", fontsize=10)
    ax.legend(fontsize=9)
