"""Independent random streams: one per purpose, all derived from the run's seed."""

import zlib

import numpy as np
import torch


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
    state = np.random.SeedSequence([seed, zlib.crc32(purpose.encode())]).generate_state(1, np.uint64)
    return torch.Generator().manual_seed(int(state[0] >> np.uint64(1)))  # manual_seed takes 63 bits safely
