"""Caches that gave another declaration's or another file's rows without a word.

`before` in a docstring is what the loader returned as it was, silently unless said.
"""

import json
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as parquet
import pytest
from omegaconf import OmegaConf
from trust_sets import COINS, CSV, EVEN, labels_by_feature, mine, rows

from lossatlas import inputs
from lossatlas.data import load
from lossatlas.data.lines import load_lines
from lossatlas.data.table import Table, canonical
from lossatlas.data.text import load_verses
from lossatlas.errors import UserError
from lossatlas.records import Record

# --- a cache that knows only the name (item 2)


def test_a_file_whose_content_changed_is_read_again(tmp_path: Path) -> None:
    """before: the old labels, and top-1 1.0 on coin flips."""
    first, again = mine(tmp_path, EVEN), mine(tmp_path, COINS)
    assert labels_by_feature(first) == [k % 2 for k in range(20)]
    assert labels_by_feature(again) == [int(k in (1, 2, 3, 5, 8, 13)) for k in range(20)]
    assert first.digest != again.digest
    assert mine(tmp_path, EVEN).digest == first.digest


@pytest.mark.parametrize(
    ("change", "right"),
    [
        ({"source": {"y": 0}}, [k // 2 % 2 for k in range(20)]),
        ({"labels": [1, 0]}, [1 - k % 2 for k in range(20)]),
        ({"classes": 3}, [k % 2 for k in range(20)]),
        ({"shape": [2]}, "shape .* expected"),
        ({"source": {"drop": [0]}}, "no column is left"),
    ],
    ids=["y", "labels", "classes", "shape", "drop"],
)
def test_another_declaration_is_another_table(tmp_path: Path, change: dict, right: list[int] | str) -> None:
    """before: the table of the first declaration, for y: 0 as for labels [1, 0]; a shape was said to be damage."""
    text = (
        EVEN if "y" not in change.get("source", {}) else "".join(f"{k // 2 % 2},{k % 2}\n" for k in range(20))
    )
    first = mine(tmp_path, text, standardise=False)
    if isinstance(right, str):
        with pytest.raises(UserError, match=right):
            mine(tmp_path, **change)
        return
    data = mine(tmp_path, standardise=False, **change)
    if "y" in change.get("source", {}):
        assert sorted(right) == sorted(labels_by_feature(data))
        assert [row[::-1] for row in rows(data)] != rows(first)
        assert sorted(row[::-1] for row in rows(data)) == rows(first)
    else:
        assert labels_by_feature(data) == right


def test_raw_and_standardised_features_share_a_file_and_differ(tmp_path: Path) -> None:
    """before: there was no `standardise: false`."""
    assert mine(tmp_path, EVEN, standardise=False).train.x.max() > 10
    assert mine(tmp_path).train.x.max() < 3


def test_a_file_that_appears_before_the_one_that_was_read_is_taken(tmp_path: Path) -> None:
    """before: the second source's rows for ever."""
    two = [{**CSV, "files": {"better.csv": None}}, CSV]
    given = {"classes": 2, "shape": [1], "test": 2, "root": tmp_path, "sources": two}
    (tmp_path / "mine.csv").write_text(EVEN)
    load("mine", **given)
    (tmp_path / "better.csv").write_text(COINS)
    assert labels_by_feature(load("mine", **given))[2:4] == [1, 1]


def test_mirrors_are_told_apart_by_content(tmp_path: Path) -> None:
    """before: the first mirror's rows, whichever mirror was named."""
    found = []
    for name, shift in (("a", 0), ("b", 100)):
        folder = tmp_path / name / "o" / "set"
        folder.mkdir(parents=True)
        table = pa.table({"x": [v + shift for v in range(8)], "label": [0, 1] * 4})
        parquet.write_table(table, folder / "train-0.parquet")
        source = {"kind": "mirror", "path": "o/set", "y": "label"}
        found.append(
            load("m", 2, [1], [source], test=2, root=tmp_path, mirrors=[tmp_path / name], standardise=False)
        )
    assert found[1].train.x.min() >= 100 > found[0].train.x.max()


def test_the_code_of_a_function_is_not_cached(tmp_path: Path, monkeypatch) -> None:
    """before: kind `installed` kept what the function gave at first."""
    import sklearn.datasets

    source = {"kind": "installed", "function": "sklearn.datasets.load_made"}
    given = {
        "classes": 2,
        "shape": [1],
        "test": 2,
        "root": tmp_path,
        "sources": [source],
        "standardise": False,
    }
    found = []
    for start in (0, 50):
        made = (np.arange(start, start + 8.0)[:, None], np.arange(8) % 2)
        monkeypatch.setattr(sklearn.datasets, "load_made", lambda made=made: made, raising=False)
        found.append(load("f", **given).train.x.min().item())
    assert found[0] < 8 < 50 <= found[1]


def test_texts_are_read_again_where_their_files_changed(tmp_path: Path) -> None:
    """before: the first text, with the declaration's name as the only key (kjv's sha256 was safe, ptb had none)."""
    (tmp_path / "text").mkdir()
    for name in "abc":
        (tmp_path / "text" / name).write_text(f"{name} one\n")
    source = {"kind": "files", "path": "text", "files": dict.fromkeys("abc")}
    first = load_lines("t", [source], root=tmp_path / "root", mirrors=[tmp_path])
    (tmp_path / "text" / "a").write_text("a two\n")
    again = load_lines("t", [source], root=tmp_path / "root", mirrors=[tmp_path])
    assert (first.text[0], again.text[0]) == ("a one <eos>", "a two <eos>")
    assert first.digest != again.digest
    verse = {"kind": "mirror", "path": "text/a", "format": "lines"}
    given = {"books": {"A": [1], "B": [1]}, "new_testament": "B", "root": tmp_path, "mirrors": [tmp_path]}
    found = []
    for line in ("x", "z"):
        (tmp_path / "text" / "a").write_text(f"{line}\ny\n")
        found.append(load_verses("v", sources=[verse], **given).text)
    assert found == [("x", "y"), ("z", "y")]


def test_a_declared_sha256_finds_the_cache_of_an_earlier_version(tmp_path: Path) -> None:
    """Right before and now: published sets are compared by their rows, so nothing is fetched again."""
    table = canonical(Table(np.arange(8.0)[:, None], np.arange(8) % 2))
    from lossatlas.data.table import digest

    sums = digest(table)
    np.savez(tmp_path / "old.npz", x=table.x, y=table.y, sha256=sums, source="wheel w")
    data = load("old", 2, [1], [{"kind": "wheel"}], sums, test=2, root=tmp_path)
    assert (data.source, data.digest) == ("wheel w", sums)


def config(tmp_path: Path, **node) -> object:
    given = {
        "_target_": "lossatlas.data.load",
        "name": "mine",
        "classes": 2,
        "shape": [1],
        "test": 2,
        "root": str(tmp_path),
    }
    return OmegaConf.create({"data": {**given, "sources": [CSV], **node}, "net": None})


def test_a_finished_run_on_other_data_is_not_kept(tmp_path: Path) -> None:
    """before: kept, whatever the file held; the record did not say what was read."""
    data, cfg = mine(tmp_path, EVEN), config(tmp_path)
    assert inputs.data_digest(cfg) == data.digest
    record = Record("e", "p", "a", 0, data_digest=data.digest)
    assert not inputs.is_other(record, cfg)
    (tmp_path / "mine.csv").write_text(COINS)
    assert inputs.is_other(record, cfg)
    assert not inputs.is_other(Record("e", "p", "a", 0), cfg)  # of before there were digests
    (tmp_path / "mine.csv").unlink()
    assert not inputs.is_other(Record("e", "p", "a", 0, data_digest=mine(tmp_path).digest), cfg)
    assert inputs.data_digest(config(tmp_path, sha256="ab" * 32, root="/nowhere")) == "ab" * 32
    assert inputs.data_digest(config(tmp_path, fake=True)) == ""


def test_a_run_is_repeated_and_no_checkpoint_goes_over_to_other_data(cli, outputs, tmp_path: Path) -> None:
    """before: the second call said `kept` and gave the first file's accuracy."""
    words = (
        "experiment=ldr_noisy", "scale=smoke", "callbacks.progress=false", "arm=ce", "noise=u00", "fake=false",
        "data.name=mine", "data.classes=2", "data.shape=[1]", "data.labels=null", "data.test=40", "data.sha256=null",
        "data.confusable=[]", "data.sources=[{kind: files, files: {mine.csv: null}, format: csv, y: -1}]",
        f"data_root={tmp_path}", "limit={train: null, test: null}",
    )  # fmt: skip

    def run() -> tuple[str, dict]:
        answer = cli(*words)
        assert answer.code == 0, answer
        (path,) = outputs.glob("ldr_noisy/smoke/*/record.json")
        return answer.out + answer.err, json.loads(path.read_text())

    (tmp_path / "mine.csv").write_text("".join(f"{k},{int(k > 100)}\n" for k in range(200)))
    _, first = run()
    assert "kept" in run()[0]
    (tmp_path / "mine.csv").write_text("".join(f"{k},{k * 7919 % 13 % 2}\n" for k in range(200)))
    said, second = run()
    assert "its data have changed since; it is run anew" in said
    assert first["config_hash"] == second["config_hash"]
    assert first["data_digest"] != second["data_digest"]
    assert first["metrics"]["test/top1"] > second["metrics"]["test/top1"]
    assert "kept" in run()[0]
