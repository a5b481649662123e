"""Truths of LDR-KL and ALDR-KL, float64."""

import copy
import math
from typing import Any

import pytest
import torch
from scipy.optimize import minimize_scalar
from torch.nn.functional import cross_entropy, softplus
from torch.testing import assert_close

from lossatlas.papers.ldr import ALDRKL, LDRKL

K, n = 26, 64
torch.set_num_threads(1)
generator = torch.Generator().manual_seed(0)
y = torch.arange(n) % K
every = torch.arange(n)
f = torch.randn(n, K, dtype=torch.float64, generator=generator)
d = f - f[every, y, None] + 0.1 * (torch.arange(K) != y[:, None])
ce = cross_entropy(f, y, reduction="none") - math.log(K)
LIMITS = [(1e-4, 0.1, d.amax(1), 1e-3), (1e6, 0.1, d.mean(1), 1e-4), (1.0, 0.0, ce, 1e-12)]


def aldr(n=n, **settings):
    loss = ALDRKL(**{"smoothing": 0.0, "normalise": "none"} | settings).double()
    loss.allocate(n)  # after double(): lambda0 = 0.7 would have been rounded to float32
    return loss


def kl_to_uniform(p):
    return sum(float(p_k) * math.log(float(p_k) * len(p)) for p_k in p if p_k > 0)


def objective(lambda_, d_i, alpha, lambda0):
    """What eq. 2 maximises over lambda, for one sample, by plain arithmetic."""
    top = max(d_i)
    log_mean = top / lambda_ + math.log(sum(math.exp((d_k - top) / lambda_) for d_k in d_i) / len(d_i))
    return lambda_ * log_mean - alpha * math.log(len(d_i)) / lambda0 / 2 * (lambda_ - lambda0) ** 2


@pytest.mark.parametrize(("lambda_", "c", "limit", "tol"), LIMITS, ids=["max", "mean", "cross-entropy"])
def test_ldr_kl_limit(lambda_, c, limit, tol):
    assert_close(LDRKL(lambda_, c)(f, y), limit, atol=tol, rtol=0)


@pytest.mark.parametrize("lambda_", [0.1, 1.0, 10.0])
def test_ldr_kl_is_its_sup_form(lambda_):
    value = LDRKL(lambda_, c=0.1)(f, y)

    def charged(p):  # p (n, K) on the simplex: p.d - lambda KL(p, 1/K)
        return (p * d).sum(1) - lambda_ * (p * (p * K).log()).sum(1)

    assert_close(charged(torch.softmax(d / lambda_, 1)), value)
    spread = torch.logspace(-1, 1.5, 1000, dtype=torch.float64)[:, None, None]
    p = torch.softmax(spread * torch.randn(1000, n, K, dtype=torch.float64, generator=generator), 2) + 1e-300
    best = torch.stack([charged(p_j) for p_j in p]).amax(0)
    assert (best <= value + 1e-12).all()


@pytest.mark.parametrize("loss", [LDRKL(0.7, 0.1), aldr(lambda0=0.7)], ids=["ldr_kl", "aldr_kl"])
def test_gradient_sums_to_zero_without_normalisation(loss):
    g = f.clone().requires_grad_()
    (loss(g, y, every) if getattr(loss, "indexed", False) else loss(g, y)).sum().backward()
    assert g.grad is not None
    assert_close(g.grad.sum(1), torch.zeros(n, dtype=torch.float64), atol=1e-14, rtol=0)
    assert (g.grad.abs().amax(1) > 1e-3).all()


@pytest.mark.parametrize("lambda_", [0.5, 1.0, 3.0])
def test_minimiser_of_the_conditional_risk_orders_as_the_labels_do(lambda_):
    """Top-k consistency: with c = 0 the minimiser is lambda log q, up to a constant."""
    q = torch.softmax(torch.randn(16, 6, dtype=torch.float64, generator=generator), 1)
    g = torch.zeros_like(q, requires_grad=True)
    optimizer = torch.optim.LBFGS(
        [g], lr=1.0, max_iter=200, tolerance_grad=1e-10, tolerance_change=0, line_search_fn="strong_wolfe"
    )
    labels = torch.arange(6).repeat(16)

    def risk():
        optimizer.zero_grad()
        losses = LDRKL(lambda_, c=0.0)(g.repeat_interleave(6, 0), labels)
        total = (q.flatten() * losses).sum()
        total.backward()
        return total

    optimizer.step(risk)
    found = g.detach()
    assert torch.equal(found.argsort(1), q.argsort(1))
    wanted = lambda_ * q.log()
    assert_close(found - found.mean(1, True), wanted - wanted.mean(1, True), atol=1e-4, rtol=0)


def test_aldr_minimiser_of_the_conditional_risk_orders_as_the_labels_do():
    """Its lambda_i settle at lambda0 - lambda0 KL(q, 1/K)/(alpha log K), its scores at lambda_i log q."""
    q = torch.softmax(torch.randn(5, dtype=torch.float64, generator=generator), 0)
    loss, g = (
        aldr(n=5, lambda0=1.5, alpha=2.0, c=0.0),
        torch.zeros(5, dtype=torch.float64, requires_grad=True),
    )
    optimizer, labels = torch.optim.SGD([g], lr=2.0), torch.arange(5)
    for _ in range(600):
        optimizer.zero_grad()
        (q * loss(g.expand(5, 5), labels, labels)).sum().backward()
        optimizer.step()
    lambda_ = 1.5 - 1.5 * kl_to_uniform(q) / (2 * math.log(5))
    assert_close(loss.lambda_i, torch.full_like(q, lambda_))
    wanted = lambda_ * q.log()
    assert_close(g.detach() - g.detach().mean(), wanted - wanted.mean())


@pytest.mark.parametrize(("how", "positive"), [("l1", False), ("softplus_l1", True)])
def test_scores_are_normalised_to_mean_magnitude_one(how, positive):
    g = softplus(f) if positive else f
    wanted = torch.stack([row * K / sum(abs(float(v)) for v in row) for row in g])
    assert_close(LDRKL(0.5, 0.1, how)(f, y), LDRKL(0.5, 0.1)(wanted, y))
    assert_close(aldr(normalise=how)(f, y, every), aldr()(wanted, y, every))
    if how == "l1":  # the gradient flows through the norm: rescaling the scores changes nothing
        g = f.clone().requires_grad_()
        LDRKL(0.5, 0.1, how)(g, y).sum().backward()
        assert g.grad is not None
        assert_close((g.grad * f).sum(1), torch.zeros(n, dtype=torch.float64), atol=1e-12, rtol=0)


def test_zero_scores_have_no_direction_so_the_gradient_is_the_plain_one():
    g = torch.zeros(1, K, dtype=torch.float64, requires_grad=True)
    value = LDRKL(1.0, 0.1, "l1")(g, torch.tensor([3]))
    assert value.item() == pytest.approx(math.log((1 + (K - 1) * math.exp(0.1)) / K))
    (grad,) = torch.autograd.grad(value.sum(), g)  # p_k - 1[k = y], not K / 1e-12 times that
    assert grad.amin().item() == pytest.approx(1 / (1 + (K - 1) * math.exp(0.1)) - 1)


def test_aldr_kl_step_and_value_by_slow_loops():
    """Two visits: p from the old lambda_i without margin, the loss at the new one, penalty included."""
    lambda0, alpha, c, smoothing = 0.8, 1.7, 0.3, 1e-5
    loss = aldr(lambda0=lambda0, alpha=alpha, c=c, smoothing=smoothing, n=100)
    index = 99 - every
    lambdas = [lambda0] * n
    for _ in range(2):
        value = loss(f, y, index)
        for i in range(n):
            weights = [math.exp(float(v) / lambdas[i]) for v in f[i]]
            p = [w / sum(weights) + smoothing for w in weights]
            kl = kl_to_uniform([p_k / sum(p) for p_k in p])
            lambdas[i] = lambda0 - lambda0 * kl / (alpha * math.log(K))
            d_i = [float(f[i, k] - f[i, y[i]]) + c * (k != int(y[i])) for k in range(K)]
            assert value[i].item() == pytest.approx(objective(lambdas[i], d_i, alpha, lambda0), abs=1e-10)
    assert_close(loss.lambda_i[index], torch.tensor(lambdas, dtype=torch.float64))
    assert (loss.lambda_i[: 100 - n] == lambda0).all()  # samples not visited


def test_aldr_kl_gradient_treats_the_new_lambda_as_a_constant():
    loss, g = aldr(normalise="none"), f.clone().requires_grad_()
    loss(g, y, every).sum().backward()
    p = torch.softmax(d / loss.lambda_i[:, None], 1)
    assert_close(g.grad, p - torch.nn.functional.one_hot(y, K))
    assert not loss.lambda_i.requires_grad


@pytest.mark.parametrize("alpha", [1.01, 2.0, 50.0])
def test_aldr_kl_lambda_stays_in_its_bounds(alpha):
    loss = aldr(lambda0=3.0, alpha=alpha)
    for scale in (1e-9, 1e-3, 1.0, 30.0, 1e4):
        loss(scale * f, y, every)
        assert (loss.lambda_i >= 3.0 * (1 - 1 / alpha)).all()
        assert (loss.lambda_i <= 3.0).all()


@pytest.mark.parametrize(("smoothing", "tol"), [(0.0, 1e-12), (1e-5, 5e-4)])
def test_aldr_kl_ends_of_the_bounds(smoothing, tol):
    """One-hot: the lower end (smoothing stops it 5e-4 lambda0 short at K = 26); uniform: the upper."""
    loss = aldr(lambda0=2.0, smoothing=smoothing, n=2)
    g = torch.zeros(2, K, dtype=torch.float64)
    g[0, 7] = 1e4
    loss(g, y[:2], torch.tensor([0, 1]))
    assert loss.lambda_i[0].item() == pytest.approx(2.0 * (1 - 1 / 2), abs=2.0 * tol)
    assert loss.lambda_i[1].item() == pytest.approx(2.0, abs=1e-12)
    assert (loss.lambda_i[0] - 1.0 > 1e-4) == (smoothing > 0)


@pytest.mark.parametrize("normalise", ["none", "l1", "softplus_l1"])
def test_aldr_kl_tends_to_ldr_kl_as_alpha_grows(normalise):
    value = aldr(lambda0=0.6, alpha=1e12, c=0.1, normalise=normalise)(f, y, every)
    assert_close(value, LDRKL(0.6, 0.1, normalise)(f, y))


@pytest.mark.parametrize("lambda0", [0.3, 1.0, 5.0])
def test_inner_steps_reach_the_maximum_of_eq_2(lambda0):
    """Without margin the fixed point of the step is the maximiser over lambda of eq. 2, sample by sample."""
    loss = aldr(lambda0=lambda0, alpha=2.0, c=0.0)
    for _ in range(200):
        value = loss(f, y, every)
    for i in range(0, n, 5):
        d_i = (f[i] - f[i, y[i]]).tolist()
        best: Any = minimize_scalar(
            lambda t, d_i=d_i: -objective(t, d_i, 2.0, lambda0),
            bounds=(lambda0 / 100, lambda0 * 1.5),
            method="bounded",
            options={"xatol": 1e-10},
        )
        assert loss.lambda_i[i].item() == pytest.approx(best.x, abs=1e-5 * lambda0)
        assert value[i].item() == pytest.approx(-best.fun, abs=1e-10)
        on_grid = max(objective(lambda0 * t / 500, d_i, 2.0, lambda0) for t in range(1, 750))
        assert value[i].item() >= on_grid - 1e-10  # not only a local maximum


def test_state_dict_keeps_lambda_bitwise():
    loss = ALDRKL(1.0, 2.0, n=n)
    loss(f.float(), y, every)
    other = ALDRKL(1.0, 2.0)
    other.allocate(n)
    other.load_state_dict(loss.state_dict())
    assert list(loss.state_dict()) == ["lambda_i"]
    assert loss.lambda_i.dtype == torch.float32
    assert torch.equal(other.lambda_i, loss.lambda_i)
    assert torch.equal(other(f.float(), y, every), copy.deepcopy(loss)(f.float(), y, every))
    other.allocate(3)
    assert torch.equal(other.lambda_i, torch.ones(3))


def test_eval_mode_uses_lambda_and_leaves_it():
    loss = aldr()
    loss(f, y, every)
    stored = loss.lambda_i.clone()
    loss.eval()
    shuffled = every.flip(0)
    value = loss(f, y, shuffled)
    assert torch.equal(loss.lambda_i, stored)
    expected = [objective(float(stored[n - 1 - i]), d[i].tolist(), 2.0, 1.0) for i in range(n)]
    assert_close(value, torch.tensor(expected, dtype=torch.float64))
    assert_close(loss(f, y), aldr()(f, y, every))  # held-out samples: one step from lambda0 ...
    assert torch.equal(loss.lambda_i, stored)  # ... and no trace of it


def test_refused_use():
    with pytest.raises(ValueError, match=r"allocate\(n\) before use"):
        ALDRKL()(f, y, every)
    with pytest.raises(ValueError, match="trains with index"):
        aldr()(f, y)
    with pytest.raises((ValueError, TypeError)):
        aldr()(f, y, every[:3])
    with pytest.raises(ValueError, match="at least one training sample"):
        ALDRKL(n=0)
