"""Truths of the H-consistency bound, float64; expected values by mpmath, scipy or by hand."""

import math

import mpmath
import numpy as np
import pytest
import torch
from scipy.optimize import minimize
from torch.testing import assert_close

from lossatlas.papers.comp_sum import (
    best_risk,
    gamma_bound,
    gamma_tau,
    minimizability_gap,
    risk,
    run_bounds,
    sample_pairs,
    surrogate_regret,
    t_tau,
    two_class_tie,
    zero_one_regret,
)

TAUS = [0.0, 0.3, 0.5, 0.9, 0.97, 1.0, 1.02, 1.3, 1.5, 1.9, 1.999, 2.0, 3.0]
B = torch.linspace(0, 1, 201, dtype=torch.float64)


def t_by_mpmath(b, tau, n):
    """The sheet's four branches with 60 digits."""
    with mpmath.workdps(60):
        b, tau = mpmath.mpf(b), mpmath.mpf(tau)
        if tau >= 2:
            return float(b / ((tau - 1) * n ** (tau - 1)))
        if tau == 1:
            left = (1 - b) / 2 * mpmath.log(1 - b) if b < 1 else 0
            return float((1 + b) / 2 * mpmath.log(1 + b) + left)
        s = 1 / (2 - tau)
        power = (((1 + b) ** s + (1 - b) ** s) / 2) ** (2 - tau)
        if tau < 1:
            return float(mpmath.mpf(2) ** (1 - tau) / (1 - tau) * (1 - power))
        return float((power - 1) / ((tau - 1) * mpmath.mpf(n) ** (tau - 1)))


@pytest.mark.parametrize("tau", TAUS)
@pytest.mark.parametrize("n", [2, 10])
def test_t_has_the_value_of_the_formula_near_every_edge(tau, n):
    b = [0.0, 1e-9, 1e-4, 0.05, 0.3, 0.7, 0.99, 1 - 1e-9, 1 - 2**-53, 1.0]
    expected = torch.tensor([t_by_mpmath(v, tau, n) for v in b], dtype=torch.float64)
    assert_close(t_tau(torch.tensor(b, dtype=torch.float64), tau, n), expected, rtol=1e-11, atol=0)


@pytest.mark.parametrize("tau", TAUS)
def test_t_is_convex_increasing_from_zero(tau):
    t = t_tau(B, tau, 3)
    assert t[0] == 0
    assert (t.diff() > 0).all()
    assert (t.diff().diff() > -1e-14).all()


@pytest.mark.parametrize("tau", [1 - 1e-6, 1 + 1e-6])
def test_t_is_continuous_at_cross_entropy(tau):
    assert_close(t_tau(B, tau, 3), t_tau(B, 1.0, 3), rtol=0, atol=1e-5)


def test_t_of_cross_entropy_ends_at_log_2():
    assert_close(t_tau(torch.ones((), dtype=torch.float64), 1.0, 5).item(), math.log(2))


@pytest.mark.parametrize("tau", TAUS)
@pytest.mark.parametrize("n", [2, 10])
def test_gamma_inverts_t(tau, n):
    assert_close(gamma_tau(t_tau(B, tau, n), tau, n), B, rtol=0, atol=1e-12 if tau <= 1.9 else 1e-11)
    small = torch.tensor([1e-6], dtype=torch.float64)  # relative accuracy, too, for ratios are taken
    assert_close(gamma_tau(t_tau(small, tau, n), tau, n), small, rtol=1e-9, atol=0)


@pytest.mark.parametrize("tau", TAUS)
@pytest.mark.parametrize("n", [2, 3, 100])
def test_closed_bounds_dominate_gamma(tau, n):
    t = t_tau(B, tau, n)
    assert (gamma_bound(t, tau, n) >= gamma_tau(t, tau, n) - 1e-12).all()


def test_gamma_is_one_beyond_and_zero_below():
    t = torch.tensor([-1e-17, 0.0, 10.0, math.inf], dtype=torch.float64)
    for tau in (0.0, 1.0, 1.5, 2.0):
        assert gamma_tau(t, tau, 3).tolist() == [0, 0, 1, 1]


@pytest.mark.parametrize("tau", [0.0, 0.5, 0.98, 1.0, 1.02, 1.5, 1.8])
def test_best_risk_is_the_least_risk(tau):
    """Against scipy over free scores, which also is the truth M = 0 for all functions."""
    q = torch.tensor([[0.5, 0.3, 0.15, 0.05]], dtype=torch.float64)

    def value(h):
        h = torch.tensor(h[None], requires_grad=True)
        r = risk(q, h, tau).sum()
        return r.item(), torch.autograd.grad(r, h)[0][0].numpy()

    least = minimize(value, np.zeros(4), jac=True, method="BFGS", options={"gtol": 1e-10}).fun
    assert_close(best_risk(q, tau).item(), least, rtol=0, atol=1e-9)
    assert_close(risk(q, torch.log(q) / (2 - tau), tau), best_risk(q, tau), rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize("tau", [2.0, 3.0])
def test_best_risk_from_mae_on_names_the_likeliest(tau):
    q = torch.tensor([[0.1, 0.6, 0.3]], dtype=torch.float64)
    assert_close(best_risk(q, tau).item(), 0.4 / (tau - 1))
    assert_close(risk(q, torch.tensor([[0.0, 900.0, 0.0]], dtype=torch.float64), tau).item(), 0.4 / (tau - 1))


@pytest.mark.parametrize("tau", [0.0, 0.5, 1.0, 1.5, 2.0])
def test_best_risk_at_a_sure_class_is_zero(tau):
    assert_close(best_risk(torch.eye(3, dtype=torch.float64), tau), torch.zeros(3, dtype=torch.float64))


def test_best_risk_is_continuous_at_cross_entropy():
    q = sample_pairs(5, 100, 1.0, np.random.default_rng(0))[0]
    for tau in (1 - 1e-6, 1 + 1e-6):
        assert_close(best_risk(q, tau), best_risk(q, 1.0), rtol=0, atol=1e-5)


@pytest.mark.parametrize("n", [2, 3, 10])
@pytest.mark.parametrize("tau", [0.0, 0.5, 1.0, 1.2, 1.5])
def test_two_class_tie(tau, n):
    """The surrogate regret is T up to tau = 1 at every n, (n/2)^(tau - 1) T between 1 and 2."""
    b = torch.linspace(0.05, 0.95, 10, dtype=torch.float64)
    q, h = two_class_tie(b, n)
    assert_close(zero_one_regret(q, h), b)
    factor = (n / 2) ** (tau - 1) if tau > 1 else 1.0
    assert_close(surrogate_regret(q, h, tau), factor * t_tau(b, tau, n), rtol=1e-10, atol=0)
    h[:, 2:] = -30  # the sheet's own distance
    assert_close(surrogate_regret(q, h, tau), factor * t_tau(b, tau, n), rtol=1e-7, atol=0)


def test_tie_of_all_classes_is_loose():
    q, h = two_class_tie(torch.tensor([0.5], dtype=torch.float64), 3)
    ratio = t_tau(torch.tensor([0.5], dtype=torch.float64), 1.0, 3) / surrogate_regret(q, 0 * h, 1.0)
    assert_close(ratio.item(), 0.2439, rtol=0, atol=1e-4)


def test_zero_one_regret_decides_ties_for_the_less_likely():
    q = torch.tensor([[0.5, 0.2, 0.3]] * 3)
    h = torch.tensor([[0.0, 0.0, 0.0], [0.0, -1.0, 0.0], [1.0, 0.0, 0.0]])
    assert_close(zero_one_regret(q, h), torch.tensor([0.3, 0.2, 0.0]))


def least_over(points, q, weight, tau):
    """R*_tau over h(x) = x W + c by BFGS from several starts."""
    x = torch.tensor(points)

    def value(w):
        w = torch.tensor(w.reshape(2, -1), requires_grad=True)
        r = (weight * risk(q, x[:, None] * w[0] + w[1], tau)).sum()
        return r.item(), torch.autograd.grad(r, w)[0].numpy().ravel()

    starts = np.random.default_rng(0).standard_normal((6, 2 * q.shape[1]))
    found = [minimize(value, s, jac=True, method="BFGS") for s in starts]
    return min(found, key=lambda r: r.fun)


@pytest.mark.parametrize("tau", [0.0, 0.5, 1.0, 1.5])
def test_minimizability_gap_of_a_linear_class(tau):
    """Class 1 in the middle: no affine h fits. M > 0, and the bound with both gaps holds for that H."""
    q = torch.tensor([[0.9, 0.1], [0.2, 0.8], [0.9, 0.1]], dtype=torch.float64)
    weight = torch.tensor([0.3, 0.4, 0.3], dtype=torch.float64)
    points = [-1.0, 0.0, 1.0]
    best = least_over(points, q, weight, tau)
    m_tau = minimizability_gap(q, weight, best.fun, tau)
    assert m_tau > 0.05
    # affine h names class 0 on none, all, or one side of the points: the least zero-one risk, by hand
    r01 = min(0.3 * 0.1 + 0.4 * 0.8 + 0.3 * 0.1, 0.3 * 0.1 + 0.4 * 0.2 + 0.3 * 0.9)
    m01 = r01 - (0.3 * 0.1 + 0.4 * 0.2 + 0.3 * 0.1)
    x = torch.tensor(points, dtype=torch.float64)[:, None]
    for w in [*np.random.default_rng(1).standard_normal((200, 2, 2)), best.x.reshape(2, 2)]:
        h = x * torch.tensor(w[0]) + torch.tensor(w[1])
        pick = h.argmax(1, keepdim=True)
        left = float((weight * (1 - q.gather(1, pick)[:, 0])).sum()) - r01 + m01
        right = (weight * risk(q, h, tau)).sum() - best.fun + m_tau
        assert left <= gamma_tau(right, tau, 2).item() + 1e-9


@pytest.mark.parametrize("tau", [0.0, 0.5, 1.0, 1.5, 2.0])
def test_run_bounds_finds_no_violation(tau):
    found = [run_bounds(tau, n, samples=4000, seed=100, starts=30, steps=60) for n in (2, 3, 10)]
    for f in found:
        assert f["violations"] == f["search_violations"] == 0
        assert f["pairs"] == 4000
        assert f["counted"] > 100
        assert max(f["max_ratio"], f["search_ratio"]) < 1 + 1e-6
        assert f["search_ratio"] > 0.15
    assert found[0]["search_ratio"] > 0.99  # with two classes the bound is attained
    tight = [1.0, 1.0, 1.0] if tau <= 1 else [(2 / n) ** (tau - 1) for n in (2, 3, 10)]
    assert_close([f["tightness"] for f in found], tight, rtol=1e-9, atol=0)


def test_a_bound_too_strong_is_caught(monkeypatch):
    """The check would see it: with 1.05 T in T's place both the samples and the search report violations."""
    from lossatlas.papers.comp_sum import probe

    monkeypatch.setattr(probe, "t_tau", lambda b, tau, n: 1.05 * t_tau(b, tau, n))
    found = run_bounds(0.5, 2, samples=20_000, seed=100, starts=20, steps=40)
    assert found["violations"] > 0
    assert found["search_violations"] > 0


@pytest.mark.parametrize("tau", [0.0, 0.5, 1.0])
def test_attained_ties_of_nearly_sure_classes_are_no_violations(tau):
    """T is so steep there below tau = 1 that the rounding of b alone would count."""
    from lossatlas.papers.comp_sum import probe

    logit = torch.linspace(0, 40, 20_001, dtype=torch.float64)
    q = torch.softmax(torch.stack([logit, -logit.flip(0)], dim=1), dim=1)
    b, _, bad = probe._violations(q, torch.zeros_like(q), tau)
    assert b.max() > 1 - 1e-15
    assert not bad.any()


def test_no_search_starts_where_the_prediction_is_right():
    from lossatlas.papers.comp_sum import probe

    logit, below = probe._search_start(2, 100, np.random.default_rng(0))
    assert (logit[:, 0] > logit[:, 1]).all()
    assert (below < 0).all()


def test_ratios_count_only_where_gamma_is_small(monkeypatch):
    from lossatlas.papers.comp_sum import probe

    monkeypatch.setattr(probe, "COUNTED", 1e-5)  # below Gamma at the least regret that has a ratio
    found = run_bounds(1.0, 2, samples=500, seed=100, starts=5, steps=5)
    assert found["counted"] == found["max_ratio"] == found["search_ratio"] == 0


def test_samples_are_distributions_and_half_near_bayes():
    q, h = sample_pairs(10, 2000, 1.0, np.random.default_rng(0))
    assert_close(q.sum(1), torch.ones(2000, dtype=torch.float64))
    assert q.amax(1).min() < 0.2
    assert q.amax(1).max() > 0.99
    regret = surrogate_regret(q, h, 1.0)
    assert regret[:1000].median() < 0.1 < regret[1000:].median()


def test_the_same_seed_gives_the_same_numbers():
    one, same, other = (run_bounds(1.0, 3, samples=500, seed=s, starts=5, steps=5) for s in (1, 1, 2))
    assert one == same != other


@pytest.mark.parametrize(
    "call",
    [
        lambda: run_bounds(-0.5, 3),
        lambda: run_bounds(math.nan, 3),
        lambda: run_bounds(1.0, 1),
        lambda: run_bounds(1.0, 3, samples=0),
        lambda: t_tau(torch.tensor([1.5]), 1.0, 2),
        lambda: t_tau(torch.tensor([math.nan]), 1.0, 2),
        lambda: gamma_tau(torch.tensor([math.nan]), 1.0, 2),
        lambda: two_class_tie(torch.tensor([0.5]), 1),
    ],
)
def test_refuses(call):
    with pytest.raises(ValueError, match=r"^[^\n]* needs? [^\n]*$"):
        call()
