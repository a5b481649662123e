"""DQN (Mnih et al.; 2015) whose loss is any of the room's: squares, histograms, or C51's own bootstrap.

The algorithm is `LitDQN.play`, top to bottom. A checkpoint holds networks, moments, generators and the actions
taken; a resumed run plays these actions again, which brings back games, memory and returns exactly, in some 20
seconds per million frames.
"""

import copy
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn

from lossatlas.lit import LitModule
from lossatlas.papers.hl_gauss.losses import C51Loss
from lossatlas.rl import EpisodeLog, Replay, Transitions, Vector, choose, derived_seeds, evaluate

POINTS = 40  # of the learning curve


class LitDQN(LitModule):
    """Q-learning from replayed transitions; a round is one frame of every game, then one update.

    Curves: return, by frames, the mean return of the training episodes that ended since the point before.

    Metrics: test/return, the mean return of the training episodes that ended in the last fifth of the frames (where
    none did, the returns so far of the open ones); test/eval_return, of episodes of other games after training;
    test/episodes, how many ended in training; train/clipped, targets outside the support.

    Args:
        data: None, as the games make it.
        net: observations (b, *shape) -> (b, actions, outputs).
        loss: of this room; outputs (b, m) of the chosen action and targets (b,), or C51Loss.
        game: returns a new gymnasium.Env.
        frames: of the whole run over all games, a multiple of `envs`.
        envs: games side by side, and so the frames between two updates.
        capacity: transitions of the replay memory.
        warm: frames before the first update, at least 1.
        sync: updates between two copies of the network to the target network.
        gamma: discount in [0, 1).
        epsilon: chance of a random action from frame `explore` on; it falls to it from 1 in a straight line.
        explore: frames.
        eval_games, eval_each: other games for the evaluation, and episodes of each.
        eval_epsilon: chance of a random action there.
        settings: of LitModule; batch_size transitions of an update.

    Raises:
        ValueError: an argument out of range; a net that does not fit the game or the loss.
        UserError: the games' packages are not installed.
    """

    def __init__(
        self,
        data: None = None,
        net: nn.Module | None = None,
        loss: nn.Module | None = None,
        optimizer: Any = None,
        schedule: Any = None,
        *,
        game: Callable[[], Any],
        frames: int = 100_000,
        envs: int = 4,
        capacity: int = 100_000,
        warm: int = 5_000,
        sync: int = 1_000,
        gamma: float = 0.99,
        epsilon: float = 0.1,
        explore: int = 10_000,
        eval_games: int = 10,
        eval_each: int = 2,
        eval_epsilon: float = 0.01,
        **settings: Any,
    ) -> None:
        if min(frames, envs, capacity, warm, sync, explore, eval_games, eval_each) < 1 or frames % envs:
            raise ValueError(
                f"LitDQN counts from 1, frames in multiples of envs, got {frames=}, {envs=}, {capacity=}, {warm=}, "
                f"{sync=}, {explore=}, {eval_games=}, {eval_each=}"
            )
        if not (0 <= gamma < 1 and 0 <= epsilon <= 1 and 0 <= eval_epsilon <= 1):
            raise ValueError(
                f"LitDQN needs gamma in [0, 1) and chances in [0, 1], got {gamma=}, {epsilon=}, {eval_epsilon=}"
            )
        if net is None or loss is None:
            raise ValueError("LitDQN needs a net and a loss")
        super().__init__(None, net, loss, optimizer, schedule, rounds=frames // envs, **settings)
        self.frames, self.warm, self.sync, self.gamma = frames, warm, sync, gamma
        self.epsilon, self.explore = epsilon, explore
        self.eval_each, self.eval_epsilon = eval_each, eval_epsilon
        self.seeds = {
            "games": derived_seeds(self.seed, "dqn/games", envs),
            "eval_games": derived_seeds(self.seed, "dqn/eval_games", eval_games),
            **{
                name: derived_seeds(self.seed, f"dqn/{name}")[0]
                for name in ("policy", "replay", "eval_policy")
            },
        }
        self.games, self.eval_games = (Vector(game, self.seeds[name]) for name in ("games", "eval_games"))
        self.target = copy.deepcopy(net).requires_grad_(False)
        self._check_shapes()
        self.policy, self.sampling = (
            torch.Generator().manual_seed(self.seeds[name]) for name in ("policy", "replay")
        )
        # all that a checkpoint needs of the past: what was done
        self.register_buffer("taken", torch.zeros(self.rounds, envs, dtype=torch.uint8))
        self.register_buffer("played", torch.zeros((), dtype=torch.int64))  # rounds
        self.register_buffer("updates", torch.zeros((), dtype=torch.int64))
        self.taken: Tensor
        self.played: Tensor
        self.updates: Tensor
        self.capacity = capacity
        self._begin()

    def _check_shapes(self) -> None:
        """The net has a row of outputs for each action, and the loss can read them."""
        try:
            with torch.no_grad():
                values = self.values(self.target(torch.zeros(1, *self.games.shape)))
        except RuntimeError as error:
            raise ValueError(
                f"the net or the loss does not fit a game with observations {self.games.shape}: {error}"
            ) from None
        if values.shape != (1, self.games.actions):
            raise ValueError(
                f"the game has {self.games.actions} actions, the net gives values {tuple(values.shape[1:])}"
            )

    def _begin(self) -> None:
        """Games, memory and returns at frame 0."""
        self.replay = Replay(self.capacity, self.games.shape, self.games.dtype)
        self.log_ = EpisodeLog(len(self.games))
        self.obs = self.games.reset()

    # ---------------------------------------------------------------- the algorithm
    def play(self, rounds: Tensor) -> Tensor | None:
        """A chunk of rounds: act, remember, learn from the memory, now and then renew the target network."""
        assert self.net is not None
        values, updates = [], int(self.updates)
        for t in rounds.tolist():
            actions = choose(self.q(self.obs), self.chance(t * len(self.games)), self.policy)
            self.taken[t] = actions
            self.observe(actions)
            if self.log_.frame >= self.warm:
                loss = self.td_losses(self.replay.sample(self.batch_size, self.sampling)).mean()
                self.descend(loss)
                values.append(loss.detach())
                updates += 1
                if updates % self.sync == 0:
                    self.target.load_state_dict(self.net.state_dict())
        self.updates.fill_(updates)
        self.played += len(rounds)
        return torch.stack(values) if values else None

    def chance(self, frame: int) -> float:
        """Of a random action: 1 at frame 0, epsilon from frame `explore` on."""
        return max(self.epsilon, 1 - (1 - self.epsilon) * frame / self.explore)

    def observe(self, actions: Tensor) -> None:
        """One step of the games, into memory and returns."""
        step = self.games.step(actions.tolist())
        self.replay.add(self.obs, actions, step)
        self.log_.add(step)
        self.obs = step.obs

    def td_losses(self, b: Transitions) -> Tensor:
        """(b,) the loss towards y = r + gamma max_a Q_target(last, a); without the second term where terminated."""
        assert self.net is not None
        assert self.loss is not None
        obs, last = self._input(b.obs), self._input(b.last)
        action, reward, terminated = (t.to(self.device) for t in (b.action, b.reward, b.terminated))
        reward = reward.to(self.dtype)
        with torch.no_grad():
            l_next = self.target(last)
            q_next, best = self.values(l_next).max(dim=1)
        discount = self.gamma * (~terminated).to(self.dtype)
        l = of_action(self.net(obs), action)  # noqa: E741  (the paper's l)
        if isinstance(self.loss, C51Loss):  # the whole distribution moves on, not its mean
            return self.loss(l, reward, discount, of_action(l_next, best))
        return self.loss(l, reward + discount * q_next)

    def values(self, l: Tensor) -> Tensor:  # noqa: E741
        """Q (b, actions) of outputs (b, actions, m)."""
        assert self.loss is not None
        return self.loss.predict(l.flatten(0, 1)).view(l.shape[:2])  # type: ignore[operator]

    @torch.no_grad()
    def q(self, obs: Tensor) -> Tensor:
        """Q (n, actions) of observations as the games give them."""
        assert self.net is not None
        return self.values(self.net(self._input(obs)))

    def _input(self, obs: Tensor) -> Tensor:
        return obs.to(self.device).to(self.dtype)

    # ---------------------------------------------------------------- cut and resumed
    def on_fit_start(self) -> None:
        """Plays again what a resumed run had played."""
        super().on_fit_start()
        if self.log_.frame != int(self.played) * len(self.games):
            self._begin()
            for actions in self.taken[: int(self.played)].long().cpu():
                self.observe(actions)

    def on_save_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """The generators of actions and mini-batches."""
        checkpoint["dqn"] = {"policy": self.policy.get_state(), "sampling": self.sampling.get_state()}

    def on_load_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """Puts them back."""
        self.policy.set_state(checkpoint["dqn"]["policy"])
        self.sampling.set_state(checkpoint["dqn"]["sampling"])

    # ---------------------------------------------------------------- what is measured
    def on_train_epoch_end(self) -> None:
        """Logs train/clipped besides the loss; C51 has no numbers to clip."""
        clipped = getattr(self.loss, "clipped", None)
        if clipped is not None:
            self.log("train/clipped", clipped.float())
        super().on_train_epoch_end()

    def results(self) -> dict[str, float]:
        """Returns at the end of training and of the evaluation."""
        late = self.log_.mean(after=self.frames - self.frames // 5)
        if late != late:  # long episodes, short runs
            late = sum(self.log_.running) / len(self.games)
        dice = torch.Generator().manual_seed(self.seeds["eval_policy"])
        found = evaluate(self.q, self.eval_games, self.eval_each, self.eval_epsilon, dice)
        return {
            "test/return": late,
            "test/eval_return": sum(found) / len(found),
            "test/episodes": float(len(self.log_.ended)),
        }

    def extras(self) -> dict[str, Any]:
        """The seeds of games and policies, and the learning curve."""
        points = self.log_.curve(POINTS, self.frames)
        curve = {"frames": [f for f, _ in points], "return": [float(f"{v:.5g}") for _, v in points]}
        return {"seeds": self.seeds, "curve": curve}

    def curve_rows(self) -> list[dict[str, float]]:
        """The learning curve."""
        return [{"frames": float(f), "return": v} for f, v in self.log_.curve(POINTS, self.frames)]


def of_action(l: Tensor, action: Tensor) -> Tensor:  # noqa: E741
    """(b, m) the outputs (b, actions, m) of one action each (b,)."""
    return l.gather(1, action[:, None, None].expand(-1, 1, l.shape[2]))[:, 0]
