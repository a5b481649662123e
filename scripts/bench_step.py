"""Seconds per training step of the runner against a hand-written loop over the same tensors, in the same process.

The runner trains with its callbacks as a user has them (checkpoints, curves, progress bar, CSV logger); the
hand loop is what one would write without any of it. Parameters after the first epoch must be bitwise equal.

Usage: python scripts/bench_step.py [--epochs 5] [--repeats 5] [--json FILE]
"""

import argparse
import json
import statistics
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import torch
from hydra import compose, initialize_config_dir
from omegaconf import DictConfig, OmegaConf

from lossatlas import jobs, machine, runner
from lossatlas.loader import ChunkLoader
from lossatlas.paths import conf_dir


def config(epochs: int, folder: str, arm: str) -> tuple[DictConfig, jobs.Job]:
    """The laptop run of ldr_noisy, evaluated once."""
    words = [f"epochs={epochs}", f"eval_every={epochs}", f"arm={arm}", "noise=u30", f"output_root={folder}"]
    with initialize_config_dir(str(conf_dir()), version_base="1.3"):
        cfg = compose("config", ["experiment=ldr_noisy", "lr=0.1", *words], return_hydra_config=True)
    hydra = cfg.hydra
    OmegaConf.set_struct(cfg, False)
    del cfg["hydra"]
    return cfg, jobs.describe(cfg, hydra)


def hand_loop(cfg: DictConfig) -> tuple[float, dict[str, torch.Tensor]]:
    """(seconds per step, parameters after the last epoch) of a plain loop."""
    torch.manual_seed(cfg.seed)
    data = runner.make(cfg.data, "data")
    net, loss = runner.make(cfg.net, "net"), runner.make(cfg.loss, "loss")
    indexed = getattr(loss, "indexed", False)
    if indexed:
        loss.allocate(len(data.train))
    optimizer = runner.make(cfg.optimizer, "optimizer")(net.parameters())
    schedule = runner.make(cfg.schedule, "schedule")(optimizer)
    order = ChunkLoader(len(data.train), cfg.batch_size, 1, cfg.seed)
    x, y = data.train.x, data.train.y
    steps, start = 0, time.perf_counter()
    for epoch in range(cfg.epochs):
        order.set_epoch(epoch)
        for index in order.order().split(cfg.batch_size):
            f = net(x[index])
            value = (loss(f, y[index], index) if indexed else loss(f, y[index])).mean()
            optimizer.zero_grad()
            value.backward()
            optimizer.step()
            steps += 1
        schedule.step()
    return (time.perf_counter() - start) / steps, dict(net.state_dict())


def through_the_runner(cfg: DictConfig, job: jobs.Job) -> tuple[float, dict[str, torch.Tensor]]:
    """(seconds per step within fit, parameters) of the real thing."""
    module, trainer, _ = runner.build(cfg, job, quiet=False)
    spent: list[float] = []

    class Clock(runner_callback()):  # first, so that it sees all the others inside its interval
        def on_train_start(self, *_: Any) -> None:
            spent.append(-time.perf_counter())

        def on_train_end(self, *_: Any) -> None:
            spent[-1] += time.perf_counter()

    trainer.callbacks.append(Clock())
    trainer.fit(module)
    steps = cfg.epochs * -(-len(module.data.train) // cfg.batch_size)
    return spent[-1] / steps, dict(module.net.state_dict())


def runner_callback() -> Any:
    """Lightning's Callback, imported late."""
    from pytorch_lightning.callbacks import Callback

    return Callback


def main() -> int:
    """Alternates both, prints the medians and their ratio; exits 1 if parameters differ."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--epochs", type=int, default=5)
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--arms", nargs="+", default=["ce", "aldr_kl"])
    parser.add_argument("--json", type=Path)
    args = parser.parse_args()
    torch.set_num_threads(1)
    result: dict[str, Any] = {"machine": {"cores": torch.get_num_threads(), **machine.package_versions()}}
    for arm in args.arms:
        hand, ours = [], []
        for _ in range(args.repeats):
            with tempfile.TemporaryDirectory() as folder:
                cfg, job = config(args.epochs, folder, arm)
                seconds, expected = hand_loop(cfg)
                hand.append(seconds)
                seconds, found = through_the_runner(cfg, job)
                ours.append(seconds)
            if any(not torch.equal(value, found[name]) for name, value in expected.items()):
                print(f"{arm}: parameters differ from the hand loop's")
                return 1
        h, o = statistics.median(hand), statistics.median(ours)
        ratio = statistics.median(b / a for a, b in zip(hand, ours, strict=True))
        print(
            f"{arm}: hand loop {h * 1e6:.0f} us/step, runner {o * 1e6:.0f} us/step, ratio {ratio:.3f}, parameters equal"
        )
        result[arm] = {"hand_us": h * 1e6, "runner_us": o * 1e6, "ratio": ratio, "repeats": args.repeats}
    if args.json:
        args.json.parent.mkdir(parents=True, exist_ok=True)
        args.json.write_text(json.dumps(result, indent=1) + "\n")
    return 0


if __name__ == "__main__":
    sys.exit(main())
