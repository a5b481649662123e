"""Wall time of one study with Hydra's basic launcher and with joblib on all cores, each run with one BLAS thread.

The study's runs are UCI Letter's shape on generated data, so that nothing is fetched. The basic launcher imports torch
once, joblib once in each worker; the speed-up is of the whole command, from start to verdicts. `runs_s` is the sum of
the runs' own seconds: how much of the command was training.

Usage: python scripts/bench_launchers.py [--jobs 8] [--epochs 800] [--repeats 1] [--json FILE]
"""

import argparse
import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import benching

LAUNCHERS = {"basic": (), "joblib": ("hydra/launcher=joblib", f"hydra.launcher.n_jobs={os.cpu_count()}")}


def study(launcher: tuple[str, ...], jobs: int, epochs: int) -> dict[str, float]:
    """Seconds of one study in a fresh folder, and of its runs together."""
    with tempfile.TemporaryDirectory() as folder:
        words = [
            "experiment=ldr_noisy",
            "arm=aldr_kl",
            "noise=u60",
            f"seed=range({jobs})",
            f"epochs={epochs}",
        ]
        words += ["fake=true", "callbacks.progress=false", "logger=none", f"output_root={folder}", *launcher]
        start = time.perf_counter()
        subprocess.run([sys.executable, "-m", "run", "-m", *words], check=True, capture_output=True)
        seconds = time.perf_counter() - start
        found = [json.loads(path.read_text()) for path in Path(folder).rglob("record.json")]
    if len(found) != jobs:
        raise SystemExit(f"{len(found)} of {jobs} runs are done")
    return {"command_s": seconds, "runs_s": sum(record["seconds"] for record in found)}


def main() -> int:
    """Prints and writes both times and their ratio."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--jobs", type=int, default=8)
    parser.add_argument("--epochs", type=int, default=800)
    parser.add_argument("--repeats", type=int, default=1)
    parser.add_argument("--json", type=Path, default=benching.FOLDER / "joblib.json")
    args = parser.parse_args()
    results = {}
    for name, launcher in LAUNCHERS.items():
        runs = [study(launcher, args.jobs, args.epochs) for _ in range(args.repeats)]
        results[name] = {part: statistics.median(run[part] for run in runs) for part in runs[0]}
    speedup = results["basic"]["command_s"] / results["joblib"]["command_s"]
    size = f"{args.jobs} runs of {args.epochs} epochs"
    summary = [
        [f"a study of {size}, basic launcher", f"{results['basic']['command_s']:.1f} s"],
        [f"the same, joblib on {os.cpu_count()} cores", f"{results['joblib']['command_s']:.1f} s"],
        ["speed-up of the whole command", f"{speedup:.2f}"],
    ]
    benching.write(
        args.json, summary, {"jobs": args.jobs, "epochs": args.epochs, **results, "speedup": speedup}
    )
    return 0


if __name__ == "__main__":
    sys.exit(main())
