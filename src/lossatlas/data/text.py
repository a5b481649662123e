"""Texts: verses with book and chapter, fetched once, kept as plain text, verified by sha256.

A corpus is declared in conf/data like a table: its sources in the order they are tried, and its books with the
number of verses of every chapter, so that a source needs to hold nothing but the verses in their order.
"""

import re
import struct
import subprocess
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np

from lossatlas.data.cache import Place, kept_text, make_place, sha_of
from lossatlas.data.fetching import check_kinds, fetch_once, first_that_works
from lossatlas.data.plain import decoded, text_lines
from lossatlas.data.sources import Entry, deb_files, installed_files, local_sums, mirror_file
from lossatlas.data.transport import SourceError, Unreachable, inside
from lossatlas.errors import UserError

Books = Mapping[str, Sequence[int]]
BRS_MAGIC, BRS_HEADER = b"EC02Compressed Data File", 0x54  # there: window size, number of windows, their ends
COMPRESS_MAGIC = b"\x1f\x9d\x90"  # of compress(1) with codes of up to 16 bits; the windows leave it out


@dataclass(frozen=True)
class Verses:
    """A text in order.

    Args:
        text: n verses.
        book: (n,) int64, number of the book in `books`.
        chapter: (n,) int64, number of the chapter, counted through the whole text from 0.
        new: (n,) bool, whether the verse belongs to the New Testament.
        books: names in order.
        source: where it came from.
        digest: sha256 of the text; "" where it is made up.
    """

    text: tuple[str, ...]
    book: np.ndarray
    chapter: np.ndarray
    new: np.ndarray
    books: tuple[str, ...]
    source: str = ""
    digest: str = ""

    def __len__(self) -> int:
        return len(self.text)


def load_verses(
    name: str,
    books: Books,
    new_testament: str,
    sources: Sequence[Entry] = (),
    sha256: str | None = None,
    fake: bool = False,
    root: str | Path | None = None,
    mirrors: str | Sequence[str | Path] | None = (),
) -> Verses:
    """A declared text; the first source that works is kept as `<root>/<name>.txt` and used from then on.

    Without a sha256 the cache belongs to the declaration and to what its files on this machine hold, see `kept_text`.

    Args:
        name: of the text and its cache.
        books: for each book in order, the verses of its chapters.
        new_testament: the first book of it.
        sources: see conf/data/kjv.yaml.
        sha256: of the verses in order, each ended by a newline, UTF-8.
        fake: generated verses (`fake_verses`) instead; touches no disk.
        root, mirrors: as for `lossatlas.data.load`.

    Raises:
        UserError: a wrong declaration, or no source gave the declared verses.

    Example:
        >>> len(load_verses("toy", {"A": [1], "B": [1]}, "B", fake=True))
        600
    """
    if new_testament not in books:
        raise UserError(f"{name}: new_testament must be one of its books, got {new_testament!r}")
    if fake:
        return fake_verses()
    text, source = fetch_text(name, books, sources, sha256, make_place(root, mirrors))
    return arrange(text, books, new_testament, source)


def fetch_text(
    name: str, books: Books, sources: Sequence[Entry], sha256: str | None, place: Place, refresh: bool = False
) -> tuple[tuple[str, ...], str]:
    """The verses and their source: from the cache, else from the first source that works.

    Raises:
        UserError: no source worked, or the data folder cannot be written.
    """
    check_kinds(name, sources, list(KINDS))
    kept = kept_text(
        name, sha256, place, [books, sources], lambda: local_sums(sources, lambda e: _paths(e, place))
    )

    def attempt(entry: Entry) -> tuple[str, ...]:
        files = KINDS[entry["kind"]](entry, place)
        (data,) = files.values()
        return checked(FORMATS[entry["format"]](data, books), books, sha256)

    def read() -> tuple[tuple[str, ...], str] | None:
        held = kept.read()
        return held and (checked(read_lines(held[0], books), books, sha256), held[1])

    return fetch_once(
        name,
        kept.path,
        read,
        fresh=lambda damage: first_that_works(name, sources, attempt, damage),
        write=lambda text, source: kept.write(canonical_text(text), source),
        rows=lambda text: f"{len(text)} verses",
        refresh=refresh,
    )


def canonical_text(text: Sequence[str]) -> str:
    """The bytes that are hashed and kept: one verse a line."""
    return "".join(f"{verse}\n" for verse in text)


def checked(text: Sequence[str], books: Books, sha256: str | None) -> tuple[str, ...]:
    """The verses, if they are as many as declared, none empty, and have the declared sha256.

    Raises:
        ValueError: they are not.
    """
    total = sum(map(sum, books.values()))
    if len(text) != total:
        raise ValueError(f"{total} verses expected, the source holds {len(text)}")
    if empty := [i for i, verse in enumerate(text) if not verse.strip()]:
        raise ValueError(f"verses must not be empty, verse {empty[0]} is")
    found = sha_of(canonical_text(text))
    if sha256 and found != sha256:
        raise ValueError(f"its verses have sha256 {found[:12]}.. instead of {sha256[:12]}..")
    return tuple(text)


def arrange(text: Sequence[str], books: Books, new_testament: str, source: str) -> Verses:
    """Verses with book, chapter and testament, from the declared numbers of verses."""
    names = tuple(books)
    lengths = [n for chapters in books.values() for n in chapters]
    of_chapter = np.repeat(np.arange(len(names)), [len(chapters) for chapters in books.values()])
    chapter = np.repeat(np.arange(len(lengths)), lengths)
    book = of_chapter[chapter]
    return Verses(
        tuple(text),
        book,
        chapter,
        book >= names.index(new_testament),
        names,
        source,
        sha_of(canonical_text(text)),
    )


def read_lines(data: bytes, books: Books) -> list[str]:
    """Plain UTF-8, one verse a line."""
    return text_lines(decoded(data, "the text"))


def read_brs(data: bytes, books: Books) -> list[str]:
    """The data file of the Bible Retrieval System: windows of 64 KiB, each packed by compress(1).

    A title, then verses that open with their reference (`Ge1:1`), which must be the declared one. gzip unpacks
    the old format; a Debian system always has it.

    Raises:
        SourceError: not such a file, damaged, or no gzip here.
    """
    if not data.startswith(BRS_MAGIC):
        raise SourceError("not a data file of the Bible Retrieval System")
    _, count = struct.unpack_from(">2I", data, BRS_HEADER)
    ends = struct.unpack_from(f">{count + 1}I", data, BRS_HEADER + 8)
    windows = [_unpack(data[a:b]) for a, b in pairwise(ends)]
    _title, *lines = b"".join(windows).decode("ascii").splitlines()
    wanted = [
        (c, v) for chapters in books.values() for c, n in enumerate(chapters, 1) for v in range(1, n + 1)
    ]
    verses = []
    for line, (chapter, number) in zip(lines, wanted, strict=False):
        reference, _, verse = line.partition(" ")
        if not re.fullmatch(rf"\d?[A-Za-z]+{chapter}:{number}", reference):
            raise SourceError(f"verse {chapter}:{number} expected, the source holds {reference[:20]}")
        verses.append(verse)
    return verses + lines[len(wanted) :]


def _unpack(window: bytes) -> bytes:
    try:
        return subprocess.run(
            ["gzip", "-dc"], input=COMPRESS_MAGIC + window, capture_output=True, check=True
        ).stdout
    except FileNotFoundError as error:
        raise Unreachable("gzip is not installed") from error
    except subprocess.CalledProcessError as error:
        raise SourceError(f"gzip: {error.stderr.decode(errors='replace').strip()}") from error


KINDS: dict[str, Callable[[Entry, Place], dict[str, bytes]]] = {
    "installed": lambda entry, place: installed_files(entry),
    "mirror": mirror_file,
    "deb": lambda entry, place: deb_files(entry),
}


def _paths(entry: Entry, place: Place) -> dict[str, Path]:
    """The files that a source of a text would read on this machine."""
    if entry["kind"] == "installed":
        return {n: Path(entry["path"]) / n for n in entry["files"]}
    if entry["kind"] == "mirror":
        path = inside(entry["path"])
        found = [folder / path for folder in (*place.mirrors, place.root) if (folder / path).is_file()]
        return {path.name: found[0]} if found else {}
    return {}


FORMATS: dict[str, Callable[[bytes, Books], list[str]]] = {"lines": read_lines, "brs": read_brs}


def fake_verses(seed: int = 0, books: int = 6, chapters: int = 10, verses: int = 10) -> Verses:
    """Made-up text with the shape of the real one: a seeded word stream in which a word has few successors.

    The second half of the books is the New Testament and has words of its own, so that a classifier can
    tell the testaments apart.

    Args:
        seed: >= 0; the same seed gives the same text.
        books: >= 2.
        chapters: of a book, >= 1.
        verses: of a chapter, >= 1; 6 to 16 words each.
    """
    rng = np.random.default_rng(seed)
    syllables = [a + b for a in "bdfgklmnprst" for b in "aeiou"]
    pairs = rng.permutation(len(syllables) ** 2)[:120]
    words = [syllables[p // len(syllables)] + syllables[p % len(syllables)] for p in pairs]
    n, text = books * chapters * verses, []
    book = np.repeat(np.arange(books), chapters * verses)
    new = book >= books // 2
    common, own = 80, 20  # words of both testaments, words of each
    rank = 1.0 / np.arange(1, common + own + 1)
    follows = rng.choice(common + own, size=(common + own, 6), p=rank / rank.sum())
    for i in range(n):
        state, spoken = int(rng.integers(common)), []
        for _ in range(int(rng.integers(6, 17))):
            state = int(follows[state, rng.integers(6)] if rng.random() < 0.9 else rng.integers(common + own))
            spoken.append(words[state + own if state >= common and new[i] else state])
        if len(spoken) > 10:
            spoken[5] += ","
        text.append(" ".join(spoken).capitalize() + ".")
    names = tuple(f"Book {k + 1}" for k in range(books))
    return Verses(tuple(text), book, np.repeat(np.arange(books * chapters), verses), new, names, "fake")


def declaration(node: Mapping[str, Any]) -> dict[str, Any]:
    """The arguments of `fetch_text` in a conf/data node, for scripts/fetch_data.py."""
    return {
        "name": node["name"],
        "books": node["books"],
        "sources": node["sources"],
        "sha256": node.get("sha256"),
    }


def text_digest(node: Mapping[str, Any]) -> str:
    """`Verses.digest` of a conf/data node; "" where the verses are made up."""
    if node.get("fake"):
        return ""
    place = make_place(node.get("root"), node.get("mirrors"))
    return node.get("sha256") or sha_of(canonical_text(fetch_text(**declaration(node), place=place)[0]))
