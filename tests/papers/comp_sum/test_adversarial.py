"""Truths of the adversarial losses, their attack and the small net, float64."""

import math

import pytest
import torch
from torch import nn
from torch.nn.functional import cross_entropy, kl_div
from torch.testing import assert_close

from lossatlas.nets.conv import SmallConv
from lossatlas.papers.comp_sum import (
    ATPGD,
    MART,
    TRADES,
    AdvCompSumLoss,
    CompSumLoss,
    pgd,
    robust_correct,
    score_change,
)
from lossatlas.papers.comp_sum.attack import per_sample_cross_entropy

K = 4
LOSSES = [AdvCompSumLoss, ATPGD, TRADES, MART]


def seeded(seed=0):
    return torch.Generator().manual_seed(seed)


@pytest.fixture
def net():
    torch.manual_seed(0)
    return SmallConv(channels=1, classes=K, widths=(4, 8)).double()


@pytest.fixture
def images():
    x = torch.rand(12, 1, 8, 8, dtype=torch.float64, generator=seeded())
    x[0], x[1] = 0, 1  # where the ball is cut
    return x, torch.arange(12) % K


@pytest.fixture
def linear():
    """Scores x W: every inner maximum is known by hand."""
    torch.manual_seed(1)
    return nn.Linear(6, K).double()


@pytest.fixture
def points():
    x = 0.3 + 0.4 * torch.rand(10, 6, dtype=torch.float64, generator=seeded(2))
    return x, torch.arange(10) % K


@pytest.mark.parametrize("radius", [0.05, 0.3])
@pytest.mark.parametrize("step", [None, 10.0])
def test_points_stay_in_the_ball_and_in_the_cube(net, images, radius, step):
    x, y = images
    moved = pgd(net, x, y, per_sample_cross_entropy, radius, step, steps=3)
    assert (moved - x).abs().max() <= radius + 1e-12
    assert moved.min() >= 0
    assert moved.max() <= 1
    assert (moved != x).any()
    assert not moved.requires_grad


def test_pgd_reaches_the_corner_of_a_linear_objective(linear, points):
    x, y = points
    moved = pgd(linear, x, y, lambda f, _: f[:, 0] - f[:, 1], 0.1, steps=20)
    assert_close(moved, x + 0.1 * (linear.weight[0] - linear.weight[1]).sign())


def test_more_steps_attack_harder(net, images):
    x, y = images
    net.eval()
    with torch.no_grad():
        losses = [
            cross_entropy(net(pgd(net, x, y, per_sample_cross_entropy, 0.2, steps=s, generator=seeded())), y)
            for s in (1, 20)
        ]
        assert cross_entropy(net(x), y) < losses[0] < losses[1]


@pytest.mark.parametrize("loss", LOSSES)
def test_attack_touches_neither_modes_nor_statistics_nor_gradients(net, images, loss):
    x, y = images
    net.train()
    frozen, live = list(net.features)[1], list(net.features)[4]
    frozen.eval()  # stays as it was
    before = [b.clone() for b in frozen.buffers()]
    pgd(net, x, y, per_sample_cross_entropy, 0.1)
    assert all(p.grad is None for p in net.parameters())
    assert int(live.num_batches_tracked) == 0
    loss(radius=0.1)(net, x, y)
    assert int(live.num_batches_tracked) == 1  # the one pass that is trained on
    assert [m.training for m in (net, frozen, live)] == [True, False, True]
    assert all(torch.equal(a, b) for a, b in zip(before, frozen.buffers(), strict=True))


def test_modes_come_back_after_an_error(net, images):
    x, y = images
    net.train()
    with pytest.raises(ZeroDivisionError):
        pgd(net, x, y, lambda f, _: f / (1 // 0), 0.1)
    assert net.training


@pytest.mark.parametrize("mode", ["train", "eval"])
@pytest.mark.parametrize("tau", [0.5, 1.0, 1.5])
def test_radius_zero_is_the_clean_loss(net, images, tau, mode):
    x, y = images
    getattr(net, mode)()
    clean = CompSumLoss(tau)(net(x), y)
    assert_close(AdvCompSumLoss(tau, nu=0.4, radius=0.0)(net, x, y), clean, rtol=1e-12, atol=0)
    # and the limit from above is continuous
    assert_close(AdvCompSumLoss(tau, nu=0.4, radius=1e-12)(net, x, y), clean, rtol=0, atol=1e-8)
    ce = cross_entropy(net(x), y, reduction="none")
    for loss in (ATPGD(radius=0.0), TRADES(radius=0.0), TRADES(radius=1e-12)):
        assert_close(loss(net, x, y), ce, rtol=0, atol=1e-8)


def test_score_change_by_hand():
    f = torch.tensor([[1.0, 2.0, 4.0]], dtype=torch.float64)
    moved = torch.tensor([[2.0, 1.0, 4.5]], dtype=torch.float64)
    # y = 0: Delta goes from (-1, -3) to (1, -2.5); y = 2: from (3, 2) to (2.5, 3.5)
    assert_close(score_change(moved, f, torch.tensor([0])).item(), math.hypot(2.0, 0.5))
    assert_close(score_change(moved, f, torch.tensor([2])).item(), math.hypot(0.5, 1.5))


def test_score_change_is_safe_at_zero():
    f = torch.zeros(3, K, dtype=torch.float64, requires_grad=True)
    change = score_change(f, f.detach(), torch.tensor([0, 1, 2]))
    change.sum().backward()
    assert change.tolist() == [0, 0, 0]
    assert f.grad is not None
    assert (f.grad == 0).all()


def test_smooth_loss_on_a_linear_net(linear, points):
    """On two classes the change is |w.(x' - x)|, w = w_0 - w_1: at most radius |w|_1 in the ball."""
    x, y = points[0], points[1] % 2
    net = nn.Linear(6, 2).double()
    weight = (net.weight[0] - net.weight[1]).detach()
    loss = AdvCompSumLoss(tau=1.0, nu=0.7, rho=2.0, radius=0.1, steps=20)(net, x, y, seeded())
    expected = cross_entropy(net(x) / 2.0, y, reduction="none") + 0.7 * 0.1 * weight.abs().sum()
    assert_close(loss, expected, rtol=1e-9, atol=1e-9)


def test_smooth_loss_gradient_goes_through_both_points(linear, points):
    """Same start, so same x': the gradient must be that of the written-out loss at fixed x and x'."""
    x, y = points
    loss = AdvCompSumLoss(tau=1.5, nu=0.3, radius=0.1)
    (got,) = torch.autograd.grad(loss(linear, x, y, seeded()).sum(), linear.weight)
    fixed = linear(x).detach()
    moved = pgd(linear, x, y, lambda f, t: score_change(f, fixed, t), 0.1, generator=seeded())
    f, g, row = linear(x), linear(moved), torch.arange(10)
    delta, delta_moved = f[row, y][:, None] - f, g[row, y][:, None] - g
    p_y = torch.softmax(f, 1)[row, y]
    total = ((1 - p_y.sqrt()) / 0.5 + 0.3 * (delta_moved - delta).norm(dim=1)).sum()
    assert_close(got, torch.autograd.grad(total, linear.weight)[0])


@pytest.mark.parametrize("radius", [0.1, 0.001])
@pytest.mark.parametrize("right", [True, False], ids=["right", "any"])
def test_baselines_by_the_library(linear, points, radius, right):
    x, y = points
    y = linear(x).argmax(1) if right else y
    at = pgd(linear, x, y, per_sample_cross_entropy, radius, generator=seeded())
    assert_close(ATPGD(radius)(linear, x, y, seeded()), cross_entropy(linear(at), y, reduction="none"))
    p, q = torch.softmax(linear(x), 1), torch.softmax(linear(at), 1)
    p_y, q_y = p.gather(1, y[:, None])[:, 0], q.gather(1, y[:, None])[:, 0]
    rival = q.masked_fill(torch.eye(K, dtype=torch.bool)[y], 0).amax(1)
    kl = kl_div(q.log(), p, reduction="none").sum(1)
    mart = -q_y.log() - (1 - rival).log() + 5 * kl * (1 - p_y)
    assert_close(MART(radius=radius)(linear, x, y, seeded()), mart)
    fixed = p.detach()

    def divergence(f, _):
        return kl_div(f.log_softmax(1), fixed, reduction="none").sum(1)

    moved = pgd(linear, x, y, divergence, radius, generator=seeded())
    kl = kl_div(linear(moved).log_softmax(1), p, reduction="none").sum(1)
    trades = cross_entropy(linear(x), y, reduction="none") + 6 * kl
    assert_close(TRADES(radius=radius)(linear, x, y, seeded()), trades)


@pytest.mark.parametrize("loss", LOSSES)
def test_gradients_reach_every_parameter_and_are_finite(net, images, loss):
    loss()(net, *images).mean().backward()
    for p in net.parameters():
        assert p.grad is not None
        assert p.grad.isfinite().all()
        assert p.grad.abs().sum() > 0


def test_robust_correct_on_two_classes_is_the_margin(points):
    x = points[0]
    net = nn.Linear(6, 2).double()
    weight = (net.weight[0] - net.weight[1]).detach()
    margin = (net(x)[:, 0] - net(x)[:, 1]).detach()
    y = (margin < 0).long()
    y[3] = 1 - y[3]  # wrong from the start
    radius = float(margin.abs().median() / weight.abs().sum())
    expected = (margin.abs() > radius * weight.abs().sum()) & (torch.arange(10) != 3)
    assert 0 < int(expected.sum()) < 9
    for chunk in (3, 100):
        assert torch.equal(robust_correct(net, x, y, radius, chunk=chunk, generator=seeded()), expected)
    assert torch.equal(robust_correct(net, x, y, radius=0.0), torch.arange(10) != 3)


def test_the_worst_restart_counts():
    """A needle: only starts in the upper 5 % of the ball fall, and no gradient leads there."""

    class Needle(nn.Module):
        def forward(self, x):
            hit = (x.flatten(1) > 0.59).double()
            return torch.cat([1 - 2 * hit + 0 * x.flatten(1), 0 * x.flatten(1)], dim=1)

    x, y = torch.full((400, 1), 0.5, dtype=torch.float64), torch.zeros(400, dtype=torch.int64)
    share = [
        robust_correct(Needle(), x, y, 0.1, steps=1, restarts=r, generator=seeded()).double().mean().item()
        for r in (1, 10)
    ]
    assert share[0] == pytest.approx(0.95, abs=0.04)
    assert share[1] == pytest.approx(0.95**10, abs=0.08)


def test_evaluation_repeats_with_its_generator_and_frees_the_net(net, images):
    x, y = images
    net.train()
    norm = list(net.features)[1]
    one, same = (robust_correct(net, x, y, 0.02, steps=3, generator=seeded(5)) for _ in range(2))
    assert torch.equal(one, same)
    assert net.training
    assert int(norm.num_batches_tracked) == 0


def test_small_conv_has_the_sheets_size():
    net = SmallConv()
    assert net(torch.zeros(2, 1, 28, 28)).shape == (2, 10)
    assert net.features(torch.zeros(2, 1, 28, 28)).shape == (2, 64, 4, 4)
    convs = 9 * (1 * 16 + 16 * 32 + 32 * 64)
    assert sum(p.numel() for p in net.parameters()) == convs + 2 * (16 + 32 + 64) + 64 * 10 + 10


def call(loss, x, y=None):
    return loss(nn.Flatten(), x, torch.zeros(len(x), dtype=torch.int64) if y is None else y)


IMAGE = torch.full((2, 1, 1, 3), 0.5)


@pytest.mark.parametrize("loss", LOSSES)
@pytest.mark.parametrize("radius", [0.0, 0.1])
@pytest.mark.parametrize("pixel", [-0.1, 1.01, math.nan, math.inf])
def test_refuses_what_is_no_image(loss, radius, pixel):
    x = IMAGE.clone()
    x[1, 0, 0, 2] = pixel
    with pytest.raises(ValueError, match=r"^the attack needs images in \[0, 1\] [^\n]*$"):
        call(loss(radius=radius), x)


@pytest.mark.parametrize(
    "make",
    [
        lambda: AdvCompSumLoss(tau=-1.0),
        lambda: AdvCompSumLoss(nu=-0.1),
        lambda: AdvCompSumLoss(nu=math.nan),
        lambda: AdvCompSumLoss(rho=0.0),
        lambda: TRADES(beta=-1.0),
        lambda: MART(beta=math.nan),
        lambda: ATPGD(radius=-0.1),
        lambda: ATPGD(radius=math.nan),
        lambda: ATPGD(step=0.0),
        lambda: ATPGD(steps=0),
        lambda: pgd(nn.Flatten(), IMAGE, torch.zeros(2).long(), per_sample_cross_entropy, 0.1, step=-1.0),
        lambda: pgd(nn.Flatten(), IMAGE, torch.zeros(2).long(), per_sample_cross_entropy, -0.1),
        lambda: robust_correct(nn.Flatten(), IMAGE, torch.zeros(2).long(), 0.1, restarts=0),
        lambda: robust_correct(nn.Flatten(), IMAGE, torch.zeros(2).long(), math.inf),
        lambda: SmallConv(classes=1),
        lambda: SmallConv(widths=()),
    ],
)
def test_refuses(make):
    with pytest.raises(ValueError, match=r"^[^\n]* needs [^\n]* got [^\n]*$"):
        make()
