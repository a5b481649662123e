"""Replicas trained together against hand-written loops, one after another.

Two parts. `sweep`: time of a step of R stacked replicas against R steps of a hand loop, for the MLP of ldr_noisy,
a small conv net (Fashion-MNIST's shape, batch 128) and a small transformer. `study`: ldr_noisy with 20 seeds, all
epochs: the launcher's stacks, one per core, against 20 hand loops one after another. The stacked side has data loading,
curves, checkpoints, accuracies and records in its wall time, the hand loops have training alone.

Usage: python scripts/bench_stacked.py sweep|study [--json FILE] [--rounds 3] [--arm ce] [--replicas 20] [--workers 2]
"""

import argparse
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import benching
import torch
from bench_step import Transformer, config, hand_loop, tokens
from benching import FOLDER
from joblib import Parallel, delayed
from torch import nn

from lossatlas.data import Batch, Data, Split
from lossatlas.lit import LitModule
from lossatlas.nets import MLP, SmallConv
from lossatlas.stacked import run as stacked
from lossatlas.stacked.optim import step_each
from lossatlas.stacked.stack import Stack

COUNTS = (1, 2, 5, 10, 20, 50)


def made(x: torch.Tensor, classes: int) -> Data:
    """Rows with random labels."""
    y = torch.randint(classes, (len(x),))
    split = Split(x, y, y)
    return Data("made", classes, split, split)


CASES: dict[str, tuple[Callable[[], nn.Module], Callable[[], Data], int]] = {
    "MLP 16-16-26, batch 64": (lambda: MLP(16, [16], 26), lambda: made(torch.randn(6400, 16), 26), 64),
    "conv 16-32-64, batch 128": (SmallConv, lambda: made(torch.randn(1280, 1, 28, 28), 10), 128),
    "transformer 2 x 64, batch 64": (Transformer, lambda: tokens(640), 64),
}


def module(case: str, seed: int, data: Data) -> LitModule:
    """A replica of a case: cross-entropy, SGD with momentum."""
    make_net, _, b = CASES[case]
    torch.manual_seed(seed)
    loss = nn.CrossEntropyLoss(reduction="none")
    return LitModule(
        data, make_net(), loss, lambda p: torch.optim.SGD(p, lr=0.01, momentum=0.9), batch_size=b
    )


def hand(case: str, data: Data) -> Callable[[], None]:
    """One step of a hand loop per call."""
    net, b = module(case, 0, data).net, CASES[case][2]
    assert net is not None
    optimizer, x, y = torch.optim.SGD(net.parameters(), lr=0.01, momentum=0.9), data.train.x, data.train.y
    index = torch.arange(b)

    def step() -> None:
        loss = nn.functional.cross_entropy(net(x[index]), y[index])
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()

    return step


def together(case: str, data: Data, R: int) -> Callable[[], None]:
    """One step of R stacked replicas per call."""
    stack = Stack([module(case, seed, data) for seed in range(R)])
    stack.stack()
    params = list(stack.params.values())
    optimizer = torch.optim.SGD(params, lr=0.01, momentum=0.9)
    index, settings = torch.arange(CASES[case][2]).expand(R, -1), stack.settings()

    def step() -> None:
        batch = Batch(data.train.x[index], data.train.y[index], index)
        _, grads = stack.differentiate(*batch, settings)
        for p, grad in zip(params, grads, strict=True):
            p.grad = grad
        step_each(optimizer, None)

    return step


def sweep(rounds: int) -> tuple[list[list[str]], Any]:
    """Speed-up against the number of replicas, per net."""
    results: dict[str, Any] = {}
    for case, (_, make_data, _) in CASES.items():
        data = make_data()
        results[case] = {}
        for R in COUNTS:
            alone, joint, _ = benching.alternate(hand(case, data), together(case, data, R), rounds, 0.3)
            results[case][str(R)] = {
                "hand_us": alone * 1e6,
                "stacked_us": joint * 1e6,
                "speedup": R * alone / joint,
            }
            print(f"{case}, {R} replicas: {R * alone / joint:.2f} x", file=sys.stderr)
    figure(results)
    best = [
        [f"{case}, 20 replicas together", f"{found['20']['speedup']:.1f} x as fast as one after another"]
        for case, found in results.items()
    ]
    return best, results


def figure(results: dict[str, Any]) -> None:
    """Speed-up against replicas, beside the JSON."""
    import matplotlib.pyplot as plt

    fig, axis = plt.subplots(figsize=(6, 4), layout="constrained")
    for (case, found), marker in zip(results.items(), "os^", strict=True):
        axis.plot(
            list(map(int, found)), [row["speedup"] for row in found.values()], marker=marker, label=case
        )
    axis.axhline(1, color="0.5", lw=1, ls="--")
    axis.set(
        xscale="log", yscale="log", xlabel="replicas trained together", ylabel="speed-up over hand loops"
    )
    axis.set_xticks(COUNTS, [str(R) for R in COUNTS], minor=False)
    axis.set_yticks([0.5, 1, 2, 5, 10], ["0.5", "1", "2", "5", "10"])
    axis.minorticks_off()
    axis.legend()
    fig.savefig(FOLDER / "stacked.png", dpi=110)


def study(arm: str, replicas: int, workers: int) -> tuple[list[list[str]], Any]:
    """ldr_noisy at u30: the launcher's stacks on all workers against hand loops, one after another."""
    with tempfile.TemporaryDirectory() as folder:
        pairs = []
        for seed in range(replicas):
            cfg, job = config(arm, folder)
            cfg.epochs, cfg.eval_every, cfg.seed = 40, 10, seed
            job.name, job.folder = f"{arm}-u30-s{seed}-bench", Path(folder) / f"s{seed}"
            pairs.append((cfg, job))
        groups = [pairs[at::workers] for at in range(workers)]
        with Parallel(n_jobs=workers, backend="loky") as pool:
            pool(delayed(warm)() for _ in groups)  # a sweep imports once, not once a stack
            start = time.perf_counter()
            ended: Any = pool(delayed(stacked.run_group)(group, True, False) for group in groups)
            spent = time.perf_counter() - start
        assert all(outcome.status == "done" for group in ended for outcome in group), ended
        steps = 40 * -(-16000 // pairs[0][0].batch_size)
        loops = sum(hand_loop(cfg)[0][0] * steps for cfg, _ in pairs)
    words = f"{spent:.0f} s in {workers} stacks, {loops:.0f} s in {replicas} hand loops one after another"
    summary = [
        [f"ldr_noisy, {arm}, {replicas} seeds, {workers} cores", f"{words}: {loops / spent:.1f} x as fast"]
    ]
    results = {"arm": arm, "replicas": replicas, "workers": workers, "stacked_s": spent, "hand_s": loops}
    return summary, results | {"speedup": loops / spent}


def warm() -> float:
    """What a worker does once: the imports, and a second of work so that each worker gets one of these."""
    time.sleep(1)
    return float(torch.zeros(1))


def main() -> int:
    """Runs one part and writes its file."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("part", choices=["sweep", "study"])
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--arm", default="ce")
    parser.add_argument("--replicas", type=int, default=20)
    parser.add_argument("--workers", type=int, default=2)
    parser.add_argument("--json", type=Path)
    args = parser.parse_args()
    torch.set_num_threads(1)
    summary, results = (
        sweep(args.rounds) if args.part == "sweep" else study(args.arm, args.replicas, args.workers)
    )
    default = FOLDER / ("stacked.json" if args.part == "sweep" else f"stacked_study_{args.arm}.json")
    benching.write(args.json or default, summary, results)
    return 0


if __name__ == "__main__":
    sys.exit(main())
