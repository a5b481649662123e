"""Truths of the histograms and losses, float64; expected values are written apart from the code."""

import math
from typing import Any

import pytest
import torch
from scipy.integrate import quad
from scipy.special import log_ndtr
from scipy.stats import norm
from torch.testing import assert_close

from lossatlas.papers.hl_gauss import (
    C51Loss,
    CategoricalMSE,
    HLGauss,
    Huber,
    SquaredError,
    Support,
    TwoHot,
    gaussian_histogram,
    project,
    two_hot,
)

double = torch.float64
S = Support(-2.0, 3.0, 20)  # w = .25
w = 0.25
edges = [-2 + w * i for i in range(21)]
centres = torch.tensor([-2 + w * (i + 0.5) for i in range(20)], dtype=double)
g = torch.Generator().manual_seed(0)
y = -2 + 5 * torch.rand(200, generator=g, dtype=double)
inner = -0.9 + 2.8 * torch.rand(200, generator=g, dtype=double)  # more than 4 bins from both ends
l = 2 * torch.randn(200, 20, generator=g, dtype=double)  # noqa: E741
CATEGORICAL = [HLGauss(-2.0, 3.0, 20), TwoHot(-2.0, 3.0, 20), CategoricalMSE(-2.0, 3.0, 20)]


@pytest.mark.parametrize("ratio", [0.05, 0.75, 1.5, 20.0])
def test_hl_gauss_is_the_mass_of_a_truncated_normal(ratio):
    p = gaussian_histogram(y, S, ratio)
    assert_close(p.sum(1), torch.ones(200, dtype=double))
    for i in (0, 7, 50, 199):
        at, s = float(y[i]), ratio * w
        density: Any = norm(at, s)
        whole = quad(density.pdf, -2, 3, points=[at], epsabs=1e-13)[0]
        for k in range(20):
            inside = [at] if edges[k] < at < edges[k + 1] else None
            mass = quad(density.pdf, edges[k], edges[k + 1], points=inside, epsabs=1e-13)[0]
            assert p[i, k].item() == pytest.approx(mass / whole, abs=1e-9)


def test_about_six_bins_get_mass_at_the_ratio_of_the_paper():
    heavy = (gaussian_histogram(inner, S, 0.75) > 1e-3).sum(1)
    assert 5 <= heavy.min() <= heavy.max() <= 6


def test_the_means_are_the_targets():
    assert_close(gaussian_histogram(inner, S, 0.75) @ centres, inner, atol=1e-3 * w, rtol=0)
    between = y.clamp(float(centres[0]), float(centres[-1]))
    p = two_hot(y, S)
    assert_close(p @ centres, between, atol=1e-13, rtol=0)
    assert_close(p.sum(1), torch.ones(200, dtype=double))
    assert ((p > 1e-14).sum(1) <= 2).all()


def test_a_narrow_normal_is_one_hot_and_an_edge_is_split_evenly():
    own = ((y + 2) / w).floor().long()
    assert_close(gaussian_histogram(y, S, 1e-9), torch.eye(20, dtype=double)[own])
    at = torch.tensor([edges[5], edges[0], edges[20]], dtype=double)
    for ratio in (1e-9, 0.05):
        p = gaussian_histogram(at, S, ratio)
        assert_close(p[0, 4:6], torch.tensor([0.5, 0.5], dtype=double))
        assert p[1, 0].item() == p[2, -1].item() == pytest.approx(1.0)


def test_tails_have_no_cancellation():
    """Far from y, on either side, the mass keeps its leading digits, down to 1e-300."""
    at, s = 0.5, 0.15 * w
    p = gaussian_histogram(torch.tensor([at], dtype=double), S, 0.15)[0]
    checked = 0
    for k in range(20):
        near, far = sorted([abs(edges[k] - at) / s, abs(edges[k + 1] - at) / s])
        if 5 < near < 35:
            log_mass = log_ndtr(-near) + math.log1p(-math.exp(log_ndtr(-far) - log_ndtr(-near)))
            assert math.log(p[k].item()) == pytest.approx(log_mass, rel=1e-9)
            checked += 1
    assert checked >= 8
    assert_close(p, p.flip(0))  # y is the middle of the support


@pytest.mark.parametrize("make", [lambda v: gaussian_histogram(v, S, 0.75), lambda v: two_hot(v, S)])
def test_a_shift_by_one_bin_moves_the_histogram_by_one_bin(make):
    middle = inner / 2 + 0.25  # 6 bins and more from both ends, before and after
    assert_close(make(middle + w)[:, 1:], make(middle)[:, :-1], atol=1e-12, rtol=0)


@pytest.mark.parametrize("loss", [HLGauss(-2.0, 3.0, 20), TwoHot(-2.0, 3.0, 20)], ids=["hl_gauss", "two_hot"])
def test_gradient_is_softmax_minus_p(loss):
    h = l.clone().requires_grad_()
    value = loss(h, y)
    value.sum().backward()
    p = loss.target(y)
    e = h.detach().exp()
    assert_close(h.grad, e / e.sum(1, keepdim=True) - p)
    assert_close(value.detach(), -(p * (h.detach() - h.detach().exp().sum(1, keepdim=True).log())).sum(1))
    assert torch.autograd.gradcheck(lambda t: loss(t, y[:6]), (l[:6].clone().requires_grad_(),))


def test_gradient_vanishes_at_the_logarithm_of_the_target():
    loss = HLGauss(-2.0, 3.0, 20, ratio=5.0)
    h = loss.target(y).log().requires_grad_()
    loss(h, y).sum().backward()
    assert h.grad is not None
    assert h.grad.abs().max() < 1e-13


@pytest.mark.parametrize("dtype", [double, torch.float32])
@pytest.mark.parametrize("loss", CATEGORICAL, ids=["hl_gauss", "two_hot", "mse_categorical"])
def test_huge_logits_and_targets_stay_finite(loss, dtype):
    h = torch.zeros(6, 20, dtype=dtype)
    h[:, 3], h[:, 9] = 1e4, -1e4
    h.requires_grad_()
    far = torch.tensor([1e30, -1e30, math.inf, -math.inf, 3.0, -2.0], dtype=dtype)
    before = int(loss.clipped)
    value = loss(h, far)
    value.sum().backward()
    assert value.isfinite().all()
    assert h.grad is not None
    assert h.grad.isfinite().all()
    assert int(loss.clipped) - before == 4  # the ends themselves are inside
    assert_close(value[:2], loss(h, torch.tensor([3.0, -2.0] * 3, dtype=dtype))[:2])


@pytest.mark.parametrize(
    "loss", [*CATEGORICAL, SquaredError(-2.0, 3.0), Huber(-2.0, 3.0)], ids=lambda m: type(m).__name__
)
def test_targets_are_counted_in_training_only(loss):
    f = torch.zeros(3, loss.support.m if hasattr(loss, "support") else 1, dtype=double)
    loss.clipped.zero_()
    loss.eval()
    loss(f, torch.tensor([-9.0, 0.0, 9.0], dtype=double))
    assert loss.clipped == 0
    loss.train()
    loss(f, torch.tensor([-9.0, 0.0, 9.0], dtype=double))
    assert loss.clipped == 2


def test_scalar_losses():
    f = torch.tensor([[0.5], [9.0], [-1.0]], dtype=double)
    numbers = torch.tensor([0.0, 5.0, 2.0], dtype=double)
    assert_close(SquaredError()(f, numbers), torch.tensor([0.25, 16.0, 9.0], dtype=double))
    assert_close(SquaredError(-1.0, 3.0)(f, numbers), torch.tensor([0.25, 36.0, 9.0], dtype=double))
    assert_close(Huber()(f, numbers), torch.tensor([0.125, 3.5, 2.5], dtype=double))
    assert_close(Huber(delta=100.0)(f, numbers), SquaredError()(f, numbers) / 2)
    assert_close(SquaredError().predict(f), f[:, 0])


def test_the_prediction_is_the_mean_of_the_softmax():
    wanted = (l.exp() * centres).sum(1) / l.exp().sum(1)
    for loss in [*CATEGORICAL, C51Loss(-2.0, 3.0, 20)]:
        assert_close(loss.predict(l), wanted)
    assert_close(CategoricalMSE(-2.0, 3.0, 20)(l, y), (wanted - y) ** 2)


def bellemare(q, r, discount):
    """The projection as C51's algorithm box states it: one atom after the other, floor and ceiling."""
    out = torch.zeros(20, dtype=double)
    for j in range(20):
        moved = min(max(r + discount * float(centres[j]), float(centres[0])), float(centres[-1]))
        at = (moved - float(centres[0])) / w
        low, high = math.floor(at + 1e-12), math.ceil(at - 1e-12)
        if low == high:
            out[low] += q[j]
        else:
            out[low] += q[j] * (high - at)
            out[high] += q[j] * (at - low)
    return out


def test_c51_projection_by_slow_loops():
    q = l[:30].softmax(1)
    r, discount = 2 * torch.randn(30, generator=g, dtype=double), torch.rand(30, generator=g, dtype=double)
    discount[:5] = 0.0  # ended: only the reward is left
    p = project(q, r, discount, S)
    for i in range(30):
        assert_close(p[i], bellemare(q[i].tolist(), float(r[i]), float(discount[i])), atol=1e-10, rtol=0)
    assert_close(p[:5], two_hot(r[:5], S))
    assert_close(project(q, torch.zeros(30, dtype=double), torch.ones(30, dtype=double), S), q)


def test_c51_target_gets_no_gradient():
    h, h_next = l[:8].clone().requires_grad_(), l[8:16].clone().requires_grad_()
    r, discount = y[:8], torch.full((8,), 0.9, dtype=double)
    C51Loss(-2.0, 3.0, 20)(h, r, discount, h_next).sum().backward()
    assert h_next.grad is None
    assert_close(h.grad, l[:8].softmax(1) - project(l[8:16].softmax(1), r, discount, S))


@pytest.mark.parametrize(
    ("make", "told"),
    [
        (lambda: HLGauss(1.0, 1.0, 5), "finite v_min < v_max, got 1.0 and 1.0"),
        (lambda: HLGauss(0.0, math.nan, 5), "finite v_min < v_max"),
        (lambda: TwoHot(0.0, math.inf, 5), "finite v_min < v_max"),
        (lambda: C51Loss(0.0, 1.0, 1), "m >= 2 bins, got 1"),
        (lambda: HLGauss(0.0, 1.0, 5, ratio=0.0), "ratio > 0"),
        (lambda: HLGauss(0.0, 1.0, 5, ratio=math.nan), "ratio > 0"),
        (lambda: SquaredError(1.0, 0.0), "v_min < v_max, got v_min=1.0, v_max=0.0"),
        (lambda: Huber(delta=0.0), "delta > 0, got delta=0.0"),
    ],
)
def test_refused_arguments(make, told):
    with pytest.raises(ValueError, match=told):
        make()
