"""A small tabular set and the ways it can arrive, all local."""

from pathlib import Path

import numpy as np
import pytest
import torch
from stand_ins import sha

from lossatlas.data.cache import Place

torch.set_num_threads(1)

ROWS = 60


@pytest.fixture(autouse=True)
def _no_outside(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """No test sees the caller's folders."""
    for name in ("LOSSATLAS_DATA", "LOSSATLAS_MIRRORS", "HF_ENDPOINT", "HF_HUB_OFFLINE"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("HOME", str(tmp_path / "home"))


@pytest.fixture
def text() -> str:
    """60 rows of 3 features with two decimals, labels A, B, C in the last column."""
    rng = np.random.default_rng(3)
    rows = [[f"{v:.2f}" for v in rng.normal(size=3)] + ["ABC"[k % 3]] for k in range(ROWS)]
    return "\n".join(",".join(row) for row in rows) + "\n"


@pytest.fixture
def files_source(tmp_path: Path, text: str) -> dict:
    """`text` as a file in the data folder, declared as a source."""
    root = tmp_path / "root"
    root.mkdir()
    (root / "toy.dat").write_text(text)
    return {"kind": "files", "files": {"toy.dat": sha(text.encode())}, "format": "csv", "y": -1}


@pytest.fixture
def toy(tmp_path: Path, files_source: dict) -> dict:
    """Arguments of `load` for the small set."""
    return {
        "name": "toy",
        "classes": 3,
        "shape": [3],
        "labels": ["A", "B", "C"],
        "test": 20,
        "sources": [files_source],
        "confusable": [[0, 1]],
        "root": tmp_path / "root",
    }


@pytest.fixture
def place(tmp_path: Path) -> Place:
    (tmp_path / "root").mkdir(exist_ok=True)
    return Place(tmp_path / "root", (tmp_path / "mirror",))


@pytest.fixture
def pictures() -> dict[str, np.ndarray]:
    rng = np.random.default_rng(1)
    return {
        "train-images": rng.integers(0, 256, (30, 4, 5)), "train-labels": rng.integers(0, 10, 30),
        "t10k-images": rng.integers(0, 256, (12, 4, 5)), "t10k-labels": rng.integers(0, 10, 12),
    }  # fmt: skip
