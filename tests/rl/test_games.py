"""Games: equal seeds replay equal trajectories, time limits truncate, what ended begins anew."""

from functools import partial

import numpy as np
import pytest
import torch
from minatar import Environment

from lossatlas.errors import UserError
from lossatlas.rl import Vector, derived_seeds, gym_game, minatar_game

GAMES = {
    "breakout": partial(minatar_game, "breakout"),
    "asterix": partial(minatar_game, "asterix"),
    "freeway": partial(minatar_game, "freeway"),
    "cartpole": partial(gym_game, "CartPole-v1"),
}


def trajectory(game: str, seeds: list[int], steps: int = 300) -> list[torch.Tensor]:
    games, g = Vector(GAMES[game], seeds), torch.Generator().manual_seed(5)
    seen = [games.reset().float()]
    for _ in range(steps):
        step = games.step(torch.randint(games.actions, (len(seeds),), generator=g).tolist())
        seen += [part.float() for part in step]
    return seen


@pytest.mark.parametrize("game", GAMES)
def test_equal_seeds_replay_equal_trajectories(game):
    one, same, other = (trajectory(game, seeds) for seeds in ([3, 4], [3, 4], [5, 6]))
    assert all(torch.equal(a, b) for a, b in zip(one, same, strict=True))
    assert not all(torch.equal(a, b) for a, b in zip(one, other, strict=True))
    assert any(not torch.equal(step[0], step[1]) for step in one)  # neighbours differ, too


def test_a_vector_can_be_reset_to_its_start():
    games = Vector(GAMES["breakout"], [1, 2])
    first = games.reset()
    for _ in range(7):
        games.step([1, 0])
    assert torch.equal(games.reset(), first)


def test_minatar_is_the_packages_game():
    """Images, rewards and ends of the package's own object, driven by hand with all its six actions."""
    game, own = minatar_game("breakout"), Environment("breakout")
    seen, _ = game.reset(seed=11)
    own.seed(11)
    own.reset()
    assert seen.shape == game.observation_space.shape == (4, 10, 10)
    assert game.action_space.n == 3
    rewards = 0.0
    for k in range(400):
        assert np.array_equal(seen, np.moveaxis(own.state(), 2, 0))
        action = k * 7 % 3
        seen, reward, terminated, truncated, _ = game.step(action)
        wanted, ended = own.act([0, 1, 3][action])  # none, left, right
        assert (reward, terminated, truncated) == (wanted, ended, False)
        rewards += reward
        if ended:
            seen, _ = game.reset()
            own.reset()
    assert rewards > 0


def test_time_limits_truncate_and_ends_terminate():
    freeway = minatar_game("freeway")
    freeway.reset(seed=0)
    for k in range(2501):  # its own clock
        *_, terminated, truncated, _ = freeway.step(0)
        assert not terminated
        assert truncated == (k == 2500)
    short = minatar_game("breakout", limit=3)
    short.reset(seed=0)
    assert [short.step(0)[2:4] for _ in range(3)] == [(False, False), (False, False), (False, True)]
    short.reset()
    assert [short.step(0)[3] for _ in range(3)] == [False, False, True]  # counted anew
    lost = minatar_game("breakout", sticky=0.0)
    lost.reset(seed=0)
    ends = [lost.step(1)[2:4] for _ in range(30)]  # leaves the ball alone
    assert (True, False) in ends
    assert (False, True) not in ends
    pole = gym_game("CartPole-v1", max_episode_steps=3)
    pole.reset(seed=0)
    assert [pole.step(k % 2)[2:4] for k in range(3)] == [(False, False), (False, False), (False, True)]


def test_what_ended_begins_anew_and_its_last_image_is_kept():
    games = Vector(partial(gym_game, "CartPole-v1", max_episode_steps=4), [7, 8])
    games.reset()
    steps = [games.step([0, 1]) for _ in range(8)]
    for k, step in enumerate(steps):
        ended = k % 4 == 3
        assert step.truncated.tolist() == step.ended.tolist() == [ended, ended]
        assert not step.terminated.any()
        assert torch.equal(step.obs, step.last) != ended
    assert (steps[3].obs.abs() <= 0.05).all()  # CartPole's starts
    assert not torch.equal(steps[3].obs, steps[7].obs)  # the game's own generator goes on


def test_seeds_depend_on_seed_and_purpose():
    assert derived_seeds(0, "a", 3) == derived_seeds(0, "a", 3)
    assert len({*derived_seeds(0, "a", 3), *derived_seeds(0, "b", 3), *derived_seeds(1, "a", 3)}) == 9


@pytest.mark.parametrize(
    ("make", "told"),
    [
        (lambda: minatar_game("pong"), "MinAtar knows asterix"),
        (lambda: minatar_game("breakout", sticky=1.5), "sticky in [0, 1]"),
        (lambda: minatar_game("breakout", limit=0), "limit >= 1"),
        (lambda: gym_game("NoGame-v0"), "no game NoGame-v0"),
        (lambda: Vector(GAMES["cartpole"], []), "a seed for each game"),
        (lambda: Vector(partial(gym_game, "Pendulum-v1"), [0]), "discrete actions"),
    ],
)
def test_bad_arguments(make, told):
    with pytest.raises(ValueError, match=r"MinAtar|gymnasium|Vector") as refusal:
        make()
    assert told in str(refusal.value)
    assert "\n" not in str(refusal.value)


@pytest.mark.parametrize("package", ["gymnasium", "minatar"])
def test_a_missing_package_is_named(monkeypatch, package):
    monkeypatch.setitem(__import__("sys").modules, package, None)
    with pytest.raises(UserError, match=rf"need {package}.*lossatlas\[rl\]"):
        minatar_game("breakout")
