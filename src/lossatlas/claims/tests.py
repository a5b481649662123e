"""The statistical tests: vectors in, one `Result` out. Intervals are those of the tests: two-sided 90 %.

A one-sided test at 5 % rejects exactly when the limit lies outside the two-sided 90 % interval on the right
side, and two one-sided tests accept exactly when the 90 % interval lies inside the tolerance, so one
interval serves every kind.
Where every unit gives the same number there is no t: n equal signs have the exact probability 2^-n, and the
result says so. No p is 0.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass, field, replace

import numpy as np
from numpy.typing import ArrayLike
from scipy import special, stats

from lossatlas.claims import rows
from lossatlas.claims.rows import TINY

ALPHA = 0.05


@dataclass(frozen=True)
class Alone:
    """One comparison without each of its units in turn.

    Args:
        units: which one is left out.
        p, opposite, alike: (units,) as in `Result`; alike None where the claim has no such margin.
    """

    units: list[str]
    p: np.ndarray
    opposite: np.ndarray
    alike: np.ndarray | None


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
        size: distance of the effect from the limit in standard deviations of a unit, > 0 on the claim's side; NaN
            where there is none.
        refuted: one case proves the claim wrong (`never`).
        alike: p of "no difference"; None where the claim has no such margin.
        alone: the comparison without each of its units, worked out when it is asked for; None below 3 units.
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
    size: float = math.nan
    refuted: bool = False
    alike: float | None = None
    alone: Callable[[], Alone] | None = field(default=None, compare=False)


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
        distance = direction * (effect - limit)
        told = 0.0 if abs(distance) <= _dust(d, limit) else distance
        return _by_values(effect, told, d.size, side)
    # what stats.t calls, without its checks of arguments: a card asks for hundreds of these
    width = float(special.stdtrit(d.size - 1, 1 - ALPHA)) * error
    p, opposite = rows.t_rows(d[None], limit, direction, overlap)
    size = direction * (effect - limit) / (error / math.sqrt(1 / d.size + overlap))
    low, high = effect - width, effect + width
    return Result(effect, low, high, float(p[0]), float(opposite[0]), d.size, side, size=size)


def skewed_test(d: ArrayLike, limit: float, direction: int, overlap: float = 0.0) -> Result:
    """One-sided test of a mean whose units need not be symmetric: the largest p of t, bootstrap-t and Hall's t.

    t alone is wrong for skewed metrics (times, losses): with exponential units it rejects 17 % instead of 5 % at
    n = 5, bootstrap-t 9 %. Hall's (1992) cubic takes the skewness out of t; a sample of n shows too little of it, so
    it is taken 1 + 15 / n times, and below 8 units, which hardly show any, p counts double: 5 % for
    exponential units at n >= 5 and for log-normal ones of sigma .5, 5.5 to 8 % for sigma 1 (t alone 18 to 23 %).
    Args as `t_test`; the interval is the widest of the three on either side.
    """
    d = np.asarray(d, float)
    plain = t_test(d, limit, direction, overlap)
    if d.size < 3 or not math.isfinite(plain.size) or overlap:
        return plain
    n, error = d.size, _standard_error(d, 0.0)
    resampled = rows.bootstrap(d[None])
    p, opposite = rows.skewed_rows(d[None], limit, direction, resampled=resampled)
    skew = float(rows.skewness(d[None])[0]) / math.sqrt(n)
    level = ALPHA / rows.severity(n)
    critical = float(special.stdtrit(n - 1, 1 - level))
    ends = (len(resampled) * np.array([level, 1 - level])).astype(int)
    lowest, highest = np.sort(resampled[:, 0])[ends]
    lowest, highest = min(lowest, _unskewed(-critical, skew)), max(highest, _unskewed(critical, skew))
    return replace(
        plain,
        p=float(p[0]),
        p_opposite=float(opposite[0]),
        low=plain.effect - max(float(highest), critical) * error,
        high=plain.effect - min(float(lowest), -critical) * error,
    )


def _unskewed(hall: float, skew: float) -> float:
    """The t score of a value of Hall's cubic."""
    if abs(skew) < 1e-6:
        return hall
    return 3 * (float(np.cbrt(1 + skew * (hall - skew / 6))) - 1) / skew


def skewed_tost(d: ArrayLike, low: float, high: float, overlap: float = 0.0) -> Result:
    """`tost` of a mean whose units need not be symmetric."""
    return tost(d, low, high, overlap, skewed_test)


def tost(
    d: ArrayLike, low: float, high: float, overlap: float = 0.0, one_sided: Callable[..., Result] = t_test
) -> Result:
    """Two one-sided t tests: the mean of d lies inside (low, high).

    The opposite is a mean below low or above high, the smaller p of the two: of size 5 % unless the range is
    narrower than about half a standard error, where no claim could be confirmed anyway.
    """
    d = np.asarray(d, float)
    side = f"in ({low:.4g}, {high:.4g})"
    if (few := _too_few(d, side)) is not None:
        return few
    sides = [one_sided(d, low, 1, overlap), one_sided(d, high, -1, overlap)]
    p = max(result.p for result in sides if result.p is not None)
    opposite = min(result.p_opposite for result in sides if result.p_opposite is not None)
    size = min(result.size for result in sides)
    return replace(sides[0], p=p, p_opposite=opposite, limit=side, size=size)


def ratio_test(
    logs: ArrayLike,
    limit: float,
    direction: int,
    overlap: float = 0.0,
    one_sided: Callable[..., Result] = t_test,
) -> Result:
    """t on log ratios against log(limit); effect and interval are the geometric mean ratio."""
    result = one_sided(logs, math.log(limit), direction, overlap)
    side = f"{'>' if direction > 0 else '<'} {limit:.4g}"
    effect, low, high = (math.exp(v) for v in (result.effect, result.low, result.high))
    return replace(result, effect=effect, low=low, high=high, limit=side)


def never_test(
    values: ArrayLike, limit: float, direction: int, rate: float, trials: ArrayLike | None = None
) -> Result:
    """No violation in N random cases; a NaN violates, a value equal to the limit does not.

    Args:
        values: (n,) per unit; with trials the number of violations.
        limit, direction: a value beyond it violates, below it for direction 1.
        rate: violations rarer than this count as never.
        trials: (n,) how many cases each unit tried; without it one each.

    The effect is the rate seen, the interval Clopper and Pearson's of 90 % (so 95 % above), p the exact binomial
    probability of so few violations if their rate were `rate`. One violation refutes the claim, whatever N.
    """
    values = np.asarray(values, float)
    if trials is None:
        counts, total = int((~(direction * (values - limit) >= 0)).sum()), values.size  # NaN violates
    else:
        counts, total = int(np.nansum(values)), int(np.nansum(np.asarray(trials, float)))
        counts += int(np.isnan(values).sum())
    side = f"< {rate:.3g} (rate of violations)"
    if not 0 <= counts <= total or total == 0:
        return Result(math.nan, math.nan, math.nan, None, None, values.size, side, note="no case was tried")
    test = stats.binomtest(counts, total, rate, alternative="less")
    low, high = stats.binomtest(counts, total).proportion_ci(1 - 2 * ALPHA, method="exact")
    note = f"{counts} violations in {total} cases, rate at most {high:.2g} (95 %)"
    p = max(float(test.pvalue), TINY) if counts == 0 else 1.0
    return Result(counts / total, low, high, p, 1.0, values.size, side, note=note, refuted=counts > 0)


def order_test(values: ArrayLike, increasing: bool) -> Result:
    """Every adjacent step points the right way: the largest p of the steps (intersection-union).

    Args:
        values: (n, k) units by conditions, k >= 2, no NaN; infinities rank last, two of them tie.
        increasing: the direction claimed.

    A step is a paired t; where it meets an infinity, or all its differences are equal, the exact sign test, in
    which a tie counts against the claim. Shown is the weakest step.
    """
    values = np.asarray(values, float)
    k = values.shape[1]
    steps = [_step_test(values[:, i : i + 2], increasing, f"step {i + 1} of {k - 1}") for i in range(k - 1)]
    if any(step.p is None for step in steps):
        return next(step for step in steps if step.p is None)
    weakest = max(steps, key=lambda step: step.p or 0.0)
    opposite = min(1.0, (k - 1) * min(step.p_opposite or 1.0 for step in steps))
    return replace(weakest, p_opposite=opposite)


def _step_test(pair: np.ndarray, increasing: bool, name: str) -> Result:
    if np.isfinite(pair).all():
        result = t_test(pair[:, 1] - pair[:, 0], 0.0, 1 if increasing else -1)
        return replace(result, note="; ".join(text for text in (name, result.note) if text))
    signs = _compare(pair)
    result = sign_test(np.where(signs == 0, -1.0 if increasing else 1.0, signs), increasing)
    reverse = sign_test(np.where(signs == 0, 1.0 if increasing else -1.0, signs), increasing)
    return replace(result, p_opposite=reverse.p_opposite, note=f"{name}, sign test")


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
            _by_values(effect, 0.0, n, side), note="all conditions tie in every unit: decided by the values"
        )
    rising, falling = (
        float(stats.page_trend_test(r, ranked=True).pvalue) + TINY for r in (ranks, ranks[:, ::-1])
    )
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
        result = _by_values(0.0, 0.0, signs.size, side)
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


def _by_values(effect: float, distance: float, n: int, side: str) -> Result:
    """All units equal: n equal signs, of the exact probability 2^-n under a fair coin."""
    p, opposite = (2.0**-n if way * distance > 0 else 1.0 for way in (1, -1))
    note = "all units equal: exact sign probability 2^-n"
    return Result(effect, effect, effect, p, opposite, n, side, note=note)


def _test_width(effect: float, p: float, null_error: float) -> float:
    """Half-width of the interval that agrees with a test of that p; that of the null where p is near .5."""
    z, critical = float(stats.norm.isf(max(p, 1e-300))), float(stats.norm.isf(ALPHA))
    return abs(effect) * critical / z if z > 0.5 else critical * null_error
