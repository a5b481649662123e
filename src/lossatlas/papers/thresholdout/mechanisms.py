"""Mechanisms between sample and analyst: empirical means, noise, multiplicative weights, Thresholdout, splitting.

A sample is any callable from a query to its mean over the sample, such as `Rows` or `Points`. With a list of R seeds
it answers R repetitions side by side, (R,) or (R, m) for a block of m queries in their order; with one seed () or (m,).
"""

import math
from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import ArrayLike

from lossatlas.papers.thresholdout.base import BudgetSpentError, Mechanism, Source, check_noise
from lossatlas.papers.thresholdout.samples import Points


def noise_scale(alpha: float, k: int) -> float:
    """b of eq. 1 for accuracy alpha over k queries.

    Example:
        >>> round(noise_scale(0.1, 16384), 4)
        0.0227
    """
    if not (0 < alpha < math.inf and k >= 2):
        raise ValueError(f"noise_scale needs finite alpha > 0 and k >= 2, got {alpha=}, {k=}")
    return alpha / math.sqrt(2 * math.log(k))


def update_bound(N: int, T: float, eta: float) -> float:
    """Most updates of eq. 2 without noise, on N points.

    Raises:
        ValueError: not 0 < eta < 8 T, beyond which an update need not bring D closer.

    Example:
        >>> round(update_bound(1024, 0.12, 0.06))
        1027
    """
    if not (N >= 1 and 0 < eta < 8 * T < math.inf):
        raise ValueError(f"update_bound needs N >= 1 and 0 < eta < 8 T, got {N=}, {T=}, {eta=}")
    return math.log(N) / (eta * T - eta**2 / 8)


class Naive(Mechanism):
    """The empirical mean.

    Example:
        >>> from lossatlas.papers.thresholdout import Rows
        >>> Naive(Rows([0.2, 0.9, 0.6, 0.8])).ask(lambda x: x > 0.5)
        0.75
    """

    def __init__(self, sample: Source, seed: int | Sequence[int] = 0) -> None:
        super().__init__(seed)
        self.sample = sample

    def ask(self, query: Any) -> Any:
        """q(S)."""
        return self._told(*self._means(self.sample, query))


class Noisy(Mechanism):
    """Eq. 1: the empirical mean with noise.

    Args:
        sample: query -> mean.
        b: scale of the noise, >= 0, see `noise_scale`.
        noise: gaussian or laplace.

    Raises:
        ValueError: b negative or not finite, or another noise.
    """

    def __init__(
        self, sample: Source, b: float, noise: str = "gaussian", seed: int | Sequence[int] = 0
    ) -> None:
        super().__init__(seed)
        if not 0 <= b < math.inf:
            raise ValueError(f"Noisy needs finite b >= 0, got {b=}")
        self.sample, self.b, self.noise = sample, b, check_noise(noise)

    def ask(self, query: Any) -> Any:
        """q(S) + b z."""
        means, single = self._means(self.sample, query)
        return self._told(means + self.b * self._noise("answer", self.noise, means.shape[1]), single)


class PrivateWeights(Mechanism):
    """Eq. 2, private multiplicative weights on a finite X (Hardt and Rothblum, 2010).

    Args:
        sample: `Points`.
        T: > 0, the error up to which the hypothesis answers.
        b0: scale of the Laplace noise, >= 0.
        eta: step, > 0 and < 8 T; T / 2 by default.
        updates: how many before it refuses, >= 1; by default those of `update_bound`.
        start: (N,) or (R, N) hypothesis to begin with, positive where the sample may be; uniform by default.

    Raises:
        ValueError: a number out of range, or a start that is no distribution.
        BudgetSpentError: at a query after the last update.

    Example:
        >>> mechanism = PrivateWeights(Points([0, 0, 0, 3], N=4), T=0.2, b0=0.0)
        >>> [round(mechanism.ask([1, 0, 0, 0]), 3) for _ in range(3)]  # answers of the sample until D is near
        [0.75, 0.75, 0.75]
        >>> int(mechanism.used[0]), mechanism.D.round(2).tolist()
        (3, [[0.31, 0.23, 0.23, 0.23]])
    """

    def __init__(
        self,
        sample: Points,
        T: float,
        b0: float,
        eta: float | None = None,
        updates: int | None = None,
        start: ArrayLike | None = None,
        seed: int | Sequence[int] = 0,
    ) -> None:
        super().__init__(seed)
        self.eta = T / 2 if eta is None else eta
        if not (0 < T < math.inf and 0 <= b0 < math.inf):
            raise ValueError(f"PrivateWeights needs finite T > 0 and b0 >= 0, got {T=}, {b0=}")
        self.most = math.ceil(update_bound(sample.N, T, self.eta)) if updates is None else updates
        if self.most < 1:
            raise ValueError(f"PrivateWeights needs updates >= 1, got {updates=}")
        D = np.full(sample.N, 1 / sample.N) if start is None else np.asarray(start, np.float64)
        if D.shape[-1:] != (sample.N,) or not ((D >= 0).all() and np.allclose(D.sum(-1), 1)):
            raise ValueError(
                f"start is a distribution on {sample.N} points, got shape {D.shape}, sum {D.sum(-1)}"
            )
        self.sample, self.T, self.b0 = sample, T, b0
        self.D = np.broadcast_to(D, (len(self.seeds), sample.N)).copy()

    def ask(self, query: Any) -> Any:
        """q(D), or where that is far from q(S) the noisy q(S)."""
        if (self.used >= self.most).all():
            raise BudgetSpentError(f"all {self.most} updates are made: take a new sample")
        means, single = self._means(self.sample, query)
        table = self.sample.check(query).reshape(*means.shape, self.sample.N)
        near, answer = (self._noise(role, "laplace", means.shape[1]) for role in ("compare", "answer"))
        answers = np.empty_like(means)
        for j in range(means.shape[1]):
            q = table[:, j]
            guess = (self.D * q).sum(-1)
            closed = self.used >= self.most
            far = (np.abs(guess - means[:, j] + self.b0 * near[:, j]) > self.T) & ~closed
            told = means[:, j] + self.b0 * answer[:, j]
            answers[:, j] = np.where(closed, np.nan, np.where(far, told, guess))
            if far.any():
                step = self.eta * np.sign(told - guess)[far, None]
                D = self.D[far] * np.exp(step * q[far])
                self.D[far] = D / D.sum(-1, keepdims=True)
                self.used[far] += 1
        return self._told(answers, single)


class Thresholdout(Mechanism):
    """Eq. 3: the training half answers unless the holdout half disagrees.

    Args:
        training, holdout: query -> mean over one half each.
        T: threshold, >= 0; infinity: the holdout is never used.
        s: scale of the noise, >= 0.
        budget: answers from the holdout before it refuses, an integer >= 1; None: no end.
        noise: laplace, the form that was analysed, or gaussian, that of the published demonstration.

    Raises:
        ValueError: T, s or budget out of range, or another noise.
        BudgetSpentError: at a query after the budget is spent.

    Example:
        >>> from lossatlas.papers.thresholdout import Rows
        >>> halves = Rows([0.1, 0.9, 0.8]), Rows([0.2, 0.3, 0.9])
        >>> mechanism = Thresholdout(*halves, T=0.1, s=0.0, budget=1)
        >>> round(mechanism.ask(lambda x: x > 0.85), 3), round(mechanism.ask(lambda x: x > 0.5), 3)
        (0.333, 0.333)
        >>> mechanism.ask(lambda x: x > 0.85)
        Traceback (most recent call last):
        lossatlas.papers.thresholdout.base.BudgetSpentError: the budget of 1 answers is spent: take a new holdout
    """

    def __init__(
        self,
        training: Source,
        holdout: Source,
        T: float = 0.04,
        s: float = 0.01,
        budget: int | None = None,
        noise: str = "laplace",
        seed: int | Sequence[int] = 0,
    ) -> None:
        super().__init__(seed)
        if not (T >= 0 and 0 <= s < math.inf):
            raise ValueError(f"Thresholdout needs T >= 0 and finite s >= 0, got {T=}, {s=}")
        if budget is not None and (isinstance(budget, bool) or not isinstance(budget, int) or budget < 1):
            raise ValueError(f"the budget is an integer >= 1, or None for no end, got {budget!r}")
        self.training, self.holdout, self.T, self.s, self.budget = training, holdout, T, s, budget
        self.noise = check_noise(noise)
        self.of_threshold, self.of_comparison = (2, 4) if noise == "laplace" else (0, 1)
        self.threshold = T + self.of_threshold * s * self._noise("first", noise, 1)[:, 0]  # That

    def _closed(self) -> np.ndarray:
        return np.greater_equal(self.used, math.inf if self.budget is None else self.budget)

    def ask(self, query: Any) -> Any:
        """q(S_t), or where q(S_h) is far from it the noisy q(S_h)."""
        if self._closed().all():
            raise BudgetSpentError(f"the budget of {self.budget} answers is spent: take a new holdout")
        t, single = self._means(self.training, query)
        h, _ = self._means(self.holdout, query)
        if t.shape != h.shape:
            raise ValueError(
                f"training and holdout answer with different shapes, {t.shape[1:]} and {h.shape[1:]}"
            )
        threshold, compare, answer = (
            self.s * self._noise(role, self.noise, t.shape[1]) for role in ("threshold", "compare", "answer")
        )
        answers = np.empty_like(t)
        for j in range(t.shape[1]):
            closed = self._closed()
            differ = np.abs(h[:, j] - t[:, j]) > self.threshold + self.of_comparison * compare[:, j]
            differ &= ~closed
            told = np.where(differ, h[:, j] + answer[:, j], t[:, j])
            answers[:, j] = np.where(closed, np.nan, told)
            self.threshold = np.where(differ, self.T + self.of_threshold * threshold[:, j], self.threshold)
            self.used += differ
        return self._told(answers, single)


class Split(Mechanism):
    """Every query on points of its own: query j of k has floor(n / k) of them.

    Args:
        sample: with `n` and `part(start, stop)`, such as `Rows` or `Points`; in random order.
        k: number of queries, 1 to n.

    Raises:
        ValueError: k out of range.
        BudgetSpentError: at query k + 1.
    """

    def __init__(self, sample: Any, k: int, seed: int | Sequence[int] = 0) -> None:
        super().__init__(seed)
        if not 1 <= k <= sample.n:
            raise ValueError(f"{sample.n} points can be split for 1 to {sample.n} queries, got {k=}")
        self.sample, self.k, self.width = sample, k, sample.n // k

    def ask(self, query: Any) -> Any:
        """The mean over the next points, for one query."""
        j = int(self.used[0])
        if j >= self.k:
            raise BudgetSpentError(f"all {self.k} parts of the sample are used: split for more queries")
        means, single = self._means(self.sample.part(j * self.width, (j + 1) * self.width), query)
        if not single:
            raise ValueError("Split is asked one query at a time: each has points of its own")
        self.used += 1
        return self._told(means, single)
