"""Lines, headers and labels that were taken for others without a word.

`before` in a docstring is what the loader returned as it was, silently unless said.
"""

from pathlib import Path

import numpy as np
import pytest
import torch
from omegaconf import OmegaConf
from trust_sets import EVEN, labels_by_feature, mine

from lossatlas.data import load
from lossatlas.data.plain import decoded, plain_text, text_lines
from lossatlas.data.text import read_lines
from lossatlas.errors import UserError

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
