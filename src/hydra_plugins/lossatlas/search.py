"""The Optuna sweeper, directly on Optuna: Hydra's own plug-in pins optuna < 3."""

import itertools
import json
import os
import statistics
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.core.override_parser.types import IntervalSweep, Override, RangeSweep
from hydra.plugins.launcher import Launcher
from hydra.plugins.sweeper import Sweeper
from hydra.types import HydraContext, TaskFunction
from omegaconf import DictConfig, OmegaConf

NEVER = ("seed", "arm", "experiment", "scale", "grid")  # what is compared or repeated, not chosen


class OptunaSweeper(Sweeper):
    """`hydra/sweeper=optuna`: minimises or maximises the objective that runs return (`objective` of the config).

    Swept keys of the command line and of `search` are dimensions, except seeds (each trial's objective is the mean
    over them), arms and the study's conditions (each of their combinations gets a search of its own, with
    equally many trials). The study's grid, `hydra.sweeper.params` of the experiment, is not searched.

    Args:
        n_trials: of each search.
        n_jobs: trials that are asked for at once, for a parallel launcher; more know less of each other.
        sampler: config of an Optuna sampler; with a seed the same command asks for the same trials again and
            finds their finished runs.
        search: further dimensions, written as on a command line: {lr: "tag(log, interval(1e-3, 1))"}.
        params: the experiment's study grid; its keys besides seed and arm are its conditions.
        storage: Optuna's storage URL, or None for memory.
    """

    def __init__(
        self,
        n_trials: int,
        n_jobs: int,
        sampler: Any,
        search: Any = None,
        params: Any = None,
        storage: str | None = None,
    ) -> None:
        self.n_trials, self.n_jobs, self.sampler, self.storage = n_trials, n_jobs, sampler, storage
        self.search, self.conditions = dict(search or {}), [str(key) for key in params or {} if key != "seed"]

    def setup(self, *, hydra_context: HydraContext, task_function: TaskFunction, config: DictConfig) -> None:
        """Hydra's objects and the launcher."""
        from hydra.core.plugins import Plugins

        self.config: DictConfig = config
        self.launcher: Launcher = Plugins.instance().instantiate_launcher(
            hydra_context=hydra_context, task_function=task_function, config=config
        )
        self.jobs = 0

    def sweep(self, arguments: list[str]) -> Any:
        """One search per arm and condition; prints and writes the best values.

        Raises:
            UserError: no dimension, or one that must not be searched.
        """
        from hydra_plugins.lossatlas.launchers import extra

        optuna = extra("optuna", "hydra/sweeper=optuna", "optuna")
        optuna.logging.set_verbosity(optuna.logging.WARNING)
        own = [f"{key}={value}" for key, value in self.search.items()]
        fixed, cells, seeds, space = self._split(OverridesParser.create().parse_overrides([*arguments, *own]))
        self.metric = OmegaConf.select(self.config, "objective.metric") or "objective"
        if self.metric.startswith("test/") and OmegaConf.select(self.config, "data.val_fold") is None:
            print(f"searching without data.val_fold: {self.metric} is a test metric", file=sys.stderr)
        dimensions = {key: distribution(optuna, override) for key, override in space.items()}
        return [
            self._search(optuna, dimensions, fixed, list(cell), seeds) for cell in itertools.product(*cells)
        ]

    def _split(
        self, overrides: Sequence[Override]
    ) -> tuple[list[str], list[list[str]], list[str], dict[str, Override]]:
        """Words of every job, alternatives of each compared key, seeds, dimensions."""
        from lossatlas.errors import UserError

        fixed, cells, seeds, space = [], [], [], {}
        last = {
            override.get_key_element(): override for override in overrides
        }  # as everywhere, the last word wins
        for key, override in last.items():
            plain, line = override.key_or_group, override.input_line or ""
            if not override.is_sweep_override():
                if plain in ("arm", *self.conditions):  # part of the search's name
                    cells.append([line])
                else:
                    fixed.append(line)
            elif override.is_discrete_sweep() and plain in (*NEVER, *self.conditions):
                words = [f"{key}={value}" for value in override.sweep_string_iterator()]
                seeds = words if plain == "seed" else seeds
                cells += [words] if plain != "seed" else []
            elif plain in NEVER:
                raise UserError(f"{line}: {plain} is compared or repeated, never searched; give a list")
            else:
                space[key] = override
        if not space:
            raise UserError(
                "hydra/sweeper=optuna has nothing to search: give a range, e.g. 'lr=tag(log,interval(0.001,1.0))'"
            )
        return fixed, cells, seeds, space

    def _search(
        self, optuna: Any, dimensions: dict, fixed: list[str], cell: list[str], seeds: list[str]
    ) -> dict[str, Any]:
        from hydra.utils import instantiate

        name = " ".join(cell) or "search"
        study = optuna.create_study(
            direction=OmegaConf.select(self.config, "objective.direction") or "maximize",
            sampler=instantiate(self.sampler),
            storage=self.storage,
            study_name=name if self.storage else None,
            load_if_exists=True,
        )
        left = self.n_trials - len(study.trials)
        while left > 0:
            batch = [study.ask(dimensions) for _ in range(min(self.n_jobs, left))]
            left -= len(batch)
            values = self._run(
                [[*fixed, *cell, *(f"{k}={v}" for k, v in trial.params.items())] for trial in batch], seeds
            )
            for trial, value in zip(batch, values, strict=True):
                failed = {"state": optuna.trial.TrialState.FAIL}
                study.tell(trial, **(failed if value is None else {"values": value}))
        return self._report(optuna, study, name)

    def _run(self, trials: list[list[str]], seeds: list[str]) -> list[float | None]:
        """The mean objective of each trial over the seeds; None where a run has none."""
        jobs = [[*words, *([seed] if seed else [])] for words in trials for seed in seeds or [""]]
        returned = [done.return_value for done in self.launcher.launch(jobs, initial_job_idx=self.jobs)]
        self.jobs += len(jobs)
        size = len(jobs) // len(trials)
        groups = [returned[k : k + size] for k in range(0, len(jobs), size)]
        return [None if None in group else statistics.fmean(group) for group in groups]

    def _report(self, optuna: Any, study: Any, name: str) -> dict[str, Any]:
        from lossatlas.jobs import FRUITLESS, SWEEP_ENV
        from lossatlas.records import write_text

        done = [t for t in study.trials if t.state == optuna.trial.TrialState.COMPLETE]
        found: dict[str, Any] = {
            "search": name,
            "metric": self.metric,
            "direction": study.direction.name.lower(),
            "trials": [
                {"params": t.params, "objective": t.value, "state": t.state.name} for t in study.trials
            ],
        }
        if done:
            found["best"] = {"params": study.best_params, "objective": study.best_value}
            words = " ".join(f"{key}={value}" for key, value in study.best_params.items())
            print(f"{name}: best {self.metric} {study.best_value:.4f} of {len(done)} trials: {words}")
        else:
            print(f"{name}: no trial of {len(study.trials)} returned {self.metric}", file=sys.stderr)
            if sweep := os.environ.get(SWEEP_ENV):
                (Path(sweep) / FRUITLESS).touch()  # the command's exit code is not 0
        experiment = str(self.config.hydra.runtime.choices.experiment)
        folder = Path(str(self.config.output_root)) / experiment / str(self.config.scale) / "_search"
        slug = "-".join(word.split("=")[-1] for word in name.split())
        write_text(json.dumps(found, indent=1) + "\n", folder / f"{slug}.json")
        return found


def distribution(optuna: Any, override: Override) -> Any:
    """Optuna's distribution of a swept override.

    `interval(a, b)` is real, `int(interval(a, b))` whole; `tag(log, interval(a, b))` has a logarithmic scale;
    `range(a, b, step)` is whole; anything else with several values is a choice.
    """
    value, kinds = override.value(), optuna.distributions
    if isinstance(value, IntervalSweep):
        whole = isinstance(value.start, int) and isinstance(value.end, int)
        kind = kinds.IntDistribution if whole else kinds.FloatDistribution
        return kind(value.start, value.end, log="log" in value.tags)
    if isinstance(value, RangeSweep) and all(
        isinstance(x, int) for x in (value.start, value.stop, value.step)
    ):
        values = [int(x) for x in value.range()]
        return kinds.IntDistribution(min(values), max(values), step=abs(int(value.step)))
    return kinds.CategoricalDistribution(list(override.sweep_string_iterator()))
