"""What a card names against what its experiments have (arms, metrics, conditions): one line each, the nearest name."""

from __future__ import annotations

import difflib
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from lossatlas.claims.card import Card, Part, load_card
from lossatlas.claims.grid import canonical
from lossatlas.claims.spec import FunctionStatistic, MetricStatistic
from lossatlas.errors import UserError

if TYPE_CHECKING:  # see statistics.py
    DataFrame = Any


@dataclass(frozen=True)
class Names:
    """What an experiment has.

    Args:
        arms: of its file, those of its extended grid among them.
        metrics: of its records; empty where nobody knows them yet.
        conditions: key to values; empty where nobody knows them yet.
        own: the method may make conditions of its own, besides these.
    """

    arms: frozenset[str] = frozenset()
    metrics: frozenset[str] = frozenset()
    conditions: Mapping[str, frozenset[str]] = field(default_factory=dict)
    own: bool = False


def names_of(arms: Iterable[str], table: DataFrame | None = None) -> Names:
    """The names of an experiment, from the arms of its file and its tidy records."""
    from lossatlas.records import condition_columns

    if table is None or table.empty:
        return Names(frozenset(map(str, arms)))
    conditions = {key: frozenset(map(str, table[key].unique())) for key in condition_columns(table)}
    return Names(frozenset([*map(str, arms), *table["arm"].unique()]), frozenset(table.columns), conditions)


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


def check_card(path: Path, experiment: str, experiments: Iterable[str], has: Names) -> None:
    """Checks a card before the first job of a study.

    Args:
        path: of the card.
        experiment: whose study it is; names of the others are not looked at.
        experiments: all there are.
        has: what `experiment` has, as far as its config says.

    Raises:
        UserError: the card is malformed, or names what is not there; the first such line.
    """
    card = load_card(path)
    known = {name: Names() for name in experiments} | {experiment: has}
    lines = [*misnamed(card, known), *unreadable(card)]
    if lines:
        more = f" (and {len(lines) - 1} more)" if len(lines) > 1 else ""
        raise UserError(lines[0] + more)


def unreadable(card: Card) -> list[str]:
    """One line for each equation that the report's reader of TeX refuses; empty where that is not installed."""
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


def _part(part: Part, experiments: Mapping[str, Names]) -> Iterator[str]:
    if part.experiment not in experiments:
        yield _line("experiment", part.experiment, experiments)
        return
    has, statistic = experiments[part.experiment], part.statistic
    arms = [*(part.check.arm or []), *(getattr(part.check, "than", None) or [])]
    if isinstance(statistic, FunctionStatistic):
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
        elif has.conditions and not has.own and key not in has.conditions:
            yield _line("condition", key, has.conditions)
        elif key in has.conditions:
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
