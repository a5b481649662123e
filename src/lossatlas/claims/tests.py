"""The statistical tests: vectors in, one `Result` out. Intervals are those of the tests: two-sided 90 %.

A one-sided test at 5 % rejects exactly when the limit lies outside the two-sided 90 % interval on the right
side, and two one-sided tests accept exactly when the 90 % interval lies inside the tolerance, so one
interval serves every kind.
Where every unit gives the same number there is no t: the values decide (p 0 or 1), and the result says so.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import ArrayLike
from scipy import special, stats

ALPHA = 0.05


@dataclass(frozen=True)
class Result:
    """One comparison.

    Args:
        effect, low, high: estimate and its 90 % interval, in the statistic's units.
        p: of the claim's one-sided test; None where there are too few units.
        p_opposite: of the opposite one-sided test.
        n: units used.
        limit: what the claim asks of the effect, in words.
        label: which comparator and condition this is.
        failed, missing: (arm, unit) pairs counted as worst, units left out because an arm lacks them.
        note: what a reader must know, such as "all units equal".
    """

    effect: float
    low: float
    high: float
    p: float | None
    p_opposite: float | None
    n: int
    limit: str = ""
    label: str = ""
    failed: frozenset = frozenset()
    missing: frozenset = frozenset()
    note: str = ""


def t_test(d: ArrayLike, limit: float, direction: int, overlap: float = 0.0) -> Result:
    """One-sided t of the mean of d against limit.

    Args:
        d: (n,) one value (or paired difference) per unit, finite.
        limit: value under the null hypothesis.
        direction: 1 if the claim is mean > limit, -1 if mean < limit.
        overlap: n_test / n_train of overlapping random splits; the variance of the mean is then
            (1/n + overlap) s^2 (Nadeau and Bengio 2003), 0 for independent units.

    Example:
        >>> t_test([1.0, 2.0, 3.0], limit=0.0, direction=1).n
        3
    """
    d = np.asarray(d, float)
    side = f"{'>' if direction > 0 else '<'} {limit + 0.0:.4g}"  # + 0.0: a margin of -0 reads 0
    if (few := _too_few(d, side)) is not None:
        return few
    effect, error = float(d.mean()), _standard_error(d, overlap)
    if error == 0:
        ahead = direction * (effect - limit) > _dust(d, limit)
        return _by_values(effect, ahead, d.size, side)
    freedom, score = d.size - 1, direction * (effect - limit) / error
    # what stats.t calls, without its checks of arguments: a card asks for hundreds of these
    width = float(special.stdtrit(freedom, 1 - ALPHA)) * error
    p, opposite = float(special.stdtr(freedom, -score)), float(special.stdtr(freedom, score))
    return Result(effect, effect - width, effect + width, p, opposite, d.size, side)


def tost(d: ArrayLike, low: float, high: float, overlap: float = 0.0) -> Result:
    """Two one-sided t tests: the mean of d lies inside (low, high).

    The opposite is a mean below low or above high, the smaller p of the two: of size 5 % unless the range is
    narrower than about half a standard error, where no claim could be confirmed anyway.
    """
    d = np.asarray(d, float)
    side = f"in ({low:.4g}, {high:.4g})"
    if (few := _too_few(d, side)) is not None:
        return few
    sides = [t_test(d, low, 1, overlap), t_test(d, high, -1, overlap)]
    p = max(result.p for result in sides if result.p is not None)
    opposite = min(result.p_opposite for result in sides if result.p_opposite is not None)
    return replace(sides[0], p=p, p_opposite=opposite, limit=side)


def ratio_test(logs: ArrayLike, limit: float, direction: int, overlap: float = 0.0) -> Result:
    """t on log ratios against log(limit); effect and interval are the geometric mean ratio."""
    result = t_test(logs, math.log(limit), direction, overlap)
    side = f"{'>' if direction > 0 else '<'} {limit:.4g}"
    effect, low, high = (math.exp(v) for v in (result.effect, result.low, result.high))
    return replace(result, effect=effect, low=low, high=high, limit=side)


def exact_bound(values: ArrayLike, limit: float, direction: int, trials: ArrayLike | None = None) -> Result:
    """No violation in N: decided by the values, a NaN violates; a value equal to the limit does not.

    Args:
        values: (n,) per unit; with trials the number of violations, and limit is the number allowed.
        trials: (n,) how often each unit was tried.

    The note gives the upper 95 % limit of Clopper and Pearson on the rate of violations: zero violations in
    N is not never.
    """
    values = np.asarray(values, float)
    sign = ">=" if direction > 0 else "<="
    held = direction * (values - limit) >= 0  # False for NaN
    counts, total = int((~held).sum()), values.size
    if trials is not None:
        counts, total = int(np.nansum(values)), int(np.nansum(np.asarray(trials, float)))
    worst = float(np.min(values) if direction > 0 else np.max(values)) if values.size else math.nan
    result = _by_values(
        worst, bool(held.all()) and values.size > 0, values.size, f"{sign} {limit:.4g} always"
    )
    if not 0 <= counts <= total or total == 0:
        return replace(result, note="exact: decided by the values")
    upper = (
        stats.binomtest(counts, total).proportion_ci(0.90, method="exact").high
    )  # 90 % two-sided: 95 % above
    return replace(result, note=f"exact: {counts} violations in {total}, rate at most {upper:.2g} (95 %)")


def page_test(values: ArrayLike, increasing: bool) -> Result:
    """Page's trend test: values rise (fall) along the axis in the units taken together.

    Args:
        values: (n, k) units by conditions, k >= 2, no NaN; infinities rank at the ends, equal values share a
            rank.
        increasing: the direction claimed.

    The effect is the mean rank correlation (Spearman) of value and axis, of which Page's L is a linear
    function. The interval is the test's turned round, effect -+ effect z(.95) / z(p): it excludes 0 exactly
    when the test rejects. Two conditions give the sign test, which Page's test is there.
    """
    values = np.asarray(values, float)
    n, k = values.shape
    side = f"{'> 0' if increasing else '< 0'} (rank correlation)"
    if n < 2:
        return Result(math.nan, math.nan, math.nan, None, None, n, side, note="needs at least 2 units")
    if k == 2:
        return sign_test(_compare(values), increasing)
    ranks = stats.rankdata(values, axis=1)
    axis = np.arange(k) - (k - 1) / 2
    effect = float((ranks @ axis).mean() / (axis @ axis))
    if np.ptp(ranks) == 0:
        return replace(
            _by_values(effect, False, n, side), note="all conditions tie in every unit: decided by the values"
        )
    rising, falling = (float(stats.page_trend_test(r, ranked=True).pvalue) for r in (ranks, ranks[:, ::-1]))
    width = _test_width(effect, min(rising, falling), 1 / math.sqrt(n * (k - 1)))
    low, high = max(effect - width, -1.0), min(effect + width, 1.0)
    p, opposite = (rising, falling) if increasing else (falling, rising)
    return Result(effect, low, high, p, opposite, n, side)


def sign_test(signs: ArrayLike, increasing: bool) -> Result:
    """Exact sign test on (n,) signs, ties dropped. The effect is the share of rises less that of falls."""
    signs = np.asarray(signs, float)
    side = f"{'> 0' if increasing else '< 0'} (rises - falls)"
    rises, told = int((signs > 0).sum()), int((signs != 0).sum())
    if told == 0:
        result = _by_values(0.0, False, signs.size, side)
        return replace(result, note="all conditions tie in every unit: decided by the values")
    test = stats.binomtest(rises, told, alternative="greater")
    reverse = stats.binomtest(rises, told, alternative="less").pvalue
    ends = stats.binomtest(rises, told).proportion_ci(1 - 2 * ALPHA, method="exact")
    p, opposite = (float(test.pvalue), float(reverse)) if increasing else (float(reverse), float(test.pvalue))
    dropped = f"{signs.size - told} ties dropped" if told < signs.size else ""
    return Result(
        2 * rises / told - 1, 2 * ends.low - 1, 2 * ends.high - 1, p, opposite, signs.size, side, note=dropped
    )


def log_slopes(x: ArrayLike, y: ArrayLike) -> np.ndarray:
    """(n,) least-squares slopes of log y (n, k) on log x (k,), both > 0."""
    lx, ly = np.log(np.asarray(x, float)), np.log(np.asarray(y, float))
    lx = lx - lx.mean()
    return ly @ lx / (lx @ lx)


def _compare(pairs: np.ndarray) -> np.ndarray:
    """Signs of the second minus the first, where two infinities are a tie and not NaN."""
    return (pairs[:, 1] > pairs[:, 0]).astype(float) - (pairs[:, 1] < pairs[:, 0])


def _dust(d: np.ndarray, limit: float = 0.0) -> float:
    """Size of differences that are rounding only."""
    return 1e-12 * max(1e-300, float(np.abs(d).max()), abs(limit))


def _standard_error(d: np.ndarray, overlap: float) -> float:
    spread = float(d.std(ddof=1))
    return 0.0 if spread <= _dust(d) else spread * math.sqrt(1 / d.size + overlap)


def _too_few(d: np.ndarray, side: str) -> Result | None:
    if d.size >= 2:
        return None
    effect = float(d[0]) if d.size else math.nan
    return Result(effect, math.nan, math.nan, None, None, d.size, side, note="needs at least 2 units")


def _by_values(effect: float, holds: bool, n: int, side: str) -> Result:
    p = 0.0 if holds else 1.0
    return Result(effect, effect, effect, p, 1 - p, n, side, note="all units equal: decided by the values")


def _test_width(effect: float, p: float, null_error: float) -> float:
    """Half-width of the interval that agrees with a test of that p; that of the null where p is near .5."""
    z, critical = float(stats.norm.isf(max(p, 1e-300))), float(stats.norm.isf(ALPHA))
    return abs(effect) * critical / z if z > 0.5 else critical * null_error
