"""Which jobs of a sweep may share one vectorised run, read from their resolved configs alone (no torch)."""

import json
from collections.abc import Iterator, Sequence
from typing import Any

from lossatlas.jobs import Job

# What a run reads; other top-level keys (lr, theta, ..) reach it only through these, by interpolation.
READ = (
    "paper", "arm", "data", "net", "loss", "optimizer", "schedule", "module", "seed", "epochs", "batch_size",
    "eval_every", "trainer", "trainer_args", "fake", "limit", "scale",
)  # fmt: skip
RATES = ("optimizer.lr", "optimizer.make.lr")  # of a partial, of optimizers.Groups


def leaves(config: Any, path: str = "") -> Iterator[tuple[str, Any]]:
    """(dotted path, value) of every value that is no mapping."""
    if isinstance(config, dict):
        for key, value in config.items():
            yield from leaves(value, f"{path}.{key}" if path else str(key))
    else:
        yield path, config


def key_of(
    job: Job, scalars: Sequence[str] = (), settings: Sequence[str] = (), seeds: Sequence[str] = ("seed",)
) -> str:
    """Equal for jobs that may be replicas of one run.

    Left out: the seed wherever a key whose last part or whole path is in `seeds` has its value, the learning rate,
    `loss.<name>` for each name in `scalars` and `module.<name>` for each in `settings`.
    """
    free = {*RATES, *(f"loss.{name}" for name in scalars), *(f"module.{name}" for name in settings)}
    seed = job.config["seed"]
    kept = {name: job.config.get(name) for name in READ}
    shown = {
        path: "<seed>" if {path, path.split(".")[-1]} & set(seeds) and value == seed else value
        for path, value in leaves(kept)
        if path not in free
    }
    return json.dumps([job.experiment, shown], sort_keys=True, default=str)


def seeds_of(jobs: Sequence[Job]) -> tuple[str, ...]:
    """The keys that hold a seed: each path of a `split_seed`, too, that is the seed in every job (`${seed}`).

    A view may draw its rows by the seed from data whose own split is fixed, hence path by path.
    """
    pairs: dict[str, set[tuple[Any, Any]]] = {}
    for job in jobs:
        for path, value in leaves({name: job.config.get(name) for name in READ}):
            if path.split(".")[-1] == "split_seed":
                pairs.setdefault(path, set()).add((job.config["seed"], value))
    follow = [p for p, found in pairs.items() if len(found) > 1 and all(s == v for s, v in found)]
    return ("seed", *follow)


def scalars_of(part: Any) -> tuple[str, ...]:
    """The names of the arguments of a loss's or module's class that may differ between replicas."""
    if not isinstance(part, dict) or "_target_" not in part:
        return ()
    from hydra.utils import get_class

    return tuple(getattr(get_class(part["_target_"]), "stacked_scalars", ()))


def plan(jobs: Sequence[Job], size: int, workers: int = 1) -> list[list[int]]:
    """Positions of the jobs, in groups of at most `size` that may be replicas of one run.

    Groups are cut further where there would be fewer of them than workers.

    Args:
        jobs: of one sweep.
        size: most replicas of one run, >= 1.
        workers: processes that will share the groups, >= 1.
    """
    together: dict[str, list[int]] = {}
    seeds = seeds_of(jobs)
    for position, job in enumerate(jobs):
        names = (scalars_of(job.config.get(part)) for part in ("loss", "module"))
        together.setdefault(key_of(job, *names, seeds=seeds), []).append(position)
    if len(together) < workers:
        share = -(-len(jobs) // workers)
        size = max(1, min(size, share))
    return [group[at : at + size] for group in together.values() for at in range(0, len(group), size)]
