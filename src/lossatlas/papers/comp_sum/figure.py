"""The figure of the study: accuracy against tau, the bounds with pairs under them, clean against robust accuracy."""

import json
from typing import TYPE_CHECKING, Any

import numpy as np
import torch

from lossatlas.papers.comp_sum.bounds import t_tau

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

    DataFrame = Any  # pandas' own hints call every column a Series or a DataFrame

TAUS = {"tau00": 0.0, "tau05": 0.5, "tau10": 1.0, "tau15": 1.5, "tau20": 2.0}
Styles = dict[str, dict[str, str]]


def figure(records: "DataFrame") -> "Figure":
    """Test accuracy against tau, the bounds with random pairs under them, accuracy under attack against clean accuracy.

    Args:
        records: tidy rows of the three experiments; a panel whose experiment has not been run stays empty.
    """
    import matplotlib.pyplot as plt

    from lossatlas.study import arm_styles

    styles = arm_styles(records)
    done = records[(records["status"] == "done") & (records["scale"] == records["scale"].iloc[0])]
    fig, axes = plt.subplots(1, 3, figsize=(13.5, 4.2), layout="constrained")
    _accuracy(axes[0], done[done["experiment"] == "comp_sum"])
    _bounds(axes[1], done[done["experiment"] == "comp_sum_bounds"], styles)
    _adversarial(axes[2], done[done["experiment"] == "comp_sum_adv"], styles)
    return fig


def half_width(values: "DataFrame") -> float:
    """Half of the 95 % t interval of a mean, 0 for one value."""
    from scipy.stats import t

    return float(t.ppf(0.975, len(values) - 1) * values.sem()) if len(values) > 1 else 0.0


def _accuracy(ax: "Axes", rows: "DataFrame") -> None:
    ax.set(xlabel=r"$\tau$", ylabel="test accuracy", title="one member of the family each (95 % intervals)")
    if rows.empty:
        return
    groups = {TAUS[arm]: g["test/top1"].dropna() for arm, g in rows.groupby("arm") if arm in TAUS}
    taus = sorted(groups)
    means, halves = [groups[t].mean() for t in taus], [half_width(groups[t]) for t in taus]
    ax.errorbar(taus, means, halves, marker="o", ms=5, capsize=3, color="0.2")
    for tau in taus:
        ax.plot([tau] * len(groups[tau]), groups[tau], ".", color="0.6", ms=4, zorder=0)
    names = {0.0: "sum-exp", 0.5: "", 1.0: "CE", 1.5: "GCE", 2.0: "MAE"}
    ax.set_xticks(taus, [f"{tau:g}\n{names[tau]}" for tau in taus])


def _bounds(ax: "Axes", rows: "DataFrame", styles: Styles) -> None:
    ax.set(
        xlabel="surrogate regret", ylabel="zero-one regret", title="bounds (curves) and random pairs, n = 2"
    )
    b = torch.linspace(0, 1, 400, dtype=torch.float64)
    for arm, tau in TAUS.items():
        colour = styles.get(arm, {"color": "0.2"})["color"]
        ax.plot(t_tau(b, tau, 2), b, color=colour, lw=2, label=rf"$\tau$ = {tau:g}")
        told = rows.loc[(rows["arm"] == arm) & (rows["extras"] != ""), "extras"]
        for text in told.head(1):
            points = json.loads(text)["points"]
            shown = np.array(points["surrogate"]) < 1.05
            x, y = (np.array(points[key])[shown] for key in ("surrogate", "zero_one"))
            ax.plot(x, y, ".", color=colour, ms=4, alpha=0.7)
    ax.set(
        xlim=(0, 1.5), ylim=(0, 1.02), xticks=[0, 0.25, 0.5, 0.75, 1]
    )  # the legend stands right of the points
    ax.legend(loc="center right")


def _adversarial(ax: "Axes", rows: "DataFrame", styles: Styles) -> None:
    ax.set(
        xlabel="clean test accuracy", ylabel="accuracy under PGD-40", title="adversarial training, radius .1"
    )
    arms = sorted(rows["arm"].unique())
    for arm in arms:
        part, colour, marker = rows[rows["arm"] == arm], styles[arm]["color"], styles[arm]["marker"]
        clean, robust = part["test/top1"], part["test/robust"]
        ax.plot(clean, robust, marker, color=colour, ms=4, alpha=0.5)
        ax.errorbar(
            clean.mean(), robust.mean(), half_width(robust), half_width(clean),
            marker=marker, ms=8, capsize=3, color=colour, label=arm, ls="",
        )  # fmt: skip
    if not rows.empty:
        ax.legend(loc="upper center", bbox_to_anchor=(0.5, -0.16), ncols=len(arms), frameon=False)
