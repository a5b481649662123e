"""Arms by conditions: mean, interval, n, what failed, and the command that repeats the row."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from lossatlas import records as rec
from lossatlas.claims import number_in, verdict_seeds
from lossatlas.report import stale
from lossatlas.report.gather import Paper
from lossatlas.study import cell, metrics_of, summary

if TYPE_CHECKING:
    DataFrame = Any  # see study/__init__.py
else:
    from pandas import DataFrame


@dataclass(frozen=True)
class Number:
    """A cell: its text, what it is sorted by, units it rests on."""

    text: str
    value: float | None
    n: int


@dataclass(frozen=True)
class Row:
    """One arm at one condition.

    Args:
        values: of the table's keys.
        cells: by metric; a metric the row does not have is left out.
        failed: (status, runs) that are not done.
        stale: runs whose configuration is no longer the code's; unknown: those it cannot be composed for.
        command: repeats the row's runs; several where the row has several scales.
    """

    arm: str
    values: list[str]
    cells: dict[str, Number]
    failed: list[tuple[str, int]]
    stale: int
    unknown: int
    commands: list[str]


@dataclass(frozen=True)
class ArmTable:
    """All rows of an experiment."""

    experiment: str
    keys: list[str]
    metrics: list[str]
    rows: list[Row]
    found: dict[str, DataFrame]  # by metric, as `summary` gives it


def tables(paper: Paper) -> list[ArmTable]:
    """One table per experiment, in the order of the records."""
    if paper.table.empty:
        return []
    runs = stale.runs_of(paper.table)
    counted = verdict_seeds(paper.table)
    return [_table(paper, str(name), counted, runs) for name in counted["experiment"].unique()]


def _table(paper: Paper, experiment: str, counted: DataFrame, runs: dict) -> ArmTable:
    rows = counted[counted["experiment"] == experiment]
    keys = [key for key in rec.condition_columns(rows) if rows[key].nunique() > 1 or (rows[key] != "").any()]
    metrics = metrics_of(paper.table, paper.card, experiment)
    found = {metric: summary(paper.table, experiment, metric, keys) for metric in metrics}
    cells: dict[tuple, dict[str, Number]] = {}
    for metric, table in found.items():
        for row in table.itertuples(index=False):
            fields = dict(zip(table.columns, row, strict=True))
            name = (fields["arm"], *(fields[f"key {key}"] for key in keys))
            mean = float(fields["mean"])
            number = Number(cell(row), mean if math.isfinite(mean) else None, int(fields["n"]))
            cells.setdefault(name, {})[metric] = number
    made = []
    for name, part in rows.groupby(["arm", *keys], sort=False):
        name = name if isinstance(name, tuple) else (name,)
        lost = part[part["status"] != "done"]
        if name not in cells and lost.empty:
            continue  # a run's own row, whose numbers are those of its repetitions
        made.append(_row(name, part, lost, cells.get(name, {}), runs, paper))
    made.sort(key=lambda row: (row.arm, [(_order(v), v) for v in row.values]))
    return ArmTable(experiment, keys, metrics, made, found)


def _row(name: tuple, part: DataFrame, lost: DataFrame, cells: dict, runs: dict, paper: Paper) -> Row:
    states = {}
    if paper.states is not None:
        states = paper.states.loc[part.index].groupby(part["config_hash"]).first().value_counts().to_dict()
    own = [
        runs[key]
        for key in dict.fromkeys(zip(part["experiment"], part["scale"], part["config_hash"], strict=True))
    ]
    seeds: dict[tuple, set[int]] = {}
    for run in own:
        seeds.setdefault((run.experiment, run.arm, run.condition, run.scale), set()).add(run.seed)
    commands = [
        line
        for (e, arm, cond, scale), found in seeds.items()
        for line in stale.commands(e, arm, cond, found, scale)
    ]
    failed = [(str(status), int(count)) for status, count in lost["status"].value_counts().items()]
    arm, *values = map(str, name)
    return Row(arm, values, cells, failed, states.get(stale.STALE, 0), states.get(stale.UNKNOWN, 0), commands)


def _order(text: str) -> float:
    found = number_in(text)
    return found if math.isfinite(found) else math.inf
