"""One run: seed -> data -> LitModule -> Trainer -> fit (from the last checkpoint) -> test -> record."""

import logging
import os
import random
import sys
import time
import traceback
import warnings
from collections.abc import Iterator
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from omegaconf import DictConfig, OmegaConf

from lossatlas import checkpoint, inputs, kept, launch, machine, records
from lossatlas.errors import FULL, UserError, storage_error
from lossatlas.jobs import Job, said
from lossatlas.locks import HELD, locked
from lossatlas.machine import code_version, package_versions, peak_memory_mb, reset_peak_memory
from lossatlas.objectives import objective_value
from lossatlas.paths import page_line
from lossatlas.private import redact

FINISHED = ("done", "diverged")  # a diverged run is a result: it diverges again


@dataclass
class Outcome:
    """How a run ended: its status, one line for a sweep, a text for a single run, a sweeper's objective."""

    status: str
    line: str = ""
    report: str = ""
    objective: float | None = None


def run(cfg: DictConfig, job: Job, quiet: bool = False) -> Outcome:
    """Runs a checked config, or skips it where a finished record with the same hash lies in its folder.

    Raises:
        UserError: data, parts or devices that the config asks for are not to be had; nothing is written.
        KeyboardInterrupt: stopped by a signal, after checkpoint and record.
    """
    if launch.grouped():
        return launch.joined(cfg, job, quiet)
    if found := finished(cfg, job):
        return found
    with locked(job.folder):
        if found := finished(cfg, job):  # by another process, between the first look and the lock
            return found
        ready(cfg, job)
        if cfg.trainer.devices > 1 or cfg.trainer.strategy in ("ddp", "fsdp"):
            return launch.processes(cfg, job, quiet)
        return execute(cfg, job, quiet)


def finished(cfg: DictConfig, job: Job) -> Outcome | None:
    """The outcome of a run whose finished record need not be repeated, else None."""
    path = job.folder / "record.json"
    found = records.read(path)
    if found is None and job.folder in HELD and path.exists():  # said once, by who takes it up
        print(f"lossatlas: {job.name}: record.json torn; the run is taken up again", file=sys.stderr)
    if found is None or found.config_hash != job.config_hash or not _keep(found.status, cfg.rerun):
        return None
    if inputs.is_other(found, cfg):
        return None
    other = "" if found.commit == code_version()[0] else f", from code version {str(found.commit)[:8]}"
    line = f"{_headline(found.metrics)} (kept{other}; rerun=true repeats it)"
    return Outcome("skipped", line, _report(cfg, job, found, kept=True), objective_value(cfg, found.metrics))


def ready(cfg: DictConfig, job: Job) -> None:
    """Finds out what the run reads, and takes away a checkpoint that it must not go on from.

    Raises:
        UserError: its data are not to be had.
    """
    job.data_digest = inputs.data_digest(cfg)
    inputs.settle(job.folder, job.data_digest, job.name, anew=cfg.rerun is True)


def execute(cfg: DictConfig, job: Job, quiet: bool = False) -> Outcome:
    """Builds, trains, tests and records; the caller holds the folder's lock."""
    start = prepare(cfg, job)
    from lossatlas import loggers  # imports Lightning

    module, trainer, checkpoints = build(cfg, job, quiet)
    status, error, metrics, details = "done", None, {}, ""
    try:
        if checkpoints:
            checkpoints.begun = start
        metrics = train(trainer, module, checkpoints, job.folder)
    except Exception as problem:
        if full := storage_error(problem, job.folder):
            raise full from None
        if isinstance(problem, UserError):  # what the first mini-batch shows to be wrong: refused, no record
            raise
        status, error = failure(problem)
        details = redact(traceback.format_exc())
    finally:
        loggers.close(trainer.loggers, failed=status == "failed")
    if launch.rank() != 0:  # what the ranks share is written once
        if status == "interrupted":
            raise KeyboardInterrupt
        return Outcome(status, error or "", details)
    if details:
        records.write_text(details, job.folder / "error.txt")
    else:
        (job.folder / "error.txt").unlink(missing_ok=True)
    earlier = checkpoints.earlier if checkpoints else 0.0
    record = make_record(
        cfg, job, status, error, metrics, units=module.unit_metrics() if metrics else [],
        extras=module.extras() if metrics else {},
        curves=write_curves(module.curve_rows() or _history(trainer), job.folder),
        seconds=round(earlier + time.perf_counter() - start - kept.spent(), 3),
        peak_mb=round(peak_memory_mb(trainer), 1),
        device=device_name(trainer),
    )  # fmt: skip
    records.write(record, job.folder / "record.json")
    if status == "interrupted" or (checkpoints and checkpoints.stop_signal):  # in the last evaluation
        raise KeyboardInterrupt
    return outcome_of(cfg, job, record)


def build(cfg: DictConfig, job: Job, quiet: bool) -> tuple[Any, Any, Any]:
    """The LitModule, the Trainer and the checkpoint callback of a run.

    Raises:
        UserError: a part refuses its arguments, or the device is not there.
    """
    module = build_module(cfg, job)
    from lossatlas import loggers

    return module, *build_trainer(cfg, job.folder, job.name, quiet, loggers.of_run(cfg, job))


def prepare(cfg: DictConfig, job: Job) -> float:
    """Threads, peak memory and clock of a run that begins; returns its start on time.perf_counter."""
    import torch

    together = launch.world()  # ranks of a run share the cores
    shared = max(1, (os.cpu_count() or 1) // together) if together > 1 else None
    threads = cfg.trainer.threads or (1 if job.parallel else shared)
    if threads:
        torch.set_num_threads(threads)
    reset_peak_memory()
    kept.begin()
    return time.perf_counter()


def make_record(
    cfg: DictConfig, job: Job, status: str, error: str | None, metrics: dict, **measured: Any
) -> records.Record:
    """The record of a run, with what identifies it and the code and packages it was run with."""
    commit, dirty = code_version()
    return records.Record(
        experiment=job.experiment, paper=cfg.paper, arm=cfg.arm, condition=job.condition, seed=cfg.seed,
        scale=cfg.scale, status=status, error=error and redact(error), metrics=metrics, commit=commit, dirty=dirty,
        versions=package_versions(), config=job.config, config_hash=job.config_hash,
        data_digest=job.data_digest, claims_digest=machine.claims_digest(machine.card_of(cfg.paper)),
        kept=kept.used(), **measured,
    )  # fmt: skip


def outcome_of(cfg: DictConfig, job: Job, record: records.Record) -> Outcome:
    """What is said of a run that has just ended."""
    done = record.status == "done"
    line = f"{_headline(record.metrics)} ({record.seconds:.1f} s)" if done else str(record.error)
    return Outcome(record.status, line, _report(cfg, job, record), objective_value(cfg, record.metrics))


def build_module(cfg: DictConfig, job: Job) -> Any:
    """The LitModule of a config, after seeding: a replica of a stack is built exactly as a run of its own."""
    import numpy as np
    import torch

    silence()
    _require_device(cfg.trainer.accelerator, cfg.trainer.devices)
    cfg.run_dir = str(job.folder)  # loggers write there
    random.seed(cfg.seed)
    np.random.seed(cfg.seed)  # noqa: NPY002  (a library called by a method may draw from it)
    torch.manual_seed(cfg.seed)
    data = make(cfg.data, "data")
    parts = {name: make(cfg[name], name) for name in ("net", "loss", "optimizer", "schedule")}
    settings = {name: cfg[name] for name in ("seed", "batch_size", "chunk", "eval_every", "eval_batch")}
    module = make(
        cfg.module, "module", data=data, **parts, **settings, gradient_clip=cfg.trainer.gradient_clip
    )
    if module is None:
        raise UserError("module: the experiment names no LitModule (`module: {_target_: ...}`)")
    _require_optimizer(cfg, module)
    if launch.grouped() and module.data is None:  # it reads its data itself, and plays rounds
        raise launch.nothing_to_share(cfg)
    if cfg.trainer.compile and module.net is not None:
        module.net = _compiled(module.net)
    if launch.rank() == 0:
        job.folder.mkdir(parents=True, exist_ok=True)
        records.write_text(OmegaConf.to_yaml(OmegaConf.create(job.config)), job.folder / "config.yaml")
        inputs.note(job.folder, job.data_digest)
    return module


def _require_optimizer(cfg: DictConfig, module: Any) -> None:
    """Refuses what would train nothing: a supervised method that leaves step and optimiser to LitModule."""
    from lossatlas.lit import LitModule

    kind, shared = type(module), ("step", "training_step", "configure_optimizers")
    if cfg.optimizer or module.data is None or not isinstance(module, LitModule):
        return
    if all(getattr(kind, name) is getattr(LitModule, name) for name in shared):
        raise UserError(
            "optimizer: nothing would be trained without one; optimizer=adam, adamw or sgd gives one"
        )


def build_trainer(
    cfg: DictConfig, folder: Path, name: str, quiet: bool, made: list[Any] | None = None
) -> tuple[Any, Any]:
    """The Trainer of a config and its checkpoint callback (None where switched off), writing into `folder`.

    Args:
        made: the run's loggers.
    """
    import pytorch_lightning as pl

    from lossatlas import callbacks as cb
    from lossatlas.loggers import Replay

    keep = cfg.callbacks.checkpoint
    group: dict[str, Any] = {"strategy": cfg.trainer.strategy}
    kind: type[cb.Checkpoints] = cb.Checkpoints
    if launch.grouped():
        from lossatlas import ranks

        kind, group = ranks.AgreedCheckpoints, ranks.trainer_arguments()
        group["strategy"] = ranks.strategy(cfg.trainer.strategy)
    checkpoints = kind(folder, **keep) if keep else None
    extra: list[pl.Callback] = [cb.History()]
    extra += [checkpoints] if checkpoints else []
    replay = Replay(made) if made else None
    extra += [replay] if replay else []
    if cfg.callbacks.progress and not quiet:
        extra.append(cb.Progress(name.rsplit("-", 1)[0]))
    t = cfg.trainer
    trainer = pl.Trainer(
        accelerator=t.accelerator, devices=t.devices, precision=t.precision,
        max_epochs=cfg.epochs, check_val_every_n_epoch=cfg.eval_every, num_sanity_val_steps=0,
        logger=[*(made or []), replay.journal] if replay else False, callbacks=extra,
        enable_checkpointing=False, enable_progress_bar=False, enable_model_summary=False,
        log_every_n_steps=1, use_distributed_sampler=False, default_root_dir=folder, **group, **cfg.trainer_args,
    )  # fmt: skip
    return trainer, checkpoints


def train(trainer: Any, module: Any, checkpoints: Any, folder: Path) -> dict[str, float]:
    """Fit from the last checkpoint where there is one, then test; returns the final metrics."""
    ckpt = checkpoint.pick(folder / "last.ckpt", owner=trainer.is_global_zero)
    if ckpt and not _resumable(ckpt):
        if trainer.is_global_zero:
            print(f"lossatlas: {folder.name}: {ckpt.name} holds a model only; starting anew", file=sys.stderr)
        ckpt = None
    with checkpoints.signals() if checkpoints else nullcontext(), _no_exit():
        trainer.fit(module, ckpt_path=ckpt, weights_only=True)
        rows = _history(
            trainer
        )  # not the logger's last line: a run cut behind its last epoch resumes with it
        metrics = {name: value for name, value in rows[-1].items() if name != "epoch"} if rows else {}
        if module.data is not None and module.data.val is not None:
            metrics.update(trainer.validate(module, verbose=False, weights_only=True)[0])
        for found in trainer.test(module, verbose=False, weights_only=True):
            metrics.update(found)
    return metrics


def _resumable(path: Path) -> bool:
    """Whether a checkpoint holds more than the model, which is all that a replica of a stack leaves."""
    import torch

    return path.is_dir() or "loops" in torch.load(path, map_location="cpu", weights_only=True, mmap=True)


def make(node: Any, name: str, /, **kwargs: Any) -> Any:
    """hydra's instantiate; None without a `_target_`; a refused argument becomes one line.

    Raises:
        UserError: with the constructor's own words.
    """
    from hydra.errors import InstantiationException
    from hydra.utils import instantiate

    if not node or "_target_" not in node:
        return None
    try:
        if not kwargs:
            return instantiate(node, _convert_="all")
        factory = instantiate(node, _partial_=True, _convert_="all")
    except InstantiationException as error:
        cause = error.__cause__ or error
        if isinstance(cause, OSError) and cause.errno in FULL:
            raise
        plain = isinstance(cause, (ValueError, TypeError, UserError, ImportError, AttributeError)) and str(
            cause
        )
        raise UserError(f"{name}: {' '.join(str(cause).split()) if plain else said(cause)}") from error
    try:  # objects are passed here: instantiate would turn dataclasses into configs
        return factory(**kwargs)
    except (ValueError, TypeError) as error:
        raise UserError(f"{name}: {' '.join(str(error).split()) or said(error)}") from error


def silence() -> None:
    """Keeps Lightning's tips and device lines off the terminal, warnings that do not apply, and a slow check."""
    import pytorch_lightning  # noqa: F401  (it sets its logger's level when it is imported)
    import torch

    if torch.cuda.device_count() == 0:
        # Lightning has torch ask the driver for GPUs, and Adam asks at every step: .1 ms to find no driver again
        os.environ["PYTORCH_NVML_BASED_CUDA_CHECK"] = "0"

    logging.getLogger("pytorch_lightning").setLevel(logging.ERROR)
    logging.getLogger("lightning.pytorch").setLevel(logging.ERROR)
    unwanted = (
        "does not have many workers", "Experiment logs directory", "no `val_dataloader`", "_dataloader` returned",
        "LeafSpec", "isinstance.treespec", "in eval mode", "litlogger", "Total length of `list`", "sync_dist=True",
        "will run with no optimizer",
    )  # fmt: skip
    for text in unwanted:
        warnings.filterwarnings("ignore", f".*{text}.*")


def _keep(status: str, rerun: Any) -> bool:
    return rerun is not True and (status == "done" or (status in FINISHED and rerun != "failed"))


def failure(problem: Exception) -> tuple[str, str]:
    """The status of a run that ended by this exception, and the error line of its record."""
    from lossatlas.callbacks import Interrupted
    from lossatlas.lit import Diverged

    status = {Interrupted: "interrupted", Diverged: "diverged"}.get(type(problem), "failed")
    return status, said(problem)


def _require_device(accelerator: str, devices: int) -> None:
    import torch

    if accelerator == "gpu" and torch.cuda.device_count() < devices:
        raise UserError(
            f"trainer asks for {devices} GPU(s), {torch.cuda.device_count()} are here; use trainer=cpu,"
            " or trainer=ddp_sim to rehearse several processes"
        )
    if accelerator == "mps" and not torch.backends.mps.is_available():
        raise UserError("trainer=mps needs an Apple GPU, none is here; use trainer=cpu")


def _compiled(net: Any) -> Any:
    import shutil

    import torch

    if not any(map(shutil.which, (os.environ.get("CXX", "g++"), "clang++"))):
        raise UserError("trainer.compile=true needs a C++ compiler (g++ or clang++), none is on the PATH")
    return torch.compile(net)


@contextmanager
def _no_exit() -> Iterator[None]:
    """Lightning answers a second Ctrl-C, and a SIGTERM that comes between two of its stages, with SystemExit."""
    try:
        yield
    except SystemExit:
        raise KeyboardInterrupt from None


def _history(trainer: Any) -> list[dict[str, float]]:
    from lossatlas.callbacks import History

    return next(c.rows for c in trainer.callbacks if isinstance(c, History))


def write_curves(rows: list[dict[str, float]], folder: Path) -> str | None:
    """The epoch-wise metrics as curves.csv; None where there are none."""
    import csv
    import io

    if not rows:
        return None
    names = list(dict.fromkeys(name for row in rows for name in row))
    text = io.StringIO()
    writer = csv.DictWriter(text, names)
    writer.writeheader()
    writer.writerows(rows)
    records.write_text(text.getvalue(), folder / "curves.csv")
    return "curves.csv"


def checkpoint_callback(trainer: Any) -> Any:
    """The run's Checkpoints, or None where they are switched off."""
    from lossatlas.callbacks import Checkpoints

    return next((c for c in trainer.callbacks if isinstance(c, Checkpoints)), None)


def device_name(trainer: Any) -> str:
    """The device's name, with the number of processes where there are several."""
    import torch

    device = trainer.strategy.root_device
    name = torch.cuda.get_device_name(device) if device.type == "cuda" else device.type
    return f"{trainer.world_size} x {name}" if trainer.world_size > 1 else name


def _headline(metrics: dict[str, float]) -> str:
    shown = [n for n in ("val/top1", "test/top1") if n in metrics] or [
        n for n in metrics if n.startswith("test/")
    ][:1]
    return " ".join(f"{name} {metrics[name]:.4f}" for name in shown)


def _report(cfg: DictConfig, job: Job, record: records.Record, kept: bool = False) -> str:
    rows = [
        f"  {name:<28} {value:.6g}" for name, value in sorted(record.metrics.items()) if value is not None
    ]
    title = ", ".join([f"{job.experiment}: {cfg.arm}", *(f"{k}={v}" for k, v in job.condition.items())])
    return "\n".join(
        [
            f"{title}, seed {cfg.seed}"
            + (" (kept from an earlier run; rerun=true repeats it)" if kept else ""),
            *rows,
            f"  {'seconds':<28} {record.seconds}",
            f"  {'peak memory, MB':<28} {record.peak_mb}",
            f"record: {job.folder / 'record.json'}",
            f"page:   {page_line(cfg.paper)}",
            f"next:   python -m run -m experiment={job.experiment}        the whole comparison, with verdicts",
            f"        python -m run experiment={job.experiment} arm={_other(cfg)}  another arm",
        ]
    )


def _other(cfg: DictConfig) -> str:
    return next((str(arm) for arm in cfg.arms if arm != cfg.arm), str(cfg.arm))


def load_job(spec: dict[str, Any]) -> tuple[DictConfig, Job]:
    """A config and its job as `launch` sends them to the ranks."""
    job = Job(**{**spec["job"], "folder": Path(spec["job"]["folder"])})
    cfg = OmegaConf.create(spec["cfg"])
    assert isinstance(cfg, DictConfig)
    return cfg, job
