"""One order of arms and conditions for table, README, figure and report: that of the experiment file."""

from __future__ import annotations

import functools
from collections.abc import Iterable, Mapping
from typing import Any

from omegaconf import OmegaConf

from lossatlas.claims import number_in
from lossatlas.paths import conf_dir

Rank = tuple[int, str, float, str]


@functools.cache
def declared(experiment: str) -> dict[str, list[str]]:
    """Key to its values in the order of the file: `arm` of `arms`, conditions of the grids; empty without a file."""
    path = conf_dir() / "experiment" / f"{experiment}.yaml"
    if not path.is_file():
        return {}
    cfg: Any = OmegaConf.to_container(OmegaConf.load(path))
    params = cfg.get("hydra", {}).get("sweeper", {}).get("params", {})
    grids = [b for g in cfg.get("grids", {}).values() for b in ([g] if isinstance(g, Mapping) else g)]
    found: dict[str, dict[str, None]] = {"arm": dict.fromkeys(map(str, cfg.get("arms", {})))}
    for block in [params, *grids]:
        for key, values in block.items():
            found.setdefault(str(key), {}).update(dict.fromkeys(_split(values)))
    return {key: list(values) for key, values in found.items()}


def _split(values: Any) -> Iterable[str]:
    return [word.strip() for word in str(values).split(",")]


def rank(experiment: str, key: str, value: Any) -> Rank:
    """What values of a key are sorted by: those of the file first, then by their number and name.

    Example:
        >>> sorted(["u60", "c30", "u00", "x10", "x9"], key=lambda v: rank("ldr_noisy", "noise", v))
        ['u00', 'u60', 'c30', 'x9', 'x10']
    """
    known = declared(experiment).get(key, [])
    text = str(value)
    if text in known:
        return known.index(text), "", 0.0, text
    number = number_in(text)
    letters = text.rstrip("0123456789.") if number == number else text
    return len(known), letters, number if number == number else 0.0, text
