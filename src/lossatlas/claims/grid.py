"""Points of the study's grid: select them, lay values on an axis, collapse an axis, subtract two points."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd

from lossatlas.claims.spec import MetricStatistic, canonical, number_in
from lossatlas.claims.tests import log_slopes
from lossatlas.records import condition_columns

if (
    TYPE_CHECKING
):  # pandas has no stubs here, and what pyright infers calls every column a Series or a DataFrame
    DataFrame = Series = Any
else:
    from pandas import DataFrame, Series

COLUMNS = ["unit", "arm", "condition", "step", "x", "value", "failed", "trials", "tie"]


class NotRunError(Exception):
    """The records cannot answer the claim; the text says what is missing."""


class UnfitError(Exception):
    """The records are there, but the test does not apply to their values (a logarithm of 0)."""


def canonicals(column: Series) -> np.ndarray:
    """(n,) `canonical` of a column's entries, each different text looked at once."""
    codes, different = pd.factorize(column, use_na_sentinel=False)
    return np.array([canonical(text) for text in different], object)[codes]


def where(rows: DataFrame, point: Mapping[str, str]) -> DataFrame:
    """The rows at a point of the grid.

    Raises:
        NotRunError: there are none.
    """
    for key, value in point.items():
        rows = rows[canonicals(_column(rows, key)) == canonical(value)]
        if rows.empty:
            raise NotRunError(f"no run at {key}={value}")
    return rows


def at(statistic: MetricStatistic, rows: DataFrame, point: Mapping[str, str]) -> tuple[DataFrame, list[str]]:
    """The values at one point (all COLUMNS but condition), and the steps of an axis that is kept."""
    part = where(rows, point)
    part = part.assign(unit=part["unit_id"], step="", x=np.nan)
    if statistic.arms != "arm":
        part = part.assign(arm=_column(part, statistic.arms))
    kept = [column for column in COLUMNS if column != "condition"]
    if statistic.over is None:
        _single(part, ["unit", "arm"])
        return part[kept], []
    part, x = _axis(part, statistic.over, statistic.values, statistic.reduce in (None, "slope"))
    if "arm" in statistic.over:
        part = part.assign(arm="")
    _single(part, ["unit", "arm", "step"])
    if statistic.reduce is None:
        return part[kept], list(x)
    return _reduced(part, statistic.reduce, x)[kept], []


def minus(first: DataFrame, second: DataFrame) -> DataFrame:
    """Values of one point less those of another; a unit that lacks one of them is a gap."""
    both = first.merge(second, on=["unit", "arm", "step"], how="outer", suffixes=("", "_2"))
    failed = both["failed"].combine(both["failed_2"], np.maximum)  # NaN, a gap, wins
    return both.assign(value=both["value"] - both["value_2"], failed=failed)[list(first.columns)]


def _column(rows: DataFrame, key: str) -> Series:
    if key != "arm" and key not in condition_columns(rows):
        raise NotRunError(f"no record has the condition {key}")
    return rows[key]


def _single(part: DataFrame, keys: Sequence[str]) -> None:
    """One row per unit, arm and step, or say which condition the statistic leaves open."""
    doubled = part[part.duplicated(list(keys), keep=False)]
    if doubled.empty:
        return
    first = doubled.iloc[0]
    same = doubled[(doubled["unit"] == first["unit"]) & (doubled["arm"] == first["arm"])]
    open_ = [column for column in condition_columns(part) if same[column].nunique() > 1]
    why = (
        f"`where` or `over` must fix {', '.join(open_)}" if open_ else "the same run with two configurations"
    )
    raise NotRunError(f"several values for {first['unit']}, {first['arm']}: {why}")


def _axis(
    part: DataFrame, over: Sequence[str], values: Sequence[str] | Mapping[str, float] | None, ordered: bool
) -> tuple[DataFrame, dict[str, float]]:
    """The rows on the axis with their `step` and `x`, and the number of each step, in order."""
    names = {key: canonicals(_column(part, key)) for key in over}
    step = names[over[0]]
    for key in over[1:]:
        step = step + " " + names[key]
    if values is not None:
        given = values if isinstance(values, Mapping) else {value: number_in(value) for value in values}
        x = {canonical(value): float(number) for value, number in given.items()}
        if missing := [value for value in given if canonical(value) not in set(step)]:
            raise NotRunError(f"no run at {over[0]}={', '.join(missing)}")
    else:
        x = {s: number_in(s) for s in sorted(set(step))}
        x = dict(sorted(x.items(), key=lambda item: item[1])) if not np.isnan(list(x.values())).any() else x
        if ordered and np.isnan(list(x.values())).any():
            raise NotRunError(
                f"{over[0]} has values without a number: the statistic must list `values` in order"
            )
    part = part.assign(step=step, x=[x.get(s, np.nan) for s in step])
    return part[part["step"].isin(list(x))], x


def _reduced(part: DataFrame, how: str, x: Mapping[str, float]) -> DataFrame:
    """Collapse the axis; a unit that lacks a step is a gap, one with a failed step has failed."""
    steps = list(x)
    wide = part.pivot(index=["unit", "arm"], columns="step", values="value")[steps]
    failed = (
        part.pivot(index=["unit", "arm"], columns="step", values="failed")[steps].to_numpy(float).max(axis=1)
    )
    values = wide.to_numpy(float)
    if how == "slope":
        if not (values[~np.isnan(values)] > 0).all() or not all(number > 0 for number in x.values()):
            raise UnfitError("a log-log slope needs values > 0 on an axis of numbers > 0")
        value = log_slopes(list(x.values()), values)
    elif how == "range":
        value = values.max(axis=1) - values.min(axis=1)
    else:
        value = {"mean": np.mean, "min": np.min, "max": np.max}[how](values, axis=1)
    flat = wide.index.to_frame(index=False)
    return flat.assign(value=value, failed=failed, step="", x=np.nan, trials=np.nan, tie=np.nan)
