"""The NeuCB study: the statistic of its card and its figure."""

import json
from typing import TYPE_CHECKING, Any

import numpy as np

if TYPE_CHECKING:
    from matplotlib.figure import Figure

    DataFrame = Any  # pandas' own hints call every column a Series or a DataFrame

METHODS = (
    "neu_fast_cb", "neu_square_cb", "neu_fast_plain", "neu_square_plain", "neural_ucb", "neural_ts", "neural_epsilon",
    "linear_square_cb", "random",
)  # fmt: skip


def mean_relative_regret(records: "DataFrame", data: list[str]) -> "DataFrame":
    """Final regret over that of uniform choices, averaged over data sets.

    Args:
        records: tidy rows of neucb_datasets; a failed run's test/regret is the `worst` of the statistic.
        data: the sets.

    Returns:
        One row per arm and seed that has every set: unit, arm, value.
    """
    kept = records[records["data"].isin(data)]
    done = kept[~kept["failed"]]
    # expected regret of uniform choices: the same for every run of a set
    uniform = (done["test/regret"] / done["test/relative_regret"]).groupby(done["data"]).median()
    kept = kept.assign(value=kept["test/regret"] / kept["data"].map(uniform))
    wide = kept.pivot(index=["unit_id", "arm"], columns="data", values="value").reindex(columns=data)
    frame = wide.mean(axis=1, skipna=False).dropna().rename("value").reset_index()
    return frame.rename(columns={"unit_id": "unit"})


def figure(records: "DataFrame") -> "Figure":
    """Mean cumulative regret against rounds with 95 % t bands, a panel per data set, both axes logarithmic."""
    import matplotlib.pyplot as plt
    from scipy.stats import t as student

    from lossatlas.study import arm_styles

    styles = arm_styles(records)
    records = records[(records["experiment"] == "neucb_datasets") & (records["extras"] != "")]
    names = list(dict.fromkeys(records["data"]))
    arms = [arm for arm in METHODS if arm in set(records["arm"])]
    fig, axes = plt.subplots(
        1, len(names), figsize=(5.2 * len(names) + 2.2, 4.6), layout="constrained", squeeze=False
    )
    for ax, name in zip(axes[0], names, strict=True):
        for k, arm in enumerate(arms):
            rows = records[(records["data"] == name) & (records["arm"] == arm)]
            curves = [json.loads(text)["curve"] for text in rows["extras"]]
            if not curves:
                continue
            x, y = np.array(curves[0]["t"]), np.array([curve["regret"] for curve in curves])
            mean = y.mean(axis=0)
            half = (
                student.ppf(0.975, max(len(y) - 1, 1))
                * y.std(axis=0, ddof=min(1, len(y) - 1))
                / np.sqrt(len(y))
            )
            shown, colour = x >= 20, styles[arm]["color"]
            line = "--" if k >= 7 else "-"
            width = 2.4 if arm in ("neu_fast_cb", "neu_square_cb") else 1.2
            ax.plot(x[shown], mean[shown], line, color=colour, lw=width, label=arm)
            low, high = np.maximum(mean - half, 0.5), mean + half
            ax.fill_between(x[shown], low[shown], high[shown], color=colour, alpha=0.15, lw=0)
        ax.set(xscale="log", yscale="log", xlabel="round t", title=f"{name} (n = {len(curves)})")
    axes[0, 0].set_ylabel("cumulative regret")
    handles, labels = axes[0, 0].get_legend_handles_labels()
    fig.legend(handles, labels, loc="outside right center", frameon=False)
    return fig
