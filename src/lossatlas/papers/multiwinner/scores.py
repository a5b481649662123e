"""Multiwinner scores of rankings that are given as positions, eq. 1."""

import math
import re
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from jaxtyping import Float, Int, Real
from numpy.typing import ArrayLike

from lossatlas.schema import nearest

NAMES = ("sntv", "bloc", "top_<t>", "borda", "geometric", "cc")


@dataclass(frozen=True)
class Score:
    """A score F_l that depends on positions alone.

    Args:
        name: of `make_score`.
        marks: (m,) g(0), g(1), ..: what an item at that place brings.
        best_only: a ranking counts its best item of S alone (Chamberlin-Courant); otherwise the sum over S.

    Example:
        >>> positions = np.array([[0, 1, 2], [2, 0, 1]])  # two rankings of three items
        >>> [make_score(name, m=3, k=2).value(positions, [0, 1]) for name in ("sntv", "borda", "cc")]
        [2.0, 2.5, 2.0]
    """

    name: str
    marks: Float[np.ndarray, " m"]
    best_only: bool = False

    def value(self, positions: Int[np.ndarray, "n m"], S: Sequence[int]) -> float:
        """F(S), the sum over rankings; 0 for an empty S.

        Raises:
            ValueError: positions are no rankings of as many items as there are marks.
        """
        positions = check_positions(positions, len(self.marks))
        found = self.marks[positions[:, list(S)]]
        if not found.size:
            return 0.0
        return float(found.max(1).sum() if self.best_only else found.sum())

    def item_scores(self, table: Float[np.ndarray, "*R m m"]) -> Float[np.ndarray, "*R m"]:
        """Score of each single item from a `position_table`, all that a separable score needs."""
        return table @ self.marks


def make_score(name: str, m: int, k: int, q: float = 0.8) -> Score:
    """A score by its name.

    Args:
        name: sntv (1 for the first place), bloc (1 for each of the first k), top_<t> such as top_3 (1 for each of the
            first t: top_1 is sntv, top_k bloc), borda ((m - 1 - place) / (m - 1)), geometric (q^place), cc (Borda's
            mark of the best item of S in each ranking).
        m: items, >= 2. k: size of the committee, 1 to m.
        q: of geometric, in [0, 1]; 1 makes all committees equal.

    Raises:
        ValueError: no such score, or m, k, t, q out of range.

    Example:
        >>> make_score("borda", m=5, k=2).marks
        array([1.  , 0.75, 0.5 , 0.25, 0.  ])
    """
    if m < 2 or not 1 <= k <= m or not 0 <= q <= 1:
        raise ValueError(f"make_score needs m >= 2 items, 1 <= k <= m and q in [0, 1], got {m=}, {k=}, {q=}")
    place = np.arange(m)
    top = re.fullmatch(r"top_(\d+)", name)
    first = {"sntv": 1, "bloc": k, **({name: int(top[1])} if top else {})}
    if name in first:
        if not 1 <= first[name] <= m:
            raise ValueError(f"top_t needs 1 <= t <= {m} items, got {name}")
        return Score(name, np.where(place < first[name], 1.0, 0.0))
    if name in ("borda", "cc"):
        return Score(name, (m - 1 - place) / (m - 1), best_only=name == "cc")
    if name == "geometric":
        return Score(name, float(q) ** place)
    raise ValueError(f"no score {name!r}; {nearest(name, NAMES)}")


def order_of(utilities: Real[np.ndarray, "*n m"]) -> Int[np.ndarray, "*n m"]:
    """Items from best to worst; equal utilities in the order of their index."""
    return np.argsort(-utilities, axis=-1, kind="stable")


def positions_of(utilities: ArrayLike) -> Int[np.ndarray, "*n m"]:
    """Rankings as positions: entry i is the place of item i, 0 for the largest utility, ties by index.

    Args:
        utilities: (n, m) or (.., m) finite numbers, more is better.

    Raises:
        ValueError: NaN or infinity, or fewer than two items.

    Example:
        >>> positions_of([[0.1, 0.9, 0.5]])
        array([[2, 0, 1]])
    """
    utilities = np.asarray(utilities, float)
    if utilities.ndim < 1 or utilities.shape[-1] < 2 or not np.isfinite(utilities).all():
        raise ValueError(
            f"positions_of needs finite utilities (n, m) of m >= 2 items, got shape {utilities.shape}"
            f" with {int((~np.isfinite(utilities)).sum())} that are not finite"
        )
    return np.argsort(order_of(utilities), axis=-1)


def check_positions(positions: ArrayLike, m: int | None = None) -> Int[np.ndarray, "n m"]:
    """The rankings as an array, each row a permutation of 0 .. m - 1.

    Raises:
        ValueError: anything else; the line names the first bad row.
    """
    positions = np.asarray(positions)
    shape = positions.shape
    if positions.ndim != 2 or 0 in shape or (m is not None and shape[1] != m):
        raise ValueError(f"rankings are positions (n, {m or 'm'}), n >= 1, got shape {shape}")
    if positions.dtype.kind not in "iu":
        if not (positions == np.floor(positions)).all():  # NaN fails, too
            raise ValueError("rankings are whole numbers 0 .. m - 1: make them of utilities by positions_of")
        positions = positions.astype(np.int64)
    bad = (np.sort(positions, axis=1) != np.arange(shape[1])).any(axis=1)
    if bad.any():
        row = int(bad.argmax())
        raise ValueError(
            f"ranking {row} is no permutation of 0 .. {shape[1] - 1} (0 = best):"
            " make positions of utilities by positions_of"
        )
    return positions


def position_table(order: Int[np.ndarray, "*R n m"]) -> Float[np.ndarray, "*R m m"]:
    """How often each item (row) stands at each place (column), from rankings given as orders of items (`order_of`).

    Example:
        >>> position_table(order_of(np.array([[0.1, 0.9], [0.2, 0.8], [0.7, 0.3]])))
        array([[1., 2.],
               [2., 1.]])
    """
    *batch, n, m = order.shape
    R = math.prod(batch)
    cell = order.reshape(R, n, m) * m + np.arange(m)
    cell += (np.arange(R) * m * m)[:, None, None]
    return np.bincount(cell.ravel(), minlength=R * m * m).reshape(*batch, m, m).astype(float)
