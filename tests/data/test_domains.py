"""Domains and episodes: every row once a pass, functions of the number alone, refusals."""

import pytest
import torch

from lossatlas.data.core import Split
from lossatlas.data.domains import Domains, rotated
from lossatlas.data.episodes import BLOCK, Episodes, class_split
from lossatlas.errors import UserError


def split(n: int, mark: float) -> Split:
    y = torch.arange(n) % 3
    return Split(torch.full((n, 2), mark) + torch.arange(n)[:, None] / 100, y, y)


def test_each_pass_of_a_domain_holds_every_row_once():
    domains = Domains([split(10, 1.0), split(6, 2.0)], size=4, seed=3)
    rows = domains.rows(torch.arange(15))  # 60 rows of each: 6 passes of ten, 10 passes of six
    for d, n in enumerate((10, 6)):
        passes = rows[:, d].flatten().view(-1, n)
        assert (passes.sort(1).values == torch.arange(n)).all()
        assert not torch.equal(passes[0], passes[1])


def test_steps_alone_decide_the_rows():
    whole = Domains([split(10, 1.0), split(6, 2.0)], size=4, seed=3)
    rows = whole.rows(torch.arange(20))
    cut = Domains([split(10, 1.0), split(6, 2.0)], size=4, seed=3)
    assert torch.equal(cut.rows(torch.arange(13, 20)), rows[13:])
    assert not torch.equal(Domains([split(10, 1.0), split(6, 2.0)], 4, seed=4).rows(torch.arange(20)), rows)
    batch = next(whole.mini_batches(torch.tensor([7])))
    assert batch.x.shape == (2, 4, 2)
    assert torch.equal(batch.x[1, :, 0], 2.0 + rows[7, 1] / 100)
    assert torch.equal(batch.y[0], rows[7, 0] % 3)


def test_rotations():
    x = torch.rand(2, 1, 15, 15)
    assert torch.equal(rotated(x, 0), x)
    assert torch.equal(rotated(x, 180), x.flip(2, 3))
    grid = torch.linspace(-1, 1, 15)
    disc = (grid[:, None] ** 2 + grid**2 < 0.5).float()[None, None]
    turned = rotated(disc * (grid > 0), 45)  # a half disc: its centre of mass turns with it
    angle = torch.atan2(-(turned * grid[:, None]).sum(), (turned * grid).sum())
    assert abs(angle - torch.pi / 4) < 0.03


@pytest.mark.parametrize(
    ("splits", "size", "line"),
    [([], 1, "at least one domain"), ([split(3, 0)], 0, "size=0"), ([split(0, 0)], 1, "rows in each")],
)
def test_domains_refuse(splits, size, line):
    with pytest.raises(UserError, match=line):
        Domains(splits, size, seed=0)


Y = torch.arange(400) % 8


def test_episodes_hold_rows_of_their_classes_once():
    drawn = Episodes(Y, [1, 3, 4, 6], ways=3, shots=2, queries=5, seed=0).draw(torch.arange(200))
    assert (Y[drawn.support] == drawn.classes[:, :, None]).all()
    assert (Y[drawn.query] == drawn.classes[:, :, None]).all()
    assert set(drawn.classes.unique().tolist()) == {1, 3, 4, 6}
    both = torch.cat([drawn.support, drawn.query], 2).flatten(1).sort(1).values
    assert (both.diff(dim=1) > 0).all()
    assert (drawn.classes.sort(1).values.diff(dim=1) > 0).all()


def test_an_episode_depends_on_its_number_alone():
    episodes = Episodes(Y, None, 3, 1, 2, seed=5)
    whole = episodes.draw(torch.arange(3 * BLOCK))
    some = torch.tensor([2 * BLOCK + 3, 1, 2 * BLOCK])
    other = Episodes(Y, None, 3, 1, 2, seed=5).draw(some)
    for a, b in zip(whole, other, strict=True):
        assert torch.equal(a[some], b)
    assert not torch.equal(Episodes(Y, None, 3, 1, 2, seed=6).draw(some).query, other.query)


def test_rows_of_unequal_classes_are_drawn_uniformly():
    y = torch.tensor([0] * 3 + [1] * 30)
    drawn = Episodes(y, None, 2, 1, 0, seed=0).draw(torch.arange(3000))
    rows = drawn.support[drawn.classes == 1][:, 0]
    counts = torch.bincount(rows, minlength=33)
    assert counts[:3].sum() == 0
    assert ((counts[3:] - 100).abs() < 45).all()  # 4.5 standard deviations of a count of mean 100


def test_class_split_is_disjoint_and_seeded():
    parts = class_split(26, [12, 4, 10], seed=1)
    assert torch.equal(torch.cat(parts).sort().values, torch.arange(26))
    assert not torch.equal(class_split(26, [12, 4, 10], seed=2)[0], parts[0])
    with pytest.raises(UserError, match="27 classes"):
        class_split(26, [20, 7], seed=0)


@pytest.mark.parametrize(
    ("ways", "shots", "queries", "line"),
    [(9, 1, 1, "ways <= 8"), (2, 0, 1, "shots=0"), (2, 30, 30, "an episode takes 60")],
)
def test_episodes_refuse(ways, shots, queries, line):
    with pytest.raises(UserError, match=line):
        Episodes(Y, None, ways, shots, queries, seed=0)
