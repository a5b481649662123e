"""Corpora that come tokenised, one sentence a line, with their own training, validation and test files."""

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from lossatlas.data.cache import Place, kept_text, make_place, sha_of
from lossatlas.data.fetching import check_kinds, fetch_once, first_that_works
from lossatlas.data.plain import decoded, text_lines
from lossatlas.data.sources import Entry, installed_files, local_sums
from lossatlas.data.text import Verses, fake_verses
from lossatlas.data.transport import Unreachable, download, verify

PARTS = ("train", "val", "test")


def load_lines(
    name: str,
    sources: Sequence[Entry] = (),
    sha256: str | None = None,
    fake: bool = False,
    root: str | Path | None = None,
    mirrors: str | Sequence[str | Path] | None = (),
) -> Verses:
    """A corpus as sentences; the first source that works is kept as `<root>/<name>.txt` and used from then on.

    Each part is one book of one chapter, so that a context runs on over the ends of its sentences, which are the
    word <eos>.

    Args:
        name: of the corpus and its cache.
        sources: each `files` lists the training, validation and test file in this order, with checksums.
        sha256: of the cached text (the parts joined by a form feed).
        fake: generated sentences instead; touches no disk.
        root, mirrors: as for `lossatlas.data.load`.

    Raises:
        UserError: no source gave three parts.

    Example:
        >>> load_lines("toy", fake=True).books
        ('train', 'val', 'test')
    """
    if fake:
        verses = fake_verses(books=4, chapters=10)
        ends = np.searchsorted(verses.chapter, [24, 32])
        lines = [
            " ".join(verse.lower().replace(",", " ,").replace(".", " .").split()) for verse in verses.text
        ]
        parts = tuple("\n".join(lines[a:b]) for a, b in ((0, ends[0]), (ends[0], ends[1]), (ends[1], None)))
        return _arranged(parts, "fake")
    parts, source = fetch_lines(name, sources, sha256, make_place(root, mirrors))
    return _arranged(parts, source)


def fetch_lines(
    name: str, sources: Sequence[Entry], sha256: str | None, place: Place, refresh: bool = False
) -> tuple[tuple[str, ...], str]:
    """The three parts and their source: from the cache, else from the first source that works."""
    check_kinds(name, sources, list(KINDS))
    kept = kept_text(name, sha256, place, sources, lambda: local_sums(sources, lambda e: _paths(e, place)))

    def read() -> tuple[tuple[str, ...], str] | None:
        held = kept.read()
        return held and (_checked(tuple(decoded(held[0], kept.path.name).split("\f")), sha256), held[1])

    def attempt(entry: Entry) -> tuple[str, ...]:
        files = KINDS[entry["kind"]](entry, place)
        texts = [decoded(files[n], n).replace("\r\n", "\n").strip() for n in entry["files"]]
        if torn := [n for n, text in zip(entry["files"], texts, strict=True) if "\f" in text]:
            raise ValueError(f"{torn[0]} holds a form feed, which parts the cache: take it out")
        return _checked(tuple(texts), sha256)

    return fetch_once(
        name,
        kept.path,
        read,
        fresh=lambda damage: first_that_works(name, sources, attempt, damage),
        write=lambda parts, source: kept.write("\f".join(parts), source),
        rows=lambda parts: f"{sum(part.count(chr(10)) + 1 for part in parts)} sentences",
        refresh=refresh,
    )


def _checked(parts: tuple[str, ...], sha256: str | None) -> tuple[str, ...]:
    if len(parts) != len(PARTS) or not all(part.strip() for part in parts):
        raise ValueError(
            f"a training, a validation and a test part expected, the source holds {len(parts)} or an empty one"
        )
    found = _digest(parts)
    if sha256 and found != sha256:
        raise ValueError(f"its sentences have sha256 {found[:12]}.. instead of {sha256[:12]}..")
    return parts


def _digest(parts: Sequence[str]) -> str:
    return sha_of("\f".join(parts))


def lines_digest(node: Mapping[str, Any]) -> str:
    """`Verses.digest` of a conf/data node; "" where the sentences are made up."""
    if node.get("fake"):
        return ""
    place = make_place(node.get("root"), node.get("mirrors"))
    return node.get("sha256") or _digest(fetch_lines(node["name"], node.get("sources") or (), None, place)[0])


def _arranged(parts: Sequence[str], source: str) -> Verses:
    lines = [text_lines(part) for part in parts]
    book = np.repeat(np.arange(len(PARTS)), [len(part) for part in lines])
    text = tuple(f"{line.strip()} <eos>" for part in lines for line in part)
    return Verses(
        text, book, book, np.zeros(len(text), bool), PARTS, source, "" if source == "fake" else _digest(parts)
    )


def _from_url(entry: Entry, place: Place) -> dict[str, bytes]:
    base = str(entry["url"]).rstrip("/")
    return {n: download(f"{base}/{n}", place.downloads / n, sums) for n, sums in entry["files"].items()}


def _from_folders(entry: Entry, place: Place) -> dict[str, bytes]:
    """Files laid by hand into a mirror or the data folder, below `path`."""
    for folder in (*place.mirrors, place.root):
        held = folder / str(entry.get("path", ""))
        if all((held / n).is_file() for n in entry["files"]):
            return {n: verify((held / n).read_bytes(), sums or {}, n) for n, sums in entry["files"].items()}
    raise Unreachable(f"{', '.join(entry['files'])} not in a mirror or {place.root}")


def _paths(entry: Entry, place: Place) -> dict[str, Path]:
    """The files that a source would read on this machine."""
    if entry["kind"] == "installed":
        return {n: Path(entry["path"]) / n for n in entry["files"]}
    if entry["kind"] == "files":
        held = [folder / str(entry.get("path", "")) for folder in (*place.mirrors, place.root)]
        return next(
            (
                {n: h / n for n in entry["files"]}
                for h in held
                if all((h / n).is_file() for n in entry["files"])
            ),
            {},
        )
    return {}


def _from_hub(entry: Entry, place: Place) -> dict[str, bytes]:
    """Parquet files of the hub at a revision, their `column` one sentence a row."""
    import os

    from lossatlas.data.transport import reach

    reach(os.environ.get("HF_ENDPOINT") or "https://huggingface.co")
    import pyarrow.parquet as parquet
    from huggingface_hub import hf_hub_download

    found = {}
    for name in entry["files"]:
        path = hf_hub_download(entry["id"], name, repo_type="dataset", revision=entry["revision"])
        found[name] = "\n".join(parquet.read_table(path)[entry["column"]].to_pylist()).encode()
    return found


KINDS: dict[str, Callable[[Entry, Place], dict[str, bytes]]] = {
    "installed": lambda entry, place: installed_files(entry),
    "files": _from_folders,
    "url": _from_url,
    "hub": _from_hub,
}
