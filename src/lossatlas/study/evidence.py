"""What stands in a paper's table of evidence, and what is said of how it came about.

One table, one protocol: rows of seeds that the experiment file does not plan, or of a tree with uncommitted changes,
move to records_earlier.csv, which no table, figure or verdict counts. The command shown runs exactly the seeds of the
table; the digest of the claims when a study was run stands beside today's.
"""

from __future__ import annotations

import subprocess
import tempfile
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from omegaconf import OmegaConf

from lossatlas import records as rec
from lossatlas.errors import UserError
from lossatlas.machine import claims_digest
from lossatlas.paths import CHECKOUT, conf_dir

if TYPE_CHECKING:  # see study/__init__.py
    DataFrame = Any
else:
    from pandas import DataFrame

EARLIER = "records_earlier.csv"


def planned_seeds(experiment: str, core: bool = False) -> set[int] | None:
    """The seeds that an experiment file sweeps, in its own grid and (unless `core`) in the named ones; None: not said.

    Example:
        >>> sorted(planned_seeds("ldr_noisy"))[::19]
        [1000, 1019]
    """
    cfg = _with_inherited(experiment)
    if isinstance(cfg.get("seeds"), int):  # seeds of one run (lossatlas.cells)
        first = int(cfg.get("seed", 0))
        return set(range(first, first + cfg["seeds"]))
    blocks = [cfg.get("hydra", {}).get("sweeper", {}).get("params", {})]
    if not core:
        grids = [grid for name, grid in cfg.get("grids", {}).items() if not name.startswith("tune")]
        blocks += [block for grid in grids for block in ([grid] if isinstance(grid, Mapping) else grid)]
    found = [_seeds(block["seed"]) for block in blocks if "seed" in block]
    return set().union(*found) if found else None


def _with_inherited(experiment: str) -> dict[str, Any]:
    """The keys of an experiment file over those of the experiment that it builds on; none where there is no file."""
    path = conf_dir() / "experiment" / f"{experiment}.yaml"
    if not path.is_file():
        return {}
    cfg: Any = OmegaConf.to_container(OmegaConf.load(path), resolve=False)
    first = next(iter(cfg.get("defaults") or []), "")
    base = first.removeprefix("/experiment/") if isinstance(first, str) else ""
    return {**(_with_inherited(base) if base and base != experiment else {}), **cfg}


def _seeds(value: Any) -> set[int]:
    from hydra.core.override_parser.overrides_parser import OverridesParser

    from lossatlas.command import values_of

    override = OverridesParser.create().parse_override(f"seed={value}")
    return {int(seed) for seed in values_of(override)}


def refuse_unplanned(table: DataFrame) -> None:
    """Evidence is of the seeds that the experiment file names.

    Raises:
        UserError: another seed.
    """
    for name, rows in table.groupby("experiment", sort=False):
        planned = planned_seeds(str(name))
        if planned is not None and (other := set(rows["seed"]) - planned):
            raise UserError(
                f"publish=true: seed {min(other)} is not of the study that {name}.yaml plans (seeds"
                f" {_range(planned)}); fresh seeds are declared there first"
            )


def split(table: DataFrame) -> tuple[DataFrame, DataFrame]:
    """(rows of the protocol, rows of an earlier one) of a paper's tidy table."""
    earlier = table["commit"].str.endswith("-dirty")
    for name in table["experiment"].unique():
        planned = planned_seeds(str(name))
        if planned is not None:
            earlier |= (table["experiment"] == name) & ~table["seed"].isin(planned)
    return table[~earlier].reset_index(drop=True), table[earlier].reset_index(drop=True)


def told(folder: Path) -> list[str]:
    """One line for each experiment that has rows in records_earlier.csv."""
    if not (folder / EARLIER).exists():
        return []
    lines = []
    for name, rows in rec.from_csv(folder / EARLIER).groupby("experiment", sort=False):
        dirty = ", a tree with uncommitted changes" if rows["commit"].str.endswith("-dirty").any() else ""
        lines.append(f"{len(rows)} rows of {name}, seeds {_range(rows['seed'])}{dirty}; {EARLIER}")
    return lines


def command(experiment: str, seeds: Iterable[int], more: str = "") -> str:
    """What runs an experiment on these seeds: named where they are not what its file sweeps anyway."""
    seeds, planned = set(map(int, seeds)), planned_seeds(experiment, core=True)
    line = f"python -m run -m experiment={experiment}{more}"
    if planned is None or seeds == planned or not seeds:
        return line
    first, last = min(seeds), max(seeds)
    whole = len(seeds) == last - first + 1 and len(seeds) > 6
    return line + (
        f" 'seed=range({first},{last + 1})'" if whole else f" seed={','.join(map(str, sorted(seeds)))}"
    )


def claims(
    card: Path, records: Sequence[rec.Record], table: DataFrame, before: Mapping[str, Any]
) -> dict[str, Any]:
    """Digest of the card's claims now and, by experiment, when its runs were made.

    Args:
        records: of a study, empty on a refresh; an experiment that has none keeps what `before` says, or what the card
            was at the commits that the table names, where git has them.
        before: the same of the folder's verdicts.json.
    """
    own: dict[str, set[str]] = {}
    for record in records:
        own.setdefault(record.experiment, set()).add(record.claims_digest)
    found = {}
    for name, rows in table.groupby("experiment", sort=False):
        digests = own.get(str(name)) or set(before.get("at_study", {}).get(str(name), ()))
        digests = digests or {_digest_at(commit, card) for commit in rows["commit"].unique()}
        if digests - {""}:
            found[str(name)] = sorted(digests - {""})
    return {"now": claims_digest(card), "at_study": found}


def _digest_at(commit: str, card: Path) -> str:
    """The digest of a card at a commit of this history; empty where git does not have it."""
    if not commit or commit.endswith("-dirty") or not card.resolve().is_relative_to(CHECKOUT):
        return ""
    place = f"{commit}:{card.resolve().relative_to(CHECKOUT).as_posix()}"
    shown = subprocess.run(["git", "-C", str(CHECKOUT), "show", place], capture_output=True, check=False)
    if shown.returncode:
        return ""
    with tempfile.NamedTemporaryFile(suffix=".yaml") as file:
        file.write(shown.stdout)
        file.flush()
        return claims_digest(file.name)


def _range(seeds: Iterable[int]) -> str:
    seeds = sorted(set(map(int, seeds)))
    return f"{seeds[0]} to {seeds[-1]}" if len(seeds) > 1 else str(seeds[0])
