"""What all mechanisms share: seeds, noise streams, shapes, the refusal."""

import copy
from collections.abc import Callable, Sequence
from typing import Any, Self

import numpy as np
from jaxtyping import Float
from numpy.typing import ArrayLike

from lossatlas.seeding import numpy_stream

Source = Callable[[Any], ArrayLike]
NOISES = ("laplace", "gaussian")


class BudgetSpentError(ValueError):
    """No repetition may be asked any more."""


class Mechanism:
    """What all share: seeds, noise streams, shapes.

    Args:
        seed: of the noise; a list of R for R repetitions side by side.
    """

    def __init__(self, seed: int | Sequence[int] = 0) -> None:
        self.lone = isinstance(seed, int)
        self.seeds = [seed] if isinstance(seed, int) else list(seed)
        if not self.seeds:
            raise ValueError("a mechanism needs a seed, or a list with at least one")
        self.name, self._streams = "mechanism", {}
        self.used = np.zeros(len(self.seeds), int)  # answers that count against a budget

    def ask(self, query: Any) -> Any:
        """The answer.

        Args:
            query: whatever the sample takes.

        Returns:
            A number, or an array (R,), (m,) or (R, m); NaN for repetitions that refuse.

        Raises:
            ValueError: means of a wrong shape or not finite.
            BudgetSpentError: all repetitions refuse; the sample is not read then.
        """
        raise NotImplementedError

    def fork(self, name: str) -> Self:
        """A copy in the same state with noise of its own, so that what it is asked leaves this one as it is."""
        twin = copy.copy(self)
        for key, value in vars(self).items():
            if isinstance(value, np.ndarray):
                setattr(twin, key, value.copy())
        twin.name, twin._streams = name, {}
        return twin

    def _noise(self, purpose: str, kind: str, m: int) -> Float[np.ndarray, "R m"]:
        """Standard noise, the next m numbers of every repetition's stream."""
        if purpose not in self._streams:
            self._streams[purpose] = [
                numpy_stream(seed, f"thresholdout/{self.name}/{purpose}") for seed in self.seeds
            ]
        streams = self._streams[purpose]
        return np.stack([g.laplace(size=m) if kind == "laplace" else g.standard_normal(m) for g in streams])

    def _means(self, source: Source, query: Any) -> tuple[Float[np.ndarray, "R m"], bool]:
        """Means of a query or a block as (R, m), and whether it was one."""
        means = np.asarray(source(query), np.float64)
        if not np.isfinite(means).all():
            raise ValueError("the mean of a query is not a finite number: check the query for NaN")
        means = means[None] if self.lone else means
        if means.ndim not in (1, 2) or len(means) != len(self.seeds):
            raise ValueError(
                f"{len(self.seeds)} seeds need means (R,) or (R, m) with R = {len(self.seeds)}, got {means.shape}"
            )
        return (means[:, None], True) if means.ndim == 1 else (means, False)

    def _told(self, answers: Float[np.ndarray, "R m"], single: bool) -> Any:
        """Answers in the shape of the question."""
        answers = answers[:, 0] if single else answers
        if self.lone:
            answers = answers[0]
        return float(answers) if answers.ndim == 0 else answers


def check_noise(noise: str) -> str:
    """The noise's name.

    Raises:
        ValueError: neither laplace nor gaussian.
    """
    if noise not in NOISES:
        raise ValueError(f"noise is laplace or gaussian, got {noise!r}")
    return noise
