"""Splits, standardisation, cache and the errors of `load`."""

import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch

from lossatlas.data import Data, load
from lossatlas.data.loading import split_rows
from lossatlas.data.table import Table, canonical, digest
from lossatlas.errors import UserError


def test_split_standardised_by_training_rows_only(toy: dict) -> None:
    data = load(**toy)
    assert (len(data.train), len(data.test), data.shape, data.classes) == (40, 20, (3,), 3)
    assert data.train.x.dtype == torch.float32
    assert data.train.y.dtype == torch.int64
    torch.testing.assert_close(data.train.x.mean(0), torch.zeros(3), atol=1e-6, rtol=0)
    torch.testing.assert_close(data.train.x.std(0, correction=0), torch.ones(3), atol=1e-6, rtol=0)
    assert (data.test.x.mean(0).abs() > 1e-3).all()


def test_split_does_not_depend_on_the_order_of_the_source(toy: dict, tmp_path: Path, text: str) -> None:
    data = load(**toy)
    lines = text.splitlines()
    other = tmp_path / "other"
    other.mkdir()
    (other / "toy.dat").write_text("\n".join(np.random.default_rng(0).permutation(lines)))
    source = {**toy["sources"][0], "files": {"toy.dat": None}}
    again = load(**{**toy, "root": other, "sources": [source]})
    for part in ("train", "test"):
        assert torch.equal(getattr(data, part).x, getattr(again, part).x)
        assert torch.equal(getattr(data, part).y, getattr(again, part).y)


def test_the_last_rows_of_the_permutation_are_for_testing() -> None:
    # committed records were made with this split: another choice of rows, however random, would orphan them
    train, test = split_rows(Table(np.zeros((9, 1)), np.zeros(9, np.int64)), 3, split_seed=0)
    order = np.random.default_rng(0).permutation(9)
    assert [*train, *test] == order.tolist()
    assert len(test) == 3
    part = np.array([1, 0, 0, 1, 0, 0, 0, 0, 1], np.uint8)
    train, test = split_rows(Table(np.zeros((9, 1)), np.zeros(9, np.int64), part), None, split_seed=0)
    assert test.tolist() == [k for k in order if k in (0, 3, 8)]
    assert sorted(train) == [1, 2, 4, 5, 6, 7]


def test_split_seed_moves_rows_between_train_and_test(toy: dict) -> None:
    assert not torch.equal(load(**toy).test.y, load(**toy, split_seed=1).test.y)


def test_canonical_images_sort_by_part_then_pixels_then_label() -> None:
    rng = np.random.default_rng(0)
    x = rng.integers(0, 2, (50, 1, 1, 3), dtype=np.uint8)
    y, part = rng.integers(0, 3, 50), rng.integers(0, 2, 50).astype(np.uint8)
    table = canonical(Table(x, y, part))
    assert table.part is not None
    rows = [(p, *v.ravel().tolist(), k) for p, v, k in zip(table.part, table.x, table.y, strict=True)]
    assert rows == sorted(rows)
    shuffle = rng.permutation(50)
    assert digest(canonical(Table(x[shuffle], y[shuffle], part[shuffle]))) == digest(table)
    y[0] = (y[0] + 1) % 3
    assert digest(canonical(Table(x, y, part))) != digest(table)


def test_canonical_rows_forget_the_last_bit_and_the_sign_of_zero() -> None:
    a = Table(np.array([[0.1, -0.0], [2.0, 1.0]]), np.array([0, 1]))
    b = Table(np.array([[2.0, 1.0], [np.nextafter(0.1, 1), 0.0]]), np.array([1, 0]))
    assert digest(canonical(a)) == digest(canonical(b))


def test_folds_partition_the_training_rows(toy: dict) -> None:
    whole = load(**toy)
    folds = [load(**toy, val_fold=k) for k in range(5)]
    held = torch.cat([f.val.x for f in folds if f.val is not None])
    assert sorted(map(tuple, held.tolist())) == sorted(map(tuple, whole.train.x.tolist()))
    for fold in folds:
        assert fold.val is not None
        together = torch.cat([fold.train.x, fold.val.x])
        assert sorted(map(tuple, together.tolist())) == sorted(map(tuple, whole.train.x.tolist()))
        assert torch.equal(fold.test.x, whole.test.x)


@pytest.mark.parametrize(
    ("change", "word"),
    [
        ({"limit": {"train": 0}}, "data.limit.train"),
        ({"limit": {"test": -3}}, "data.limit.test"),
        ({"limit": {"trian": 3}}, "trian"),
        ({"val_fold": 5}, "0..4"),
        ({"val_fold": -1}, "0..4"),
        ({"seed": -1}, "seed"),
        ({"seed": "abc"}, "seed"),
        ({"test": 60}, "between 1 and 59"),
        ({"test": None}, "data.test"),
        ({"name": "../evil"}, "data.name"),
        ({"shape": [3, 3]}, "data.shape"),
        ({"classes": 1}, "data.classes"),
        ({"labels": ["A", "B"]}, "data.labels"),
        ({"augment": "mixup"}, "none, crop, flip, flip_crop"),
        ({"augment": "flip_crop"}, "needs images"),
        ({"augment": {"padding": -1}}, "pixels >= 0"),
        ({"augment": {"flip": 1.5}}, "probability"),
        ({"augment": {"cutout": 8}}, "padding and flip"),
        ({"noise": {"kind": "uniform", "rate": 1.5}}, "noise.rate"),
        ({"noise": {"kind": "class", "rate": 0.3}, "confusable": []}, "confusable"),
        ({"sources": [{"kind": "ftp"}]}, "ftp"),
        ({"sources": []}, "fetch_data.py toy"),
    ],
)
def test_wrong_settings_are_one_line(toy: dict, change: dict, word: str) -> None:
    with pytest.raises(UserError, match=word) as caught:
        load(**{**toy, **change})
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("old", "new", "word"),
    [
        (",A\n", ",Q\n", "holds 'Q'"),
        ("\n", ",1\n", "shape"),
        (",A\n", ",\n", "labels must be among"),
    ],
)
def test_wrong_rows_are_named(toy: dict, tmp_path: Path, text: str, old: str, new: str, word: str) -> None:
    (tmp_path / "root" / "toy.dat").write_text(text.replace(old, new))
    toy["sources"][0] = {**toy["sources"][0], "files": {"toy.dat": None}, "y": 3}
    with pytest.raises(UserError, match=word):
        load(**toy)


@pytest.mark.parametrize("cell", ["nan", "?", "inf", ""])
def test_a_cell_that_is_no_number_is_named_by_its_row(
    toy: dict, tmp_path: Path, text: str, cell: str
) -> None:
    lines = text.splitlines()
    lines[7] = ",".join([cell, *lines[7].split(",")[1:]])
    (tmp_path / "root" / "toy.dat").write_text("\n".join(lines))
    toy["sources"][0] = {**toy["sources"][0], "files": {"toy.dat": None}}
    with pytest.raises(UserError, match="row 7 holds NaN or inf"):
        load(**toy)


def test_the_cache_answers_when_the_source_is_gone(toy: dict, tmp_path: Path) -> None:
    first = load(**toy)
    (tmp_path / "root" / "toy.dat").unlink()
    again = load(**toy)
    assert torch.equal(first.train.x, again.train.x)
    assert again.source == first.source == "files"
    assert not list((tmp_path / "root").glob("*.part"))


def damage_truncate(path: Path) -> None:
    path.write_bytes(path.read_bytes()[:-300])


def damage_flip(path: Path) -> None:
    held = dict(np.load(path))
    held["y"][0] = (held["y"][0] + 1) % 3
    np.savez(path, **held)


def damage_pickle(path: Path) -> None:
    held = dict(np.load(path))
    np.savez(path, **{**held, "x": np.array([{"a": 1}], dtype=object)})


def damage_empty(path: Path) -> None:
    path.write_bytes(b"")


@pytest.mark.parametrize("damage", [damage_truncate, damage_flip, damage_pickle, damage_empty])
def test_a_damaged_cache_is_fetched_again_or_named(toy: dict, tmp_path: Path, damage, capsys) -> None:
    first = load(**toy)
    (cache,) = (tmp_path / "root").glob("toy-*.npz")
    damage(cache)
    assert torch.equal(load(**toy).train.x, first.train.x)
    assert "damaged" in capsys.readouterr().err
    load(**toy)
    assert "damaged" not in capsys.readouterr().err  # the good one took its place
    damage(cache)
    (tmp_path / "root" / "toy.dat").unlink()
    with pytest.raises(UserError, match=r"toy-.*.npz is damaged .* delete it") as caught:
        load(**toy)
    assert "\n" not in str(caught.value)


def test_a_declared_hash_is_checked_for_source_and_cache(toy: dict, tmp_path: Path) -> None:
    load(**toy)
    (cache,) = (tmp_path / "root").glob("toy-*.npz")
    right = str(np.load(cache)["sha256"])
    assert load(**toy, sha256=right).digest == right
    with pytest.raises(UserError, match="instead of 000000000000"):
        load(**toy, sha256="0" * 64)


def test_the_next_source_is_tried_and_all_are_named_when_none_works(toy: dict, capsys) -> None:
    absent = {"kind": "installed", "path": "/nonexistent/toy", "files": {"a": None}, "format": "csv"}
    mirror = {"kind": "mirror", "path": "owner/toy/config", "y": "label"}
    load(**{**toy, "sources": [absent, mirror, *toy["sources"]]})
    told = capsys.readouterr().err
    assert "installed /nonexistent/toy (/nonexistent/toy does not exist) failed, trying mirror" in told
    with pytest.raises(UserError) as caught:
        load(**{**toy, "name": "toy2", "sources": [absent, mirror]})
    for word in (
        "/nonexistent/toy does not exist",
        "mirror owner/toy/config",
        "fetch_data.py toy2",
        "LOSSATLAS_MIRRORS",
    ):
        assert word in str(caught.value)
    assert "\n" not in str(caught.value)


def test_a_folder_that_cannot_be_written_is_named(toy: dict, tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(UserError, match=r"cannot write to the data folder .*LOSSATLAS_DATA"):
        load(**{**toy, "root": tmp_path / "file" / "below"})


def test_environment_names_the_folder_unless_the_config_does(toy: dict, tmp_path: Path, monkeypatch) -> None:
    monkeypatch.setenv("LOSSATLAS_DATA", str(toy.pop("root")))
    assert len(load(**toy).train) == 40
    with pytest.raises(UserError, match="elsewhere"):
        load(**toy, root=tmp_path / "elsewhere")


def test_batch_gathers_rows_and_normalises_images() -> None:
    data = load(
        "toy", 3, [3, 8, 8], fake=True, mean=[0.5, 0.4, 0.3], std=[0.2, 0.1, 0.3], augment="flip_crop"
    )
    index = torch.tensor([5, 0, 7])
    got = data.batch("train", index, train=False)
    pixels = data.train.x[index].double() / 255
    expected = (pixels - torch.tensor([0.5, 0.4, 0.3]).view(3, 1, 1)) / torch.tensor([0.2, 0.1, 0.3]).view(
        3, 1, 1
    )
    torch.testing.assert_close(got.x.double(), expected, atol=1e-5, rtol=1e-5)
    assert torch.equal(got.y, data.train.y[index])
    assert torch.equal(got.index, index)
    torch.manual_seed(0)
    assert not torch.equal(data.batch(data.train, index, train=True).x, got.x)
    assert data.train.x.dtype == torch.uint8
    assert torch.equal(data.batch("train", index, train=False).x, got.x)  # the stored pixels are untouched


def test_moving_keeps_shared_labels_shared() -> None:
    data: Data = load("toy", 3, [4], fake=True, noise={"kind": "uniform", "rate": 0.5}, val_fold=0).to("cpu")
    assert data.test.y is data.test.y_clean
    assert not torch.equal(data.train.y, data.train.y_clean)
    assert data.val is not None


def test_a_cached_set_loads_without_heavy_libraries(toy: dict, tmp_path: Path) -> None:
    load(**toy)
    heavy = "pandas sklearn datasets torchvision pyarrow huggingface_hub"
    code = f"""
import sys, torch
from pathlib import PosixPath
before = set(sys.modules)
import lossatlas.data as data
data.load(**{toy!r})
print([name for name in {heavy.split()} if name in set(sys.modules) - before])
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"
