"""What a card names against what its experiments have (arms, metrics, conditions): one line each, the nearest name."""

from __future__ import annotations

import csv
import difflib
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from omegaconf import OmegaConf

from lossatlas.claims.card import Card, Part, load_card
from lossatlas.claims.spec import FunctionStatistic, MetricStatistic, canonical
from lossatlas.paths import conf_dir


@dataclass(frozen=True)
class Names:
    """What an experiment has.

    Args:
        arms: of its file, those of its extended grid among them.
        metrics: of its records; empty where nobody knows them yet.
        conditions: key to values; empty where nobody knows them yet.
        closed: there are no other conditions; a program may name some that no file does.
    """

    arms: frozenset[str] = frozenset()
    metrics: frozenset[str] = frozenset()
    conditions: Mapping[str, frozenset[str]] = field(default_factory=dict)
    closed: bool = True


def check_card(path: Path) -> tuple[list[str], list[str]]:
    """A card against the experiment files and the records beside it, before any job starts and without pandas.

    Returns:
        What is wrong for certain (an experiment, an arm, a value of a key that the file's grid sets, a formula that is
        no LaTeX), and what the records so far do not have, though a run may bring it: a metric, a condition or, in
        a study of cells, an arm that the code names.

    Raises:
        UserError: the card cannot be read or says what a card may not say.
    """
    card = load_card(path)
    declared = {
        found.relative_to(conf_dir() / "experiment").with_suffix("").as_posix(): found
        for found in (conf_dir() / "experiment").rglob("*.yaml")
    }
    needed = set(card.experiments)
    files = {name: _of_file(file) if name in needed else Names() for name, file in declared.items()}
    seen = _of_records(path.parent / "records.csv", needed)
    certain = {name: _joined(files[name], seen.get(name, Names())) for name in files}
    sure = {name: replace(has, metrics=frozenset(), closed=False) for name, has in certain.items()}
    for name in needed & {*declared}:
        if "seeds" in _raw(declared[name]):  # of cells
            sure[name] = replace(sure[name], arms=frozenset())
    closed = {name: has if name in seen else replace(has, closed=False) for name, has in certain.items()}
    wrong = misnamed(card, sure)
    return [*wrong, *unreadable(card)], [line for line in misnamed(card, closed) if line not in wrong]


def unreadable(card: Card) -> list[str]:
    """One line for each equation that the report's reader of LaTeX refuses; empty where that is not installed."""
    try:
        from latex2mathml.converter import convert
    except ImportError:
        return []
    lines = []
    for equation in card.equations:
        try:
            convert(equation.tex)
        except Exception as error:
            why = type(error).__name__.removesuffix("Error")
            lines.append(f"card {card.paper}, equation {equation.tex!r}: no LaTeX ({why})")
    return lines


def _raw(path: Path) -> dict[str, Any]:
    raw = OmegaConf.to_container(OmegaConf.load(path), resolve=False)
    return {str(key): value for key, value in raw.items()} if isinstance(raw, dict) else {}


def _of_file(path: Path) -> Names:
    """Arms and conditions that an experiment file names, those of the file it starts from among them."""
    raw = _raw(path)
    found = Names(frozenset(map(str, raw.get("arms") or {})))
    for default in raw.get("defaults") or []:
        if isinstance(default, str) and default.startswith("/experiment/"):
            above = conf_dir() / "experiment" / f"{default.removeprefix('/experiment/')}.yaml"
            found = _joined(found, _of_file(above)) if above.is_file() else found
    params = raw.get("hydra", {}).get("sweeper", {}).get("params", {})
    grids = [b for g in (raw.get("grids") or {}).values() for b in ([g] if isinstance(g, Mapping) else g)]
    blocks = [*({k: str(v).split(",") for k, v in block.items()} for block in [params, *grids])]
    if isinstance(raw.get("conditions"), Mapping):
        blocks.append({key: v if isinstance(v, list) else [v] for key, v in raw["conditions"].items()})
    for block in blocks:
        values = {str(k): frozenset(str(v).strip() for v in vs) for k, vs in block.items()}
        values = {
            k: vs for k, vs in values.items() if k not in ("arm", "seed") and not any("(" in v for v in vs)
        }
        found = _joined(found, Names(conditions=values))
    return found


def _of_records(path: Path, experiments: Iterable[str]) -> dict[str, Names]:
    """What the rows of a tidy table have, by experiment; empty without a file."""
    try:
        text = path.read_text()
    except OSError:
        return {}
    csv.field_size_limit(len(text) + 1)
    head, *rows = csv.reader(text.splitlines())
    arm, seed, status, seconds = (head.index(column) for column in ("arm", "seed", "status", "seconds"))
    found: dict[str, Names] = {}
    for name in experiments:
        own = [row for row in rows if row[0] == name]
        if own:
            columns = dict(zip(head, zip(*own, strict=True), strict=True))
            conditions = {key: frozenset(columns[key]) - {""} for key in head[arm + 1 : seed]}
            metrics = [key for key in head[status + 1 : seconds] if any(columns[key])]
            found[name] = Names(
                frozenset(columns["arm"]), frozenset([*metrics, "seconds", "peak_mb"]),
                {key: values for key, values in conditions.items() if values},
            )  # fmt: skip
    return found


def _joined(a: Names, b: Names) -> Names:
    both = {key: a.conditions.get(key, frozenset()) | b.conditions.get(key, frozenset())
            for key in [*a.conditions, *b.conditions]}  # fmt: skip
    return Names(a.arms | b.arms, a.metrics | b.metrics, both)


def misnamed(card: Card, experiments: Mapping[str, Names]) -> list[str]:
    """One line for each name in a claim or its contrast that the experiment does not have; empty for a sound card.

    Args:
        experiments: name to what it has, of every experiment that there is.
    """
    lines = []
    for claim in card.claims:
        parts = list(claim.parts)
        parts += [claim.contrast.part(part) for part in claim.parts] if claim.contrast else []
        found = [line for part in parts for line in _part(part, experiments)]
        lines += [f"card {card.paper}, claim {claim.id}: {line}" for line in dict.fromkeys(found)]
    return lines


def _part(part: Part, experiments: Mapping[str, Names]) -> Iterator[str]:
    if part.experiment not in experiments:
        yield _line("experiment", part.experiment, experiments)
        return
    has, statistic = experiments[part.experiment], part.statistic
    arms = [*(part.check.arm or []), *(getattr(part.check, "than", None) or [])]
    if isinstance(statistic, FunctionStatistic):
        named = [statistic.args[key] for key in ("arm", "other") if isinstance(statistic.args.get(key), str)]
        yield from _unknown("arm", named, has.arms)
        yield from _unknown("metric", [statistic.metric] if statistic.metric else [], has.metrics)
        yield from _conditions({key: [value] for key, value in statistic.where.items()}, has)
        return
    if statistic.arms == "arm":
        yield from _unknown("arm", arms, has.arms)
    else:
        yield from _conditions({statistic.arms: arms}, has)
    metrics = [statistic.metric, statistic.ties, statistic.trials]
    yield from _unknown("metric", [name for name in metrics if isinstance(name, str)], has.metrics)
    yield from _conditions(_points(statistic), has)


def _points(statistic: MetricStatistic) -> dict[str, list[str]]:
    points = {key: list(values) for key, values in statistic.where.items()}
    if statistic.minus:
        points |= {key: [*points.get(key, []), value] for key, value in statistic.minus.items()}
    if statistic.over and len(statistic.over) == 1:
        points[statistic.over[0]] = [*points.get(statistic.over[0], []), *(statistic.values or [])]
    return points


def _conditions(points: Mapping[str, Iterable[str]], has: Names) -> Iterator[str]:
    for key, values in points.items():
        if key == "arm":
            yield from _unknown("arm", values, has.arms)
        elif key not in has.conditions:
            if has.conditions and has.closed:
                yield _line("condition", key, has.conditions)
        else:
            yield from _unknown(f"value of {key}", values, has.conditions[key])


def _unknown(what: str, wanted: Iterable[str], known: frozenset[str]) -> Iterator[str]:
    same = {canonical(name) for name in known}
    for name in wanted:
        if known and canonical(name) not in same:
            yield _line(what, name, known)


def _line(what: str, name: str, known: Iterable[str]) -> str:
    known = sorted(map(str, known))
    near = difflib.get_close_matches(name, known, n=1)
    hint = f"did you mean {near[0]!r}?" if near else f"there are {', '.join(known[:12])}"
    return f"no {what} {name!r}: {hint}"
