"""Statistics on curves: first passage of a level, order of what never passes it, slopes and rank agreement per unit.

Arrays of one row per unit; `passage`, `slope` and `agreement` are the same from tidy records, to be named in a card:

    statistic: {function: lossatlas.claims.curves.passage, args: {metric: test/rho, over: n, level: 0.9, upwards: true}}
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import ArrayLike

if TYPE_CHECKING:
    DataFrame = Any  # pandas has no stubs here


def log_steps(last: int, factor: float) -> list[int]:
    """0 and the whole numbers nearest to factor^k up to `last`, which is always there: when a long run is measured.

    Args:
        last: >= 0.
        factor: > 1.

    Raises:
        ValueError: factor <= 1 or last < 0.

    Example:
        >>> log_steps(20, 2.0)
        [0, 1, 2, 4, 8, 16, 20]
    """
    if not (factor > 1 and last >= 0):
        raise ValueError(f"log_steps needs factor > 1 and last >= 0, got {factor=}, {last=}")
    powers = factor ** np.arange(1 + int(np.log(max(last, 1)) / np.log(factor)))
    return sorted({0, last, *(int(t) for t in powers.round() if t <= last)})


def first_passage(t: ArrayLike, y: ArrayLike, level: float, upwards: bool = False) -> np.ndarray:
    """The first point of each curve that lies below the level; infinity (censored) where none does.

    Args:
        t: (T,) times, increasing.
        y: (..., T) values; a NaN has not passed.
        level: what is passed, from above.
        upwards: the first point at or above the level instead.

    Returns:
        (...) times, a float for a single curve. Nothing is interpolated: t's spacing is the resolution.

    Raises:
        ValueError: t and y of different length, or t not increasing.

    Example:
        >>> first_passage([0, 1, 10, 100], [[1.0, 0.3, 0.1, 0.0], [1.0, 0.9, 0.9, 0.9]], 0.2)
        array([10., inf])
    """
    t, y = np.asarray(t, float), np.asarray(y, float)
    if t.ndim != 1 or y.shape[-1:] != t.shape or not (np.diff(t) > 0).all():
        raise ValueError(
            f"first_passage needs increasing t (T,) and y (..., T), got {t.shape} and {y.shape}: one time a value"
        )
    passed = y >= level if upwards else y < level
    return np.where(passed.any(axis=-1), t[passed.argmax(axis=-1)], np.inf)


def slopes(x: ArrayLike, y: ArrayLike, log: str = "xy") -> np.ndarray:
    """Least-squares slope of each unit's curve, on the axes named in `log` as natural logarithms.

    Args:
        x: (k,) grid, k >= 2.
        y: (..., k) values. A NaN is left out; a unit with fewer than two points, or with a censored (infinite) one,
            whose slope nobody knows, gets NaN.
        log: "xy" for a power, "x" for y linear in log x, "y" for an exponential, "" for a line.

    Returns:
        (...) slopes.

    Raises:
        ValueError: x and y do not fit, another `log`, or a logarithm of a number <= 0.

    Example:
        >>> slopes([1, 10, 100], [[3.0, 0.3, 0.03], [2.0, 2.0, 2.0]])
        array([-1.,  0.])
    """
    x, y = np.asarray(x, float), np.asarray(y, float)
    if x.ndim != 1 or y.shape[-1:] != x.shape or len(np.unique(x)) < 2 or log not in ("xy", "x", "y", ""):
        raise ValueError(
            f"slopes needs x (k,) with two different values, y (..., k) and log one of xy, x, y or empty, got"
            f" {x.shape}, {y.shape} and {log=}"
        )
    for axis, values in (("x", x), ("y", y)):
        if axis in log and (values <= 0).any():
            raise ValueError(
                f"slopes takes the logarithm of {axis}, got {values.min():g}: leave {axis!r} out of log"
            )
    u, v = (np.log(x) if "x" in log else x), (np.log(y) if "y" in log else y)
    known = ~np.isnan(v)
    n = known.sum(axis=-1)
    w = known / np.maximum(n, 1)[..., None]
    du = u - (w * u).sum(axis=-1, keepdims=True)
    unknown = (n < 2) | np.isinf(v).any(axis=-1)
    v = np.where(np.isfinite(v), v, 0.0)
    spread = (w * du**2).sum(axis=-1)
    return np.where(unknown, np.nan, (w * du * v).sum(axis=-1) / np.where(spread > 0, spread, np.nan))


def kendall(x: ArrayLike, y: ArrayLike) -> np.ndarray:
    """Kendall's tau-b of each unit: whether two quantities order the same points alike, 1 for the same order.

    Args:
        x, y: (k,) or (..., k), k >= 2 points; equal values, two infinities among them, are ties.

    Returns:
        (...) in [-1, 1]; NaN where a unit has a NaN, or where all its x or all its y are tied.

    Raises:
        ValueError: x and y do not fit or have fewer than two points.

    Example:
        >>> kendall([1, 2, 3, 4], [[1, 2, 3, 4], [4, 3, 2, 1], [1, 2, 4, 3]]).round(3)
        array([ 1.   , -1.   ,  0.667])
    """
    x, y = np.asarray(x, float), np.asarray(y, float)
    if x.shape[-1:] != y.shape[-1:] or x.shape[-1] < 2:
        raise ValueError(f"kendall needs x and y of k >= 2 points each, got {x.shape} and {y.shape}")
    x, y = np.broadcast_arrays(x, y)
    i, j = np.triu_indices(x.shape[-1], 1)
    sx, sy = (1.0 * (v[..., i] > v[..., j]) - (v[..., i] < v[..., j]) for v in (x, y))
    pairs = np.sqrt((sx**2).sum(axis=-1) * (sy**2).sum(axis=-1))
    bad = np.isnan(x).any(axis=-1) | np.isnan(y).any(axis=-1) | (pairs == 0)
    return np.where(bad, np.nan, (sx * sy).sum(axis=-1) / np.where(bad, 1.0, pairs))


def passage(records: DataFrame, metric: str, over: str, level: float, upwards: bool = False) -> DataFrame:
    """`first_passage` of a metric along a condition whose values are numbers, per unit and arm.

    Args:
        records: tidy rows with `unit_id`, as a card's function gets them.

    Returns:
        unit, arm, value; infinity is never, NaN a unit that lacks a point.
    """
    (wide,) = _wide(records, [metric], [over])
    return _named(wide, first_passage(_numbers(wide), wide.to_numpy(float), level, upwards))


def slope(records: DataFrame, metric: str, over: str, log: str = "xy") -> DataFrame:
    """`slopes` of a metric along a condition whose values are numbers, per unit and arm; NaN where a point lacks."""
    (wide,) = _wide(records, [metric], [over])
    return _named(wide, slopes(_numbers(wide), wide.to_numpy(float), log))


def agreement(records: DataFrame, metric: str, against: str, over: Sequence[str]) -> DataFrame:
    """`kendall` of two metrics over the points of one or several conditions, per unit and arm."""
    x, y = _wide(records, [against, metric], list(over))
    return _named(y, kendall(x.to_numpy(float), y.to_numpy(float)))


def _wide(records: DataFrame, metrics: list[str], over: list[str]) -> list[DataFrame]:
    """Each metric with a row per unit and arm and a column per point, in the order of its numbers where it has any.

    Raises:
        NotRunError: no such metric, or a unit has several rows at a point.
    """
    from lossatlas.claims.grid import NotRunError
    from lossatlas.claims.spec import number_in

    lacks = [name for name in (*metrics, *over) if name not in records]
    if lacks:
        raise NotRunError(f"no record has {lacks[0]}")
    rows = records.dropna(subset=metrics)
    rows = rows[(rows[over] != "").all(axis=1)]
    if rows.empty:
        raise NotRunError(f"no run has {' and '.join(metrics)} at {', '.join(over)}")
    if rows.duplicated(["unit_id", "arm", *over]).any():
        raise NotRunError(
            f"several rows of a unit at one {', '.join(over)}: `where` must fix the other conditions"
        )
    index = ["unit_id", "arm"]
    wide = [rows.pivot(index=index, columns=over if len(over) > 1 else over[0], values=m) for m in metrics]
    order = sorted(wide[0].columns, key=lambda name: number_in(name) if len(over) == 1 else 0.0)
    return [part[order] for part in wide]


def _numbers(wide: DataFrame) -> list[float]:
    from lossatlas.claims.grid import UnfitError
    from lossatlas.claims.spec import number_in

    found = [number_in(name) for name in wide.columns]
    if np.isnan(found).any():
        raise UnfitError(f"{wide.columns.name} has values without a number: {', '.join(wide.columns)}")
    return found


def _named(wide: DataFrame, values: np.ndarray) -> DataFrame:
    whole = wide.notna().all(axis=1).to_numpy()
    flat = wide.index.to_frame(index=False)
    return flat.rename(columns={"unit_id": "unit"}).assign(value=np.where(whole, values, np.nan))


def censored_last(values: ArrayLike, ties: ArrayLike) -> np.ndarray:
    """Values with each infinity (never) replaced by a number above all others, in the order of `ties`.

    Ranks of the result put what never happened last, and of two such the one with the larger tie behind.

    Args:
        values: (...) times or what is made of them; +infinity is censored.
        ties: (...) e.g. the final test loss; NaN counts as infinite.

    Example:
        >>> censored_last([3.0, float("inf"), float("inf")], [0.0, 0.9, 0.4])
        array([3. , 4.9, 4.4])
    """
    values, ties = np.asarray(values, float), np.asarray(ties, float)
    censored = values == np.inf
    if not censored.any():
        return values
    known = np.isfinite(ties)
    low, high = (ties[known].min(), ties[known].max()) if known.any() else (0.0, 0.0)
    rest = values[np.isfinite(values)]
    start = rest.max() + 1.0 if rest.size else 0.0
    tail = start + np.where(known, ties, high + 1.0) - min(low, 0.0)
    return np.where(censored, tail, values)
