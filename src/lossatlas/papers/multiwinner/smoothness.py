"""How much of a score's signal a bias leaves, eq. 5."""

import numpy as np
from jaxtyping import Bool, Float, Int

from lossatlas.papers.multiwinner.scores import Score


def smoothness(
    score: Score,
    unbiased: Int[np.ndarray, "n m"],
    biased: Int[np.ndarray, "n m"],
    second: Bool[np.ndarray, " m"],
    best: int = 3,
    S: list[int] | None = None,
) -> tuple[float, float]:
    """alpha and gamma of eq. 5 from rankings given as positions.

    Args:
        score: of `make_score`. unbiased, biased: the same rankings' positions without and with the bias.
        second: which items are in G_2.
        best: |T_2|, 1 to |G_2| - 1.
        S: for Chamberlin-Courant, the committee to which an item is added.

    Returns:
        alpha, gamma; about (2 / gamma)^2 log m rankings tell the items of T_2 from those below. gamma is 0 where a pair
        has always the same mark.

    Raises:
        ValueError: best out of range.

    Example:
        >>> from lossatlas.papers.multiwinner import make_score, positions_of
        >>> U = np.random.default_rng(0).random((500, 4)) + [0.6, 0.6, 0.3, 0.0]
        >>> second = np.array([False, True, True, True])
        >>> there, low = positions_of(U), positions_of(U * np.where(second, 0.7, 1.0))
        >>> [round(smoothness(make_score(name, 4, 2), there, low, second, best=1)[0], 2) for name in ("borda", "sntv")]
        [0.87, 0.44]
    """
    low = np.flatnonzero(second)
    if not 1 <= best < len(low):
        raise ValueError(f"smoothness needs 1 <= best < {len(low)} items of G_2, got {best=}")
    s, s_hat = (_marks(score, positions, S)[:, low] for positions in (unbiased, biased))
    rank = np.argsort(-s.mean(0), kind="stable")
    s, s_hat = s[:, rank], s_hat[:, rank]
    mean, mean_hat = s.mean(0), s_hat.mean(0)
    alpha = float(np.min(mean_hat[:best] / np.maximum(mean[:best], np.finfo(float).tiny)))
    between = s_hat.T @ s_hat / len(s_hat) - np.outer(mean_hat, mean_hat)
    i, j = np.triu_indices(len(low), 1)
    i, j = i[i < best], j[i < best]
    spread = np.sqrt(np.maximum(between[i, i] + between[j, j] - 2 * between[i, j], 0.0))
    apart = mean_hat[i] - mean_hat[j]
    signal = np.where(spread > 1e-12, apart / np.maximum(spread, 1e-12), 0.0)
    return alpha, float(signal.min())


def _marks(score: Score, positions: Int[np.ndarray, "n m"], S: list[int] | None) -> Float[np.ndarray, "n m"]:
    """(n, m) what each item brings in each ranking: its mark, for Chamberlin-Courant its gain over S."""
    marks = score.marks[positions]
    if not score.best_only:
        return marks
    held = marks[:, S].max(1, keepdims=True) if S else 0.0
    return np.maximum(marks - held, 0.0)
