"""The environments: totals, means, comparators; the bound of eq. 2 in every cell; narrowed studies."""

import pytest
import torch
from torch.nn.functional import softplus
from torch.testing import assert_close

from lossatlas.errors import UserError
from lossatlas.papers.sea_omd.problems import (
    E_NOISE,
    Blocks,
    Logistic,
    Quadratic,
    Regression,
    best_logistic,
    block_means,
    draw_features,
    random_curvature,
)
from lossatlas.papers.sea_omd.study import Bridge, Dynamic, StronglyConvex, make_learner, measure


def gen(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def test_totals_of_blocks():
    T, phase = 200, torch.rand(8, generator=gen())
    for B in (1, 3, 16):
        c = block_means(B, phase, T)
        switches = (c[:, 1:] != c[:, :-1]).sum(1)
        assert (switches - T / B).abs().max() <= 1
        noise, drift = Blocks(c, 0 * c, torch.full((8,), 0.5).double()).totals(T)
        assert_close(drift, 4.0 * switches.double())
        assert_close(noise, torch.full((8,), 0.25 * T).double())


def test_phases_are_uniform_over_both_signs():
    c = block_means(4, torch.arange(8) / 8, 16)
    assert c[:, 0].tolist() == [1.0] * 4 + [-1.0] * 4
    assert len({tuple(row.tolist()) for row in c}) == 8


def test_regret_of_blocks_by_brute_force():
    c = block_means(3, torch.tensor([0.1, 0.6]), 10)
    problem = Blocks(c, 0 * c, torch.zeros(2).double())
    played = torch.rand(10, 2, 1, dtype=torch.float64, generator=gen()) * 2 - 1
    u = torch.linspace(-1, 1, 2001, dtype=torch.float64)
    best = (c.sum(1)[:, None] * u).amin(1)
    assert_close(problem.regret(played, 10), (c * played[..., 0].T).sum(1) - best, atol=1e-9, rtol=0)
    moving = Blocks(c, 0 * c, torch.zeros(2).double(), moving=True)
    assert_close(moving.regret(played, 10), (c * played[..., 0].T).sum(1) + 10.0, atol=1e-9, rtol=0)


def test_single_losses_of_the_third_setting_are_not_convex_but_their_mean_is():
    E = random_curvature(20_000, gen())
    eye = torch.eye(3, dtype=torch.float64)
    assert (torch.linalg.eigvalsh(eye + E)[:, 0] < -0.99).all()
    assert E.mean(0).abs().max() < 0.05
    x = torch.tensor([0.6, 0.0, 0.8], dtype=torch.float64)
    assert (E @ x).square().sum(1).mean() == pytest.approx(E_NOISE, rel=0.02)


def test_gradient_and_regret_of_quadratics():
    noise = torch.randn(5, 8, 3, dtype=torch.float64, generator=gen())
    E = random_curvature(5 * 8, gen()).view(5, 8, 3, 3)
    problem = Quadratic(noise, 1.0, amp=1.0, curvature=E)
    assert problem.m[:3, 0].tolist() == pytest.approx([0.1, 0.5, 0.1])
    x = torch.randn(5, 3, dtype=torch.float64, generator=gen(1)).requires_grad_()
    f = 0.5 * (x - problem.m[2]).square().sum() + 0.5 * (x * (E[:, 2] @ x[..., None])[..., 0]).sum()
    (g,) = torch.autograd.grad(f + (x * noise[:, 2]).sum(), x)
    assert_close(problem.gradient(2, x.detach()), g)
    still = problem.m.mean(0).expand(8, 5, 3)
    assert_close(problem.regret(still, 8), torch.zeros(5, dtype=torch.float64), atol=1e-12, rtol=0)
    assert problem.totals(8)[1][0].item() == pytest.approx(7 * 0.16)


def test_regret_of_regression_is_that_of_the_mean_loss():
    a = draw_features(200_000, gen(5))
    target = torch.tensor([[0.36, 0.48, 0.0]], dtype=torch.float64)
    problem = Regression(a[None, :4], torch.zeros(1, 4, dtype=torch.float64), target)
    w = torch.tensor([0.1, -0.3, 0.5], dtype=torch.float64)
    sampled = 0.5 * ((a @ (w - target[0])) ** 2).mean()  # y's noise is independent of a and cancels
    assert problem.regret(w.expand(1, 1, 3), 1).item() == pytest.approx(sampled.item(), rel=0.01)
    assert (a.norm(dim=1) <= 1 + 1e-12).all()


def test_best_logistic_satisfies_the_conditions_of_optimality():
    a = torch.randn(3, 300, 5, dtype=torch.float64, generator=gen())
    a[1] = a[1].abs()  # separable: the point lies on the sphere
    w = best_logistic(a, 2.0)
    g = -(a * torch.sigmoid(-(a @ w[..., None]))).sum(1)
    norm = w.norm(dim=1)
    assert norm[1].item() == pytest.approx(2.0, abs=1e-6)
    assert norm[0] < 1.9
    assert g[0].norm() < 1e-5
    assert_close(g[1] / g[1].norm(), -w[1] / 2.0, atol=1e-6, rtol=0)
    other = torch.nn.functional.normalize(torch.randn(3, 5, dtype=torch.float64, generator=gen(2)), dim=1) * 2
    value = [softplus(-(a @ v[..., None])[..., 0]).sum(1) for v in (w, other)]
    assert (value[0] < value[1]).all()


def test_logistic_gradient():
    x, y = torch.randn(20, 4, dtype=torch.float64, generator=gen()), torch.ones(20, dtype=torch.float64)
    y[::3] = -1
    problem = Logistic(x, y, torch.arange(20)[None])
    w = torch.randn(1, 4, dtype=torch.float64, generator=gen(1)).requires_grad_()
    (g,) = torch.autograd.grad(softplus(-y[6] * (x[6] * w).sum()), w)
    assert_close(problem.gradient(6, w.detach()), g)


def test_the_bound_of_equation_2_holds_in_every_cell():
    study = Bridge(
        None, learner="oomd", rounds_at=[512], blocks=[1, 2, 4, 8, 16, 64], sigmas=[0.0, 0.25, 1.0], seeds=10
    )
    shares = [found["of_bound"] for _, found in study.solve({}, study.seeds)]
    for setting in ("quadratic", "nonconvex"):
        for amp in (0.0, 1.0):
            strong = StronglyConvex(None, learner="oomd", rounds_at=[512], seeds=10)
            shares += [
                found["of_bound"] for _, found in strong.solve({"setting": setting, "amp": amp}, strong.seeds)
            ]
    shares = torch.stack(shares)
    assert shares.shape == (22, 10)
    assert (shares < 1).all()


def test_known_regrets():
    """Figures of the sheet's own trials, at the same rounds: eq. 2 at T = 8192, sigma = 0."""
    study = Bridge(None, learner="oomd", rounds_at=[8192], blocks=[1, 8], sigmas=[0.0], seeds=3)
    regret = {cell["B"]: found["regret"].mean().item() for cell, found in study.solve({}, study.seeds)}
    assert regret[1] == pytest.approx(268, abs=1)
    assert regret[8] == pytest.approx(-155, abs=6)


def test_metrics():
    problem = Blocks(block_means(1, torch.zeros(2), 16), torch.zeros(2, 16).double(), torch.zeros(2).double())
    found = measure(problem, torch.zeros(16, 2, 1).double(), 16)
    assert found["regret"].tolist() == [0.0, 0.0]
    assert found["drift"].tolist() == [60.0, 60.0]
    still = Blocks(torch.ones(1, 16).double(), torch.zeros(1, 16).double(), torch.zeros(1).double())
    assert (
        measure(still, torch.zeros(16, 1, 1).double(), 16)["ratio"].isnan().all()
    )  # neither noise nor drift


def test_a_narrowed_study_gives_the_same_numbers():
    whole = Dynamic(
        None, learner="oomd_ensemble", rounds_at=[40, 80], seeds=3, conditions={"drift": ["blocks"]}
    )
    alone = Dynamic(
        None, learner="oomd_ensemble", rounds_at=[40, 80], seeds=1, seed=2, conditions={"drift": ["blocks"]}
    )
    for cell in whole.cells():
        assert_close(
            whole.solve(cell, [0, 1, 2])["regret"][2:], alone.solve(cell, [2])["regret"], atol=0, rtol=0
        )


def test_refusals():
    problem = Blocks(torch.ones(1, 4).double(), torch.zeros(1, 4).double(), torch.zeros(1).double())
    with pytest.raises(UserError, match="did you mean oomd"):
        make_learner("oomdd", problem, 4)
    with pytest.raises(ValueError, match="increasing"):
        Bridge(None, learner="oomd", rounds_at=[8, 4], blocks=[1], sigmas=[0.0])
    with pytest.raises(UserError, match="setting is"):
        StronglyConvex(None, learner="oomd", rounds_at=[8]).solve({"setting": "convex", "amp": 0.0}, [0])
