"""`multiwinner_movies`: committees of films from the rankings of MovieLens users."""

from typing import Any

import numpy as np
from jaxtyping import Float

from lossatlas.cells import Cell, numpy_stream
from lossatlas.data.ratings import Ratings
from lossatlas.errors import UserError
from lossatlas.papers.multiwinner.bias import weigh
from lossatlas.papers.multiwinner.scores import order_of
from lossatlas.papers.multiwinner.study import Answers, Bias, Truth, numbers


def predict_ratings(
    table: Float[np.ndarray, "U I"], rank: int = 8, ridge: float = 5.0, rounds: int = 15, seed: int = 0
) -> Float[np.ndarray, "U I"]:
    """Every user's rating of every item by a factor model: means of user and item plus rank-`rank` factors.

    Least squares with a ridge, users and items in turn.

    Args:
        table: ratings, NaN where there is none.
        rank: >= 1. ridge: > 0, on both factors. rounds: of both. seed: of the start.

    Raises:
        ValueError: rank, ridge or rounds out of range, or no rating at all.

    Example:
        >>> table = np.array([[5.0, 4.0, 1.0], [5.0, np.nan, 1.0], [1.0, 2.0, 5.0], [np.nan, 2.0, 5.0]])
        >>> predicted = predict_ratings(table, rank=1, ridge=0.1)
        >>> bool(predicted[1, 1] > predicted[3, 0])
        True
    """
    known = np.isfinite(table)
    if rank < 1 or not ridge > 0 or rounds < 1 or not known.any():
        raise ValueError(
            f"predict_ratings needs rank >= 1, ridge > 0, rounds >= 1 and a rating, got {rank=}, {ridge=}, {rounds=}"
        )
    mean = table[known].mean()
    rest = np.where(known, table - mean, 0.0)
    item = rest.sum(0) / (known.sum(0) + ridge)
    rest = np.where(known, rest - item, 0.0)
    user = rest.sum(1) / (known.sum(1) + ridge)
    rest = np.where(known, rest - user[:, None], 0.0)
    weight, eye = known * 1.0, ridge * np.eye(rank)
    Q = np.random.default_rng(seed).normal(size=(table.shape[1], rank)) * 0.1
    P = np.zeros((table.shape[0], rank))
    for _ in range(rounds):
        P = np.linalg.solve(
            np.einsum("ui,ir,is->urs", weight, Q, Q, optimize=True) + eye, (rest @ Q)[..., None]
        )[..., 0]
        Q = np.linalg.solve(
            np.einsum("ui,ur,us->irs", weight, P, P, optimize=True) + eye, (rest.T @ P)[..., None]
        )[..., 0]
    return mean + item + user[:, None] + P @ Q.T


class Movies(Bias):
    """The m most rated films; a user ranks them by own rating where there is one, else by the predicted one.

    Conditions: theta, and group: `old` (released before `before`) or `random` (half of the films, drawn per seed). F is
    from all users; the n rankings are of users drawn without replacement, so latent, too, is a sample of F's users.

    Args:
        ratings: of conf/data/ml100k.yaml.
        before: year.
        rank: of the factor model.

    Raises:
        UserError: more rankings than users, or one group is empty.
    """

    def __init__(
        self, data: None = None, *, ratings: Ratings, before: int = 1985, rank: int = 8, **settings: Any
    ) -> None:
        super().__init__(data, **settings)
        if max(self.rankings) > ratings.users:
            raise UserError(f"{ratings.users} users give at most as many rankings, got {max(self.rankings)}")
        films = ratings.most_rated(self.m).numpy()
        table = ratings.dense().double().numpy()
        predicted = predict_ratings(table, rank)[:, films]
        own = table[:, films]
        # equal ratings of one user are ordered by the model
        U = np.where(np.isnan(own), predicted, own + 1e-3 * predicted)
        self.utilities = U - U.min() + 0.1
        year = ratings.year.numpy()[films]
        self.old = (year > 0) & (year < before)
        if not 0 < self.old.sum() < self.m:
            raise UserError(
                f"{int(self.old.sum())} of {self.m} films are from before {before}: choose another year"
            )

    def solve(self, cell: Cell, seeds: list[int]) -> Answers:
        """One theta and group."""
        if cell["group"] not in ("old", "random"):
            raise UserError(f"group is old or random, got {cell['group']!r}")
        R, users, n = len(seeds), len(self.utilities), max(self.rankings)
        streams = [numpy_stream(seed, "multiwinner/users") for seed in seeds]
        drawn = np.stack([rng.permutation(users)[:n] for rng in streams])
        second = np.stack(
            [self.old if cell["group"] == "old" else rng.permutation(self.m) < self.m // 2 for rng in streams]
        )
        U = self.utilities[drawn]
        everyone = np.broadcast_to(order_of(self.utilities), (R, users, self.m))
        truth = Truth(everyone, self.functions, self.k, numbers(seeds, "fresh/ties", (self.m,)))
        orders = order_of(weigh(U, second, cell["theta"])), order_of(U)
        tie = f"{cell['group']}/{cell['theta']}"
        return [a for n in self.rankings for a in self._at(n, tie, seeds, truth, orders, second)]
