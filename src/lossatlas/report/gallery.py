"""README's gallery: a block between two markers, made of the same cards and verdicts as the report."""

from __future__ import annotations

import html
from pathlib import Path

from lossatlas import records
from lossatlas.errors import UserError
from lossatlas.report.gather import VERDICTS, Paper, papers

BEGIN, END = "<!-- gallery:begin -->", "<!-- gallery:end -->"
WIDE = 2  # papers beside each other


def fill(readme: str | Path, experiments: Path) -> None:
    """Put the gallery between its markers.

    Args:
        readme: file that has the markers; pictures are linked relative to its folder.
        experiments: folder of evidence.

    Raises:
        UserError: the file or a marker is missing, or there is no card.
    """
    readme = Path(readme)
    try:
        text = readme.read_text(encoding="utf-8")
    except OSError as error:
        raise UserError(f"{readme} cannot be read ({error.strerror}): name a README") from None
    if text.count(BEGIN) != 1 or text.count(END) != 1 or text.index(BEGIN) > text.index(END):
        raise UserError(f"{readme} must hold {BEGIN} and, behind it, {END}, each once")
    head, tail = text[: text.index(BEGIN) + len(BEGIN)], text[text.index(END) :]
    base = readme.resolve().parent
    records.write_text(f"{head}\n{block(papers(experiments), base)}\n{tail}", readme)


def block(found: list[Paper], base: Path) -> str:
    """A table of pictures with a line under each; papers without a picture are listed below."""
    cells = [_cell(paper, base) for paper in found if paper.images]
    lines = ["<table>"]
    for k in range(0, len(cells), WIDE):
        lines += ["<tr>", *cells[k : k + WIDE], "</tr>"]
    lines.append("</table>")
    rest = [f"{html.escape(paper.title)} ({told(paper)})" for paper in found if not paper.images]
    return "\n".join([*lines, *([f"\nWithout a picture yet: {'; '.join(rest)}."] if rest else [])])


def told(paper: Paper) -> str:
    """Claims by verdict in words."""
    return ", ".join(f"{paper.counts[word]} {word}" for word in VERDICTS if paper.counts[word]) or "no claim"


def _cell(paper: Paper, base: Path) -> str:
    folder = paper.folder.resolve()
    inside = folder.relative_to(base).as_posix() if base in folder.parents else folder.as_posix()
    picture = f"{inside}/{paper.images[0].relative_to(paper.folder).as_posix()}"
    title = html.escape(paper.title)
    venue = html.escape(f"{paper.card.venue} {paper.card.year}") if paper.card else ""
    return (
        f'<td width="50%" valign="top"><a href="{html.escape(inside)}/README.md"><img src="{html.escape(picture)}" '
        f'alt="figure of {title}" width="100%"></a><br><b>{title}</b><br>{venue}: {told(paper)}</td>'
    )
