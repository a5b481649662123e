"""Facts into templates: what each page is given."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path
from typing import Any
from urllib.parse import quote

from jinja2 import Environment, PackageLoader, StrictUndefined
from markupsafe import Markup

from lossatlas.claims import load_function
from lossatlas.errors import UserError
from lossatlas.machine import code_version
from lossatlas.paths import conf_dir
from lossatlas.report import plots
from lossatlas.report.effects import Effects, effects
from lossatlas.report.equations import mathml
from lossatlas.report.gather import VERDICTS, Paper
from lossatlas.report.rows import tables
from lossatlas.report.text import duration, link, number, short
from lossatlas.study import curves
from lossatlas.study.readme import HOW

LOST = 200  # unfinished runs listed one by one
SIGNS = {"reproduced": "✓", "not reproduced": "✗", "no difference": "=", "inconclusive": "?", "not run": "–"}


class Pages:
    """Renders the pages of one report.

    Args:
        papers: all of them.
        out: the report's folder.
        say: gets a line for what could not be drawn.
    """

    def __init__(self, papers: Sequence[Paper], out: Path, say: Callable[[str], Any]) -> None:
        self.papers, self.out, self.say = papers, out, say
        self.env = Environment(
            loader=PackageLoader("lossatlas.report"), autoescape=True, undefined=StrictUndefined,
            trim_blocks=True, lstrip_blocks=True,
        )  # fmt: skip
        self.env.policies["json.dumps_kwargs"] = {"allow_nan": False, "separators": (",", ":")}
        self.env.filters |= {"number": number, "short": short, "duration": duration, "link": link,
                             "url": partial(quote, safe="/"), "slug": _slug,
                             "plain": lambda plots: [plot.to_json() for plot in plots]}  # fmt: skip
        commit, dirty = code_version()
        self.env.filters["inline"] = _inline
        self.env.globals |= {
            "VERDICTS": VERDICTS,
            "SIGNS": SIGNS,
            "code": f"{commit or ''}{'-dirty' if dirty else ''}",
        }

    def index(self) -> str:
        """The page of all papers."""
        total = {word: sum(paper.counts[word] for paper in self.papers) for word in VERDICTS}
        families = sorted({paper.card.family for paper in self.papers if paper.card and paper.card.family})
        seconds = sum(paper.facts.seconds for paper in self.papers)
        runs = sum(sum(paper.facts.runs.values()) for paper in self.papers)
        return self.env.get_template("index.html").render(
            papers=self.papers, total=total, families=families, seconds=seconds, runs=runs, thumb=self._thumb,
            search=_search,
        )  # fmt: skip

    def paper(self, paper: Paper) -> str:
        """The page of one paper."""
        card = paper.card
        found = tables(paper)
        shown = {table.experiment: plots.by_condition(table, paper.styles) for table in found}
        bands = curves.from_csv(paper.folder / "curves.csv")
        judged = zip(card.claims, paper.verdicts, strict=True) if card else ()
        claims = [(claim, verdict, effects(claim, paper)) for claim, verdict in judged]
        return self.env.get_template("paper.html").render(
            paper=paper, card=card, claims=claims, tables=found, plots=shown, how=Markup(_emphasised(HOW)),
            curves=plots.curves(bands, paper.styles), equations=self._equations(paper), details=self._details(paper),
            pictures=[self._picture(paper, path) for path in paper.images], ours=_ours(claims),
            configs=_configs(paper), lost_total=len(paper.unfinished),
            lost=paper.unfinished.head(LOST).to_dict("records"),
        )  # fmt: skip

    def _thumb(self, paper: Paper) -> str | None:
        if not paper.images:
            return None
        path = (Path("figures") / paper.slug / paper.images[0].relative_to(paper.folder)).with_name(
            "thumb.png"
        )
        return quote(path.as_posix()) if (self.out / path).exists() else None

    def _equations(self, paper: Paper) -> list[dict[str, Any]]:
        listed = paper.card.equations if paper.card else []
        return [{"math": mathml(e.tex), "tex": e.tex, "says": e.says, "source": e.source} for e in listed]

    def _picture(self, paper: Paper, path: Path) -> dict[str, Any]:
        """Address, words and size of a picture."""
        from PIL import Image

        inside = path.relative_to(paper.folder).as_posix()
        alt = f"{paper.title}: {path.stem.replace('_', ' ')}"
        if inside == "figure.png" and paper.card and paper.card.figure:
            try:
                words = (load_function(paper.card.figure).__doc__ or "").strip().splitlines()
                alt = words[0] if words else alt
            except UserError as error:
                self.say(f"{paper.slug}: {error}")
        try:
            with Image.open(path) as image:
                size = image.size
        except OSError:
            size = (0, 0)
        return {
            "src": f"../figures/{quote(paper.slug)}/{quote(inside)}",
            "alt": alt,
            "name": inside,
            "size": size,
        }

    def _details(self, paper: Paper) -> Markup | None:
        """The card's own paragraphs, Markdown whose tags stay text."""
        if paper.card is None or paper.card.details is None or paper.table.empty:
            return None
        from markdown_it import MarkdownIt

        try:
            parts = load_function(paper.card.details)(paper.table.copy())
        except Exception as error:  # a fault there must not cost the page
            self.say(f"{paper.slug}: {paper.card.details} raised {type(error).__name__}: {error}")
            return None
        text = (
            MarkdownIt("commonmark", {"html": False})
            .enable("table")
            .disable("image")
            .render("\n\n".join(parts))
        )
        return Markup(text) if parts else None


def _search(paper: Paper) -> str:
    """What the search of the index looks in."""
    card = paper.card
    words = [paper.slug, paper.title]
    if card:
        words += [*card.authors, card.venue, str(card.year), card.family, card.idea, *card.experiments]
        words += [text for claim in card.claims for text in (claim.id, claim.says)]
    words += map(str, paper.styles)
    return short(" ".join(" ".join(words).split()).casefold(), 4000)


def _ours(claims: Sequence[tuple[Any, Any, list[Effects]]]) -> dict[str, str]:
    """By claim, effect and interval in a few letters."""
    from lossatlas.study.table import verdict_cells

    return {claim.id: f"{verdict_cells(verdict)[0]} ({verdict.verdict})" for claim, verdict, _ in claims}


def _configs(paper: Paper) -> dict[str, str]:
    """The text of every experiment file that the paper's claims or records name."""
    names = list(
        dict.fromkeys([*(paper.card.experiments if paper.card else []), *paper.table["experiment"].unique()])
    )
    found = {}
    for name in names:
        path = conf_dir() / "experiment" / f"{name}.yaml"
        if conf_dir() in path.resolve().parents and path.is_file():
            found[name] = path.read_text(encoding="utf-8")
    return found


def _emphasised(text: str) -> str:
    parts = str(Markup.escape(text)).split("*")
    return "".join(f"<em>{part}</em>" if k % 2 else part for k, part in enumerate(parts))


def _inline(text: str) -> Markup:
    """Code and emphasis of a line of Markdown; tags stay text."""
    from markdown_it import MarkdownIt

    return Markup(MarkdownIt("zero", {"html": False}).enable(["backticks", "emphasis"]).renderInline(text))


def _slug(word: str) -> str:
    return word.replace(" ", "-")
