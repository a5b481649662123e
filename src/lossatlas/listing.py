"""What there is to run: papers by family, a paper's experiments with what their published runs cost.

Read from the heads of cards and experiment files, so that a list costs no torch and hardly any YAML.
"""

import csv
import re
import statistics
from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from lossatlas.errors import UserError
from lossatlas.keys import nearest
from lossatlas.paths import conf_dir, experiments_dir

USAGE = """usage: python -m run                                      the papers
       python -m run PAPER                                its experiments and what they cost
       python -m run experiment=NAME [key=value ...]      one run
       python -m run -m experiment=NAME [key=a,b ...]     the study: all arms, conditions and seeds
       python -m run --help                               groups and flags"""


@dataclass(frozen=True)
class Experiment:
    """An experiment file: its name (`ldr_noisy`, `paper/ldr_cifar100`), its paper, its first comment line."""

    name: str
    paper: str
    about: str


@dataclass(frozen=True)
class Paper:
    """The head of a card."""

    slug: str
    title: str
    venue: str
    family: str


def experiments() -> list[Experiment]:
    """All experiments, by name; a file without `paper:` has that of the experiment it builds on."""
    root = conf_dir() / "experiment"
    texts = {
        p.relative_to(root).with_suffix("").as_posix(): p.read_text(encoding="utf-8")
        for p in root.rglob("*.yaml")
    }

    def paper(name: str) -> str:
        if match := re.search(r"^paper:\s*(\S+)", texts[name], re.MULTILINE):
            return match[1]
        base = re.search(r"^defaults:\s*(?:\[|\n\s*-)\s*(?:/experiment/)?([\w/]+)", texts[name], re.MULTILINE)
        return paper(base[1]) if base and base[1] in texts and base[1] != name else ""

    def about(text: str) -> str:
        comments = (line[1:].strip() for line in text.splitlines() if line.startswith("#"))
        return next((line for line in comments if not line.startswith("@package")), "").split(
            " python -m run"
        )[0]

    return [Experiment(name, paper(name), about(texts[name])) for name in sorted(texts)]


def papers() -> list[Paper]:
    """All papers that have a card, by family and name."""
    import yaml

    found = []
    for path in experiments_dir().glob("*/card.yaml"):
        text = path.read_text(encoding="utf-8")
        keys = re.split(r"^(?=\w+:)", text, flags=re.MULTILINE)  # a top-level key with what belongs to it
        wanted = [part for part in keys if part.startswith(("title:", "venue:", "year:", "family:"))]
        head = yaml.safe_load("".join(wanted)) or {}
        where = f"{head.get('venue', '')} {head.get('year', '')}".strip()
        found.append(
            Paper(path.parent.name, str(head.get("title", "")), where, str(head.get("family", "other")))
        )
    return sorted(found, key=lambda paper: (paper.family, paper.slug))


def overview() -> str:
    """A line a paper, by family."""
    families, of_paper = defaultdict(list), defaultdict(int)
    for experiment in experiments():
        of_paper[experiment.paper] += 1
    for paper in papers():
        families[paper.family].append(paper)
    width = max((len(slug) for slug in of_paper), default=0)
    lines = [USAGE]
    for family, members in families.items():
        lines += ["", family]
        for paper in members:
            n = of_paper[paper.slug]
            lines.append(
                f"  {paper.slug:<{width}}  {paper.title} ({paper.venue}; {n} experiment{'s' * (n != 1)})"
            )
    without = sorted(
        e.name for e in experiments() if not (experiments_dir() / e.paper / "card.yaml").is_file()
    )
    return "\n".join([*lines, *(["", f"without a card: {', '.join(without)}"] if without else [])])


def of_paper(word: str) -> str:
    """A paper's experiments, each with the cost of its published runs.

    Raises:
        UserError: no paper of this name; with the nearest, or the command where it is an experiment.
    """
    found = experiments()
    if match := next((e for e in found if e.name == word), None):
        raise UserError(f"{word} is an experiment of {match.paper}: python -m run experiment={word}")
    known = sorted({e.paper for e in found if e.paper})
    if word not in known:
        raise UserError(f"{word}: no such paper; {nearest(word, known)}; write key=value for a setting")
    head = next((paper for paper in papers() if paper.slug == word), None)
    mine = sorted((e for e in found if e.paper == word), key=lambda e: ("/" in e.name, e.name))
    costs = published(experiments_dir() / word / "records.csv")
    lines = [f"{head.title} ({head.venue}; {head.family})" if head else word, ""]
    for experiment in mine:
        lines.append(f"  experiment={experiment.name}")
        lines.append(f"      {experiment.about}")
        lines.append(f"      {costs.get(experiment.name, 'no published runs')}")
    return "\n".join(lines)


def published(path: Path) -> dict[str, str]:
    """What the runs of each experiment in a records.csv took: `90 runs, 1.9 s each, 3 min together, 990 MB`."""
    if not path.is_file():
        return {}
    runs: defaultdict[str, list[tuple[float, float]]] = defaultdict(list)
    with path.open(newline="", encoding="utf-8") as file:
        for row in csv.DictReader(file):
            if row["seconds"]:  # in the first row of a run only; the others are its units
                runs[row["experiment"]].append((float(row["seconds"]), float(row["peak_mb"] or 0)))
    return {name: cost(found) for name, found in runs.items()}


def cost(runs: Sequence[tuple[float, float]]) -> str:
    """One line for (seconds, MB) of runs.

    >>> cost([(1.5, 900.0), (2.5, 950.0)])
    '2 published runs, 2.0 s each, 4 s together, up to 950 MB'
    """
    seconds = [s for s, _ in runs]
    total = sum(seconds)
    together = f"{total:.0f} s" if total < 120 else f"{total / 60:.0f} min"
    memory = max(mb for _, mb in runs)
    each = f"{statistics.median(seconds):.1f} s"
    if len(runs) == 1:
        return f"1 published run, {each}, {memory:.0f} MB"
    return f"{len(runs)} published runs, {each} each, {together} together, up to {memory:.0f} MB"
