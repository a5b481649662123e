"""figure.png: the card's own figure, or metric by condition with intervals per arm."""

from __future__ import annotations

import io
from collections import Counter
from collections.abc import Iterable
from typing import TYPE_CHECKING, Any

from lossatlas.claims import Card, load_function
from lossatlas.study.table import conditions_of, metrics_of, summary

if TYPE_CHECKING:
    from matplotlib.figure import Figure

    DataFrame = Any  # see study/__init__.py
else:
    from pandas import DataFrame

# Okabe and Ito's colours, told apart by colour-blind readers too; yellow is left out, it vanishes on white, and grey
# stands for black, which vanishes in the report's dark mode.
COLOURS = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9", "#767676")
MARKERS = ("o", "s", "^", "D", "v", "P", "X", "*", "<", ">", "h")
PANELS = 6


def palette(arms: Iterable[str]) -> dict[str, dict[str, str]]:
    """Colour and marker of each arm, as keywords of `Axes.plot`; the same for the same list of arms in every figure.

    Example:
        >>> palette(["ce"])
        {'ce': {'color': '#0072B2', 'marker': 'o'}}
    """
    names = list(dict.fromkeys(arms))
    return {
        name: {"color": COLOURS[i % len(COLOURS)], "marker": MARKERS[i % len(MARKERS)]}
        for i, name in enumerate(names)
    }


def arm_styles(table: DataFrame) -> dict[str, dict[str, str]]:
    """`palette` of a paper: all its arms in alphabetical order, so that figure.png and the report agree.

    Where there are more arms than colours, those of one experiment share none as long as it can be helped.

    Args:
        table: the paper's tidy table, with all its experiments.
    """
    meets: dict[str, set[str]] = {}
    for _, arms in table.groupby("experiment")["arm"]:
        for arm in set(arms):
            meets.setdefault(arm, set()).update(arms)
    names = sorted(meets)
    styles = palette(names)
    for k, arm in enumerate(names):
        given = Counter(styles[other]["color"] for other in names[:k])
        beside = Counter(styles[other]["color"] for other in names[:k] if other in meets[arm])
        styles[arm]["color"] = min(COLOURS, key=lambda colour, b=beside, g=given: (b[colour], g[colour]))
    return styles


def draw(table: DataFrame, card: Card | None) -> tuple[bytes, str]:
    """The figure as PNG, and in words why the card's own could not be drawn (empty if it could)."""
    trouble = ""
    if card is not None and card.figure is not None:
        try:
            return _png(load_function(card.figure)(table.copy())), ""
        except Exception as error:  # a figure must not cost a study its verdicts
            trouble = " ".join(f"{card.figure} raised {type(error).__name__}: {error}".split())
    return _png(_default(table, card)), trouble


def _default(table: DataFrame, card: Card | None) -> Figure:
    from matplotlib.figure import Figure

    shown = [(e, m) for e in table["experiment"].unique() for m in metrics_of(table, card, e)][:PANELS]
    figure = Figure(figsize=(5.0 * max(len(shown), 1), 3.8), layout="constrained")
    styles = arm_styles(table)
    for ax, (experiment, metric) in zip(
        figure.subplots(1, max(len(shown), 1), squeeze=False)[0], shown, strict=False
    ):
        _panel(ax, summary(table, experiment, metric), styles)
        ax.set(title=experiment, ylabel=metric)
    return figure


def _panel(ax: Any, found: DataFrame, styles: dict[str, dict[str, str]]) -> None:
    """Arms side by side within a condition, so that intervals do not hide each other."""
    conditions, arms = conditions_of(found), list(dict.fromkeys(found["arm"]))
    for i, arm in enumerate(arms):
        rows = found[found["arm"] == arm]
        shift = 0.6 * ((i + 0.5) / len(arms) - 0.5)
        x = [conditions.index(condition) + shift for condition in rows["condition"]]
        ax.errorbar(x, rows["mean"], rows["half"].fillna(0.0), label=arm, ls="", capsize=2, **styles[arm])
    ax.set_xticks(range(len(conditions)), conditions, rotation=45 if len(conditions) > 5 else 0)
    ax.legend(fontsize="small", frameon=False)


def _png(figure: Any) -> bytes:
    from matplotlib.backends.backend_agg import FigureCanvasAgg

    FigureCanvasAgg(figure)  # no window, whatever backend the user has set
    buffer = io.BytesIO()
    figure.savefig(buffer, format="png", dpi=120, metadata={"Software": None})
    return buffer.getvalue()
