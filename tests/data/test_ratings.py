"""Ratings: the columns of RecBole's files, the cache, the made-up set, refusals."""

import numpy as np
import pytest
import torch

from lossatlas.data.archives import SourceError
from lossatlas.data.ratings import fake_ratings, load_ratings, read_atomic
from lossatlas.errors import UserError

INTER = (
    b"user_id:token\titem_id:token\trating:float\ttimestamp:float\n7\t30\t4\t0\n2\t10\t1.5\t0\n7\t10\t5\t0\n"
)
ITEM = b'item_id:token\tmovie_title:token_seq\trelease_year:token\n30\tB "quoted\t1984\n4\tnever rated\t\n10\tA\t1999\n'


def write(folder, inter=INTER, item=ITEM):
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "toy.inter").write_bytes(inter)
    (folder / "toy.item").write_bytes(item)
    return [{"kind": "files", "files": {"inter": "toy.inter", "item": "toy.item"}}]


def test_columns_are_numbered_by_id(tmp_path):
    held = load_ratings("toy", write(tmp_path), root=tmp_path)
    assert held.titles == ("never rated", "A", 'B "quoted')  # items in the order of their ids 4, 10, 30
    assert held.year.tolist() == [0, 1999, 1984]
    assert held.user.tolist() == [1, 0, 1]  # users 2 and 7
    assert held.item.tolist() == [2, 1, 1]
    table = held.dense()
    assert table[1].nan_to_num(nan=-1).tolist() == [-1, 5, 4]
    assert held.most_rated(2).tolist() == [1, 2]


def test_the_cache_is_used_and_a_torn_one_is_replaced(tmp_path):
    sources = write(tmp_path)
    first = load_ratings("toy", sources, root=tmp_path)
    (tmp_path / "toy.inter").unlink()
    again = load_ratings("toy", sources, root=tmp_path)
    assert torch.equal(first.dense().nan_to_num(), again.dense().nan_to_num())
    path = tmp_path / "toy.ratings.npz"
    path.write_bytes(path.read_bytes()[:100])
    with pytest.raises(UserError, match="damaged"):
        load_ratings("toy", sources, root=tmp_path)
    write(tmp_path)
    assert len(load_ratings("toy", sources, root=tmp_path).rating) == 3


@pytest.mark.parametrize(
    ("inter", "item", "line"),
    [
        (INTER.replace(b"2\t10\t", b"2\t11\t"), ITEM, "not listed"),
        (INTER + b"7\t10\t1\t0\n", ITEM, "twice"),
        (INTER, ITEM.replace(b"release_year", b"year"), "no column release_year"),
        (INTER + b"7\t10\n", ITEM, "columns of the header"),
    ],
)
def test_wrong_files_are_refused(inter, item, line):
    with pytest.raises(SourceError, match=line):
        read_atomic({"inter": inter, "item": item})


def test_fake_ratings_have_structure():
    held = fake_ratings()
    assert held.rating.unique().tolist() == [1, 2, 3, 4, 5]
    counts = torch.bincount(held.item, minlength=held.items)
    assert counts[:10].sum() > 3 * counts[-10:].sum()
    table = np.nan_to_num(held.dense().numpy() - 3)
    share = np.linalg.svd(table, compute_uv=False) ** 2
    assert share[:2].sum() > 0.5 * share.sum()
