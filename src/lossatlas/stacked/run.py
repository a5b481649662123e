"""One stacked run: R modules built as for R single runs, one Trainer, R records."""

import hashlib
import shutil
import sys
import time
from collections.abc import Sequence
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import torch
from omegaconf import DictConfig

from lossatlas import checkpoint, inputs, kept, loggers, optimizers, records, runner
from lossatlas.data import Data
from lossatlas.errors import UserError, storage_error
from lossatlas.jobs import Job
from lossatlas.machine import peak_memory_mb
from lossatlas.stacked.group import scalars_of
from lossatlas.stacked.optim import ELEMENTWISE
from lossatlas.stacked.stack import Stack, faster_together

Pair = tuple[DictConfig, Job]


def run_group(pairs: Sequence[Pair], quiet: bool, measure: bool = True) -> list[runner.Outcome]:
    """Runs jobs that may be replicas of one run, together where the method can and it pays, else one by one.

    Args:
        pairs: checked configs and their jobs, of one group of `group.plan`.
        quiet: no progress bar.
        measure: compare a few steps of both ways first.

    Raises:
        UserError: data or parts that the configs ask for are not to be had.
        KeyboardInterrupt: stopped by a signal, after checkpoint and records.
    """
    outcomes = {n: runner.finished(cfg, job) for n, (cfg, job) in enumerate(pairs)}
    todo = [n for n, outcome in outcomes.items() if outcome is None]
    left = [pairs[n] for n in todo]
    ended = _together(left, quiet, measure) if len(left) > 1 else None
    if ended is None:
        ended = [runner.run(cfg, job, quiet) for cfg, job in left]
    outcomes.update(zip(todo, ended, strict=True))
    return [outcome for outcome in outcomes.values() if outcome is not None]


def _together(pairs: Sequence[Pair], quiet: bool, measure: bool) -> list[runner.Outcome] | None:
    """The outcomes of one stacked run, or None, said in one line, where the jobs must run one by one."""
    cfg, job = pairs[0]
    why = _unfit(cfg)
    if why:
        return _alone(job, why)
    start = runner.prepare(cfg, job)
    folder = _folder(pairs)
    with ExitStack() as locks:
        for _, other in pairs:
            locks.enter_context(runner.locked(other.folder))
        if any(runner.finished(*pair) for pair in pairs):  # by another process, meanwhile
            return _alone(job, "another process has finished one of them")
        for pair in pairs:
            runner.ready(*pair)
        modules = [runner.build_module(*pair) for pair in pairs]
        if not modules[0].can_stack:
            return _alone(job, f"{type(modules[0]).__name__} trains one replica at a time")
        _share_inputs(modules)
        stack = type(modules[0]).stack(modules, _scalars(pairs, modules))
        why = _unfit_optimizer(stack) or _unequal(stack)
        if why is None and measure and isinstance(stack, Stack) and not (folder / "last.ckpt").exists():
            together, line = faster_together(stack)
            print(f"stacked: {job.experiment} {job.name.rsplit('-', 2)[0]}: {line}", file=sys.stderr)
            why = None if together else "one after another is faster here"
        if why:
            return _alone(job, why)
        return _trained(stack, pairs, folder, start, quiet)


def _trained(
    stack: Any, pairs: Sequence[Pair], folder: Path, start: float, quiet: bool
) -> list[runner.Outcome]:
    cfg, job = pairs[0]
    cfg = cfg.copy()
    name = f"{job.name.rsplit('-', 2)[0]} x{len(pairs)}"
    cfg.logger = {}  # the replicas' own loggers are filled at the end
    inputs.settle(folder, job.data_digest, name, anew=cfg.rerun is True)
    inputs.note(folder, job.data_digest)
    trainer, checkpoints = runner.build_trainer(cfg, folder, f"{name}-", quiet)
    status, error = "done", None
    try:
        runner.train(trainer, stack, checkpoints, folder)
    except Exception as problem:
        if full := storage_error(problem, folder):
            raise full from None
        if isinstance(problem, UserError):
            raise
        status, error = runner.failure(problem)
    seconds = (time.perf_counter() - start - kept.spent()) / len(pairs)
    peak = peak_memory_mb(trainer)
    outcomes = []
    for r, (own, what) in enumerate(pairs):
        left: dict[str, Any] = stack.replica(r) if status == "done" else {"error": error, "metrics": {}}
        state = "diverged" if status == "done" and left["error"] else status
        record = runner.make_record(
            own, what, state, left["error"], left["metrics"], units=left.get("units", []),
            extras=left.get("extras", {}), curves=runner.write_curves(left.get("rows", []), what.folder),
            seconds=round(seconds, 3), peak_mb=round(peak, 1),
            device=f"{runner.device_name(trainer)}, stack of {len(pairs)}",
        )  # fmt: skip
        if isinstance(stack, Stack) and state in runner.FINISHED:
            if state == "done":
                _keep_model(stack, r, trainer, what.folder)
            _fill_loggers(own, what, left, trainer.num_training_batches)
        records.write(record, what.folder / "record.json")
        outcomes.append(runner.outcome_of(own, what, record))
    if status == "interrupted":
        raise KeyboardInterrupt
    if status == "done":
        shutil.rmtree(folder)
    return outcomes


def _keep_model(stack: Stack, r: int, trainer: Any, folder: Path) -> None:
    """The trained replica where a run alone leaves it; the optimiser's state stays with the stack."""
    if runner.checkpoint_callback(trainer) is None:
        return
    state = {name: value.clone() for name, value in stack.replicas[r].state_dict().items()}
    part = folder / "last.part"
    try:
        torch.save({"state_dict": state, "epoch": trainer.current_epoch, "global_step": 0}, part)
        checkpoint.put(part, folder / "last.ckpt")
    except Exception as problem:
        part.unlink(missing_ok=True)
        raise storage_error(problem, folder) or problem from None


def _fill_loggers(cfg: DictConfig, job: Job, left: dict[str, Any], chunks: int) -> None:
    """Curves and final metrics into the loggers that the run asked for, at the steps of a run alone."""
    made = loggers.of_run(cfg, job)
    for logger in made:
        for row in left["rows"]:
            epoch = int(row["epoch"])
            logger.log_metrics({**row, "epoch": epoch - 1}, step=epoch * chunks - 1)
        epochs = int(left["rows"][-1]["epoch"]) if left["rows"] else 0
        tested = left.get("tested")
        if tested:
            logger.log_metrics({**tested, "epoch": epochs}, step=epochs * chunks)
        logger.finalize("success")
    loggers.close(made, failed=False)


def _folder(pairs: Sequence[Pair]) -> Path:
    """Where the checkpoint of a stack lies: the same jobs find it again."""
    digest = hashlib.sha256(" ".join(sorted(job.name for _, job in pairs)).encode()).hexdigest()[:12]
    return pairs[0][1].folder.parent / ".stacks" / digest


def _unfit(cfg: DictConfig) -> str | None:
    t = cfg.trainer
    if t.devices > 1:
        return "several processes"
    if t.compile:
        return "trainer.compile=true"
    if t.precision not in ("32-true", "64-true"):
        return f"trainer.precision={t.precision}"
    return None


def _unfit_optimizer(stack: Any) -> str | None:
    """Why the optimiser cannot treat stacked parameters as many single ones."""
    if not isinstance(stack, Stack):
        return None
    first: Any = stack.replicas[0]
    named = [
        (name, torch.nn.Parameter(torch.zeros(1))) for name, p in first.named_parameters() if p.requires_grad
    ]
    for _, parts in optimizers.configured(first._make_optimizer, named):
        if type(parts["optimizer"]) not in ELEMENTWISE:
            return f"{type(parts['optimizer']).__name__} looks at more than one number of a parameter"
    return None


def _unequal(stack: Any) -> str | None:
    """Why replicas cannot take their mini-batches side by side: views of a drawn split may differ in size."""
    if not isinstance(stack, Stack):
        return None
    data: list[Any] = [lit.data for lit in stack.replicas if isinstance(lit.data, Data)]
    sizes = {tuple(len(rows) for rows in (d.train, d.test, d.val) if rows is not None) for d in data}
    return "their data have different numbers of rows" if len(sizes) > 1 else None


def _alone(job: Job, why: str) -> None:
    print(
        f"stacked: {job.experiment} {job.name.rsplit('-', 2)[0]}: one after another ({why})", file=sys.stderr
    )


def _share_inputs(modules: Sequence[Any]) -> None:
    """Replicas that read the same rows hold them once: most data sets differ in their labels' noise at most."""
    first = modules[0].data
    if first is None:
        return
    for module in modules[1:]:
        for name in ("train", "test", "val"):
            mine, theirs = getattr(module.data, name), getattr(first, name)
            if mine is not None and mine.x.shape == theirs.x.shape and torch.equal(mine.x, theirs.x):
                mine.x = theirs.x


def _scalars(pairs: Sequence[Pair], modules: Sequence[Any]) -> dict[str, torch.Tensor]:
    """The loss's arguments that differ between the replicas, (R,) each."""
    names = scalars_of(pairs[0][1].config.get("loss"))
    values = {name: [float(getattr(module.loss, name)) for module in modules] for name in names}
    return {n: torch.tensor(v, dtype=torch.float64) for n, v in values.items() if len(set(v)) > 1}
