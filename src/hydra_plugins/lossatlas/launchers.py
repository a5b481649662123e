"""Launchers on submitit (local processes, Slurm) and Ray, directly on the libraries.

Hydra's own plug-ins for them are old: hydra-ray-launcher pins cloudpickle < 3, and hydra-submitit-launcher
starts all local jobs of a sweep at once and lets one dead job end it. Here a job that dies leaves one line.
"""

import contextlib
import importlib
import io
import os
import sys
import time
from abc import abstractmethod
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

from hydra.core.hydra_config import HydraConfig
from hydra.core.singleton import Singleton
from hydra.core.utils import JobReturn, JobStatus, filter_overrides, run_job, setup_globals
from hydra.plugins.launcher import Launcher
from hydra.types import HydraContext, TaskFunction
from omegaconf import DictConfig, OmegaConf, open_dict

Result = tuple[float | None, str]  # the run's objective and what it printed
POLL = 0.1  # seconds


class Call:
    """One job, sent to another process; called there it composes the config and runs the task."""

    def __init__(self, launcher: "ParallelLauncher", overrides: Sequence[str], number: int) -> None:
        self.context, self.config, self.task = launcher.hydra_context, launcher.config, launcher.task_function
        self.overrides, self.number, self.state = list(overrides), number, Singleton.get_state()

    def __call__(self) -> Result:
        """The job in this process; its output goes back with the result, since nobody reads a worker's."""
        assert self.context is not None
        assert self.config is not None
        assert self.task is not None
        setup_globals()
        Singleton.set_state(self.state)
        config = self.context.config_loader.load_sweep_config(self.config, self.overrides)
        with open_dict(config):
            config.hydra.job.id, config.hydra.job.num = f"{config.hydra.job.name}_{self.number}", self.number
        HydraConfig.instance().set_config(config)
        said = io.StringIO()
        with contextlib.redirect_stdout(said):
            done = run_job(
                self.task, config, "hydra.sweep.dir", "hydra.sweep.subdir", hydra_context=self.context
            )
        return done.return_value, said.getvalue()

    def checkpoint(self) -> Any:
        """submitit asks for this before a preemption or time-out: the same job again, which resumes."""
        from submitit.helpers import DelayedSubmission

        return DelayedSubmission(self)

    @property
    def name(self) -> str:
        """The overrides that tell it from the other jobs."""
        return " ".join(filter_overrides(self.overrides))


class ParallelLauncher(Launcher):
    """What these launchers share: jobs run elsewhere, each result is printed as it comes, a dead job is a line."""

    def setup(self, *, hydra_context: HydraContext, task_function: TaskFunction, config: DictConfig) -> None:
        """Hydra's objects that a job needs."""
        self.hydra_context, self.task_function, self.config = hydra_context, task_function, config

    def launch(self, job_overrides: Sequence[Sequence[str]], initial_job_idx: int) -> Sequence[JobReturn]:
        """Runs all jobs; a result is the run's objective, None for a job that died."""
        setup_globals()
        Path(str(self.config.hydra.sweep.dir)).mkdir(parents=True, exist_ok=True)
        calls = [Call(self, words, initial_job_idx + k) for k, words in enumerate(job_overrides)]
        values: dict[int, float | None] = {}
        for k, result in self.results(calls):
            if isinstance(result, str):
                _died(calls[k], result)
                values[k] = None
            else:
                values[k] = result[0]
                print(result[1], end="", flush=True)
        return [_returned(call, values.get(k)) for k, call in enumerate(calls)]

    @abstractmethod
    def results(self, calls: list[Call]) -> Iterator[tuple[int, Result | str]]:
        """(number of the call, its result or why there is none), as they end."""


def _returned(call: Call, value: float | None) -> JobReturn:
    done = JobReturn(overrides=call.overrides, status=JobStatus.COMPLETED)
    done.return_value = value
    return done


def _died(call: Call, reason: str) -> None:
    """The line and the sweep's entry of a job that could not leave them itself."""
    from lossatlas.jobs import SWEEP_ENV, _leave

    print(f"lossatlas: {call.name}: {reason}", file=sys.stderr)
    if sweep := os.environ.get(SWEEP_ENV):
        _leave(sweep, {"folder": None, "status": "died", "error": reason, "name": call.name})


def extra(module: str, asked: str, name: str) -> Any:
    """An optional library.

    Raises:
        UserError: it is not installed; with the command that does.
    """
    from lossatlas.errors import UserError

    try:
        return importlib.import_module(module)
    except ImportError:
        raise UserError(f"{asked} needs {module}: pip install 'lossatlas[{name}]'") from None


class _Submitit(ParallelLauncher):
    """Both submitit launchers.

    Args:
        folder: of submitit's own files and the jobs' output.
        parallel: jobs at a time; None: as many as there are cores.
        parameters: of submitit's executor, such as timeout_min, cpus_per_task, slurm_partition.
    """

    cluster = ""
    queues = False  # whether the cluster itself holds jobs back

    def __init__(self, folder: str, parallel: int | None = None, parameters: Any = None) -> None:
        self.folder, self.parallel = folder, parallel or os.cpu_count() or 1
        self.parameters = _plain(parameters)

    def executor(self) -> Any:
        """submitit's executor with all parameters set."""
        submitit = extra("submitit", f"hydra/launcher=submitit_{self.cluster}", "cluster")
        made = submitit.AutoExecutor(folder=self.folder, cluster=self.cluster)
        made.update_parameters(**{k: v for k, v in self.parameters.items() if v is not None})
        return made

    def results(self, calls: list[Call]) -> Iterator[tuple[int, Result | str]]:
        """Polls, so that results come in the order in which jobs end."""
        executor, limit = self.executor(), len(calls) if self.queues else self.parallel
        waiting, running = list(enumerate(calls)), {}
        try:
            while waiting or running:
                room = limit - len(running)
                for k, job in self.submit(executor, waiting[:room]):
                    running[k] = job
                del waiting[:room]
                ended = [k for k, job in running.items() if job.done()]
                for k in ended:
                    yield k, _result(running.pop(k))
                time.sleep(0 if ended else POLL)
        finally:
            self.abandon(running.values())

    @abstractmethod
    def submit(self, executor: Any, calls: list[tuple[int, Call]]) -> list[tuple[int, Any]]:
        """Hands calls to submitit."""

    @abstractmethod
    def abandon(self, jobs: Any) -> None:
        """What becomes of running jobs when the sweep is interrupted."""


def _result(job: Any) -> Result | str:
    try:
        return job.result()
    except Exception as error:  # whatever the worker raised, or that it is gone
        last = str(error).strip().splitlines()[-1:] or [type(error).__name__]
        return f"its worker ended without a result ({job.paths.stderr}): {last[0]}"


class SubmititLocalLauncher(_Submitit):
    """`hydra/launcher=submitit_local`: each job in a process of its own on this machine."""

    cluster = "local"

    def submit(self, executor: Any, calls: list[tuple[int, Call]]) -> list[tuple[int, Any]]:
        """One process a job."""
        return [(k, executor.submit(call)) for k, call in calls]

    def abandon(self, jobs: Any) -> None:
        """Local jobs end with the sweep."""
        for job in jobs:
            job.cancel(check=False)


class SubmititSlurmLauncher(_Submitit):
    """`hydra/launcher=submitit_slurm`: one job array; preempted and timed-out jobs are requeued and resume."""

    cluster = "slurm"
    queues = True

    def executor(self) -> Any:
        """With the array's limit."""
        made = super().executor()
        made.update_parameters(slurm_array_parallelism=self.parallel)
        return made

    def submit(self, executor: Any, calls: list[tuple[int, Call]]) -> list[tuple[int, Any]]:
        """One array of all jobs; Slurm itself keeps `parallel` of them running."""
        if not calls:
            return []
        with executor.batch():
            jobs = [(k, executor.submit(call)) for k, call in calls]
        print(
            f"submitted Slurm array {jobs[0][1].job_id.split('_')[0]}: {len(jobs)} jobs, logs in {self.folder}"
        )
        return jobs

    def abandon(self, jobs: Any) -> None:
        """Slurm's jobs go on; the same command later finds what they finished."""
        ids = {job.job_id.split("_")[0] for job in jobs}
        if ids:
            print(f"Slurm jobs go on; scancel {' '.join(sorted(ids))} ends them", file=sys.stderr)


class RayLauncher(ParallelLauncher):
    """`hydra/launcher=ray`: tasks of a Ray cluster, on this machine unless `init.address` names one.

    Args:
        init: of ray.init.
        remote: of each task, such as num_cpus and num_gpus.
    """

    def __init__(self, init: Any = None, remote: Any = None) -> None:
        self.init, self.remote = _plain(init), _plain(remote)

    def results(self, calls: list[Call]) -> Iterator[tuple[int, Result | str]]:
        """As tasks end; a worker that dies is not tried again."""
        os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")  # nothing leaves this machine
        ray = extra("ray", "hydra/launcher=ray", "ray")
        ours = not ray.is_initialized()
        if ours:
            ray.init(**self.init)
        try:
            task: Callable = ray.remote(max_retries=0, **self.remote)(_call)
            running = {task.remote(call): k for k, call in enumerate(calls)}
            while running:
                (ended, *_), _ = ray.wait(list(running), num_returns=1)
                k = running.pop(ended)
                try:
                    result = ray.get(ended)
                except ray.exceptions.RayError as error:
                    result = f"its worker ended without a result: {str(error).strip().splitlines()[0]}"
                yield k, result
        finally:
            if ours:
                ray.shutdown()


def _plain(node: Any) -> dict[str, Any]:
    made = OmegaConf.to_container(node, resolve=True) if OmegaConf.is_config(node) else node
    return {str(key): value for key, value in dict(made or {}).items()}  # type: ignore[arg-type]


def _call(call: Call) -> Result:
    return call()
