"""Numbers, columns and pixels that came out wrong without a word.

`before` in a docstring is what the loader returned as it was, silently unless said.
"""

import io
from pathlib import Path

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.parquet as parquet
import pytest
import torch
from stand_ins import png
from trust_sets import EVEN, mine

from lossatlas.data import load
from lossatlas.data.cache import Place
from lossatlas.data.images import decode_images
from lossatlas.data.sources import KINDS
from lossatlas.data.table import Spec, Table
from lossatlas.errors import UserError

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
