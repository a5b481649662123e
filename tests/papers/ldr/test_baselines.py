"""Truths of the baselines: formulas by slow loops, limits, symmetry, the pruning of TGCE; float64."""

import math

import pytest
import torch
from torch.nn.functional import cross_entropy, multi_margin_loss
from torch.testing import assert_close

from lossatlas.papers.ldr import AGCE, AUL, CS, GCE, JS, MAE, MSE, NCE, RCE, RLL, SCE, TGCE, WW, NCEPlus

K, n = 7, 40
torch.set_num_threads(1)
y = torch.arange(n) % K
f = 2 * torch.randn(n, K, dtype=torch.float64, generator=torch.Generator().manual_seed(1))
ce = cross_entropy(f, y, reduction="none")
others = [[k for k in range(K) if k != int(y_i)] for y_i in y]


def softmax(row):
    weights = [math.exp(float(v)) for v in row]
    return [w / sum(weights) for w in weights]


def kl(p, q):
    return sum(a * math.log(a / b) for a, b in zip(p, q, strict=True) if a > 0)


def js(p, i, pi):
    hot = [float(k == i) for k in range(K)]
    m = [pi * h + (1 - pi) * p_k for h, p_k in zip(hot, p, strict=True)]
    return (pi * kl(hot, m) + (1 - pi) * kl(p, m)) / (-(1 - pi) * math.log(1 - pi))


def nce(p, i):
    return math.log(p[i]) / sum(math.log(p_k) for p_k in p)


def agce(p, i, a, q):
    return ((a + 1) ** q - (a + p[i]) ** q) / q


def aul(p, i, a, q):
    return ((a - p[i]) ** q - (a - 1) ** q) / q


def rll(p, i, c):
    wrong = [math.log(c + p_k) for k, p_k in enumerate(p) if k != i]
    return -math.log(c + p[i]) + sum(wrong) / (K - 1)


A = -math.log(1e-4)
BY_HAND = {  # the loss, and its formula from p and the label
    "gce": (GCE(0.7), lambda p, i: (1 - p[i] ** 0.7) / 0.7),
    "gce truncated": (GCE(0.7, k_t=0.2), lambda p, i: (1 - max(p[i], 0.2) ** 0.7) / 0.7),
    "mae": (MAE(), lambda p, i: sum(abs((k == i) - p_k) for k, p_k in enumerate(p))),
    "mse": (MSE(), lambda p, i: sum(((k == i) - p_k) ** 2 for k, p_k in enumerate(p))),
    "sce": (SCE(0.3), lambda p, i: -0.7 * math.log(p[i]) + 0.3 * 4 * (1 - p[i])),
    "rll": (RLL(0.4), lambda p, i: rll(p, i, 0.4)),
    "js": (JS(0.3), lambda p, i: js(p, i, 0.3)),
    "js .9": (JS(0.9), lambda p, i: js(p, i, 0.9)),
    "nce": (NCE(), nce),
    "rce": (RCE(), lambda p, i: -sum(p_k * (0.0 if k == i else math.log(1e-4)) for k, p_k in enumerate(p))),
    "agce": (AGCE(1.3, 0.6), lambda p, i: agce(p, i, 1.3, 0.6)),
    "aul": (AUL(2.5, 0.6), lambda p, i: aul(p, i, 2.5, 0.6)),
    "nce_rce": (NCEPlus(RCE(), w=9.0), lambda p, i: 9 * nce(p, i) + A * (1 - p[i])),
    "nce_agce": (NCEPlus(AGCE(), w=2.0), lambda p, i: 2 * nce(p, i) + 8 * agce(p, i, 3, 1.5)),
    "nce_aul": (NCEPlus(AUL(), w=2.0), lambda p, i: 2 * nce(p, i) + 8 * aul(p, i, 6, 1.5)),
}


@pytest.mark.parametrize(("loss", "by_hand"), BY_HAND.values(), ids=BY_HAND)
def test_value_by_slow_loops(loss, by_hand):
    expected = [by_hand(softmax(row), int(i)) for row, i in zip(f, y, strict=True)]
    assert_close(loss(f, y), torch.tensor(expected, dtype=torch.float64))


def test_margin_losses_by_slow_loops_and_by_torch():
    c = 0.8
    slack = [[max(0.0, c + float(f[i, k] - f[i, y[i]])) for k in others[i]] for i in range(n)]
    assert_close(CS(c)(f, y), torch.tensor([max(s) for s in slack], dtype=torch.float64))
    assert_close(WW(c)(f, y), torch.tensor([sum(s) / K for s in slack], dtype=torch.float64))
    assert_close(WW(c)(f, y), multi_margin_loss(f, y, margin=c, reduction="none"))
    assert (CS(c)(f, y) == 0).any()
    assert (CS(c)(f, y) > 0).any()


LIMITS = {
    "gce q -> 0 is ce": (GCE(1e-9), ce, 1e-6),
    "gce q = 1 is mae / 2": (GCE(1.0), MAE()(f, y) / 2, 1e-12),
    "js pi -> 0 is ce": (JS(1e-9), ce, 1e-5),
    "js pi -> 1 is mae / 2": (JS(1 - 1e-9), MAE()(f, y) / 2, 0.05),  # as slowly as 1 / log(1 - pi)
    "sce b = 0 is ce": (SCE(0.0), ce, 1e-12),
    "sce b = 1 is A mae / 2": (SCE(1.0, A=3.0), 1.5 * MAE()(f, y), 1e-12),
    "agce q = 1 is mae / 2": (AGCE(2.0, 1.0), MAE()(f, y) / 2, 1e-12),
    "aul q = 1 is mae / 2": (AUL(2.0, 1.0), MAE()(f, y) / 2, 1e-12),
    "w = 10 is 10 nce": (NCEPlus(MAE(), 10.0), 10 * NCE()(f, y), 1e-12),
    "w = 0 is 10 other": (NCEPlus(MAE(), 0.0), 10 * MAE()(f, y), 1e-12),
}


@pytest.mark.parametrize(("loss", "limit", "tol"), LIMITS.values(), ids=LIMITS)
def test_limit(loss, limit, tol):
    assert_close(loss(f, y), limit, atol=tol, rtol=0)


SYMMETRIC = {
    "mae": (MAE(), 2.0 * (K - 1)),
    "rce": (RCE(), A * (K - 1)),
    "nce": (NCE(), 1.0),
    "rll": (RLL(0.4), 0.0),
    "nce_rce": (NCEPlus(RCE(), 5.0), 5 + 5 * A * (K - 1)),
}


def over_labels(loss):
    return torch.stack([loss(f, torch.full_like(y, k)) for k in range(K)]).sum(0)


@pytest.mark.parametrize(("loss", "constant"), SYMMETRIC.values(), ids=SYMMETRIC)
def test_symmetric_losses_sum_over_labels_to_a_constant(loss, constant):
    assert_close(over_labels(loss), torch.full((n,), constant, dtype=torch.float64))


@pytest.mark.parametrize(
    "loss",
    [torch.nn.CrossEntropyLoss(reduction="none"), GCE(0.7), SCE(0.5), JS(0.5), AGCE(), AUL(), CS(), MSE()],
)
def test_the_others_do_not(loss):
    assert over_labels(loss).std() > 1e-2


@pytest.mark.parametrize("loss", [GCE(0.7), MAE(), JS(0.3), RCE(), AGCE(), AUL(), MSE()], ids=repr)
def test_value_keeps_its_digits_next_to_p_y_one(loss):
    """1 - p_y = 1e-8: every loss is its slope there times 1e-8, which a clamped p_y would hide."""
    slope = {"GCE": 1.0, "MAE": 2.0, "JS": 1.0, "RCE": A, "AGCE": 4.0**0.5, "AUL": 5.0**0.5, "MSE": 0.0}
    g = torch.tensor([[-math.log(1e-8), 0.0]], dtype=torch.float64)
    value = loss(g, torch.tensor([0])).item()
    assert value == pytest.approx(slope[type(loss).__name__] * 1e-8, rel=1e-6, abs=1e-15)


def test_gce_truncation_has_no_gradient_below_k_t():
    g = f.clone().requires_grad_()
    GCE(0.7, k_t=0.3)(g, y).sum().backward()
    assert g.grad is not None
    out = torch.softmax(f, 1)[torch.arange(n), y] < 0.3
    assert out.any()
    assert (~out).any()
    assert (g.grad[out] == 0).all()
    assert (g.grad[~out].abs().amax(1) > 1e-3).all()


def test_tgce_starts_as_gce_and_prunes_after_a_refresh():
    q, k_t, index = 0.7, 0.3, torch.arange(n).flip(0)
    loss, g = TGCE(q, k_t, n=n), f.clone().requires_grad_()
    assert_close(loss(g, y, index), GCE(q)(f, y))
    p_y = torch.softmax(f, 1)[torch.arange(n), y]
    loss.refresh(p_y, index)
    assert torch.equal(loss.weight_i[index], (p_y > k_t).float())
    value = loss(g, y, index)
    expected = [(1 - float(p) ** q) / q if p > k_t else (1 - k_t**q) / q for p in p_y]
    assert_close(value, torch.tensor(expected, dtype=torch.float64))
    value.sum().backward()
    assert g.grad is not None
    assert torch.equal(g.grad.abs().amax(1) > 0, p_y > k_t)
    # the weights outlive a change of the scores, unlike GCE's truncation
    assert_close(loss(g.flip(0), y.flip(0), index.flip(0)), value.flip(0))
    assert not torch.allclose(loss(3 * f, y, index), GCE(q, k_t)(3 * f, y))


def test_tgce_refresh_in_order_in_parts_and_strictly_above_k_t():
    loss = TGCE(0.7, 0.5, n=4)
    loss.refresh(torch.tensor([0.5, 0.51, 0.0, 1.0]))
    assert loss.weight_i.tolist() == [0, 1, 0, 1]
    loss.refresh(torch.tensor([0.9]), torch.tensor([2]))
    assert loss.weight_i.tolist() == [0, 1, 1, 1]
    loss.allocate(2)
    assert loss.weight_i.tolist() == [1, 1]


def test_tgce_state_and_eval_mode():
    loss, other = TGCE(n=n), TGCE()
    loss.refresh(torch.linspace(0, 1, n))
    other.allocate(n)
    other.load_state_dict(loss.state_dict())
    assert torch.equal(other.weight_i, loss.weight_i)
    assert loss.warm_up == 0.4
    other.eval()
    assert_close(other(f, y), GCE(0.7, 0.5)(f, y))  # held-out samples: truncated at their own p_y
    assert_close(other(f, y, torch.arange(n)), loss(f, y, torch.arange(n)))


def test_tgce_refused_use():
    index = torch.arange(n)
    with pytest.raises(ValueError, match=r"allocate\(n\) before use"):
        TGCE()(f, y, index)
    with pytest.raises(ValueError, match="trains with index"):
        TGCE(n=n)(f, y)
    with pytest.raises((ValueError, TypeError)):
        TGCE(n=n)(f, y, index[:3])
    with pytest.raises(ValueError, match="at least one training sample"):
        TGCE(n=0)
    with pytest.raises(ValueError, match="one p_y per sample"):
        TGCE(n=n).refresh(torch.ones(3))
    with pytest.raises((ValueError, TypeError)):
        TGCE(n=n).refresh(torch.ones(3), index)
    with pytest.raises(ValueError, match=r"allocate\(n\) first"):
        TGCE().refresh(torch.ones(0))
