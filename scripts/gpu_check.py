"""Does this checkout work on this machine's GPU? One command, a table, `experiments/_bench/gpu.json`.

    PYTHONPATH=src python scripts/gpu_check.py [--paper SLUG ...] [--minutes 6] [--accelerator cpu]

Five parts, in this order, each one line of the table:
  smoke        every experiment at scale=smoke with trainer=gpu: status, seconds, peak memory of the device
  bf16         the same experiments with trainer.precision=bf16-mixed, where they train a network on data
  compile      three of them with trainer.compile=true: MLP, convolutions, transformer
  several      two or more GPUs: a run with trainer=ddp over all of them
  resume       a run that a signal stops is gone on with by the same command; the metrics equal an uncut run's
  losses       forward and backward of every loss at K = 1000 and 50000 on the device, against cross_entropy

`--accelerator cpu` rehearses all of it without a GPU. What does not fit into the minutes is told.
Needs torch >= 2.10, Lightning, torchmetrics, torchvision, scikit-learn, pandas, hydra-core, omegaconf and pydantic.
"""

import argparse
import contextlib
import json
import os
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import bench_losses
import benching
import torch
import yaml
from torch.nn.functional import cross_entropy
from tqdm import tqdm

from lossatlas.paths import conf_dir

ROOT = Path(__file__).resolve().parents[1]
CLASSES, BATCH = (1000, 50000), 256
COMPILED = ("ldr_noisy", "comp_sum", "grokking_modular")  # an MLP, convolutions, a transformer
RESUMED, LONG = "ldr_noisy", 60  # an experiment and epochs enough that a signal meets it at work
RUN = """
import json, sys, time
from lossatlas import cli
for words in json.loads(sys.argv[1]):
    print("BEGIN", flush=True)
    sys.argv = ["run", *words]
    start, code = time.perf_counter(), 0
    try:
        cli.main()
    except SystemExit as stop:
        code = int(stop.code or 0)
    print(f"END {code} {time.perf_counter() - start:.3f}", flush=True)
"""


@dataclass
class Row:
    """One line of the table; `state`: ok, failed, refused (the method says it cannot), or not run."""

    part: str
    what: str
    state: str
    seconds: float = 0.0
    peak_mb: float = 0.0
    says: str = ""


@dataclass
class Machine:
    """Where runs go, and until when."""

    accelerator: str
    outputs: Path
    ends: float

    def left(self) -> float:
        """Seconds until the time is up."""
        return self.ends - time.monotonic()


def experiments(papers: Sequence[str]) -> dict[str, dict[str, Any]]:
    """{name: file} of the experiments at laptop scale, of these papers (none given: of all)."""
    files = {
        path.stem: yaml.safe_load(path.read_text())
        for path in sorted((conf_dir() / "experiment").glob("*.yaml"))
    }
    for file in files.values():  # a file without a paper builds on another, the first of its defaults
        file.setdefault(
            "paper", files.get(Path(str((file.get("defaults") or [""])[0])).name, {}).get("paper", "")
        )
    known = sorted({str(file["paper"]) for file in files.values()})
    if wrong := sorted(set(papers) - set(known)):
        raise SystemExit(f"gpu_check: no paper {wrong[0]!r}; one of {' '.join(known)}")
    return {name: file for name, file in files.items() if not papers or file["paper"] in papers}


def run_all(machine: Machine, part: str, lines: Mapping[str, Sequence[str]]) -> Iterator[Row]:
    """A row for each line, one process for all of them (torch is imported once); anew after one that ends it."""
    names = list(lines)
    folder = machine.outputs / part
    while names:
        if machine.left() <= 0:
            yield from (Row(part, name, "not run", says="no time left") for name in names)
            return
        words = [[*lines[name], f"output_root={folder / name}"] for name in names]
        process = subprocess.Popen(
            [sys.executable, "-c", RUN, json.dumps(words)], cwd=ROOT, text=True, env=environment(),
            stdout=subprocess.PIPE, stderr=subprocess.STDOUT,
        )  # fmt: skip
        said: list[str] = []
        assert process.stdout
        for text in process.stdout:
            if text.startswith("BEGIN"):
                said = []
            elif text.startswith("END "):
                code, seconds = text.split()[1:]
                yield row_of(part, names.pop(0), int(code), float(seconds), said, folder)
                if machine.left() <= 0:
                    process.kill()
                    break
            else:
                said.append(text.strip())
        process.wait()
        if names and machine.left() > 0:  # the process ended without the line that a run ends with
            yield Row(
                part, names.pop(0), "failed", says=last(said) or f"process ended with {process.returncode}"
            )


def row_of(part: str, name: str, code: int, seconds: float, said: Sequence[str], folder: Path) -> Row:
    """What a finished command line left: its record's status, or the line that refused it."""
    records = [json.loads(path.read_text()) for path in (folder / name).rglob("record.json")]
    peak = max((record["peak_mb"] for record in records), default=0.0)
    if code == 2 and not records:
        return Row(part, name, "refused", seconds, says=last(said))
    done = code == 0 and bool(records) and all(record["status"] == "done" for record in records)
    devices = ", ".join(sorted({str(record["device"]) for record in records}))
    return Row(part, name, "ok" if done else "failed", seconds, peak, devices if done else last(said))


def last(said: Sequence[str]) -> str:
    """The last line that is not empty."""
    return next((line[:200] for line in reversed(said) if line), "")


def environment() -> dict[str, str]:
    """This process' environment with the checkout's sources in front."""
    path = os.pathsep.join(filter(None, [str(ROOT / "src"), os.environ.get("PYTHONPATH", "")]))
    return {**os.environ, "PYTHONPATH": path}


def words(name: str, machine: Machine, *more: str) -> list[str]:
    """The command line of a smoke run on the device."""
    return [
        f"experiment={name}",
        "scale=smoke",
        f"trainer={machine.accelerator}",
        "callbacks.progress=false",
        *more,
    ]


def smoke(machine: Machine, found: dict[str, Any]) -> Iterator[Row]:
    """Every experiment as it is."""
    return run_all(machine, "smoke", {name: words(name, machine) for name in found})


def bf16(machine: Machine, found: dict[str, Any]) -> Iterator[Row]:
    """What trains a network on data, in bf16 mixed precision."""
    networks = [n for n, file in found.items() if "net" in file or "/net" in str(file.get("defaults", ""))]
    return run_all(machine, "bf16", {n: words(n, machine, "trainer.precision=bf16-mixed") for n in networks})


def compiled(machine: Machine, found: dict[str, Any]) -> Iterator[Row]:
    """Three kinds of networks through torch.compile."""
    names = [name for name in COMPILED if name in found]
    return run_all(machine, "compile", {name: words(name, machine, "trainer.compile=true") for name in names})


def several(machine: Machine, found: dict[str, Any]) -> Iterator[Row]:
    """One run over all GPUs; two processes of the CPU in a rehearsal."""
    devices = torch.cuda.device_count() if machine.accelerator == "gpu" else 2
    names = [name for name in COMPILED[:2] if name in found]
    if devices < 2:
        yield Row("several", "ddp", "not run", says=f"{devices} GPU")
        return
    kind = "ddp" if machine.accelerator == "gpu" else "ddp_sim"
    lines = {n: [*words(n, machine)[:2], f"trainer={kind}", f"trainer.devices={devices}"] for n in names}
    yield from run_all(machine, "several", lines)


def resumed(machine: Machine, found: dict[str, Any]) -> Iterator[Row]:
    """A run stopped by SIGTERM and gone on with, against one that was not."""
    if RESUMED not in found:
        return
    line = [*words(RESUMED, machine), f"epochs={LONG}", "callbacks.checkpoint.every_seconds=0.2"]
    folders = [machine.outputs / "resume" / kind for kind in ("uncut", "cut")]
    commands = [[sys.executable, "-m", "run", *line, f"output_root={folder}"] for folder in folders]
    start = time.monotonic()
    uncut = subprocess.run(
        commands[0], cwd=ROOT, env=environment(), capture_output=True, text=True, check=False
    )
    if uncut.returncode:
        yield Row("resume", RESUMED, "failed", says=last(uncut.stderr.splitlines()))
        return
    process = subprocess.Popen(
        commands[1], cwd=ROOT, env=environment(), stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL
    )
    while process.poll() is None and not any(folders[1].rglob("last.ckpt")):
        time.sleep(0.02)
    process.send_signal(signal.SIGTERM)
    stopped = process.wait() != 0
    again = subprocess.run(
        commands[1], cwd=ROOT, env=environment(), capture_output=True, text=True, check=False
    )
    metrics = [
        json.loads(next(f.rglob("record.json")).read_text())["metrics"]
        for f in folders
        if not again.returncode
    ]
    same = len(metrics) == 2 and metrics[0] == metrics[1]
    far = (
        max((abs(a - metrics[1][k]) for k, a in metrics[0].items()), default=0.0)
        if len(metrics) == 2
        else float("nan")
    )
    says = f"{'stopped' if stopped else 'ended before the signal'}; " + (
        "metrics equal" if same else f"metrics differ by {far:.2g}"
    )
    yield Row(
        "resume", RESUMED, "ok" if stopped and far < 1e-3 else "failed", time.monotonic() - start, says=says
    )


def losses(machine: Machine, found: dict[str, Any]) -> Iterator[Row]:
    """Each loss that an arm names, on the device."""
    from hydra.utils import instantiate

    device = torch.device("cuda" if machine.accelerator == "gpu" else "cpu")
    rooms = tuple(f"lossatlas.papers.{file['paper']}." for file in found.values())
    for label, node in bench_losses.arms().items():
        if not str(node["_target_"]).startswith(rooms):
            continue
        if machine.left() <= 0:
            yield Row("losses", label, "not run", says="no time left")
            continue
        try:
            loss = instantiate(node)
            bench_losses.make_call(loss, *bench_losses.inputs(4, 10))
        except Exception:  # not a loss of scores and labels: bench_losses says which and why
            continue
        yield time_loss(label, loss.to(device), device)


def time_loss(label: str, loss: torch.nn.Module, device: torch.device) -> Row:
    """Microseconds of forward and backward, and times those of cross_entropy, at each K."""
    shown, start = [], time.monotonic()
    try:
        for K in CLASSES:
            generator = torch.Generator().manual_seed(0)
            f = torch.randn(BATCH, K, generator=generator).to(device).requires_grad_()
            y = torch.randint(K, (BATCH,), generator=generator).to(device)
            own = bench_losses.make_call(loss, f, y)
            with no_waiting(device):
                own()

            def plain(f: torch.Tensor = f, y: torch.Tensor = y) -> None:
                f.grad = None
                cross_entropy(f, y, reduction="none").mean().backward()

            times = [micro(call, device) for call in (own, plain)]
            shown.append(f"K={K}: {times[0]:.0f} us, {times[0] / times[1]:.2f} x")
    except RuntimeError as error:
        return Row(
            "losses", label, "failed", time.monotonic() - start, says=" ".join(str(error).split())[:200]
        )
    return Row("losses", label, "ok", time.monotonic() - start, says="; ".join(shown))


@contextlib.contextmanager
def no_waiting(device: torch.device) -> Iterator[None]:
    """Inside, an operation that waits for the GPU raises: a loss must not read a number at every step."""
    before = torch.cuda.get_sync_debug_mode() if device.type == "cuda" else 0
    if device.type == "cuda":
        torch.cuda.set_sync_debug_mode("error")
    try:
        yield
    finally:
        if device.type == "cuda":
            torch.cuda.set_sync_debug_mode(before)


def micro(call: Any, device: torch.device, times: int = 20) -> float:
    """Microseconds of a call, the device's work included."""

    def wait() -> None:
        if device.type == "cuda":
            torch.cuda.synchronize()

    for _ in range(3):
        call()
    wait()
    start = time.perf_counter()
    for _ in range(times):
        call()
    wait()
    return (time.perf_counter() - start) / times * 1e6


PARTS = {
    "smoke": smoke,
    "bf16": bf16,
    "compile": compiled,
    "several": several,
    "resume": resumed,
    "losses": losses,
}


def main() -> int:
    """Runs the parts, prints the table, writes the file; 1 where something failed."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--paper", nargs="+", default=[], help="only these papers' experiments and losses")
    parser.add_argument("--part", nargs="+", choices=PARTS, default=list(PARTS))
    parser.add_argument("--minutes", type=float, default=6.0)
    parser.add_argument("--accelerator", choices=("gpu", "cpu"), default="gpu")
    parser.add_argument(
        "--json", type=Path, default=None, help="default: experiments/_bench/gpu.json, on a GPU"
    )
    args = parser.parse_args()
    if args.accelerator == "gpu" and not torch.cuda.is_available():
        raise SystemExit("gpu_check: no GPU here; --accelerator cpu rehearses without one")
    found, rows = experiments(args.paper), []
    with tempfile.TemporaryDirectory() as folder:
        machine = Machine(args.accelerator, Path(folder), time.monotonic() + 60 * args.minutes)
        for part in args.part:
            for row in tqdm(PARTS[part](machine, found), desc=part, disable=not sys.stderr.isatty()):
                rows.append(row)
                print(
                    f"{row.part:8} {row.what:24} {row.state:8} {row.seconds:7.1f} s {row.peak_mb:8.0f} MB  {row.says}",
                    flush=True,
                )
    counts = {
        state: sum(row.state == state for row in rows) for state in ("ok", "failed", "refused", "not run")
    }
    summary = [
        [f"{part} on {name(args.accelerator)}", tell([row for row in rows if row.part == part])]
        for part in args.part
    ]
    if path := args.json or (benching.FOLDER / "gpu.json" if args.accelerator == "gpu" else None):
        benching.write(path, summary, [asdict(row) for row in rows])
    print(", ".join(f"{n} {state}" for state, n in counts.items() if n))
    return int(counts["failed"] > 0)


def name(accelerator: str) -> str:
    """The device's name."""
    return torch.cuda.get_device_name(0) if accelerator == "gpu" else "the CPU"


def tell(rows: Sequence[Row]) -> str:
    """`31 of 33 ok, 2 refused`."""
    others = [
        f"{n} {state}"
        for state in ("failed", "refused", "not run")
        if (n := sum(r.state == state for r in rows))
    ]
    return ", ".join([f"{sum(r.state == 'ok' for r in rows)} of {len(rows)} ok", *others])


if __name__ == "__main__":
    sys.exit(main())
