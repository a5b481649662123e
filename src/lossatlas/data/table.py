"""The canonical table: one array per data set, the same bytes whatever source they came from."""

import hashlib
import re
from dataclasses import dataclass

import numpy as np

COARSE = 2.0**-20  # of a column's deviation: what float32 may be off by
DISK = {"uint8": "u1", "float32": "<f4", "float64": "<f8", "int64": "<i8"}


@dataclass(frozen=True)
class Table:
    """Parsed rows.

    Args:
        x: (n, d) float32, float64 where that is too coarse (see `canonical`), or (n, C, H, W) uint8.
        y: (n,) int64; float32 or float64 numbers where they are to be regressed.
        part: (n,) uint8, 0 = train, 1 = test; None where the split is ours to make.
        sha256: its `digest`, where it is known.
    """

    x: np.ndarray
    y: np.ndarray
    part: np.ndarray | None = None
    sha256: str = ""


@dataclass(frozen=True)
class Spec:
    """What conf/data declares about the rows.

    Args:
        name: file-name safe.
        classes: K; 0 where y are numbers to be regressed.
        shape: of one sample: [d] or [C, H, W].
        sha256: of the canonical table (see `digest`), or None.
        labels: the classes' names in order as the sources spell them; None where they are 0..K-1.
        standardise: whether the features of a table are standardised by its training rows.
    """

    name: str
    classes: int
    shape: tuple[int, ...]
    sha256: str | None = None
    labels: tuple[str, ...] | None = None
    standardise: bool = True

    @property
    def image(self) -> bool:
        """Whether samples are images."""
        return len(self.shape) == 3


def check_spec(spec: Spec) -> None:
    """Raises ValueError where the declaration itself is wrong."""
    if not re.fullmatch(r"[A-Za-z0-9_][A-Za-z0-9_.-]*", spec.name):
        raise ValueError(f"data.name must be letters, digits, _ . or -, got {spec.name!r}")
    if len(spec.shape) not in (1, 3) or min(spec.shape) < 1:
        raise ValueError(f"data.shape must be [d] or [C, H, W] with positive sizes, got {list(spec.shape)}")
    if spec.classes < 2 and spec.classes != 0:
        raise ValueError(f"data.classes must be >= 2, or 0 where y are numbers, got {spec.classes}")
    if spec.labels is not None and spec.classes == 0:
        raise ValueError(
            "data.labels names classes, and data.classes=0 says that y are numbers: drop one of them"
        )
    if spec.labels is not None and len(set(spec.labels)) != spec.classes:
        raise ValueError(
            f"data.labels must name {spec.classes} different classes, got {len(set(spec.labels))}"
        )


def check_table(table: Table, spec: Spec) -> None:
    """Raises ValueError, one line, at the first row that breaks the declaration."""
    n = len(table.y)
    if n == 0:
        raise ValueError("the source holds no rows")
    if table.x.shape != (n, *spec.shape):
        raise ValueError(f"shape {[n, *spec.shape]} expected, the source holds {list(table.x.shape)}")
    if spec.image and table.x.dtype != np.uint8:
        raise ValueError(f"images must be uint8, the source holds {table.x.dtype}")
    finite = np.isfinite(table.x).reshape(n, -1).all(1) if table.x.dtype.kind == "f" else np.ones(n, bool)
    if not finite.all():
        raise ValueError(f"features must be finite, row {int(finite.argmin())} holds NaN or inf")
    if spec.classes == 0:
        finite = np.isfinite(table.y)
        if not finite.all():
            raise ValueError(f"y must be finite numbers, row {int(finite.argmin())} holds NaN or inf")
    else:
        inside = (table.y >= 0) & (table.y < spec.classes)
        if not inside.all():
            row = int(inside.argmin())
            raise ValueError(f"labels must lie in [0, {spec.classes}), row {row} holds {int(table.y[row])}")
    if table.part is not None and (len(table.part) != n or set(np.unique(table.part)) != {0, 1}):
        raise ValueError("the source must hold training and test rows and nothing else")


def canonical(table: Table) -> Table:
    """Rows sorted by part, then features, then label; float32, or float64 where float32 is too coarse, or uint8.

    float32, because parsers of decimal text differ in the last bit of a float64; + 0.0 turns -0.0 into 0.0.
    """
    x, y = table.x, table.y
    part = None if table.part is None else table.part.astype(np.uint8)
    y = narrowed(y[:, None])[:, 0] if y.dtype.kind == "f" else y.astype(np.int64)
    x = x if x.dtype == np.uint8 else narrowed(x)
    if x.dtype == np.uint8 and y.dtype == np.int64:  # as byte strings: part, pixels, label
        columns = [x.reshape(len(y), -1), y.astype(">u2").view(np.uint8).reshape(-1, 2)]
        rows = np.ascontiguousarray(np.hstack(columns if part is None else [part[:, None], *columns]))
        order = np.argsort(rows.view(f"V{rows.shape[1]}").ravel(), kind="stable")
    else:
        keys = [y, *x.reshape(len(y), -1).T[::-1]]  # lexsort: the last key decides first
        order = np.lexsort(keys if part is None else [*keys, part])
    return Table(np.ascontiguousarray(x[order]), y[order], None if part is None else part[order])


def narrowed(x: np.ndarray) -> np.ndarray:
    """Columns as float32 where that keeps every value to COARSE of its distance from the mean, or of the deviation.

    A column such as 1700000000 + 10 k keeps float64: float32 has steps of 128 there, and what is left after its
    mean is taken away would be those steps.

    Shapes:
        (n, d) or (n, ...) numbers -> the same shape, float32 or float64.
    """
    wide = np.asarray(x, np.float64) + 0.0
    with np.errstate(over="ignore", invalid="ignore"):
        narrow = wide.astype(np.float32)
        error = np.abs(narrow - wide).reshape(len(wide), -1)
        away = np.abs(wide - wide.mean(0)).reshape(len(wide), -1)
        deviation = np.sqrt((away**2).mean(0))
        constant = (wide == wide[:1]).all(0).ravel()
        kept = (error <= COARSE * np.maximum(away, deviation)) | constant
    return narrow if np.isfinite(narrow).all() and kept.all() else wide


def digest(table: Table) -> str:
    """sha256 of a canonical table: features, labels, parts if any, in C order; floats <f4 or <f8, else <i8, u1."""
    h = hashlib.sha256()
    for array in (table.x, table.y):
        h.update(np.ascontiguousarray(array, dtype=DISK[array.dtype.name]).data)
    if table.part is not None:
        h.update(np.ascontiguousarray(table.part, dtype="u1").data)
    return h.hexdigest()
