"""Data sets that used to give a wrong number without a word: each with what came before and what is right.

Before-values were read off the loader as it was; `before` in a docstring is what it returned, silently unless said.
"""

import io
import json
from pathlib import Path

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.parquet as parquet
import pytest
import torch
from omegaconf import OmegaConf
from stand_ins import png

from lossatlas import inputs
from lossatlas.data import Data, load
from lossatlas.data.cache import Place
from lossatlas.data.images import decode_images
from lossatlas.data.lines import load_lines
from lossatlas.data.plain import decoded, plain_text, text_lines
from lossatlas.data.sources import KINDS
from lossatlas.data.table import Spec, Table, canonical
from lossatlas.data.text import load_verses, read_lines
from lossatlas.errors import UserError
from lossatlas.records import Record

CSV = {"kind": "files", "files": {"mine.csv": None}, "format": "csv", "y": -1}


def mine(root: Path, text: str | bytes | None = None, source: dict | None = None, **more) -> Data:
    """The data set `mine`, two classes unless said, whose CSV is (re)written first."""
    root.mkdir(exist_ok=True)
    if text is not None:
        (root / "mine.csv").write_bytes(text.encode() if isinstance(text, str) else text)
    given = {"classes": 2, "shape": [1], "test": 2, "root": root, **more}
    return load("mine", sources=[{**CSV, **(source or {})}], **given)


def rows(data: Data) -> list[tuple]:
    """(features.., label) of all rows, as the network sees them, in order."""
    both = [(s.x, s.y) for s in (data.train, data.test)]
    return sorted((*x.ravel().tolist(), y.item()) for xs, ys in both for x, y in zip(xs, ys, strict=True))


# --- a cache that knows only the name (item 2)

EVEN = "".join(f"{k},{k % 2}\n" for k in range(20))
COINS = "".join(f"{k},{int(k in (1, 2, 3, 5, 8, 13))}\n" for k in range(20))


def labels_by_feature(data: Data) -> list[int]:
    return [int(row[-1]) for row in rows(data)]


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


# --- train and test joined by position (item 6)


def splits(tmp_path: Path, train: dict, test: dict, spec: Spec, entry: dict | None = None) -> Table:
    folder = tmp_path / "mirror" / "s"
    folder.mkdir(parents=True)
    for name, columns in (("train", train), ("test", test)):
        parquet.write_table(pa.table(columns), folder / f"{name}-0.parquet")
    source = {"path": "s", "y": "label", **(entry or {})}
    return KINDS["mirror"](source, spec, Place(tmp_path, (tmp_path / "mirror",)))


def test_columns_of_train_and_test_are_joined_by_name(tmp_path: Path) -> None:
    """before: test rows [20., 1.], u and v exchanged."""
    train = {"u": [1, 2], "v": [10, 20], "label": [0, 1]}
    test = {"v": [10, 20], "label": [1, 0], "u": [1, 2]}
    table = splits(tmp_path, train, test, Spec("s", 2, (2,)))
    assert table.x.tolist() == [[1, 10], [2, 20], [1, 10], [2, 20]]
    assert table.y.tolist() == [0, 1, 1, 0]
    assert table.part is not None
    assert table.part.tolist() == [0, 0, 1, 1]


def test_csv_files_with_headers_are_joined_by_name(tmp_path: Path) -> None:
    """before: no CSV with a header could be declared, and no test file beside the training one."""
    (tmp_path / "train.csv").write_text("u,v,label\n1,10,a\n2,20,b\n3,30,a\n")
    (tmp_path / "test.csv").write_text("\ufeffv,u,label\r\n10,1,b\r\n", encoding="utf-8")
    source = {
        "kind": "files",
        "files": {"train.csv": None, "test.csv": None},
        "format": "csv",
        "header": True,
    }
    data = load("c", 2, [2], [{**source, "y": "label"}], labels=["a", "b"], root=tmp_path, standardise=False)
    assert data.test.x.tolist() == [[1, 10]]
    assert data.test.y.tolist() == [1]
    assert sorted(data.train.x[:, 0].tolist()) == [1, 2, 3]


def test_categories_are_numbered_once_over_both_splits(tmp_path: Path) -> None:
    """before: blue in the test rows got red's and green's code of the training rows: [1, 0], not [1, 0, 0]."""
    train, test = {"c": ["red", "green"], "label": [0, 1]}, {"c": ["red", "blue"], "label": [0, 1]}
    table = splits(tmp_path, train, test, Spec("s", 2, (3,)), {"onehot": True})
    assert table.x.tolist() == [[0, 0, 1], [0, 1, 0], [0, 0, 1], [1, 0, 0]]  # blue, green, red


def test_two_columns_of_one_name_are_refused(tmp_path: Path) -> None:
    """before: the last one won, for features and for the label."""
    folder = tmp_path / "mirror" / "s"
    folder.mkdir(parents=True)
    columns = [pa.array([1, 2]), pa.array([9, 9]), pa.array([0, 1])]
    parquet.write_table(pa.Table.from_arrays(columns, ["u", "u", "label"]), folder / "train-0.parquet")
    with pytest.raises(Exception, match="two columns 'u'"):
        KINDS["mirror"](
            {"path": "s", "y": "label"}, Spec("s", 2, (1,)), Place(tmp_path, (tmp_path / "mirror",))
        )
    (tmp_path / "mine.csv").write_text("u,u,label\n1,9,0\n2,9,1\n")
    with pytest.raises(UserError, match="two columns 'u'"):
        mine(tmp_path, source={"header": True}, shape=[2])


@pytest.mark.parametrize(
    ("second", "word"),
    [({"u": [3], "w": [1], "label": [0]}, "'w'"), ({"label": [0]}, "'u'")],
    ids=["more", "fewer"],
)
def test_shards_of_other_columns_are_refused(tmp_path: Path, second: dict, word: str) -> None:
    """before: one more column was left out without a word; one fewer said `no key 'u' in its entry`."""
    folder = tmp_path / "mirror" / "s"
    folder.mkdir(parents=True)
    for k, columns in enumerate(({"u": [1, 2], "label": [0, 1]}, second)):
        parquet.write_table(pa.table(columns), folder / f"train-{k}.parquet")
    with pytest.raises(Exception, match=f"differ in column {word}"):
        KINDS["mirror"](
            {"path": "s", "y": "label"}, Spec("s", 2, (1,)), Place(tmp_path, (tmp_path / "mirror",))
        )


def test_splits_of_other_columns_are_refused(tmp_path: Path) -> None:
    """before: [u, v] of the training rows stood over [u, w] of the test rows."""
    train, test = {"u": [1], "v": [1], "label": [0]}, {"u": [1], "w": [1], "label": [0]}
    with pytest.raises(ValueError, match="only train has the column 'v'"):
        splits(tmp_path, train, test, Spec("s", 2, (2,)))


# --- float32 too early (item 7)


def test_large_numbers_keep_their_distinct_values(tmp_path: Path) -> None:
    """before: 2 distinct values of 12, as float32 has steps of 128 there."""
    x = np.array([1_700_000_000 + 10 * k for k in range(12)])
    data = mine(tmp_path, "".join(f"{v},{k % 2}\n" for k, v in enumerate(x)))
    order = np.random.default_rng(0).permutation(12)
    train = x[order[:-2]].astype(float)
    right = (x - train.mean()) / train.std()
    found = sorted(torch.cat([data.train.x, data.test.x]).ravel().tolist())
    np.testing.assert_allclose(found, right, atol=1e-6)


def test_steps_that_float32_keeps_apart_are_not_rounded_to_its_own(tmp_path: Path) -> None:
    """before: all values distinct, and steps of 256 and 128 in the place of 200, every one."""
    data = mine(tmp_path, "".join(f"{1_700_000_000 + 200 * k},{k % 2}\n" for k in range(12)))
    steps = torch.cat([data.train.x, data.test.x]).ravel().sort().values.diff()
    torch.testing.assert_close(steps, steps.mean().expand(11), rtol=1e-5, atol=0)


@pytest.mark.parametrize("value", ["1e39", "1e300"])
@pytest.mark.parametrize("split", ["train", "test"])
def test_a_value_beyond_float32_is_refused_in_either_split(tmp_path: Path, split: str, value: str) -> None:
    """before: inf behind the check in a test row; NaN in the whole column where it was a training row."""
    row = 11 if split == "train" else 0  # of the source; the largest of the canonical order is its last row
    (tmp_path / "test.csv").write_text(f"u,label\n{value if split == 'test' else 1},0\n")
    (tmp_path / "train.csv").write_text("u,label\n" + "".join(f"{k},{k % 2}\n" for k in range(row + 3)))
    if split == "train":
        with (tmp_path / "train.csv").open("a") as file:
            file.write(f"{value},0\n")
    source = {
        "kind": "files",
        "files": {"train.csv": None, "test.csv": None},
        "format": "csv",
        "header": True,
    }
    for standardise in (True, False):
        given = {"root": tmp_path, "standardise": standardise}
        if split == "train" and value == "1e39" and standardise:  # within float32 once standardised, and said
            assert torch.isfinite(load("c", 2, [1], [source], **given).train.x).all()
            continue
        with pytest.raises(UserError, match=r"c: column 0 of the features holds .*too large for float32"):
            load("c", 2, [1], [source], **given)


def test_an_outlier_that_squeezes_the_others_is_said(tmp_path: Path, capsys) -> None:
    """before: nothing was said, and a network saw a constant."""
    mine(tmp_path, "".join(f"{k},{k % 2}\n" for k in range(40)) + "1e12,0\n")
    assert "distinct values of column 0 of the features become" in capsys.readouterr().err
    mine(tmp_path, EVEN)
    assert "distinct" not in capsys.readouterr().err


def test_a_constant_column_becomes_zero(tmp_path: Path) -> None:
    """Right before, as sums of float32 are exact in float64; in float64 the roundings would give -1 for 0.1."""
    text = "".join(f"0.1,{1_700_000_000 + 10 * k},{k % 2}\n" for k in range(13))
    data = mine(tmp_path, text, shape=[2])
    assert np.full((11, 2), 0.1).std(0).all()  # what 11 training rows would be divided by
    assert not torch.cat([data.train.x, data.test.x])[:, 0].any()


def test_whole_numbers_beyond_float64_and_dates_are_refused(tmp_path: Path) -> None:
    """before: 2^60 + k was one value for all k; a date became nanoseconds."""
    big = {"u": [2**60 + k for k in range(4)], "label": [0, 1, 0, 1]}
    with pytest.raises(ValueError, match=r"beyond 2\^53"):
        splits(tmp_path, big, big, Spec("s", 2, (1,)))
    dates = pd.DataFrame({"u": pd.to_datetime(["2020-01-01", "2020-01-02"]), "label": [0, 1]})
    from lossatlas.data.formats import read_frame

    with pytest.raises(ValueError, match="holds dates"):
        read_frame(dates, {"y": "label"}, Spec("s", 2, (1,)))


@pytest.mark.parametrize("key", ["mean", "std"])
def test_one_mean_for_three_channels_is_refused(key: str) -> None:
    """before: one number was spread over all channels."""
    with pytest.raises(UserError, match=f"data.{key} must be 3 finite numbers"):
        load("t", 2, [3, 4, 4], fake=True, **{key: [0.5]})


# --- images of other depths (item 8)


def encoded(image, **options) -> bytes:
    out = io.BytesIO()
    image.save(out, options.pop("format", "png"), **options)
    return out.getvalue()


def test_sixteen_bits_of_grey_are_scaled() -> None:
    """before: 0, 255, 255, .., as all above 255 was cut."""
    from PIL import Image

    ramp = (np.arange(16) * 4096).astype(np.uint16).reshape(1, 16)
    ramp[0, -1] = 65535
    data = encoded(Image.fromarray(ramp))
    assert decode_images([data], (1, 1, 16)).ravel().tolist() == [
        round(v / 257) for v in ramp.ravel().tolist()
    ]
    assert decode_images([data], (3, 1, 16))[0, 2].ravel().tolist()[:3] == [0, 16, 32]


@pytest.mark.parametrize("kind", ["png", "jpeg"])
def test_turned_images_are_turned_upright(kind: str) -> None:
    """before: as stored, that is on their side; a portrait stored as landscape was refused for its size."""
    from PIL import Image

    upright = np.kron(np.array([[0, 255], [255, 255], [255, 255]], np.uint8), np.ones((8, 8), np.uint8))
    tag = Image.Exif()
    tag[0x0112] = 6  # stored turned left by 90 degrees
    data = encoded(Image.fromarray(np.ascontiguousarray(np.rot90(upright))), format=kind, exif=tag)
    found = decode_images([data], (1, 24, 16))[0, 0]
    assert np.abs(found.astype(int) - upright).max() < 40
    with pytest.raises(ValueError, match="images must be 24 x 16, row 0 is 16 x 24"):
        decode_images([data], (1, 16, 24))


def test_transparent_pixels_are_white_and_that_is_said(capsys) -> None:
    """before: the hidden colour, here red, of pixels that nobody sees."""
    from PIL import Image

    pixels = np.array([[[255, 0, 0, 0], [0, 0, 255, 255], [0, 0, 0, 128]]], np.uint8)
    found = decode_images([encoded(Image.fromarray(pixels))], (3, 1, 3))[0, :, 0].T
    assert found.tolist() == [[255, 255, 255], [0, 0, 255], [127, 127, 127]]
    assert "1 of 1 images are partly transparent: laid on white" in capsys.readouterr().err
    palette = Image.fromarray(np.array([[0, 1]], np.uint8), "P")
    palette.putpalette([9, 9, 9, 50, 60, 70])
    data = encoded(palette, transparency=0)
    assert decode_images([data], (3, 1, 2))[0, :, 0].T.tolist() == [[255, 255, 255], [50, 60, 70]]
    opaque = np.dstack([pixels[..., :3], np.full((1, 3), 255, np.uint8)])
    found = decode_images([encoded(Image.fromarray(opaque))], (3, 1, 3))[0].transpose(1, 2, 0)
    assert np.array_equal(found, pixels[..., :3])
    assert not capsys.readouterr().err.count("transparent") > 1


def test_four_channels_are_refused_in_one_line() -> None:
    """before: KeyError: 4."""
    with pytest.raises(ValueError, match=r"1 \(grey\) or 3 \(colour\) channels, data.shape asks for 4"):
        decode_images([png(np.zeros((2, 2)))], (4, 2, 2))


@pytest.mark.parametrize("value", [0.7, 300.0, -1.0])
def test_pixels_of_a_function_are_bytes_or_refused(tmp_path: Path, monkeypatch, value: float) -> None:
    """before: 0.7 became 0, 300 became 44, -1 became 255."""
    import sklearn.datasets

    made = (np.full((8, 2, 2), value), np.arange(8) % 2)
    monkeypatch.setattr(sklearn.datasets, "load_made", lambda: made, raising=False)
    source = {"kind": "formula", "function": "sklearn.datasets.load_made"}
    with pytest.raises(UserError, match="pixels must be whole numbers of 0 to 255") as caught:
        load("f", 2, [1, 2, 2], [source], test=2, root=tmp_path)
    assert "fetch_data" not in str(caught.value)


# --- lines and labels (item 12)


def test_a_line_ends_in_a_newline_only() -> None:
    """before: U+2028, U+0085 and others cut a JSON object or a verse in two."""
    text = '{"a": "x\u2028y\u0085z"}\r\n{"a": "\x0c"}\n'
    assert text_lines(text) == ['{"a": "x\u2028y\u0085z"}', '{"a": "\x0c"}']
    assert read_lines("a\u2028b\nc\n".encode(), {}) == ["a\u2028b", "c"]


def test_text_that_is_not_utf8_is_refused_with_its_line() -> None:
    """before: a UnicodeDecodeError with a traceback, or the bytes in the locale's own reading."""
    with pytest.raises(ValueError, match=r"a.csv, line 2, is not utf-8 \(byte 0xe9\): save it as UTF-8"):
        decoded("a\ncaf\xe9\n".encode("latin-1"), "a.csv")
    assert decoded("caf\xe9".encode("latin-1"), "a.csv", "latin-1") == "caf\xe9"
    assert decoded(b"\xef\xbb\xbfa", "a.csv") == "a"
    with pytest.raises(ValueError, match="UTF-16"):
        decoded("a".encode("utf-16"), "a.csv")


def test_latin1_labels_are_read_where_declared(tmp_path: Path) -> None:
    """before: no source could say its encoding."""
    text = "".join(f"{k},{('th', 'caf')[k % 2]}\xe9\n" for k in range(8)).encode("latin-1")
    given = {"labels": ["th\xe9", "caf\xe9"]}
    with pytest.raises(UserError, match=r"line 1, is not utf-8") as caught:
        mine(tmp_path, text, **given)
    assert "fetch_data" not in str(caught.value)
    assert labels_by_feature(mine(tmp_path, source={"encoding": "latin-1"}, **given)) == [0, 1] * 4


@pytest.mark.parametrize(
    ("texts", "labels"),
    [
        (("NA", "b"), ["NA", "b"]),
        (("None", "b"), ["None", "b"]),
        (("nan", "null"), ["nan", "null"]),
        (("no", "yes"), OmegaConf.to_container(OmegaConf.create("labels: [no, yes]")).get("labels")),  # type: ignore[union-attr]
        (("False", "True"), [False, True]),
        (("-1", "1.0"), [-1, 1]),
        (("-1.0", "+1"), ["-1", "1"]),
        (("-1", "1"), [-1.0, 1.0]),
        (("007", "7"), ["007", "7"]),
        (("01", "00"), None),
    ],
    ids=["NA", "None", "nan", "yes", "True", "1.0", "+1", "floats", "007", "padded"],
)
def test_labels_are_compared_as_text(tmp_path: Path, texts: tuple[str, str], labels: list | None) -> None:
    """before: NA, None, nan and null were one missing value `nan`; yes never met True; 007 was 7, the other class.

    True, 1.0, +1 and padded numbers without names were right before and stay so.
    """
    data = mine(tmp_path, "".join(f"{k},{texts[k % 2]}\n" for k in range(8)), labels=labels)
    assert labels_by_feature(data) == ([0, 1] if labels is not None else [1, 0]) * 4


@pytest.mark.parametrize(
    ("labels", "texts", "word"),
    [
        (
            [7, 8],
            ("007", "8"),
            r"row 0 holds '007' \(names are compared as text: declare '007' in quotes, not 7\)",
        ),
        (["a", None], ("a", "b"), "empty name"),
        (["a", "b"], ("a", ""), "row 1 holds none"),
        (["1", 1.0], ("1", "1"), "2 different classes, got 1"),
    ],
)
def test_labels_that_are_not_declared_are_named(
    tmp_path: Path, labels: list, texts: tuple, word: str
) -> None:
    """before: 007 was taken for 7; the others were refused with other words."""
    with pytest.raises(UserError, match=word) as caught:
        mine(tmp_path, "".join(f"{k},{texts[k % 2]}\n" for k in range(8)), labels=labels)
    assert "fetch_data" not in str(caught.value)


def test_a_half_label_is_no_label(tmp_path: Path, monkeypatch) -> None:
    """before: 0.7 of a function was class 0; declared names were passed over, so 1, 2 of [1, 2] failed or shifted."""
    import sklearn.datasets

    source = {"kind": "formula", "function": "sklearn.datasets.load_made"}
    given = {
        "classes": 2,
        "shape": [1],
        "sources": [source],
        "test": 2,
        "root": tmp_path,
        "standardise": False,
    }
    x = np.arange(8.0)[:, None]
    monkeypatch.setattr(sklearn.datasets, "load_made", lambda: (x, np.full(8, 0.7)), raising=False)
    with pytest.raises(UserError, match=r"row 0 holds '0.7'"):
        load("f", **given)
    monkeypatch.setattr(sklearn.datasets, "load_made", lambda: (x, np.arange(8) % 2 + 1), raising=False)
    assert labels_by_feature(load("f", labels=[1, 2], **given)) == [0, 1] * 4


def test_a_header_that_is_not_declared_is_named(tmp_path: Path) -> None:
    """before: `labels must be among 0, 1.., row 0 holds 'label'. On a machine that reaches one: fetch_data.py`."""
    text = "size,label\n" + EVEN
    with pytest.raises(
        UserError, match=r"looks like a header \(size, label\): declare `header: true`"
    ) as caught:
        mine(tmp_path, text)
    assert "fetch_data" not in str(caught.value)
    assert labels_by_feature(mine(tmp_path, source={"header": True})) == [k % 2 for k in range(20)]
    with pytest.raises(UserError, match="holds numbers and no names: leave out `header: true`"):
        mine(tmp_path, EVEN, source={"header": True})  # the first row would be lost
    letters = "cap,kind\n" + "".join(f"{'xy'[k % 3 % 2]},{'np'[k % 2]}\n" for k in range(8))
    with pytest.raises(UserError, match="looks like a header"):
        mine(tmp_path, letters, source={"onehot": True}, labels=["n", "p"], shape=[2])


def test_categories_are_compared_as_text(tmp_path: Path) -> None:
    """before: NA and an empty cell were one category, 007 and 7 were one, 1 and True were two kinds of 1."""
    source = {"onehot": True}
    text = "NA,0\n,1\n007,0\n7,1\n7.0,0\n"
    data = mine(tmp_path, text, source=source, shape=[4], standardise=False)  # 007, 7, NA, nan
    assert sorted(torch.cat([data.train.x, data.test.x]).sum(0).tolist()) == [1, 1, 1, 2]


def test_a_parse_error_does_not_advise_to_fetch(tmp_path: Path) -> None:
    """before: `On a machine that reaches one: python scripts/fetch_data.py mine` at every fault of the file."""
    with pytest.raises(UserError, match=r"Mend the file, or what the data set's declaration says of it$"):
        mine(tmp_path, "1,0\n2,x\n")
    with pytest.raises(UserError, match=r"fetch_data.py mine$"):
        mine(tmp_path / "gone")


def test_plain_text_is_one_rule() -> None:
    """3, 3.0, "3.0" are one label; 007 is another."""
    assert [plain_text(v) for v in (3, 3.0, "3.0", np.float32(3), b"3")] == ["3"] * 5
    assert [plain_text(v) for v in ("007", True, np.False_, "1e3", "-0.5")] == [
        "007",
        "true",
        "false",
        "1e3",
        "-0.5",
    ]


def test_sizes_are_whole_numbers(tmp_path: Path) -> None:
    """before: shape [1.9] was [1]."""
    with pytest.raises(UserError, match="whole numbers"):
        mine(tmp_path, EVEN, shape=[1.9])
