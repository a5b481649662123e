"""Plotly figures as plain data: arms at each condition with intervals, and learning curves with bands.

The pages hold them as JSON; atlas.js hands them to the bundled Plotly with the colours of light or dark mode.
Plotly reads tags in its texts, so names are escaped here.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from html import escape
from typing import TYPE_CHECKING, Any

from lossatlas.claims import number_in
from lossatlas.report.rows import ArmTable
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
    """One plot per metric of an experiment."""
    made = []
    for metric, found in table.found.items():
        if found.empty:
            continue
        conditions = list(dict.fromkeys(found["condition"]))
        arms = list(dict.fromkeys(found["arm"]))
        x, axis = _axis(table, found, conditions)
        data = []
        for k, arm in enumerate(sorted(arms)):
            rows = found[found["arm"] == arm]
            places = list(
                zip((x[c] for c in rows["condition"]), rows["mean"], rows["half"], rows["n"], strict=True)
            )
            if axis.get("type") != "category":
                places.sort()
            data.append(_points(arm, places, styles.get(arm, {}), k, lines=axis.get("type") != "category"))
        words = f"{table.experiment}: {metric} of {len(arms)} arms at {len(conditions)} conditions, 95 % intervals"
        layout = {"xaxis": axis, "yaxis": {"title": {"text": _text(metric)}}, "scattermode": "group"}
        positive = found["mean"][found["mean"] > 0]
        if len(positive) == len(found) and len(found) and positive.max() > 100 * positive.min():
            layout["yaxis"] |= {"type": "log", "dtick": 1}
        made.append(Plot(metric, short(words), data, layout))
    return made


def curves(bands: DataFrame, styles: Styles) -> dict[str, list[Plot]]:
    """By experiment, one plot per metric and condition with all arms."""
    made: dict[str, list[Plot]] = {}
    for (experiment, metric, condition), found in bands.groupby(
        ["experiment", "metric", "condition"], sort=False
    ):
        data = []
        for k, (arm, rows) in enumerate(found.groupby("arm")):
            data += _band(str(arm), rows, styles.get(str(arm), {}), k)
        axis = str(found["axis"].iloc[0])
        name = str(metric) if condition == "all" else f"{metric} at {condition}"
        words = f"{name} of {experiment} by {axis}: mean over runs with a band of 95 %"
        layout = {"xaxis": {"title": {"text": _text(axis)}}, "yaxis": {"title": {"text": _text(str(metric))}}}
        made.setdefault(str(experiment), []).append(Plot(short(name, 80), short(words), data, layout))
    return made


def _axis(
    table: ArmTable, found: DataFrame, conditions: Sequence[str]
) -> tuple[dict[str, Any], dict[str, Any]]:
    """Where each condition stands: on a number line if the only key that varies is a number, else side by side."""
    keys = [key for key in table.keys if found[f"key {key}"].nunique() > 1]
    title = {"text": _text(", ".join(keys))}
    numbers = {condition: number_in(condition) for condition in conditions}
    plain = all(_is_number(condition) for condition in conditions)
    if len(keys) == 1 and len(conditions) > 2 and plain:
        values = sorted(numbers.values())
        log = values[0] > 0 and values[-1] >= 20 * values[0]
        return numbers, {"title": title, **({"type": "log"} if log else {"type": "linear"})}
    order = sorted(
        conditions, key=lambda c: (math.isnan(numbers[c]), 0 if math.isnan(numbers[c]) else numbers[c], c)
    )
    return {c: _text(c) for c in conditions}, {
        "title": title, "type": "category", "categoryorder": "array", "categoryarray": [_text(c) for c in order],
    }  # fmt: skip


def _points(arm: str, places: list[tuple], style: Mapping[str, str], k: int, lines: bool) -> dict[str, Any]:
    x, y, half, n = zip(*places, strict=True)
    return {
        "type": "scatter", "mode": "lines+markers" if lines else "markers", "name": _text(arm), "x": list(x),
        "y": [_finite(v) for v in y], "text": [f"n = {count}" for count in n],
        "error_y": {"type": "data", "array": [_finite(v) or 0 for v in half], "thickness": 1.5, "width": 3},
        "hovertemplate": "%{x}: %{y:.4g} ± %{error_y.array:.2g}, %{text}",
        "marker": {"color": style.get("color"), "symbol": SYMBOLS.get(style.get("marker", ""), "circle"), "size": 8},
        "line": {"color": style.get("color"), "dash": DASHES[k // 7 % len(DASHES)], "width": 2},
    }  # fmt: skip


def _band(arm: str, rows: DataFrame, style: Mapping[str, str], k: int) -> list[dict[str, Any]]:
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


def _is_number(text: str) -> bool:
    try:
        return math.isfinite(float(text))
    except ValueError:
        return False


def _finite(value: float) -> float | None:
    return float(value) if math.isfinite(value) else None
