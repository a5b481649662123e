"""Replay memory, value networks, returns, evaluation, choice of actions."""

import math
from typing import Any

import gymnasium
import numpy as np
import pytest
import torch
from gymnasium.spaces import Box, Discrete

from lossatlas.rl import EpisodeLog, QNet, Replay, Step, Vector, choose, evaluate


def step(values: list[float], terminated: bool = False, truncated: bool = False) -> Step:
    x = torch.tensor(values)[:, None]
    flags = (torch.full((len(values),), flag) for flag in (terminated, truncated))
    return Step(x + 0.5, x[:, 0] * 10, *flags, x + 0.25)


def test_replay_is_a_ring_in_one_place():
    memory = Replay(5, [1])
    places = [t.data_ptr() for t in memory.held]
    for k in range(4):  # 8 transitions, 0 to 7
        values = [2.0 * k, 2.0 * k + 1]
        memory.add(torch.tensor(values)[:, None], torch.tensor([k, k]), step(values))
    assert [t.data_ptr() for t in memory.held] == places
    assert memory.size == 5
    assert sorted(memory.held.obs[:, 0].tolist()) == [3.0, 4.0, 5.0, 6.0, 7.0]
    for k in range(5):  # what belongs together has stayed together
        x = memory.held.obs[k, 0].item()
        assert (memory.held.last[k, 0].item(), memory.held.reward[k].item()) == (x + 0.25, x * 10)
        assert memory.held.action[k].item() == x // 2


def test_a_truncated_transition_is_not_terminated():
    memory = Replay(4, [1])
    memory.add(torch.zeros(1, 1), torch.tensor([0]), step([1.0], truncated=True))
    memory.add(torch.zeros(1, 1), torch.tensor([0]), step([2.0], terminated=True))
    assert memory.held.terminated[:2].tolist() == [False, True]
    assert memory.held.last[:2, 0].tolist() == [1.25, 2.25]  # not the next episode's first image


def test_sampling_is_uniform_and_by_generator():
    memory = Replay(4, [1])
    memory.add(torch.arange(3.0)[:, None], torch.zeros(3, dtype=torch.int64), step([0.0, 1.0, 2.0]))
    one, same = (memory.sample(6000, torch.Generator().manual_seed(1)) for _ in range(2))
    assert torch.equal(one.obs, same.obs)
    shares = torch.bincount(one.obs[:, 0].long()) / 6000
    assert shares.tolist() == pytest.approx([1 / 3] * 3, abs=0.03)  # and nothing of the empty place


@pytest.mark.parametrize(("shape", "outputs"), [((4, 10, 10), 51), ((4,), 1)])
def test_qnet(shape, outputs):
    net = QNet(shape, actions=3, outputs=outputs)
    assert net(torch.randn(5, *shape)).shape == (5, 3, outputs)
    count = sum(p.numel() for p in net.parameters())
    body = 16 * (4 * 9 + 1) + (1024 + 1) * 128 if len(shape) == 3 else (4 + 1) * 128
    assert count == body + 129 * 3 * outputs


@pytest.mark.parametrize(
    "call",
    [
        lambda: QNet((4, 2, 10), 3),
        lambda: QNet((4, 10), 3),
        lambda: QNet((4,), 0),
        lambda: Replay(0, [1]),
        lambda: Replay(2, [1]).sample(1, torch.Generator()),
        lambda: Replay(1, [1]).add(torch.zeros(2, 1), torch.zeros(2, dtype=torch.int64), step([0.0, 1.0])),
    ],
)
def test_bad_arguments(call):
    with pytest.raises(ValueError, match=r"got|nothing"):
        call()


def test_returns_of_episodes():
    log = EpisodeLog(2)
    log.add(step([0.1, 0.2]))
    log.add(step([0.1, 0.2], truncated=True))
    log.add(step([0.3, 0.1], terminated=True))
    assert [frame for frame, _ in log.ended] == [4, 4, 6, 6]
    assert [value for _, value in log.ended] == pytest.approx([2.0, 4.0, 3.0, 1.0])
    assert log.mean(after=4) == pytest.approx(2.0)
    assert log.mean(after=0, upto=4) == pytest.approx(3.0)
    assert math.isnan(log.mean(after=6))
    assert log.curve(3, 6) == [(4, pytest.approx(3.0)), (6, pytest.approx(2.0))]


class Counting(gymnasium.Env):
    """An episode of the game with seed s has s steps of reward 1."""

    observation_space, action_space = Box(-np.inf, np.inf, (1,)), Discrete(2)
    length = 0

    def reset(self, *, seed: int | None = None, options: dict[str, Any] | None = None) -> Any:
        self.length, self.t = seed or self.length, 0
        return np.zeros(1, dtype=np.float32), {}

    def step(self, action: int) -> Any:
        self.t += 1
        return np.zeros(1, dtype=np.float32), 1.0, self.t == self.length, False, {}


def test_evaluation_counts_as_many_episodes_of_every_game():
    games = Vector(Counting, [2, 30])
    q = lambda obs: torch.zeros(len(obs), 2)  # noqa: E731
    found = evaluate(q, games, each=3, epsilon=0.1, generator=torch.Generator())
    assert sorted(found) == [2.0] * 3 + [30.0] * 3


def test_chosen_actions():
    values = torch.tensor([[0.0, 2.0, 1.0]]).expand(30000, 3)
    best = choose(values, 0.0, torch.Generator().manual_seed(0))
    assert (best == 1).all()
    some = choose(values, 0.3, torch.Generator().manual_seed(0))
    shares = (torch.bincount(some) / 30000).tolist()
    assert shares == pytest.approx([0.1, 0.8, 0.1], abs=0.01)
    generators = [torch.Generator().manual_seed(0) for _ in range(2)]
    choose(values, 0.0, generators[0])
    choose(-values, 1.0, generators[1])
    assert torch.equal(*(g.get_state() for g in generators))
