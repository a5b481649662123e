"""Samples as mechanisms read them: `sample(query)` is the mean of a query over the sample's points."""

from collections.abc import Callable
from functools import cached_property

import numpy as np
from jaxtyping import Float
from numpy.typing import ArrayLike


def check_values(values: ArrayLike, what: str) -> Float[np.ndarray, "..."]:
    """Values of a query as float64.

    Raises:
        ValueError: one is NaN or outside [0, 1].
    """
    array = np.asarray(values)
    if array.dtype == bool:
        return array.astype(np.float64)
    array = array.astype(np.float64, copy=False)
    if array.size and not (array.min() >= 0 and array.max() <= 1):  # written so that NaN fails, too
        raise ValueError(
            f"{what} must lie in [0, 1], got {array.min():g} to {array.max():g}: rescale the query"
        )
    return array


class Rows:
    """One sample of any rows; a query is a function of all rows that returns a value in [0, 1] for each.

    Args:
        x: (n, ...) rows, n >= 1.

    Raises:
        ValueError: no rows; at a query values of another shape, outside [0, 1] or NaN.

    Example:
        >>> sample = Rows([[0.1, 2.0], [0.7, -1.0], [0.9, 0.5]])
        >>> round(sample(lambda x: x[:, 0] > 0.5), 3)
        0.667
    """

    def __init__(self, x: ArrayLike) -> None:
        self.x = np.asarray(x)
        if self.x.ndim < 1 or len(self.x) < 1:
            raise ValueError(f"a sample needs rows (n, ...), n >= 1, got shape {self.x.shape}")
        self.n = len(self.x)

    def part(self, start: int, stop: int) -> "Rows":
        """Rows start to stop - 1."""
        return Rows(self.x[start:stop])

    def __call__(self, query: Callable[[np.ndarray], ArrayLike]) -> float:
        values = check_values(query(self.x), "values of a query")
        if values.shape != (self.n,):
            raise ValueError(f"a query gives one value for each of {self.n} rows, got shape {values.shape}")
        return float(values.mean())


class Points:
    """R samples of a finite X = {0, .., N - 1} side by side, or one; a query is the table of its values on X.

    Args:
        points: (R, n) or (n,) integers in [0, N), n >= 1.
        N: size of X.

    Raises:
        ValueError: no points, points that are no integers in [0, N); at a query a wrong shape, values outside [0, 1].

    Example:
        >>> sample = Points([0, 0, 3, 1], N=4)
        >>> float(sample([1, 0, 0, 1])), sample(np.eye(4)).tolist()  # one table, four tables
        (0.75, [0.5, 0.25, 0.0, 0.25])
    """

    def __init__(self, points: ArrayLike, N: int) -> None:
        self.points, self.N = np.asarray(points), N
        if self.points.ndim not in (1, 2) or not self.points.size or self.points.dtype.kind not in "iu":
            raise ValueError(
                f"points are integers (n,) or (R, n), n >= 1, got shape {self.points.shape}, {self.points.dtype}"
            )
        if not 0 <= self.points.min() <= self.points.max() < N:
            raise ValueError(
                f"points lie in 0 to N - 1 = {N - 1}, got {self.points.min()} to {self.points.max()}"
            )
        self.n = self.points.shape[-1]

    @cached_property
    def shares(self) -> Float[np.ndarray, "*R N"]:
        """P_S: the share of every x in the sample."""
        rows = np.atleast_2d(self.points)
        flat = (rows + self.N * np.arange(len(rows))[:, None]).ravel()
        counts = np.bincount(flat, minlength=len(rows) * self.N).reshape(len(rows), self.N)
        return (counts / self.n).reshape(*self.points.shape[:-1], self.N)

    def part(self, start: int, stop: int) -> "Points":
        """Points start to stop - 1 of every repetition."""
        return Points(self.points[..., start:stop], self.N)

    def __call__(self, table: ArrayLike) -> Float[np.ndarray, "..."]:
        """(R, N) or (R, m, N) tables, without R for one sample -> (R,) or (R, m) means."""
        q = self.check(table)
        if q.ndim == self.points.ndim:
            return np.asarray((q * self.shares).sum(-1))
        return np.matmul(q, self.shares[..., None])[..., 0]

    def check(self, table: ArrayLike) -> Float[np.ndarray, "..."]:
        """A query or a block of m of them, as float64.

        Raises:
            ValueError: wrong shape, values outside [0, 1] or NaN.
        """
        q = check_values(table, "values of a query")
        lead = self.points.shape[:-1]
        if q.shape[-1:] != (self.N,) or q.shape[: len(lead)] != lead or q.ndim - len(lead) not in (1, 2):
            need = ", ".join(map(str, (*lead, self.N)))
            raise ValueError(f"a query is a table of shape ({need},), or m of them before N, got {q.shape}")
        return q
