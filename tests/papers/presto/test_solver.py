"""Truths of PRESTO's objective and solver, float64; expected values are written apart from the code."""

import math

import numpy as np
import pytest
import torch
from jaxtyping import install_import_hook
from scipy.optimize import minimize
from sklearn.linear_model import LogisticRegression
from statsmodels.miscmodels.ordinal_model import OrderedModel
from torch.testing import assert_close

CHECKED = [f"lossatlas.papers.presto.{name}" for name in ("quadratic", "solver", "path", "metrics")]
with install_import_hook(CHECKED, "beartype.beartype"):
    from lossatlas.papers.presto import path, quadratic, solver
    from lossatlas.papers.presto.path import Penalty, fit_path, lambda_grid

FREE = Penalty(first=False)


def problem(groups=3, n=300, p=4, K=4, seed=0):
    """Groups of random ordinal data with a rare last class."""
    g = torch.Generator().manual_seed(seed)
    X = torch.randn(groups, n, p, dtype=torch.float64, generator=g) * torch.arange(1, p + 1) + 5
    beta = 0.5 * torch.randn(groups, p, 1, dtype=torch.float64, generator=g) / torch.arange(1, p + 1)[:, None]
    eta = ((X - 5) @ beta)[..., 0]
    u = torch.rand(groups, n, dtype=torch.float64, generator=g).logit() + eta
    cuts = torch.linspace(0.0, 2.5, K - 1, dtype=torch.float64)
    return X, (u[..., None] > cuts).sum(-1)


def nll(alpha, beta, X, y):
    """Mean -log P(y | x) as plain differences of sigmoids, one data set."""
    cum = torch.sigmoid(X @ beta.T + alpha)
    one, zero = torch.ones_like(cum[:, :1]), torch.zeros_like(cum[:, :1])
    P = torch.cat([cum, one], 1) - torch.cat([zero, cum], 1)
    return -P[torch.arange(len(y)), y].log().mean()


def standardised(X):
    return (X - X.mean(0)) / X.std(0, unbiased=False)


def score(fit, g, col, X, y):
    """d nll / d psi on standardised features at a fit, by autograd of the plain formula."""
    Z, sd = standardised(X[g]), X[g].std(0, unbiased=False)
    psi = (fit.psi[g, col] * sd).requires_grad_()
    alpha = fit.alpha[g, col] + fit.beta[g, col] @ X[g].mean(0)
    nll(alpha, psi.cumsum(0), Z, y[g]).backward()
    return psi.grad, psi.detach()


def test_value_gradient_hessian_against_autograd():
    X, y = problem(groups=1, n=60, p=2)
    Z = torch.cat([torch.ones(1, 60, 1, dtype=torch.float64), X - 5], 2)
    theta = torch.tensor([[-0.3, 0.2, -0.1], [0.9, 0.05, 0.1], [2.4, -0.02, 0.03]], dtype=torch.float64)

    def plain(t):
        t = t.view(3, 3)
        return nll(t[:, 0], t[:, 1:].cumsum(0), X[0] - 5, y[0]) + 0.7 * (t[:, 1:] ** 2).sum()

    l2 = torch.full((1, 1, 3, 3), 0.7, dtype=torch.float64)
    l2[..., 0] = 0
    w = torch.full((1, 60), 1 / 60, dtype=torch.float64)
    at = solver.evaluate(theta[None, None], solver.Problems(Z, y, w, torch.zeros_like(l2), l2))
    flat = theta.flatten()
    assert_close(at.value[0, 0], plain(flat), atol=1e-12, rtol=0)
    grad = torch.autograd.functional.jacobian(plain, flat)
    assert_close(at.grad.flatten(), grad, atol=1e-12, rtol=0)
    assert_close(at.hess[0, 0], torch.autograd.functional.hessian(plain, flat), atol=1e-10, rtol=0)


def test_gradcheck_with_barrier():
    X, y = problem(groups=2, n=40, p=2, K=3)
    Z = torch.cat([torch.ones(2, 40, 1, dtype=torch.float64), X - 5], 2)
    zero = torch.zeros(2, 1, 2, 3, dtype=torch.float64)
    pb = solver.Problems(Z, y, torch.full((2, 40), 1 / 40, dtype=torch.float64), zero, zero)
    mu = torch.tensor([[0.3], [0.0]], dtype=torch.float64)

    class Value(torch.autograd.Function):
        @staticmethod
        def forward(ctx, theta):
            at = solver.evaluate(theta, pb, mu)
            ctx.save_for_backward(at.grad)
            return at.value

        @staticmethod
        def backward(ctx, g):
            return g[..., None, None] * ctx.saved_tensors[0]

    theta = zero.clone()
    theta[..., 0] = torch.tensor([0.0, 1.5])
    assert torch.autograd.gradcheck(Value.apply, (theta + 0.05).requires_grad_())
    assert solver.evaluate(theta, pb, mu).barrier[0, 0] > 0


def test_value_is_infinite_where_boundaries_cross():
    X, y = problem(groups=1, n=30, p=1, K=3)
    Z = torch.cat([torch.ones_like(X), X], 2)
    zero = torch.zeros(1, 1, 2, 2, dtype=torch.float64)
    pb = solver.Problems(Z, y, torch.full((1, 30), 1 / 30, dtype=torch.float64), zero, zero)
    theta = zero.clone()
    theta[..., 0] = torch.tensor([1.0, 0.5])
    assert solver.evaluate(theta, pb).value.item() == math.inf


@pytest.mark.parametrize("lam", [1e3, math.inf])
def test_huge_lambda_gives_class_frequencies(lam):
    X, y = problem()
    fit = fit_path(X, y, torch.full((3, 1), lam))
    assert (fit.psi == 0).all()
    cum = torch.stack([(y <= k).double().mean(1) for k in range(3)], 1)
    assert_close(fit.alpha[:, 0], cum.logit(), atol=1e-9, rtol=0)


@pytest.mark.parametrize("lam", [1e3, math.inf])
def test_huge_lambda_on_differences_is_proportional_odds(lam):
    X, y = problem(groups=2)
    fit = fit_path(X, y, torch.full((2, 1), lam), penalty=FREE, tol=1e-9)
    for g in range(2):
        ref = OrderedModel(y[g].numpy(), X[g].numpy(), distr="logit").fit(
            method="bfgs", disp=False, gtol=1e-9
        )
        cuts = ref.model.transform_threshold_params(np.asarray(ref.params))[1:-1]
        assert_close(fit.alpha[g, 0], torch.from_numpy(cuts), atol=1e-5, rtol=0)
        for k in range(3):  # statsmodels writes alpha - beta.x
            assert_close(fit.beta[g, 0, k], -torch.from_numpy(np.asarray(ref.params)[:4]), atol=1e-5, rtol=0)


def test_two_classes_without_penalty_are_logistic_regression():
    X, y = problem(groups=2, K=2)
    fit = fit_path(X, y, torch.zeros(2, 1), tol=1e-10)
    for g in range(2):
        ref = LogisticRegression(C=np.inf, tol=1e-12, max_iter=5000, solver="newton-cholesky").fit(X[g], y[g])
        assert_close(fit.beta[g, 0], -torch.from_numpy(ref.coef_), atol=1e-5, rtol=0)
        assert_close(fit.alpha[g, 0], -torch.from_numpy(ref.intercept_), atol=1e-5, rtol=0)


@pytest.mark.parametrize("first", [True, False])
def test_kkt_conditions_on_a_path(first):
    X, y = problem()
    pen = Penalty(first=first)
    lam = lambda_grid(X, y, 6, penalty=pen)
    fit = fit_path(X, y, lam, penalty=pen)
    assert fit.converged.all()
    inner = (~fit.edge).nonzero()
    assert len(inner) > 9
    zeros = 0
    for g, col in inner.tolist():
        grad, psi = score(fit, g, col, X, y)
        weight = lam[g, col] * torch.ones(3, 1)
        weight[0] = weight[0] if first else 0.0
        assert ((grad.abs() - weight)[psi == 0] <= 1e-6).all()
        assert ((grad + weight * psi.sign())[psi != 0].abs() <= 1e-6).all()
        zeros += int((psi == 0).sum())
    assert zeros > 20


def test_squared_differences_are_stationary():
    X, y = problem()
    lam = lambda_grid(X, y, 5, penalty=Penalty("l2"))
    fit = fit_path(X, y, lam, penalty=Penalty("l2"), tol=1e-9)
    for g, col in (~fit.edge).nonzero().tolist():
        grad, psi = score(fit, g, col, X, y)
        assert_close(grad, -2 * lam[g, col] * psi, atol=1e-8, rtol=0)


def test_lambda_max_is_where_the_first_slope_appears():
    X, y = problem()
    top = lambda_grid(X, y, 1)
    g = torch.stack([score(fit_path(X, y, 2 * top), i, 0, X, y)[0].abs().max() for i in range(3)])
    assert_close(top[:, 0], g, atol=1e-9, rtol=0)
    above, below = fit_path(X, y, 1.001 * top), fit_path(X, y, 0.98 * top)
    assert (above.psi == 0).all()
    assert (below.psi != 0).flatten(1).any(1).all()


def test_lambda_max_with_free_slopes():
    X, y = problem()
    top = lambda_grid(X, y, 1, penalty=FREE)
    above, below = (fit_path(X, y, f * top, penalty=FREE, tol=1e-9) for f in (1.001, 0.98))
    assert (above.psi[:, :, 1:] == 0).all()
    assert (above.psi[:, :, 0] != 0).all()
    assert (below.psi[:, :, 1:] != 0).flatten(1).any(1).all()


def test_reversed_order_of_classes():
    X, y = problem(p=3, n=500)
    a, b = fit_path(X, y, torch.zeros(3, 1), tol=1e-9), fit_path(X, 3 - y, torch.zeros(3, 1), tol=1e-9)
    assert not a.edge.any()
    assert_close(a.alpha, -b.alpha.flip(-1), atol=1e-6, rtol=0)
    assert_close(a.beta, -b.beta.flip(-2), atol=1e-6, rtol=0)


def test_objective_never_increases_and_probabilities_stay_positive():
    X, y = problem()
    lam = lambda_grid(X, y, 5)
    s = path._scaled(X, y, None, Penalty())
    l1 = lam[..., None, None] * s.weights
    run = solver.Solver(
        solver.Problems(s.X, s.y, s.w, l1, torch.zeros_like(l1)), s.null.expand_as(l1).clone()
    )
    before, more, steps = run.fit.objective.clone(), True, 0
    while more:
        more = run.step()
        now = run.fit.objective.clone()
        assert (now <= before + 1e-12)[~run.fit.edge].all()
        eta = solver.logits(run.fit.theta, s.X)
        assert (eta.diff(dim=2) > 0).all()
        before, steps = now, steps + 1
    assert steps > 3
    assert run.fit.converged.all()


def test_an_optimum_on_the_edge_of_the_domain():
    """Crossing boundaries bind: SLSQP on the constrained problem finds nothing better."""
    X, y = problem(groups=1, n=60, p=2, seed=3)
    lam = torch.tensor([[1e-3]])
    fit = fit_path(X, y, lam, penalty=Penalty("l2"))
    assert fit.edge.all()
    assert fit.converged.all()
    assert (fit.predict(X) > 0).all()
    Z = standardised(X[0])

    def value(t):
        t = torch.from_numpy(t).view(3, 3)
        v = nll(t[:, 0], t[:, 1:].cumsum(0), Z, y[0]) + 1e-3 * (t[:, 1:] ** 2).sum()
        return 1e3 if v.isnan() else float(v)

    def gaps(t):
        t = torch.from_numpy(t).view(3, 3)
        return (Z @ t[:, 1:].cumsum(0).T + t[:, 0]).diff(dim=1).flatten().numpy() - 1e-9

    start = np.array([0.0, 0, 0, 1.2, 0, 0, 2.4, 0, 0])
    ref = minimize(
        value, start, method="SLSQP", constraints={"type": "ineq", "fun": gaps}, options={"maxiter": 500}
    )
    assert abs(float(fit.objective) - ref.fun) < 1e-5
    assert gaps(ref.x).min() < 1e-5  # a constraint does bind


def test_batch_equals_single_fits_and_weight_zero_drops_a_row():
    X, y = problem()
    lam = lambda_grid(X, y, 4)
    together = fit_path(X, y, lam, tol=1e-9)
    w = torch.ones(3, 300, dtype=torch.float64)
    w[:, 250:] = 0
    weighted, cut = fit_path(X, y, lam, w, tol=1e-9), fit_path(X[:, :250], y[:, :250], lam, tol=1e-9)
    assert_close(weighted.psi, cut.psi, atol=1e-7, rtol=0)
    for g in range(3):
        for col in (0, 3):
            one = fit_path(X[g : g + 1], y[g : g + 1], lam[g : g + 1, col : col + 1], tol=1e-9)
            assert_close(one.psi[0, 0], together.psi[g, col], atol=1e-7, rtol=0)


def test_scale_and_shift_of_features_come_back():
    X, y = problem()
    lam = lambda_grid(X, y, 3)
    a, b = fit_path(X, y, lam), fit_path(10 * X - 7, y, lam)
    assert_close(b.psi, a.psi / 10, atol=1e-7, rtol=0)
    assert_close(a.predict(X), b.predict(10 * X - 7), atol=1e-6, rtol=0)


def test_rows_are_summed_in_blocks(monkeypatch):
    X, y = problem()
    lam = lambda_grid(X, y, 2)
    whole = fit_path(X, y, lam)
    monkeypatch.setattr(solver, "ROW_BLOCK", 1)
    assert_close(fit_path(X, y, lam).psi, whole.psi, atol=1e-9, rtol=0)


def test_quadratic_minimiser_against_all_sign_patterns():
    g = torch.Generator().manual_seed(1)
    N, m = 40, 4
    B = torch.randn(N, m, m, dtype=torch.float64, generator=g)
    H = B @ B.mT + 0.1 * torch.eye(m)
    x, grad = torch.randn(2, N, m, dtype=torch.float64, generator=g)
    t = torch.tensor([0.0, 0.5, 1.0, math.inf], dtype=torch.float64).expand(N, m).contiguous()
    d = quadratic.minimise_quadratic(x, grad, H, t, torch.full((N,), 1e-10, dtype=torch.float64))
    assert (x + d)[:, 3].abs().max() < 1e-12
    soft = torch.tensor([0.0, 0.5, 1.0, 0.0], dtype=torch.float64)
    best = torch.full((N,), math.inf, dtype=torch.float64)
    for s in ((a, b) for a in (-1, 0, 1) for b in (-1, 0, 1)):
        on = torch.tensor([True, s[0] != 0, s[1] != 0, False])
        e = -x.clone()
        rhs = -(grad + soft * torch.tensor([0, *s, 0]) + (H @ torch.where(on, 0.0, e)[..., None])[..., 0])
        e[:, on] = torch.linalg.solve(H[:, on][:, :, on], rhs[:, on])
        value = (
            (e * grad).sum(1) + 0.5 * (e * (H @ e[..., None])[..., 0]).sum(1) + (soft * (x + e).abs()).sum(1)
        )
        best = torch.minimum(best, value)
    ours = (d * grad).sum(1) + 0.5 * (d * (H @ d[..., None])[..., 0]).sum(1) + (soft * (x + d).abs()).sum(1)
    assert_close(ours, best, atol=1e-9, rtol=0)
    assert 5 < int(((x + d)[:, 1:3].abs() < 1e-12).sum()) < 75


@pytest.mark.parametrize(
    "bad", [torch.tensor([[0, 0, 2, 2]]), torch.tensor([[0, 0, 0, 0]])], ids=["gap", "one"]
)
def test_a_class_without_rows_is_refused(bad):
    with pytest.raises(ValueError, match=r"every class .* needs a row, data set 0 has none of class 1"):
        fit_path(torch.randn(1, 4, 2, dtype=torch.float64), bad, torch.ones(1, 1))


def test_unknown_penalty_is_refused():
    with pytest.raises(ValueError, match="'l1' or 'l2', got 'l3'"):
        Penalty("l3")


def test_probabilities_keep_rare_digits_and_are_clipped_only_where_negative():
    P = path.class_probabilities(
        torch.tensor([0.0, 40.0, 41.0]).double(), torch.zeros(3, 1).double(), torch.ones(1, 1).double()
    )
    exact = torch.tensor(
        [0.5, 0.5 - math.exp(-40), math.exp(-40) - math.exp(-41), math.exp(-41)], dtype=torch.float64
    )
    assert_close(P[0], exact, atol=0, rtol=1e-12)
    clipped, which = path.clip_probabilities(torch.tensor([[0.5, -0.5, 1.0], [0.2, 0.3, 0.5]]))
    assert_close(clipped, torch.tensor([[1 / 3, 0.0, 2 / 3], [0.2, 0.3, 0.5]]))
    assert which.tolist() == [True, False]
