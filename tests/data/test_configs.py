"""Every declaration in conf/data gives data of its shape; the noise group; the fetch script."""

import importlib.util
import os
from pathlib import Path

import numpy as np
import pytest
import torch
from hydra.utils import instantiate
from omegaconf import OmegaConf

from lossatlas.data import Data, load
from lossatlas.data.sources import KINDS
from lossatlas.errors import UserError
from lossatlas.paths import CHECKOUT, conf_dir

FILES = sorted((conf_dir() / "data").glob("*.yaml"))
# declarations of tables; texts are in test_text.py, views in test_views.py
NAMES = [f.stem for f in FILES if "classes" in (held := OmegaConf.load(f)) and "defaults" not in held]
SHARED = Path(os.environ.get("LOSSATLAS_TEST_MIRROR", CHECKOUT.parent / "shared" / "data"))


def node(name: str, **top: object) -> Data:
    """The data set as the runner builds it."""
    defaults = {
        "fake": True,
        "limit": {"train": 70, "test": 30},
        "seed": 0,
        "data_root": None,
        "data_mirrors": None,
    }
    noise = OmegaConf.load(conf_dir() / "noise" / "u30.yaml")
    cfg = OmegaConf.create({**defaults, "noise": noise, **top})
    cfg.data = OmegaConf.load(conf_dir() / "data" / f"{name}.yaml")
    return instantiate(cfg.data)


def test_the_data_sets_of_the_first_papers_are_there() -> None:
    wanted = {
        "letter",
        "vowel",
        "satimage",
        "penbased",
        "fashion_mnist",
        "mnist",
        "cifar10",
        "cifar100",
        "kuzushiji49",
    }
    assert wanted <= set(NAMES)


@pytest.mark.parametrize("name", NAMES)
def test_fake_data_has_the_declared_shape_and_touches_no_disk(name: str, tmp_path: Path) -> None:
    held = OmegaConf.load(conf_dir() / "data" / f"{name}.yaml")
    quiet = {} if held.classes else {"noise": None}  # numbers take no label noise
    data = node(name, data_root=str(tmp_path / "never"), **quiet)
    assert (len(data.train), len(data.test)) == (70, 30)
    assert list(data.shape) == list(held.shape)
    assert data.name == held.name == name
    batch = data.batch("train", torch.arange(8), train=True)
    assert list(batch.x.shape) == [8, *held.shape]
    assert batch.x.dtype == torch.float32
    if held.classes:
        assert 0 <= int(data.train.y.min()) <= int(data.train.y.max()) < held.classes
        assert (data.train.y != data.train.y_clean).any()
    else:
        assert data.train.y.dtype == torch.float32
        assert data.train.y.isfinite().all()
    assert not (tmp_path / "never").exists()
    assert torch.equal(node(name, **quiet).train.x, data.train.x)
    assert {s.kind for s in held.sources} <= set(KINDS)


@pytest.mark.parametrize(
    ("name", "train", "test"), [("digits", 1437, 360), ("diabetes", 354, 88), ("friedman1", 400, 2000)]
)
def test_sets_that_scikit_learn_brings(name: str, train: int, test: int, tmp_path: Path) -> None:
    data = node(name, fake=False, limit=None, noise=None, data_root=str(tmp_path))
    assert (len(data.train), len(data.test)) == (train, test)
    held = OmegaConf.load(conf_dir() / "data" / f"{name}.yaml")
    assert data.digest == held.get("sha256", data.digest)
    assert data.train.y.dtype == (torch.int64 if held.classes else torch.float32)
    varying = data.train.x.std(0, correction=0) > 0
    torch.testing.assert_close(
        data.train.x[:, varying].std(0, correction=0), torch.ones(int(varying.sum())), atol=1e-5, rtol=0
    )


def test_numbers_to_regress_are_as_they_are_and_features_raw_where_asked() -> None:
    from sklearn.datasets import load_diabetes, make_friedman1

    x, y = load_diabetes(return_X_y=True, scaled=False)
    source = [
        {
            "kind": "formula",
            "function": "sklearn.datasets.load_diabetes",
            "args": {"return_X_y": True, "scaled": False},
        }
    ]
    raw = load("d", 0, [10], source, test=88, standardise=False)
    both = torch.cat([torch.cat([s.x, s.y[:, None]], 1) for s in (raw.train, raw.test)])
    right = torch.tensor(np.column_stack([x, y]), dtype=torch.float32)
    assert sorted(map(tuple, both.tolist())) == sorted(map(tuple, right.tolist()))
    drawn = [node("friedman1", fake=False, limit=None, noise=None, seed=seed) for seed in (0, 1)]
    assert sorted(drawn[1].train.y.tolist() + drawn[1].test.y.tolist()) == sorted(
        make_friedman1(2400, n_features=10, noise=1.0, random_state=1)[1].astype(np.float32).tolist()
    )
    assert drawn[0].digest != drawn[1].digest
    with pytest.raises(UserError, match="noise changes class labels, d has numbers"):
        load("d", 0, [10], fake=True, noise={"kind": "uniform", "rate": 0.3})


def test_fake_numbers_follow_their_features() -> None:
    data = load("toy", 0, [8], fake=True)
    slope = torch.linalg.lstsq(data.train.x, data.train.y[:, None]).solution
    left = data.test.y - (data.test.x @ slope)[:, 0]
    assert left.var() < 0.05 * data.test.y.var()


def test_fake_classes_can_be_told_apart() -> None:
    data = load("toy", 3, [8], fake=True)
    means = torch.stack([data.train.x[data.train.y == k].mean(0) for k in range(3)])
    nearest = torch.cdist(data.test.x, means).argmin(1)
    assert (nearest == data.test.y).float().mean() > 0.9


def test_letter_pairs_are_the_papers() -> None:
    held = OmegaConf.load(conf_dir() / "data" / "letter.yaml")
    pairs = " ".join("-".join(held.labels[k] for k in pair) for pair in held.confusable)
    assert pairs == "B-D C-G E-F H-N I-L K-X M-W O-Q P-R U-V"


@pytest.mark.parametrize(
    ("name", "kind", "rate", "tuned_as"),
    [
        ("u00", "uniform", 0.0, "u00"), ("u30", "uniform", 0.3, "u30"), ("u60", "uniform", 0.6, "u60"),
        ("u90", "uniform", 0.9, "u60"), ("c10", "class", 0.1, "c30"), ("c30", "class", 0.3, "c30"),
        ("c50", "class", 0.5, "c30"),
    ],
)  # fmt: skip
def test_noise_group(name: str, kind: str, rate: float, tuned_as: str) -> None:
    held = OmegaConf.load(conf_dir() / "noise" / f"{name}.yaml")
    assert dict(held) == {"name": name, "kind": kind, "rate": rate, "tuned_as": tuned_as}


needs_mirror = pytest.mark.skipif(
    not (SHARED / "ylecun").is_dir(), reason="the shared mirror is not on this machine"
)


@needs_mirror
def test_the_mirrors_mnist_is_the_declared_one(tmp_path: Path) -> None:
    data = node("mnist", fake=False, limit=None, data_root=str(tmp_path), data_mirrors=str(SHARED))
    assert (len(data.train), len(data.test)) == (60_000, 10_000)
    assert data.source == "mirror ylecun/mnist/mnist"
    x = data.batch("train", torch.arange(5000), train=False).x
    assert abs(float(x.mean())) < 0.02
    assert float(x.std()) == pytest.approx(1, abs=0.02)


@needs_mirror
def test_real_colour_images_from_some_rows_of_the_mirror(tmp_path: Path) -> None:
    import pyarrow as pa
    import pyarrow.parquet as parquet

    path = "uoft-cs/cifar10/plain_text"
    (tmp_path / path).mkdir(parents=True)
    for split, rows in (("train", 2000), ("test", 500)):
        (file,) = (SHARED / path).glob(f"{split}-*")
        first = next(parquet.ParquetFile(file).iter_batches(rows))
        parquet.write_table(pa.Table.from_batches([first]), tmp_path / path / file.name)
    data = node("cifar10", fake=False, limit=None, data_root=str(tmp_path), data_mirrors=str(tmp_path))
    assert (len(data.train), len(data.test)) == (2000, 500)
    x = data.batch("train", torch.arange(2000), train=False).x
    assert x.mean((0, 2, 3)).abs().max() < 0.1
    assert (x.std((0, 2, 3)) - 1).abs().max() < 0.1


# --- scripts/fetch_data.py


@pytest.fixture
def script():
    spec = importlib.util.spec_from_file_location("fetch_data", CHECKOUT / "scripts" / "fetch_data.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.fixture
def conf(script, tmp_path: Path, monkeypatch) -> Path:
    """A conf folder of its own with one set that can be had and one that cannot."""
    conf = tmp_path / "conf"
    (conf / "data").mkdir(parents=True)
    (conf / "experiment" / "paper").mkdir(parents=True)
    (tmp_path / "root").mkdir()
    (tmp_path / "root" / "toy.csv").write_text("\n".join(f"{v},{v % 2}" for v in range(20)))
    common = "classes: 2\nshape: [1]\ntest: 5\nseed: ${seed}\nsources:\n"
    source = "  - {kind: files, files: {toy.csv: null}, format: csv, y: -1}\n"
    (conf / "data" / "toy.yaml").write_text("name: toy\n" + common + source)
    (conf / "data" / "gone.yaml").write_text("name: gone\n" + common + source.replace("toy.csv", "gone.csv"))
    (conf / "data" / "none.yaml").write_text("{}\n")
    (conf / "experiment" / "a.yaml").write_text("defaults:\n  - override /data: toy\n  - _self_\n")
    (conf / "experiment" / "paper" / "a.yaml").write_text(
        "defaults:\n  - /experiment/a\n  - override /data: gone\n"
    )
    (conf / "data" / "made.yaml").write_text("defaults: [toy@corpus]\n")
    (conf / "experiment" / "c.yaml").write_text("defaults:\n  - override /data: made\n")
    (conf / "experiment" / "b.yaml").write_text("hydra: {sweeper: {params: {data: 'gone,toy'}}}\n")
    monkeypatch.setattr(script, "conf_dir", lambda: conf)
    return tmp_path / "root"


def test_script_fetches_and_works_from_any_directory(
    script, conf: Path, capsys, monkeypatch, tmp_path: Path
) -> None:
    monkeypatch.chdir("/")
    assert script.main(["toy", "--root", str(conf)]) == 0
    assert "[1/1] toy: 20 rows (files" in capsys.readouterr().out
    (cache,) = conf.glob("toy-*.npz")
    assert np.load(cache)["x"].shape == (20, 1)


def test_script_reads_the_sets_of_experiments(script, conf: Path) -> None:
    def names(*argv: str) -> list[str]:
        return script.wanted(script.parser().parse_args(argv))

    assert names("--experiment", "a") == ["toy"]
    assert names("--experiment", "paper/a") == ["toy", "gone"]
    assert names("--experiment", "b") == ["gone", "toy"]
    assert names("--experiment", "c") == ["toy"]
    assert names("--all") == ["gone", "toy"]


@pytest.mark.parametrize(
    ("argv", "word"),
    [
        (["toi"], "did you mean toy"),
        (["none"], "no data set 'none'"),
        (["--experiment", "zzz"], "no experiment 'zzz'"),
        ([], "--help"),
        (["gone"], "gone.csv not in"),
    ],
)
def test_script_says_one_line_and_exits_2(script, conf: Path, capsys, argv: list[str], word: str) -> None:
    assert script.main([*argv, "--root", str(conf)]) == 2
    last = capsys.readouterr().err.strip().splitlines()[-1]
    assert last.startswith("fetch_data: ")
    assert word in last


def test_script_goes_on_after_a_set_that_cannot_be_had(script, conf: Path) -> None:
    assert script.main(["gone", "toy", "--root", str(conf)]) == 2
    assert list(conf.glob("toy-*.npz"))
