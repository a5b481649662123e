"""The figure: errors against queries, safe queries against points, accuracies against chosen features."""

from typing import TYPE_CHECKING, Any

import numpy as np

from lossatlas.claims import verdict_seeds
from lossatlas.papers.thresholdout.features import passage_law

if TYPE_CHECKING:
    from matplotlib.figure import Figure

    DataFrame = Any  # pandas has no stubs here

NAMES = {
    "naive": "empirical",
    "gauss": "Gaussian noise",
    "pmw": "multiplicative weights",
    "thresholdout": "Thresholdout",
    "thresholdout_demo": "Thresholdout, Gaussian form",
    "split": "sample splitting",
    "nonadaptive": "training half alone",
}
REPORTS = {"test/training": ":", "test/reported": "-", "test/fresh": "--"}


def figure(records: "DataFrame") -> "Figure":
    """Errors by number of queries, number of safe queries by points, accuracies by features with and without signal."""
    import matplotlib.pyplot as plt

    from lossatlas.study import arm_styles

    rows, styles = verdict_seeds(records), arm_styles(records)
    rows = rows[rows["status"] == "done"]
    fig, axes = plt.subplots(2, 3, figsize=(15.0, 8.4), layout="constrained")
    queries = rows[(rows["experiment"] == "thresholdout_queries") & (rows.get("answers", "") == "own")]
    for ax, metric, says in (
        (axes[0, 0], "test/error", "error of the query fitted to all answers"),
        (axes[0, 1], "test/worst", "largest error of all answers"),
    ):
        for arm in (arm for arm in NAMES if arm in set(queries["arm"])):
            _curve(ax, queries[queries["arm"] == arm], metric, label=NAMES[arm], **styles[arm])
        ax.set(xscale="log", ylim=(0, 0.4), xlabel="queries k", ylabel=says, title="1000 points, |X| = 1024")
        ax.grid(alpha=0.25)
    _legend(axes[0, 0])
    _growth(axes[0, 2], rows[rows["experiment"] == "thresholdout_growth"], styles)
    select = rows[rows["experiment"] == "thresholdout_select"]
    for ax, signal, arm in ((axes[1, 0], "0", "naive"), (axes[1, 1], "0", "thresholdout")):
        _select(ax, select, signal, arm, "no signal", styles)
    _signal(axes[1, 2], select, styles)
    for ax, letter in zip(axes.flat, "abcdef", strict=True):
        ax.set_title(letter, loc="left", fontweight="bold")
    return fig


def _curve(ax: Any, rows: "DataFrame", metric: str, **style: Any) -> None:
    """Mean and 95 % interval over seeds, by k."""
    from lossatlas.study.panels import band

    if metric not in rows or rows.empty:
        return
    own = rows[rows[metric].notna() & (rows["k"] != "")]
    wide = own.assign(k=own["k"].astype(int)).pivot_table(index="seed", columns="k", values=metric)
    if wide.size:
        band(ax, wide.columns, wide.to_numpy(), **{"lw": 1.4, "ms": 4.5, **style})


def _legend(ax: Any) -> None:
    """Of a panel that has lines; a study that has not been run leaves it empty."""
    if ax.get_legend_handles_labels()[0]:
        ax.legend(frameon=False, fontsize=9, loc="upper left")


def _growth(ax: Any, rows: "DataFrame", styles: dict[str, dict[str, Any]]) -> None:
    from lossatlas.study.panels import THEORY, rates

    if rows.empty:
        return
    known = {arm: styles[arm] for arm in ("naive", "gauss") if arm in styles}
    rates(ax, rows, "test/k_star", "n", known, names=NAMES)
    n = np.geomspace(1000, 64000, 30)
    for b in (0.0, 0.0222):
        label = "limit law" if b == 0 else None
        ax.plot(n, [passage_law(v, 0.1, b) for v in n], label=label, **THEORY)
    _legend(ax)
    ax.set(
        xlabel="points n", ylabel="queries until an answer is off by .1", title="growth of the safe number"
    )


def _select(
    ax: Any, rows: "DataFrame", signal: str, arm: str, title: str, styles: dict[str, dict[str, Any]]
) -> None:
    """Training, reported and fresh accuracy of one arm."""
    own = rows[(rows["arm"] == arm) & (rows.get("signal", "") == signal)]
    for metric, line in REPORTS.items():
        _curve(ax, own, metric, label=metric.split("/")[1], ls=line, **styles.get(arm, {}))
    ax.set(
        xlabel="features chosen k",
        ylabel="accuracy",
        ylim=(0.48, 0.71),
        title=f"{title}: {NAMES[arm]} holdout",
    )
    _legend(ax)
    ax.grid(alpha=0.25)


def _signal(ax: Any, rows: "DataFrame", styles: dict[str, dict[str, Any]]) -> None:
    """Reported and fresh accuracy of both holdouts where 20 features carry signal."""
    for arm in ("naive", "thresholdout"):
        own = rows[(rows["arm"] == arm) & (rows.get("signal", "") == "20")]
        for metric in ("test/reported", "test/fresh"):
            label = f"{NAMES[arm]}, {metric.split('/')[1]}"
            _curve(ax, own, metric, label=label, ls=REPORTS[metric], **styles.get(arm, {}))
    ax.set(xlabel="features chosen k", ylabel="accuracy", ylim=(0.48, 0.71), title="20 features with signal")
    _legend(ax)
    ax.grid(alpha=0.25)
