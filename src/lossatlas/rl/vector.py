"""Several games side by side in one process, each with a seed of its own."""

from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor

from lossatlas.seeding import stream


def derived_seeds(seed: int, purpose: str, n: int = 1) -> list[int]:
    """n seeds in [0, 2^31) that depend on (seed, purpose) alone, for libraries that want a number.

    Example:
        >>> derived_seeds(0, "games", 2) == derived_seeds(0, "games", 3)[:2]
        True
    """
    return torch.randint(2**31, (n,), generator=stream(seed, purpose)).tolist()


class Step(NamedTuple):
    """What a step of n games gives.

    obs (n, *shape) is what the next action is chosen by; last (n, *shape) is what the step led to. They differ
    where an episode ended: last is its last image, obs the first one of the next. reward (n,) float32,
    terminated and truncated (n,) bool.
    """

    obs: Tensor
    reward: Tensor
    terminated: Tensor
    truncated: Tensor
    last: Tensor

    @property
    def ended(self) -> Tensor:
        """(n,) whether a new episode has begun, for whatever reason."""
        return self.terminated | self.truncated


class Vector:
    """n games that are stepped together; one that ended begins anew at once.

    gymnasium's SyncVectorEnv does the same through dictionaries and object arrays, which cost more here than the
    games themselves.

    Args:
        make: returns a new gymnasium.Env with a discrete action space.
        seeds: one per game, given to its first reset; the game's later resets go on with its own generator.

    Attributes:
        shape: of an observation; dtype: bool where the game gives zeros and ones, else float32; actions: how many.

    Raises:
        ValueError: no seed, or actions that are not discrete.
    """

    def __init__(self, make: Callable[[], Any], seeds: Sequence[int]) -> None:
        if not seeds:
            raise ValueError("Vector needs a seed for each game, got none")
        self.games, self.seeds = [make() for _ in seeds], list(seeds)
        space = self.games[0].action_space
        if not hasattr(space, "n") or len(space.shape):
            raise ValueError(f"Vector plays games with discrete actions, got {space}")
        self.actions = int(space.n)
        self.shape: tuple[int, ...] = tuple(self.games[0].observation_space.shape)
        first = np.asarray(self.games[0].reset(seed=self.seeds[0])[0])
        self.kind: Any = np.bool_ if first.dtype == np.bool_ else np.float32
        self.dtype = torch.bool if first.dtype == np.bool_ else torch.float32

    def __len__(self) -> int:
        return len(self.games)

    def reset(self) -> Tensor:
        """First observations (n, *shape) of the games from their seeds."""
        obs = self._empty()
        for i, (game, seed) in enumerate(zip(self.games, self.seeds, strict=True)):
            obs[i] = game.reset(seed=seed)[0]
        return torch.from_numpy(obs)

    def step(self, actions: Sequence[int]) -> Step:
        """One step of every game.

        Args:
            actions: n whole numbers in [0, self.actions).
        """
        obs, last, n = self._empty(), self._empty(), len(self.games)
        reward, flags = np.empty(n, dtype=np.float32), np.empty((2, n), dtype=np.bool_)
        for i, (game, action) in enumerate(zip(self.games, actions, strict=True)):
            last[i], reward[i], flags[0, i], flags[1, i], _ = game.step(action)
            obs[i] = game.reset()[0] if flags[0, i] or flags[1, i] else last[i]
        terminated, truncated = torch.from_numpy(flags)
        return Step(
            torch.from_numpy(obs), torch.from_numpy(reward), terminated, truncated, torch.from_numpy(last)
        )

    def _empty(self) -> np.ndarray:
        return np.empty((len(self.games), *self.shape), dtype=self.kind)
