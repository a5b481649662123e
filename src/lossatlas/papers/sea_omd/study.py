"""The studies: one arm on all cells of an environment at once, with the regret at several numbers of rounds."""

import math
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from lossatlas.cells import Cell, CellStudy, draws
from lossatlas.data import Data
from lossatlas.errors import UserError
from lossatlas.papers.sea_omd.ensemble import Ensemble, base_rates
from lossatlas.papers.sea_omd.learners import (
    OFTRL,
    Descent,
    Learner,
    Newton,
    OptimisticDescent,
    adagrad_rate,
    convex_rate,
    exp_concave_beta,
    run,
    sqrt_rate,
    strong_rate,
)
from lossatlas.papers.sea_omd.problems import (
    E_NOISE,
    Blocks,
    Logistic,
    Problem,
    Quadratic,
    Regression,
    block_means,
    draw_regression,
    random_curvature,
)
from lossatlas.schema import nearest

Answers = list[tuple[Cell, dict[str, Tensor]]]
LAMBDA = 1.0  # of the quadratic's strong convexity
ALPHA = 0.25  # the squared loss is exp-concave with 1 / (1 + .6 + .3)^2 = .277 or more on the ball


def make_learner(name: str, problem: Problem, T: int) -> Learner:
    """An arm of the comparison for a problem of T rounds.

    Raises:
        UserError: no such arm.
    """
    start, project, D, G, L = problem.start, problem.project, problem.D, problem.G, problem.L
    convex = convex_rate(D, G, L)
    bound = float(torch.as_tensor(G).max())
    arms = {
        "oomd": lambda: OptimisticDescent(start, convex, project),
        "oomd_nohint": lambda: OptimisticDescent(start, convex, project, hint=False),
        "oomd_strong": lambda: OptimisticDescent(start, strong_rate(LAMBDA), project),
        "oftrl": lambda: OFTRL(start, convex, project),
        "ogd": lambda: Descent(start, sqrt_rate(D, G), project),
        "ogd_strong": lambda: Descent(start, lambda t, S: 1 / (LAMBDA * t), project),
        "adagrad": lambda: Descent(start, adagrad_rate(D), project),
        "oomd_newton": lambda: Newton(start, 1.0, bound),
        "oomd_newton_02": lambda: Newton(start, 0.2, bound),
        "oomd_newton_theorem": lambda: Newton(start, exp_concave_beta(ALPHA, D, bound), bound),
        "ons": lambda: Newton(start, 1.0, bound, hint=False),
        "oomd_ensemble": lambda: Ensemble(start, base_rates(D, bound, T, L), project, D, bound, L),
        "ensemble_nohint": lambda: Ensemble(start, base_rates(D, bound, T, L), project, D, bound, L, hint=False),
    }  # fmt: skip
    if name not in arms:
        raise UserError(f"no learner {name!r}; {nearest(name, arms)}")
    return arms[name]()


def measure(problem: Problem, played: Tensor, T: int) -> dict[str, Tensor]:
    """Metrics after T rounds: regret, its size relative to D sqrt(T) and to the totals, the totals, eq. 2's bound."""
    regret = problem.regret(played, T)
    noise, drift = problem.totals(T)
    D, L = problem.D, problem.L
    G = torch.as_tensor(problem.G, dtype=torch.float64).flatten()
    root = noise.sqrt() + drift.sqrt()
    bound = 5 * D * ((2 * noise).sqrt() + drift.sqrt() + math.sqrt(10) * D * L + math.sqrt(5) / 2 * G)
    return {
        "regret": regret,
        "relative": regret / (D * math.sqrt(T)),
        "ratio": torch.where(root > 0, regret / root.clamp(min=1e-300), torch.nan),
        "noise": noise,
        "drift": drift,
        "bound": bound,
        "of_bound": regret / bound,
    }


class Study(CellStudy):
    """One arm on an environment.

    Metrics of a seed, under test/: regret of the mean losses; relative = regret / (D sqrt T); ratio = regret /
    (sqrt sigma^2_{1:T} + sqrt Sigma^2_{1:T}); noise and drift, the totals; bound of eq. 2, of_bound = regret / bound.

    Args:
        learner: the arm, see `make_learner`.
        rounds_at: numbers of rounds T at which the regret is taken, increasing.
        settings: of `CellStudy`.

    Raises:
        ValueError: no T, or not increasing, or below 2.
    """

    def __init__(self, data: None = None, *, learner: str, rounds_at: Sequence[int], **settings: Any) -> None:
        super().__init__(data, **settings)
        if not rounds_at or sorted(set(rounds_at)) != list(rounds_at) or rounds_at[0] < 2:
            raise ValueError(f"rounds_at must be increasing numbers of rounds >= 2, got {list(rounds_at)}")
        self.learner, self.rounds_at = learner, list(rounds_at)

    @property
    def last(self) -> int:
        """The longest run."""
        return self.rounds_at[-1]

    def _at_each(self, problem: Problem, learner: Learner) -> Answers:
        """The metrics of one run at every T."""
        played = run(learner, problem.gradient, self.last)
        return [({"T": T}, measure(problem, played, T)) for T in self.rounds_at]


class Bridge(Study):
    """`sea_bridge`: slopes +-1 in blocks of B rounds under noise sigma, all (B, sigma) and seeds as one batch.

    Args:
        blocks: values of B. sigmas: values of sigma.
    """

    def __init__(
        self, data: None = None, *, blocks: Sequence[int], sigmas: Sequence[float], **settings: Any
    ) -> None:
        super().__init__(data, **settings)
        self.blocks, self.sigmas = list(blocks), list(sigmas)

    def solve(self, cell: Cell, seeds: list[int]) -> Answers:
        """Every B and sigma of the same noise and phase."""
        T, R = self.last, len(seeds)
        phase = draws(seeds, "sea_omd/phase", lambda g: torch.rand((), generator=g))
        xi = draws(seeds, "sea_omd/noise", lambda g: torch.randint(2, (T,), generator=g) * 2.0 - 1).double()
        pairs = [(B, sigma) for B in self.blocks for sigma in self.sigmas]
        c = torch.cat([block_means(B, phase, T) for B, _ in pairs])
        sigma = torch.tensor([sigma for _, sigma in pairs], dtype=torch.float64).repeat_interleave(R)
        problem = Blocks(c, sigma[:, None] * xi.repeat(len(pairs), 1), sigma)
        answers = self._at_each(problem, make_learner(self.learner, problem, T))
        return [
            (
                {"B": B, "sigma": s, **more},
                {name: values[k * R : (k + 1) * R] for name, values in found.items()},
            )
            for more, found in answers
            for k, (B, s) in enumerate(pairs)
        ]


class StronglyConvex(Study):
    """`sea_strongly_convex`: condition `setting` quadratic (b), noisy (b, noise of c) or nonconvex (c), and `amp`."""

    def solve(self, cell: Cell, seeds: list[int]) -> Answers:
        """One arm on one setting."""
        setting, sigma = cell["setting"], 0.5
        if setting not in ("quadratic", "noisy", "nonconvex"):
            raise UserError(f"setting is quadratic, noisy or nonconvex, got {setting!r}")
        T, E = self.last, None
        if setting == "noisy":
            sigma = math.sqrt(sigma**2 + E_NOISE)
        if setting == "nonconvex":
            E = draws(seeds, "sea_omd/curvature", lambda g: random_curvature(T, g))
        noise = draws(seeds, "sea_omd/noise", lambda g: torch.randn(T, 3, dtype=torch.float64, generator=g))
        problem = Quadratic(noise * sigma / math.sqrt(3), sigma, cell["amp"], E)
        return self._at_each(problem, make_learner(self.learner, problem, T))


class ExpConcave(Study):
    """`sea_exp_concave`: least squares on a stream of clipped Gaussian rows."""

    def solve(self, cell: Cell, seeds: list[int]) -> Answers:
        """One arm."""
        rows = draws(seeds, "sea_omd/rows", lambda g: draw_regression(self.last, g))
        problem = Regression(rows[:, :-1, :3], rows[:, :-1, 3], rows[:, -1, :3])
        return self._at_each(problem, make_learner(self.learner, problem, self.last))


class Dynamic(Study):
    """`sea_dynamic`: a comparator that moves with the blocks (condition `drift` blocks) or has no need to (constant).

    The rates of the ensemble depend on T, so each T is a run of its own. The arm `fixed_steps` is the best of the
    ensemble's rates for plain optimistic descent, chosen in hindsight for each seed.
    """

    LENGTH, SIZE, SIGMA = 150, 0.5, 1.0

    def cells(self) -> list[Cell]:
        """Each T a cell."""
        return [{**cell, "T": T} for cell in super().cells() for T in self.rounds_at]

    def solve(self, cell: Cell, seeds: list[int]) -> dict[str, Tensor]:
        """One arm for T rounds."""
        if cell["drift"] not in ("blocks", "constant"):
            raise UserError(f"drift is blocks or constant, got {cell['drift']!r}")
        T, longest = cell["T"], self.last
        phase = draws(seeds, "sea_omd/phase", lambda g: torch.rand((), generator=g))
        xi = draws(
            seeds, "sea_omd/noise", lambda g: torch.randint(2, (longest,), generator=g) * 2.0 - 1
        ).double()
        length = self.LENGTH if cell["drift"] == "blocks" else 10 * longest
        c = block_means(length, phase if cell["drift"] == "blocks" else phase * 0, T, self.SIZE)
        sigma = torch.full((len(seeds),), self.SIGMA, dtype=torch.float64)
        problem = Blocks(c, self.SIGMA * xi[:, :T], sigma, moving=True)
        if self.learner == "fixed_steps":
            return measure_best(problem, T)
        return measure(problem, run(make_learner(self.learner, problem, T), problem.gradient, T), T)


def measure_best(problem: Blocks, T: int) -> dict[str, Tensor]:
    """The metrics of the base rate with the least regret, for each run."""
    rates = base_rates(problem.D, float(problem.G.max()), T)
    found = []
    for eta in rates.tolist():
        learner = OptimisticDescent(problem.start, lambda t, V, eta=eta: eta, problem.project)
        found.append(measure(problem, run(learner, problem.gradient, T), T))
    best = torch.stack([f["regret"] for f in found]).argmin(0)
    return {name: torch.stack([f[name] for f in found]).gather(0, best[None])[0] for name in found[0]}


class Real(Study):
    """`sea_real`: logistic regression on the rows of a table with two classes, in the orders `order`.

    iid draws rows with replacement, permuted shuffles them, sorted brings one class after the other and within a class
    eight chunks along the first principal component. Features are clipped to [-2, 2]. Regret of the drawn losses.

    Args:
        rows: a table with two classes.
    """

    def __init__(self, data: None = None, *, rows: Data, **settings: Any) -> None:
        x, y = rows.train.x.double().clamp(-2, 2), rows.train.y
        if rows.classes != 2 or x.ndim != 2:
            raise UserError(
                f"sea_real needs a table with two classes, {rows.name} has {rows.classes}: data=spambase"
            )
        super().__init__(
            data, **{**settings, "rounds_at": [*(T for T in settings["rounds_at"] if len(y) > T), len(y)]}
        )
        self.x, self.y = x, 2.0 * y.double() - 1

    def solve(self, cell: Cell, seeds: list[int]) -> Answers:
        """One arm on one order of the rows."""
        problem = Logistic(
            self.x, self.y, draws(seeds, "sea_omd/order", lambda g: self._order(cell["order"], g))
        )
        answers = self._at_each(problem, make_learner(self.learner, problem, self.last))
        drop = ("bound", "of_bound")  # the mean losses are not known
        return [(more, {k: v for k, v in found.items() if k not in drop}) for more, found in answers]

    def _order(self, order: str, g: torch.Generator) -> Tensor:
        n = len(self.y)
        shuffled = torch.randperm(n, generator=g)
        if order == "iid":
            return torch.randint(n, (n,), generator=g)
        if order == "permuted":
            return shuffled
        if order != "sorted":
            raise UserError(f"order is iid, permuted or sorted, got {order!r}")
        centred = self.x - self.x.mean(0)
        along = centred @ torch.linalg.svd(centred, full_matrices=False).Vh[0]
        parts = []
        for label in (-1, 1):
            rows = shuffled[self.y[shuffled] == label]
            chunks = along[rows].argsort().chunk(8)
            parts += [rows[chunk.sort().values] for chunk in chunks]  # shuffled within a chunk
        return torch.cat(parts)
