"""Gaussian processes: scikit-learn's posterior and likelihood, limits, expected improvement by quadrature."""

import math

import numpy as np
import pytest
import torch
from scipy import integrate, stats
from sklearn.gaussian_process import GaussianProcessRegressor
from sklearn.gaussian_process.kernels import RBF, ConstantKernel, Matern, WhiteKernel
from torch.testing import assert_close

from lossatlas.gp import Scales, covariance, expected_improvement, fit, log_marginal, posterior

f64 = torch.float64


def problem(B=2, n=12, m=5, d=3):
    g = torch.Generator().manual_seed(0)
    x, at = (torch.rand(B, k, d, generator=g, dtype=f64) for k in (n, m))
    y = torch.sin(5 * x[..., 0]) + x[..., 1]
    lengthscale = 0.3 + torch.rand(B, d, generator=g, dtype=f64)
    return (
        Scales(
            lengthscale, torch.tensor([1.3, 0.4], dtype=f64)[:B], torch.tensor([0.05, 0.1], dtype=f64)[:B]
        ),
        x,
        y,
        at,
    )


@pytest.mark.parametrize("kernel", ["matern52", "rbf"])
def test_posterior_and_likelihood_are_scikit_learns(kernel):
    s, x, y, at = problem()
    s = Scales(s.lengthscale, s.variance, s.noise, kernel)
    mean, variance = posterior(s, x, y, at, jitter=0.0)
    full_mean, full = posterior(s, x, y, at, full=True, jitter=0.0)
    likelihood = log_marginal(s, x, y, jitter=0.0)
    for b in range(2):
        shape = s.lengthscale[b].numpy()
        base = Matern(shape, nu=2.5) if kernel == "matern52" else RBF(shape)
        theirs = GaussianProcessRegressor(
            ConstantKernel(s.variance[b].item()) * base + WhiteKernel(s.noise[b].item()),
            alpha=0.0,
            optimizer=None,
        ).fit(x[b].numpy(), y[b].numpy())
        m, C = theirs.predict(at[b].numpy(), return_cov=True)
        C = C - s.noise[b].item() * np.eye(5)  # theirs is of new observations
        assert_close(mean[b], torch.as_tensor(m))
        assert_close(full[b], torch.as_tensor(C), atol=1e-9, rtol=1e-7)
        assert likelihood[b].item() == pytest.approx(theirs.log_marginal_likelihood_value_)
    assert_close(variance, full.diagonal(dim1=1, dim2=2))
    assert_close(mean, full_mean)


def test_far_away_the_prior_comes_back_and_at_the_points_the_data():
    s, x, y, _ = problem()
    quiet = Scales(s.lengthscale, s.variance, torch.zeros(2, dtype=f64))
    mean, variance = posterior(quiet, x, y, x, jitter=1e-10)
    assert_close(mean, y, atol=1e-6, rtol=0)
    assert variance.max() < 1e-6
    mean, variance = posterior(s, x, y, x + 1e3)
    assert_close(mean, torch.zeros_like(mean), atol=1e-9, rtol=0)
    assert_close(variance, s.variance[:, None].expand(2, 12))


def test_gradients_by_finite_differences_even_at_equal_points():
    s, x, y, at = problem(B=1, n=4, m=2, d=2)
    at = torch.cat([at, x[:, :1]], dim=1).requires_grad_()  # one of them a data point
    logs = [t.log().requires_grad_() for t in (s.lengthscale, s.variance, s.noise)]
    assert torch.autograd.gradcheck(lambda *t: log_marginal(Scales(*(v.exp() for v in t)), x, y), logs)
    (g,) = torch.autograd.grad(posterior(s, x, y, at)[0].sum(), at)
    assert torch.isfinite(g).all()
    assert covariance(s, x, x).diagonal(dim1=1, dim2=2).unique().item() == pytest.approx(1.3)


def test_points_on_one_another_are_said():
    s = Scales(torch.ones(1, 1), torch.ones(1), torch.zeros(1), "rbf")
    x = torch.zeros(1, 3, 1)
    with pytest.raises(ValueError, match="not positive"):
        log_marginal(s, x, torch.zeros(1, 3), jitter=0.0)
    assert torch.isfinite(log_marginal(s, x, torch.zeros(1, 3), jitter=1e-4)).all()


def test_fit_is_the_maximum_that_scikit_learn_finds_and_each_process_is_its_own():
    _, x, y, _ = problem(B=2, n=30)
    y = y + 0.1 * torch.randn(2, 30, generator=torch.Generator().manual_seed(3), dtype=f64)
    y = (y - y.mean(1, keepdim=True)) / y.std(1, keepdim=True)
    s = fit(x, y, steps=300)
    assert_close(s.lengthscale[1:], fit(x[1:], y[1:], steps=300).lengthscale)
    assert s.lengthscale[0, 2] > 5 * s.lengthscale[0, 0]  # the third coordinate plays no part
    kernel = ConstantKernel(1.0, (1e-3, 1e3)) * Matern([0.5] * 3, (5e-3, 1e2), nu=2.5) + WhiteKernel(
        0.01, (1e-6, 10)
    )
    for b in range(2):
        theirs = GaussianProcessRegressor(kernel, alpha=0.0).fit(x[b].numpy(), y[b].numpy())
        found = log_marginal(s, x, y, jitter=0.0)[b].item()
        assert found == pytest.approx(theirs.log_marginal_likelihood_value_, abs=0.1)
    with pytest.raises(ValueError, match="finite"):
        fit(x, y * math.nan)


def test_without_jitter_and_noise_the_fit_is_scikit_learns_too():
    """The default jitter is noise in units of a variance of hundreds: 69.0 against 76.3 nats."""
    _, x, y, _ = problem(B=1, n=30)
    y = (y - y.mean(1, keepdim=True)) / y.std(1, keepdim=True)
    kernel = ConstantKernel(1.0, (1e-3, 1e3)) * Matern([0.5] * 3, (5e-3, 1e2), nu=2.5)
    theirs = GaussianProcessRegressor(kernel + WhiteKernel(0.01, (1e-6, 10)), alpha=0.0)
    best = theirs.fit(x[0].numpy(), y[0].numpy()).log_marginal_likelihood_value_
    found = [log_marginal(fit(x, y, steps=300, jitter=j), x, y, jitter=0.0).item() for j in (0.0, 1e-6)]
    assert found[0] == pytest.approx(best, abs=1e-3)
    assert found[1] < best - 1


@pytest.mark.parametrize(
    ("mean", "sd", "best"), [(0.0, 1.0, 0.0), (1.0, 0.5, 2.5), (3.0, 2.0, -1.0), (0.0, 1.0, 6.0)]
)
def test_expected_improvement_by_quadrature(mean, sd, best):
    expected, _ = integrate.quad(
        lambda f: (f - best) * stats.norm.pdf(f, mean, sd), best, best + 40 * sd, epsabs=1e-14
    )
    found = expected_improvement(torch.tensor(mean, dtype=f64), torch.tensor(sd**2, dtype=f64), best)
    assert found.item() == pytest.approx(expected, rel=1e-6)


def test_expected_improvement_at_the_ends():
    mean, variance = (
        torch.tensor([1e4, -1e4, 2.0, -2.0], requires_grad=True),
        torch.tensor([1.0, 1.0, 0.0, 0.0]),
    )
    found = expected_improvement(mean, variance, 0.0)
    assert found.tolist() == [1e4, 0.0, 2.0, 0.0]
    (g,) = torch.autograd.grad(found.sum(), mean)
    assert torch.isfinite(g).all()
    with pytest.raises(ValueError, match="kernel"):
        Scales(variance, variance, variance, "cubic")
