"""The figure of multiwinner."""

from typing import TYPE_CHECKING, Any

import numpy as np

from lossatlas.claims import number_in, verdict_seeds

if TYPE_CHECKING:
    from matplotlib.figure import Figure

    DataFrame = Any

SCORES = ("sntv", "top_3", "bloc", "geometric", "borda")
LINES = {"cons": "-", "uncon": "--", "latent": ":"}
NAMES = {"cons": "biased rankings, quota", "uncon": "biased rankings", "latent": "unbiased rankings"}


def figure(records: "DataFrame") -> "Figure":
    """Committee value against number of rankings, a colour per score, and the number needed against alpha."""
    import matplotlib.pyplot as plt
    from matplotlib.lines import Line2D

    from lossatlas.study import palette

    rows = verdict_seeds(records)
    styles = palette(SCORES)
    fig, axes = plt.subplots(1, 3, figsize=(14.0, 4.6), layout="constrained")
    for ax, theta in zip(axes, (0.7, 0.4), strict=False):
        for curve in _curves(rows):
            if curve["theta"] == theta and curve["arm"] in LINES:
                look = {"color": styles[curve["score"]]["color"], "ls": LINES[curve["arm"]]}
                ax.plot(curve["n"], curve["rho"], lw=2.0 if curve["arm"] == "cons" else 1.3, **look)
        ax.axhline(0.95, color="#767676", lw=0.8, zorder=0)
        ax.set(xscale="log", xlabel="rankings n", title=rf"bias $\theta$ = {theta}", ylim=(0.3, 1.02))
        ax.grid(alpha=0.25)
    axes[0].set_ylabel(r"value of the committee, $\rho$")
    _needed_against_alpha(axes[2], rows, styles)
    lines = [Line2D([], [], color="black", ls=ls, label=NAMES[arm]) for arm, ls in LINES.items()]
    axes[0].legend(handles=lines, loc="lower right", frameon=False, fontsize=9)
    marks = [Line2D([], [], lw=2, label=k, color=v["color"], marker=v["marker"]) for k, v in styles.items()]
    fig.legend(handles=marks, loc="outside right center", frameon=False, title="score")
    return fig


def _curves(rows: "DataFrame") -> list[dict[str, Any]]:
    """Mean curves of multiwinner_samples."""
    import json

    texts = rows[(rows["experiment"] == "multiwinner_samples") & (rows["extras"] != "")]["extras"].unique()
    noted = [part for text in texts for part in json.loads(text)["all"].values()]
    total = sum(part["seeds"] for part in noted)
    found: dict[tuple[Any, ...], dict[str, Any]] = {}
    for part in noted:  # blocks of seeds
        for curve in part["curves"]:
            key = tuple(curve[name] for name in ("theta", "score", "arm"))
            share = np.array(curve["rho"]) * part["seeds"] / total
            held = found.setdefault(key, {**curve, "n": part["n"], "rho": 0.0})
            held["rho"] = held["rho"] + share
    return list(found.values())


def _needed_against_alpha(ax: Any, rows: "DataFrame", styles: dict[str, dict[str, str]]) -> None:
    """One point per score and theta: means over seeds with 95 % intervals of log2 n."""
    from scipy.stats import t as student

    means = {}
    for experiment, metric in (
        ("multiwinner_samples", "test/log2_n"),
        ("multiwinner_smoothness", "test/alpha"),
    ):
        own = rows[(rows["experiment"] == experiment) & (rows["arm"] == "cons")]
        if metric not in own or own.empty:  # that study has not been run
            return
        own = own[own[metric].notna()]
        own = own.assign(theta=own["theta"].map(number_in))
        means[metric] = own.groupby(["score", "theta"])[metric].agg(["mean", "std", "count"])
    both = (
        means["test/log2_n"].join(means["test/alpha"], lsuffix="_n", rsuffix="_a", how="inner").reset_index()
    )
    for name in SCORES:
        own = both[both["score"] == name].sort_values("mean_a")
        if own.empty:
            continue
        count = np.maximum(own["count_n"].to_numpy(float), 2)
        half = student.ppf(0.975, count - 1) * np.nan_to_num(own["std_n"].to_numpy(float)) / np.sqrt(count)
        centre = own["mean_n"].to_numpy(float)
        ends = 2.0**centre - 2.0 ** (centre - half), 2.0 ** (centre + half) - 2.0**centre
        ax.errorbar(own["mean_a"], 2.0**centre, yerr=ends, capsize=2.5, lw=1.2, ms=5, **styles[name])
        for alpha, n, theta in zip(own["mean_a"], 2.0**centre, own["theta"], strict=True):
            if name == "sntv":
                ax.annotate(
                    rf"$\theta$ = {theta:g}", (alpha, n), (6, 4), textcoords="offset points", fontsize=8
                )
    ax.axhline(2.0**17, color="#767676", lw=0.8, ls="--", zorder=0)
    ax.annotate("not reached", (1.0, 2.0**17), (0, -11), textcoords="offset points", ha="right", fontsize=8)
    ax.set(
        yscale="log", ylim=(1.5, 2.0**18), xlabel=r"smoothness $\alpha$", title="rankings needed with a quota"
    )
    ax.set_ylabel(r"first n with $\rho \geq .95$ (geometric mean)")
    ax.grid(alpha=0.25)
