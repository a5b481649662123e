"""Which comparisons a check asks of a statistic: one `Result` for each comparator, arm and condition."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd

from lossatlas.claims import rows, tests
from lossatlas.claims.curves import censored_last, slopes
from lossatlas.claims.grid import NotRunError, UnfitError, canonicals
from lossatlas.claims.spec import Better, Bound, Check, Close, Never, Order, Ratio, Slope, Trend, canonical
from lossatlas.claims.statistics import Statistic
from lossatlas.claims.tests import Alone, Result

if TYPE_CHECKING:  # see statistics.py
    DataFrame = Any
else:
    from pandas import DataFrame


# of rows of units: p, opposite p, and p of "no difference" where the check has such a margin
Rows = Callable[[np.ndarray], tuple[np.ndarray, np.ndarray, np.ndarray | None]]


@dataclass(frozen=True)
class _Wide:
    """Units by columns (arms or steps), the units common to all of them."""

    values: np.ndarray  # (n, k); NaN: diverged without a worst value, or not finite
    failed: np.ndarray  # (n, k) diverged
    units: list[str]
    missing: frozenset  # units
    shown: frozenset  # (arm, step or arm, unit) of diverged runs

    def keep(self, whole: np.ndarray) -> _Wide:
        """The units of a mask; the others are missing."""
        lost = frozenset(unit for unit, stays in zip(self.units, whole, strict=True) if not stays)
        units = [unit for unit in self.units if unit not in lost]
        shown = frozenset(run for run in self.shown if run[-1] not in lost)
        return _Wide(self.values[whole], self.failed[whole], units, self.missing | lost, shown)

    @property
    def whole(self) -> _Wide:
        """Without units that have a diverged run or no number."""
        return self.keep(np.asarray(~(self.failed | np.isnan(self.values)).any(axis=1)))


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
    def test(d: np.ndarray) -> Result:
        result = tests.t_test(d, check.direction * check.margin, check.direction, check.overlap)
        if check.alike == 0 or result.p is None:
            return result
        return replace(result, alike=tests.tost(d, -check.alike, check.alike, check.overlap).p)

    def many(d: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray | None]:
        p, opposite = rows.t_rows(d, check.direction * check.margin, check.direction, check.overlap)
        inside = rows.tost_rows(d, -check.alike, check.alike, check.overlap)[0] if check.alike else None
        return p, opposite, inside

    results = []
    for arm in _arms(check, table):
        for other in check.than:
            wide, ways = _both_ways(_wide(table, "arm", [arm, other]), check.direction, check.margin)
            ways = [way[:, 0] - way[:, 1] for way in ways]
            results.append(_tested(test, many, ways, wide, f"{arm} - {other}"))
    return results


def _bound(check: Bound, table: DataFrame, steps: Sequence[str]) -> list[Result]:
    def test(d: np.ndarray) -> Result:
        return tests.skewed_test(d, check.limit, check.direction, check.overlap)

    def many(d: np.ndarray) -> tuple[np.ndarray, np.ndarray, None]:
        return *rows.skewed_rows(d, check.limit, check.direction, check.overlap), None

    results = []
    for arm in _arms(check, table):
        wide = _wide(table, "arm", [arm])
        against = check.direction * (wide.values[:, 0] - check.limit) < 0
        wide = wide.keep(~np.isnan(wide.values[:, 0]) & (~wide.failed[:, 0] | against))
        results.append(_tested(test, many, [wide.values[:, 0]], wide, arm))
    return results


def _never(check: Never, table: DataFrame, steps: Sequence[str]) -> list[Result]:
    results = []
    for arm in _arms(check, table):
        wide = _wide(table, "arm", [arm], finite=False)
        wide = wide.keep(~wide.failed[:, 0])
        trials = _of(table, arm).set_index("unit")["trials"].reindex(wide.units)
        tried = None if trials.isna().all() else trials.to_numpy()
        result = tests.never_test(wide.values[:, 0], check.limit, check.side, check.rate, tried)
        results.append(_told(result, wide, arm))
    return results


def _close(check: Close, table: DataFrame, steps: Sequence[str]) -> list[Result]:
    target = 0.0 if check.value is None else check.value
    two_sided = tests.tost if check.than else tests.skewed_tost  # differences of two arms are symmetric
    one_sided, low, high = (
        rows.t_rows if check.than else rows.skewed_rows,
        target - check.within,
        target + check.within,
    )

    def test(d: np.ndarray) -> Result:
        return two_sided(d, low, high, check.overlap)

    def many(d: np.ndarray) -> tuple[np.ndarray, np.ndarray, None]:
        return *rows.tost_rows(d, low, high, check.overlap, one_sided), None

    results = []
    for arm in _arms(check, table):
        for other in check.than or [None]:
            wide = _wide(table, "arm", [arm] if other is None else [arm, other]).whole
            d = wide.values[:, 0] - (0.0 if other is None else wide.values[:, 1])
            results.append(_tested(test, many, [d], wide, arm if other is None else f"{arm} - {other}"))
    return results


def _ratio(check: Ratio, table: DataFrame, steps: Sequence[str]) -> list[Result]:
    one_sided = tests.t_test if check.than else tests.skewed_test
    row, size = rows.t_rows if check.than else rows.skewed_rows, math.log1p(check.alike)

    def test(d: np.ndarray) -> Result:
        result = tests.ratio_test(d, check.limit, check.direction, check.overlap, one_sided)
        if check.alike == 0 or result.p is None:
            return result
        return replace(result, alike=tests.tost(d, -size, size, check.overlap, one_sided).p)

    def many(d: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray | None]:
        p, opposite = row(d, math.log(check.limit), check.direction, check.overlap)
        inside = rows.tost_rows(d, -size, size, check.overlap, row)[0] if check.alike else None
        return p, opposite, inside

    results = []
    for arm in _arms(check, table):
        for other in check.than or [None]:
            wide = _wide(table, "arm", [arm] if other is None else [arm, other])
            known = wide.values[~np.isnan(wide.values)]
            if not (known > 0).all():
                raise UnfitError(f"a ratio needs values > 0, got {known.min():.4g}")
            logs = np.log(wide.values)
            logs = logs if other is not None else np.column_stack([logs, np.zeros(len(logs))])
            flags = (
                wide.failed
                if other is not None
                else np.column_stack([wide.failed, np.zeros_like(wide.failed)])
            )
            wide = replace(wide, values=logs, failed=flags)
            wide, ways = _both_ways(wide, check.direction, check.direction * math.log(check.limit))
            ways = [way[:, 0] - way[:, 1] for way in ways]
            results.append(_tested(test, many, ways, wide, arm if other is None else f"{arm} / {other}"))
    return results


def _slope(check: Slope, table: DataFrame, steps: Sequence[str]) -> list[Result]:
    """Mean log-log (or semi-log) slope inside the range.

    One slope per unit and then t over units, not one regression through all points: the points of a unit
    share its draw (its data, its start), so their residuals are correlated, and a pooled regression would
    count every point as a unit.
    """
    low, high = check.between

    def test(d: np.ndarray) -> Result:
        return tests.tost(d, low, high, check.overlap)

    def many(d: np.ndarray) -> tuple[np.ndarray, np.ndarray, None]:
        return *rows.tost_rows(d, low, high, check.overlap), None

    x = table.drop_duplicates("step").set_index("step")["x"].reindex(list(steps)).to_numpy(float)
    if len(steps) < 2 or not (x > 0).all():
        raise NotRunError(f"a slope needs at least 2 steps with numbers > 0, got {x.tolist()}")
    results = []
    for arm in _arms(check, table):
        wide = _wide(_of(table, arm), "step", steps, arm).whole
        if not check.semi and not (wide.values > 0).all():
            raise UnfitError(f"a log-log slope needs values > 0, got {wide.values.min():.4g}")
        each = slopes(x, wide.values, "x" if check.semi else "xy")
        results.append(_tested(test, many, [each], wide, arm))
    return results


def _order(check: Order | Trend, table: DataFrame, steps: Sequence[str]) -> list[Result]:
    """Each step (order), or Page's test (trend).

    A done run's NaN or infinity is censored and ranks last (largest), censored values among themselves by the
    statistic's `ties`; a unit with a diverged run is missing.
    """
    compare = tests.page_test if isinstance(check, Trend) else tests.order_test

    def test(values: np.ndarray) -> Result:
        return compare(values, check.increasing)

    def many(values: np.ndarray) -> tuple[np.ndarray, np.ndarray, None]:
        if isinstance(check, Order) and np.isfinite(values).all():
            return *rows.order_rows(values, check.increasing), None
        found = [test(each) for each in values]  # ranks and signs have no rows of their own
        return np.array([r.p for r in found]), np.array([r.p_opposite for r in found]), None

    results = []
    if len(steps) < 2:
        raise NotRunError(f"a trend needs at least 2 steps, found {list(steps)}")
    for arm in _arms(check, table):
        wide = _wide(_of(table, arm), "step", steps, arm, finite=False)
        wide = wide.keep(np.asarray(~wide.failed.any(axis=1)))
        values = np.where(np.isnan(wide.values), np.inf, wide.values)
        censored = int(np.isinf(values).sum())
        if table["tie"].notna().any():
            tied = _of(table, arm).assign(value=_of(table, arm)["tie"])
            ties = _wide(tied, "step", steps, arm, finite=False)
            values = censored_last(values, ties.keep(np.isin(ties.units, wide.units)).values)
        result = _tested(test, many, [values], wide, arm)
        notes = [result.note, f"{censored} censored values ranked last" if censored else ""]
        results.append(replace(result, note="; ".join(note for note in notes if note)))
    return results


_KINDS: dict[type, Callable[..., list[Result]]] = {
    Better: _better,
    Bound: _bound,
    Never: _never,
    Close: _close,
    Slope: _slope,
    Order: _order,
    Trend: _order,
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
    grid, flags = values[common], failed[common] == 1
    if finite:
        grid = np.where(np.isfinite(grid), grid, np.nan)
        absent = np.isnan(grid).all(axis=0) & ~flags.any(axis=0)
        if len(units) and absent.any():
            raise NotRunError(f"{names[int(np.argmax(absent))]} has no finite value")
    shown = frozenset((arm, names[j], units[i]) for i, j in np.argwhere(flags))
    return _Wide(grid, flags, units, frozenset(every[~common]), shown)


def _both_ways(wide: _Wide, direction: int, margin: float) -> tuple[_Wide, list[np.ndarray]]:
    """Arm and comparator with what diverged filled in, once or in both ways that must agree.

    A diverged run of the arm counts with the card's `worst`, if that speaks against the claim. One of the comparator
    counts once with `worst` and once with the best value that the comparator reached; the larger p is the claim's.
    What has no such value is missing: a comparator that never ran to its end proves nothing.
    """
    values, flags = wide.values, wide.failed
    ends = values[~flags[:, 1] & ~np.isnan(values[:, 1]), 1]
    best = np.nan if ends.size == 0 else ends.max() if direction > 0 else ends.min()
    cautious = values.copy()
    cautious[:, 1] = np.where(flags[:, 1], best, values[:, 1])
    speaks_for = direction * (values[:, 0] - cautious[:, 1]) - margin > 0
    lost = np.isnan(values).any(axis=1) | np.isnan(cautious).any(axis=1) | (flags[:, 0] & speaks_for)
    kept = wide.keep(~lost)
    return kept, [kept.values, cautious[~lost]] if kept.failed[:, 1].any() else [kept.values]


def _tested(
    test: Callable[[np.ndarray], Result], many: Rows, ways: Sequence[np.ndarray], wide: _Wide, label: str
) -> Result:
    """The test of all units, and on demand that without each of them; of several ways the larger p."""

    def alone() -> Alone:
        found = [many(rows.left_out(way)) for way in ways]
        p, opposite = np.max([each[0] for each in found], axis=0), np.max([each[1] for each in found], axis=0)
        inside = None
        for each in found:
            if each[2] is not None:
                inside = each[2] if inside is None else np.maximum(inside, each[2])
        return Alone(wide.units, p, opposite, inside)

    result = _told(_agreeing(test, ways), wide, label)
    return replace(result, alone=alone) if len(wide.units) > 2 else result


def _agreeing(test: Callable[[np.ndarray], Result], ways: Sequence[np.ndarray]) -> Result:
    results = [test(way) for way in ways]
    if len(results) == 1 or results[0].p is None:
        return results[0]
    shown = max(results, key=lambda result: result.p or 0.0)
    opposite = max(result.p_opposite or 0.0 for result in results)
    alike = None if shown.alike is None else max(result.alike or 0.0 for result in results)
    return replace(shown, p_opposite=opposite, alike=alike)


def _told(result: Result, wide: _Wide, label: str) -> Result:
    return replace(result, label=label, failed=wide.shown, missing=wide.missing)
