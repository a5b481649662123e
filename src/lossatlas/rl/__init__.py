"""What reinforcement learning papers share: games side by side, replay memory, value networks, evaluation.

Games need the extra `rl` (gymnasium, MinAtar); they are imported when the first one is made.
"""

from lossatlas.rl.evaluate import EpisodeLog, choose, evaluate
from lossatlas.rl.games import gym_game, minatar_game
from lossatlas.rl.nets import QNet
from lossatlas.rl.replay import Replay, Transitions
from lossatlas.rl.vector import Step, Vector, derived_seeds

__all__ = [
    "EpisodeLog",
    "QNet",
    "Replay",
    "Step",
    "Transitions",
    "Vector",
    "choose",
    "derived_seeds",
    "evaluate",
    "gym_game",
    "minatar_game",
]
