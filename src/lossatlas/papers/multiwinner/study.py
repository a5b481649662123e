"""The studies: committees by every rule and score from the same rankings, all seeds side by side."""

import itertools
from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np
from jaxtyping import Bool, Float, Int

from lossatlas.cells import Cell, CellStudy, numpy_stream
from lossatlas.claims.curves import first_passage
from lossatlas.errors import UserError
from lossatlas.papers.multiwinner.bias import draw_qualities, swap, utilities, weigh
from lossatlas.papers.multiwinner.scores import Score, make_score, order_of, position_table
from lossatlas.papers.multiwinner.selection import greedy, make_quotas, select_top
from lossatlas.papers.multiwinner.smoothness import smoothness
from lossatlas.schema import nearest

RULES = ("cons", "uncon", "latent", "random_cons", "oracle")
Answers = list[tuple[Cell, dict[str, Any]]]
Orders = Int[np.ndarray, "R n m"]


class Truth:
    """F of eq. 4 under unbiased rankings that no rule saw, for R elections.

    Args:
        orders: (R, n, m) unbiased rankings, best item first.
        scores: all of them.
        tie: (R, m) random numbers, larger first among equals.
    """

    def __init__(
        self, orders: Orders, scores: Sequence[Score], k: int, tie: Float[np.ndarray, "R m"]
    ) -> None:
        table = position_table(orders) / orders.shape[1]
        self.items = {score.name: score.item_scores(table) for score in scores}
        self.served = {s.name: s.marks[np.argsort(orders, -1)] for s in scores if s.best_only}
        self.best = {
            s.name: greedy(self.served[s.name], k, tie)
            if s.best_only
            else select_top(self.items[s.name], k, tie)
            for s in scores
        }
        self.most = {name: self.value(name, S) for name, S in self.best.items()}

    def value(self, name: str, S: Int[np.ndarray, "R k"]) -> Float[np.ndarray, " R"]:
        """The expected score of a ranking for S."""
        if name in self.served:
            return np.take_along_axis(self.served[name], S[:, None, :], 2).max(2).mean(1)
        return np.take_along_axis(self.items[name], S, -1).sum(-1)

    def rho(self, name: str, S: Int[np.ndarray, "R k"]) -> Float[np.ndarray, " R"]:
        """Eq. 4; may pass 1 a little for Chamberlin-Courant, whose best is greedy's."""
        return self.value(name, S) / self.most[name]


def numbers(seeds: list[int], purpose: str, shape: tuple[int, ...]) -> Float[np.ndarray, "R ..."]:
    """Uniform numbers of each seed's own stream."""
    return np.stack([numpy_stream(seed, f"multiwinner/{purpose}").random(shape) for seed in seeds])


def normals(seeds: list[int], purpose: str, shape: tuple[int, ...]) -> Float[np.ndarray, "R ..."]:
    """Standard normal numbers of each seed's own stream, single precision."""
    return np.stack(
        [numpy_stream(s, f"multiwinner/{purpose}").standard_normal(shape, dtype=np.float32) for s in seeds]
    )


def measures(
    problem: Truth, name: str, S: Int[np.ndarray, "R k"], second: Bool[np.ndarray, "R m"]
) -> dict[str, Any]:
    """rho of a committee and the share of G_2 in it."""
    return {"rho": problem.rho(name, S), "share": np.take_along_axis(second, S, 1).mean(1)}


def elect(
    problem: Truth,
    scores: Sequence[Score],
    biased: Orders,
    unbiased: Orders,
    second: Bool[np.ndarray, "R m"],
    k: int,
    quotas: tuple[int, int],
    tie: Float[np.ndarray, "R s r m"],
) -> dict[tuple[str, str], Int[np.ndarray, "R k"]]:
    """The committee of every score and rule.

    Args:
        biased, unbiased: the same rankings with and without the bias.
        tie: random numbers for each score and rule of `RULES`.
    """
    tables = {"biased": position_table(biased), "unbiased": position_table(unbiased)}
    found = {}
    for a, score in enumerate(scores):
        for b, rule in enumerate(RULES):
            own, seats = tie[:, a, b], quotas if rule in ("cons", "random_cons") else (0, 0)
            if rule == "oracle":
                S = problem.best[score.name]
            elif rule == "random_cons":
                S = select_top(own, k, own, second, seats)
            elif score.best_only:
                orders = unbiased if rule == "latent" else biased
                S = greedy(score.marks[np.argsort(orders, -1)], k, own, second, seats)
            else:
                table = tables["unbiased" if rule == "latent" else "biased"]
                S = select_top(score.item_scores(table), k, own, second, seats)
            found[score.name, rule] = S
    return found


class Election(CellStudy):
    """What the studies share.

    Args:
        m: items, half of them in G_2. k: seats.
        scores: names of `make_score`. rules: which of cons, uncon, latent, random_cons, oracle get rows.
        quotas: of `make_quotas`.
        independent: draw G_2's qualities anew, see `draw_qualities`.
        fresh: unbiased rankings for F.
        settings: of `CellStudy`.

    Raises:
        ValueError: a size out of range, or no such score.
        UserError: no such rule.
    """

    def __init__(
        self,
        data: None = None,
        *,
        m: int,
        k: int,
        scores: Sequence[str],
        rules: Sequence[str] = RULES,
        quotas: str | int = "proportional",
        independent: bool = False,
        fresh: int = 20000,
        **settings: Any,
    ) -> None:
        super().__init__(data, **settings)
        for rule in rules:
            if rule not in RULES:
                raise UserError(f"no rule {rule!r}; {nearest(rule, RULES)}")
        self.m, self.k, self.fresh, self.independent = m, k, fresh, independent
        self.functions, self.rules, self.quota_kind = (
            [make_score(name, m, k) for name in scores],
            rules,
            quotas,
        )

    def _items(self, seeds: list[int]) -> tuple[Float[np.ndarray, "R m"], Bool[np.ndarray, "R m"]]:
        """Qualities and groups."""
        drawn = [
            draw_qualities(numpy_stream(s, "multiwinner/items"), self.m, self.independent) for s in seeds
        ]
        return np.stack([w for w, _ in drawn]), np.stack([second for _, second in drawn])

    def _truth(self, seeds: list[int], w: Float[np.ndarray, "R m"]) -> Truth:
        e = normals(seeds, "fresh", (self.fresh, self.m))
        tie = numbers(seeds, "fresh/ties", (self.m,))
        return Truth(order_of(utilities(w, e)), self.functions, self.k, tie)


class Bias(Election):
    """`multiwinner_bias`: every score and rule at each theta from n rankings.

    Metrics of a seed, under test/: rho of eq. 4; share of G_2 in S; with the arm cons also gain = rho(cons) -
    rho(uncon) and lost = rho(latent) - rho(cons).

    Args:
        rankings: numbers n.
    """

    def __init__(self, data: None = None, *, rankings: Sequence[int], **settings: Any) -> None:
        super().__init__(data, **settings)
        self.rankings = list(rankings)

    def solve(self, cell: Cell, seeds: list[int]) -> Answers:
        """One theta."""
        w, second = self._items(seeds)
        truth = self._truth(seeds, w)
        U = utilities(w, normals(seeds, "rankings", (max(self.rankings), self.m)))
        orders = order_of(weigh(U, second, cell["theta"])), order_of(U)
        return [
            answer
            for n in self.rankings
            for answer in self._at(n, cell["theta"], seeds, truth, orders, second)
        ]

    def _at(
        self,
        n: int,
        theta: Any,
        seeds: list[int],
        truth: Truth,
        orders: tuple[Orders, Orders],
        second: Bool[np.ndarray, "R m"],
    ) -> Iterator[tuple[Cell, dict[str, Any]]]:
        """Every score and rule from the first n rankings."""
        biased, unbiased = (part[:, :n] for part in orders)
        seats = make_quotas(second[0], self.k, self.quota_kind)
        tie = numbers(seeds, f"ties/{theta}/{n}", (len(self.functions), len(RULES), self.m))
        found = elect(truth, self.functions, biased, unbiased, second, self.k, seats, tie)
        for (name, rule), S in found.items():
            if rule in self.rules:
                metrics = measures(truth, name, S, second)
                if rule == "cons":
                    metrics["gain"] = metrics["rho"] - truth.rho(name, found[name, "uncon"])
                    metrics["lost"] = truth.rho(name, found[name, "latent"]) - metrics["rho"]
                yield {"n": n, "score": name, "arm": rule}, metrics


class Smoothness(Bias):
    """`multiwinner_smoothness`: alpha and gamma of eq. 5 beside rho.

    Args:
        many: rankings for alpha and gamma.
    """

    def __init__(self, data: None = None, *, many: int = 20000, **settings: Any) -> None:
        super().__init__(data, **settings)
        self.many = many

    def solve(self, cell: Cell, seeds: list[int]) -> Answers:
        """One theta; alpha and gamma are the same for every rule."""
        w, second = self._items(seeds)
        found: dict[str, list[tuple[float, float]]] = {score.name: [] for score in self.functions}
        for r, seed in enumerate(seeds):
            U = utilities(w[r], normals([seed], "smoothness", (self.many, self.m))[0])
            there, low = (np.argsort(order_of(V), -1) for V in (U, weigh(U, second[r], cell["theta"])))
            half = numpy_stream(seed, "multiwinner/half").permutation(self.m)[: self.k // 2].tolist()
            for score in self.functions:
                found[score.name].append(smoothness(score, there, low, second[r], S=half))
        values = {name: np.array(pairs) for name, pairs in found.items()}
        return [
            (more, {**metrics, "alpha": values[more["score"]][:, 0], "gamma": values[more["score"]][:, 1]})
            for more, metrics in super().solve(cell, seeds)
        ]


class Samples(Election):
    """`multiwinner_samples`: how many rankings a rule needs for rho >= level, in powers of 2, for each theta.

    Metrics, under test/: log2_n of the first n with rho >= level; extra = log2_n less that of the same rule without
    bias, and censored, whether no n up to `last` was enough: then n counts as 2 last. Averages over
    `repeats` draws of the rankings.

    Args:
        thetas: the biases; that of no bias is always there.
        last: largest n, a power of 2. repeats: draws of the rankings in each seed. level: of rho.
        piece: rankings that are drawn at once.

    Raises:
        ValueError: last is no power of 2, or a score is not separable.
    """

    def __init__(
        self,
        data: None = None,
        *,
        thetas: Sequence[float],
        last: int,
        repeats: int = 4,
        level: float = 0.95,
        piece: int = 2048,
        **settings: Any,
    ) -> None:
        super().__init__(data, **settings)
        if last < 2 or last & (last - 1) or piece < 2:
            raise ValueError(f"last is a power of 2 from 2 on and piece >= 2, got {last=}, {piece=}")
        if many := [score.name for score in self.functions if score.best_only]:
            raise ValueError(f"{many[0]} is not separable, its rankings would have to be kept: leave it out")
        self.ns = [2**j for j in range(1, last.bit_length())]
        self.thetas, self.last, self.repeats, self.level, self.piece = thetas, last, repeats, level, piece

    def cells(self) -> list[Cell]:
        """One: every theta is from the same rankings."""
        return [{}]

    def _points(self) -> list[Cell]:
        """The biases, the first of them none."""
        return [{"theta": 1.0}, *({"theta": t} for t in self.thetas if t != 1)]

    def _tables(
        self,
        seeds: list[int],
        part: str,
        size: int,
        w: Float[np.ndarray, "R m"],
        second: Bool[np.ndarray, "R m"],
    ) -> Float[np.ndarray, "b R c m m"]:
        """Position tables of `size` rankings of each seed and repeat, at every bias."""
        U = utilities(w[:, None], normals(seeds, f"samples/{part}", (self.repeats, size, self.m)))
        return np.stack(
            [position_table(order_of(weigh(U, second[:, None], p["theta"]))) for p in self._points()]
        )

    def solve(self, cell: Cell, seeds: list[int]) -> Answers:
        """All biases, scores and rules."""
        w, second = self._items(seeds)
        truth, points = self._truth(seeds, w), self._points()
        seats = make_quotas(second[0], self.k, self.quota_kind)
        counts = np.zeros((len(points), len(seeds), self.repeats, self.m, self.m))
        rho: dict[tuple[int, str, str], list[Any]] = {}
        done = 0
        for n in self.ns:
            while done < n:
                size = min(self.piece, n - done)
                counts += self._tables(seeds, f"{done}", size, w, second)
                done += size
            tie = numbers(
                seeds, f"samples/ties/{n}", (len(points), len(self.functions), 3, self.repeats, self.m)
            )
            for a, score in enumerate(self.functions):
                items = score.item_scores(counts)
                for p, b in itertools.product(range(len(points)), range(3)):
                    rule = RULES[b]
                    given = items[0 if rule == "latent" else p]
                    groups = np.broadcast_to(second[:, None], given.shape)
                    S = select_top(
                        given, self.k, tie[:, p, a, b], groups, seats if rule == "cons" else (0, 0)
                    )
                    value = np.take_along_axis(truth.items[score.name][:, None], S, -1).sum(-1)
                    rho.setdefault((p, score.name, rule), []).append(value / truth.most[score.name][:, None])
        return self._passages(rho, points, seeds)

    def _passages(
        self, rho: dict[tuple[int, str, str], list[Any]], points: list[Cell], seeds: list[int]
    ) -> Answers:
        """First passages of the curves, which go to the record's extras as means over seeds."""
        log2, curves = {}, []
        for key, parts in rho.items():
            n = first_passage(self.ns, np.stack(parts, -1), self.level, upwards=True)
            log2[key] = np.log2(np.where(np.isinf(n), 2.0 * self.last, n))
            each = np.stack(parts, -1).mean(1)
            curves.append(
                {**points[key[0]], "score": key[1], "arm": key[2], "rho": each.mean(0).round(5).tolist()}
            )
        self.note(**{f"from_{seeds[0]}": {"n": self.ns, "seeds": len(seeds), "curves": curves}})
        return [
            (
                {**points[p], "score": name, "arm": rule},
                {"log2_n": v, "extra": v - log2[0, name, rule], "censored": (v > np.log2(self.last)) * 1.0},
            )
            for (p, name, rule), v in log2.items()
            if rule in self.rules
        ]


class Swaps(Samples):
    """`multiwinner_swaps`: `Samples` where neighbours are exchanged; condition `sweeps`, none being without bias.

    The rankings without bias are an independent draw, so that `sweeps: 0` shows what chance alone makes of `extra`.

    Args:
        phi: chance of an exchange. sweeps: passes, increasing.
    """

    def __init__(self, data: None = None, *, phi: float, sweeps: Sequence[int], **settings: Any) -> None:
        super().__init__(data, thetas=[], **settings)
        if sorted(set(sweeps)) != list(sweeps):
            raise ValueError(f"sweeps are increasing numbers of passes, got {list(sweeps)}")
        self.phi, self.sweeps = phi, list(sweeps)

    def _points(self) -> list[Cell]:
        """The unbiased draw first."""
        return [{"sweeps": "none"}, *({"sweeps": s} for s in self.sweeps)]

    def _tables(
        self,
        seeds: list[int],
        part: str,
        size: int,
        w: Float[np.ndarray, "R m"],
        second: Bool[np.ndarray, "R m"],
    ) -> Float[np.ndarray, "b R c m m"]:
        """More passes go on from fewer ones."""
        shape = (self.repeats, size, self.m)
        tables = [
            position_table(order_of(utilities(w[:, None], normals(seeds, f"swaps/none/{part}", shape))))
        ]
        order = order_of(utilities(w[:, None], normals(seeds, f"swaps/{part}", shape)))
        streams = [numpy_stream(seed, f"multiwinner/swaps/moves/{part}") for seed in seeds]
        done = 0
        for sweeps in self.sweeps:
            for r, rng in enumerate(streams):
                flat = order[r].reshape(-1, self.m)
                order[r] = swap(flat, second[r], self.phi, sweeps - done, rng).reshape(shape)
            done = sweeps
            tables.append(position_table(order))
        return np.stack(tables)
