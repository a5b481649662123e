"""The atlas as static pages: an index of papers and a page each, from cards and records, for any browser offline.

gather.py    card, records, verdicts of a paper       stale.py     does today's code still compose a record's config
effects.py   claims: intervals against the bar        rows.py      arms by conditions, with commands
plots.py     Plotly figures as data                   equations.py LaTeX to MathML
gallery.py   the same facts as a block of README      templates/, static/   pages, style, the little script
"""

from __future__ import annotations

import shutil
import sys
from collections.abc import Callable, Sequence
from dataclasses import replace
from importlib import resources
from pathlib import Path
from typing import Any

import numpy as np

from lossatlas import records
from lossatlas.errors import UserError
from lossatlas.report.gather import Paper, papers
from lossatlas.report.pages import Pages
from lossatlas.report.stale import states

__all__ = ["Paper", "build", "papers"]
MARK = ".lossatlas-report"  # a folder without it is not ours to empty
THUMB = 320  # pixels


def build(
    experiments: str | Path, out: str | Path, *, check: bool = True, cache: Path | None = None,
    say: Callable[[str], Any] = lambda line: None,
) -> Path:  # fmt: skip
    """Write the report; returns its index.html.

    Args:
        experiments: folder of evidence, a card each.
        out: made, or emptied if an earlier report lies there.
        check: compose today's configs and mark records that have another hash.
        cache: file that keeps the answers of `check`.
        say: gets a line for whatever could not be read or drawn.

    Raises:
        UserError: no card, `out` holds other files or cannot be written, or a package of the report is missing.
    """
    with np.errstate(over="ignore", invalid="ignore"):  # a record may hold any number
        return _built(Path(experiments), Path(out), check, cache, say)


def _built(experiments: Path, out: Path, check: bool, cache: Path | None, say: Callable[[str], Any]) -> Path:
    found = papers(experiments)
    if check:
        found = _checked(found, cache)
    _emptied(out)
    pages = Pages(found, out, say)
    _assets(out / "assets")
    for paper in found:
        for line in paper.trouble:
            say(f"{paper.slug}: {line}")
        _pictures(paper, out, say)
        records.write_text(pages.paper(paper), out / "papers" / f"{paper.slug}.html")
    records.write_text(pages.index(), out / "index.html")
    return out / "index.html"


def _checked(found: Sequence[Paper], cache: Path | None) -> list[Paper]:
    """All papers' records in one go, since Hydra starts once for them."""
    import pandas as pd

    filled = [paper.table for paper in found if not paper.table.empty]
    if not filled:
        return list(found)
    both = pd.concat(filled, keys=range(len(filled)))
    keys = list(dict.fromkeys(key for table in filled for key in records.condition_columns(table)))
    both = both.reindex(columns=[*records.HEAD, *keys, *records.MIDDLE, *records.TAIL])
    both[keys] = both[keys].fillna("")
    known = states(both, cache)
    numbers = iter(range(len(filled)))
    return [p if p.table.empty else replace(p, states=known.loc[next(numbers)]) for p in found]


def _emptied(out: Path) -> None:
    if out.exists() and any(out.iterdir()):
        if not (out / MARK).exists():
            raise UserError(f"{out} holds files that are no report: name another folder with --out")
        shutil.rmtree(out)
    records.write_text("made by python -m lossatlas.report; emptied by the next one\n", out / MARK)


def _assets(folder: Path) -> None:
    """Style, script and the Plotly that the plotly package brings, so that a page asks nobody for anything."""
    try:
        plotly = resources.files("plotly") / "package_data" / "plotly.min.js"
        content = plotly.read_bytes()
    except (ImportError, OSError):
        raise UserError("the report needs plotly: pip install 'lossatlas[report]'") from None
    records.write_text(content, folder / "plotly.min.js")
    for name in ("atlas.css", "atlas.js", "plots.js"):
        records.write_text((resources.files(__name__) / "static" / name).read_bytes(), folder / name)


def _pictures(paper: Paper, out: Path, say: Callable[[str], Any]) -> None:
    """The evidence's pictures, and a small one for the index."""
    from PIL import Image

    for k, path in enumerate(paper.images):
        target = out / "figures" / paper.slug / path.relative_to(paper.folder)
        records.write_text(path.read_bytes(), target)
        if k == 0:
            try:
                with Image.open(path) as image:
                    small = image.convert("RGB")
                    small.thumbnail((THUMB, THUMB))
                    small.quantize(64).save(target.with_name("thumb.png"), optimize=True)
            except (OSError, ValueError) as error:
                say(f"{paper.slug}: {path.name} is no picture ({error})")


def warn(line: str) -> None:
    """A line of the builder on the error stream."""
    print(f"lossatlas: {line}", file=sys.stderr)
