"""Replay memory: the last transitions, in tensors that are there from the start."""

from collections.abc import Sequence
from typing import NamedTuple

import torch
from torch import Tensor

from lossatlas.rl.vector import Step


class Transitions(NamedTuple):
    """b transitions: obs and last (b, *shape), action (b,) int64, reward (b,) float32, terminated (b,) bool.

    A transition that a time limit cut is not terminated: its value goes on behind `last`.
    """

    obs: Tensor
    action: Tensor
    reward: Tensor
    last: Tensor
    terminated: Tensor


class Replay:
    """A ring of `capacity` transitions.

    Args:
        capacity: >= 1.
        shape, dtype: of an observation.

    Attributes:
        size: how many it holds.

    Raises:
        ValueError: capacity.
    """

    def __init__(self, capacity: int, shape: Sequence[int], dtype: torch.dtype = torch.float32) -> None:
        if capacity < 1:
            raise ValueError(f"Replay needs capacity >= 1, got {capacity}")
        self.capacity, self.size, self._next = capacity, 0, 0
        self.held = Transitions(
            obs=torch.empty(capacity, *shape, dtype=dtype),
            action=torch.empty(capacity, dtype=torch.int64),
            reward=torch.empty(capacity),
            last=torch.empty(capacity, *shape, dtype=dtype),
            terminated=torch.empty(capacity, dtype=torch.bool),
        )

    def add(self, obs: Tensor, action: Tensor, step: Step) -> None:
        """The transitions of n games, n <= capacity; the oldest ones give way.

        Raises:
            ValueError: more than the capacity at once.
        """
        n = len(action)
        if n > self.capacity:
            raise ValueError(f"Replay holds {self.capacity} transitions, got {n} at once")
        new = Transitions(obs, action, step.reward, step.last, step.terminated)
        head = min(n, self.capacity - self._next)  # the rest goes to the ring's start
        for held, value in zip(self.held, new, strict=True):
            held[self._next : self._next + head] = value[:head]
            if head < n:
                held[: n - head] = value[head:]
        self._next = (self._next + n) % self.capacity
        self.size = min(self.size + n, self.capacity)

    def sample(self, b: int, generator: torch.Generator) -> Transitions:
        """b transitions, drawn uniformly with replacement.

        Raises:
            ValueError: nothing is held.
        """
        if not self.size:
            raise ValueError("Replay holds nothing yet: add before sampling")
        index = torch.randint(self.size, (b,), generator=generator)
        return Transitions(*(held[index] for held in self.held))
