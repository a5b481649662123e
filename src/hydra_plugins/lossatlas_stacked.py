"""hydra/launcher=stacked: the jobs of a sweep in stacks of replicas, the stacks on all cores.

Here and not in lossatlas.stacked, because Hydra starts plug-ins of the namespace hydra_plugins only. It is imported
at every start of Hydra: nothing heavy at the top.
"""

import os
import re
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from hydra.core.utils import JobReturn, JobStatus, configure_log, setup_globals
from hydra.plugins.launcher import Launcher
from hydra.types import HydraContext, TaskFunction
from omegaconf import DictConfig, OmegaConf

from lossatlas.errors import Halt, UserError
from lossatlas.jobs import SWEEP_ENV, Job, describe, is_disk, report, stop_asked, unfinished
from lossatlas.schema import check
from lossatlas.stacked.group import plan

SEED = re.compile(r"seed=\d+")


class StackedLauncher(Launcher):
    """Groups jobs that differ only in seed (and scalars) into stacked runs.

    Args:
        n_jobs: worker processes, one BLAS thread each; -1: one per core.
        size: most replicas of one stack, >= 1.
        measure: time a few steps of both ways first and take the faster one.
    """

    def __init__(self, n_jobs: int = -1, size: int = 20, measure: bool = True) -> None:
        cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
        if size < 1 or (n_jobs < 1 and n_jobs != -1):
            raise UserError(f"hydra.launcher needs size >= 1 and n_jobs >= 1 or -1, got {size=}, {n_jobs=}")
        self.workers, self.size, self.measure = cores if n_jobs == -1 else n_jobs, size, measure
        self.config: DictConfig | None = None
        self._known: dict[tuple[str, ...], tuple[DictConfig, DictConfig]] = {}

    def setup(self, *, hydra_context: HydraContext, task_function: TaskFunction, config: DictConfig) -> None:
        """Called by Hydra."""
        self.hydra_context, self.task_function, self.config = hydra_context, task_function, config

    def launch(self, job_overrides: Sequence[Sequence[str]], initial_job_idx: int) -> Sequence[JobReturn]:
        """Runs all jobs; returns their ends in the order they came."""
        setup_globals()
        assert self.config is not None
        configure_log(self.config.hydra.hydra_logging, self.config.hydra.verbose)
        Path(str(self.config.hydra.sweep.dir)).mkdir(parents=True, exist_ok=True)
        sweep = os.environ.get(SWEEP_ENV)
        returns = [JobReturn(overrides=list(words)) for words in job_overrides]
        pairs: dict[int, tuple[DictConfig, Job]] = {}
        for n, words in enumerate(job_overrides):
            try:
                pairs[n] = self._composed(words)
            except Exception as error:
                if sweep is None:
                    raise
                unfinished(sweep, error, None)
                _end(returns[n], None)
        order = list(pairs)
        groups = [
            [order[k] for k in group] for group in plan([pairs[n][1] for n in order], self.size, self.workers)
        ]
        groups.sort(key=len, reverse=True)  # a large stack begun last would run alone
        work = [([pairs[n] for n in group], self.measure, sweep) for group in groups]
        ended: Any  # joblib has no types
        if self.workers == 1 or len(work) == 1:
            ended = [_group(*item, quiet=False) for item in work]
        else:
            from joblib import Parallel, delayed

            ended = Parallel(n_jobs=self.workers, backend="loky")(delayed(_group)(*item) for item in work)
        for group, values in zip(groups, ended, strict=True):
            for n, value in zip(group, values, strict=True):
                _end(returns[n], value)
        return returns

    def _composed(self, words: Sequence[str]) -> tuple[DictConfig, Job]:
        """A job's checked config and its identity, as jobs.job makes them.

        Jobs that differ in their seed alone are composed once: a plain key that other keys interpolate.
        """
        assert self.config is not None
        seeds = [word for word in words if SEED.fullmatch(word)]
        others = tuple(word for word in words if word not in seeds)
        known = self._known.get(others) if len(seeds) == 1 else None
        if known is None:
            cfg = self.hydra_context.config_loader.load_sweep_config(self.config, list(words))
            OmegaConf.set_struct(cfg, False)
            hydra = cfg.pop("hydra")
            check(cfg)
            self._known[others] = cfg, hydra
        else:
            cfg, hydra = known
            cfg = cfg.copy()
            cfg.seed = int(seeds[0].removeprefix("seed="))
        return cfg, describe(cfg, hydra)


def _end(job: JobReturn, value: float | None) -> None:
    job.return_value, job.status = value, JobStatus.COMPLETED


def _group(
    pairs: list[tuple[DictConfig, Job]], measure: bool, sweep: str | None, quiet: bool = True
) -> list[Any]:
    """One group in this process: the objectives of its jobs, None where refused or stopped.

    Raises:
        KeyboardInterrupt: stopped by a signal; in a worker it returns, so that the others can save.
        Halt: in a sweep, the outputs cannot be written any more.
    """
    from lossatlas.stacked.run import run_group

    try:
        if stop_asked():
            raise KeyboardInterrupt
        outcomes = run_group(pairs, quiet, measure)
    except KeyboardInterrupt:
        if not quiet:
            raise
        return [None for _ in pairs]
    except Exception as error:
        if sweep is None:
            raise
        if is_disk(error, pairs[0][0]):
            raise Halt(str(error)) from None
        for _, job in pairs:
            unfinished(sweep, error, job)
        return [None for _ in pairs]
    for (_, job), outcome in zip(pairs, outcomes, strict=True):
        if sweep is not None:
            report(sweep, job, outcome.status, outcome.line)
        elif outcome.status not in ("done", "skipped"):
            print(f"lossatlas: {outcome.line}", file=sys.stderr)
    return [outcome.objective for outcome in outcomes]
