"""Plotly figures as plain data: arms at each condition with intervals, and learning curves with bands.

The pages hold them as JSON; atlas.js hands them to the bundled Plotly with the colours of light or dark mode.
Plotly reads tags in its texts, so names are escaped here.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from html import escape
from operator import itemgetter
from typing import TYPE_CHECKING, Any

from lossatlas.report.rows import ArmTable, is_number, natural
from lossatlas.report.text import short

if TYPE_CHECKING:
    DataFrame = Any  # see study/__init__.py
else:
    from pandas import DataFrame

SYMBOLS = {
    "o": "circle", "s": "square", "^": "triangle-up", "D": "diamond", "v": "triangle-down", "P": "cross", "X": "x",
    "*": "star", "<": "triangle-left", ">": "triangle-right", "h": "hexagon",
}  # fmt: skip
DASHES = ("solid", "dash", "dot", "dashdot")
MANY = 12  # conditions that one picture holds
PLOTS = 60  # pictures of an experiment
Styles = Mapping[str, Mapping[str, str]]


@dataclass(frozen=True)
class Plot:
    """One picture that can be chosen.

    Args:
        name: what the menu says.
        alt: the picture in words.
        data, layout: as Plotly.newPlot takes them.
    """

    name: str
    alt: str
    data: list[dict[str, Any]]
    layout: dict[str, Any]

    def to_json(self) -> dict[str, Any]:
        return {"name": self.name, "alt": self.alt, "data": self.data, "layout": self.layout}


def by_condition(table: ArmTable, styles: Styles) -> list[Plot]:
    """One plot per metric of an experiment; where conditions are many, one per metric and all keys but one."""
    made = []
    for metric, found in table.found.items():
        for name, rows in _pieces(table, found):
            made.append(_plot(table, metric, f"{metric} at {name}" if name else metric, rows, styles))
    return made[:PLOTS]


def _pieces(table: ArmTable, found: DataFrame) -> list[tuple[str, DataFrame]]:
    """The rows of one picture: all, or those that agree in every key but the one with the most numbers."""
    columns = {key: f"key {key}" for key in table.keys if found[f"key {key}"].nunique() > 1}
    if found.empty or found["condition"].nunique() <= MANY or len(columns) < 2:
        return [("", found)] if len(found) else []
    numeric = [key for key in columns if all(map(is_number, found[columns[key]]))] or list(columns)
    axis = max(numeric, key=lambda key: found[columns[key]].nunique())
    others = {key: column for key, column in columns.items() if key != axis}
    pieces = []
    for values, rows in found.groupby(list(others.values()), sort=False):
        name = " ".join(f"{key}={value}" for key, value in zip(others, values, strict=True) if value)
        pieces.append((name, rows.assign(condition=rows[columns[axis]])))
    several = [piece for piece in pieces if piece[1]["condition"].nunique() > 1]
    return several or pieces


def _plot(table: ArmTable, metric: str, name: str, found: DataFrame, styles: Styles) -> Plot:
    conditions, arms = sorted(found["condition"].unique()), sorted(found["arm"].unique())
    x, axis = _axis(table, found, conditions)
    data = []
    for arm in arms:
        rows = found[found["arm"] == arm]
        at = [_text(arm)] * len(rows) if len(conditions) == 1 else [x[c] for c in rows["condition"]]
        places = list(zip(at, rows["mean"], rows["half"], rows["n"], strict=True))
        if axis["type"] != "category":
            places.sort()
        data.append(_points(arm, places, styles, lines=axis["type"] != "category"))
    words = (
        f"{table.experiment}: {name} of {len(arms)} arms, {len(conditions)} conditions, with 95 % intervals"
    )
    layout = {"xaxis": axis, "yaxis": {"title": {"text": _text(metric)}, **_range(found)}}
    if axis["type"] == "category" and len(conditions) > 1:
        layout["scattermode"] = "group"
    return Plot(short(name, 80), short(words), data, layout)


def _range(found: DataFrame) -> dict[str, Any]:
    """The y axis from the intervals; Plotly's own would begin at 0. Logarithmic over two decades and more."""
    half = found["half"].fillna(0.0)
    low, high = (found["mean"] - half).min(), (found["mean"] + half).max()
    positive = found["mean"].min() > 0 and found["mean"].max() > 100 * found["mean"].min()
    if positive:
        return {"type": "log", "dtick": 1}
    if not (math.isfinite(low) and math.isfinite(high)) or max(abs(low), abs(high)) > 1e300:
        return {"type": "linear"}
    room = 0.06 * (high - low) or 0.5 * abs(high) or 1.0
    return {"type": "linear", "range": [float(low - room), float(high + room)]}


def curves(bands: DataFrame, styles: Styles) -> dict[str, list[Plot]]:
    """By experiment, one plot per metric and condition with all arms; those that never change stand last."""
    made: dict[str, list[tuple[bool, Plot]]] = {}
    for (experiment, metric, condition), found in bands.groupby(
        ["experiment", "metric", "condition"], sort=False
    ):
        data = []
        for arm, rows in found.groupby("arm"):
            data += _band(str(arm), rows, styles)
        axis = str(found["axis"].iloc[0])
        name = str(metric) if condition == "all" else f"{metric} at {condition}"
        words = f"{name} of {experiment} by {axis}: mean over runs with a band of 95 %"
        layout = {
            "xaxis": {"title": {"text": _text(axis)}, **_steps_axis(found["step"])},
            "yaxis": {"title": {"text": _text(str(metric))}, **_spread(found)},
        }
        flat = found["mean"].nunique() == 1
        made.setdefault(str(experiment), []).append((flat, Plot(short(name, 80), short(words), data, layout)))
    return {name: [plot for _, plot in sorted(plots, key=itemgetter(0))] for name, plots in made.items()}


def _steps_axis(steps: Any) -> dict[str, Any]:
    """Logarithmic where the steps were: half of them lie in the first tenth of a range of two decades or more."""
    positive = steps[steps > 0]
    wide = len(positive) > 8 and positive.max() >= 100 * positive.min()
    if wide and positive.median() < positive.max() / 10:
        return {"type": "log"}
    return {"type": "linear", "tickformat": ",~f"}  # 20,000 and not 0.2 x 10^5


def _spread(found: DataFrame) -> dict[str, Any]:
    """A logarithmic y axis for means over two decades and more whose band is nowhere below zero."""
    if found["low"].min() > 0 and found["mean"].max() > 100 * found["mean"].min():
        return {"type": "log", "dtick": 1}
    return {}


def _axis(
    table: ArmTable, found: DataFrame, conditions: Sequence[str]
) -> tuple[dict[str, Any], dict[str, Any]]:
    """Where each condition stands: on a number line if what varies is numbers, else side by side.

    With one condition only the arms stand side by side, at their own names.
    """
    if len(conditions) == 1:
        names = sorted(map(_text, found["arm"].unique()))
        return {}, {
            "title": {"text": "arm"},
            "type": "category",
            "categoryorder": "array",
            "categoryarray": names,
        }
    keys = [key for key in table.keys if found[f"key {key}"].nunique() > 1]
    title = {"text": _text(", ".join(keys))}
    if len(conditions) > 2 and all(map(is_number, conditions)):
        values = sorted({float(condition) for condition in conditions})
        axis = {"title": title, "type": "log" if values[0] > 0 and values[-1] >= 20 * values[0] else "linear"}
        if len(values) <= MANY:
            axis |= {"tickmode": "array", "tickvals": values, "ticktext": [f"{value:g}" for value in values]}
        return {condition: float(condition) for condition in conditions}, axis
    order = sorted(conditions, key=lambda condition: [natural(word) for word in condition.split()])
    names = [_text(condition) for condition in order]
    axis = {"title": title, "type": "category", "categoryorder": "array", "categoryarray": names}
    return {c: _text(c) for c in conditions}, axis


def _points(arm: str, places: list[tuple], styles: Styles, lines: bool) -> dict[str, Any]:
    x, y, half, n = zip(*places, strict=True)
    style, k = styles.get(arm, {}), list(styles).index(arm) if arm in styles else 0
    return {
        "type": "scatter", "mode": "lines+markers" if lines else "markers", "name": _text(arm), "x": list(x),
        "y": [_finite(v) for v in y], "text": [f"n = {count}" for count in n],
        "error_y": {"type": "data", "array": [_finite(v) or 0 for v in half], "thickness": 1.5, "width": 3},
        "hovertemplate": "%{x}: %{y:.4g} ± %{error_y.array:.2g}, %{text}",
        "marker": {"color": style.get("color"), "symbol": SYMBOLS.get(style.get("marker", ""), "circle"), "size": 8},
        "line": {"color": style.get("color"), "dash": DASHES[k // 7 % len(DASHES)], "width": 2},
    }  # fmt: skip


def _band(arm: str, rows: DataFrame, styles: Styles) -> list[dict[str, Any]]:
    style, k = styles.get(arm, {}), list(styles).index(arm) if arm in styles else 0
    colour = style.get("color", "#767676")
    red, green, blue = (int(colour[i : i + 2], 16) for i in (1, 3, 5))
    x = [_finite(v) for v in rows["step"]]
    edge = {
        "type": "scatter",
        "mode": "lines",
        "x": x,
        "line": {"width": 0},
        "hoverinfo": "skip",
        "showlegend": False,
    }
    edge["legendgroup"] = _text(arm)
    low = {**edge, "y": [_finite(v) for v in rows["low"]]}
    high = {**edge, "y": [_finite(v) for v in rows["high"]], "fill": "tonexty"}
    high["fillcolor"] = f"rgba({red},{green},{blue},0.2)"
    middle = {
        "type": "scatter", "mode": "lines+markers" if len(x) < 12 else "lines", "x": x, "name": _text(arm),
        "y": [_finite(v) for v in rows["mean"]], "text": [f"n = {n}" for n in rows["n"]], "legendgroup": _text(arm),
        "hovertemplate": "%{x}: %{y:.4g}, %{text}",
        "marker": {"color": colour, "symbol": SYMBOLS.get(style.get("marker", ""), "circle")},
        "line": {"color": colour, "dash": DASHES[k // 7 % len(DASHES)], "width": 2},
    }  # fmt: skip
    return [low, high, middle]


def _text(name: str) -> str:
    return escape(short(name, 40), quote=False)


def _finite(value: float) -> float | None:
    return float(value) if math.isfinite(value) else None
