"""Seconds per training step of the runner against a hand-written loop over the same tensors, in the same process.

The runner trains with its callbacks as a user has them (checkpoints, curves, progress bar, CSV logger); the
hand loop is what one would write without any of it. Parameters after the last epoch must be bitwise equal.
Cases: an MLP on UCI Letter with two losses, a small conv net on Fashion-MNIST, a small transformer on made-up tokens.

Usage: python scripts/bench_step.py [--cases ce conv] [--repeats 5] [--json FILE]
"""

import argparse
import statistics
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import benching
import torch
from hydra import compose, initialize_config_dir
from omegaconf import DictConfig, OmegaConf
from torch import Tensor, nn

from lossatlas import jobs, runner
from lossatlas.data import Data, Split
from lossatlas.loader import ChunkLoader
from lossatlas.paths import conf_dir

BOUND = 1.15  # times the hand loop
PLAIN = "module._target_=lossatlas.lit.LitModule"
CASES = {  # overrides of ldr_noisy
    "ce": ["arm=ce", "epochs=5", "eval_every=5"],
    "aldr_kl": ["arm=aldr_kl", "epochs=5", "eval_every=5"],
    "conv": ["arm=ce", "data=fashion_mnist", "net=small_conv", "batch_size=128", "chunk=50", "limit.train=3840",
             "limit.test=256", "epochs=2", "eval_every=2", PLAIN],
    "transformer": ["arm=ce", "data=none", "+data._target_=bench_step.tokens", "net=none",
                    "+net._target_=bench_step.Transformer", "chunk=50", "epochs=2", "eval_every=2", "lr=0.01", PLAIN],
}  # fmt: skip
WHAT = {"ce": "MLP, cross-entropy, batch 64", "aldr_kl": "MLP, ALDR-KL, batch 64",
        "conv": "small conv net, Fashion-MNIST, batch 128", "transformer": "small transformer, batch 64"}  # fmt: skip
VOCABULARY, LENGTH, CLASSES = 64, 32, 10


class Transformer(nn.Module):
    """Two encoder layers of width 64 over token sequences (b, L); mean of the positions, linear scores."""

    def __init__(self, width: int = 64, heads: int = 4, layers: int = 2) -> None:
        super().__init__()
        self.tokens = nn.Embedding(VOCABULARY, width)
        self.positions = nn.Parameter(0.02 * torch.randn(LENGTH, width))
        layer = nn.TransformerEncoderLayer(width, heads, 2 * width, dropout=0.0, batch_first=True)
        self.encoder = nn.TransformerEncoder(layer, layers, enable_nested_tensor=False)
        self.scores = nn.Linear(width, CLASSES)

    def forward(self, x: Tensor) -> Tensor:
        return self.scores(self.encoder(self.tokens(x) + self.positions).mean(dim=1))


def tokens(n: int = 2048) -> Data:
    """Sequences whose token frequencies depend on the class."""
    generator = torch.Generator().manual_seed(0)
    y = torch.randint(CLASSES, (n,), generator=generator)
    frequencies = torch.rand(CLASSES, VOCABULARY, generator=generator) ** 4
    split = Split(torch.multinomial(frequencies[y], LENGTH, replacement=True, generator=generator), y, y)
    return Data("tokens", CLASSES, split, split)


def config(case: str, folder: str) -> tuple[DictConfig, jobs.Job]:
    """The run of a case, evaluated once."""
    words = ["experiment=ldr_noisy", "lr=0.1", "noise=u30", f"output_root={folder}", *CASES[case]]
    with initialize_config_dir(str(conf_dir()), version_base="1.3"):
        cfg = compose("config", words, return_hydra_config=True)
    hydra = cfg.hydra
    OmegaConf.set_struct(cfg, False)
    del cfg["hydra"]
    return cfg, jobs.describe(cfg, hydra)


def prepared(x: Tensor, data: Data) -> Tensor:
    """What a hand loop does to gathered images; other inputs as they are."""
    if data.mean is None or data.std is None:
        return x
    return x.float().div_(255.0).sub_(data.mean[:, None, None]).div_(data.std[:, None, None])


def hand_loop(cfg: DictConfig) -> tuple[list[float], dict[str, Tensor]]:
    """(wall and processor seconds per step, parameters after the last epoch) of a plain loop."""
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
    steps, start = 0, clocks()
    for epoch in range(cfg.epochs):
        order.set_epoch(epoch)
        for index in order.order().split(cfg.batch_size):
            f = net(prepared(x[index], data))
            value = (loss(f, y[index], index) if indexed else loss(f, y[index])).mean()
            optimizer.zero_grad()
            value.backward()
            optimizer.step()
            steps += 1
        schedule.step()
    return [(b - a) / steps for a, b in zip(start, clocks(), strict=True)], dict(net.state_dict())


def clocks() -> list[float]:
    """Wall and processor seconds: on a machine that others use, too, the second one says more."""
    return [time.perf_counter(), time.process_time()]


def through_the_runner(cfg: DictConfig, job: jobs.Job) -> tuple[list[float], dict[str, Tensor]]:
    """(wall and processor seconds per step within fit, parameters) of the real thing."""
    module, trainer, _ = runner.build(cfg, job, quiet=False)
    spent: list[list[float]] = []

    class Clock(runner_callback()):  # first, so that it sees all the others inside its interval
        def on_train_start(self, *_: Any) -> None:
            spent.append(clocks())

        def on_train_end(self, *_: Any) -> None:
            spent.append(clocks())

    trainer.callbacks.append(Clock())
    trainer.fit(module)
    steps = cfg.epochs * -(-len(module.data.train) // cfg.batch_size)
    return [(b - a) / steps for a, b in zip(*spent, strict=True)], dict(module.net.state_dict())


def runner_callback() -> Any:
    """Lightning's Callback, imported late."""
    from pytorch_lightning.callbacks import Callback

    return Callback


def measure(case: str, repeats: int) -> dict[str, Any]:
    """Medians over repeats in which hand loop and runner take turns."""
    hand, ours = [], []
    for _ in range(repeats):
        with tempfile.TemporaryDirectory() as folder:
            cfg, job = config(case, folder)
            seconds, expected = hand_loop(cfg)
            hand.append(seconds)
            seconds, found = through_the_runner(cfg, job)
            ours.append(seconds)
        if any(not torch.equal(value, found[name]) for name, value in expected.items()):
            raise SystemExit(f"{case}: parameters differ from the hand loop's")

    def middle(of: Callable[[int, int], float]) -> list[float]:
        return [statistics.median(of(i, clock) for i in range(repeats)) for clock in (0, 1)]

    ratio = middle(lambda i, clock: ours[i][clock] / hand[i][clock])
    return {
        "hand_us": middle(lambda i, clock: 1e6 * hand[i][clock])[0],
        "runner_us": middle(lambda i, clock: 1e6 * ours[i][clock])[0],
        "ratio": ratio[0],
        "ratio_processor": ratio[1],
        "repeats": repeats,
    }


def main() -> int:
    """Prints both times and their ratio for each case; exits 1 if parameters differ."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--cases", nargs="+", default=list(CASES), choices=CASES)
    parser.add_argument("--json", type=Path, default=benching.FOLDER / "step.json")
    args = parser.parse_args()
    torch.set_num_threads(1)
    result, summary = {}, []
    for case in args.cases:
        found = result[case] = measure(case, args.repeats)
        words = f"{found['runner_us']:.0f} us against {found['hand_us']:.0f} us by hand: {found['ratio']:.2f} x wall"
        summary.append(
            [f"a training step, {WHAT[case]}", f"{words}, {found['ratio_processor']:.2f} x processor time"]
        )
        print(f"{case}: {summary[-1][1]}, parameters equal", flush=True)
    benching.write(args.json, summary, {**result, "bound": BOUND})
    return 0


if __name__ == "__main__":
    sys.exit(main())
