"""The end of a study: records.csv, figure.png, README.md and verdicts.json, and the same on the terminal.

This module knows no paper: what a figure shows beyond metric by condition is a function that the card names.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from lossatlas import records as rec
from lossatlas.claims import Card, Verdict, judge, load_card, verdict_seeds
from lossatlas.errors import UserError
from lossatlas.paths import page_line
from lossatlas.study import curves, evidence
from lossatlas.study.figure import arm_styles, draw, palette
from lossatlas.study.readme import Facts, facts_of, readme
from lossatlas.study.table import Cells, cell, cells, metrics_of, print_table, print_verdicts, summary

if (
    TYPE_CHECKING
):  # pandas has no stubs here, and what pyright infers calls every column a Series or a DataFrame
    DataFrame = Any
else:
    from pandas import DataFrame

__all__ = [
    "Cells",
    "Facts",
    "arm_styles",
    "cell",
    "cells",
    "draw",
    "end",
    "facts_of",
    "finish",
    "metrics_of",
    "palette",
    "print_table",
    "print_verdicts",
    "publish",
    "readme",
    "refresh",
    "summary",
]


def finish(
    records: Iterable[rec.Record] | DataFrame,
    card: Card | None,
    out_dir: str | Path,
    *,
    title: str = "",
    commands: Sequence[str] = (),
    room: str = "",
    versions: Mapping[str, str] | None = None,
    changed: str = "",
    claims: Mapping[str, Any] | None = None,
) -> list[Verdict]:
    """Write records.csv, figure.png, README.md and verdicts.json, each atomically; return the verdicts.

    Args:
        records: of one study or of all studies of a paper, or their tidy table.
        card: without one there are no verdicts.
        out_dir: made if it is not there.
        title: of the README where there is no card.
        commands: what to type to repeat the studies; by default one per experiment.
        room: link to the paper's code, relative to out_dir.
        versions: of packages; by default those of the records, or of the folder's verdicts.json for a tidy table.
        changed: what differs from the card's protocol; then no claim is judged.
        claims: digests of the claims, from `evidence.claims`.

    Raises:
        UserError: out_dir cannot be written.
    """
    out = Path(out_dir)
    tabled: Any = records if hasattr(records, "columns") else None
    given = None if tabled is not None else list(records)
    table: DataFrame = rec.one_row_a_run(tabled) if given is None else rec.tidy(given)
    if versions is None:
        versions = _versions(given) if given else dict(_earlier(out).get("versions", {}))
    verdicts = judge(card, table) if card and not changed else []
    facts = facts_of(table, versions, claims, evidence.told(out))
    image, trouble = draw(table, card)
    commands = commands or [
        evidence.command(str(name), rows["seed"]) for name, rows in table.groupby("experiment", sort=False)
    ]
    text = readme(table, card, verdicts, facts, title=title, commands=commands, room=room)
    if changed:
        text = text.replace("\n## Results\n", f"\nNot judged: {changed}.\n\n## Results\n", 1)
    content = {"paper": card.paper if card else title, **facts.to_json()}
    content["verdicts"] = [verdict.to_json() for verdict in verdicts]
    rec.to_csv(table, out / "records.csv")
    rec.write_text(image, out / "figure.png")
    rec.write_text(json.dumps(content, indent=1) + "\n", out / "verdicts.json")
    rec.write_text(text, out / "README.md")
    if trouble:
        print(f"lossatlas: {trouble}; figure.png shows metric by condition instead", file=sys.stderr)
    return verdicts


def end(
    records: Sequence[rec.Record], card: str | Path | None, out_dir: str | Path, *, grid: str = "core",
    changed: str = "", command: str = "",
) -> list[Verdict]:  # fmt: skip
    """After a multirun: print table and verdicts, write the study below outputs/; also when some jobs failed.

    Args:
        records: what the jobs left, at least one.
        card: the paper's card.yaml, or None.
        grid: the grid that was run, named in the command.
        changed: what differs from the card's protocol (study/protocol.py); then the claims are not judged.
        command: what was typed, where that is known.

    A study that holds fewer runs than the one in out_dir is written beside it.
    """
    out_dir = _beside(Path(out_dir), records)
    known = load_card(card) if card else None
    table = rec.tidy(records)
    commands = [command] if command else _commands(records, grid)
    verdicts = finish(
        records, known, out_dir, title=records[0].paper, commands=commands, changed=changed if known else "",
        claims=evidence.claims(Path(card), records, table, {}) if card else None,
    )  # fmt: skip
    print_table(table, known)
    if known and changed:
        print(f"\nnot judged: {changed}")
    elif known:
        print_verdicts(verdicts)
        _print_lines("where it fails", known.failures)
        _print_lines("what differs", known.notes)
    print(f"\ntable, figure and README: {out_dir}\npage: {page_line(records[0].paper)}")
    return verdicts


def _beside(folder: Path, records: Sequence[rec.Record]) -> Path:
    """The folder, or the next one (`_study_2`) where it holds runs that are not among the records."""
    ours = {record.config_hash for record in records}
    for k in range(1, 1000):
        out = folder if k == 1 else folder.with_name(f"{folder.name}_{k}")
        try:
            there = set(rec.from_csv(out / "records.csv")["config_hash"])
        except UserError:  # none, or one that cannot be read
            return out
        if there <= ours:
            return out
    return folder


def publish(
    records: Sequence[rec.Record], card: str | Path, folder: str | Path, *, grid: str = "core",
    outputs: str | Path | None = None,
) -> list[Verdict]:  # fmt: skip
    """Bring a study into a paper's evidence: its rows replace those of the same runs, all others stay.

    Args:
        records: of one experiment; tuning and pilot seeds (100..999) are left out.
        card: the paper's card.yaml.
        folder: experiments/<slug>.
        outputs: where the runs left their learning curves, which become curves.csv.

    Rows of an earlier protocol move to records_earlier.csv.

    Raises:
        UserError: nothing to publish, runs of another scale than the evidence has, or seeds that are not planned.
    """
    known = load_card(card)
    table = _ordered(verdict_seeds(rec.tidy(records)))
    if table.empty:
        raise UserError("publish=true needs runs with seeds for verdicts (< 100 or >= 1000)")
    evidence.refuse_unplanned(table)
    folder = Path(folder)
    names: list[str] = []
    if (folder / "records.csv").exists():
        old = rec.from_csv(folder / "records.csv")
        if set(old["scale"]) != set(table["scale"]):
            raise UserError(
                f"{folder / 'records.csv'} holds scale {old['scale'].iloc[0]}: publish that scale only"
            )
        table = _one_protocol(_merged(old, table), folder)
        names = [n for n in table["experiment"].unique() if n not in {r.experiment for r in records}]
    seeds = table.groupby("experiment")["seed"]
    commands = [evidence.command(name, seeds.get_group(name)) for name in names]
    commands += (
        _commands(records, grid)
        if grid != "core"
        else [
            evidence.command(name, seeds.get_group(name))
            for name in dict.fromkeys(r.experiment for r in records)
        ]
    )
    versions = _versions(records) or _earlier(folder).get("versions", {})
    if outputs is not None:
        curves.update(folder / "curves.csv", curves.bands(table, outputs, known))
    claims = evidence.claims(Path(card), records, table, _earlier(folder).get("claims", {}))
    return finish(
        table, known, folder, commands=commands, room=_room(known.paper), versions=versions, claims=claims
    )


def refresh(folder: str | Path) -> list[Verdict]:
    """Write a paper's table, figure, README and verdicts anew from its records and its card, as after an edit of notes.

    Args:
        folder: experiments/<slug>, with card.yaml and records.csv.

    Raises:
        UserError: card or records are not there or cannot be read.
    """
    folder = Path(folder)
    known, table = load_card(folder / "card.yaml"), _ordered(rec.from_csv(folder / "records.csv"))
    table, before = _one_protocol(table, folder), _earlier(folder)
    claims = evidence.claims(folder / "card.yaml", [], table, before.get("claims", {}))
    versions = before.get("versions", {})
    return finish(table, known, folder, room=_room(known.paper), versions=versions, claims=claims)


def _one_protocol(table: DataFrame, folder: Path) -> DataFrame:
    """The rows of the experiment files' protocols; others join those of records_earlier.csv."""
    table, other = evidence.split(table)
    if len(other):
        path = folder / evidence.EARLIER
        rec.to_csv(_merged(rec.from_csv(path), other) if path.exists() else other, path)
    return table


def _merged(old: DataFrame, new: DataFrame) -> DataFrame:
    """Rows of old and new, the new one where both have a run; conditions and metrics of both."""
    import pandas as pd

    conditions = list(dict.fromkeys([*rec.condition_columns(old), *rec.condition_columns(new)]))
    metrics = list(dict.fromkeys([*rec.metric_columns(old), *rec.metric_columns(new)]))
    columns = [*rec.HEAD, *conditions, *rec.MIDDLE, *metrics, *rec.TAIL]
    both = pd.concat([old, new], ignore_index=True).reindex(columns=columns)
    both[conditions] = both[conditions].fillna("")
    return _ordered(both.drop_duplicates(_run_keys(both), keep="last"))


def _run_keys(table: DataFrame) -> list[str]:
    """What tells rows apart."""
    return ["experiment", "scale", "arm", *rec.condition_columns(table), "seed", "unit"]


def _ordered(table: DataFrame) -> DataFrame:
    """One order of rows, whatever the order in which parallel jobs ended."""
    return table.sort_values(_run_keys(table), kind="stable", na_position="first").reset_index(drop=True)


def _commands(records: Sequence[rec.Record], grid: str) -> list[str]:
    names = dict.fromkeys(record.experiment for record in records)
    scales = {record.scale for record in records} - {"laptop"}
    more = "".join(
        [f" +grid={grid}" if grid != "core" else "", *(f" scale={scale}" for scale in sorted(scales))]
    )
    return [f"python -m run -m experiment={name}{more}" for name in names]


def _versions(records: Sequence[rec.Record]) -> dict[str, str]:
    """Package to version; several where runs differ."""
    found: dict[str, dict[str, None]] = {}
    for record in records:
        for package, version in record.versions.items():
            found.setdefault(package, {})[version] = None
    return {package: ", ".join(versions) for package, versions in sorted(found.items())}


def _earlier(folder: Path) -> dict[str, Any]:
    """What the folder's verdicts.json says; a tidy table has no package versions, they stay here."""
    try:
        found = json.loads((folder / "verdicts.json").read_text())
    except (OSError, ValueError):
        return {}
    return found if isinstance(found, dict) else {}


def _room(paper: str) -> str:
    from lossatlas.paths import CHECKOUT

    below = f"src/lossatlas/papers/{paper}"
    return f"../../{below}" + ("" if (CHECKOUT / below).is_dir() else ".py")


def _print_lines(head: str, lines: Sequence[str]) -> None:
    if lines:
        print(f"\n{head}:")
        print("\n".join(f"  {line}" for line in lines))
