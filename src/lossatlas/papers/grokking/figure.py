"""The figure of the polynomial study: losses and weights over time per alpha, gap and delay along each sweep."""

import json
from typing import TYPE_CHECKING, Any

import numpy as np

if TYPE_CHECKING:
    from matplotlib.figure import Figure

    DataFrame = Any  # pandas has no stubs here

ALPHAS = {"alpha05": 0.5, "alpha2": 2.0, "alpha8": 8.0, "alpha32": 32.0}
ES = {"e10": 0.1, "e25": 0.25, "e50": 0.5}
PS = {"P1": 1.0, "P45": 4.5, "P10": 10.0}


def figure(records: "DataFrame") -> "Figure":
    """Curves as medians over seeds with quartiles; along a sweep a thin line is a seed, "never" has its own height."""
    import matplotlib.pyplot as plt

    rows = records[(records["experiment"] == "grokking_poly") & (records["status"] == "done")]
    with plt.rc_context({"font.size": 12}):
        fig, axes = plt.subplots(2, 3, figsize=(15, 8.2), layout="constrained")
        _losses(axes[0, 0], rows)
        _weights(axes[1, 0], rows)
        axes[1, 0].sharex(axes[0, 0])
        gap, delay = r"$t_{test}\, /\, t_{train}$", r"$t_{test} - t_{train}$ (steps)"
        _sweep(axes[0, 1], rows, ALPHAS, "gap", r"$\alpha$ (e = 0.25, P = 5 D)", gap)
        _sweep(axes[0, 2], rows, PS, "gap", r"P / D ($\alpha$ = 2, e = 0.25)", gap)
        _sweep(axes[1, 1], rows, ES, "delay", r"e ($\alpha$ = 2, P = 7 D)", delay)
        _sweep(axes[1, 2], rows, ES, "gap", r"e ($\alpha$ = 2, P = 7 D)", gap)
        for ax, letter in zip(axes.flat, "abcdef", strict=True):
            ax.set_title(letter, loc="left", fontweight="bold")
    return fig


def _curves(rows: "DataFrame", setting: str) -> dict[str, np.ndarray]:
    """(T,) steps and (seeds, T) curves of a setting, step 0 left out for the logarithmic axis."""
    found = [json.loads(text)["curve"] for text in rows[rows["setting"] == setting]["extras"] if text]
    if not found:
        return {}
    return {name: np.array([c[name] for c in found], float)[:, 1:] for name in found[0]}


def _losses(ax: Any, rows: "DataFrame") -> None:
    from lossatlas.study import palette

    styles = palette(ALPHAS)
    for setting, alpha in ALPHAS.items():
        if not (curve := _curves(rows, setting)):
            continue
        t, colour = curve["t"][0], styles[setting]["color"]
        ax.plot(t, np.median(curve["test"], axis=0), color=colour, label=rf"$\alpha$ = {alpha:g}")
        ax.fill_between(t, *np.quantile(curve["test"], [0.25, 0.75], axis=0), color=colour, alpha=0.2, lw=0)
        ax.plot(t, np.median(curve["train"], axis=0), color=colour, ls="--")
    ax.plot([], [], color="grey", label="test")
    ax.plot([], [], color="grey", ls="--", label="training")
    ax.set(xscale="log", yscale="log", ylim=(1e-5, 2), xlabel="step", ylabel="mean squared error")
    ax.legend(frameon=False, loc="lower left")


def _weights(ax: Any, rows: "DataFrame") -> None:
    from lossatlas.study import palette

    styles = palette(ALPHAS)
    for setting in ALPHAS:
        if not (curve := _curves(rows, setting)):
            continue
        t, colour = curve["t"][0], styles[setting]["color"]
        ax.plot(t, np.median(curve["target_weight"], axis=0), color=colour)
        ax.plot(t, np.median(curve["mean_weight"], axis=0), color=colour, ls="--")
    ax.plot([], [], color="grey", label=r"along the target, $b^\top M b$")
    ax.plot([], [], color="grey", ls="--", label=r"common to all units, $|\Delta \bar{w}|$")
    ax.set(xscale="log", yscale="log", xlabel="step", ylabel="weights (colours as in a)", ylim=(None, 200))
    ax.legend(frameon=False, loc="upper left")


def _sweep(
    ax: Any, rows: "DataFrame", values: dict[str, float], metric: str, xlabel: str, ylabel: str
) -> None:
    """Seeds as dots, the median as a line; what is censored is drawn at one height above all others."""
    from matplotlib.ticker import FuncFormatter, LogLocator, NullFormatter, NullLocator

    ratio = metric == "gap"
    rows = rows.sort_values("seed")
    sets = {x: rows[rows["setting"] == name] for name, x in values.items()}
    times = {x: part[f"test/{metric}"].astype(float).to_numpy() for x, part in sets.items() if len(part)}
    known = np.concatenate([v[np.isfinite(v)] for v in times.values()] or [np.zeros(0)])
    shown = {x: 10**v if ratio else v for x, v in times.items()}
    top = (10 ** known.max() if ratio else known.max()) * 2.5 if known.size else 10.0
    heights = {x: np.where(np.isfinite(v), v, top) for x, v in shown.items()}
    x, seeds = list(heights), min((v.size for v in heights.values()), default=0)
    for k in range(seeds):  # rows of a setting are in the order of the seeds
        ax.plot(x, [v[k] for v in heights.values()], "o-", color="#0072B2", alpha=0.3, ms=4, lw=0.8)
    ax.plot(x, [np.median(v) for v in heights.values()], color="#D55E00", lw=2.5, label="median")
    if any(np.isinf(v).any() for v in times.values()):
        ax.axhline(top, color="grey", lw=0.8, ls=":")
        ax.annotate("never within 20000 steps", (0.03, top), xycoords=("axes fraction", "data"),
                    xytext=(0, 4), textcoords="offset points", color="#444444")  # fmt: skip
    ax.set(xscale="log", yscale="log", xlabel=xlabel, ylabel=ylabel)
    ax.set_xticks(list(values.values()), [f"{x:g}" for x in values.values()])
    ax.xaxis.set_minor_locator(NullLocator())
    ax.yaxis.set_major_locator(LogLocator(subs=(1, 2, 5)))
    ax.yaxis.set_major_formatter(FuncFormatter(lambda v, _: f"{v:g}"))
    ax.yaxis.set_minor_formatter(NullFormatter())
    ax.margins(x=0.12, y=0.12)
    ax.legend(frameon=False, loc="lower left" if metric == "delay" else "best")
