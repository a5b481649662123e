"""p-values of many samples at once: (m, n) rows of n units in, (m,) one-sided p and opposite p out.

The tests of tests.py are one row of these. A claim without each of its units in turn is n rows of n - 1 (`left_out`),
which as single tests took most of a study's end.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable
from functools import lru_cache

import numpy as np
from scipy import special

TINY = float(np.finfo(float).tiny)  # no p is 0
RESAMPLES = 2000
FEW = 8  # units: fewer do not show how skewed they are
Pair = tuple[np.ndarray, np.ndarray]  # p and opposite p


def left_out(values: np.ndarray) -> np.ndarray:
    """The sample without each of its units in turn.

    Shapes:
        (n, ...) -> (n, n - 1, ...)

    Example:
        >>> left_out(np.array([1.0, 2.0, 3.0])).tolist()
        [[2.0, 3.0], [1.0, 3.0], [1.0, 2.0]]
    """
    kept = np.arange(len(values) - 1)
    return values[kept + (kept >= np.arange(len(values))[:, None])]


def t_rows(d: np.ndarray, limit: float, direction: int, overlap: float = 0.0) -> Pair:
    """One-sided t of each row's mean against limit; args as `tests.t_test`, d (m, n) with n >= 2.

    A row of equal values has the exact probability 2^-n of n equal signs.
    """
    score, error, size = _scores(d, limit, overlap)
    n = d.shape[1]
    p, opposite = (special.stdtr(n - 1, way * direction * score) for way in (-1, 1))
    if (flat := error == 0).any():
        gap = direction * (d.mean(axis=1) - limit)
        told = np.where(np.abs(gap) <= _dust(np.maximum(size, abs(limit))), 0.0, gap)
        p = np.where(flat, np.where(told > 0, 2.0**-n, 1.0), p)
        opposite = np.where(flat, np.where(told < 0, 2.0**-n, 1.0), opposite)
    return np.maximum(p, TINY), np.maximum(opposite, TINY)


def skewed_rows(
    d: np.ndarray,
    limit: float,
    direction: int,
    overlap: float = 0.0,
    resampled: np.ndarray | None = None,
) -> Pair:
    """`tests.skewed_test` of each row: the largest p of t, bootstrap-t and Hall's t, times `severity`.

    Args:
        resampled: (B, m) from `bootstrap`, where it is there already.
    """
    n, plain = d.shape[1], t_rows(d, limit, direction, overlap)
    if n < 3 or overlap:
        return plain
    score, error, _ = _scores(d, limit, 0.0)
    scores, skew = bootstrap(d) if resampled is None else resampled, skewness(d) / math.sqrt(n)
    hall = score + skew * score**2 / 3 + skew**2 * score**3 / 27 + skew / 6
    above = np.maximum((scores >= score).mean(axis=0), special.stdtr(n - 1, -hall))
    below = np.maximum((scores <= score).mean(axis=0), special.stdtr(n - 1, hall))
    stricter = (above, below) if direction > 0 else (below, above)
    strict = (np.minimum(severity(n) * np.maximum(plain[i], stricter[i]), 1.0) for i in (0, 1))
    p, opposite = (np.where(error == 0, plain[i], one) for i, one in enumerate(strict))
    return p, opposite


def severity(n: int) -> float:
    """What the p of a skewed sample of n is multiplied by."""
    return 2.0 if n < FEW else 1.0


def tost_rows(
    d: np.ndarray, low: float, high: float, overlap: float = 0.0, one_sided: Callable[..., Pair] = t_rows
) -> Pair:
    """`tests.tost` of each row: inside (low, high), and the opposite."""
    sides = [one_sided(d, low, 1, overlap), one_sided(d, high, -1, overlap)]
    return np.maximum(sides[0][0], sides[1][0]), np.minimum(sides[0][1], sides[1][1])


def order_rows(values: np.ndarray, increasing: bool) -> Pair:
    """`tests.order_test` of each (n, k) of finite values (m, n, k): every adjacent step a t, the largest p."""
    steps = np.diff(values, axis=2)
    found = [t_rows(steps[:, :, i], 0.0, 1 if increasing else -1) for i in range(steps.shape[2])]
    opposite = np.min([step[1] for step in found], axis=0)
    return np.max([step[0] for step in found], axis=0), np.minimum(1.0, len(found) * opposite)


def skewness(d: np.ndarray) -> np.ndarray:
    """(m,) skewness of each row, 1 + 15 / n times the unbiased estimate; 0 for equal values. n >= 3."""
    n, rest = d.shape[1], d - d.mean(axis=1, keepdims=True)
    second = (rest**2).mean(axis=1)
    raw = (rest**3).mean(axis=1) / np.where(second > 0, second, 1.0) ** 1.5
    return raw * math.sqrt(n * (n - 1)) / (n - 2) * (1 + 15 / n)


def bootstrap(d: np.ndarray) -> np.ndarray:
    """t scores of resamples about each row's mean: all up to n = 5, else 2000 drawn with a fixed seed.

    Shapes:
        (m, n) -> (B, m)
    """
    n, counts = d.shape[1], _resamples(d.shape[1])
    rest = d - d.mean(axis=1, keepdims=True)
    centred = counts @ rest.T / n
    error = np.sqrt(np.maximum(counts @ rest.T**2 - n * centred**2, 0.0) / (n - 1) / n)
    flat = error <= 1e-7 * np.abs(rest).max(axis=1)
    # a resample without spread is infinitely far out, on the side of its mean
    return np.where(flat, np.sign(centred) * 1e9, centred / np.where(flat, 1.0, error))


def _scores(d: np.ndarray, limit: float, overlap: float) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """(m,) t scores, their standard errors (0 where the values are equal up to rounding), largest sizes."""
    size, spread = np.abs(d).max(axis=1), d.std(axis=1, ddof=1)
    error = np.where(spread <= _dust(size), 0.0, spread * math.sqrt(1 / d.shape[1] + overlap))
    return (d.mean(axis=1) - limit) / np.where(error == 0, 1.0, error), error, size


def _dust(size: np.ndarray) -> np.ndarray:
    """Differences that are rounding only, of numbers of that size."""
    return 1e-12 * np.maximum(size, 1e-300)


@lru_cache(maxsize=64)
def _resamples(n: int) -> np.ndarray:
    """(B, n) how often each unit is drawn."""
    if n <= 5:
        drawn = np.array(list(itertools.product(range(n), repeat=n)))
    else:
        drawn = np.random.default_rng(0).integers(0, n, (RESAMPLES, n))
    return np.stack([(drawn == i).sum(axis=1) for i in range(n)], axis=1).astype(float)
