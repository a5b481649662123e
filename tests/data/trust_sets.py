"""Small CSV sets that the tests of what is read and cached share."""

from pathlib import Path

from lossatlas.data import Data, load

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


EVEN = "".join(f"{k},{k % 2}\n" for k in range(20))
COINS = "".join(f"{k},{int(k in (1, 2, 3, 5, 8, 13))}\n" for k in range(20))


def labels_by_feature(data: Data) -> list[int]:
    return [int(row[-1]) for row in rows(data)]
