"""Bytes to tables. A format takes {file name: bytes}, the source's options and the declaration."""

import io
import re
from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from lossatlas.data.archives import read_idx_array, read_npy_array
from lossatlas.data.table import Spec, Table

if TYPE_CHECKING:
    import pandas as pd

Files = Mapping[str, bytes]
Options = Mapping[str, Any]


def read_csv(files: Files, options: Options, spec: Spec) -> Table:
    """One delimited text without header; columns are numbers, negative ones from the end."""
    import pandas as pd

    (text,) = files.values()
    sep, first = options.get("sep", ","), text[: 1 << 20].split(b"\n", 1)[0].decode("utf-8", "replace")
    columns = len(re.split(sep, first) if len(sep) > 1 else first.split(sep))
    if columns > max(1000, 4 * spec.shape[0]):  # pandas makes an object of every column
        raise ValueError(f"rows of {spec.shape[0]} features expected, the first line has {columns} columns")
    # round_trip: pandas' quick parser may miss the nearest float by a bit
    frame = pd.read_csv(
        io.BytesIO(text),
        header=None,
        sep=sep,
        skipinitialspace=True,
        float_precision="round_trip",
        keep_default_na=True,
    )
    return read_frame(frame, options, spec)


def read_frame(frame: "pd.DataFrame", options: Options, spec: Spec) -> Table:
    """Rows of a data frame.

    Args:
        frame: one row a sample.
        options: `y` the label's column; `drop` columns left out; `part: {column, test: [values]}` where a
            column says which rows are for testing; `onehot: true` codes every feature by its values, sorted
            as text (a missing one is a value of its own). A column is a name or a number.
        spec: names of the labels and the shape.
    """
    import pandas as pd

    names = list(frame.columns)

    def column(key: str | int) -> Any:
        if key in names and not (isinstance(key, int) and key < 0):
            return key
        if isinstance(key, int) and -len(names) <= key < len(names):
            return names[key]
        raise ValueError(f"the source has no column {key!r}, it has {', '.join(map(str, names))[:120]}")

    label, part = column(options.get("y", -1)), options.get("part")
    left_out = {label, *(column(k) for k in options.get("drop") or ())}
    parts = None
    if part:
        left_out.add(column(part["column"]))
        test = {plain_text(v) for v in part["test"]}
        parts = np.array([plain_text(v) in test for v in frame[column(part["column"])]], dtype=np.uint8)
    features: Any = frame[[c for c in names if c not in left_out]]
    if options.get("onehot"):
        x = np.hstack([_onehot(features[c].map(plain_text).to_numpy(str)) for c in features])
    else:
        x = features.apply(pd.to_numeric, errors="coerce").to_numpy(np.float64)
    y = label_numbers(frame[label].tolist(), spec)
    return Table(x.reshape(len(y), *spec.shape) if x.size == len(y) * np.prod(spec.shape) else x, y, parts)


def _onehot(column: np.ndarray) -> np.ndarray:
    values = np.unique(column)
    return (column[:, None] == values).astype(np.float64)


def label_numbers(values: Sequence[Any], spec: Spec) -> np.ndarray:
    """Class numbers of labels as a source spells them.

    Raises:
        ValueError: a label that is not declared.
    """
    texts = [plain_text(v) for v in values]
    known = {name: k for k, name in enumerate(spec.labels or map(str, range(spec.classes)))}
    row = next((i for i, text in enumerate(texts) if text not in known), None)
    if row is not None:
        raise ValueError(
            f"labels must be among {', '.join(list(known)[:8])}.., row {row} holds {texts[row]!r}"
        )
    return np.array([known[t] for t in texts], dtype=np.int64)


def plain_text(value: object) -> str:
    """A label's text: 3, 3.0, "3" and " 3" are the same label."""
    if isinstance(value, bytes):
        value = value.decode()
    if isinstance(value, float) and value.is_integer():
        value = int(value)
    return str(value).strip()


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


def decode_images(encoded: Sequence[bytes], shape: Sequence[int]) -> np.ndarray:
    """PNG or JPEG bytes to (n, C, H, W) uint8; the size is checked before an image is decoded."""
    from PIL import Image

    C, H, W = shape
    mode = {1: "L", 3: "RGB"}[C]
    out = np.empty((len(encoded), H, W, C), np.uint8)
    for row, data in enumerate(encoded):
        try:
            with Image.open(
                io.BytesIO(data), formats=("PNG", "JPEG")
            ) as image:  # no decoder that runs programs
                if image.size == (W, H):
                    out[row] = np.asarray(image.convert(mode)).reshape(H, W, C)
                size = image.size
        except (OSError, SyntaxError, Image.DecompressionBombError, TypeError) as error:
            raise ValueError(f"row {row} holds no whole PNG or JPEG image") from error
        if size != (W, H):
            raise ValueError(f"images must be {W} x {H}, row {row} is {size[0]} x {size[1]}")
    return np.ascontiguousarray(out.transpose(0, 3, 1, 2))


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
