"""README.md of a study, generated: no number in it is typed."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from typing import TYPE_CHECKING, Any

from lossatlas.claims import Card, Verdict
from lossatlas.claims.card import load_function
from lossatlas.study.table import cells, metrics_of, verdict_cells

if TYPE_CHECKING:  # see study/__init__.py
    DataFrame = Any
else:
    from pandas import DataFrame

HOW = (
    "Interval: two-sided 90 %, that of the one-sided tests at 5 %. p: the largest of the claim's comparisons, "
    "Holm-corrected over the claims that were tested; *not reproduced* means that the opposite test is significant, "
    "*no difference* that the interval lies inside +-by, the smallest effect of interest, in the metric's unit "
    "(relative for a ratio). A unit carries a verdict if the verdict is another one without it."
)


@dataclass(frozen=True)
class Facts:
    """How a study was run: counts of runs by status, seconds of all runs together, machine, code, claims.

    Args:
        claims: `now`, the digest of the card's claims, and `at_study`, by experiment those that its runs recorded.
        earlier: rows of an earlier protocol, which lie in records_earlier.csv.
    """

    runs: dict[str, int]
    seconds: float
    devices: list[str]
    commits: list[str]
    versions: dict[str, str]
    claims: dict[str, Any] = field(default_factory=dict)
    earlier: list[str] = field(default_factory=list)

    def to_json(self) -> dict[str, Any]:
        """As plain data."""
        return asdict(self)


def facts_of(
    table: DataFrame,
    versions: Mapping[str, str],
    claims: Mapping[str, Any] | None = None,
    earlier: Sequence[str] = (),
) -> Facts:
    """The facts of a tidy table; what is not in it is given."""
    runs = table[table["unit"].isna() | table["seconds"].notna()]
    counts = {str(status): int(count) for status, count in runs["status"].value_counts().items()}
    names = {key: sorted(set(table[key]) - {""}) for key in ("device", "commit")}
    return Facts(
        counts,
        round(float(table["seconds"].sum()), 1),
        names["device"],
        names["commit"],
        dict(versions),
        dict(claims or {}),
        list(earlier),
    )


def readme(
    table: DataFrame,
    card: Card | None,
    verdicts: Sequence[Verdict],
    facts: Facts,
    *,
    title: str = "",
    commands: Sequence[str] = (),
    room: str = "",
) -> str:
    """The text: paper, claims, results, the paper's own numbers, failures, use, and how it was run."""
    parts = [f"# {card.title if card else title}", *_head(card, room)]
    if verdicts:
        parts += ["## Claims", _verdicts(verdicts), HOW]
    parts += [
        "## Results",
        _code("\n".join(commands), "bash"),
        "![figure](figure.png)",
        *_tables(table, card),
        *_details(table, card),
    ]
    if card:
        parts += _card(card)
    parts += ["## How it was run", _how(facts)]
    parts.append("Generated from records.csv by the study; edit the card, not this file.")
    return "\n\n".join(parts) + "\n"


def _head(card: Card | None, room: str) -> list[str]:
    if card is None:
        return []
    link = f" [{card.url}]({card.url})." if card.url else ""
    parts = [card.citation or f"{', '.join(card.authors)}. {card.venue} {card.year}.{link}"]
    parts += [card.idea.strip()] if card.idea else []
    parts += [f"Equations and code: [{room.removeprefix('../../')}]({room})"] if room else []
    return parts


def _verdicts(verdicts: Sequence[Verdict]) -> str:
    head = ["claim", "source", "verdict", "effect [90 %]", "claimed", "by", "p (Holm)", "n", "remark"]
    rows = []
    for v in verdicts:
        contrast = f"Contrast {v.contrast}" if v.contrast and v.contrast not in v.remark else ""
        remark = ". ".join(part for part in (v.remark, contrast, v.sensitivity, v.note) if part)
        effect, claimed, *rest = verdict_cells(v)
        by = "-" if v.by is None else f"{v.by:.3g}"
        rows.append(
            [f"**{v.id}**: {v.says}", v.source, f"**{v.verdict}**", effect, claimed, by, *rest, remark]
        )
    return _markdown(head, rows)


def _tables(table: DataFrame, card: Card | None) -> list[str]:
    parts = []
    for experiment in table["experiment"].unique():
        for metric in metrics_of(table, card, experiment):
            shown = cells(table, experiment, metric)
            parts += [f"**{shown.title}** ({shown.caption})", _markdown(shown.head, shown.rows)]
    return parts


def _details(table: DataFrame, card: Card | None) -> list[str]:
    """The card's own paragraphs; a fault there must not cost a study its verdicts."""
    if card is None or card.details is None:
        return []
    try:
        return list(load_function(card.details)(table.copy()))
    except Exception as error:
        return [f"`{card.details}` raised " + " ".join(f"{type(error).__name__}: {error}".split())]


def _card(card: Card) -> list[str]:
    parts = []
    if card.figures:
        rows = [[f.table, f.what, ", ".join(f"{k} {v}" for k, v in f.values.items())] for f in card.figures]
        parts += ["## In the paper", _markdown(["where", "what", "value"], rows)]
    for head, lines in (("## Where it fails", card.failures), ("## What differs", card.notes)):
        parts += [head, "\n".join(f"- {line}" for line in lines)] if lines else []
    return parts + _example(card)


def _example(card: Card) -> list[str]:
    if card.example is None:
        return []
    told = " and ".join(f"`{name}` of the record is `{here}`" for name, here in card.example.same.items())
    unit = "" if card.example.unit is None else f" (repetition {card.example.unit})"
    same = f"The same by the runner, and tested: `python -m run {card.example.run}`; {told}{unit}."
    return ["## Use it alone", _code(card.example.code.strip(), "python"), same]


def _how(facts: Facts) -> str:
    counts = ", ".join(f"{count} {status}" for status, count in facts.runs.items())
    lines = [
        f"- runs: {counts}; {facts.seconds:.0f} s in all ({facts.seconds / 60:.1f} min)",
        f"- machine: {'; '.join(facts.devices) or 'not recorded'}",
        f"- code: {', '.join(f'`{commit}`' for commit in facts.commits) or 'not recorded'}",
    ]
    lines += [f"- not counted: {line}" for line in facts.earlier]
    if facts.claims:
        told = (
            f"{name} {' and '.join(f'`{d}`' for d in ds)}" for name, ds in facts.claims["at_study"].items()
        )
        lines.append(
            f"- claims: `{facts.claims['now']}`; when the study was run: {', '.join(told) or 'not recorded'}"
        )
    versions = ", ".join(f"{name} {version}" for name, version in facts.versions.items())
    return "\n".join([*lines, *([f"- versions: {versions}"] if versions else [])])


def _markdown(head: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    lines = [head, ["---"] * len(head), *rows]
    return "\n".join(
        "| " + " | ".join(cell.replace("|", "\\|").replace("\n", " ") for cell in line) + " |"
        for line in lines
    )


def _code(text: str, language: str) -> str:
    """A fenced block; text that brings its own fence is left alone."""
    return text if text.startswith("```") else f"```{language}\n{text}\n```"
