"""Statistics on curves: when a value first passes a level, and the order of those that never do."""

from __future__ import annotations

import numpy as np
from numpy.typing import ArrayLike


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


def first_passage(t: ArrayLike, y: ArrayLike, level: float) -> np.ndarray:
    """The first point of each curve that lies below the level; infinity (censored) where none does.

    Args:
        t: (T,) times, increasing.
        y: (..., T) values; a NaN is not below.
        level: what is passed, from above.

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
    below = y < level
    return np.where(below.any(axis=-1), t[below.argmax(axis=-1)], np.inf)


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
