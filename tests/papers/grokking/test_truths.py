"""Truths of the quadratic network, its kernel and its exact test error, float64."""

import math
from typing import Any

import numpy as np
import pytest
import torch
from torch.func import functional_call, jacrev, jvp, vjp
from torch.testing import assert_close

from lossatlas.papers.grokking import (
    Centred,
    LazyMSE,
    QuadraticNet,
    alignment,
    combine,
    descend,
    draw,
    flow_until,
    gaussian_error,
    kernel,
    min_norm,
    moments,
)

DOUBLE = torch.float64
D, N, P, E, ETA = 5, 20, 30, 0.25, 0.2


def own(seed=100, D=D, N=N, P=P):
    return draw(seed, D, N, P, DOUBLE)


def scalar(value):
    return torch.tensor(value, dtype=DOUBLE)


def trained(steps=200, alpha=2.0, e=E, seed=100, eta=ETA, **sizes):
    """Weights after some steps, and everything else."""
    one = own(seed, **sizes)
    start, W = moments(one.W), one.W
    for _ in range(steps):
        W, _ = descend(W, start, one.X, one.y, scalar(alpha), scalar(e), eta)
    return one, start, W


def quadratic_form(start, W, alpha, e):
    w, M = moments(W)
    return alpha * (w - start[0]), alpha * e / 2 * (M - start[1])


def centred(one, W, alpha, e):
    f = Centred(QuadraticNet(one.W, e), alpha)
    f.net.W.data = W
    return f


# ---------------------------------------------------------------- the test error
def test_error_of_a_trained_network_is_that_of_a_million_inputs():
    one, start, W = trained(steps=40)
    x = torch.randn(1_000_000, D, dtype=DOUBLE, generator=torch.Generator().manual_seed(0))
    with torch.no_grad():
        f = centred(one, W, 2.0, E)(x)
    found = gaussian_error(*quadratic_form(start, W, 2.0, E), one.b)
    assert_close(found, (f - (x @ one.b).square() / 2).square().mean(), rtol=0.01, atol=0)


def test_error_is_the_gaussian_integral_in_two_dimensions():
    one, start, W = trained(D=2, N=7, P=9)
    nodes, weights = np.polynomial.hermite_e.hermegauss(
        6
    )  # exact up to degree 11; the integrand has degree 4
    x = torch.cartesian_prod(torch.tensor(nodes), torch.tensor(nodes))
    mass = torch.outer(torch.tensor(weights), torch.tensor(weights)).flatten() / (2 * math.pi)
    with torch.no_grad():
        f = centred(one, W, 2.0, E)(x)
    integral = (mass * (f - (x @ one.b).square() / 2).square()).sum()
    assert_close(gaussian_error(*quadratic_form(start, W, 2.0, E), one.b), integral, rtol=1e-12, atol=0)


@pytest.mark.parametrize("e", [0.0, 0.25, 2.0])
def test_every_network_starts_at_three_quarters(e):
    one = own()
    error = gaussian_error(*quadratic_form(moments(one.W), one.W, 3.0, e), 2 * one.b)
    assert_close(error, scalar(0.75 * 2**4), rtol=1e-12, atol=0)  # (3/4) |b|^4


def test_without_the_quadratic_part_no_network_is_better_than_nothing():
    one, start, W = trained(steps=500, e=0.0)
    linear, quadratic = quadratic_form(start, W, 2.0, 0.0)
    assert float(linear.norm()) > 1e-3  # it has learned something
    assert not quadratic.any()
    assert float(gaussian_error(linear, quadratic, one.b)) > 0.75
    x = one.X[:4]
    with torch.no_grad():
        assert_close(centred(one, W, 2.0, 0.0)(x), x @ linear)


# ---------------------------------------------------------------- descent
@pytest.mark.parametrize(("alpha", "e"), [(0.5, 0.1), (2.0, 0.25), (32.0, 0.5)])
def test_a_step_is_gradient_descent_with_rate_eta_n_on_the_loss(alpha, e):
    one, _, W = trained(steps=3, alpha=alpha, e=e)
    f, loss = centred(one, W.clone(), alpha, e), LazyMSE(alpha)
    optimizer = torch.optim.SGD(f.net.parameters(), lr=ETA * N)
    value = loss(f(one.X), one.y).mean()
    value.backward()
    optimizer.step()
    after, squares = descend(W, moments(one.W), one.X, one.y, scalar(alpha), scalar(e), ETA)
    assert_close(after, f.net.W.data, rtol=1e-10, atol=1e-13)
    assert_close(squares / (2 * alpha**2), value.detach(), rtol=1e-10, atol=0)


def test_gradients_of_network_and_loss():
    one = own()
    f = Centred(QuadraticNet(one.W, E), 2.0)
    loss = LazyMSE(2.0)

    def value(W, y):
        return loss(functional_call(f, {"net.W": W}, (one.X,)), y)

    assert torch.autograd.gradcheck(value, ((one.W + 0.1).requires_grad_(), one.y.clone().requires_grad_()))


def test_the_first_step_of_the_weights_is_inverse_to_alpha():
    one = own()
    moved = [
        descend(one.W, moments(one.W), one.X, one.y, scalar(a), scalar(E), ETA)[0] - one.W
        for a in (1.0, 50.0)
    ]
    assert_close(moved[0], 50 * moved[1], rtol=1e-9, atol=1e-15)


def test_the_loss_never_increases_for_a_small_rate():
    one = own()
    for alpha, e in ((0.5, 0.5), (2.0, 0.25), (32.0, 0.1)):
        W, start, last = one.W, moments(one.W), math.inf
        for _ in range(300):
            W, value = descend(W, start, one.X, one.y, scalar(alpha), scalar(e), 0.01)
            assert float(value) <= last
            last = float(value)


def linearised(one, alpha, steps):
    """f of the model linearised at the start, trained alike, after every step."""
    net = QuadraticNet(one.W, E)

    def f(W):
        return alpha * functional_call(net, {"W": W}, (one.X,))

    dW, path = torch.zeros_like(one.W), []
    back: Any = vjp(f, one.W)[1]
    for _ in range(steps):
        now = jvp(f, (one.W,), (dW,))[1]
        path.append(now.detach())
        dW = dW - ETA * N / (alpha**2 * P) * back(now.detach() - one.y)[0].detach()
    return torch.stack(path)


def test_large_alpha_is_the_linearised_model():
    one = own()
    gaps, moved = [], []
    for alpha in (1e2, 1e3, 1e4):
        W, start, path = one.W, moments(one.W), []
        f = centred(one, W, alpha, E)
        for _ in range(500):
            with torch.no_grad():
                f.net.W.data = W
                path.append(f(one.X))
            W, _ = descend(W, start, one.X, one.y, scalar(alpha), scalar(E), ETA)
        gaps.append(float((torch.stack(path) - linearised(one, alpha, 500)).abs().max() / one.y.abs().max()))
        K, K_0 = (kernel(one.X, one.X, *moments(V), scalar(E)) for V in (W, one.W))
        moved.append(float((K - K_0).norm() / K_0.norm()))
    assert 0.003 < gaps[0] < 0.1  # .030 in the draw that was tried first
    for found in (gaps, moved):  # both fall as 1 / alpha
        assert np.allclose(np.array(found[:-1]) / found[1:], 10, rtol=0.1)


# ---------------------------------------------------------------- kernels
def test_kernel_is_that_of_the_gradients():
    one, _, W = trained()
    alpha = 3.0
    f = centred(one, W, alpha, E)
    J = jacrev(lambda V: functional_call(f, {"net.W": V}, (one.X,)))(W).flatten(1)
    assert_close(
        alpha**2 / N * kernel(one.X, one.X, *moments(W), scalar(E)), J @ J.mT, rtol=1e-10, atol=1e-12
    )


def test_a_kernel_solution_is_the_quadratic_form_that_combine_gives():
    one = own()
    w, M = moments(one.W)
    c, z = torch.randn(P, dtype=DOUBLE), torch.randn(50, D, dtype=DOUBLE)
    linear, Q = combine(c, one.X, w, M, scalar(E))
    assert_close(
        kernel(z, one.X, w, M, scalar(E)) @ c, z @ linear + ((z @ Q) * z).sum(1), rtol=1e-9, atol=1e-9
    )
    assert_close(Q, Q.mT)


def test_min_norm_is_the_smallest_change_of_the_weights_that_fits():
    one = own(P=12)  # fewer points than the 20 functions of a quadratic form in 5 variables
    w, M = moments(one.W)
    z = torch.randn(6, D, dtype=DOUBLE)
    net = QuadraticNet(one.W, E)
    J, Jz = (
        jacrev(lambda V, x=x: functional_call(net, {"W": V}, (x,)))(one.W).flatten(1) for x in (one.X, z)
    )
    theta = torch.linalg.lstsq(J, one.y[:, None], driver="gelsd").solution[:, 0]
    c = min_norm(kernel(one.X, one.X, w, M, scalar(E)), one.y)
    assert_close(kernel(z, one.X, w, M, scalar(E)) @ c, Jz @ theta, rtol=1e-6, atol=1e-8)


def test_flow_stops_at_the_level_and_ends_in_the_interpolant():
    one = own(P=12)
    K = kernel(one.X, one.X, *moments(one.W), scalar(E))
    for level in (0.9, 0.1, 1e-3):
        r = K @ flow_until(K, one.y, level) - one.y
        assert_close(r.square().mean() / one.y.square().mean(), scalar(level), rtol=1e-8, atol=0)
    assert_close(K @ flow_until(K, one.y, 1e-20), one.y, rtol=1e-6, atol=1e-8)
    assert_close(flow_until(K, one.y, 1e-24), min_norm(K, one.y), rtol=1e-3, atol=1e-6)


def test_flow_is_the_limit_of_small_steps():
    one = own()
    K = kernel(one.X, one.X, *moments(one.W), scalar(E))
    c, rate = torch.zeros(P, dtype=DOUBLE), 2e-3 / float(torch.linalg.eigvalsh(K)[-1])
    while (r := one.y - K @ c).square().sum() > 0.3 * one.y.square().sum():
        c = c + rate * r
    assert_close(
        c, flow_until(K, one.y, float(r.square().sum() / one.y.square().sum())), rtol=0.01, atol=1e-6
    )


def test_alignment_is_the_correlation_of_the_centred_matrices():
    one = own()
    K = kernel(one.X, one.X, *moments(one.W), scalar(E))
    H = torch.eye(P, dtype=DOUBLE) - 1 / P
    A, B = H @ K @ H, H @ torch.outer(one.y, one.y) @ H
    assert_close(alignment(K, one.y), (A * B).sum() / (A.norm() * B.norm()), rtol=1e-10, atol=0)


# ---------------------------------------------------------------- draws, extremes, refused input
def test_draws_are_shared_by_sizes_and_have_a_unit_target():
    small, large = draw(3, 25, 100, 25), draw(3, 25, 100, 250)
    assert torch.equal(small.X, large.X[:25])
    assert torch.equal(small.W, large.W)
    assert torch.equal(small.b, large.b)
    assert_close(large.b.norm(), torch.tensor(1.0))
    assert_close(large.y, (large.X @ large.b).square() / 2)
    assert not torch.equal(small.W, draw(4, 25, 100, 25).W)
    W = draw(0, 25, 4000, 1).W
    assert_close(float(W.var()), 1 / 25, rtol=0.02, atol=0)


def test_large_scores_keep_the_loss_finite():
    for f in (1e4, -1e4, 1e24):
        value = LazyMSE(abs(f))(torch.tensor([f]), torch.tensor([0.0]))
        assert_close(value, torch.tensor([0.5]))
    assert_close(LazyMSE(1.0)(torch.full((2, 3), 2.0), torch.zeros(2, 3)), torch.tensor([2.0, 2.0]))


@pytest.mark.parametrize("alpha", [0.0, -1.0, math.inf, math.nan])
def test_alpha_is_refused(alpha):
    for make in (LazyMSE, lambda a: Centred(torch.nn.Linear(1, 1), a)):
        with pytest.raises(ValueError, match="finite alpha > 0"):
            make(alpha)


def test_other_refused_input():
    with pytest.raises(ValueError, match="e >= 0"):
        QuadraticNet(torch.ones(2, 2), -0.1)
    with pytest.raises(ValueError, match=r"weights \(N, D\)"):
        QuadraticNet(torch.ones(2), 0.1)
    with pytest.raises(ValueError, match="one shape"):
        LazyMSE(1.0)(torch.ones(3), torch.ones(3, 1))
    with pytest.raises(ValueError, match="D, N, P >= 1"):
        draw(0, 5, 0, 5)
    K = torch.diag(torch.tensor([1.0, 0.0], dtype=DOUBLE))
    with pytest.raises(ValueError, match="does not reach"):
        flow_until(K, torch.ones(2, dtype=DOUBLE), 0.4)
    with pytest.raises(ValueError, match=r"\(0, 1\)"):
        flow_until(K, torch.ones(2, dtype=DOUBLE), 1.0)
