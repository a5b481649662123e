"""Texts: sources, cache and declaration of the King James text; words, vocabulary, splits, next-word samples."""

import importlib.util
import struct
import subprocess
from pathlib import Path

import numpy as np
import pytest
import torch
import yaml
from hydra import compose, initialize_config_dir
from hydra.utils import instantiate
from stand_ins import sha

from lossatlas.data.lines import load_lines
from lossatlas.data.text import (
    BRS_HEADER,
    BRS_MAGIC,
    Verses,
    arrange,
    canonical_text,
    fake_verses,
    load_verses,
    read_brs,
)
from lossatlas.data.words import next_words, split_chapters, vocabulary, words
from lossatlas.errors import UserError
from lossatlas.paths import CHECKOUT, conf_dir

BOOKS = {"Genesis": [2, 1], "Mark": [1, 2]}
TEXT = ("In the beginning.", "And the earth was.", "Noah's ark, too.", "The voice:", "And he was;", "Amen.")
REFERENCES = ("Ge1:1", "Ge1:2", "Ge2:1", "Mark1:1", "Mark2:1", "Mark2:2")


@pytest.fixture
def declared(tmp_path: Path) -> dict:
    """A text of six verses in a mirror."""
    (tmp_path / "mirror" / "text").mkdir(parents=True)
    (tmp_path / "mirror" / "text" / "toy.txt").write_text(canonical_text(TEXT))
    source = {"kind": "mirror", "path": "text/toy.txt", "format": "lines"}
    sums = sha(canonical_text(TEXT).encode())
    return {
        "name": "toy", "books": BOOKS, "new_testament": "Mark", "sources": [source], "sha256": sums,
        "root": tmp_path / "root", "mirrors": [tmp_path / "mirror"],
    }  # fmt: skip


def lzw(data: bytes) -> bytes:
    """What compress(1) writes, with 9-bit codes of single bytes only: enough for fewer than 200 bytes."""
    bits = "".join(f"{byte:09b}"[::-1] for byte in data)
    bits += "0" * (-len(bits) % 8)
    return bytes(int(bits[i : i + 8][::-1], 2) for i in range(0, len(bits), 8))


def brs(lines: list[str], window: int = 60) -> bytes:
    """A data file of the Bible Retrieval System."""
    text = "".join(f"{line}\n" for line in lines).encode()
    packed = [lzw(text[i : i + window]) for i in range(0, len(text), window)]
    start = BRS_HEADER + 8 + 4 * (len(packed) + 1)
    ends = np.cumsum([start, *map(len, packed)]).tolist()
    head = BRS_MAGIC.ljust(BRS_HEADER, b"\0") + struct.pack(">2I", window, len(packed))
    return head + struct.pack(f">{len(ends)}I", *ends) + b"".join(packed)


def numbered() -> list[str]:
    return ["A title.", *(f"{r} {v}" for r, v in zip(REFERENCES, TEXT, strict=True))]


def test_book_chapter_and_testament_of_each_verse(declared: dict) -> None:
    verses = load_verses(**declared)
    assert verses.text == TEXT
    assert verses.book.tolist() == [0, 0, 0, 1, 1, 1]
    assert verses.chapter.tolist() == [0, 0, 1, 2, 3, 3]
    assert verses.new.tolist() == [False] * 3 + [True] * 3
    assert verses.source == "mirror text/toy.txt"


def test_the_cache_answers_when_the_source_is_gone_and_is_checked(declared: dict, capsys) -> None:
    load_verses(**declared)
    (declared["mirrors"][0] / "text" / "toy.txt").unlink()
    assert load_verses(**declared).source == "mirror text/toy.txt"
    cache = declared["root"] / "toy.txt"
    cache.write_text(cache.read_text().replace("ark", "art"))
    with pytest.raises(UserError, match=r"damaged.*sha256.*delete it; no source worked"):
        load_verses(**declared)


def test_the_old_compressed_format_is_read(declared: dict, tmp_path: Path) -> None:
    data = brs(numbered())
    assert tuple(read_brs(data, BOOKS)) == TEXT
    (tmp_path / "lib").mkdir()
    (tmp_path / "lib" / "b.data").write_bytes(data)
    source = {
        "kind": "installed",
        "path": str(tmp_path / "lib"),
        "format": "brs",
        "files": {"b.data": sha(data)},
    }
    verses = load_verses(**{**declared, "sources": [source]})
    assert verses.text == TEXT
    assert (declared["root"] / "toy.txt").read_text() == canonical_text(TEXT)


def test_a_verse_out_of_place_or_a_broken_window_is_named() -> None:
    lines = numbered()
    lines[3], lines[4] = lines[4], lines[3]
    with pytest.raises(Exception, match="verse 2:1 expected, the source holds Mark1:1"):
        read_brs(brs(lines), BOOKS)
    with pytest.raises(Exception, match="not a data file"):
        read_brs(b"something else", BOOKS)


def test_debian_package_without_root(declared: dict, tmp_path: Path, monkeypatch) -> None:
    """apt-get is a stand-in that hands out a package built here; dpkg-deb is the real one."""
    tree = tmp_path / "tree"
    (tree / "DEBIAN").mkdir(parents=True)
    (tree / "usr" / "lib").mkdir(parents=True)
    (tree / "DEBIAN" / "control").write_text(
        "Package: toy\nVersion: 1\nArchitecture: all\nMaintainer: a <a@b.c>\nDescription: toy\n"
    )
    (tree / "usr" / "lib" / "b.data").write_bytes(brs(numbered()))
    subprocess.run(["dpkg-deb", "-b", tree, tmp_path / "toy_1_all.deb"], check=True, capture_output=True)
    bin_ = tmp_path / "bin"
    bin_.mkdir()
    (bin_ / "apt-get").write_text(f"#!/bin/sh\ncp {tmp_path}/toy_1_all.deb .\n")
    (bin_ / "apt-get").chmod(0o755)
    monkeypatch.setenv("PATH", f"{bin_}:/usr/bin:/bin")
    source = {"kind": "deb", "package": "toy", "path": "usr/lib", "format": "brs", "files": {"b.data": None}}
    assert load_verses(**{**declared, "sources": [source]}).text == TEXT


@pytest.mark.parametrize(
    ("change", "word"),
    [
        ({"sources": []}, "its conf/data file names none"),
        ({"mirrors": ()}, r"mirror text/toy.txt \(text/toy.txt not in .*no mirror is set.*fetch_data.py toy"),
        ({"sha256": "0" * 64}, "its verses have sha256"),
        ({"books": {"Genesis": [2], "Mark": [1]}}, "3 verses expected, the source holds 6"),
        ({"new_testament": "Luke"}, "new_testament must be one of its books, got 'Luke'"),
        ({"sources": [{"kind": "carrier pigeon"}]}, "kind must be one of installed, mirror, deb"),
    ],
)
def test_wrong_declarations_are_one_line(declared: dict, change: dict, word: str) -> None:
    with pytest.raises(UserError, match=word) as error:
        load_verses(**{**declared, **change})
    assert "\n" not in str(error.value)


def test_every_source_that_failed_is_named(declared: dict, tmp_path: Path) -> None:
    gone = {"kind": "installed", "path": str(tmp_path / "gone"), "format": "brs", "files": {"b": None}}
    with pytest.raises(UserError, match=r"installed .*gone does not exist\); mirror text/no.txt"):
        load_verses(**{**declared, "sources": [gone, {**declared["sources"][0], "path": "text/no.txt"}]})


def test_an_empty_verse_is_refused(declared: dict) -> None:
    (declared["mirrors"][0] / "text" / "toy.txt").write_text(canonical_text(("", *TEXT[1:])))
    with pytest.raises(UserError, match="verse 0 is"):
        load_verses(**declared)


# --- the King James text


def kjv() -> dict:
    return yaml.safe_load((conf_dir() / "data" / "kjv.yaml").read_text())


def test_the_declaration_has_66_books_1189_chapters_31102_verses() -> None:
    books = kjv()["books"]
    assert len(books) == 66
    assert sum(map(len, books.values())) == 1189
    assert sum(map(sum, books.values())) == 31102
    assert list(books).index("Matthew") == 39
    assert books["Psalms"][116] == 2
    assert books["Psalms"][118] == 176


def test_words_of_a_composed_config_from_generated_verses(tmp_path: Path) -> None:
    with initialize_config_dir(str(conf_dir()), version_base=None):
        cfg = compose(
            "config", ["data=kjv_words", "fake=true", f"data_root={tmp_path}/never", "data.tokens=null"]
        )
    data = instantiate(cfg.data)
    assert data.source == "fake"
    assert data.classes > 30
    assert not (tmp_path / "never").exists()


def test_script_fetches_a_text(declared: dict, tmp_path: Path, monkeypatch, capsys) -> None:
    spec = importlib.util.spec_from_file_location("fetch_data", CHECKOUT / "scripts" / "fetch_data.py")
    assert spec is not None
    assert spec.loader is not None
    script = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(script)
    (tmp_path / "conf" / "data").mkdir(parents=True)
    node = {k: declared[k] for k in ("name", "books", "new_testament", "sources", "sha256")}
    (tmp_path / "conf" / "data" / "toy.yaml").write_text(yaml.safe_dump(node))
    monkeypatch.setattr(script, "conf_dir", lambda: tmp_path / "conf")
    root, mirror = str(declared["root"]), str(declared["mirrors"][0])
    assert script.main(["toy", "--root", root, "--mirrors", mirror]) == 0
    assert "toy: 6 verses (mirror text/toy.txt)" in capsys.readouterr().out


# --- generated text


def test_fake_verses_are_seeded_and_tell_the_testaments_apart() -> None:
    one, two = fake_verses(), fake_verses()
    assert one.text == two.text
    assert one.text != fake_verses(seed=1).text
    assert len(one) == len(one.chapter) == len(one.new) == 600
    assert one.new.sum() == 300
    old, new = ({w for i in np.flatnonzero(one.new == side) for w in words(one.text[i])} for side in (0, 1))
    assert len(new - old) > 5
    assert len(old - new) > 5
    assert len(old & new) > 40


# --- words


def test_words_and_vocabulary() -> None:
    assert words("And Noah's sons-in-law: Ham, (two).") == [
        "and", "noah's", "sons", "-", "in", "-", "law", ":", "ham", ",", "(", "two", ")", ".",
    ]  # fmt: skip
    assert vocabulary(list("bbaaac"), at_least=2) == {"a": 0, "b": 1}
    assert vocabulary(list("cbbaa"), at_most=1) == {"a": 0}


def verses_of(lengths: list[int]) -> Verses:
    """One verse of `n` words per chapter."""
    text = [" ".join(f"w{'abc'[k % 3]}" for k in range(n)) for n in lengths]
    return arrange(text, {"A": [1] * (len(lengths) - 1), "B": [1]}, "B", "here")


def test_parts_are_consecutive_and_end_with_a_chapter() -> None:
    verses = verses_of([4, 4, 4, 5, 2, 9])
    parts = split_chapters(verses, [4, 4, 4, 5, 2, 9], [9, 9, 3])
    assert [p.tolist() for p in parts] == [[0, 1], [2, 3], [4]]
    with pytest.raises(UserError, match="a part of 3 tokens holds no whole chapter of the 28 tokens"):
        split_chapters(verses, [4, 4, 4, 5, 2, 9], [3])


def test_next_word_samples() -> None:
    books = {"A": [1, 1, 1], "B": [1]}
    verses = arrange(["a b a c", "a b b c rare a c", "b a c c", "a b rare c"], books, "B", "here")
    sizes = {"train": 11, "val": 4, "test": 4}
    data = next_words(verses, context=2, tokens=sizes, at_least=2, val=True)
    a, b, c, unk, start = 0, 1, 2, 3, 4
    assert data.classes == 3
    assert data.train.x[:4].tolist() == [[start, start], [start, a], [a, b], [b, a]]
    assert data.train.y.tolist() == [a, b, a, c, a, b, b, c, a, c]  # `rare` is no target
    assert data.train.x[8].tolist() == [c, unk]  # but a context
    assert data.test.y.tolist() == [a, b, c]
    assert data.val is not None
    assert data.val.y.tolist() == [b, a, c, c]
    assert data.batch("train", torch.arange(2), train=True).x.dtype == torch.int64
    cut = next_words(verses, context=2, tokens=sizes, at_least=2, limit={"train": 5, "test": 1})
    assert (len(cut.train), len(cut.test), cut.val) == (5, 1, None)


def test_words_refuses_what_the_text_does_not_hold() -> None:
    with pytest.raises(UserError, match=r"at least 3 words is needed, got 0: lower data.at_least"):
        next_words(fake_verses(), at_least=10_000)
    with pytest.raises(UserError, match=r"context and data\.at_least"):
        next_words(fake_verses(), context=0)
    with pytest.raises(UserError, match="no whole chapter"):
        next_words(fake_verses(), tokens={"train": 10**6})


# --- tokenised lines with parts of their own


def lines_source(folder: Path) -> dict:
    (folder / "text").mkdir(parents=True, exist_ok=True)
    texts = {"a.txt": " the <unk> cat \n N cats sat \n", "b.txt": " the cat sat \n", "c.txt": " a cat \n"}
    for name, text in texts.items():
        (folder / "text" / name).write_text(text)
    return {
        "kind": "files",
        "path": "text",
        "files": {n: {"sha256": sha(t.encode())} for n, t in texts.items()},
    }


def test_tokenised_lines_keep_their_parts_and_marks(tmp_path: Path) -> None:
    source = lines_source(tmp_path / "mirror")
    place = {"root": tmp_path / "root", "mirrors": [tmp_path / "mirror"]}
    corpus = load_lines("toy", [source], **place)
    assert corpus.text == ("the <unk> cat <eos>", "N cats sat <eos>", "the cat sat <eos>", "a cat <eos>")
    assert corpus.books == ("train", "val", "test")
    (tmp_path / "mirror" / "text" / "a.txt").unlink()
    assert load_lines("toy", [source], **place).text == corpus.text
    data = next_words(corpus, context=3, at_least=1, own_parts=True, val=True)
    assert data.classes == 7  # the, <unk>, cat, <eos>, N, cats, sat
    assert (len(data.train), len(data.test)) == (8, 2)  # `a` is unknown
    assert data.val is not None
    assert len(data.val) == 4
    assert data.train.x[4].tolist() == [*data.train.x[3, 1:].tolist(), int(data.train.y[3])]  # over <eos>


def test_tokenised_lines_that_are_not_there_are_one_line(tmp_path: Path) -> None:
    source = lines_source(tmp_path / "mirror")
    url = {"kind": "url", "url": "http://127.0.0.1:9/x", "files": source["files"]}
    with pytest.raises(UserError, match=r"files text \(a.txt, b.txt, c.txt not in.*url http.*cannot reach"):
        load_lines("toy", [source, url], root=tmp_path / "root")
    with pytest.raises(UserError, match="its sentences have sha256"):
        load_lines("toy", [source], sha256="0" * 64, root=tmp_path / "root", mirrors=[tmp_path / "mirror"])
    assert load_lines("toy", fake=True).source == "fake"
