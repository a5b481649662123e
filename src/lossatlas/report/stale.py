"""Whether a record's configuration is still the one that today's code composes for it.

A record keeps the hash of its resolved configuration. Composing one costs Hydra a tenth of a second and more, so
what is composed is shared: once per experiment, scale and condition; arms and seeds are set in the result, which
`describe` then resolves as for a run. An equal hash proves that the record is current; the first different one is
confirmed by composing that very command. Answers are kept in a file under the digest of all configs and of the code
that makes the hash, so that the next report composes nothing.
"""

from __future__ import annotations

import hashlib
import json
import shlex
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from lossatlas import jobs, records
from lossatlas.paths import conf_dir

if TYPE_CHECKING:
    DataFrame = Series = Any  # see study/__init__.py
else:
    from pandas import DataFrame, Series

CURRENT, STALE, UNKNOWN = "current", "stale", "unknown"
ANY_SEED = 2147483629  # stands for a run's seed in a text


@dataclass(frozen=True)
class Run:
    """What identifies a run on the command line, with the hash its record has."""

    experiment: str
    scale: str
    arm: str
    seed: int
    condition: tuple[tuple[str, str], ...]
    digest: str

    @property
    def key(self) -> str:
        return json.dumps([self.experiment, self.scale, self.arm, self.seed, self.condition, self.digest])


def runs_of(table: DataFrame) -> tuple[list[Run], np.ndarray]:
    """The runs of a tidy table, and for each row the place of its run in that list.

    A condition of the run has one value in all rows of it; others belong to repetitions within the run.
    """
    own = table.assign(_row=np.arange(len(table)), _inner=table["unit"].notna()).sort_values(
        "_inner", kind="stable"
    )
    names = own.groupby(["experiment", "scale", "config_hash"], sort=False, dropna=False)
    place = np.empty(len(table), int)
    place[own["_row"]] = names.ngroup()
    first = own.drop_duplicates(["experiment", "scale", "config_hash"])
    heads = first["_row"].to_numpy()
    conditions: list[list[tuple[str, str]]] = [[] for _ in heads]
    for key in records.condition_columns(table):
        values = table[key].to_numpy(object)
        mixed = np.zeros(len(heads), bool)
        mixed[place[values != values[heads[place]]]] = True
        for k in np.flatnonzero(~mixed):
            if values[heads[k]] != "":
                conditions[k].append((key, values[heads[k]]))
    columns = [first[key] for key in ("experiment", "scale", "arm", "seed", "config_hash")]
    runs = [
        Run(experiment, scale, arm, int(seed), tuple(condition), digest)
        for (experiment, scale, arm, seed, digest), condition in zip(
            zip(*columns, strict=True), conditions, strict=True
        )
    ]
    return runs, place


def commands(
    experiment: str, arm: str, condition: Iterable[tuple[str, str]], seeds: Iterable[int], scale: str
) -> list[str]:
    """What repeats one arm at one condition with the seeds it was run with: one line, or one per stretch of seeds.

    Example:
        >>> commands("e", "a", [("noise", "u60")], range(1000, 1020), "laptop")
        ["python -m run -m experiment=e arm=a noise=u60 'seed=range(1000,1020)'"]
    """
    words = [f"experiment={experiment}", *([f"arm={arm}"] if arm else [])]
    words += [f"{key}={value}" for key, value in condition]
    words += [f"scale={scale}"] if scale != "laptop" else []
    lines = []
    for part in _stretches(sorted(set(seeds))):
        listed = ",".join(map(str, part)) if len(part) <= 6 else f"range({part[0]},{part[-1] + 1})"
        head = ["python -m run", *(["-m"] if len(part) > 1 else [])]
        lines.append(" ".join([*head, *map(shlex.quote, [*words, f"seed={listed}"])]))
    return lines


def _stretches(seeds: list[int]) -> list[list[int]]:
    """All of them if they are few, else each stretch without a gap."""
    if len(seeds) <= 6:
        return [seeds]
    parts: list[list[int]] = []
    for seed in seeds:
        if parts and seed == parts[-1][-1] + 1:
            parts[-1].append(seed)
        else:
            parts.append([seed])
    return parts


def states(table: DataFrame, cache: Path | None = None) -> Series:
    """Per row current, stale, or unknown (no such experiment here, or its command line is refused).

    Args:
        cache: file with answers of earlier calls; made or extended.
    """
    runs, place = runs_of(table)
    digest, kept = _digest(), {}
    if cache is not None and cache.exists():
        try:
            found = json.loads(cache.read_text())
            kept = found["states"] if found["digest"] == digest else {}
        except (OSError, ValueError, KeyError, TypeError):
            kept = {}
    missing = [run for run in runs if run.key not in kept]
    if missing:
        kept.update(_checked(missing))
        if cache is not None:
            records.write_text(json.dumps({"digest": digest, "states": kept}), cache)
    answers = np.array([kept[run.key] for run in runs], object)
    import pandas as pd

    return pd.Series(answers[place], index=table.index, dtype=object)


def _digest() -> str:
    """Of every config and of the code that turns one into a hash."""
    total = hashlib.sha256(Path(jobs.__file__).read_bytes())
    for path in sorted(conf_dir().rglob("*.yaml")):
        total.update(f"\0{path.relative_to(conf_dir())}\0".encode() + path.read_bytes())
    return total.hexdigest()


def _checked(runs: Iterable[Run]) -> dict[str, str]:
    groups: dict[tuple, list[Run]] = {}
    for run in runs:
        groups.setdefault((run.experiment, run.scale, run.condition), []).append(run)
    found: dict[str, str] = {}
    with _hydra():
        for (experiment, _, _), group in groups.items():
            known = (conf_dir() / "experiment" / f"{experiment}.yaml").is_file() and ".." not in experiment
            found |= _group(group) if known else {run.key: UNKNOWN for run in group}
    return found


def _group(group: list[Run]) -> dict[str, str]:
    """Runs that differ in arm and seed only: both are set in one composed config, a seed in its text.

    An equal hash is proof. The first one that differs is composed by itself; if that gives the same text, what was set
    here is what Hydra would have made of the other command lines, too.
    """
    try:
        cfg, hydra = _composed(group[0])
    except Exception:  # a key or value that is gone: each run for itself
        return {run.key: _alone(run) for run in group}
    found, texts, trusted = {}, {}, None
    for run in group:
        if run.arm not in texts:
            texts[run.arm] = _text(run.arm, cfg, hydra)
        text = texts[run.arm].replace(str(ANY_SEED), str(run.seed))
        if jobs.hash_of(text) == run.digest:
            found[run.key] = CURRENT
        elif trusted:
            found[run.key] = STALE
        else:
            found[run.key] = _alone(run)
            trusted = found[run.key] == STALE and jobs.hash_of(text) == _hash(run)
    return found


def _text(arm: str, cfg: Any, hydra: Any) -> str:
    """The identity of an arm's runs with ANY_SEED in the place of the seed; empty for an arm that is gone."""
    if arm not in cfg.arms:
        return ""
    cfg.arm, cfg.seed = arm, ANY_SEED
    job = jobs.describe(cfg, hydra)
    return jobs.identity(job.experiment, job.config)


def _hash(run: Run) -> str:
    return jobs.describe(*_composed(run)).config_hash


def _alone(run: Run) -> str:
    try:
        return CURRENT if _hash(run) == run.digest else STALE
    except Exception:
        return UNKNOWN


def _composed(run: Run) -> tuple[Any, Any]:
    from hydra import compose
    from omegaconf import OmegaConf

    words = [f"experiment={run.experiment}", f"scale={run.scale}", f"seed={run.seed}"]
    words += [f"{key}={_quoted(value)}" for key, value in [("arm", run.arm), *run.condition]]
    cfg = compose("config", overrides=words, return_hydra_config=True)
    hydra = cfg.hydra
    OmegaConf.set_struct(cfg, False)
    del cfg["hydra"]
    return cfg, hydra


def _quoted(value: str) -> str:
    """Text that Hydra's grammar would read otherwise is put in quotes."""
    plain = value.replace(".", "").replace("_", "").replace("-", "").replace("/", "").isalnum()
    return value if plain else "'" + value.replace("\\", "\\\\").replace("'", "\\'") + "'"


@contextmanager
def _hydra() -> Iterator[None]:
    from hydra import initialize_config_dir
    from hydra.core.global_hydra import GlobalHydra

    GlobalHydra.instance().clear()
    with initialize_config_dir(str(conf_dir()), version_base="1.3"):
        yield
