"""Seconds per frame of DQN through the runner against a hand-written loop with the same networks, in the same process.

The runner trains with callbacks as a user has them (checkpoints, curves, CSV logger); the hand loop is what one
would write without any of it, on MinAtar's own objects. The networks must be bitwise equal at the end.

Usage: python scripts/bench_dqn.py [--frames 20000] [--repeats 3] [--json FILE]
"""

import argparse
import copy
import statistics
import sys
import tempfile
from pathlib import Path
from typing import Any

import benching
import torch
from bench_step import clocks, runner_callback
from hydra import compose, initialize_config_dir
from minatar import Environment
from omegaconf import OmegaConf
from torch import Tensor, nn

from lossatlas import jobs, runner
from lossatlas.papers.hl_gauss import HLGauss, SquaredError
from lossatlas.paths import conf_dir
from lossatlas.rl import derived_seeds

BOUND = 1.2  # times the hand loop
ARMS = {"mse": (1, lambda: SquaredError(-1.0, 50.0)), "hl_gauss": (51, lambda: HLGauss(-1.0, 50.0, 51))}
N, CAPACITY, BATCH, WARM, SYNC, EXPLORE = 4, 100_000, 32, 5000, 1000, 10_000


def images(games: list[Any]) -> Tensor:
    """(N, 4, 10, 10) bool."""
    return torch.stack([torch.from_numpy(game.state()).permute(2, 0, 1) for game in games])


def hand_loop(
    arm: str, frames: int, seed: int = 0, warm: int = WARM, sync: int = SYNC
) -> tuple[list[float], Any]:
    """(wall and processor seconds per frame, the network's parameters) of DQN on Breakout, written down plainly."""
    torch.manual_seed(seed)
    m, make_loss = ARMS[arm]
    net = nn.Sequential(
        nn.Conv2d(4, 16, 3), nn.ReLU(), nn.Flatten(), nn.Linear(1024, 128), nn.ReLU(), nn.Linear(128, 3 * m)
    )
    target, loss_of = copy.deepcopy(net), make_loss()
    adam = torch.optim.Adam(net.parameters(), lr=3e-4, fused=True)
    games = [Environment("breakout") for _ in range(N)]
    for game, own in zip(games, derived_seeds(seed, "dqn/games", N), strict=True):
        game.seed(own)
        game.reset()
    moves = games[0].minimal_action_set()
    policy, sampling = (
        torch.Generator().manual_seed(derived_seeds(seed, f"dqn/{name}")[0]) for name in ("policy", "replay")
    )
    obs_held, next_held = (torch.empty(CAPACITY, 4, 10, 10, dtype=torch.bool) for _ in range(2))
    action_held = torch.empty(CAPACITY, dtype=torch.int64)
    reward_held, on_held = torch.empty(CAPACITY), torch.empty(CAPACITY)
    place, held, updates, rows = 0, 0, 0, torch.arange(BATCH)
    start, obs = clocks(), images(games)
    for t in range(frames // N):
        epsilon = max(0.1, 1 - 0.9 * t * N / EXPLORE)
        with torch.no_grad():
            q = loss_of.predict(net(obs.float()).view(-1, m)).view(N, 3)
        explores = torch.rand(N, generator=policy) < epsilon
        anything = torch.randint(3, (N,), generator=policy)
        action = torch.where(explores, anything, q.argmax(dim=1))
        for i, game in enumerate(games):
            reward, ended = game.act(moves[int(action[i])])
            k = (place + i) % CAPACITY
            obs_held[k], action_held[k], reward_held[k], on_held[k] = (
                obs[i],
                action[i],
                reward,
                float(not ended),
            )
            next_held[k] = torch.from_numpy(game.state()).permute(2, 0, 1)
            if ended:
                game.reset()
        obs, place, held = images(games), (place + N) % CAPACITY, min(held + N, CAPACITY)
        if (t + 1) * N >= warm:
            index = torch.randint(held, (BATCH,), generator=sampling)
            with torch.no_grad():
                q_next = (
                    loss_of.predict(target(next_held[index].float()).view(-1, m)).view(BATCH, 3).amax(dim=1)
                )
                y = reward_held[index] + 0.99 * on_held[index] * q_next
            loss = loss_of(net(obs_held[index].float()).view(BATCH, 3, m)[rows, action_held[index]], y).mean()
            adam.zero_grad()
            loss.backward()
            adam.step()
            updates += 1
            if updates % sync == 0:
                target.load_state_dict(net.state_dict())
    return [(b - a) / frames for a, b in zip(start, clocks(), strict=True)], list(net.parameters())


def through_the_runner(arm: str, frames: int, folder: str) -> tuple[list[float], Any]:
    """(wall and processor seconds per frame within fit, the network's parameters) of the real thing."""
    words = ["experiment=hl_gauss_minatar", f"arm={arm}", f"frames={frames}", f"output_root={folder}"]
    with initialize_config_dir(str(conf_dir()), version_base="1.3"):
        cfg = compose("config", words, return_hydra_config=True)
    hydra = cfg.hydra
    OmegaConf.set_struct(cfg, False)
    del cfg["hydra"]
    module, trainer, _ = runner.build(cfg, jobs.describe(cfg, hydra), quiet=False)
    spent: list[list[float]] = []

    class Clock(runner_callback()):
        def on_train_start(self, *_: Any) -> None:
            spent.append(clocks())

        def on_train_end(self, *_: Any) -> None:
            spent.append(clocks())

    trainer.callbacks.append(Clock())
    trainer.fit(module)
    return [(b - a) / frames for a, b in zip(*spent, strict=True)], list(module.net.parameters())


def measure(arm: str, frames: int, repeats: int) -> dict[str, Any]:
    """Medians over repeats in which hand loop and runner take turns."""
    hand, ours = [], []
    for _ in range(repeats):
        with tempfile.TemporaryDirectory() as folder:
            seconds, expected = hand_loop(arm, frames)
            hand.append(seconds)
            seconds, found = through_the_runner(arm, frames, folder)
            ours.append(seconds)
        if not all(torch.equal(a, b) for a, b in zip(expected, found, strict=True)):
            raise SystemExit(f"{arm}: parameters differ from the hand loop's")
    ratios = [[a / b for a, b in zip(x, y, strict=True)] for x, y in zip(ours, hand, strict=True)]
    return {
        "hand_steps_per_second": 1 / statistics.median(seconds[0] for seconds in hand),
        "runner_steps_per_second": 1 / statistics.median(seconds[0] for seconds in ours),
        "ratio": statistics.median(ratio[0] for ratio in ratios),
        "ratio_processor": statistics.median(ratio[1] for ratio in ratios),
        "frames": frames,
        "repeats": repeats,
    }


def main() -> int:
    """Prints both speeds and the ratio of times for each arm; exits 1 if parameters differ or the bound is missed."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--frames", type=int, default=20_000)
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--json", type=Path, default=benching.FOLDER / "dqn.json")
    args = parser.parse_args()
    torch.set_num_threads(1)
    result, summary = {}, []
    for arm in ARMS:
        found = result[arm] = measure(arm, args.frames, args.repeats)
        words = (
            f"{found['runner_steps_per_second']:.0f} frames/s against {found['hand_steps_per_second']:.0f} by hand: "
            f"{found['ratio']:.2f} x wall, {found['ratio_processor']:.2f} x processor time"
        )
        summary.append([f"DQN on MinAtar Breakout, {arm}", words])
    benching.write(args.json, summary, {**result, "bound": BOUND})
    return int(any(result[arm]["ratio_processor"] > BOUND for arm in ARMS))


if __name__ == "__main__":
    sys.exit(main())
