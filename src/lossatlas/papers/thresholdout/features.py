"""Samples of many Gaussian features: by the exact law of their correlations and votes, or as columns.

Labels y are uniform on +-1 and feature j is shift_j y + z. Its correlation c_j = mean(y x_j) is N(shift_j, 1 / n).
Given c the margins y_i x_ij are c_j + u_ij - mean_i(u_j), u standard normal, so the margins of a vote are
sum_j sgn_j c_j + sqrt(k) (u_i - mean u): O(n + k) numbers in place of n k.
"""

import math

import numpy as np
from jaxtyping import Float
from numpy.typing import ArrayLike
from scipy.stats import norm

from lossatlas.papers.thresholdout.analysts import Votes
from lossatlas.seeding import numpy_stream


class VoteMargins:
    """Margins of a growing vote on the n points of R samples, exact in law given the features' correlations.

    Example:
        >>> margins = VoteMargins(1, 4)
        >>> margins.accuracy().tolist()  # no features: every point counts half
        [0.5]
        >>> margins.add([0.5], [1], np.array([[1.0, -2.0, 0.5, 0.5]]))
        >>> margins.values.tolist(), margins.accuracy().tolist()
        ([[1.5, -1.5, 1.0, 1.0]], [0.75])
    """

    def __init__(self, R: int, n: int) -> None:
        self.values = np.zeros((R, n))

    def add(self, drift: ArrayLike, features: ArrayLike, u: Float[np.ndarray, "R n"]) -> None:
        """More features join.

        Args:
            drift: (R,) sum of sgn_j c_j over them. features: (R,) how many. u: standard normal numbers.
        """
        spread = np.sqrt(np.asarray(features, float))[:, None]
        self.values += np.asarray(drift, float)[:, None] + spread * (u - u.mean(1, keepdims=True))

    def accuracy(self) -> Float[np.ndarray, " R"]:
        """Share of points with a positive margin; one of 0 counts half."""
        return ((self.values > 0).sum(1) + 0.5 * (self.values == 0).sum(1)) / self.values.shape[1]


def vote_accuracy(k: float, n: float, b: float = 0.0) -> float:
    """Accuracy on the sample that k useless features reach for large n, signs from answers with noise b.

    Example:
        >>> round(vote_accuracy(1008, 10000), 3)
        0.6
    """
    return float(norm.cdf(math.sqrt(2 * k / (math.pi * n * (1 + n * b**2)))))


def passage_law(n: float, alpha: float, b: float = 0.0) -> float:
    """k at which `vote_accuracy` is 1/2 + alpha: linear in n without noise, quadratic in n for n b^2 >> 1."""
    return math.pi / 2 * float(norm.ppf(0.5 + alpha)) ** 2 * n * (1 + n * b**2)


class LawSample:
    """R samples of n points, by the law: a query is "correlations", (R, d) answers, or `Votes`, (R, K) accuracies.

    What votes draw depends on seed and name alone: two votes asked of one sample have the same u.

    Args:
        seeds: R of them. name: of the sample, such as holdout. n: points. shift: (d,) of the features.
    """

    def __init__(self, seeds: list[int], name: str, n: int, shift: Float[np.ndarray, " d"]) -> None:
        self.seeds, self.name, self.n, self.shift = seeds, name, n, shift
        self.c = shift + self._normals("correlations", len(shift)) / math.sqrt(n)

    def _normals(self, purpose: str, m: int) -> Float[np.ndarray, "R m"]:
        streams = [numpy_stream(s, f"thresholdout/{self.name}/{purpose}") for s in self.seeds]
        return np.stack([g.standard_normal(m) for g in streams])

    def __call__(self, query: str | Votes) -> Float[np.ndarray, "R m"]:
        if not isinstance(query, Votes):
            return self.c
        signed = query.signs * np.take_along_axis(self.c, query.order, 1)
        margins, found, last = VoteMargins(len(self.seeds), self.n), [], 0
        for k in query.ks:
            new = slice(last, k)
            if k > last:
                count = np.abs(query.signs[:, new]).sum(1)
                margins.add(signed[:, new].sum(1), count, self._normals(f"votes/{k}", self.n))
            found.append(margins.accuracy())
            last = k
        return np.stack(found, 1)


class ColumnSample(LawSample):
    """The same with every column drawn, in blocks of columns that are drawn anew for the votes.

    Args:
        block: columns at a time.
    """

    def __init__(
        self, seeds: list[int], name: str, n: int, shift: Float[np.ndarray, " d"], block: int = 256
    ) -> None:
        self.seeds, self.name, self.n, self.shift, self.block = seeds, name, n, shift, block
        starts = range(0, len(shift), block)
        self.c = np.concatenate([self._margins(start).mean(1) for start in starts], 1)

    def _margins(self, start: int) -> Float[np.ndarray, "R n m"]:
        """y_i x_ij of a block of columns."""
        shift = self.shift[start : start + self.block]
        drawn = self._normals(f"columns/{start}", self.n * len(shift))
        return drawn.reshape(len(self.seeds), self.n, len(shift)) + shift

    def __call__(self, query: str | Votes) -> Float[np.ndarray, "R m"]:
        """Correlations or accuracies of the columns themselves."""
        if not isinstance(query, Votes):
            return self.c
        R, d = self.c.shape
        weight = np.zeros((R, d, len(query.ks)))
        for i, k in enumerate(query.ks):
            np.put_along_axis(weight[..., i], query.order[:, :k], query.signs[:, :k], 1)
        votes = np.zeros((R, self.n, len(query.ks)))
        for start in range(0, d, self.block):
            part = weight[:, start : start + self.block]
            if part.any():
                votes += np.matmul(self._margins(start), part)
        return ((votes > 0).sum(1) + 0.5 * (votes == 0).sum(1)) / self.n
