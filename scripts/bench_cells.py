"""A study of cells: 10 conditions x 20 seeds x 1000 repetitions in one run, against its seeds one after another.

Usage: python scripts/bench_cells.py [--fast]

A repetition is 200 steps of noisy gradient descent on a parabola of 5 dimensions, a condition is a step size. Compared:
one run of all seeds, a run of its own for each seed (the solve alone, no start of a process), and one repetition at a
time in a Python loop, of which only a part is run.
"""

import sys
import time
from pathlib import Path
from typing import Any

import torch
from benching import FOLDER, write

from lossatlas.cells import CellStudy, draws


class Descent(CellStudy):
    """x <- x - eta (x + noise), the mean of |x|^2 over repetitions."""

    def __init__(self, data: None, *, repetitions: int, steps: int, **settings: Any) -> None:
        super().__init__(data, **settings)
        self.repetitions, self.steps = repetitions, steps

    def solve(self, cell: dict[str, Any], seeds: list[int]) -> dict[str, torch.Tensor]:
        """All repetitions of all seeds, a step at a time."""
        block, x = 25, torch.ones(len(seeds), self.repetitions, 5, dtype=torch.float64)
        for start in range(
            0, self.steps, block
        ):  # blocks of rounds: a stream a round would cost more than the round
            shape = (min(block, self.steps - start), self.repetitions, 5)
            noise = draws(
                seeds, f"noise/{start}", lambda g, s=shape: torch.randn(s, generator=g, dtype=torch.float64)
            )
            for now in noise.unbind(1):
                x = x - cell["eta"] * (x + now)
        return {"error": x.square().sum(2)}


def seconds(studies: list[Descent]) -> float:
    """Processor time of all cells of all studies, which other work on the machine does not change."""
    start = time.process_time()
    for study in studies:
        study.play(torch.arange(len(study.grid)))
    return time.process_time() - start


def main() -> None:
    """Measures and writes experiments/_bench/cells.json."""
    torch.set_num_threads(1)
    fast = "--fast" in sys.argv
    seeds, repetitions, steps = (4, 50, 20) if fast else (20, 1000, 200)
    grid = {"eta": [0.01 * (k + 1) for k in range(2 if fast else 10)]}
    rows = []
    for m in (1, repetitions):
        size = {"repetitions": m, "steps": steps, "conditions": grid}
        whole, alone = (
            Descent(None, seeds=seeds, **size),
            [Descent(None, seed=s, seeds=1, **size) for s in range(seeds)],
        )
        times = seconds([whole]), seconds(alone)
        same = [u["metrics"] for u in whole.unit_metrics()]
        apart = [a.unit_metrics()[k]["metrics"] for k in range(len(whole.grid)) for a in alone]
        rows.append(
            {"repetitions": m, "together_s": times[0], "seed_by_seed_s": times[1], "equal": same == apart}
        )
    part = min(20, repetitions)  # one repetition of one seed at a time
    loop = seconds(
        [Descent(None, seed=k, seeds=1, repetitions=1, steps=steps, conditions=grid) for k in range(part)]
    )
    loop *= seeds * repetitions / part
    big = rows[-1]
    summary = [
        [
            f"{len(grid['eta'])} cells x {seeds} seeds x {repetitions} repetitions, {steps} steps",
            f"{big['together_s']:.1f} s in one run, {big['seed_by_seed_s'] / big['together_s']:.1f} x as fast as its"
            f" seeds one after another, {loop / big['together_s']:.0f} x as a loop over repetitions",
        ],
        [
            "the same with one repetition a seed",
            f"{rows[0]['together_s']:.1f} s, {rows[0]['seed_by_seed_s'] / rows[0]['together_s']:.1f} x",
        ],
    ]
    results = {"rows": rows, "loop_s_extrapolated": loop}
    if fast:
        print(summary, results)
    else:
        write(Path(FOLDER) / "cells.json", summary, results)


if __name__ == "__main__":
    main()
