"""The studies: regret against episodes or actions of an arm, and two inverses of a covariance from the same samples."""

import math
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from lossatlas.cells import Cell, CellStudy, draws
from lossatlas.papers.linear_mdp.estimators import regularised_inverse, resampled_inverse
from lossatlas.papers.linear_mdp.learner import Runs, learner_named, run
from lossatlas.papers.linear_mdp.mdp import draw_mdp

Answers = list[tuple[Cell, dict[str, Tensor]]]


class Regret(CellStudy):
    """`linear_mdp_regret` and `linear_mdp_actions`: an arm for several numbers of episodes, each a run of its own.

    Metrics of a seed, under test/: those of `learner.run`, and relative, the regret over that of equal chances.

    Args:
        learner: the arm, of `learner.LEARNERS`.
        episodes: values of K, each >= 2.
        c_eta, c_beta: constants of step size and bonus, > 0 and >= 0; lists are all tried (a tuning grid).
        H, S, A, d: sizes of the MDP; a condition `A` goes before.
        trajectories: simulated for each covariance, >= 1; None: exact covariances.
        settings: of `CellStudy`.

    Raises:
        ValueError: an argument out of range.
    """

    def __init__(
        self,
        data: None = None,
        *,
        learner: str,
        episodes: Sequence[int],
        c_eta: float | Sequence[float],
        c_beta: float | Sequence[float],
        H: int = 3,
        S: int = 6,
        A: int = 6,
        d: int = 4,
        trajectories: int | None = None,
        **settings: Any,
    ) -> None:
        super().__init__(data, **settings)
        self.c_eta, self.c_beta = _listed(c_eta), _listed(c_beta)
        if not episodes or min(episodes) < 2 or len(set(episodes)) < len(episodes):
            raise ValueError(f"episodes must be different numbers >= 2, got {list(episodes)}")
        if not (min(self.c_eta) > 0 and min(self.c_beta) >= 0) or (
            trajectories is not None and trajectories < 1
        ):
            raise ValueError(
                f"needs c_eta > 0, c_beta >= 0 and trajectories >= 1 or null, got {c_eta=}, {c_beta=}, {trajectories=}"
            )
        self.learner, self.episodes = learner, sorted(episodes, reverse=True)
        self.sizes, self.trajectories = {"H": H, "S": S, "A": A, "d": d}, trajectories

    def solve(self, cell: Cell, seeds: list[int]) -> Answers:
        """Every K and every pair of constants, all seeds."""
        arm, R = learner_named(self.learner), len(seeds)
        sizes = {**self.sizes, **{key: value for key, value in cell.items() if key in self.sizes}}
        settings = [(K, e, b) for K in self.episodes for e in self.c_eta for b in self.c_beta]
        rates = [arm.rates(K, e, b, sizes["H"], sizes["A"]) for K, e, b in settings]
        eta, gamma, beta = (torch.tensor(part, dtype=torch.float64) for part in zip(*rates, strict=True))
        runs = Runs(
            draw_mdp(seeds, **sizes).rows(torch.arange(R).repeat(len(settings))),
            seeds * len(settings),
            [K for K, _, _ in settings for _ in seeds],
            *(value.repeat_interleave(R) for value in (eta, gamma, beta)),
        )
        found = run(arm, runs, self.trajectories)
        found["relative"] = found["regret"] / found["uniform"]
        several = len(self.c_eta) * len(self.c_beta) > 1
        return [
            (
                {"K": K, **({"c_eta": e, "c_beta": b} if several else {})},
                {name: values[i * R : (i + 1) * R] for name, values in found.items()},
            )
            for i, (K, e, b) in enumerate(settings)
        ]


class Inverses(CellStudy):
    """`linear_mdp_covariance`: the direct inverse (eq. 1) and resampling, from the same M N samples of phi.

    phi is one of d orthonormal directions, random a seed, drawn with the chances `weights`; N = (2 / gamma)
    log(1 / gamma) samples a run of resampling, M runs. Metric test/error: |Sinv (Sigma + gamma I) - I|, the largest
    singular value; test/log_error, its logarithm.

    Args:
        inverses: which of the two, direct and resampling; they see the same samples.
        weights: chances of the directions, > 0, summing to 1.
        c: of the resampling.
        settings: of `CellStudy`; conditions gamma and M.

    Raises:
        ValueError: weights that are no chances.
    """

    def __init__(
        self,
        data: None = None,
        *,
        inverses: Sequence[str],
        weights: Sequence[float],
        c: float = 0.5,
        **settings: Any,
    ) -> None:
        super().__init__(data, **settings)
        if not inverses or not set(inverses) <= {"direct", "resampling"}:
            raise ValueError(f"inverses are direct and resampling, got {list(inverses)}")
        if not weights or min(weights) <= 0 or abs(sum(weights) - 1) > 1e-9:
            raise ValueError(f"weights must be chances > 0 that sum to 1, got {list(weights)}")
        self.inverses, self.weights, self.c = (
            list(inverses),
            torch.tensor(list(weights), dtype=torch.float64),
            c,
        )

    def solve(self, cell: Cell, seeds: list[int]) -> Answers:
        """The inverses of a cell."""
        gamma, M, d = float(cell["gamma"]), int(cell["M"]), len(self.weights)
        N = math.ceil(2 / gamma * math.log(1 / gamma))
        normal = draws(
            seeds, "linear_mdp/directions", lambda g: torch.randn(d, d, generator=g, dtype=torch.float64)
        )
        U = torch.linalg.qr(normal).Q.mT  # rows are the directions
        purpose = f"linear_mdp/samples/{gamma:g}/{M}"
        which = draws(
            seeds, purpose, lambda g: torch.multinomial(self.weights, M * N, replacement=True, generator=g)
        )
        samples = U.gather(1, which[:, :, None].expand(-1, -1, d))
        Sigma = U.mT @ (self.weights[:, None] * U)
        exact = Sigma + gamma * torch.eye(d, dtype=torch.float64)
        make = {
            "direct": lambda: regularised_inverse(samples.mT @ samples / (M * N), gamma),
            "resampling": lambda: resampled_inverse(samples.unflatten(1, (M, N)), gamma, self.c),
        }
        answers = []
        for arm in self.inverses:
            Sinv = make[arm]()
            error = torch.linalg.matrix_norm(Sinv @ exact - torch.eye(d, dtype=torch.float64), ord=2)
            answers.append(({"arm": arm}, {"error": error, "log_error": error.log()}))
        return answers


def _listed(value: float | Sequence[float]) -> list[float]:
    return [float(v) for v in value] if isinstance(value, Sequence) else [float(value)]
