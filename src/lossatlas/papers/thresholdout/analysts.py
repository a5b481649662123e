"""Analysts that fit the sample through its answers: one who knows P, one who chooses features."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from jaxtyping import Float, Int


class SignAnalyst:
    """Adds up which way each answer missed the truth, and asks what all errors together say; it holds no sample.

    q*(x) = 1[sum_j sgn(a_j - q_j(P)) (q_j(x) - 1/2) > 0].

    Args:
        P: (R, N) the populations, which it may know: a mechanism has to survive every analyst.
    """

    def __init__(self, P: Float[np.ndarray, "R N"]) -> None:
        self.P, self.evidence = P, np.zeros_like(P)

    def observe(self, q: Float[np.ndarray, "R m N"], answers: Float[np.ndarray, "R m"]) -> None:
        """Queries and what was answered; a refusal (NaN) says nothing."""
        missed = np.nan_to_num(np.sign(answers - np.matmul(q, self.P[..., None])[..., 0]))
        self.evidence += np.matmul(missed[:, None], q)[:, 0] - missed.sum(-1, keepdims=True) / 2

    def final(self) -> Float[np.ndarray, "R N"]:
        """q*."""
        return (self.evidence > 0).astype(np.float64)


@dataclass(frozen=True)
class Votes:
    """Classifiers sgn(sum_j signs_j x_{order_j}) of the first k features, for each k of `ks`.

    Args:
        order: (R, K) features, best first. signs: (R, K) in {-1, 0, 1}; 0: no more features were kept.
        ks: increasing, at most K.
    """

    order: Int[np.ndarray, "R K"]
    signs: Float[np.ndarray, "R K"]
    ks: tuple[int, ...]


def choose_features(
    training: Float[np.ndarray, "R d"], answers: Float[np.ndarray, "R d"], least: float, ks: Sequence[int]
) -> Votes:
    """The features whose training correlation and answer have one sign and are both above `least`, best first.

    Args:
        training: correlations with the label on the training half.
        answers: what a mechanism said of them; the training correlations themselves for no holdout.
        least: 1 / sqrt(n).
        ks: numbers of features, increasing.

    Raises:
        ValueError: shapes that differ, NaN, or ks not increasing.

    Example:
        >>> votes = choose_features(np.array([[0.1, -0.5, 0.4]]), np.array([[0.2, -0.3, -0.4]]), 0.05, [0, 2])
        >>> votes.order.tolist(), votes.signs.tolist()
        ([[1, 0]], [[-1.0, 1.0]])
    """
    ks = tuple(ks)
    if training.shape != answers.shape or training.ndim != 2:
        raise ValueError(f"training and answers are both (R, d), got {training.shape} and {answers.shape}")
    if not np.isfinite(training).all():
        raise ValueError("a training correlation is not a finite number")
    if not ks or list(ks) != sorted(set(ks)) or ks[0] < 0 or ks[-1] > training.shape[1]:
        raise ValueError(f"ks are increasing numbers of features, 0 to {training.shape[1]}, got {list(ks)}")
    keep = (training * answers > 0) & (np.abs(training) > least) & (np.abs(answers) > least)
    order = np.argsort(np.where(keep, -np.abs(training), 0.0), axis=1, kind="stable")[:, : ks[-1]]
    signs = np.take_along_axis(np.where(keep, np.sign(training), 0.0), order, 1)
    return Votes(order, signs, ks)
