"""The log-linear study: draws, solver against scipy, measures by hand, the run's units, refused input."""

import numpy as np
import pytest
import torch
from scipy.optimize import NonlinearConstraint, minimize
from torch.testing import assert_close

from lossatlas.papers.rdpo import CDPO, DPO, IPO, RDPO
from lossatlas.papers.rdpo.linear_study import LogLinear
from lossatlas.papers.rdpo.loglinear import draw, into_ball, measures, minimise, objective

torch.set_num_threads(1)
EPS = torch.tensor([0.0, 0.2, 0.4], dtype=torch.float64)


def losses(make):
    return torch.tensor([make(1.0, float(e)).tilt for e in EPS], dtype=torch.float64)


def test_a_draw_depends_on_seed_and_size_of_the_whole_only():
    long, short = draw(3, 4, 512, pairs=512), draw(3, 4, 64, pairs=512)
    assert torch.equal(long.x[:64], short.x)
    assert torch.equal(long.given(EPS)[:, :64], short.given(EPS))
    assert torch.equal(long.theta_true, short.theta_true)
    assert not torch.equal(draw(4, 4, 64, pairs=512).x, short.x)
    assert_close(long.theta_true.norm(), torch.tensor(0.5, dtype=torch.float64))
    assert (long.x.norm(dim=1) > 0).all()  # two different actions


def test_preferences_are_bradley_terry_and_flips_nest():
    p = draw(0, 3, 200_000)
    expected = (2 * torch.sigmoid(p.x @ p.theta_true) - 1) @ p.x / len(p.x)
    assert_close(p.y @ p.x / len(p.x), expected, atol=0.02, rtol=0)
    given = p.given(EPS)
    share = (given != p.y).double().mean(1)
    assert_close(share, EPS, atol=0.005, rtol=0)
    assert torch.equal(given[0], p.y)
    assert ((given[1] != p.y) <= (given[2] != p.y)).all()  # flipped at .2 is flipped at .4


@pytest.mark.parametrize("make", [DPO, CDPO, RDPO])
def test_solver_finds_scipys_constrained_minimum(make):
    p, tilt = draw(1, 4, 300), losses(make)
    given = p.given(EPS)
    theta = minimise(p.x, given, tilt, radius=1.0, iterations=300)
    value = objective(theta, p.x, given, tilt)
    inside = NonlinearConstraint(lambda v: v @ v, -np.inf, 1.0)
    for c in range(len(EPS)):

        def loss(v, c=c):
            h = (given[c] * (p.x @ torch.from_numpy(v))).numpy()
            return float(np.logaddexp(0, -h).mean() + float(tilt[c]) * h.mean())

        found = minimize(loss, np.zeros(4), method="SLSQP", constraints=[inside], options={"ftol": 1e-14})
        assert_close(theta[c], torch.from_numpy(found.x), atol=1e-4, rtol=0)
        assert abs(float(value[c]) - found.fun) < 1e-9


def test_sixty_steps_are_enough():
    p, tilt = draw(0, 20, 4096), losses(RDPO)
    given = p.given(EPS)
    assert_close(minimise(p.x, given, tilt), minimise(p.x, given, tilt, iterations=1000), atol=1e-7, rtol=0)


def test_the_ball_is_needed_at_a_high_rate():
    """Few pairs at eps = .4: without a tight ball the minimiser runs to the border of any."""
    p, tilt = draw(2, 5, 100), losses(RDPO)
    for radius in (1.0, 30.0):
        theta = minimise(p.x, p.given(EPS), tilt, radius=radius, iterations=4000)
        assert_close(float(theta[2].norm()), radius)


def test_into_ball():
    points = torch.tensor([[3.0, 4.0], [0.3, 0.4], [0.0, 0.0]], dtype=torch.float64)
    expected = torch.tensor([[0.6, 0.8], [0.3, 0.4], [0.0, 0.0]], dtype=torch.float64)
    assert_close(into_ball(points, 1.0), expected)


def test_measures_by_plain_arithmetic():
    p = draw(5, 3, 1, prompts=7, actions=4)
    theta = torch.stack([p.theta_true, torch.tensor([0.4, -1.0, 0.2], dtype=torch.float64)])
    found = measures(theta, p)
    error, gap, greedy = 0.0, 0.0, 0.0
    for phi in p.phi.numpy():
        reward, score = phi @ p.theta_true.numpy(), phi @ theta[1].numpy()
        pi, best = np.exp(score) / np.exp(score).sum(), np.exp(reward) / np.exp(reward).sum()

        def value(q, reward=reward):  # reward less the KL from the uniform policy
            return (q * reward).sum() - (q * np.log(q * len(q))).sum()

        gap += (value(best) - value(pi)) / 7
        greedy += (reward.max() - reward[score.argmax()]) / 7
        away = phi @ (theta[1] - p.theta_true).numpy()
        error += sum((away[a] - away[b]) ** 2 for a in range(4) for b in range(4) if a != b) / 12 / 7
    assert_close(float(found["error"][1]), error**0.5)
    assert_close(float(found["gap"][1]), gap)
    assert_close(float(found["greedy_gap"][1]), greedy)
    for name in ("error", "gap", "greedy_gap"):
        assert abs(float(found[name][0])) < 1e-12
    assert_close(float(found["norm"][0]), 0.5)


def study(loss=RDPO, **more):
    settings = {"dims": [2, 3], "sizes": [32, 64], "rates": [0.0, 0.2], "wrong": [[0.2, 0.1]], "seed": 7}
    return LogLinear(loss=loss, prompts=5, **{**settings, **more})


def test_units_are_the_solutions_of_their_conditions():
    module = study()
    module.play(torch.arange(4))
    units = {tuple(u["condition"].values()): u["metrics"] for u in module.unit_metrics()}
    assert len(units) == len(module.unit_metrics()) == 2 * (2 + 3)  # wrong rates at the largest n only
    p = draw(7, 3, 64, prompts=5)
    for eps, assumed, name in ((0.2, 0.2, "right"), (0.2, 0.1, "0.1"), (0.0, 0.0, "right")):
        tilt = torch.tensor([-assumed / (1 - 2 * assumed)], dtype=torch.float64)
        theta = minimise(p.x, p.given(torch.tensor([eps], dtype=torch.float64)), tilt)
        expected = {key: float(v[0]) for key, v in measures(theta, p).items()}
        got = units[(3, 64, eps, name)]
        assert {key: got[key] for key in expected} == pytest.approx(expected, rel=1e-9)
    ratio = units[(3, 64, 0.2, "right")]["error"] * 0.6 / units[(3, 64, 0.0, "right")]["error"]
    assert units[(3, 64, 0.2, "right")]["noise_factor"] == pytest.approx(ratio)
    assert module.results()["test/gap"] == units[(2, 64, 0.2, "right")]["gap"]


def test_rounds_can_be_played_in_any_chunks():
    whole, parts = study(), study()
    whole.play(torch.arange(4))
    for k in range(4):
        parts.play(torch.tensor([k]))
    assert torch.equal(whole.theta, parts.theta)


@pytest.mark.parametrize(
    ("more", "text"),
    [
        ({"rates": [0.0, 0.5]}, r"flip rates lie in \[0, 1/2\)"),
        ({"rates": [-0.1]}, r"flip rates lie in \[0, 1/2\)"),
        ({"wrong": [[0.5, 0.1]]}, r"flip rates lie in \[0, 1/2\)"),
        ({"sizes": []}, "at least one value"),
        ({"sizes": [0]}, "n, prompts >= 1"),
        ({"norm": 0.0}, "finite norm > 0"),
        ({"loss": IPO}, "partials of DPO, CDPO and RDPO"),
        ({"loss": None}, "partials of DPO, CDPO and RDPO"),
    ],
    ids=str,
)
def test_refused_settings(more, text):
    with pytest.raises(ValueError, match=text):
        study(**more)


def test_pairs_that_say_nothing_are_refused():
    y, tilt = torch.ones(1, 3, dtype=torch.float64), torch.zeros(1, dtype=torch.float64)
    with pytest.raises(ValueError, match="chosen equals rejected in every pair"):
        minimise(torch.zeros(3, 2, dtype=torch.float64), y, tilt)
    with pytest.raises(ValueError, match="no preference pairs"):
        minimise(torch.zeros(0, 2, dtype=torch.float64), y[:, :0], tilt)
    with pytest.raises(ValueError, match="finite radius > 0"):
        minimise(torch.ones(3, 2, dtype=torch.float64), y, tilt, radius=0.0)
