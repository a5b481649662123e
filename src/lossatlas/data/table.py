"""The canonical table: one array per data set, the same bytes whatever source they came from."""

import hashlib
import re
from dataclasses import dataclass

import numpy as np


@dataclass(frozen=True)
class Table:
    """Parsed rows.

    Args:
        x: (n, d) float32 or (n, C, H, W) uint8.
        y: (n,) int64.
        part: (n,) uint8, 0 = train, 1 = test; None where the split is ours to make.
    """

    x: np.ndarray
    y: np.ndarray
    part: np.ndarray | None = None


@dataclass(frozen=True)
class Spec:
    """What conf/data declares about the rows.

    Args:
        name: file-name safe.
        classes: K.
        shape: of one sample: [d] or [C, H, W].
        sha256: of the canonical table (see `digest`), or None.
        labels: the classes' names in order as the sources spell them; None where they are 0..K-1.
    """

    name: str
    classes: int
    shape: tuple[int, ...]
    sha256: str | None = None
    labels: tuple[str, ...] | None = None

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
    if spec.classes < 2:
        raise ValueError(f"data.classes must be >= 2, got {spec.classes}")
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
    inside = (table.y >= 0) & (table.y < spec.classes)
    if not inside.all():
        row = int(inside.argmin())
        raise ValueError(f"labels must lie in [0, {spec.classes}), row {row} holds {int(table.y[row])}")
    if table.part is not None and (len(table.part) != n or set(np.unique(table.part)) != {0, 1}):
        raise ValueError("the source must hold training and test rows and nothing else")


def canonical(table: Table) -> Table:
    """Rows sorted by part, then features, then label; float32 or uint8.

    float32, because parsers of decimal text differ in the last bit of a float64; + 0.0 turns -0.0 into 0.0.
    """
    x, y = table.x, table.y.astype(np.int64)
    part = None if table.part is None else table.part.astype(np.uint8)
    x = x if x.dtype == np.uint8 else x.astype(np.float32) + np.float32(0.0)
    if x.dtype == np.uint8:  # as byte strings: part, pixels, label
        columns = [x.reshape(len(y), -1), y.astype(">u2").view(np.uint8).reshape(-1, 2)]
        rows = np.ascontiguousarray(np.hstack(columns if part is None else [part[:, None], *columns]))
        order = np.argsort(rows.view(f"V{rows.shape[1]}").ravel(), kind="stable")
    else:
        keys = [y, *x.reshape(len(y), -1).T[::-1]]  # lexsort: the last key decides first
        order = np.lexsort(keys if part is None else [*keys, part])
    return Table(np.ascontiguousarray(x[order]), y[order], None if part is None else part[order])


def digest(table: Table) -> str:
    """sha256 of a canonical table: features (<f4 or u1), labels (<i8), parts (u1) if any, in C order."""
    h = hashlib.sha256()
    h.update(np.ascontiguousarray(table.x, dtype="u1" if table.x.dtype == np.uint8 else "<f4").data)
    h.update(np.ascontiguousarray(table.y, dtype="<i8").data)
    if table.part is not None:
        h.update(np.ascontiguousarray(table.part, dtype="u1").data)
    return h.hexdigest()
