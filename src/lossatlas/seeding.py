"""Independent random streams: one per purpose, all derived from the run's seed."""

import zlib
from collections.abc import Callable, Iterable

import numpy as np
import torch
from numpy.typing import ArrayLike
from torch import Tensor


def stream(seed: int, purpose: str) -> torch.Generator:
    """A CPU generator that depends on (seed, purpose) alone.

    Noise, batch order and initialisation drawn from different streams do not shift each other: an arm that
    draws one number more still sees the same noisy labels. crc32, because `hash` differs between processes.

    Args:
        seed: the run's seed, >= 0.
        purpose: what the numbers are for, e.g. "noise".

    Raises:
        ValueError: seed is negative.

    Example:
        >>> bool((torch.rand(3, generator=stream(0, "a")) == torch.rand(3, generator=stream(0, "a"))).all())
        True
    """
    if seed < 0:
        raise ValueError(f"stream needs seed >= 0, got {seed}")
    state = _sequence(seed, purpose).generate_state(1, np.uint64)
    return torch.Generator().manual_seed(int(state[0] >> np.uint64(1)))  # manual_seed takes 63 bits safely


def numpy_stream(seed: int, purpose: str) -> np.random.Generator:
    """`stream` for numpy's distributions; its numbers are not those of `stream`.

    Raises:
        ValueError: seed is negative.

    Example:
        >>> bool(numpy_stream(0, "a").random() == numpy_stream(0, "a").random())
        True
    """
    if seed < 0:
        raise ValueError(f"numpy_stream needs seed >= 0, got {seed}")
    return np.random.default_rng(_sequence(seed, purpose))


def draws(seeds: Iterable[int], purpose: str, sample: Callable[[torch.Generator], Tensor]) -> Tensor:
    """What every seed draws from its own stream, stacked: row r depends on (seeds[r], purpose) alone.

    Args:
        seeds: R of them, at least one.
        purpose: what the numbers are for; a part of a long stream has a purpose of its own ("noise/3").
        sample: generator -> tensor, the same shape for each seed; m repetitions inside a seed are its first axis.

    Returns:
        (R, ...).

    Example:
        >>> both = draws([0, 7], "noise", lambda g: torch.randn(2, generator=g))
        >>> bool((both[1] == draws([7], "noise", lambda g: torch.randn(2, generator=g))[0]).all())
        True
    """
    return torch.stack([sample(stream(seed, purpose)) for seed in seeds])


def numpy_draws(
    seeds: Iterable[int], purpose: str, sample: Callable[[np.random.Generator], ArrayLike]
) -> Tensor:
    """`draws` with numpy's generators, for the distributions that torch samples without one (Dirichlet, gamma).

    Example:
        >>> numpy_draws([0, 1, 2], "law", lambda rng: rng.dirichlet([0.3] * 4, size=5)).shape
        torch.Size([3, 5, 4])
    """
    return torch.stack([torch.from_numpy(np.asarray(sample(numpy_stream(seed, purpose)))) for seed in seeds])


def _sequence(seed: int, purpose: str) -> np.random.SeedSequence:
    return np.random.SeedSequence([seed, zlib.crc32(purpose.encode())])
