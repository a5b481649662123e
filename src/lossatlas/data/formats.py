"""Bytes to tables. A format takes {file name: bytes}, the source's options and the declaration."""

import io
import re
from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from lossatlas.data import plain
from lossatlas.data.archives import read_idx_array, read_npy_array
from lossatlas.data.plain import decoded, is_missing, plain_text, spellings
from lossatlas.data.table import Spec, Table

if TYPE_CHECKING:
    import pandas as pd

Files = Mapping[str, bytes]
Options = Mapping[str, Any]


def read_csv(files: Files, options: Options, spec: Spec) -> Table:
    """Delimited text: one file, or one with `train` and one with `test` in its name, joined by the header's names.

    Args:
        options: of `read_frames`, and `sep` (a comma), `encoding` (utf-8), `header: true` where the first line names
            the columns. Without a header columns are numbers, negative ones from the end.

    Raises:
        ValueError: rows of another width, a header that is not declared or declared and not there, another encoding.
    """
    frames = {}
    for name, data in files.items():
        last = name.rsplit("/", 1)[-1]
        named = next((split for split in ("test", "train") if split in last), last)
        text = decoded(data, last, str(options.get("encoding", "utf-8")))
        frames["train" if len(files) == 1 else named] = _frame(text, options, spec)
    if len(files) > 1 and set(frames) != {"train", "test"}:
        raise ValueError(f"one file, or one of train and one of test, expected, got {', '.join(files)}")
    return read_frames(frames, options, spec)


def _frame(text: str, options: Options, spec: Spec) -> "pd.DataFrame":
    """One file; columns whose text matters (the label, `part`, all of them for `onehot`) stay text."""
    import pandas as pd

    text = text.lstrip("\r\n")
    sep, first = options.get("sep", ","), text.split("\n", 1)[0]
    columns = len(re.split(sep, first) if len(sep) > 1 else first.split(sep))
    if columns > max(1000, 4 * spec.shape[0]):  # pandas makes an object of every column
        raise ValueError(f"rows of {spec.shape[0]} features expected, the first line has {columns} columns")

    # round_trip: pandas' quick parser may miss the nearest float by a bit
    exact: Any = (
        {"float_precision": "round_trip", "low_memory": False} if len(sep) == 1 or sep == r"\s+" else {}
    )

    def read(**more: Any) -> "pd.DataFrame":
        return pd.read_csv(
            io.StringIO(text),
            header=None,
            sep=sep,
            skipinitialspace=True,
            keep_default_na=False,
            **exact,
            **more,
        )

    head = read(nrows=1, dtype=str)
    names, skip = list(range(head.shape[1])), 0
    if options.get("header"):
        names, skip = [plain_text(v) for v in head.iloc[0]], 1
        if all(is_number(v) for v in names):
            raise ValueError("the first line holds numbers and no names: leave out `header: true`")
    texts = set(names) if options.get("onehot") else {resolved(k, names) for k in _text_columns(options)}
    frame = read(
        skiprows=skip, dtype=dict.fromkeys((k for k, name in enumerate(names) if name in texts), str)
    )
    if frame.shape[1] != len(names):
        raise ValueError(f"{len(names)} columns are named, the rows have {frame.shape[1]}")
    frame.columns = pd.Index(names)
    if not skip:
        _no_header(frame, texts, options, spec)
    return frame


def _text_columns(options: Options) -> list[str | int]:
    part = options.get("part")
    return [
        *([] if options.get("y", -1) is None else [options.get("y", -1)]),
        *([part["column"]] if part else []),
    ]


def _no_header(frame: "pd.DataFrame", texts: set, options: Options, spec: Spec) -> None:
    """Raises ValueError where the first line can only be names of columns."""
    if len(frame) < 2:
        return
    columns = list(frame.columns)
    first, label = frame.iloc[0], resolved(options.get("y", -1), columns)
    rest = frame.iloc[1:51]  # a few rows tell
    named = [
        c for c in columns if c not in texts and _is_word(first[c]) and all(is_number(v) for v in rest[c])
    ]
    if spec.classes:
        known = spellings(_names(spec))
        odd = _label_text(first[label], spec) not in known
        odd = odd and all(_label_text(v, spec) in known for v in rest[label])
    else:
        odd = _is_word(first[label]) and all(is_number(v) for v in rest[label])
    if (odd and (named or options.get("onehot"))) or 2 * len(named) > len(columns) - len(texts) > 0:
        shown = ", ".join(map(str, first))[:60]
        raise ValueError(
            f"the first line looks like a header ({shown}): declare `header: true` on this source"
        )


def _is_word(value: object) -> bool:
    """Whether a cell is neither a number nor one of the usual signs of a missing one."""
    text = str(value).strip().lower()
    return not is_number(value) and text.lstrip("+-") not in (
        "",
        "?",
        "na",
        "n/a",
        "nan",
        "null",
        "none",
        "inf",
    )


def resolved(key: str | int, names: list) -> Any:
    """The column that an option means: its name, or its number, negative ones from the end."""
    if key in names and not (isinstance(key, int) and key < 0):
        return key
    if isinstance(key, int) and -len(names) <= key < len(names):
        return names[key]
    raise ValueError(f"the source has no column {key!r}, it has {', '.join(map(str, names))[:120]}")


def read_frames(frames: "Mapping[str, pd.DataFrame]", options: Options, spec: Spec) -> Table:
    """Splits joined by the names of their columns: `train` alone, or `train` and `test`.

    Raises:
        ValueError: two columns of one name, columns that only one split has, no training rows.
    """
    import pandas as pd

    for split, frame in frames.items():
        names = [str(c) for c in frame.columns]
        if twice := sorted({n for n in names if names.count(n) > 1}):
            raise ValueError(f"{split} has two columns {twice[0]!r}: give each a name of its own")
    if "train" not in frames:
        raise ValueError(f"the train split is missing, the source has {', '.join(frames)}")
    if set(frames) == {"train"}:
        return read_frame(frames["train"], options, spec)
    train, test = frames["train"], frames["test"]
    for one, other, name in ((train, test, "train"), (test, train, "test")):
        if alone := [c for c in one.columns if c not in set(other.columns)]:
            raise ValueError(f"only {name} has the column {alone[0]!r}: both splits need the same columns")
    if options.get("part"):
        raise ValueError("the source has splits of its own: leave out `part`")
    joined: Any = pd.concat([train, test[list(train.columns)]], ignore_index=True)
    whole = read_frame(joined, options, spec)
    part = np.repeat(np.array([0, 1], np.uint8), [len(train), len(test)])
    return Table(whole.x, whole.y, part)


def read_frame(frame: "pd.DataFrame", options: Options, spec: Spec) -> Table:
    """Rows of a data frame.

    Args:
        frame: one row a sample.
        options: `y` the label's column; `drop` columns left out; `part: {column, test: [values]}` where a
            column says which rows are for testing; `onehot: true` codes every feature by its values, sorted
            as text (a missing one is a value of its own). A column is a name or a number.
        spec: names of the labels and the shape.
    """
    names = list(frame.columns)
    label, part = resolved(options.get("y", -1), names), options.get("part")
    left_out = {label, *(resolved(k, names) for k in options.get("drop") or ())}
    parts = None
    if part:
        column = resolved(part["column"], names)
        left_out.add(column)
        test = spellings([plain_text(v) for v in part["test"]])
        parts = np.array([plain_text(v) in test for v in frame[column]], dtype=np.uint8)
    features = [c for c in names if c not in left_out]
    if not features:
        raise ValueError("no column is left for the features")
    if options.get("onehot"):
        x = np.hstack([_onehot(np.array([_category(v) for v in frame[c]])) for c in features])
    else:
        x = np.stack([numbers(frame[c], c) for c in features], axis=1)
    y = label_numbers(frame[label].tolist(), spec)
    return Table(x.reshape(len(y), *spec.shape) if x.size == len(y) * np.prod(spec.shape) else x, y, parts)


def numbers(column: Any, name: object) -> np.ndarray:
    """A column (n,) as float64; what is no number is NaN.

    Raises:
        ValueError: dates, or whole numbers beyond 2^53, which float64 would round.
    """
    import pandas as pd

    if column.dtype.kind in "mM":
        raise ValueError(f"column {name!r} holds dates: drop it or write numbers")
    found: Any = pd.to_numeric(column, errors="coerce")
    values = found.to_numpy(np.float64)
    if found.dtype.kind in "iu" and len(found) and np.abs(values).max() > 2.0**53:
        exact = found.to_numpy()
        if not all(int(a) == int(b) for a, b in zip(values.tolist(), exact.tolist(), strict=True)):
            raise ValueError(
                f"column {name!r} holds whole numbers beyond 2^53, which are rounded: drop or shift it"
            )
    return values


def is_number(value: object) -> bool:
    """Whether a cell is a number or the text of one."""
    try:
        return bool(np.isfinite(float(value)))  # type: ignore[arg-type]
    except (TypeError, ValueError):
        return False


def _category(value: object) -> str:
    return "nan" if is_missing(value) or value == "" else plain_text(value)


def _onehot(column: np.ndarray) -> np.ndarray:
    values = np.unique(column)
    return (column[:, None] == values).astype(np.float64)


def label_numbers(values: Sequence[Any], spec: Spec) -> np.ndarray:
    """Class numbers of labels as a source spells them, or the numbers themselves where there are no classes.

    Raises:
        ValueError: a label that is not declared, a y that is no number.
    """
    if spec.classes:
        return plain.label_numbers([_label_text(v, spec) for v in values], _names(spec))
    row = next((i for i, v in enumerate(values) if not is_number(v)), None)
    if row is not None:
        raise ValueError(f"y must be finite numbers, row {row} holds {values[row]!r}")
    return np.array([float(v) for v in values], dtype=np.float64)


def _names(spec: Spec) -> list[str]:
    return list(spec.labels or map(str, range(spec.classes)))


def _label_text(value: object, spec: Spec) -> str:
    """A label's text; where no names are declared labels are numbers, and 007 is 7."""
    if is_missing(value):
        return ""
    text = plain_text(value)
    return str(int(text)) if spec.labels is None and re.fullmatch(r"-?\d+", text) else text


def read_idx(files: Files, options: Options, spec: Spec) -> Table:
    """MNIST's own format: train-images, train-labels, t10k-images, t10k-labels, gzipped or not."""
    parts = []
    for prefix in ("train", "t10k"):
        images = _only(files, prefix, "images")
        labels = _only(files, prefix, "labels")
        parts.append(
            (
                read_idx_array(images, spec.shape, f"{prefix}-images"),
                read_idx_array(labels, (), f"{prefix}-labels"),
            )
        )
    return join_parts(*parts)


def read_npz(files: Files, options: Options, spec: Spec) -> Table:
    """Kuzushiji's format: four .npz with one array each, names with train/test and imgs/labels."""
    parts = []
    for prefix in ("train", "test"):
        images, labels = (_only(files, prefix, kind) for kind in ("imgs", "labels"))
        parts.append(
            (
                read_npy_array(images, spec.shape, f"{prefix}-imgs"),
                read_npy_array(labels, (), f"{prefix}-labels"),
            )
        )
    return join_parts(*parts)


def read_cifar(files: Files, options: Options, spec: Spec) -> Table:
    """CIFAR's binary records: `skip` label bytes that are not ours, one label byte, 3072 pixel bytes."""
    skip = int(options.get("skip", 0))
    width = skip + 1 + int(np.prod(spec.shape))
    records: list[list[np.ndarray]] = [[], []]
    for name, data in sorted(files.items()):
        if len(data) == 0 or len(data) % width:
            raise ValueError(f"{name} must hold records of {width} bytes, it holds {len(data)} bytes")
        records["test" in name].append(np.frombuffer(data, np.uint8).reshape(-1, width))
    if not all(records):
        raise ValueError("training and test batches are expected, one of them is missing")
    train, test = (np.concatenate(r) for r in records)
    return join_parts(*((r[:, skip + 1 :].reshape(-1, *spec.shape), r[:, skip]) for r in (train, test)))


def join_parts(train: tuple[np.ndarray, np.ndarray], test: tuple[np.ndarray, np.ndarray]) -> Table:
    """One table of a training and a test part."""
    for x, y in (train, test):
        if np.asarray(y).dtype.kind not in "ui":
            raise ValueError(f"labels must be integers, the source holds {np.asarray(y).dtype}")
        if len(x) != len(y):
            raise ValueError(f"as many labels as samples expected, got {len(x)} samples and {len(y)} labels")
    part = np.repeat(np.array([0, 1], np.uint8), [len(train[1]), len(test[1])])
    y = np.concatenate([train[1], test[1]]).astype(np.int64)
    return Table(np.concatenate([train[0], test[0]]), y, part)


def _only(files: Files, *words: str) -> bytes:
    found = [name for name in files if all(w in name.rsplit("/", 1)[-1] for w in words)]
    if len(found) != 1:
        raise ValueError(f"one file with {' and '.join(words)} in its name expected, got {len(found)}")
    return files[found[0]]


FORMATS: dict[str, Callable[[Files, Options, Spec], Table]] = {
    "csv": read_csv,
    "idx": read_idx,
    "npz": read_npz,
    "cifar": read_cifar,
}
