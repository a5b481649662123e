"""Arms by conditions as mean +- 95 % half-width, and verdicts, as text."""

from __future__ import annotations

import math
import os
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, TextIO

import numpy as np
import pandas as pd
from scipy import stats

from lossatlas.claims import Card, Verdict, verdict_seeds
from lossatlas.claims.spec import MetricStatistic
from lossatlas.records import condition_columns, metric_columns
from lossatlas.study.order import rank

if TYPE_CHECKING:  # see study/__init__.py
    DataFrame = Series = Any
else:
    from pandas import DataFrame, Series

MANY = 6  # conditions that still fit beside each other
COLOURS = {
    "reproduced": "32",
    "not reproduced": "31",
    "no difference": "36",
    "inconclusive": "33",
    "not run": "90",
}


@dataclass(frozen=True)
class Cells:
    """A table ready to print: head, rows of text, and a line on n."""

    title: str
    head: list[str]
    rows: list[list[str]]
    caption: str


def summary(table: DataFrame, experiment: str, metric: str, keys: Sequence[str] = ()) -> DataFrame:
    """Mean, 95 % t half-width, n and failed runs of a metric for each arm and condition.

    Args:
        table: tidy; seeds for tuning and interrupted runs are left out.
        keys: conditions that get a column `key <name>` of their own besides.

    Returns:
        Columns arm, condition (the values of the keys that vary), those of `keys`, mean, half (NaN for n < 2), n,
        failed, never, place (of the condition in the grid's order).
        n counts the runs (or units) that are done with a number, never the done ones whose metric is
        infinite (a time that is not reached), failed all others.
    """
    rows = verdict_seeds(table[table["experiment"] == experiment])
    rows = rows[rows["status"] != "interrupted"]
    value = rows[metric].where(rows["status"] == "done")
    per_unit = rows["unit"].notna()
    if (per_unit & value.notna()).any():
        rows = rows[per_unit | (rows["status"] != "done")]
    elif per_unit.any():
        rows = rows[~per_unit]
    value = value.loc[rows.index]
    good = pd.Series(np.isfinite(value), value.index)
    never = value == np.inf
    lost = {"lost": (~good & ~never).astype(int), "never": never.astype(int)}
    rows = rows.assign(condition=_labels(rows), value=value.where(good), **lost)
    rows = _in_order(rows, experiment)
    rows = rows.assign(**{f"key {key}": rows[key] for key in keys})  # a condition may be called n or mean
    groups = rows.groupby(["arm", "condition", *(f"key {key}" for key in keys)], sort=False)
    found = groups.agg(
        mean=("value", "mean"),
        sd=("value", "std"),
        n=("value", "count"),
        failed=("lost", "sum"),
        never=("never", "sum"),
        place=("place", "min"),
    )
    found = found[found["n"] > 0].reset_index()
    quantile = stats.t.ppf(0.975, np.maximum(found["n"] - 1, 1))
    found["half"] = (quantile * found["sd"] / np.sqrt(found["n"])).where(found["n"] > 1)
    return found.drop(columns="sd")


def conditions_of(found: DataFrame) -> list[str]:
    """The conditions of a `summary` in the grid's order."""
    return list(dict.fromkeys(found.sort_values("place", kind="stable")["condition"]))


def _in_order(rows: DataFrame, experiment: str) -> DataFrame:
    """Rows sorted by arm and condition as the experiment file has them, with the condition's `place`."""
    keys = condition_columns(rows)
    points = [
        tuple(rank(experiment, key, value) for key, value in zip(keys, point, strict=True))
        for point in rows[keys].itertuples(index=False, name=None)
    ]
    places = {point: k for k, point in enumerate(sorted(set(points)))}
    arms = [rank(experiment, "arm", arm) for arm in rows["arm"]]
    order = {arm: k for k, arm in enumerate(sorted(set(arms)))}
    rows = rows.assign(place=[places[p] for p in points], _arm=[order[a] for a in arms])
    return rows.sort_values(["_arm", "place", "seed"], kind="stable")


def metrics_of(table: DataFrame, card: Card | None, experiment: str) -> list[str]:
    """The metrics worth a table: the card's, else those of its claims, else the first test metrics; at most 4."""
    rows = table[table["experiment"] == experiment]
    known = [metric for metric in metric_columns(table) if rows[metric].notna().any()]
    wanted = list(card.metrics) if card else []
    if card and not wanted:
        parts = [p for claim in card.claims for p in claim.parts if p.experiment == experiment]
        wanted = [p.statistic.metric for p in parts if isinstance(p.statistic, MetricStatistic)]
    chosen = [metric for metric in dict.fromkeys(wanted) if metric in known]
    return (chosen or [m for m in known if m.startswith("test/")] or known)[:4]


def cells(table: DataFrame, experiment: str, metric: str) -> Cells:
    """The printed table of one metric: arms by conditions, or conditions by arms where these are many."""
    found = summary(table, experiment, metric)
    arms, conditions = list(dict.fromkeys(found["arm"])), conditions_of(found)
    text = {(row.arm, row.condition): cell(row) for row in found.itertuples()}
    if len(conditions) > MANY:
        head, rows = ["", *arms], [[c, *(text.get((a, c), "-") for a in arms)] for c in conditions]
    else:
        head, rows = ["", *conditions], [[a, *(text.get((a, c), "-") for c in conditions)] for a in arms]
    low, high = (found["n"].min(), found["n"].max()) if len(found) else (0, 0)
    count = f"n = {low}" if low == high else f"n = {low} to {high}"
    return Cells(f"{experiment}: {metric}", head, rows, f"mean ± 95 % t half-width, {count}")


def print_table(table: DataFrame, card: Card | None = None, file: TextIO | None = None) -> None:
    """Every experiment's tables, aligned."""
    file = file or sys.stdout
    for experiment in table["experiment"].unique():
        for metric in metrics_of(table, card, experiment):
            shown = cells(table, experiment, metric)
            print(f"\n{shown.title}  ({shown.caption})", file=file)
            print("\n".join(aligned([shown.head, *shown.rows])), file=file)


def print_verdicts(verdicts: Sequence[Verdict], file: TextIO | None = None) -> None:
    """One line per claim; colour on a terminal only, and not with NO_COLOR."""
    stream: Any = file or sys.stdout
    colour = stream.isatty() and "NO_COLOR" not in os.environ
    head = ["verdict", "claim", "effect [90 %]", "claimed", "p (Holm)", "n", "remark"]
    lines = aligned([head, *([v.verdict, v.id, *verdict_cells(v), v.remark] for v in verdicts)])
    print(f"\n{lines[0]}", file=stream)
    for verdict, line in zip(verdicts, lines[1:], strict=True):
        word = verdict.verdict
        print(f"\033[{COLOURS[word]}m{word}\033[0m{line[len(word) :]}" if colour else line, file=stream)


def verdict_cells(verdict: Verdict) -> list[str]:
    """Effect with interval, what is claimed of it, p after Holm, n; a dash where there is none."""
    if not math.isfinite(verdict.effect):
        return ["-", verdict.limit or "-", "-", str(verdict.n) if verdict.n else "-"]
    effect = f"{verdict.effect:.3g}"
    if math.isfinite(verdict.low) and verdict.low < verdict.high:
        effect += f" [{verdict.low:.3g}, {verdict.high:.3g}]"
    p = "-" if verdict.p_holm is None else f"{verdict.p_holm:.2g}"
    return [effect, verdict.limit, p, str(verdict.n)]


def aligned(rows: Sequence[Sequence[str]]) -> list[str]:
    """Lines with columns of one width, two spaces apart."""
    widths = [max(len(row[i]) for row in rows) for i in range(len(rows[0]))]
    return [
        "  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip() for row in rows
    ]


def _labels(rows: DataFrame) -> Series:
    """The values of the conditions that vary within the experiment."""
    keys = [key for key in condition_columns(rows) if rows[key].nunique() > 1]
    if not keys:
        return pd.Series("all", index=rows.index)
    label = rows[keys[0]].astype(str)
    for key in keys[1:]:
        label = label + " " + rows[key].astype(str)
    return label.str.strip().replace("", "-")


def cell(row: Any) -> str:
    """Mean and half-width of a row of `summary` with the digits that its interval leaves, and its other runs."""
    counts = [f"{row.failed} failed" if row.failed else "", f"{row.never} never" if row.never else ""]
    failed = f" ({', '.join(filter(None, counts))})" if any(counts) else ""
    if not math.isfinite(row.half):
        return f"{row.mean:.4g}{failed}"
    if row.half == 0 or not 1e-4 <= max(abs(row.mean), row.half) < 1e5:
        return f"{row.mean:.4g} ± {row.half:.2g}{failed}"
    digits = min(max(1 - math.floor(math.log10(row.half)), 0), 6)  # two figures of the half-width
    return f"{row.mean:.{digits}f} ± {row.half:.{digits}f}{failed}"
