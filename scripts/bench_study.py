"""Seconds of a study's end without its figure: tidy table, verdicts, printed tables, README text, records.csv.

1000 synthetic records (10 arms x 5 conditions x 20 seeds, some failed) under a card with every kind of check; and
1000 records of 10 repetitions each.

Usage: python scripts/bench_study.py [--profile] [--repeats 5] [--json FILE]
"""

import argparse
import cProfile
import io
import pstats
import statistics
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import benching
import numpy as np
import torch

from lossatlas import records, study
from lossatlas.claims import Card, judge, parse_card

ARMS, LEVELS, SEEDS, UNITS = [f"a{i}" for i in range(10)], ["n10", "n20", "n40", "n80", "n160"], 20, 10
METRICS = [f"test/top{k}" for k in range(1, 6)] + ["train/loss", "train/top1", "lambda/auc"]
BOUND = 2.0  # seconds for 1000 records


def synthetic(units: int) -> list[records.Record]:
    """Records whose metric rises with the arm's number and as a power of the level's."""
    rng = np.random.default_rng(0)
    found = []
    for a, arm in enumerate(ARMS):
        for level in LEVELS:
            for seed in range(SEEDS):

                def values(a: int = a, level: str = level) -> dict[str, float]:
                    size = 0.1 * (1 + 0.05 * a) * float(level[1:]) ** 0.3
                    return {
                        name: float(v)
                        for name, v in zip(METRICS, size * rng.lognormal(0, 0.02, 8), strict=True)
                    }

                record = records.Record(
                    "made", "made", arm, seed, "laptop", condition={"noise": level}, seconds=1.0
                )
                record.metrics, record.extras = values(), {"histogram": list(range(40))}
                record.units = [{"unit": u, "metrics": values()} for u in range(units)]
                if rng.random() < 0.01:
                    record.status, record.metrics, record.units = "failed", {}, []
                found.append(record)
    return found


def card() -> Card:
    """Twelve claims: each kind of check, with several comparators, conditions, an axis and a reduction."""
    metric: dict[str, Any] = {"metric": "test/top1"}
    at, axis = {**metric, "where": {"noise": "n80"}}, {**metric, "over": "noise", "values": LEVELS}
    every = {**metric, "where": {"noise": LEVELS}}
    checks = [
        (at, {"kind": "better", "arm": "a9", "than": ["a0"], "by": 0.01}),
        (every, {"kind": "better", "arm": "a9", "than": ARMS[:8], "by": 0.01}),
        (at, {"kind": "bound", "arm": "a9", "above": 0.2}),
        (every, {"kind": "bound", "arm": ARMS, "above": 0.0}),
        (at, {"kind": "close", "arm": "a9", "than": ["a8"], "within": 0.1}),
        (axis, {"kind": "slope", "arm": "a9", "between": [0.2, 0.4]}),
        (axis, {"kind": "slope", "arm": ARMS, "between": [0.2, 0.4]}),
        (axis, {"kind": "order", "arm": "a9", "increasing": True}),
        (axis, {"kind": "order", "arm": ARMS, "increasing": True}),
        (at, {"kind": "ratio", "arm": "a9", "than": ["a0"], "above": 1.0, "by": 0.05}),
        ({**axis, "reduce": "range"}, {"kind": "better", "arm": "a9", "than": ["a0"], "by": 0.01}),
        ({**axis, "reduce": "slope"}, {"kind": "close", "arm": "a9", "value": 0.3, "within": 0.1}),
    ]
    claims = [
        {
            "id": f"c{i}",
            "says": "so it is",
            "source": "Table 1",
            "experiment": "made",
            "statistic": s,
            "check": c,
        }
        for i, (s, c) in enumerate(checks)
    ]
    head = {"paper": "made", "title": "Made", "authors": ["A"], "venue": "none", "year": 2000, "n": 20}
    return parse_card({**head, "metrics": METRICS[:4], "claims": claims})


def end(found: list[records.Record], known: Card, folder: Path) -> dict[str, float]:
    """Seconds of each part."""
    spent: dict[str, float] = {}

    def timed(name: str, call: Callable[[], Any]) -> Any:
        start = time.perf_counter()
        result = call()
        spent[name] = time.perf_counter() - start
        return result

    table = timed("tidy", lambda: records.tidy(found))
    verdicts = timed("judge", lambda: judge(known, table))
    timed("print", lambda: (study.print_table(table, known, io.StringIO()),
                            study.print_verdicts(verdicts, io.StringIO())))  # fmt: skip
    timed("readme", lambda: study.readme(table, known, verdicts, study.facts_of(table, {}), commands=["x"]))
    timed("csv", lambda: records.to_csv(table, folder / "records.csv"))
    untested = [v.id for v in verdicts if v.verdict == "not run"]
    if untested:
        raise SystemExit(f"the synthetic card does not fit its records: {untested}")
    return {**spent, "all": sum(spent.values())}


def main() -> int:
    """Prints the parts; exits 1 where 1000 records take more than BOUND seconds."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--profile", action="store_true")
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--json", type=Path, default=benching.FOLDER / "study.json")
    args = parser.parse_args()
    torch.set_num_threads(1)
    known, results, summary = card(), {}, []
    for name, units in (("1000 records", 0), (f"1000 records of {UNITS} repetitions", UNITS)):
        found = synthetic(units)
        with tempfile.TemporaryDirectory() as folder:
            end(found, known, Path(folder))  # imports
            profile = cProfile.Profile()
            if args.profile:
                profile.runcall(end, found, known, Path(folder))
                pstats.Stats(profile).sort_stats("cumulative").print_stats(40)
            runs = [end(found, known, Path(folder)) for _ in range(args.repeats)]
        results[name] = {part: statistics.median(run[part] for run in runs) for part in runs[0]}
        parts = ", ".join(f"{part} {value:.2f}" for part, value in results[name].items() if part != "all")
        summary.append([f"a study's end without its figure, {name}, {len(known.claims)} claims",
                        f"{results[name]['all']:.2f} s ({parts})"])  # fmt: skip
    benching.write(args.json, summary, {"seconds": results, "bound": BOUND})
    return int(results["1000 records"]["all"] > BOUND)


if __name__ == "__main__":
    sys.exit(main())
