"""Learning curves of a study as bands: mean and 95 % interval over runs, per arm, condition and step.

A run leaves its curves beside its record, below outputs/, which nobody commits. `bands` gathers those that belong to
the rows of a tidy table (same experiment, scale and configuration hash) into one small table, `curves.csv`.
"""

from __future__ import annotations

import csv
import math
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd
from scipy import stats

from lossatlas import records as rec
from lossatlas.claims import Card, verdict_seeds

if TYPE_CHECKING:
    DataFrame = Any  # see study/__init__.py
else:
    from pandas import DataFrame

COLUMNS = ("experiment", "arm", "condition", "metric", "axis", "step", "mean", "low", "high", "n")
STEPS = 40  # points of a curve that are kept
METRICS = 3  # curves of an experiment that are kept
AXES = ("epoch", "step", "round", "t", "frames")


def bands(table: DataFrame, outputs: str | Path, card: Card | None = None) -> DataFrame:
    """The bands of every experiment whose runs left curves, with the columns of COLUMNS.

    Args:
        table: tidy; tuning seeds are left out.
        outputs: folder of runs, <outputs>/<experiment>/<scale>/<run>/curves.csv.
        card: its metrics come first among those that are kept.
    """
    rows = []
    table = verdict_seeds(table)
    keys = rec.condition_columns(table)
    for experiment, part in table.groupby("experiment", sort=False):
        shown = [key for key in keys if part[key].nunique() > 1]
        groups: dict[tuple[str, str], list[dict[str, np.ndarray]]] = {}
        for _, run in part.drop_duplicates("config_hash").iterrows():
            curves = _read(Path(outputs) / str(experiment) / run["scale"], run["config_hash"])
            label = " ".join(run[key] for key in shown if run[key]) or "all"
            if curves:
                groups.setdefault((run["arm"], label), []).append(curves)
        metrics = _chosen(groups.values(), card)
        for (arm, condition), runs in groups.items():
            for metric in metrics:
                rows += _band([experiment, arm, condition, metric], [r for r in runs if metric in r])
    return pd.DataFrame(rows, columns=list(COLUMNS))


def to_csv(table: DataFrame, path: str | Path) -> None:
    """Write bands with five figures, atomically."""
    rec.write_text(table.to_csv(index=False, float_format="%.5g", lineterminator="\n"), path)


def update(path: str | Path, table: DataFrame) -> None:
    """Bring bands into a file: those of the same experiments are replaced, all others stay."""
    if table.empty:
        return
    old = from_csv(path)
    kept = old[~old["experiment"].isin(set(table["experiment"]))]
    to_csv(pd.concat([part for part in (kept, table) if not part.empty]), path)


def from_csv(path: str | Path) -> DataFrame:
    """Read bands; an empty table where there are none or the file is something else."""
    try:
        found = pd.read_csv(path, dtype=dict.fromkeys(COLUMNS[:5], str), keep_default_na=False, na_values={
            column: ["", "nan", "inf", "-inf"] for column in COLUMNS[5:]})  # fmt: skip
        return found[list(COLUMNS)].astype(dict.fromkeys(COLUMNS[5:9], float))
    except (OSError, ValueError, KeyError):
        return pd.DataFrame([], columns=list(COLUMNS))


def _read(folder: Path, digest: str) -> dict[str, np.ndarray]:
    """Columns of the curves of the run with that hash; nothing where they are not there or cannot be read."""
    for path in sorted(folder.glob(f"*-{digest}/curves.csv")) if digest else []:
        try:
            lines = list(csv.DictReader(path.read_text().splitlines()))
            return {name: np.array([float(line[name] or "nan") for line in lines]) for name in lines[0]}
        except (OSError, ValueError, IndexError, TypeError):
            return {}
    return {}


def _chosen(groups: Iterable[Sequence[dict[str, np.ndarray]]], card: Card | None) -> list[str]:
    """The metrics kept: the card's, then test, val, the loss, and others; constants and single points are no curve."""
    names = dict.fromkeys(name for runs in groups for run in runs for name in run if name not in AXES)
    curves = [n for n in names if any(np.isfinite(r[n]).sum() > 1 for runs in groups for r in runs if n in r)]
    first = list(card.metrics) if card else []

    def rank(name: str) -> tuple[int, int]:
        if name in first:
            return 0, first.index(name)
        return (
            1 if name.startswith("test/") else 2 if name.startswith("val/") else 3 if "loss" in name else 4
        ), 0

    return sorted(curves, key=rank)[:METRICS]


def _band(head: list[str], runs: Sequence[dict[str, np.ndarray]]) -> list[list[Any]]:
    """Rows of one curve, at the steps that any run has; a run that stopped early counts as far as it came."""
    axis = next((name for name in AXES if runs and name in runs[0]), None)
    if axis is None:
        return []
    points: dict[float, list[float]] = {}
    for run in runs:
        for step, value in zip(run[axis], run[head[-1]], strict=True):
            if math.isfinite(value):
                points.setdefault(float(step), []).append(float(value))
    steps = sorted(points)
    kept = {steps[round(i)] for i in np.linspace(0, len(steps) - 1, min(STEPS, len(steps)))}
    rows = []
    for step in sorted(kept):
        values = np.array(points[step])
        n, mean = values.size, float(values.mean())
        half = float(stats.t.ppf(0.975, n - 1) * values.std(ddof=1) / math.sqrt(n)) if n > 1 else 0.0
        rows.append([*head, axis, step, mean, mean - half, mean + half, n])
    return rows
