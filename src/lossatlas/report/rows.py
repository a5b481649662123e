"""Arms by conditions: mean, interval, n, what failed, and the command that repeats the row."""

from __future__ import annotations

import math
from collections import Counter
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from lossatlas import records as rec
from lossatlas.claims import number_in, verdict_seeds
from lossatlas.report import stale
from lossatlas.report.gather import Paper
from lossatlas.study import cell, metrics_of, summary
from lossatlas.study.order import rank

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


@dataclass(frozen=True)
class _Rows:
    """What a row of the report needs of the records, as arrays, since a paper has hundreds of groups of them."""

    runs: list[stale.Run]
    place: np.ndarray  # of each record's run
    status: np.ndarray
    states: np.ndarray | None

    @classmethod
    def of(cls, paper: Paper, counted: DataFrame) -> _Rows:
        runs, place = stale.runs_of(counted)
        states = None if paper.states is None else paper.states.loc[counted.index].to_numpy(object)
        return cls(runs, place, counted["status"].to_numpy(object), states)


def tables(paper: Paper) -> list[ArmTable]:
    """One table per experiment, in the order of the records; seeds for tuning are left out."""
    counted = verdict_seeds(paper.table)
    return [_table(paper, str(name), counted) for name in counted["experiment"].unique()]


def _table(paper: Paper, experiment: str, counted: DataFrame) -> ArmTable:
    rows = counted[counted["experiment"] == experiment]
    keys = [key for key in rec.condition_columns(rows) if (rows[key] != "").any()]
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
    made, arrays = [], _Rows.of(paper, rows)
    for name, positions in rows.groupby(["arm", *keys], sort=False).indices.items():
        name = name if isinstance(name, tuple) else (name,)
        if (
            name in cells or (arrays.status[positions] != "done").any()
        ):  # else a run with its numbers in its units
            made.append(_row(name, positions, cells.get(name, {}), arrays))
    made.sort(
        key=lambda row: (
            rank(experiment, "arm", row.arm),
            [rank(experiment, key, value) for key, value in zip(keys, row.values, strict=True)],
        )
    )
    return ArmTable(experiment, keys, metrics, made, found)


def _row(name: tuple, positions: np.ndarray, cells: dict[str, Number], rows: _Rows) -> Row:
    own = np.unique(rows.place[positions])
    states: Counter[str] = Counter()
    if rows.states is not None:
        states.update(dict(zip(rows.place[positions], rows.states[positions], strict=True)).values())
    seeds: dict[tuple, list[int]] = {}
    for run in (rows.runs[k] for k in own):
        seeds.setdefault((run.experiment, run.arm, run.condition, run.scale), []).append(run.seed)
    commands = [
        line
        for (e, arm, cond, scale), found in seeds.items()
        for line in stale.commands(e, arm, cond, found, scale)
    ]
    lost = Counter(status for status in rows.status[positions] if status != "done")
    arm, *values = map(str, name)
    return Row(arm, values, cells, list(lost.items()), states[stale.STALE], states[stale.UNKNOWN], commands)


def natural(name: str) -> tuple[str, float, str]:
    """What names of conditions are sorted by: letters, then the number after them, 05 as one half; numbers first.

    Example:
        >>> sorted(["alpha32", "P45", "alpha8", "P10", "alpha05", "10", "9"], key=natural)
        ['9', '10', 'P10', 'P45', 'alpha05', 'alpha8', 'alpha32']
    """
    letters = "" if is_number(name) else name.rstrip("0123456789.")
    digits = name[len(letters) :]
    if letters and digits.isdecimal() and digits.startswith("0"):
        digits = f"0.{digits}"
    found = number_in(digits)
    return letters, found if math.isfinite(found) else -math.inf, name


def is_number(text: str) -> bool:
    try:
        return math.isfinite(float(text))
    except ValueError:
        return False
