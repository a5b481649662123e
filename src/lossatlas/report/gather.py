"""What the report says of one paper, read from its card, its records and its verdicts' own tests; nothing is typed."""

from __future__ import annotations

import json
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from lossatlas import records as rec
from lossatlas.claims import Card, Claim, Part, Result, Verdict, comparisons, judge, load_card
from lossatlas.errors import UserError
from lossatlas.report.stale import CURRENT, STALE, UNKNOWN
from lossatlas.study import Facts, arm_styles, facts_of

if TYPE_CHECKING:
    DataFrame = Series = Any  # see study/__init__.py
else:
    from pandas import DataFrame, Series

VERDICTS = ("reproduced", "not reproduced", "no difference", "inconclusive", "not run")


@dataclass(frozen=True)
class Paper:
    """One paper of the atlas.

    Args:
        slug: folder name.
        card: None if it cannot be read, then `trouble` says why.
        table: tidy records, with no row where there are none.
        verdicts: one per claim.
        facts: of the runs: counts, seconds, devices, commits, versions.
        styles: colour and marker of each arm.
        folder: of the evidence.
        results: of each part of a claim (by its id) that could be tested.
        trouble: what could not be read, one line each.
        states: per row of the table whether its config is still that of the code (see stale.py).
    """

    slug: str
    card: Card | None
    table: DataFrame
    verdicts: list[Verdict]
    facts: Facts
    styles: dict[str, dict[str, str]]
    folder: Path
    results: dict[int, list[Result]]
    trouble: list[str] = field(default_factory=list)
    states: Series | None = None

    @property
    def title(self) -> str:
        return self.card.title if self.card else self.slug

    @property
    def counts(self) -> dict[str, int]:
        """Claims by verdict, in the order of VERDICTS; a card that cannot be read has none."""
        words = [verdict.verdict for verdict in self.verdicts]
        return {word: words.count(word) for word in VERDICTS}

    @property
    def seeds(self) -> int:
        return int(self.table["seed"].nunique())

    @property
    def runs(self) -> DataFrame:
        """One row per run: the first, which has its seconds."""
        return self.table[self.table["unit"].isna() | self.table["seconds"].notna()]

    @property
    def unfinished(self) -> DataFrame:
        """Runs (or their repetitions) that failed, diverged or were interrupted."""
        return self.table[self.table["status"] != "done"]

    @property
    def config_counts(self) -> dict[str, int]:
        """Configurations by state; one configuration is one arm, condition and seed."""
        if self.states is None:
            return {}
        per_hash = self.states.groupby(self.table["config_hash"]).first()
        return {state: int((per_hash == state).sum()) for state in (CURRENT, STALE, UNKNOWN)}

    @property
    def images(self) -> list[Path]:
        """figure.png first, then every other picture that lies with the evidence (samples and the like)."""
        found = sorted(p for p in self.folder.rglob("*.png") if p.is_file())
        return sorted(found, key=lambda path: path.name != "figure.png")


def papers(experiments: Path) -> list[Paper]:
    """Every folder with a card, in the order of titles.

    Raises:
        UserError: the folder does not exist or holds no card.
    """
    folders = sorted(path.parent for path in experiments.glob("*/card.yaml"))
    if not folders:
        raise UserError(f"{experiments} has no card (*/card.yaml): name a folder of evidence")
    return sorted((read(folder) for folder in folders), key=lambda paper: paper.title.casefold())


def read(folder: Path) -> Paper:
    """Card, records and verdicts of a folder; what cannot be read is said on the page instead of ending the report."""
    trouble: list[str] = []
    card, table = None, rec.tidy([])
    try:
        card = load_card(folder / "card.yaml")
    except UserError as error:
        trouble.append(str(error))
    try:
        if (folder / "records.csv").exists():
            table = rec.from_csv(folder / "records.csv")
    except UserError as error:
        trouble.append(str(error))
    results: dict[int, list[Result]] = {}

    def keeping(claim: Claim, part: Part, records: DataFrame) -> list[Result]:
        results[id(part)] = comparisons(claim, part, records)
        return results[id(part)]

    verdicts = judge(card, table, keeping) if card else []
    facts = facts_of(table, _versions(folder))
    return Paper(folder.name, card, table, verdicts, facts, arm_styles(table), folder, results, trouble)


def _versions(folder: Path) -> dict[str, str]:
    try:
        found = json.loads((folder / "verdicts.json").read_text()).get("versions", {})
        return {str(name): str(version) for name, version in found.items()}
    except (OSError, ValueError, AttributeError):
        return {}
