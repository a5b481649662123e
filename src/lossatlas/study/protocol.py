"""Whether runs follow the card's protocol: their experiment file at scale laptop, arm, condition and seed apart.

Claims speak of that protocol only. A record holds its resolved config, which is compared key by key with what the
experiment file alone gives for its arm, condition and seed.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from omegaconf import OmegaConf

from lossatlas.paths import conf_dir
from lossatlas.records import Record

SHOWN = 4  # keys that the line names


def changes(records: Sequence[Record]) -> str:
    """What the runs changed, as "epochs=1 (card: 40), limit.train=500"; empty where they follow the protocol."""
    from lossatlas.report.stale import _hydra

    groups: dict[tuple, list[Record]] = {}
    for record in records:
        if record.scale != "laptop":
            return f"scale={record.scale}"
        condition = tuple(sorted(record.condition.items()))
        groups.setdefault((record.experiment, record.arm, condition), []).append(record)
    found: dict[str, tuple[dict[str, None], Any]] = {}
    with _hydra():
        for group in groups.values():
            try:
                planned = _planned(group[0])
            except Exception as error:
                return " ".join(f"no such protocol ({type(error).__name__}: {error})".split())[:160]
            for record in group:
                planned["seed"] = record.config.get("seed")
                for key, (given, card) in _different(record.config, planned).items():
                    found.setdefault(key, ({}, card))[0][given] = None
    lines = [
        f"{key}={','.join(given)}" + (f" (card: {card})" if card is not None else "")
        for key, (given, card) in found.items()
    ]
    more = f" and {len(lines) - SHOWN} more" if len(lines) > SHOWN else ""
    return ", ".join(lines[:SHOWN]) + more


def _planned(record: Record) -> dict[str, Any]:
    """The config that the experiment file gives for a record's arm and condition."""
    from lossatlas.jobs import describe
    from lossatlas.report.stale import Run, _composed

    grid = grid_keys(record.experiment)
    condition = tuple((key, str(value)) for key, value in record.condition.items() if key in grid)
    run = Run(record.experiment, record.scale, record.arm, record.seed, condition, "")
    return describe(*_composed(run)).config


def grid_keys(experiment: str) -> set[str]:
    """The keys of the grids that the experiment file declares, its core grid and the named ones."""
    cfg: Any = OmegaConf.to_container(OmegaConf.load(conf_dir() / "experiment" / f"{experiment}.yaml"))
    params = cfg.get("hydra", {}).get("sweeper", {}).get("params", {})
    blocks = [block for grid in cfg.get("grids", {}).values() for block in _blocks(grid)]
    return {str(key) for block in [params, *blocks] for key in block}


def _blocks(grid: Any) -> Iterable[Mapping[str, Any]]:
    return [grid] if isinstance(grid, Mapping) else grid


def _different(ours: Mapping[str, Any], card: Mapping[str, Any]) -> dict[str, tuple[str, Any]]:
    first, second = _flat(ours), _flat(card)
    return {
        key: (str(first.get(key)), second.get(key))
        for key in dict.fromkeys([*first, *second])
        if first.get(key) != second.get(key)
    }


def _flat(node: Any, prefix: str = "") -> dict[str, Any]:
    if not isinstance(node, Mapping):
        return {prefix: node}
    parts = [_flat(value, f"{prefix}.{key}" if prefix else str(key)) for key, value in node.items()]
    return {key: value for part in parts for key, value in part.items()}
