"""Adaptation of batch norms: what moves and what does not."""

import math

import pytest
import torch
from torch import nn
from torch.optim.swa_utils import update_bn
from torch.testing import assert_close

from lossatlas.nets import ConvNet
from lossatlas.nets.norms import affine, entropy, entropy_step, refresh, restore, snapshot


def net():
    torch.manual_seed(0)
    return ConvNet(1, 3, 8, widths=[4, 5], norm="batch")


def batches():
    g = torch.Generator().manual_seed(1)
    return [2 + 3 * torch.randn(6, 1, 8, 8, generator=g) for _ in range(4)]


def test_affine_is_scale_and_shift_of_every_batch_norm():
    module = net()
    assert [id(p) for p in affine(module)] == [
        id(p) for name, p in module.named_parameters() if name.split(".")[1] in "14" and p.ndim == 1
    ]
    with pytest.raises(ValueError, match="no batch norm"):
        affine(nn.Linear(2, 2))


def test_refresh_is_torchs_update_bn_and_changes_buffers_only():
    ours, theirs = net().eval(), net()
    before = snapshot(ours)
    refresh(ours, batches())
    update_bn(batches(), theirs)
    for (name, a), b in zip(ours.named_buffers(), theirs.buffers(), strict=True):
        assert_close(a, b)
        assert not a.equal(before[name])
    assert all(p.equal(before[name]) for name, p in ours.named_parameters())
    assert not any(m.training for m in ours.modules())
    assert [m.momentum for m in ours.features if isinstance(m, nn.BatchNorm2d)] == [0.1, 0.1]


def test_refresh_with_momentum_goes_on_from_what_is_there():
    norm = nn.BatchNorm1d(1, dtype=torch.float64)
    refresh(norm, [torch.tensor([[10.0], [14.0]], dtype=torch.float64)], momentum=0.25)
    assert norm.running_mean.item() == pytest.approx(0.25 * 12)
    assert norm.running_var.item() == pytest.approx(0.75 + 0.25 * 8)  # unbiased


def test_refresh_leaves_dropout_off():
    module = nn.Sequential(nn.Dropout(0.9), nn.BatchNorm1d(1))
    refresh(module, [torch.tensor([[1.0], [3.0]])])
    assert module[1].running_mean.item() == 2.0
    assert module[0].training


@pytest.mark.parametrize(
    ("module", "x", "momentum"),
    [(nn.Linear(1, 1), [], None), (nn.BatchNorm1d(1), [], None), (nn.BatchNorm1d(1), [], 0.0)],
)
def test_refresh_refuses(module, x, momentum):
    with pytest.raises(ValueError, match="refresh"):
        refresh(module, x, momentum)


def test_a_snapshot_comes_back_bitwise_and_in_place():
    module = net()
    module.tied = module.scores
    before, places = snapshot(module), [p.data_ptr() for p in module.parameters()]
    optimizer = torch.optim.SGD(module.parameters(), lr=0.5)
    module(batches()[0]).square().sum().backward()
    optimizer.step()
    assert not all(t.equal(before[name]) for name, t in module.named_parameters())
    restore(module, before)
    assert all(t.equal(before[name]) for name, t in [*module.named_parameters(), *module.named_buffers()])
    assert [p.data_ptr() for p in module.parameters()] == places
    with pytest.raises(ValueError, match="another net"):
        restore(nn.Linear(2, 2), before)


def test_entropy_between_certainty_and_chance():
    f = torch.tensor([[0.0, 0.0, 0.0], [1e4, 0.0, -1e4]], dtype=torch.float64, requires_grad=True)
    H = entropy(f)
    assert_close(H.detach(), torch.tensor([math.log(3), 0.0], dtype=torch.float64))
    (g,) = torch.autograd.grad(H.sum(), f)
    assert torch.isfinite(g).all()
    x = torch.randn(4, 3, 2, dtype=torch.float64, requires_grad=True)
    assert torch.autograd.gradcheck(entropy, (x,))
    assert_close(entropy(x), torch.distributions.Categorical(logits=x.movedim(1, -1)).entropy())
    assert entropy(torch.zeros(1, 4, dtype=torch.float16)).dtype == torch.float32


def test_an_entropy_step_trains_what_the_optimiser_holds_and_nothing_else():
    module, x = net(), batches()[0]
    before = snapshot(module)
    expected = module(x).detach()
    restore(module, before)
    scores = entropy_step(module, torch.optim.Adam(affine(module), lr=0.05), x)
    assert scores.equal(expected)  # those that gave the loss
    trained = {id(p) for p in affine(module)}
    for name, p in module.named_parameters():
        assert p.equal(before[name]) != (id(p) in trained)
    assert entropy(module(x)).mean() < entropy(scores).mean()
    restore(module, before)
    entropy_step(module, torch.optim.Adam(affine(module), lr=0.0), x)
    assert all(p.equal(before[name]) for name, p in module.named_parameters())
