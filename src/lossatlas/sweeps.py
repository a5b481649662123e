"""A study around Hydra's multiruns: the blocks of its grid before, its records, table and verdicts after."""

import itertools
import json
import os
import shlex
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.core.override_parser.types import Override
from omegaconf import DictConfig, OmegaConf

from lossatlas import launch
from lossatlas.command import check_claims, check_command, check_grid, count_jobs, say_rate, values_of
from lossatlas.errors import Halt, StorageError, UserError
from lossatlas.jobs import FRUITLESS, SWEEP_ENV, said
from lossatlas.keys import nearest
from lossatlas.objectives import objective
from lossatlas.paths import CHECKOUT, experiments_dir, is_checkout
from lossatlas.private import redact
from lossatlas.signals import heard_by

RunHydra = Callable[[list[str]], None]


def single(argv: list[str], run_hydra: RunHydra) -> int:
    """One run."""
    try:
        run_hydra(argv)
    except SystemExit as stop:
        return int(stop.code or 0)
    return 0


def study(argv: list[str], run_hydra: RunHydra) -> int:
    """A multirun: every job of the grid, then records, table, figure and verdicts. Returns the exit code.

    Raises:
        KeyboardInterrupt: stopped by a signal; the running jobs have saved themselves.
        UserError: a wrong word, or outputs that cannot be written any more.
    """
    words = [arg for arg in argv if not arg.startswith("-")]
    flags = [arg for arg in argv if arg.startswith("-")]
    words = [word.removeprefix("+") if word.startswith("+grid=") else word for word in words]
    overrides = OverridesParser.create().parse_overrides(words)
    experiments = [list(values_of(o)) for o in overrides if o.key_or_group == "experiment"]
    if not experiments:
        raise UserError("a study needs experiment=NAME; python -m run lists the names")
    if len(experiments[-1]) > 1:
        raise UserError(
            f"experiment={','.join(map(str, experiments[-1]))}: one study at a time, since the grid of a swept"
            " experiment is not read; run the command once for each"
        )
    base = check_command(words)
    _refuse_overlaps(base, overrides)
    if base.publish and not is_checkout():
        raise UserError("publish=true writes experiments/ of a source checkout; this is an installed package")
    if base.publish and (changed := _tracked_changes()):
        raise UserError(
            f"publish=true needs a clean tree, {changed} differs from its commit: commit it first"
        )
    if base.publish and base.scale != "laptop":
        raise UserError(f"publish=true is for the card's protocol, not for scale={base.scale}: leave one out")
    blocks = _grid_blocks(base, words, overrides)
    for block in blocks:
        check_command(block)
    if base.grid == "core":
        check_grid(base, {o.get_key_element() for o in overrides})
    check_claims(base)
    if base._search:
        metric, direction = objective(base, str(experiments[-1][0]))
        aim = [f"objective.metric={metric}", f"objective.direction={direction}"]
        blocks = [[*block, *aim] for block in blocks]
    say_rate(base, overrides)
    first = launch.rank() == 0  # of torchrun's processes one writes and prints for all
    root = Path(base.output_root).resolve() if first else Path(tempfile.mkdtemp())
    sweep = root / ".sweeps" / f"{time.strftime('%Y%m%d-%H%M%S')}-{os.getpid()}"
    sweep.mkdir(parents=True)
    (sweep / "total").write_text(
        json.dumps("?" if base._search else sum(count_jobs(base, block) for block in blocks))
    )
    (sweep / "command").write_text(redact(shlex.join(["python", "-m", "run", *flags, *words])))
    (sweep / "swept").write_text(json.dumps([] if base._search else _swept(overrides)))
    os.environ[SWEEP_ENV] = str(sweep)
    try:
        with _stoppable(sweep):
            for block in blocks:
                _run_block(run_hydra, [*flags, *block], sweep)
    except Halt as halt:
        raise StorageError(str(halt)) from None
    finally:
        if not first:
            shutil.rmtree(root)
        os.environ.pop(SWEEP_ENV, None)
        (Path(base.output_root) / ".multirun" / "multirun.yaml").unlink(missing_ok=True)  # Hydra's own copy
    if (sweep / "stop").exists():
        raise KeyboardInterrupt
    code = finish(base, sweep) if first else 0
    return max(code, 1) if (sweep / FRUITLESS).exists() else code


def _run_block(run_hydra: RunHydra, argv: list[str], sweep: Path) -> None:
    """One multirun. Where it is cut, what its jobs left is still gathered and the exit code is not 0.

    Raises:
        Exception: it ended before any job did.
    """
    try:
        run_hydra(argv)
    except Exception as error:
        if type(error).__name__ == "TerminatedWorkerError":  # joblib's; its jobs are gone with the worker
            print("lossatlas: a worker process was killed (out of memory?), its sweep ends", file=sys.stderr)
        elif any(sweep.glob("*.json")):
            print(f"lossatlas: {redact(said(error))}; its sweep ends", file=sys.stderr)
        else:
            raise
        (sweep / FRUITLESS).touch()


def _refuse_overlaps(cfg: DictConfig, overrides: Sequence[Override]) -> None:
    """Where a run has `seeds` seeds from `seed` on (lossatlas.cells), two runs must not share one."""
    count = cfg.get("seeds")
    for override in overrides:
        if count is None or override.key_or_group != "seed":
            continue
        firsts = sorted(int(value) for value in values_of(override))
        if any(b - a < count for a, b in itertools.pairwise(firsts)):
            raise UserError(
                f"{override.input_line}: each run has seeds={count} seeds from `seed` on, these overlap; write"
                f" seed={firsts[0]} seeds={firsts[-1] - firsts[0] + 1}"
            )


EVIDENCE = ("records*.csv", "curves.csv", "figure.png", "README.md", "verdicts.json")  # what a study writes


def _tracked_changes() -> str:
    """The first tracked file that differs from its commit; empty where none does, or there is no git.

    Evidence that another study of a queue has just published does not count: no run reads it. Cards do.
    """
    evidence = [f":(exclude)experiments/*/{name}" for name in EVIDENCE]
    git = ["git", "-C", str(CHECKOUT), "status", "--porcelain", "--untracked-files=no", "--", ".", *evidence]
    found = subprocess.run(git, capture_output=True, text=True, check=False)
    return found.stdout.splitlines()[0][3:] if found.stdout else ""


def _refuse_to_publish(found: Sequence[Any], changed: str) -> None:
    """Evidence holds runs of the card's protocol from commits only."""
    if changed:
        raise UserError(
            f"publish=true: the runs do not follow the card's protocol ({changed}); nothing published"
        )
    if dirty := [record for record in found if record.dirty]:
        raise UserError(
            f"publish=true: {len(dirty)} records are of a tree with uncommitted changes; repeat with rerun=true"
        )


def _swept(overrides: Sequence[Override]) -> list[str]:
    """The keys of a command line that have several values, but arm, seed and what is Hydra's."""
    return [
        key
        for key in dict.fromkeys(o.get_key_element().lstrip("+") for o in overrides if o.is_sweep_override())
        if key not in ("arm", "seed", "experiment", "scale") and not key.startswith("hydra")
    ]


@contextmanager
def _stoppable(sweep: Path) -> Iterator[None]:
    """The first Ctrl-C or SIGTERM lets running jobs save themselves and starts no other; the second ends at once.

    Jobs look for a file, because they may run in processes that get no signal.
    """
    stop = sweep / "stop"

    def ask(signum: int, _: Any) -> None:
        if stop.exists():
            raise KeyboardInterrupt
        stop.touch()

    with heard_by(ask):
        yield


def finish(cfg: DictConfig, sweep: Path) -> int:
    """Gathers what the jobs left, writes and prints the study, returns 0, 1 (a job did not finish), 2 (all refused)."""
    from lossatlas import records
    from lossatlas import study as report
    from lossatlas.study.protocol import changes

    entries = [json.loads(path.read_text()) for path in sorted(sweep.glob("*.json"))]
    kept = []
    for folder, condition in {e["folder"]: e.get("condition", {}) for e in entries if e["folder"]}.items():
        if record := records.read(Path(folder) / "record.json"):
            record.condition = condition or record.condition  # a kept run may be of a sweep over other keys
            kept.append(record)
    if kept and not cfg._search:
        card = experiments_dir() / str(cfg.paper) / "card.yaml"
        out = Path(cfg.output_root) / kept[0].experiment / cfg.scale / "_study"
        changed = changes(kept)
        command = (sweep / "command").read_text() if (sweep / "command").exists() else ""
        report.end(
            kept, card if card.exists() else None, out, grid=str(cfg.grid), changed=changed, command=command
        )
        if cfg.publish:
            _refuse_to_publish(kept, changed)
            evidence = experiments_dir() / str(cfg.paper)
            report.publish(kept, card, evidence, grid=str(cfg.grid), outputs=cfg.output_root)
    total = json.loads((sweep / "total").read_text())
    total = total if isinstance(total, int) else len(entries)  # a search asks as it goes
    bad = [f"{e.get('name', '?')} ({e['status']})" for e in entries if e["status"] not in ("done", "skipped")]
    if bad:
        names = ", ".join(bad[:5]) + (f" and {len(bad) - 5} more" if len(bad) > 5 else "")
        print(
            f"{len(bad)} of {total} jobs did not finish: {names}; repeat with rerun=failed", file=sys.stderr
        )
    lost = total - len(entries)
    if lost > 0:
        print(
            f"{lost} of {total} jobs did not start or left nothing; the same command runs them",
            file=sys.stderr,
        )
    refused = [e for e in entries if e["status"] == "refused"]
    return 2 if refused and len(refused) == len(entries) else int(bool(bad or lost > 0))


def _grid_blocks(cfg: DictConfig, words: list[str], overrides: Sequence[Override]) -> list[list[str]]:
    """The command line once per block of the named grid; keys that the user gave win, arms are narrowed."""
    if cfg.grid == "core":
        return [words]
    if cfg.grid not in cfg.grids:
        raise UserError(
            f"grid={cfg.grid}: not in this experiment; {nearest(str(cfg.grid), ['core', *cfg.grids])}"
        )
    grid = cfg.grids[cfg.grid]
    given = {o.get_key_element(): [str(v) for v in values_of(o)] for o in overrides}
    blocks = []
    for params in [grid] if OmegaConf.is_dict(grid) else list(grid):
        plain = OmegaConf.to_container(params, resolve=False)
        assert isinstance(plain, dict)
        arms = [word.strip() for word in str(plain.get("arm", ",".join(given.get("arm", [])))).split(",")]
        kept = [arm for arm in arms if arm in given.get("arm", arms)]
        if not kept:
            continue
        own = [f"{key}={value}" for key, value in plain.items() if key not in given and key != "arm"]
        blocks.append([*(w for w in words if not w.startswith("arm=")), f"arm={','.join(kept)}", *own])
    return blocks
