"""The attack in a box, without one, and watched from step to step."""

import pytest
import torch
from torch import nn
from torch.testing import assert_close

from lossatlas.attacks import ball, pgd

W = torch.tensor([[1.0, -2.0, 0.5]], dtype=torch.float64)
X = torch.tensor([[-3.0, 0.2, 7.0], [0.9, 0.5, 0.1]], dtype=torch.float64)
Y = torch.zeros(2, dtype=torch.int64)


def linear() -> nn.Module:
    net = nn.Linear(3, 1, bias=False).double()
    net.weight.data.copy_(W)
    return net


def first(f, _):
    return f[:, 0]


def test_without_a_box_the_attack_reaches_the_corner_of_the_ball():
    assert_close(pgd(linear(), X, Y, first, 0.25, steps=10, box=None), X + 0.25 * W.sign())


def test_a_box_of_its_own_cuts_the_ball():
    moved = pgd(linear(), X, Y, first, 0.25, steps=10, box=(-3.1, 7.1))
    assert_close(moved, (X + 0.25 * W.sign()).clamp(-3.1, 7.1))
    with pytest.raises(ValueError, match=r"needs inputs in \[-1, 1\] without NaN"):
        ball(X, 0.1, (-1.0, 1.0))
    with pytest.raises(ValueError, match="finite inputs"):
        ball(X * torch.nan, 0.1, None)


def test_each_step_is_seen_with_its_point_and_scores():
    seen, net = [], linear()
    moved = pgd(
        net,
        X,
        Y,
        first,
        0.3,
        0.1,
        4,
        torch.Generator().manual_seed(0),
        box=None,
        on_step=lambda *s: seen.append(s),
    )
    assert [k for k, *_ in seen] == [0, 1, 2, 3]
    assert not any(t.requires_grad for _, *both in seen for t in both)
    for k, point, scores in seen:
        assert_close(scores, net(point).detach())
        after = seen[k + 1][1] if k < 3 else moved
        assert_close(after, torch.minimum(torch.maximum(point + 0.1 * W.sign(), X - 0.3), X + 0.3))
    unwatched = pgd(net, X, Y, first, 0.3, 0.1, 4, torch.Generator().manual_seed(0), box=None)
    assert torch.equal(moved, unwatched)
