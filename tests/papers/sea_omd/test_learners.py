"""Truths of the learners, float64: special cases of the theory, expected values written apart from the code."""

import itertools
import math

import pytest
import torch
from torch.testing import assert_close

from lossatlas.papers.sea_omd import OFTRL, Descent, Ensemble, Newton, OptimisticDescent
from lossatlas.papers.sea_omd.ensemble import base_rates
from lossatlas.papers.sea_omd.learners import adagrad_rate, convex_rate, run, sqrt_rate, strong_rate
from lossatlas.papers.sea_omd.projections import project_ball, project_ball_in_norm

R, T, D, G = 4, 60, 2.0, 2.0
START = torch.zeros(R, 3, dtype=torch.float64)


def randn(*shape: int, seed: int = 0) -> torch.Tensor:
    return torch.randn(*shape, dtype=torch.float64, generator=torch.Generator().manual_seed(seed))


def line(z: torch.Tensor) -> torch.Tensor:
    return z.clamp(-1, 1)


def play(learner, gradients):
    return run(learner, lambda t, x: gradients[t].expand_as(x), len(gradients))


def test_equal_linear_losses_cost_the_same_after_any_number_of_rounds():
    g = torch.full((1, 1), 0.7, dtype=torch.float64)
    regrets, start = [], torch.zeros(1, 1, dtype=torch.float64)
    for rounds in (200, 2000):
        learner = OptimisticDescent(start, convex_rate(D, G), line)
        played = play(learner, g.expand(rounds, 1, 1))
        regrets.append(float((0.7 * (played + 1)).sum()))
        assert_close(learner.V, torch.full((1, 1), 0.49, dtype=torch.float64))  # the first gradient alone
    assert regrets[0] == pytest.approx(regrets[1], abs=1e-12)
    assert regrets[0] > 0


def test_steps_of_equation_2_by_hand():
    g = randn(3, 1, 3) * 0.1
    learner = OptimisticDescent(START[:1], convex_rate(D, G, L=0.5), lambda z: z)
    x = play(learner, g)
    delta = 10 * 4 * 0.25

    def eta(t: int) -> float:  # of round t from 1: sums the squared steps up to t - 1
        seen = [torch.zeros(1, 3, dtype=torch.float64), *g]
        V = sum(float((b - a).square().sum()) for a, b in itertools.pairwise(seen[:t]))
        return D / math.sqrt(delta + 4 * G**2 + V)

    xhat2 = -eta(1) * g[0]
    xhat3 = xhat2 - eta(2) * g[1]
    assert_close(x[0], START[:1])
    assert_close(x[1], xhat2 - eta(2) * g[0], atol=1e-14, rtol=0)
    assert_close(x[2], xhat3 - eta(3) * g[1], atol=1e-14, rtol=0)


def test_without_hint_and_with_a_constant_rate_it_is_gradient_descent():
    g = randn(T, R, 3)
    learner = OptimisticDescent(START, lambda t, V: 0.1, project_ball, hint=False)
    assert_close(play(learner, g), play(Descent(START, lambda t, S: 0.1, project_ball), g), atol=0, rtol=0)
    assert torch.equal(learner.x, learner.xhat)


def test_without_a_boundary_it_is_optimistic_ftrl():
    g = randn(T, R, 3)

    def constant(t, V):
        return 0.05

    omd = play(OptimisticDescent(START, constant, lambda z: z), g)
    assert_close(omd[-1], -0.05 * (g[:-1].sum(0) + g[-2]), atol=1e-12, rtol=0)
    assert_close(omd, play(OFTRL(START, constant, lambda z: z), g), atol=1e-12, rtol=0)
    inside = [play(kind(START, constant, project_ball), 5 * g) for kind in (OptimisticDescent, OFTRL)]
    assert (inside[0] - inside[1]).abs().max() > 0.01


def test_scaling_losses_and_bound_changes_no_point():
    g, s = randn(T, R, 3), 7.0
    one = play(OptimisticDescent(START, convex_rate(D, G, L=0.3), project_ball), g)
    other = play(OptimisticDescent(START, convex_rate(D, s * G, L=s * 0.3), project_ball), s * g)
    assert_close(one, other, atol=1e-12, rtol=0)


def test_rates():
    assert strong_rate(0.5)(4, torch.zeros(1)) == 1.0
    assert sqrt_rate(2.0, 4.0)(9, torch.zeros(1)) == pytest.approx(2 / 12)
    S = torch.tensor([0.0, 8.0], dtype=torch.float64)
    assert_close(
        adagrad_rate(2.0)(1, S), torch.tensor([0.0, 0.5], dtype=torch.float64)
    )  # no division by zero


def test_squared_steps_of_the_gradients_are_bounded_by_noise_and_drift():
    mean, noise = randn(1, R, 3).repeat(T, 1, 1), randn(T, R, 3, seed=1)
    mean = mean + randn(T, R, 3, seed=2).cumsum(0) * 0.1
    g = mean + noise
    steps = g.diff(dim=0).square().sum(-1)
    drift = mean.diff(dim=0).square().sum(-1)
    n2 = noise.square().sum(-1)
    assert (steps <= 3 * (n2[1:] + n2[:-1] + drift) + 1e-12).all()


def spd(n: int, d: int) -> torch.Tensor:
    a = randn(n, d, d, seed=3)
    return a @ a.mT + 0.1 * torch.eye(d, dtype=torch.float64)


def test_projection_in_the_norm_of_h():
    z, H = 3 * randn(200, 5, seed=4), spd(200, 5)
    x = project_ball_in_norm(z, H)
    assert (x.norm(dim=1) <= 1 + 1e-10).all()
    pull = (H @ (z - x)[..., None])[..., 0]  # = mu x with mu >= 0
    mu = (pull * x).sum(1)
    assert (mu >= -1e-9).all()
    assert_close(pull, mu[:, None] * x, atol=1e-7, rtol=1e-7)
    inside = 0.2 * z / z.norm(dim=1, keepdim=True)
    assert torch.equal(project_ball_in_norm(inside, H), inside)
    eye = torch.eye(5, dtype=torch.float64).expand(200, 5, 5)
    assert_close(
        project_ball_in_norm(z, eye), z / z.norm(dim=1, keepdim=True).clamp(min=1), atol=1e-10, rtol=0
    )
    far = project_ball_in_norm(1e6 * z, H)
    assert_close(far.norm(dim=1), torch.ones(200, dtype=torch.float64), atol=1e-9, rtol=0)


def test_newton_in_one_dimension_is_a_step_of_one_over_h():
    g = randn(30, R, 1) * 0.05
    learner, beta, bound = Newton(START[:, :1], 0.5, 1.0), 0.5, 1.0
    xhat, H = torch.zeros(R, 1, dtype=torch.float64), 1 + beta / 2 * bound**2
    for t in range(30):
        before = learner.H
        learner.update(g[t])
        xhat = (xhat - g[t] / H).clamp(-1, 1)
        H = H + beta / 2 * g[t].square()
        assert_close(learner.x, (xhat - g[t] / H).clamp(-1, 1), atol=1e-12, rtol=0)
        assert (torch.linalg.eigvalsh(learner.H - before) >= -1e-12).all()  # increasing


def test_ensemble_of_one_is_its_base_learner_and_equal_ones_stay_uniform():
    g = randn(T, R, 3) * 0.3
    alone = play(OptimisticDescent(START, lambda t, V: 0.2, project_ball), g)
    one = play(Ensemble(START, torch.tensor([0.2], dtype=torch.float64), project_ball, D, G), g)
    assert_close(one, alone, atol=1e-12, rtol=0)
    same = Ensemble(START, torch.full((3,), 0.2, dtype=torch.float64), project_ball, D, G, L=0.5)
    assert_close(play(same, g), alone, atol=1e-12, rtol=0)
    assert_close(same.p, torch.full((R, 3), 1 / 3, dtype=torch.float64))


def test_ensemble_weighs_by_the_losses_and_the_hint():
    g = randn(2, 1, 3) * 0.3
    rates = torch.tensor([0.1, 0.4], dtype=torch.float64)
    learner = Ensemble(START[:1], rates, project_ball, D, G, L=0.25)
    learner.update(g[0])
    x2 = -rates[:, None] * g[0] * 2  # step and hint's step of each, inside the ball
    V1, kappa = float(g[0].square().sum()), 0.5
    hint = x2 @ g[0][0] + kappa * x2.square().sum(1)  # l_1 = 0, since all began at 0
    eps = math.sqrt(2 * math.log(2)) / math.sqrt(G**2 * D**2 + D**2 / 4 * V1)
    p = torch.softmax(-eps * hint, 0)
    assert_close(learner.p[0], p, atol=1e-12, rtol=0)
    assert_close(learner.x[0], p @ x2, atol=1e-12, rtol=0)
    learner.update(g[1])
    assert_close(learner.total[0], x2 @ g[1][0] + kappa * x2.square().sum(1), atol=1e-12, rtol=0)
    assert_close(learner.p.sum(-1), torch.ones(1, dtype=torch.float64))


def test_base_rates():
    rates = base_rates(2.0, 1.0, T=1024, L=1.0)
    assert len(rates) == 7  # half of log2 T and two more
    assert rates[0] == pytest.approx(1 / 32)
    assert rates.max() == 1 / 8  # capped
    assert_close(base_rates(2.0, 1.0, T=1024).log2().diff(), torch.ones(6, dtype=torch.float64))


@pytest.mark.parametrize(
    ("make", "line"),
    [
        (lambda: convex_rate(0.0, 1.0), "D must be"),
        (lambda: strong_rate(float("nan")), "lambda_ must be"),
        (lambda: Newton(START, -1.0, 1.0), "beta must be"),
        (lambda: base_rates(2.0, float("inf"), 100), "G must be"),
        (lambda: run(Descent(START, sqrt_rate(D, G), project_ball), lambda t, x: x[:2], 3), "shape"),
        (lambda: run(Descent(START, sqrt_rate(D, G), project_ball), lambda t, x: x / 0, 3), "round 2"),
    ],
)
def test_refusals(make, line):
    with pytest.raises(ValueError, match=line):
        make()
