"""What the benchmarks share: machine facts, alternating timers, one JSON format that bench_readme.py quotes.

A result file is {command, machine, summary, results}. `summary` holds pairs [what, value] in words made from
the numbers, so that a new benchmark appears in README without a line about it there.
"""

import json
import os
import platform
import statistics
import sys
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import torch

from lossatlas import machine

FOLDER = Path(__file__).resolve().parent.parent / "experiments" / "_bench"


def facts() -> dict[str, Any]:
    """Processor, cores, threads in use, load and package versions."""
    return {
        "cpu": _cpu_model(),
        "cores": os.cpu_count(),
        "threads": torch.get_num_threads(),
        "load": round(os.getloadavg()[0], 1),  # of the last minute, by everything that runs there
        "python": platform.python_version(),
        **machine.package_versions(),
    }


def write(path: Path, summary: Sequence[Sequence[str]], results: Any) -> None:
    """The result file, and its summary on the terminal."""
    words = [Path(sys.argv[0]).name, *sys.argv[1:]]
    content = {"command": f"python scripts/{' '.join(words)}", "machine": facts()}
    content |= {"summary": [list(pair) for pair in summary], "results": results}
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(content, indent=1) + "\n")
    print("\n".join(f"{what}: {value}" for what, value in summary))


def seconds(call: Callable[[], Any], times: int) -> float:
    """Wall seconds per call."""
    start = time.perf_counter()
    for _ in range(times):
        call()
    return (time.perf_counter() - start) / times


def alternate(first: Callable[[], Any], second: Callable[[], Any], rounds: int, budget: float) -> list[float]:
    """[seconds of first, seconds of second, second / first], each the median over rounds.

    The two take turns and the ratio is formed within a round, so that a slow moment of the machine hits both.

    Args:
        rounds: >= 1.
        budget: seconds that one side of a round should take; sets how often it is called.
    """
    for call in (first, second):  # warm
        call()
    times = [max(1, round(budget / max(seconds(call, 1), 1e-7))) for call in (first, second)]
    found = [
        [seconds(call, n) for call, n in zip((first, second), times, strict=True)] for _ in range(rounds)
    ]
    return [
        statistics.median(a for a, _ in found),
        statistics.median(b for _, b in found),
        statistics.median(b / a for a, b in found),
    ]


def _cpu_model() -> str:
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
        return next(line.split(":", 1)[1].strip() for line in lines if line.startswith("model name"))
    except (OSError, StopIteration):  # not Linux, or a processor without a name
        return platform.processor() or platform.machine()
