"""Which comparisons a check asks of a statistic: one `Result` for each comparator, arm and condition."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd

from lossatlas.claims import tests
from lossatlas.claims.curves import censored_last
from lossatlas.claims.grid import NotRunError, UnfitError, canonical, canonicals
from lossatlas.claims.spec import Better, Bound, Check, Close, Order, Ratio, Slope
from lossatlas.claims.statistics import Statistic
from lossatlas.claims.tests import Result

if TYPE_CHECKING:  # see statistics.py
    DataFrame = Any
else:
    from pandas import DataFrame


@dataclass(frozen=True)
class _Wide:
    """Units by columns (arms or steps), the units common to all of them."""

    values: np.ndarray  # (n, k); NaN: failed without a worst value, or not finite
    failed: np.ndarray  # (n, k)
    units: list[str]
    missing: frozenset  # units
    shown: frozenset  # (arm, step or arm, unit) of failed runs

    @property
    def lost(self) -> np.ndarray:
        """(n,) units with a value nobody knows."""
        return np.asarray(np.isnan(self.values).any(axis=1))


def run_check(check: Check, statistic: Statistic) -> list[Result]:
    """All comparisons of a check; the claim needs every one of them.

    Raises:
        NotRunError: an arm is missing in a condition.
        UnfitError: a ratio or slope of values <= 0.
    """
    results = []
    for condition, table in statistic.table.groupby("condition", sort=False):
        for result in _KINDS[type(check)](check, table, statistic.steps):
            label = " ".join(part for part in (result.label, f"at {condition}" if condition else "") if part)
            failed = frozenset((condition, run) for run in result.failed)
            missing = frozenset((condition, unit) for unit in result.missing)
            results.append(replace(result, label=label, failed=failed, missing=missing))
    return results


def _better(check: Better, table: DataFrame, steps: Sequence[str]) -> list[Result]:
    arms = _arms(check, table)
    wide = _worst_filled(_wide(table, "arm", [*arms, *check.than]), table, check.direction)
    results = []
    for i, arm in enumerate(arms):
        for j, other in enumerate(check.than, len(arms)):
            d = wide.values[:, i] - wide.values[:, j]
            result = tests.t_test(d, check.direction * check.by, check.direction, check.overlap)
            results.append(_told(result, wide, f"{arm} - {other}"))
    return results


def _bound(check: Bound, table: DataFrame, steps: Sequence[str]) -> list[Result]:
    results = []
    for arm in _arms(check, table):
        wide = _wide(table, "arm", [arm])
        if check.exact:
            trials = _of(table, arm).set_index("unit")["trials"].reindex(wide.units)
            tried = None if trials.isna().all() else trials.to_numpy()
            result = tests.exact_bound(wide.values[:, 0], check.limit, check.direction, tried)
        else:
            wide = _worst_filled(wide, table, check.direction)
            result = tests.t_test(wide.values[:, 0], check.limit, check.direction, check.overlap)
        results.append(_told(result, wide, arm))
    return results


def _close(check: Close, table: DataFrame, steps: Sequence[str]) -> list[Result]:
    target = 0.0 if check.value is None else check.value
    results = []
    for arm in _arms(check, table):
        for other in check.than or [None]:
            wide = _wide(table, "arm", [arm] if other is None else [arm, other])
            d = wide.values[:, 0] - (0.0 if other is None else wide.values[:, 1])
            d = _farthest(d, wide.lost, target)
            result = tests.tost(d, target - check.within, target + check.within, check.overlap)
            results.append(_told(result, wide, arm if other is None else f"{arm} - {other}"))
    return results


def _ratio(check: Ratio, table: DataFrame, steps: Sequence[str]) -> list[Result]:
    results = []
    for arm in _arms(check, table):
        for other in check.than or [None]:
            wide = _wide(table, "arm", [arm] if other is None else [arm, other])
            wide = _worst_filled(wide, table, check.direction)
            if not (wide.values > 0).all():
                raise UnfitError(f"a ratio needs values > 0, got {wide.values.min():.4g}")
            logs = np.log(wide.values)
            d = logs[:, 0] - (0.0 if other is None else logs[:, 1])
            result = tests.ratio_test(d, check.limit, check.direction, check.overlap)
            results.append(_told(result, wide, arm if other is None else f"{arm} / {other}"))
    return results


def _slope(check: Slope, table: DataFrame, steps: Sequence[str]) -> list[Result]:
    """Mean log-log slope inside the range.

    One slope per unit and then t over units, not one regression through all points: the points of a unit
    share its draw (its data, its start), so their residuals are correlated, and a pooled regression would
    count every point as a unit.
    """
    low, high = check.between
    x = table.drop_duplicates("step").set_index("step")["x"].reindex(list(steps)).to_numpy(float)
    if len(steps) < 2 or not (x > 0).all():
        raise NotRunError(f"a slope needs at least 2 steps with numbers > 0, got {x.tolist()}")
    results = []
    for arm in _arms(check, table):
        wide = _wide(_of(table, arm), "step", steps, arm)
        known = wide.values[~wide.lost]
        if not (known > 0).all():
            raise UnfitError(f"a log-log slope needs values > 0, got {known.min():.4g}")
        slopes = np.full(len(wide.units), np.nan)
        slopes[~wide.lost] = tests.log_slopes(x, known)
        slopes = _farthest(slopes, wide.lost, (low + high) / 2)
        results.append(_told(tests.tost(slopes, low, high, check.overlap), wide, arm))
    return results


def _order(check: Order, table: DataFrame, steps: Sequence[str]) -> list[Result]:
    """Page's test.

    A done run's NaN or infinity is censored and ranks last (largest), censored values among themselves by the
    statistic's `ties`; a failed run without a worst value takes the end of the ranks that speaks against the claim.
    """
    results = []
    if len(steps) < 2:
        raise NotRunError(f"a trend needs at least 2 steps, found {list(steps)}")
    for arm in _arms(check, table):
        wide = _wide(_of(table, arm), "step", steps, arm, finite=False)
        middle = (len(steps) - 1) / 2
        against = np.where(np.arange(len(steps)) >= middle, -np.inf, np.inf) * (1 if check.increasing else -1)
        unknown = np.isnan(wide.values)
        values = np.where(unknown, np.where(wide.failed, against, np.inf), wide.values)
        censored = int((unknown & ~wide.failed).sum() + np.isinf(wide.values).sum())
        if table["tie"].notna().any():
            ties = _wide(
                _of(table, arm).assign(value=_of(table, arm)["tie"]), "step", steps, arm, finite=False
            )
            values = np.where(wide.failed, values, censored_last(values, ties.values))
        result = _told(tests.page_test(values, check.increasing), wide, arm)
        notes = [result.note, f"{censored} censored values ranked last" if censored else ""]
        results.append(replace(result, note="; ".join(note for note in notes if note)))
    return results


_KINDS: dict[type, Callable[..., list[Result]]] = {
    Better: _better,
    Bound: _bound,
    Close: _close,
    Slope: _slope,
    Order: _order,
    Ratio: _ratio,
}


def _arms(check: Check, table: DataFrame) -> list[str]:
    """The check's arms; without any, the only one of the statistic."""
    if check.arm:
        return list(check.arm)
    found = list(dict.fromkeys(table["arm"]))
    if len(found) > 1:
        raise NotRunError(f"check.arm must name one of the arms {', '.join(found)}")
    return found


def _of(table: DataFrame, arm: str) -> DataFrame:
    part = table[canonicals(table["arm"]) == canonical(arm)]
    if part.empty:
        raise NotRunError(f"no run of arm {arm}")
    return part


def _wide(table: DataFrame, key: str, names: Sequence[str], arm: str = "", finite: bool = True) -> _Wide:
    """Units by the named arms (or steps): common units only; the others and failed runs go to the remark."""
    columns = [canonical(name) for name in names]
    codes, different = pd.factorize(table[key], use_na_sentinel=False)
    known = [canonical(text) for text in different]
    for column, name in zip(columns, names, strict=True):
        if column not in known:
            raise NotRunError(f"no run of {'arm ' if key == 'arm' else ''}{name}")
    order = {column: j for j, column in enumerate(dict.fromkeys(columns))}
    place = np.array([order.get(text, -1) for text in known])[codes]  # each row's column
    on = np.asarray(place >= 0)
    rows = table[on]
    place, (unit, every) = place[on], pd.factorize(rows["unit"], sort=True)
    # the work of a pivot, whose sorting and indices would take most of a study's end
    values, failed = np.full((2, len(every), len(order)), np.nan)
    if np.bincount(unit * len(order) + place).max() > 1:
        raise ValueError(f"a unit has two rows for one of {', '.join(names)}")
    values[unit, place], failed[unit, place] = rows["value"], rows["failed"]
    twice = [order[column] for column in columns]
    values, failed = values[:, twice], failed[:, twice]
    common = np.asarray(~np.isnan(failed).any(axis=1))
    units = [str(one) for one in every[common]]
    if not units:
        raise NotRunError(f"no unit has a run of each of {', '.join(names)}")
    grid, flags = values[common], failed[common] == 1
    if finite:
        grid = np.where(np.isfinite(grid), grid, np.nan)
        absent = np.isnan(grid).all(axis=0) & ~flags.all(axis=0)
        if absent.any():
            raise NotRunError(f"{names[int(np.argmax(absent))]} has no finite value")
    shown = frozenset((arm, names[j], units[i]) for i, j in np.argwhere(flags))
    return _Wide(grid, flags, units, frozenset(every[~common]), shown)


def _worst_filled(wide: _Wide, table: DataFrame, direction: int) -> _Wide:
    """Failed runs without a value get the worst one of all arms' done runs."""
    done = table.loc[table["failed"] == 0, "value"].to_numpy(float)
    done = done[np.isfinite(done)]
    if done.size == 0:
        raise NotRunError("no run is done")
    worst = done.min() if direction > 0 else done.max()
    return replace(wide, values=np.where(np.isnan(wide.values), worst, wide.values))


def _farthest(d: np.ndarray, lost: np.ndarray, target: float) -> np.ndarray:
    """Failed units count with the value that lies farthest from the target."""
    known = d[~lost]
    if known.size == 0:
        raise NotRunError("no run is done")
    return np.where(lost, known[np.argmax(np.abs(known - target))], d)


def _told(result: Result, wide: _Wide, label: str) -> Result:
    return replace(result, label=label, failed=wide.shown, missing=wide.missing)
