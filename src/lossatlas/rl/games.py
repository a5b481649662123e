"""Single games with gymnasium's interface. One that ran out of time is truncated, not terminated."""

from typing import TYPE_CHECKING, Any

import numpy as np

from lossatlas.errors import UserError

if TYPE_CHECKING:
    import gymnasium

MINATAR = ("asterix", "breakout", "freeway", "seaquest", "space_invaders")
TIMED = ("freeway",)  # nothing but their clock ends them


def gym_game(name: str, **settings: Any) -> "gymnasium.Env":
    """A registered game of gymnasium, such as CartPole-v1, whose own time limit truncates.

    Raises:
        UserError: gymnasium is not installed.
        ValueError: no such game.
    """
    try:
        import gymnasium
    except ImportError:
        raise _missing("gymnasium") from None
    try:
        return gymnasium.make(name, disable_env_checker=True, **settings)
    except gymnasium.error.Error as error:
        raise ValueError(f"gymnasium has no game {name}: {error}") from None


def minatar_game(name: str, sticky: float = 0.1, limit: int = 10_000) -> "gymnasium.Env":
    """A MinAtar game (Young, Tian; 2019) with its minimal action set and images (C, 10, 10) of zeros and ones.

    Args:
        name: asterix, breakout, freeway, seaquest or space_invaders.
        sticky: chance in [0, 1] that the last action is repeated instead of the new one.
        limit: frames, >= 1, after which an episode is truncated. Freeway ends by its own clock alone (2500
            frames), which is a time limit as well: it truncates and never terminates.

    Raises:
        UserError: gymnasium or MinAtar is not installed.
        ValueError: an argument out of range.
    """
    if name not in MINATAR or not 0 <= sticky <= 1 or limit < 1:
        raise ValueError(
            f"MinAtar knows {', '.join(MINATAR)}, sticky in [0, 1] and limit >= 1, got {name=}, {sticky=}, {limit=}"
        )
    try:
        import gymnasium
        from minatar import Environment
    except ImportError as error:
        raise _missing(error.name or "gymnasium") from None

    class MinAtar(gymnasium.Env):
        """MinAtar's own wrapper has channels last, all six actions and no truncation."""

        def __init__(self) -> None:
            self.game = Environment(name, sticky_action_prob=sticky)
            self.moves = self.game.minimal_action_set()
            rows, columns, channels = self.game.state_shape()
            self.observation_space = gymnasium.spaces.MultiBinary([channels, rows, columns])
            self.action_space = gymnasium.spaces.Discrete(len(self.moves))
            self.frames = 0

        def reset(
            self, *, seed: int | None = None, options: dict[str, Any] | None = None
        ) -> tuple[np.ndarray, dict[str, Any]]:
            if seed is not None:
                self.game.seed(seed)
                self.game.last_action = 0  # sticky actions look back over the end of an episode
            self.game.reset()
            self.frames = 0
            return self._seen(), {}

        def step(self, action: int) -> tuple[np.ndarray, float, bool, bool, dict[str, Any]]:
            reward, ended = self.game.act(self.moves[action])
            self.frames += 1
            out_of_time = self.frames >= limit or (ended and name in TIMED)
            terminated = bool(ended) and name not in TIMED
            return self._seen(), float(reward), terminated, out_of_time and not terminated, {}

        def _seen(self) -> np.ndarray:
            return self.game.state().transpose(2, 0, 1)

    return MinAtar()


def _missing(package: str) -> UserError:
    return UserError(f"games need {package}, which is not here: pip install 'lossatlas[rl]'")
