"""Several studies one after another on all cores: an evening's studies are one command.

Usage: python scripts/studies.py comp_sum zloss_words [--grid core] [--publish] [--launcher joblib] [key=value ...]

All names, grids and words are checked before anything starts. Each study is `python -m run -m experiment=...` in a
process of its own, so that one that dies does not end the others. Finished runs are kept: after a kill, a crash or
Ctrl-C the same command goes on where it stopped. Between jobs a line says what is left and when it will be done; the
end is a table of all verdicts. Exit code: 0, or the worst of the studies' (1: a job failed, 2: refused), 130 stopped.
"""

import argparse
import ctypes
import json
import os
import re
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from lossatlas.errors import UserError
from lossatlas.paths import experiments_dir

END = re.compile(r"^\[(\d+)/(\d+|\?)\] .*: (done|skipped|failed|diverged|interrupted)\b")
EVERY = 30.0  # seconds between two lines on what is left


@dataclass
class Study:
    """One study of the queue.

    Args:
        name, paper: of the experiment. jobs: how many its grid has. folder: where its `_study` is written.
        known: seconds of one of its jobs on one core by the published records, or None.
    """

    name: str
    paper: str
    jobs: int
    folder: Path
    known: float | None = None
    ended: int = 0
    ran: int = 0
    seconds: float = 0.0  # on the clock, since its start
    code: int | None = None

    @property
    def left(self) -> int:
        """Jobs that have not ended."""
        return 0 if self.code is not None else max(self.jobs - self.ended, 0)


@dataclass
class Queue:
    """All studies, and what can be said of the time they will take.

    Args:
        cores: jobs at a time.
    """

    studies: list[Study]
    cores: int = 1
    clock: Callable[[], float] = field(default=time.time)

    def remaining(self) -> float | None:
        """Seconds until all are done: a study's own pace, else its published one, else the others'; None: no idea."""
        ran = sum(s.ran for s in self.studies)
        pace = sum(s.seconds for s in self.studies if s.ran) / ran if ran else None
        total = 0.0
        for study in self.studies:
            published = None if study.known is None else study.known / self.cores
            each = study.seconds / study.ran if study.ran else published if published is not None else pace
            if study.left and each is None:
                return None
            total += study.left * (each or 0.0)
        return total

    def line(self) -> str:
        """What is left and when it will be done."""
        done = sum(s.code is not None for s in self.studies)
        left, seconds = sum(s.left for s in self.studies), self.remaining()
        when = "" if seconds is None else f", about {_span(seconds)}, until {_hour(self.clock() + seconds)}"
        return f"studies: {done} of {len(self.studies)} done, {left} jobs left{when if left else ''}"


def prepare(names: Sequence[str], words: Sequence[str], grid: str) -> list[Study]:
    """The studies of a command, each composed and checked.

    Raises:
        UserError, or what Hydra raises: the first wrong name, grid or word.
    """
    from hydra.core.override_parser.overrides_parser import OverridesParser

    from lossatlas import sweeps
    from lossatlas.command import count_jobs

    if doubled := sorted({name for name in names if list(names).count(name) > 1}):
        raise UserError(f"{doubled[0]} stands twice in the list: name each study once")
    found = []
    for name in names:
        own = [f"experiment={name}", *words, *([f"grid={grid}"] if grid != "core" else [])]
        base = sweeps.check_command(own)
        blocks = sweeps._grid_blocks(base, own, OverridesParser.create().parse_overrides(own))
        for block in blocks:
            sweeps.check_command(block)
        jobs = sum(count_jobs(base, block) for block in blocks)
        folder = Path(base.output_root) / name / base.scale
        known = published(str(base.paper), name, str(base.scale))
        found.append(Study(name, str(base.paper), jobs, folder, known))
    return found


def published(paper: str, experiment: str, scale: str) -> float | None:
    """Mean seconds of a run in the paper's records; None where there are none."""
    from lossatlas import records

    path = experiments_dir() / paper / "records.csv"
    if not path.is_file():
        return None
    table: Any = records.from_csv(path)
    seconds = table.loc[(table["experiment"] == experiment) & (table["scale"] == scale), "seconds"].dropna()
    return float(seconds.mean()) if len(seconds) else None


def run(queue: Queue, study: Study, words: Sequence[str]) -> int:
    """Runs one study, passes its lines on and says now and then what is left."""
    command = [sys.executable, "-m", "run", "-m", f"experiment={study.name}", *words]
    print(f"\n=== {study.name}: {study.jobs} jobs\n{queue.line()}", flush=True)
    start = spoken = time.monotonic()
    process = subprocess.Popen(
        command, stdout=subprocess.PIPE, text=True, env=os.environ | {"PYTHONUNBUFFERED": "1"},
        preexec_fn=_ends_with_us if sys.platform == "linux" else None,
    )  # fmt: skip
    assert process.stdout is not None
    try:
        for line in process.stdout:
            print(line, end="", flush=True)
            now = time.monotonic()
            study.seconds = now - start
            if note(study, line) and study.left and now - spoken > EVERY:
                print(queue.line(), flush=True)
                spoken = now
        return process.wait()
    except KeyboardInterrupt:  # the terminal has told the child, too; SIGTERM has not
        process.send_signal(signal.SIGTERM)
        process.wait()
        return 130


def note(study: Study, line: str) -> bool:
    """Counts a job's end; whether the line was one.

    Example:
        >>> study = Study("a", "p", 3, Path("x"))
        >>> note(study, "[1/3] ce-s1: skipped test/top1 0.8 (kept)"), study.ended, study.ran
            (True, 1, 0)
    """
    found = END.match(line)
    if found is None:
        return False
    study.ended += 1  # not the number in the line, which two jobs that end together share
    study.ran += found[3] != "skipped"
    return True


def verdicts(studies: Iterable[Study], evidence: bool) -> list[list[str]]:
    """A line per claim: of each study, or, after publishing, of each paper."""
    rows, folders = [], {}
    for study in studies:
        folder = experiments_dir() / study.paper if evidence else study.folder / "_study"
        folders.setdefault(folder, study.paper if evidence else study.name)
    for folder, name in folders.items():
        try:
            claims = json.loads((folder / "verdicts.json").read_text())["verdicts"]
        except (OSError, ValueError, KeyError):
            rows.append([name, "no verdicts", "-", "-", "-", "-"])
            continue
        if not claims:  # another protocol than the card's, such as scale=smoke: the study said what differs
            rows.append([name, "not judged", "-", "-", "-", "-"])
        for v in claims:
            if evidence or v["verdict"] != "not run":  # what needs other studies is not this one's
                numbers = ["-" if v[key] is None else f"{v[key]:.3g}" for key in ("effect", "p_holm")]
                rows.append([name, v["verdict"], v["id"], *numbers, str(v["n"])])
    return rows


def main(argv: Sequence[str] | None = None) -> int:
    """Runs the queue; returns the exit code."""
    from lossatlas.cli import one_line
    from lossatlas.study.table import aligned

    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument(
        "names", nargs="+", metavar="experiment", help="experiments, and key=value for all of them"
    )
    parser.add_argument("--grid", default="core")
    parser.add_argument("--publish", action="store_true")
    parser.add_argument(
        "--launcher", default="joblib", help="joblib, stacked, submitit_local, ray, or basic: one by one"
    )
    args = parser.parse_intermixed_args(argv)
    names, given = ([n for n in args.names if ("=" in n) is has] for has in (False, True))
    signal.signal(signal.SIGTERM, signal.default_int_handler)
    try:
        studies = prepare(names, given, args.grid)
    except Exception as error:
        print(f"lossatlas: {one_line(error)}", file=sys.stderr)
        return 2
    words = [f"hydra/launcher={args.launcher}", *given]
    words += [f"+grid={args.grid}"] if args.grid != "core" else []
    words += ["publish=true"] if args.publish else []
    queue = Queue(studies, cores=1 if args.launcher == "basic" else os.cpu_count() or 1)
    for study in studies:
        study.code = run(queue, study, words)
        if study.code == 130:
            study.code = None
            print(f"{queue.line()}; stopped: the same command goes on from here", file=sys.stderr)
            return 130
    print(
        "\n"
        + "\n".join(
            aligned(
                [["study", "verdict", "claim", "effect", "p (Holm)", "n"], *verdicts(studies, args.publish)]
            )
        )
    )
    return max(abs(s.code or 0) for s in studies)


def _ends_with_us() -> None:
    """Where this process is killed, the system asks the study to save itself and stop."""
    ctypes.CDLL(None).prctl(1, signal.SIGTERM)  # PR_SET_PDEATHSIG


def _span(seconds: float) -> str:
    return (
        f"{seconds:.0f} s"
        if seconds < 100
        else f"{seconds / 60:.0f} min"
        if seconds < 6000
        else f"{seconds / 3600:.1f} h"
    )


def _hour(when: float) -> str:
    return time.strftime("%H:%M", time.localtime(when))


if __name__ == "__main__":
    sys.exit(main())
