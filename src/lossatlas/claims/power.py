"""How many units a claim would have needed."""

from __future__ import annotations

import math

import numpy as np
from scipy import stats

from lossatlas.claims.tests import Result

POWER, MOST = 0.8, 100_000


def units_needed(result: Result, level: float, power: float = POWER) -> int | None:
    """Units at which the result's one-sided test would have the power, if the effect seen were the true one.

    Args:
        result: of a t test, whose `size` is the effect in standard deviations beyond the limit; of another kind its p
            stands for the distance (normal approximation).
        level: of the one-sided test, after a correction.

    Returns:
        None where the effect lies on the wrong side of the limit, or more than 100 000 units would be needed.

    Example:
        >>> units_needed(Result(1.0, 0.4, 1.6, 0.01, 0.99, 10, size=1.0), level=0.05)
        8
    """
    if math.isfinite(result.size):
        return _t_units(result.size, level, power) if result.size > 0 else None
    if result.p is None or not result.p < 0.5 or result.refuted:
        return None
    goal = float(stats.norm.isf(level) + stats.norm.isf(1 - power))
    return max(2, math.ceil(result.n * (goal / float(stats.norm.isf(result.p))) ** 2))


def _t_units(size: float, level: float, power: float) -> int | None:
    """Smallest n by bisection; the power of the one-sided t rises with n."""

    def enough(n: int) -> bool:
        critical = stats.t.isf(level, n - 1)
        return bool(stats.nct.sf(critical, n - 1, size * math.sqrt(n)) >= power)

    goal = float(stats.norm.isf(level) + stats.norm.isf(1 - power))
    low, high = 1, 2
    high = max(high, int(np.minimum((goal / size) ** 2 + 4 * goal**2, MOST)) + 2)
    if high > MOST or not enough(high):
        return None
    while high - low > 1:
        middle = (low + high) // 2
        low, high = (low, middle) if enough(middle) else (middle, high)
    return high
