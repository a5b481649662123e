"""The studies: adaptive queries on a finite domain, growth of the safe number of queries, chosen features."""

import itertools
import math
from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np
from jaxtyping import Float

from lossatlas.cells import Cell, CellStudy, numpy_draws, numpy_stream
from lossatlas.errors import UserError
from lossatlas.papers.thresholdout.analysts import SignAnalyst, choose_features
from lossatlas.papers.thresholdout.base import BudgetSpentError, Mechanism, Source
from lossatlas.papers.thresholdout.features import ColumnSample, LawSample, VoteMargins
from lossatlas.papers.thresholdout.mechanisms import (
    Naive,
    Noisy,
    PrivateWeights,
    Split,
    Thresholdout,
)
from lossatlas.papers.thresholdout.samples import Points
from lossatlas.schema import nearest

Answers = list[tuple[Cell, dict[str, Any]]]
PIECE = 256  # most queries drawn at once


def check_arm(arm: str, arms: Sequence[str]) -> str:
    """The arm's name.

    Raises:
        UserError: no such arm.
    """
    if arm not in arms:
        raise UserError(f"no mechanism {arm!r}; {nearest(arm, arms)}")
    return arm


def check_increasing(ks: Sequence[int], least: int) -> list[int]:
    """The numbers as a list.

    Raises:
        ValueError: none, not increasing, or one below `least`.
    """
    if not ks or list(ks) != sorted(set(ks)) or ks[0] < least:
        raise ValueError(f"ks must be increasing whole numbers >= {least}, got {list(ks)}")
    return list(ks)


def random_queries(seeds: list[int], start: int, stop: int, N: int) -> Float[np.ndarray, "R m N"]:
    """Random subsets of X, each point in with probability 1/2: queries start to stop - 1."""
    drawn = [
        numpy_stream(s, f"thresholdout/queries/{start}").integers(0, 2, (stop - start, N), dtype=bool)
        for s in seeds
    ]
    return np.stack(drawn).astype(np.float64)


class Queries(CellStudy):
    """`thresholdout_queries`: random subset queries, and after k of them the analyst's final one, on N points.

    The final query is asked of a copy of the mechanism and never feeds back. Condition `answers`: own, or other, where
    it is built from empirical answers of a second sample. Metrics of a seed at each k, under test/: error of the
    final answer; worst error of all answers up to then; used, how many were taken from the sample (pmw,
    thresholdout). NaN: refused. split has rows where its k + 1 parts hold a point.

    Args:
        mechanism: naive, gauss, pmw, thresholdout, thresholdout_demo (its Gaussian form) or split.
        N: size of X. n: points; halves of n / 2 for thresholdout. concentration: of the Dirichlet law of P.
        ks: numbers of queries, increasing.
        gauss, pmw, thresholdout: arguments of the mechanisms.

    Raises:
        UserError: no such arm.
        ValueError: a size out of range.
    """

    ARMS = ("naive", "gauss", "pmw", "thresholdout", "thresholdout_demo", "split")

    def __init__(
        self,
        data: None = None,
        *,
        mechanism: str,
        N: int,
        n: int,
        ks: Sequence[int],
        concentration: float,
        gauss: dict[str, Any],
        pmw: dict[str, Any],
        thresholdout: dict[str, Any],
        **settings: Any,
    ) -> None:
        super().__init__(data, **settings)
        if not (N >= 2 and n >= 2 and 0 < concentration < math.inf):
            raise ValueError(
                f"queries need N >= 2, n >= 2, concentration > 0, got {N=}, {n=}, {concentration=}"
            )
        self.mechanism, self.ks = check_arm(mechanism, self.ARMS), check_increasing(ks, 1)
        self.N, self.n, self.concentration = N, n, concentration
        self.options = {"gauss": gauss, "pmw": pmw, "thresholdout": thresholdout}
        self.make(Points([[0, 0]], N), [self.seed])  # bad arguments are refused here, not in mid-run

    def _sample(self, seeds: list[int], name: str, P: np.ndarray) -> Points:
        drawn = [
            numpy_stream(s, f"thresholdout/{name}").choice(self.N, self.n, p=p)
            for s, p in zip(seeds, P, strict=True)
        ]
        return Points(np.stack(drawn), self.N)

    def make(self, S: Points, seeds: list[int]) -> Mechanism:
        """The arm's mechanism on samples S."""
        half = S.n // 2
        if self.mechanism == "gauss":
            return Noisy(S, **self.options["gauss"], seed=seeds)
        if self.mechanism == "pmw":
            return PrivateWeights(S, **self.options["pmw"], seed=seeds)
        if self.mechanism.startswith("thresholdout"):
            options = dict(self.options["thresholdout"])
            if self.mechanism == "thresholdout_demo":
                options |= {"noise": "gaussian", "budget": None}
            return Thresholdout(S.part(0, half), S.part(half, S.n), **options, seed=seeds)
        return Naive(S, seed=seeds)

    def solve(self, cell: Cell, seeds: list[int]) -> Answers:
        """The mechanism at every k."""
        alpha = [self.concentration] * self.N
        P = numpy_draws(seeds, "thresholdout/population", lambda rng: rng.dirichlet(alpha)).numpy()
        S, other = (self._sample(seeds, name, P) for name in ("sample", "other"))
        answers = Naive(other, seed=seeds) if cell["answers"] == "other" else None
        if self.mechanism == "split":
            ks = [k for k in self.ks if k < self.n]
            return [({"k": k}, self._split(seeds, P, S, answers, k)) for k in ks]
        mechanism, analyst = self.make(S, seeds), SignAnalyst(P)
        worst, found, last = np.zeros(len(seeds)), [], 0
        for k in self.ks:
            for q in self._pieces(seeds, last, k):
                a = ask(mechanism, q, (len(seeds), q.shape[1]))
                worst = np.fmax(worst, np.fmax.reduce(np.abs(a - truth(q, P)), 1))
                analyst.observe(q, a if answers is None else answers.ask(q))
            final, last = analyst.final(), k
            error = np.abs(ask(mechanism.fork(f"final/{k}"), final, (len(seeds),)) - (final * P).sum(1))
            worst = np.fmax(worst, error)
            counts = isinstance(mechanism, PrivateWeights | Thresholdout)
            used = {"used": mechanism.used.copy()} if counts else {}
            found.append(({"k": k}, {"error": error, "worst": worst, **used}))
        return found

    def _pieces(self, seeds: list[int], start: int, stop: int) -> Iterator[Float[np.ndarray, "R m N"]]:
        """Queries start to stop - 1; a query does not depend on which k are asked for."""
        for first in range(start - start % PIECE, stop, PIECE):
            q = random_queries(seeds, first, first + PIECE, self.N)
            yield q[:, max(start - first, 0) : stop - first]

    def _split(
        self, seeds: list[int], P: np.ndarray, S: Points, answers: Naive | None, k: int
    ) -> dict[str, np.ndarray]:
        """k known in advance: parts for the k queries and the final one."""
        mechanism, analyst, worst = Split(S, k + 1, seed=seeds), SignAnalyst(P), np.zeros(len(seeds))
        for q in self._pieces(seeds, 0, k):
            a = np.stack([mechanism.ask(q[:, j]) for j in range(q.shape[1])], 1)
            worst = np.maximum(worst, np.abs(a - truth(q, P)).max(1))
            analyst.observe(q, a if answers is None else answers.ask(q))
        final = analyst.final()
        error = np.abs(mechanism.ask(final) - (final * P).sum(1))
        return {"error": error, "worst": np.maximum(worst, error)}


class Growth(CellStudy):
    """`thresholdout_growth`: k*(n), the first k at which the final classifier's answer misses 1/2 by alpha.

    k runs over 8 2^(j/4). Features carry nothing; the classifier votes with the signs of the mechanism's answers, by
    the exact law of `features`. Metric of a seed: test/k_star, infinite where none up to `last` misses.

    Args:
        mechanism: naive or gauss. alpha: > 0. b: of the noise. noise: gaussian or laplace. last: largest k.

    Raises:
        UserError: no such arm.
        ValueError: alpha not in (0, 1/2), last below 8, or another noise.
    """

    def __init__(
        self,
        data: None = None,
        *,
        mechanism: str,
        alpha: float,
        b: float,
        noise: str = "gaussian",
        last: int = 2**22,
        **settings: Any,
    ) -> None:
        super().__init__(data, **settings)
        if not (0 < alpha < 0.5 and last >= 8):
            raise ValueError(f"growth needs 0 < alpha < 1/2 and last >= 8, got {alpha=}, {last=}")
        self.b = b if check_arm(mechanism, ("naive", "gauss")) == "gauss" else 0.0
        self.alpha, self.noise, self.last = alpha, noise, last
        self._mechanism([self.seed])  # bad arguments are refused here, not in mid-run

    def _mechanism(self, seeds: list[int]) -> Noisy:
        """Of queries that are their own means."""
        return Noisy(lambda means: means, self.b, self.noise, seed=seeds)

    def solve(self, cell: Cell, seeds: list[int]) -> dict[str, np.ndarray]:
        """First passages at one n; goes on until every seed has passed."""
        n, R = cell["n"], len(seeds)
        mechanism = self._mechanism(seeds)
        margins, k_star, before = VoteMargins(R, n), np.full(R, np.inf), 0
        features, points = ([numpy_stream(s, f"thresholdout/growth/{part}/{n}") for s in seeds]
                            for part in ("features", "points"))  # fmt: skip
        for j in itertools.count():
            k = round(8 * 2 ** (j / 4))
            if k > self.last or np.isfinite(k_star).all():
                break
            c = np.stack([rng.standard_normal(k - before) for rng in features]) / math.sqrt(n)
            drift = (np.sign(mechanism.ask(c)) * c).sum(1)
            margins.add(drift, np.full(R, k - before), np.stack([rng.standard_normal(n) for rng in points]))
            missed = np.abs(mechanism.fork(f"final/{k}").ask(margins.accuracy()) - 0.5) > self.alpha
            k_star[missed & np.isinf(k_star)] = k
            before = k
        return {"k_star": k_star}


class Select(CellStudy):
    """`thresholdout_select`: features chosen by training correlations and a holdout, accuracy reported by the holdout.

    Condition `signal`: number of features that carry some. Metrics of a seed at each k, under test/: training,
    reported and fresh accuracy; gap = |reported - fresh|; kept, how many features passed.

    Args:
        mechanism: naive; thresholdout; nonadaptive, chosen without the holdout; fresh, as naive, reported by a second
            holdout that nobody touched.
        n: points of each half. d: features. strength: shift of a feature with signal, in units of 1 / sqrt(n).
        ks: numbers of features, increasing, from 0 on.
        thresholdout: its arguments; T and s in units of 1 / sqrt(n).
        columns: draw all n d numbers in place of the law of what is seen of them.

    Raises:
        UserError: no such arm.
        ValueError: a size out of range.
    """

    ARMS = ("naive", "thresholdout", "nonadaptive", "fresh")

    def __init__(
        self,
        data: None = None,
        *,
        mechanism: str,
        n: int,
        d: int,
        ks: Sequence[int],
        strength: float,
        thresholdout: dict[str, Any],
        columns: bool = False,
        **settings: Any,
    ) -> None:
        super().__init__(data, **settings)
        if min(n, d) < 2 or max(ks, default=0) > d:
            raise ValueError(f"select needs n >= 2, d >= 2 and ks up to d, got {n=}, {d=}, ks={list(ks)}")
        self.mechanism, self.ks = check_arm(mechanism, self.ARMS), check_increasing(ks, 0)
        self.n, self.d, self.strength, self.options = n, d, strength, dict(thresholdout)
        self.kind = ColumnSample if columns else LawSample
        self._thresholdout(np.asarray, np.asarray, [self.seed])  # refuses bad arguments at once

    def _thresholdout(self, training: Source, holdout: Source, seeds: list[int]) -> Thresholdout:
        unit = 1 / math.sqrt(self.n)
        scaled = {**self.options, "T": self.options["T"] * unit, "s": self.options["s"] * unit}
        return Thresholdout(training, holdout, **scaled, seed=seeds)

    def solve(self, cell: Cell, seeds: list[int]) -> Answers:
        """Every k for one number of features with signal."""
        unit = 1 / math.sqrt(self.n)
        shift = np.where(np.arange(self.d) < cell["signal"], self.strength * unit, 0.0)
        training, holdout = (self.kind(seeds, part, self.n, shift) for part in ("training", "holdout"))
        mechanism: Mechanism = Naive(holdout, seed=seeds)
        if self.mechanism == "thresholdout":
            mechanism = self._thresholdout(training, holdout, seeds)
        known = training("correlations")
        told = known if self.mechanism == "nonadaptive" else mechanism.ask("correlations")
        votes = choose_features(known, told, unit, self.ks)
        if self.mechanism == "fresh":
            mechanism = Naive(self.kind(seeds, "second", self.n, shift), seed=seeds)
        accuracy = {
            "training": training(votes),
            "reported": ask(mechanism, votes, (len(seeds), len(self.ks))),
            "fresh": self.kind(seeds, "fresh", self.n, shift)(votes),
        }
        kept = np.abs(votes.signs).sum(1)
        return [
            ({"k": k}, {**{name: part[:, i] for name, part in accuracy.items()}, "kept": np.minimum(kept, k),
                        "gap": np.abs(accuracy["reported"] - accuracy["fresh"])[:, i]})
            for i, k in enumerate(self.ks)
        ]  # fmt: skip


def truth(q: Float[np.ndarray, "R m N"], P: Float[np.ndarray, "R N"]) -> Float[np.ndarray, "R m"]:
    """q(P)."""
    return np.matmul(q, P[..., None])[..., 0]


def ask(mechanism: Mechanism, query: Any, shape: tuple[int, ...]) -> np.ndarray:
    """Answers, NaN once every repetition refuses."""
    try:
        return mechanism.ask(query)
    except BudgetSpentError:
        return np.full(shape, np.nan)
