"""From tidy records to one number per unit, arm and condition.

A unit is a seed; the repetitions inside one are averaged, unless the card says `units: independent`. A diverged run
stays in the table with the statistic's `worst`; failed and interrupted ones stay as gaps, so that they are counted as
missing: a crash says nothing about a method.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd

from lossatlas.claims import grid
from lossatlas.claims.card import load_function
from lossatlas.claims.grid import COLUMNS, NotRunError, UnfitError
from lossatlas.claims.spec import AnyStatistic, FunctionStatistic, MetricStatistic, canonical
from lossatlas.errors import UserError
from lossatlas.records import condition_columns, metric_columns

if (
    TYPE_CHECKING
):  # pandas has no stubs here, and what pyright infers calls every column a Series or a DataFrame
    DataFrame = Series = Any
else:
    from pandas import DataFrame, Series


REPETITION = r"(s-?\d+)u\d+"


@dataclass(frozen=True)
class Statistic:
    """The numbers a check works on.

    Args:
        table: columns unit, arm, condition (label of a where-list's point), step (name on the axis) and x
            (its number), value (NaN where a run diverged and the card has no `worst`), failed (1 diverged, 0, or
            NaN for a gap), trials, tie (orders censored values among themselves).
        steps: the axis' values in order, empty without an axis.
    """

    table: DataFrame
    steps: list[str]


def unit_ids(rows: DataFrame) -> Series:
    """`s3`, or `s3u7` for the units of a run: what pairs the arms."""
    seed = "s" + rows["seed"].astype(str)
    unit = rows["unit"].astype("Int64").astype("string")
    return seed.where(unit.isna(), seed + "u" + unit.fillna("")).astype(str)


def verdict_seeds(rows: DataFrame, seeds: str = "all") -> DataFrame:
    """Rows whose seed may count: first (< 100), fresh (>= 1000) or all of both; the rest are tuning."""
    first, fresh = rows["seed"] < 100, rows["seed"] >= 1000
    return rows[{"first": first, "fresh": fresh, "all": first | fresh}[seeds]]


def select(records: DataFrame, experiment: str, seeds: str = "all", scale: str | None = None) -> DataFrame:
    """The rows a claim may use, with `unit_id` and `failed` (0 done, 1 diverged, NaN failed or interrupted).

    Args:
        scale: the scale to use; without it laptop, or the only one there is.

    Raises:
        NotRunError: no run is done.
    """
    of = records["experiment"] == experiment
    if not of.any():
        raise NotRunError(f"no run of experiment {experiment}")
    scales = sorted(set(records.loc[of, "scale"]))
    if scale is None and len(scales) > 1 and "laptop" not in scales:
        raise NotRunError(f"runs at several scales ({', '.join(scales)}): the claim must name its `scale`")
    scale = scale or ("laptop" if "laptop" in scales else scales[0])
    if scale not in scales:
        raise NotRunError(f"no run of experiment {experiment} at scale {scale}")
    rows = verdict_seeds(records[of & (records["scale"] == scale)], seeds)
    if rows.empty:
        raise NotRunError(
            f"experiment {experiment} has no seed for verdicts ({seeds}; 100..999 are for tuning)"
        )
    if not (rows["status"] == "done").any():
        raise NotRunError(f"no run of experiment {experiment} is done")
    gap = rows["status"].isin(["interrupted", "failed"])
    if gap.any():
        repeated = rows.duplicated(["arm", *condition_columns(rows), "seed", "unit"], keep=False)
        rows = rows[~(gap & repeated)]
    failed = rows["status"].map({"done": 0.0, "diverged": 1.0})
    return rows.assign(failed=failed, unit_id=unit_ids(rows))


def needed(statistic: AnyStatistic, records: DataFrame) -> DataFrame:
    """The records with the columns that the statistic reads; a table of runs has dozens, and every filter copies them.

    A function gets them all.
    """
    if isinstance(statistic, FunctionStatistic):
        return records
    read = {statistic.metric, statistic.ties, statistic.trials}
    idle = {*metric_columns(records), "device", "commit", "config_hash", "extras"} - read
    return records[[column for column in records.columns if column not in idle]]


def compute(
    statistic: AnyStatistic, rows: DataFrame, censored: bool = False, independent: bool = False
) -> Statistic:
    """The statistic of rows made by `select`.

    Args:
        censored: a done run's NaN or infinity means "never", not a diverged run.
        independent: repetitions inside a seed stay units of their own.

    Raises:
        NotRunError: a metric, condition or step is missing, or one unit has several rows.
        UnfitError: a logarithm of a value <= 0.
        UserError: the named function cannot be imported.
    """
    if isinstance(statistic, FunctionStatistic):
        found = _from_function(statistic, rows)
        return found if independent else _per_seed(found)
    rows = _valued(statistic, _level(rows, statistic.metric), censored)
    pieces, steps = [], []
    for point in itertools.product(*statistic.where.values()):
        where = dict(zip(statistic.where, point, strict=True))
        label = " ".join(value for key, value in where.items() if len(statistic.where[key]) > 1)
        piece, steps = grid.at(statistic, rows, where)
        if statistic.minus is not None:
            piece = grid.minus(piece, grid.at(statistic, rows, {**where, **statistic.minus})[0])
        pieces.append(piece.assign(condition=label))
    found = Statistic(pd.concat(pieces, ignore_index=True)[COLUMNS], steps)
    return found if independent else _per_seed(found)


def _per_seed(statistic: Statistic) -> Statistic:
    """Repetitions of a seed averaged (trials summed); a seed that lacks one has a gap, one diverged has diverged."""
    table = statistic.table
    inside = table["unit"].str.fullmatch(REPETITION)
    if not inside.any():
        return statistic
    table = table.assign(unit=table["unit"].str.replace(REPETITION, r"\1", regex=True))
    counts = table["trials"].notna().any()
    keys = ["condition", "arm", "unit", "step"]
    groups = table.groupby(keys, sort=False, dropna=False)
    how = {"x": "first", "tie": "mean", "trials": "sum" if counts else "first"}
    merged = groups.agg(how)
    number, count = groups.ngroup().to_numpy(), len(merged)
    merged["value"] = (
        groups["value"].agg("sum") if counts else _per_group(table["value"], number, count, np.mean)
    )
    merged["failed"] = _per_group(table["failed"], number, count, np.max)
    return Statistic(merged.reset_index()[COLUMNS], statistic.steps)


def _per_group(values: Series, number: np.ndarray, count: int, how: Callable[..., Any]) -> np.ndarray:
    """`how` over the values of each group; a NaN stays one. All groups of one size at once."""
    order, sizes = np.argsort(number, kind="stable"), np.bincount(number, minlength=count)
    ordered, starts = values.to_numpy(float)[order], np.concatenate([[0], np.cumsum(sizes)])
    found = np.empty(count)
    for size in np.unique(sizes):
        which = np.flatnonzero(sizes == size)
        found[which] = how(ordered[starts[which][:, None] + np.arange(size)], axis=1)
    return found


def _level(rows: DataFrame, metric: str) -> DataFrame:
    """The units' rows if the metric is theirs, else the runs'.

    Raises:
        NotRunError: no done run has the metric.
    """
    if metric not in rows.columns or not pd.api.types.is_numeric_dtype(rows[metric]):
        raise NotRunError(f"no record has the metric {metric}")
    known = (rows["failed"] == 0) & rows[metric].notna()
    if not known.any():
        raise NotRunError(f"no done run has the metric {metric}")
    per_unit = rows["unit"].notna()
    if not (per_unit & known).any():
        return rows[~per_unit]
    rows = _expanded(rows)
    return rows[rows["unit"].notna()]


def _expanded(rows: DataFrame) -> DataFrame:
    """A run that died without units stands for each unit of the other runs of its seed (or of any seed)."""
    per_unit = rows["unit"].notna()
    lost = rows[(rows["failed"] != 0) & ~per_unit]
    if lost.empty or not per_unit.any():
        return rows
    known = rows[per_unit].groupby("seed")["unit"].unique()
    every = rows.loc[per_unit, "unit"].unique()
    spread = lost.assign(unit=[list(known.get(seed, every)) for seed in lost["seed"]]).explode("unit")
    both = pd.concat(
        [rows.drop(lost.index), spread.assign(unit=spread["unit"].astype("Int64"))], ignore_index=True
    )
    return both.assign(unit_id=unit_ids(both))


def _valued(statistic: MetricStatistic, rows: DataFrame, censored: bool) -> DataFrame:
    """Rows with `value`: the metric of done runs, the card's `worst` for diverged ones (NaN where it has none)."""
    value = rows[statistic.metric].astype(float).where(rows["failed"] == 0)
    finite, failed = pd.Series(np.isfinite(value), value.index), rows["failed"]
    if not censored:  # a done run whose loss is NaN has diverged; an arm that never has the metric lacks it
        logs_it = finite.groupby(rows["arm"]).transform("any")
        failed = failed.mask((failed == 0) & ~finite & logs_it, 1.0)
    worst = statistic.worst
    if statistic.minus is not None or statistic.reduce in ("range", "slope"):
        worst = None  # on which side it would speak is open
    value = value.mask(failed == 1, np.nan if worst is None else worst)
    if statistic.log:
        if (value <= 0).any():
            bad = rows.loc[(value <= 0).idxmax()]
            raise UnfitError(f"log needs {statistic.metric} > 0, not so in {bad['unit_id']}, {bad['arm']}")
        value = pd.Series(np.log(value), value.index)
    if statistic.ties is not None and statistic.ties not in rows:
        raise NotRunError(f"no record has the metric {statistic.ties}")
    trials = statistic.trials if isinstance(statistic.trials, int) else rows.get(statistic.trials, np.nan)
    others = {"trials": trials, "tie": rows.get(statistic.ties, np.nan)}
    return rows.assign(value=value, failed=failed, **others)


def _from_function(statistic: FunctionStatistic, rows: DataFrame) -> Statistic:
    function = load_function(statistic.function)
    rows = grid.where(rows, statistic.where)
    if statistic.metric is not None:
        rows = _level(rows, statistic.metric)
    whole = rows.groupby("seed")["failed"].transform(lambda flags: (flags == 0).all())
    rows = rows[
        whole.astype(bool)
    ]  # what a function makes of a lost run nobody can check: its seed is missing
    if rows.empty:
        raise NotRunError("no seed has all its runs done")
    try:
        table = function(rows.assign(failed=False), **statistic.args)
    except (NotRunError, UnfitError, UserError):
        raise
    except (
        Exception
    ) as error:  # a card's own function: its fault must not cost the other claims their verdicts
        text = " ".join(f"{type(error).__name__}: {error}".split())
        raise NotRunError(f"{statistic.function} raised {text}") from error
    if not isinstance(table, pd.DataFrame) or not {"unit", "value"} <= set(table.columns):
        raise NotRunError(f"{statistic.function} must return a DataFrame with the columns unit and value")
    if table.empty:
        raise NotRunError(f"{statistic.function} found nothing to compute")
    return _completed(statistic.function, table)


def _completed(function: str, table: DataFrame) -> Statistic:
    """What a function left out, filled with its default."""
    defaults = {"arm": "", "condition": "", "x": np.nan, "trials": np.nan, "tie": np.nan}
    table = table.assign(**{key: value for key, value in defaults.items() if key not in table})
    x = sorted(table["x"].dropna().unique())
    value = table["value"].astype(float)
    failed = table["failed"].astype(float) if "failed" in table else value.isna().astype(float)
    step = table["x"].map(canonical) if x else ""
    table = table.assign(step=step, value=value, failed=failed, unit=table["unit"].astype(str))
    if table.duplicated(["unit", "arm", "condition", "step"]).any():
        raise NotRunError(f"{function} returned a unit twice for one arm and condition")
    table = table.sort_values(["condition", "arm", "unit", "step"])  # the order of records must not matter
    return Statistic(table[COLUMNS].reset_index(drop=True), [canonical(v) for v in x])
