"""Returns of episodes: those of training as they end, and those of games played for the measurement alone."""

from collections.abc import Callable
from itertools import pairwise

import torch
from torch import Tensor

from lossatlas.rl.vector import Step, Vector


class EpisodeLog:
    """Sums of rewards (not discounted) of the episodes of n games.

    Args:
        n: games.

    Attributes:
        ended: (frame, return) of each episode in the order of their ends, frames counted over all games.
    """

    def __init__(self, n: int) -> None:
        self.running, self.ended, self.frame = [0.0] * n, list[tuple[int, float]](), 0

    def add(self, step: Step) -> None:
        """One step of all games."""
        self.frame += len(self.running)
        for i, (reward, ended) in enumerate(zip(step.reward.tolist(), step.ended.tolist(), strict=True)):
            self.running[i] += reward
            if ended:
                self.ended.append((self.frame, self.running[i]))
                self.running[i] = 0.0

    def mean(self, after: int, upto: int | None = None) -> float:
        """Mean return of the episodes that ended in frames (after, upto]; NaN where none did."""
        stop = self.frame if upto is None else upto
        found = [value for frame, value in self.ended if after < frame <= stop]
        return sum(found) / len(found) if found else float("nan")

    def curve(self, points: int, frames: int) -> list[tuple[int, float]]:
        """(frame, mean return of the episodes that ended since the point before) at evenly spaced frames.

        Points without an episode are left out.
        """
        edges = [round(frames * k / points) for k in range(points + 1)]
        rows = [(b, self.mean(a, b)) for a, b in pairwise(edges)]
        return [(frame, value) for frame, value in rows if value == value]


@torch.no_grad()
def evaluate(
    q: Callable[[Tensor], Tensor], games: Vector, each: int, epsilon: float, generator: torch.Generator
) -> list[float]:
    """Returns of `each` episodes of every game, played from its seed.

    So many of every game, and not the first ones to end: those would be the short ones.

    Args:
        q: observations (n, *shape) -> values (n, actions).
        games: not the ones trained on.
        each: episodes of a game, >= 1.
        epsilon: chance of a random action.
        generator: of these.
    """
    obs, left = games.reset(), [each] * len(games)
    running, found = [0.0] * len(games), list[float]()
    while any(left):
        step = games.step(choose(q(obs), epsilon, generator).tolist())
        obs = step.obs
        for i, (reward, ended) in enumerate(zip(step.reward.tolist(), step.ended.tolist(), strict=True)):
            running[i] += reward
            if ended:
                if left[i]:
                    found.append(running[i])
                    left[i] -= 1
                running[i] = 0.0
    return found


def choose(values: Tensor, epsilon: float, generator: torch.Generator) -> Tensor:
    """(n,) int64: the best action of values (n, actions), or with chance epsilon any.

    The same numbers are drawn whatever the values are, so that runs that differ in them stay comparable.
    """
    n, actions = values.shape
    explores = torch.rand(n, generator=generator) < epsilon
    anything = torch.randint(actions, (n,), generator=generator)
    return torch.where(explores, anything, values.argmax(dim=1).to(anything.device))
