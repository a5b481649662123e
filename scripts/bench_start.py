"""Start-up times: the list of experiments, and the first training step against importing torch and Lightning.

Usage: python scripts/bench_start.py [--repeats 5] [--json FILE]
"""

import argparse
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import benching

IMPORTS = "import torch, pytorch_lightning"
# on the runner, whose import brings no torch, so that no import is moved forward
STEP_HOOK = """
import os
from lossatlas import runner
build = runner.build
def hooked(cfg, job, quiet):
    module, trainer, checkpoints = build(cfg, job, quiet)
    step = module.training_step
    def first(index, batch_idx):
        step(index, batch_idx)
        os._exit(0)
    module.training_step = first
    return module, trainer, checkpoints
runner.build = hooked
"""


def seconds(command: list[str], repeats: int) -> float:
    """Median wall time of a command."""
    times = []
    for _ in range(repeats):
        start = time.perf_counter()
        subprocess.run(command, check=True, capture_output=True)
        times.append(time.perf_counter() - start)
    return statistics.median(times)


def main() -> int:
    """Prints the three times and the ratio."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--json", type=Path, default=benching.FOLDER / "start.json")
    args = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        words = ["experiment=ldr_noisy", f"output_root={folder}", "rerun=true"]
        run = (
            f"{STEP_HOOK}\nimport sys; sys.argv = ['run', *{words!r}]\nfrom lossatlas.cli import main; main()"
        )
        result = {
            "list_s": seconds([sys.executable, "-m", "run"], args.repeats),
            "import_s": seconds([sys.executable, "-c", IMPORTS], args.repeats),
            "first_step_s": seconds([sys.executable, "-c", run], args.repeats),
        }
    result["ratio"] = result["first_step_s"] / result["import_s"]
    summary = [
        ["list of experiments", f"{result['list_s']:.2f} s"],
        ["first training step of a run, from the command line",
         f"{result['first_step_s']:.1f} s, {result['ratio']:.2f} x the import of torch and Lightning"],
    ]  # fmt: skip
    benching.write(args.json, summary, result)
    return 0


if __name__ == "__main__":
    sys.exit(main())
