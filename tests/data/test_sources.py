"""Each kind of source against a local stand-in: no network."""

import gzip
import io
import os
import shutil
import socket
import subprocess
import sys
import types
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from stand_ins import idx, png, sha, tar_of

from lossatlas.data import formats, sources, transport
from lossatlas.data.cache import Place
from lossatlas.data.sources import KINDS
from lossatlas.data.table import Spec
from lossatlas.data.transport import SourceError

TOY = Spec("toy", 3, (3,), labels=("A", "B", "C"))
IMAGES = Spec("pictures", 10, (1, 4, 5))


@pytest.mark.skipif(not shutil.which("dpkg-deb"), reason="no dpkg-deb")
def test_deb_members_are_read_without_installing(
    pictures: dict, place: Place, tmp_path: Path, monkeypatch
) -> None:
    files = {f"{k}.gz": idx(v) for k, v in pictures.items()}
    folder = tmp_path / "deb" / "usr" / "share" / "toy"
    folder.mkdir(parents=True)
    for name, data in files.items():
        (folder / name).write_bytes(data)
    (tmp_path / "deb" / "DEBIAN").mkdir()
    control = "Package: toy\nVersion: 1\nArchitecture: all\nMaintainer: n\nDescription: d\n"
    (tmp_path / "deb" / "DEBIAN" / "control").write_text(control)

    def run(command, cwd, **environment) -> None:
        assert command[:2] == ["apt-get", "download"]
        subprocess.run(
            ["dpkg-deb", "-b", tmp_path / "deb", cwd / "toy_1_all.deb"], check=True, capture_output=True
        )

    monkeypatch.setattr(transport, "run", run)
    entry = {
        "package": "toy",
        "path": "/usr/share/toy",
        "files": {n: sha(d) for n, d in files.items()},
        "format": "idx",
    }
    table = KINDS["deb"](entry, IMAGES, place)
    assert np.array_equal(table.x[:30, 0], pictures["train-images"])
    assert np.array_equal(table.y[30:], pictures["t10k-labels"])
    assert table.part is not None
    assert table.part.sum() == 12
    entry["files"] = {**entry["files"], "t10k-labels.gz": "0" * 64}
    with pytest.raises(SourceError, match=r"t10k-labels.gz has sha256"):
        KINDS["deb"](entry, IMAGES, place)


@pytest.mark.parametrize("cut", [8, 40])
def test_idx_of_the_wrong_length_is_refused(pictures: dict, cut: int) -> None:
    files = {f"{k}.gz": idx(v) for k, v in pictures.items()}
    files["train-images.gz"] = gzip.compress(gzip.decompress(files["train-images.gz"])[:-cut])
    with pytest.raises(ValueError, match="idx file declares"):
        formats.read_idx(files, {}, IMAGES)


def test_as_many_labels_as_images(pictures: dict) -> None:
    pictures["train-labels"] = pictures["train-labels"][:-1]
    with pytest.raises(ValueError, match="30 samples and 29 labels"):
        formats.read_idx({k: idx(v) for k, v in pictures.items()}, {}, IMAGES)


def write_mirror(folder: Path, pictures: dict, shards: int = 2) -> None:
    import pyarrow as pa
    import pyarrow.parquet as parquet

    folder.mkdir(parents=True)
    for split, key in (("train", "train"), ("test", "t10k")):
        images = [{"bytes": png(i), "path": None} for i in pictures[f"{key}-images"]]
        table = pa.table({"image": images, "label": pictures[f"{key}-labels"].astype(np.int64)})
        for k in range(shards):
            half = table.slice(k * len(table) // shards, len(table) // shards)
            parquet.write_table(half, folder / f"{split}-{k:05}-of-{shards:05}.parquet")


def test_mirror_reads_every_shard_of_the_hub_layout(pictures: dict, place: Place) -> None:
    write_mirror(place.mirrors[0] / "owner" / "pictures" / "plain", pictures)
    table = KINDS["mirror"]({"path": "owner/pictures/plain", "x": "image", "y": "label"}, IMAGES, place)
    assert np.array_equal(table.x[:, 0], np.concatenate([pictures["train-images"], pictures["t10k-images"]]))
    assert np.array_equal(table.y, np.concatenate([pictures["train-labels"], pictures["t10k-labels"]]))
    assert table.part is not None
    assert table.part.tolist() == [0] * 30 + [1] * 12


def test_mirror_faults_have_names(pictures: dict, place: Place, tmp_path: Path) -> None:
    entry = {"path": "owner/pictures/plain", "x": "image", "y": "label"}
    with pytest.raises(SourceError, match=r"not in .*mirror"):
        KINDS["mirror"](entry, IMAGES, place)
    with pytest.raises(SourceError, match="no mirror is set"):
        KINDS["mirror"](entry, IMAGES, Place(tmp_path / "root"))
    with pytest.raises(SourceError, match="leaves"):
        KINDS["mirror"]({**entry, "path": "../outside"}, IMAGES, place)
    folder = place.mirrors[0] / "owner" / "pictures" / "plain"
    write_mirror(folder, pictures)
    with pytest.raises(ValueError, match="images must be 9 x 9, row 0 is 5 x 4"):
        KINDS["mirror"](entry, Spec("p", 10, (1, 9, 9)), place)
    with pytest.raises(ValueError, match="labels must be among"):
        KINDS["mirror"](entry, Spec("p", 3, (1, 4, 5)), place)
    for file in folder.glob("test-*"):
        file.unlink()
    with pytest.raises(SourceError, match="test split is missing"):
        KINDS["mirror"](entry, IMAGES, place)


def test_hub_is_asked_for_the_pinned_revision_once(pictures: dict, place: Place, monkeypatch) -> None:
    asked: dict = {}
    columns = {
        s: {
            "image": [{"bytes": png(i)} for i in pictures[f"{k}-images"]],
            "label": pictures[f"{k}-labels"].tolist(),
        }
        for s, k in (("train", "train"), ("test", "t10k"))
    }

    class Rows(dict):
        def __getitem__(self, key):
            return dict(self) if isinstance(key, slice) else super().__getitem__(key)

    class Held(dict):
        def cast_column(self, name, feature):
            asked["decode"] = (name, feature)
            return self

    def load_dataset(*args, **options):
        asked.update(options, args=args)
        return Held({s: Rows(c) for s, c in columns.items()})

    fake = types.SimpleNamespace(load_dataset=load_dataset, DownloadConfig=lambda **k: k, Image=lambda **k: k)
    monkeypatch.setitem(sys.modules, "datasets", fake)  # type: ignore[arg-type]
    monkeypatch.setattr(sources, "reach", lambda url: asked.setdefault("reach", url))
    monkeypatch.setattr(sources, "check_hub_size", lambda *a: asked.setdefault("size", a))
    entry = {"id": "owner/pictures", "config": "plain", "revision": "abc", "x": "image", "y": "label"}
    table = KINDS["hub"](entry, IMAGES, place)
    assert np.array_equal(table.x[30:, 0], pictures["t10k-images"])
    assert asked["args"] == ("owner/pictures", "plain")
    assert asked["revision"] == "abc"
    assert asked["download_config"] == {"max_retries": 0}
    assert asked["decode"] == ("image", {"decode": False})
    assert asked["size"] == ("owner/pictures", "dataset", "abc", None)
    assert "trust_remote_code" not in asked
    assert float(os.environ["HF_HUB_ETAG_TIMEOUT"]) <= 10


def test_hub_file_is_parsed_by_its_format(text: str, place: Place, tmp_path: Path, monkeypatch) -> None:
    path = tmp_path / "letter.data"
    path.write_text("\n".join(",".join([r.split(",")[3], *r.split(",")[:3]]) for r in text.splitlines()))
    asked: dict = {}

    def hf_hub_download(*args, **options):
        asked.update(options, args=args)
        return str(path)

    monkeypatch.setitem(
        sys.modules, "huggingface_hub", types.SimpleNamespace(hf_hub_download=hf_hub_download)
    )  # type: ignore[arg-type]
    monkeypatch.setattr(sources, "reach", lambda url: None)
    monkeypatch.setattr(sources, "check_hub_size", lambda *a: None)
    entry = {"id": "o/n", "revision": "abc", "file": "letter.data", "format": "csv", "y": 0}
    table = KINDS["hub"](entry, TOY, place)
    assert table.x[0].tolist() == [float(v) for v in text.split("\n")[0].split(",")[:3]]
    assert asked == {"args": ("o/n", "letter.data"), "repo_type": "dataset", "revision": "abc"}


@pytest.mark.parametrize(
    ("sizes", "reason"),
    [
        ([3 << 30, 2 << 30], "5120 MiB, at most 4096"),
        ([None, 5], "does not say how large"),
        ([], "does not say"),
        ([4 << 30, 0], None),
    ],
)
def test_a_repository_of_the_hub_is_measured_before_it_is_downloaded(
    sizes, reason, place, monkeypatch
) -> None:
    import huggingface_hub

    from lossatlas.errors import UserError
    from lossatlas.text import hub

    class Api:
        def repo_info(self, id, **options):
            assert options["files_metadata"]
            files = [types.SimpleNamespace(rfilename=f"f{k}", size=s) for k, s in enumerate(sizes)]
            return types.SimpleNamespace(siblings=files)

    monkeypatch.delenv("HF_HUB_OFFLINE", raising=False)
    monkeypatch.delenv("HF_DATASETS_OFFLINE", raising=False)
    monkeypatch.setattr(huggingface_hub, "HfApi", Api)
    monkeypatch.setattr(sources, "reach", lambda url: None)
    loaded: list = []
    fake = types.SimpleNamespace(load_dataset=loaded.append, DownloadConfig=lambda **k: k)
    monkeypatch.setitem(sys.modules, "datasets", fake)  # type: ignore[arg-type]
    if reason is None:
        assert hub.reach("o/n", lambda: 7, "dataset") == 7
        return
    with pytest.raises(SourceError, match=reason):
        KINDS["hub"]({"id": "o/n", "revision": "abc", "y": "label"}, TOY, place)
    with pytest.raises(UserError, match=reason):
        hub.reach("o/n", lambda: loaded.append(1), "dataset")
    assert not loaded


def test_openml_gets_one_attempt_under_a_time_out(text: str, place: Place, monkeypatch) -> None:
    import sklearn.datasets

    asked: dict = {}

    def fetch_openml(name, **options):
        asked.update(options, name=name, timeout=socket.getdefaulttimeout())
        frame = pd.read_csv(io.StringIO(text), header=None, names=["a", "b", "c", "class"])
        frame["class"] = frame["class"].astype("category")
        return types.SimpleNamespace(frame=frame, target=frame["class"])

    monkeypatch.setattr(sklearn.datasets, "fetch_openml", fetch_openml)
    monkeypatch.setattr(sources, "reach", lambda url: None)
    before = socket.getdefaulttimeout()
    table = KINDS["openml"]({"name": "toy", "version": 2}, TOY, place)
    assert table.x.shape == (60, 3)
    assert table.y[:4].tolist() == [0, 1, 2, 0]
    assert (asked["name"], asked["version"], asked["n_retries"]) == ("toy", 2, 0)
    assert 0 < asked["timeout"] <= 10
    assert socket.getdefaulttimeout() == before


def test_torchvision_sets_are_joined_and_pickled_ones_refused(
    pictures: dict, place: Place, monkeypatch
) -> None:
    import torch
    import torchvision

    class MNIST:
        mirrors = ("https://example.invalid/",)

        def __init__(self, root, train, download) -> None:
            key = "train" if train else "t10k"
            self.data = torch.tensor(pictures[f"{key}-images"], dtype=torch.uint8)
            self.targets = torch.tensor(pictures[f"{key}-labels"])

    monkeypatch.setattr(torchvision.datasets, "MNIST", MNIST)
    monkeypatch.setattr(sources, "reach", lambda url: None)
    table = KINDS["torchvision"]({"dataset": "MNIST"}, IMAGES, place)
    assert np.array_equal(table.x[:30, 0], pictures["train-images"])
    assert not list(place.downloads.iterdir())
    with pytest.raises(SourceError, match="pickles"):
        KINDS["torchvision"]({"dataset": "CIFAR10"}, IMAGES, place)


def test_url_archive_of_binary_records(place: Place, tmp_path: Path) -> None:
    spec, rng = Spec("c", 10, (3, 2, 2)), np.random.default_rng(0)
    coarse, y, x = np.full((9, 1), 77), rng.integers(0, 10, (9, 1)), rng.integers(0, 256, (9, 12))
    records = np.hstack([coarse, y, x]).astype(np.uint8)
    raw = gzip.compress(
        tar_of({"d/train.bin": records[:6].tobytes(), "d/test.bin": records[6:].tobytes()}).getvalue()
    )
    (tmp_path / "c.tar.gz").write_bytes(raw)
    entry = {
        "url": tmp_path.as_uri(), "files": {"c.tar.gz": {"sha256": sha(raw)}},
        "members": ["d/train.bin", "d/test.bin"], "format": "cifar", "skip": 1,
    }  # fmt: skip
    table = KINDS["url"](entry, spec, place)
    assert np.array_equal(table.x.reshape(9, 12), x)
    assert table.y.tolist() == y.ravel().tolist()
    assert table.part is not None
    assert table.part.tolist() == [0] * 6 + [1] * 3
    (tmp_path / "c.tar.gz").unlink()
    assert KINDS["url"](entry, spec, place).y.tolist() == table.y.tolist()  # the kept archive
    (place.downloads / "c.tar.gz").write_bytes(raw[:-9])
    with pytest.raises(SourceError, match="cannot reach"):
        KINDS["url"](entry, spec, place)
    with pytest.raises(ValueError, match="records of 14 bytes"):
        formats.read_cifar({"train.bin": b"0" * 15, "test.bin": b"0" * 14}, {"skip": 1}, spec)


def test_npz_files_from_the_data_folder(pictures: dict, place: Place) -> None:
    files = {}
    for name, key in (("train", "train"), ("test", "t10k")):
        for kind, what in (("imgs", "images"), ("labels", "labels")):
            file = place.root / f"k-{name}-{kind}.npz"
            np.savez_compressed(file, arr_0=pictures[f"{key}-{what}"].astype(np.uint8))
            files[file.name] = None
    table = KINDS["files"]({"files": files, "format": "npz"}, IMAGES, place)
    assert np.array_equal(table.x[:30, 0], pictures["train-images"])
    np.savez(place.root / "k-train-labels.npz", arr_0=np.array([{}], dtype=object))
    with pytest.raises(SourceError, match="holds object, integers are expected"):
        KINDS["files"]({"files": files, "format": "npz"}, IMAGES, place)


@pytest.mark.parametrize("kind", ["installed", "formula"])
def test_functions_of_libraries(kind: str, place: Place) -> None:
    entry = {"function": "sklearn.datasets.load_iris", "args": {"return_X_y": True}}
    table = KINDS[kind](entry, Spec("iris", 3, (4,)), place)
    assert table.x.shape == (150, 4)
    assert np.bincount(table.y).tolist() == [50, 50, 50]


def test_a_column_says_which_rows_are_for_testing() -> None:
    frame = pd.DataFrame({0: [0, 1, 1], 1: ["x", "y", "z"], 2: [0.5, 1.5, 2.5], 3: [2.0, 0.0, 1.0]})
    table = formats.read_frame(
        frame, {"y": -1, "drop": [1], "part": {"column": 0, "test": [1]}}, Spec("t", 3, (1,))
    )
    assert table.x.ravel().tolist() == [0.5, 1.5, 2.5]
    assert table.y.tolist() == [2, 0, 1]
    assert table.part is not None
    assert table.part.tolist() == [0, 1, 1]
    with pytest.raises(ValueError, match="no column 'speaker'"):
        formats.read_frame(frame, {"y": "speaker"}, Spec("t", 3, (1,)))


def test_categorical_columns_become_one_column_a_value(place: Place, tmp_path: Path) -> None:
    place.root.mkdir(parents=True, exist_ok=True)
    (place.root / "c.csv").write_text("x,1,n\ny,,p\nx,10,p\n")
    entry = {"kind": "files", "files": {"c.csv": None}, "format": "csv", "y": -1, "onehot": True}
    table = KINDS["files"](entry, Spec("c", 2, (5,), labels=("n", "p")), place)
    assert table.x.tolist() == [[1, 0, 1, 0, 0], [0, 1, 0, 0, 1], [1, 0, 0, 1, 0]]
    assert table.y.tolist() == [0, 1, 1]
