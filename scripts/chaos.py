"""A small study is killed, starved, cut and started twice; at its end it must equal one that nobody touched.

Every start is the CLI in a process group of its own, forked from this process, which has run the study once and so
imported torch and Lightning: the imports would take longer than the study. Moments, sizes and files are drawn
from --seed.

Usage: python scripts/chaos.py [--kills 20] [--full 5] [--cuts 5] [--twice 5] [--denied 2] [--seed 0] [--arm A]
       [--write FILE]
Exit code 1 where a run is lost, repeated or different, or an error is not one line.
"""

import argparse
import contextlib
import io
import json
import os
import platform
import random
import resource
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path

from lossatlas import checkpoint, records
from lossatlas.machine import code_version

STUDY = ["-m", "experiment=ldr_noisy", "scale=smoke", "arm=ce,aldr_kl", "noise=u60", "seed=0,1", "epochs=5"]
OFTEN = ("callbacks.checkpoint.every_chunks=1", "callbacks.checkpoint.every_seconds=null")
KILLS_A_STUDY = 4
SAID = ("torn", "another process", "No space left", "File too large", "Read-only", "Permission denied")
COMPARED = ("status", "metrics", "units", "extras", "condition", "config_hash", "config")


@dataclass
class Tally:
    """What one kind of disturbance led to."""

    what: str
    events: int = 0
    studies: int = 0
    runs: int = 0
    lost: int = 0
    repeated: int = 0
    different: int = 0
    faults: list[str] = field(default_factory=list)
    codes: Counter = field(default_factory=Counter)
    said: Counter = field(default_factory=Counter)


@dataclass
class Start:
    """A started study."""

    pid: int
    err: Path

    def wait(self) -> int:
        """Its exit code; minus the signal's number where one ended it."""
        return os.waitstatus_to_exitcode(os.waitpid(self.pid, 0)[1])

    def kill(self) -> int:
        """kill -9 of the whole process group."""
        with contextlib.suppress(ProcessLookupError):  # it was quicker
            os.killpg(self.pid, signal.SIGKILL)
        return self.wait()

    def lines(self) -> list[str]:
        """What it wrote to stderr."""
        return [line for line in self.err.read_text().splitlines() if line.strip()]


def start(root: Path, err: Path, before: Callable[[], None] = lambda: None) -> Start:
    """The study's command line, writing below `root`; `before` is called in the new process."""
    pid = os.fork()
    if pid:
        with contextlib.suppress(OSError):
            os.setpgid(pid, pid)
        return Start(pid, err)
    code = 70
    try:
        os.setpgid(0, 0)
        out = os.open(os.devnull, os.O_WRONLY)
        os.dup2(out, 1)
        os.dup2(os.open(err, os.O_WRONLY | os.O_CREAT | os.O_TRUNC), 2)
        before()
        command(root)
    except SystemExit as stop:
        code = int(stop.code or 0)
    finally:
        os._exit(code)
    raise AssertionError


def command(root: Path) -> None:
    """The study's command line in this process; ends with SystemExit."""
    from lossatlas.cli import main as run

    sys.argv = ["run", *STUDY, *OFTEN, "callbacks.progress=false", f"output_root={root}"]
    run()


class Study:
    """One study under disturbance, watched: its folder, and every finished record as it was first seen."""

    def __init__(self, root: Path, tally: Tally, logs: Path) -> None:
        self.root, self.tally, self.logs = root, tally, logs
        self.seen: dict[Path, tuple[int, int]] = {}
        root.mkdir(parents=True, exist_ok=True)
        tally.studies += 1

    def start(self, before: Callable[[], None] = lambda: None) -> Start:
        """One start of it."""
        return start(self.root, self.logs / f"{time.monotonic_ns()}.err", before)

    def ended(self, run: Start, code: int, expected: tuple[int, ...]) -> None:
        """Checks how a start ended, and everything that lies on the disk now."""
        self.tally.codes[code] += 1
        lines = run.lines()
        for line in lines:
            for word in SAID:
                self.tally.said[word] += word in line
        if code not in expected:
            self.tally.faults.append(f"exit code {code}: {' | '.join(lines[-3:])[:300]}")
        if any("Traceback" in line for line in lines):
            self.tally.faults.append(f"a traceback: {lines[-1][:200]}")
        if code == 2 and 2 in expected and len(lines) != 1 and self.tally.what != "two starts at once":
            self.tally.faults.append(f"{len(lines)} lines instead of one: {' | '.join(lines)[:300]}")
        self.watch()

    def watch(self) -> None:
        """A finished record must stay the same file for ever."""
        for path in self.root.glob("*/*/*/record.json"):
            record = records.read(path)
            if record is None or record.status != "done":
                if path in self.seen:
                    self.tally.repeated += 1
                continue
            stat = path.stat()
            now = (stat.st_ino, stat.st_mtime_ns)
            self.tally.repeated += self.seen.setdefault(path, now) != now

    def halves(self) -> list[str]:
        """Files that are not whole, after an end that was not a kill."""
        bad = [str(p) for p in self.root.rglob("*") if p.suffix == ".part" or p.name.startswith(".record.")]
        bad += [str(p) for p in self.root.rglob("record.json") if records.read(p) is None]
        bad += [str(p) for p in self.root.rglob("*.ckpt") if not checkpoint.is_whole(p)]
        return bad

    def finish(self, truth: dict[str, dict]) -> None:
        """The same command until the end, then the comparison."""
        last = self.start()
        self.ended(last, last.wait(), (0,))
        found = results(self.root)
        self.tally.runs += len(truth)
        self.tally.lost += len(truth.keys() - found.keys())
        for name in truth.keys() & found.keys():
            if found[name] != truth[name]:
                self.tally.different += 1
                keys = [k for k in found[name] if found[name][k] != truth[name].get(k)]
                self.tally.faults.append(f"{name} differs in {', '.join(keys)}")
        if extra := found.keys() - truth.keys():
            self.tally.faults.append(f"runs that nobody asked for: {', '.join(sorted(extra))}")


def results(root: Path) -> dict[str, dict]:
    """What a study's finished runs say, without times and memory; floats are compared as their exact digits."""
    found = {}
    for path in root.glob("*/*/*/record.json"):
        record = records.read(path)
        if record is not None and record.status == "done":
            raw = json.loads(path.read_text())
            curves = (path.parent / "curves.csv").read_text()
            found[path.parent.name] = {**{key: raw[key] for key in COMPARED}, "curves": curves}
    return found


def killed(study: Study, draw: random.Random, seconds: float, times: int) -> None:
    """kill -9 at `times` random moments."""
    for _ in range(times):
        run = study.start()
        time.sleep(draw.uniform(0, seconds / KILLS_A_STUDY))
        study.ended(run, run.kill(), (-signal.SIGKILL, 0))
        study.tally.events += 1


def starved(study: Study, draw: random.Random, usage: int) -> None:
    """The disk is full at a random moment; afterwards there is room."""
    size = max(4096, int(usage * draw.uniform(0.05, 0.95)))
    with small_disk(study.root, size) as (enlarge, limit):
        run = study.start(limit)
        study.ended(run, run.wait(), (2,))
        study.tally.faults += [f"half-written: {path}" for path in study.halves()]
        study.tally.events += 1
        enlarge()
        study.finish(TRUTH)


def truncated(study: Study, draw: random.Random, seconds: float) -> None:
    """After a kill, a checkpoint or a record loses its end."""
    run = study.start()
    time.sleep(draw.uniform(0.3, 0.9) * seconds)
    study.ended(run, run.kill(), (-signal.SIGKILL, 0))
    files = [p for n in ("last.ckpt", "previous.ckpt", "record.json") for p in study.root.rglob(n)]
    if files:
        path = draw.choice(sorted(files))
        os.truncate(path, int(path.stat().st_size * draw.random()))
        study.seen.pop(path, None)
    study.tally.events += 1


def doubled(study: Study, draw: random.Random, seconds: float) -> None:
    """A second start while the first one runs; sometimes both are killed."""
    first = study.start()
    time.sleep(draw.uniform(0, seconds / 2))
    second = study.start()
    if draw.random() < 0.4:
        time.sleep(draw.uniform(0, seconds / 2))
        study.ended(second, second.kill(), (-signal.SIGKILL, 0, 2))
        study.ended(first, first.kill(), (-signal.SIGKILL, 0, 2))
    else:
        study.ended(second, second.wait(), (0, 2))
        study.ended(first, first.wait(), (0, 2))
    study.tally.events += 1


def denied(study: Study, draw: random.Random, seconds: float) -> None:
    """The right to write is taken away while the study runs, then given back."""
    with small_disk(study.root, 1 << 26) as (_, _limit):
        run = study.start()
        time.sleep(draw.uniform(0.1, 0.7) * seconds)
        forbid(study.root, True)
        study.ended(run, run.wait(), (2, 0))
        study.tally.events += 1
        forbid(study.root, False)
        study.finish(TRUTH)


@contextlib.contextmanager
def small_disk(root: Path, size: int) -> Iterator[tuple[Callable[[], object], Callable[[], None]]]:
    """A tmpfs of `size` bytes at `root`, or, without the right to mount, a limit on every file's size.

    Yields what enlarges it, and what a new process calls before it starts.
    """
    if not can_mount():

        def limit() -> None:
            resource.setrlimit(resource.RLIMIT_FSIZE, (size // 16, resource.RLIM_INFINITY))

        yield (lambda: None), limit
        return
    subprocess.run(["mount", "-t", "tmpfs", "-o", f"size={size}", "chaos", root], check=True)
    try:
        yield lambda: remount(root, f"size={1 << 26}"), lambda: None
    finally:
        subprocess.run(["umount", root], check=True)


def forbid(root: Path, on: bool) -> None:
    """Root may write whatever the modes say, so for root the file system becomes read-only."""
    if can_mount():
        for _ in range(100):  # busy while a file is open for writing
            if remount(root, "ro" if on else "rw"):
                return
            time.sleep(0.01)
        return
    for folder in (root, *(p for p in root.rglob("*") if p.is_dir())):
        folder.chmod(0o555 if on else 0o755)


def remount(root: Path, option: str) -> bool:
    """Changes a mounted tmpfs."""
    done = subprocess.run(["mount", "-o", f"remount,{option}", root], capture_output=True)
    return done.returncode == 0


def can_mount(known: list[bool] = []) -> bool:  # noqa: B006  (asked once)
    """Whether a tmpfs can be mounted here."""
    if not known:
        with tempfile.TemporaryDirectory() as folder:
            tried = shutil.which("mount") and subprocess.run(
                ["mount", "-t", "tmpfs", "-o", "size=4096", "chaos", folder], capture_output=True
            )
            known.append(bool(tried) and tried.returncode == 0)  # type: ignore[union-attr]
            if known[0]:
                subprocess.run(["umount", folder], check=True)
    return known[0]


TRUTH: dict[str, dict] = {}


def table(tallies: list[Tally]) -> str:
    """The Markdown table."""
    columns = ("disturbance", "events", "studies", "runs compared", "lost", "finished runs repeated",
               "different results", "exit codes of all starts", "lines that said so")  # fmt: skip
    rows = [f"| {' | '.join(columns)} |", "|---" * len(columns) + "|"]
    for t in tallies:
        codes = ", ".join(
            f"{'killed' if c == -signal.SIGKILL else c} x {n}"
            for c, n in sorted(t.codes.items(), key=lambda i: -i[0])
        )
        said = ", ".join(f"“{w}” x {n}" for w, n in t.said.items() if n) or "nothing"
        cells = (t.what, t.events, t.studies, t.runs, t.lost, t.repeated, t.different, codes, said)
        rows.append(f"| {' | '.join(map(str, cells))} |")
    total = [sum(getattr(t, key) for t in tallies) for key in ("events", "studies", "runs")]
    bad = [sum(getattr(t, key) for t in tallies) for key in ("lost", "repeated", "different")]
    rows.append(f"| **all** | {' | '.join(map(str, total))} | {' | '.join(f'**{n}**' for n in bad)} | | |")
    return "\n".join(rows)


def page(tallies: list[Tally], args: argparse.Namespace, seconds: float, took: float) -> str:
    """docs/chaos.md."""
    commit, dirty = code_version()
    disk = "a small tmpfs" if can_mount() else "a limit on the size of files"
    faults = [f"- {t.what}: {fault}" for t in tallies for fault in t.faults]
    command = f"python scripts/chaos.py --seed {args.seed}"
    return "\n".join(
        [
            "# Chaos: a study that is killed, starved, cut and started twice",
            "",
            f"Written by `{command} --write docs/chaos.md`; nothing here is typed. Every study is",
            "",
            f"    python -m run {' '.join(STUDY)}",
            "",
            f"with a checkpoint at every chunk: {len(TRUTH)} runs, {seconds:.0f} s when left alone. Each row starts"
            " studies, disturbs them at moments drawn from the seed, gives the same command again until the study is"
            " through, and compares status, metrics, curves and configuration of every run with those of a study that"
            f" was left alone, digit by digit (CPU, one thread). The full disk is {disk}; the right to write is taken"
            f" away by {'making the file system read-only' if can_mount() else 'modes'}.",
            "",
            table(tallies),
            "",
            "Lost: a run without a finished record at the end. Repeated: a finished record that was written a second"
            " time, though nobody had cut it. A start that meets a full disk must say one line, exit with 2 and leave"
            " no half-written file; exit code 2 of a second start means that a run was being written by the first.",
            "",
            "Faults: " + ("none." if not faults else ""),
            *faults,
            "",
            f"{platform.system()} {platform.machine()}, {os.cpu_count()} cores, Python {platform.python_version()},"
            f" commit {commit[:8]}{' (dirty)' if dirty else ''}, {took / 60:.0f} minutes.",
            "",
        ]
    )


def main() -> int:
    """Prints the table as it grows and the page at the end."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    for name, number in (("kills", 20), ("full", 5), ("cuts", 5), ("twice", 5), ("denied", 2), ("seed", 0)):
        parser.add_argument(f"--{name}", type=int, default=number)
    parser.add_argument("--write", type=Path)
    parser.add_argument("--arm", default="ce,aldr_kl", help="arms of the study")
    args = parser.parse_args()
    STUDY[STUDY.index("arm=ce,aldr_kl")] = f"arm={args.arm}"
    draw, began = random.Random(args.seed), time.monotonic()
    with tempfile.TemporaryDirectory() as folder:
        base = Path(folder)
        with contextlib.redirect_stdout(io.StringIO()), contextlib.suppress(SystemExit):
            command(base / "alone")
        TRUTH.update(results(base / "alone"))
        # folders take no room of a tmpfs, and a disk as large as all files would not be full
        usage = sum(p.stat().st_blocks * 512 for p in (base / "alone").rglob("*") if p.is_file())
        again, start_of_it = Study(base / "again", Tally("nothing"), base), time.monotonic()
        again.finish(TRUTH)
        seconds = time.monotonic() - start_of_it
        if again.tally.faults or again.tally.lost or not TRUTH:
            print(f"the undisturbed study failed: {again.tally.faults}", file=sys.stderr)
            return 1
        print(f"undisturbed: {len(TRUTH)} runs, {seconds:.0f} s, {usage >> 10} KiB", flush=True)
        tallies = list(disturb(args, base, draw, seconds, usage))
    text = page(tallies, args, seconds, time.monotonic() - began)
    print(text)
    if args.write:
        records.write_text(text, args.write)
    bad = any(t.lost or t.repeated or t.different or t.faults for t in tallies)
    return int(bad)


def disturb(
    args: argparse.Namespace, base: Path, draw: random.Random, seconds: float, usage: int
) -> Iterator[Tally]:
    """All disturbances, one kind after the other."""
    tally = Tally("kill -9 of the process group")
    while tally.events < args.kills:
        study = Study(base / f"kill{tally.events}", tally, base)
        killed(study, draw, seconds, min(KILLS_A_STUDY, args.kills - tally.events))
        study.finish(TRUTH)
    print(f"{tally}", flush=True)
    yield tally
    for what, number, act in (
        ("full disk", args.full, lambda s: starved(s, draw, usage)),
        ("no right to write", args.denied, lambda s: denied(s, draw, seconds)),
        ("truncated file", args.cuts, lambda s: (truncated(s, draw, seconds), s.finish(TRUTH))),
        ("two starts at once", args.twice, lambda s: (doubled(s, draw, seconds), s.finish(TRUTH))),
    ):
        tally = Tally(what)
        while tally.events < number:
            act(Study(base / f"{what}{tally.events}", tally, base))
        print(f"{tally}", flush=True)
        yield tally


if __name__ == "__main__":
    sys.exit(main())
