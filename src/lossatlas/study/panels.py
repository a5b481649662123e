"""Small parts of figures: sample grids, bands of curves, densities under points, rates on log-log axes."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np

THEORY = {"color": "#767676", "lw": 1.0, "ls": "--", "zorder": 1}


def sample_grid(ax: Any, images: np.ndarray, columns: int, gap: int = 1) -> None:
    """Grey images side by side, row by row, on axes without ticks.

    Args:
        images: (n, h, w) in [0, 1], 1 is black. columns: >= 1. gap: white pixels between images.
    """
    n, h, w = images.shape
    rows = -(-n // columns)
    sheet = np.zeros((rows * (h + gap) - gap, columns * (w + gap) - gap))
    for k, image in enumerate(images):
        top, left = (k // columns) * (h + gap), (k % columns) * (w + gap)
        sheet[top : top + h, left : left + w] = image
    ax.imshow(sheet, cmap="gray_r", vmin=0, vmax=1, interpolation="nearest")
    ax.set(xticks=[], yticks=[])


def band(ax: Any, x: Any, curves: Any, **style: Any) -> None:
    """Mean of curves (runs, points) with its 95 % interval over runs; points that a run lacks (NaN) are left out.

    Args:
        style: of the line, such as an entry of `arm_styles` and a label.
    """
    from scipy import stats

    values = np.asarray(curves, float)
    n = np.isfinite(values).sum(axis=0)
    mean = np.nanmean(values, axis=0)
    (line,) = ax.plot(x, mean, **style)
    if values.shape[0] > 1:
        spread = np.nanstd(values, axis=0, ddof=1) / np.sqrt(n)
        half = stats.t.ppf(0.975, np.maximum(n - 1, 1)) * spread
        ax.fill_between(x, mean - half, mean + half, color=line.get_color(), alpha=0.2, lw=0)


def contours(ax: Any, log_density: Any, reach: float, points: int = 120) -> None:
    """Grey contours of a density on the square [-reach, reach]^2.

    Args:
        log_density: (n, 2) array -> (n,).
    """
    side = np.linspace(-reach, reach, points)
    X, Y = np.meshgrid(side, side)
    log_p = np.asarray(log_density(np.stack([X.ravel(), Y.ravel()], axis=1))).reshape(X.shape)
    top = log_p.max()
    ax.contour(X, Y, log_p, levels=[top - 6.8, top - 4.5, top - 0.5], colors="#767676", linewidths=0.8)
    ax.set(xlim=(-reach, reach), ylim=(-reach, reach), xticks=[], yticks=[], aspect="equal")


def rate(ax: Any, x: Any, values: Any, label: str = "", **style: Any) -> tuple[float, float]:
    """A rate on log-log axes: mean and 95 % half-width over seeds, the power law through them, its slope in the legend.

    The slope is fitted for each seed and averaged; its interval is the t interval over seeds, as in a card's `slope`.
    A seed whose value at a point is missing or censored (infinite) counts neither there nor for the slope.

    Args:
        x: (k,) > 0, the grid. values: (seeds, k) > 0 or NaN.
        label: the line's name; the legend then says `label: slope -0.50 ± 0.02`.
        style: of the line, such as an entry of `arm_styles`.

    Returns:
        Slope and its half-width; NaN where there are fewer than two points or seeds.

    Raises:
        ValueError: a value or x <= 0.
    """
    from lossatlas.claims.curves import slopes

    x, values = np.asarray(x, float), np.asarray(values, float)
    values = np.where(np.isfinite(values), values, np.nan)
    order = np.argsort(x)
    x, values = x[order], values[:, order]
    own = slopes(x, values) if len(x) > 1 else np.full(len(values), np.nan)
    whole = np.isfinite(values).all(axis=1) & np.isfinite(own)
    mean, half = (float(v[0]) for v in _interval(np.where(whole, own, np.nan)[:, None]))
    centre, width = _interval(values)
    fitted = bool(np.isfinite(mean))
    text = f"slope {mean:.2f}" + (f" ± {half:.2f}" if np.isfinite(half) else "") if fitted else ""
    style = {"lw": 1.4, "ms": 4.5, "capsize": 2.5, **style}
    low = np.minimum(width, 0.99 * centre)  # an interval that reaches 0 has no end on a log axis
    drawn = ax.errorbar(x, centre, yerr=[np.nan_to_num(low), np.nan_to_num(width)], ls="none" if fitted else "-",
                        label=": ".join(filter(None, (label, text))), **style)  # fmt: skip
    if fitted:
        through = np.exp(np.nanmean(np.log(values[whole])) - mean * np.log(x).mean())
        ax.plot(x, through * x**mean, color=drawn.lines[0].get_color(), lw=style["lw"], zorder=1.5)
    ax.set(xscale="log", yscale="log")
    ax.grid(alpha=0.25, which="major")
    return mean, half


def theory(ax: Any, x: Any, slope: float, at: float, label: str = "") -> None:
    """A dashed grey line x^slope whose value at the first x is `at`, named `label` (by default `theory: slope`)."""
    x = np.sort(np.asarray(x, float))
    ax.plot(x, at * (x / x[0]) ** slope, label=label or f"theory: slope {slope:g}", **THEORY)


def rates(
    ax: Any,
    records: Any,
    metric: str,
    over: str,
    styles: Mapping[str, Mapping[str, Any]],
    where: Mapping[str, str] | None = None,
    slope: float | None = None,
    names: Mapping[str, str] | None = None,
) -> None:
    """One panel of a rate figure from tidy records: a `rate` per arm, the theory's slope below them, legend, labels.

    Args:
        records: tidy; the seeds for verdicts are drawn, repetitions inside a seed averaged.
        over: the condition on the x axis, whose values are numbers.
        styles: of `arm_styles`; arms without rows are left out.
        where: condition -> value, as in a card.
        slope: of the theory's line, drawn at half the lowest first point.
        names: arm -> what the legend calls it.
    """
    from lossatlas.claims import number_in, verdict_seeds

    rows = verdict_seeds(records)
    rows = rows[(rows["status"] == "done") & rows[metric].notna()]
    for key, value in (where or {}).items():
        rows = rows[rows[key] == str(value)]
    rows = rows.assign(x=rows[over].map(number_in))
    first, grid = np.inf, sorted(rows["x"].unique())
    for arm, style in styles.items():
        wide = rows[rows["arm"] == arm].pivot_table(index="seed", columns="x", values=metric)
        if wide.size:
            rate(ax, wide.columns, wide, (names or {}).get(arm, arm), **style)
            first = min(first, float(np.nanmean(wide.to_numpy()[:, 0])))
    if slope is not None and np.isfinite(first):
        theory(ax, grid, slope, first / 2)
    if 0 < len(grid) <= 8:  # the grid itself is the scale
        ax.set_xticks(grid, [f"{x:g}" for x in grid], rotation=30 if len(grid) > 5 else 0)
        ax.set_xticks([], minor=True)
    ax.set(xlabel=over, ylabel=metric)
    lines = dict(zip(*reversed(ax.get_legend_handles_labels()), strict=True))
    last = sorted(lines, key=lambda name: name.startswith("theory"))
    ax.legend([lines[name] for name in last], last, fontsize="small", frameon=False)


def _interval(values: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Mean and 95 % t half-width of each column, NaN left out; a column of one has no half-width."""
    from scipy import stats

    n = np.isfinite(values).sum(axis=0)
    mean = np.nansum(values, axis=0) / np.where(n > 0, n, np.nan)
    spread = np.sqrt(np.nansum((values - mean) ** 2, axis=0) / np.where(n > 1, n - 1, np.nan))
    return mean, stats.t.ppf(0.975, np.maximum(n - 1, 1)) * spread / np.sqrt(n)
