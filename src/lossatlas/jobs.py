"""One Hydra job: its identity, the skip of finished runs, and a status instead of an exception.

A job that raised would end a sweep (SystemExit) or print a traceback; so `job` catches, records and returns.
"""

import hashlib
import json
import os
import re
import sys
import traceback
import uuid
from collections.abc import Iterable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from hydra.core.hydra_config import HydraConfig
from hydra.types import RunMode
from omegaconf import DictConfig, OmegaConf

from lossatlas.errors import FULL, Halt, StorageError, UserError
from lossatlas.private import redact, written
from lossatlas.schema import check
from lossatlas.signals import outliving_readers

SWEEP_ENV = "LOSSATLAS_SWEEP"  # the sweep's folder: every job leaves a line there
FRUITLESS = "fruitless"  # a file in that folder: a search found no trial with an objective
# What does not change a result: machines, paths, logging, and the arms, tuned values and settings of other runs.
INFRASTRUCTURE = (
    "arms", "tuned", "settings", "grids", "grid", "limits", "objective", "logger", "callbacks", "output_root",
    "data_root", "data_mirrors", "stack", "run_dir", "rerun", "publish", "trace", "hydra", "chunk", "eval_batch",
)  # fmt: skip
OTHER_RUNS = ("arms", "tuned", "settings", "grids", "limits")  # what of that is about other runs
TRAINER_INFRASTRUCTURE = ("accelerator", "devices", "strategy", "threads", "compile")


@dataclass
class Job:
    """What a run is, before it runs."""

    experiment: str
    condition: dict[str, Any]
    config: dict[str, Any]
    config_hash: str
    folder: Path
    parallel: bool = False
    name: str = field(default="")
    data_digest: str = ""  # of what it reads, known once it runs


def describe(cfg: DictConfig, hydra: Any) -> Job:
    """The identity of a composed run; `hydra` is Hydra's own node (choices, sweeper, launcher)."""
    choices = hydra.runtime.choices
    experiment = choices.get("experiment")
    if not experiment:
        raise UserError("no experiment: write experiment=NAME; python -m run lists the names")
    condition = {key: _value(cfg, choices, key) for key in condition_keys(cfg, hydra)}
    # resolving the arms and tuned values of all other runs would take most of the time
    config = written(cfg, without=OTHER_RUNS)
    kept = {key: value for key, value in config.items() if key not in INFRASTRUCTURE}
    kept["trainer"] = {k: v for k, v in kept["trainer"].items() if k not in TRAINER_INFRASTRUCTURE}
    for part in ("data", "net", "module"):
        _without_folders(kept.get(part))
    digest = hash_of(identity(experiment, kept))
    parts = [str(cfg.arm or "run"), *(_slug(v) for v in condition.values()), f"s{cfg.seed}", digest]
    name = "-".join(parts)
    if len(name) > 120:  # file systems stop at 255
        name = f"{cfg.arm or 'run'}-s{cfg.seed}-{digest}"
    folder = Path(cfg.output_root) / experiment / cfg.scale / name
    if (
        not folder.exists() and hydra.mode is not None
    ):  # the same run under the name that another sweep gave it
        folder = next(iter(sorted(folder.parent.glob(f"*-s{cfg.seed}-{digest}"))), folder)
    target = str(hydra.launcher.get("_target_", ""))
    parallel = hydra.mode == RunMode.MULTIRUN and "BasicLauncher" not in target
    return Job(experiment, condition, kept, digest, folder, parallel, name)


def identity(experiment: str, config: dict[str, Any]) -> str:
    """The text whose hash names a run."""
    return json.dumps([experiment, config], sort_keys=True)


def hash_of(text: str) -> str:
    """The hash in a run's folder and record."""
    return hashlib.sha256(text.encode()).hexdigest()[:8]


def _without_folders(node: Any) -> None:
    """Takes the folders of caches out of a part and of what it is built from."""
    if isinstance(node, dict):
        for key in ("root", "mirrors"):
            node.pop(key, None)
        for value in node.values():
            _without_folders(value)


def condition_keys(cfg: DictConfig, hydra: Any) -> list[str]:
    """The keys of the study's grid that are neither arm nor seed: a run's condition."""
    keys = list((hydra.sweeper.get("params") or {}).keys())
    grid = cfg.grids.get(cfg.grid) if cfg.grid != "core" else None
    keys += [
        key
        for key in swept_keys([grid] if OmegaConf.is_dict(grid) else grid or [], cfg.arm)
        if key not in keys
    ]
    keys = [str(key) for key in keys if key not in ("arm", "seed", "experiment", "scale")]
    return [*keys, *(key for key in _command_keys(cfg, hydra) if key not in keys)]


def _command_keys(cfg: DictConfig, hydra: Any) -> list[str]:
    """The keys that this sweep's command line gives several values, where they can change this arm's result."""
    sweep = os.environ.get(SWEEP_ENV) if hydra.mode == RunMode.MULTIRUN else None
    path = Path(sweep) / "swept" if sweep else None
    keys = json.loads(path.read_text()) if path and path.exists() else []
    return [key for key in keys if _counts(key.split("."), cfg)]


def _counts(parts: list[str], cfg: DictConfig) -> bool:
    """Whether a key is part of a run's identity: infrastructure and the tables of other arms are not."""
    if parts[0] in ("arms", "tuned"):
        return len(parts) < 2 or parts[1] == str(cfg.arm)
    if parts[0] == "trainer" and len(parts) > 1:
        return parts[1] not in TRAINER_INFRASTRUCTURE
    return parts[0] == "settings" or parts[0] not in INFRASTRUCTURE


def swept_keys(blocks: Iterable[Any], arm: str | None) -> list[str]:
    """The keys in which the runs of an arm differ: several values in a block of a grid, or not the same in all blocks.

    Example:
        >>> swept_keys([{"arm": "a,b", "x": "1"}, {"arm": "a", "x": "2"}, {"arm": "b", "y": "1,2"}], "a")
        ['x']
    """
    own = [
        block for block in blocks if arm in [word.strip() for word in str(block.get("arm", arm)).split(",")]
    ]
    keys = dict.fromkeys(str(key) for block in own for key in block if key != "arm")
    values = {key: {str(block.get(key)) for block in own} for key in keys}
    return [key for key in keys if len(values[key]) > 1 or any(_several(value) for value in values[key])]


def _several(value: str) -> bool:
    """Whether a value of a grid is a sweep; a list or a mapping is one value."""
    return "," in value and value[0] not in "[{"


def stop_asked() -> bool:
    """Whether Ctrl-C or SIGTERM told the sweep that this process belongs to that it should stop."""
    sweep = os.environ.get(SWEEP_ENV)
    return sweep is not None and (Path(sweep) / "stop").exists()


def job(cfg: DictConfig) -> float | None:
    """Hydra's task function: runs or skips one job, records its end, returns the objective for a sweeper.

    Raises:
        KeyboardInterrupt: stopped by a signal; in a sweep of several processes it returns, so that the others can save.
        Halt: in a sweep, the outputs cannot be written any more.
    """
    with outliving_readers():  # a launcher's worker has streams of its own
        return _job(cfg)


def _job(cfg: DictConfig) -> float | None:
    hydra = HydraConfig.get()
    sweep = os.environ.get(SWEEP_ENV) if hydra.mode == RunMode.MULTIRUN else None
    if sweep is None:
        return _run(cfg, hydra, None)
    parallel = "BasicLauncher" not in str(hydra.launcher.get("_target_", ""))
    try:
        if stop_asked():
            raise KeyboardInterrupt
        return _run(cfg, hydra, sweep)
    except KeyboardInterrupt:
        if not parallel:
            raise
        return None
    except (StorageError, OSError) as error:  # the disk: every further job would meet it, too
        raise Halt(str(error) if isinstance(error, StorageError) else f"{sweep}: {error.strerror}") from None


def _run(cfg: DictConfig, hydra: Any, sweep: str | None) -> float | None:
    what: Job | None = None
    try:
        check(cfg)
        what = describe(cfg, hydra)
        from lossatlas import runner

        outcome = runner.run(cfg, what, quiet=sweep is not None and what.parallel)
    except Exception as error:
        if sweep is None:
            if cfg.trace or not isinstance(error, UserError):
                raise
            print(f"lossatlas: {redact(' '.join(str(error).split()))}", file=sys.stderr)
            raise SystemExit(2) from None  # Hydra would print lines of its own about an exception
        if is_disk(error, cfg):
            raise
        unfinished(sweep, error, what)
        return None
    if sweep is not None:
        report(sweep, what, outcome.status, outcome.line)
    elif outcome.status in ("failed", "diverged"):
        print(f"lossatlas: {redact(outcome.line)}", file=sys.stderr)
        raise SystemExit(1)
    else:
        print(outcome.report)
    return outcome.objective


def is_disk(error: Exception, cfg: DictConfig) -> bool:
    """Whether the outputs cannot be written, which every further job would meet, too."""
    if isinstance(error, StorageError):
        return True
    root = str(cfg.get("output_root"))
    mine = isinstance(error, OSError) and str(error.filename).startswith((root, str(Path(root).resolve())))
    return isinstance(error, OSError) and (mine or error.errno in FULL)


def unfinished(sweep: str, error: Exception, what: Job | None) -> None:
    """A job that ended by an exception outside its training: refused where the user can mend it, else failed."""
    if isinstance(error, UserError) or what is None:
        refuse(sweep, error, what.name if what else "?")
        return
    from lossatlas import records

    line = said(error)
    try:
        what.folder.mkdir(parents=True, exist_ok=True)
        records.write_text(redact("".join(traceback.format_exception(error))), what.folder / "error.txt")
    except OSError:  # the line below says what happened in any case
        pass
    report(sweep, what, "failed", line)


def said(error: BaseException) -> str:
    """An exception as one line that is never without words: where it was raised, if it says nothing itself.

    Example:
        >>> said(ValueError("no rows"))
        'ValueError: no rows'
    """
    text = " ".join(str(error).split())
    if not text and error.__cause__ is not None:
        return said(error.__cause__)
    if not text:
        frames = traceback.extract_tb(error.__traceback__)
        text = (
            f"in {Path(frames[-1].filename).name}, line {frames[-1].lineno}: {frames[-1].line}"
            if frames
            else "?"
        )
    return f"{type(error).__name__}: {text}"


def report(sweep: str, what: Job, status: str, line: str) -> None:
    """Leaves a job's end in the sweep's folder and prints it."""
    entry = {"folder": str(what.folder.resolve()), "status": status, "name": what.name}
    _leave(sweep, entry | {"condition": {key: written_name(value) for key, value in what.condition.items()}})
    _progress(sweep, what, status, line)


def refuse(sweep: str, error: Exception, name: str = "?") -> None:
    """A job that cannot run as it was asked for."""
    _leave(sweep, {"folder": None, "status": "refused", "error": str(error), "name": name})
    print(f"lossatlas: {redact(str(error))}", file=sys.stderr)


def _leave(sweep: str, entry: dict[str, Any]) -> None:
    name = uuid.uuid4().hex  # one file a job, also where two jobs end alike
    part = Path(sweep) / f".{name}"
    part.write_text(redact(json.dumps(entry)))
    part.replace(Path(sweep) / f"{name}.json")


def _progress(sweep: str, what: Job, status: str, line: str) -> None:
    folder = Path(sweep)
    total = json.loads((folder / "total").read_text()) if (folder / "total").exists() else "?"
    done = sum(1 for _ in folder.glob("*.json"))
    print(f"[{done}/{total}] {what.name.rsplit('-', 1)[0]}: {status} {redact(line)}".rstrip(), flush=True)


def _value(cfg: DictConfig, choices: DictConfig, key: str) -> Any:
    return choices[key] if key in choices else OmegaConf.select(cfg, key)


def written_name(value: Any) -> str:
    """The text of a condition's value, as in a record."""
    from lossatlas.records import name

    return name(value)


def _slug(value: Any) -> str:
    return re.sub(r"[^A-Za-z0-9.]+", "_", str(value)).strip("_")
