"""Truths of the comp-sum losses, float64."""

import math

import pytest
import torch
from torch.nn.functional import cross_entropy
from torch.testing import assert_close

from lossatlas.papers.comp_sum import CompSumLoss, phi

n, K = 64, 7
y = torch.arange(n) % K
f = 2 * torch.randn(n, K, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
p = f.exp() / f.exp().sum(1, keepdim=True)
p_y = p[torch.arange(n), y]
u = torch.stack([torch.exp(f[:, k] - f[torch.arange(n), y]) for k in range(K)]).sum(0) - 1
MEMBERS = [
    (0.0, u),
    (0.5, 2 * (torch.sqrt(1 + u) - 1)),
    (1.0, cross_entropy(f, y, reduction="none")),
    (1.3, (1 - p_y**0.3) / 0.3),
    (1.7, (1 - p_y**0.7) / 0.7),
    (2.0, 1 - p_y),
    (3.0, (1 - p_y**2) / 2),
]


def score(gap, dtype=torch.float64):
    """Two classes whose true one, 0, has -log p_y = gap up to exp(-gap)."""
    return torch.tensor([[0.0, gap]], dtype=dtype, requires_grad=True)


@pytest.mark.parametrize(("tau", "expected"), MEMBERS, ids=[str(m[0]) for m in MEMBERS])
def test_member_of_the_family(tau, expected):
    assert_close(CompSumLoss(tau)(f, y), expected, rtol=1e-11, atol=1e-12)


@pytest.mark.parametrize("tau", [1 - 1e-6, 1 + 1e-6, 1 - 1e-12, 1 + 1e-12])
def test_continuous_at_cross_entropy(tau):
    # the first-order term of the difference is (1 - tau) g^2 / 2
    assert_close(CompSumLoss(tau)(f, y), cross_entropy(f, y, reduction="none"), atol=1e-5, rtol=1e-5)


def test_near_one_to_the_first_order():
    g = cross_entropy(f, y, reduction="none")
    assert_close((CompSumLoss(1 - 1e-6)(f, y) - g) / 1e-6, g**2 / 2, atol=1e-4, rtol=1e-4)


@pytest.mark.parametrize("tau", [0.0, 0.5, 1.0, 1.5, 2.0])
def test_gradient_in_scores(tau):
    h = f.clone().requires_grad_()
    CompSumLoss(tau)(h, y).sum().backward()
    e_y = torch.eye(K, dtype=torch.float64)[y]
    assert_close(h.grad, -(p_y ** (tau - 1))[:, None] * (e_y - p), rtol=1e-10, atol=1e-12)
    assert torch.autograd.gradcheck(lambda s: CompSumLoss(tau)(s, y[:8]), (f[:8].clone().requires_grad_(),))


def test_mae_is_symmetric():
    total = sum(CompSumLoss(2.0)(f, torch.full((n,), k)) for k in range(K))
    assert_close(total, torch.full((n,), K - 1.0, dtype=torch.float64))


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32])
@pytest.mark.parametrize("tau", [0.0, 0.5, 0.9, 1.0, 1.0 + 1e-6, 1.5, 2.0, 5.0])
def test_huge_scores_stay_finite(tau, dtype):
    h = torch.tensor([[1e4, -1e4, 0.0], [-1e4, 1e4, 0.0]], dtype=dtype, requires_grad=True)
    loss = CompSumLoss(tau)(h, torch.tensor([0, 0]))
    loss.sum().backward()
    assert h.grad is not None
    assert loss.isfinite().all()
    assert h.grad.isfinite().all()
    assert_close(loss[0].item(), 0.0)
    if tau > 1.1:  # 1 - p_y^{tau - 1} is 1 there, and its gradient gone
        assert_close(loss[1].item(), 1 / (tau - 1))
        assert h.grad[1].abs().max() == 0
    if tau == 1:
        assert_close(loss[1].item(), 2e4)


@pytest.mark.parametrize(("tau", "gap"), [(0.0, 150.0), (0.0, 690.0), (0.5, 150.0), (0.5, 1390.0)])
def test_exact_below_the_continuation(tau, gap):
    loss, h = CompSumLoss(tau), score(gap)
    value = loss(h, torch.tensor([0]))
    value.sum().backward()
    assert_close(value.item(), math.expm1((1 - tau) * gap) / (1 - tau), rtol=1e-12, atol=0)
    assert h.grad is not None
    assert_close(h.grad[0, 1].item(), math.exp((1 - tau) * gap), rtol=1e-12, atol=0)
    assert int(loss.continued) == 0


def test_continuation_is_the_tangent_and_is_counted():
    loss, y0 = CompSumLoss(tau=0.5, limit=20.0), torch.tensor([0])
    # value and slope of 2 expm1(g / 2) at g = 40, followed to g = 60
    h = score(60.0)
    value = loss(h, y0)
    value.sum().backward()
    assert_close(value.item(), 2 * math.expm1(20) + math.exp(20) * 20, rtol=1e-12, atol=0)
    assert h.grad is not None
    assert_close(h.grad[0, 1].item(), math.exp(20), rtol=1e-12, atol=0)
    loss(score(39.9), y0)
    assert int(loss.continued) == 1
    assert_close(loss(score(40 - 1e-9), y0), loss(score(40 + 1e-9), y0), rtol=1e-8, atol=0)
    loss.continued.zero_()
    loss(torch.cat([score(50.0), score(41.0), score(1.0)]).detach(), y0.repeat(3))
    assert int(loss.continued) == 2


def test_float32_gradient_survives_the_continuation():
    """The trap of the sheet: a clamp plus slope * (z - clamp(z)) ends as noise of size e^20 eps here."""
    h = torch.tensor([[0.0, 1.0], [0.0, 25.0]], requires_grad=True)
    CompSumLoss(tau=0.0, limit=20.0)(h, torch.tensor([0, 0])).sum().backward()
    assert h.grad is not None
    assert_close(h.grad[:, 1], torch.tensor([math.e, math.exp(20)]), rtol=1e-5, atol=0)


def test_the_count_is_kept_in_checkpoints():
    loss = CompSumLoss(tau=0.0)
    loss(score(900.0), torch.tensor([0]))
    other = CompSumLoss(tau=0.0)
    other.load_state_dict(loss.state_dict())
    assert int(other.continued) == 1


@pytest.mark.parametrize("tau", [0.0, 1.0, 1.5])
def test_nan_scores_are_not_hidden(tau):
    loss = CompSumLoss(tau)
    assert loss(torch.tensor([[math.nan, 0.0]]), torch.tensor([1])).isnan().all()
    assert int(loss.continued) == 0


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_half_precision_scores_are_charged_in_float32(dtype):
    h = torch.tensor([[0.0, 30.0]], dtype=dtype)  # exp(30) is more than float16 holds
    loss = CompSumLoss(tau=0.0)
    assert_close(
        loss(h, torch.tensor([0])), torch.tensor([math.expm1(30)], dtype=torch.float32), rtol=1e-5, atol=0
    )
    assert int(loss.continued) == 0


def test_phi_has_no_continuation():
    assert_close(phi(torch.tensor([300.0], dtype=torch.float64), 0.0).item(), math.expm1(300))


@pytest.mark.parametrize("bad", [{"tau": -0.1}, {"tau": math.nan}, {"tau": math.inf}, {"limit": 0.0}])
def test_refuses(bad):
    with pytest.raises(ValueError, match=r"^CompSumLoss needs a finite .* got .*$"):
        CompSumLoss(**bad)
