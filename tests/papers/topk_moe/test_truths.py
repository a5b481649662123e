"""Truths of the top-K mixtures, float64."""

import math

import pytest
import torch
from scipy import integrate, stats
from torch.testing import assert_close

from lossatlas.papers.topk_moe import (
    Experts,
    fit,
    gate,
    hellinger,
    log_density,
    sample,
    voronoi_cells,
    voronoi_errors,
)
from lossatlas.papers.topk_moe.em import FLOOR, gate_step, round_of
from lossatlas.papers.topk_moe.model import active_set, log_gate
from lossatlas.papers.topk_moe.study import Rates

double = torch.float64


def rng(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def normal(*shape: int, seed: int = 0) -> torch.Tensor:
    return torch.randn(*shape, generator=rng(seed), dtype=double)


def mixture(k: int = 3, R: int = 4, seed: int = 1) -> Experts:
    parts = normal(5, R, k, seed=seed)
    return Experts(2 * parts[0], 3 * parts[1], 2 * parts[2], parts[3], 0.3 + parts[4].abs())


def of(*rows: list[float]) -> Experts:
    return Experts(*(torch.tensor([row], dtype=double) for row in rows))


TRUE = of([-1, 0], [2, 0], [-3, 3], [2, -2], [0.3, 0.4])
X = torch.rand(4, 50, generator=rng(), dtype=double)


# ------------------------------------------------------------------ the mixture
def test_all_experts_kept_is_the_plain_mixture_and_one_kept_is_a_choice():
    experts = mixture()
    assert_close(gate(experts, X, 3), torch.softmax(experts.logits(X), -1))
    one = gate(experts, X, 1)
    assert set(one.unique().tolist()) == {0.0, 1.0}
    assert torch.equal(one.argmax(-1), experts.logits(X).argmax(-1))
    two = gate(experts, X, 2)
    assert ((two > 0).sum(-1) == 2).all()
    assert_close(two.sum(-1), torch.ones(4, 50, dtype=double))


def test_a_line_added_to_all_logits_and_another_order_change_no_density():
    experts, y = mixture(), normal(4, 50, seed=3)
    moved = Experts(experts.b0 + 1.7, experts.b1 - 4.2, *experts.parts()[2:])
    turned = Experts(*(part[:, [2, 0, 1]] for part in experts.parts()))
    for K in (1, 2, 3):
        expected = log_density(experts, X, y, K)
        assert_close(log_density(moved, X, y, K), expected, rtol=0, atol=1e-12)
        assert_close(log_density(turned, X, y, K), expected, rtol=0, atol=1e-12)


def test_the_density_integrates_to_one():
    experts = mixture(R=1)
    y = torch.linspace(-40, 40, 40001, dtype=double)
    for x in (0.1, 0.8):
        density = log_density(experts, torch.full((1, len(y)), x, dtype=double), y[None], 2).exp()
        assert float(density.sum() * 0.002) == pytest.approx(1, abs=1e-8)


def test_samples_follow_the_gate_and_the_experts():
    x = torch.full((1, 100000), 0.3, dtype=double)
    y = sample(TRUE, x, torch.rand(1, 100000, generator=rng(), dtype=double), normal(1, 100000), 2)
    pi = torch.softmax(torch.tensor([-1 + 0.6, 0.0], dtype=double), 0)
    expected = pi[0] * (-0.9 + 2) + pi[1] * (0.9 - 2)
    assert float(y.mean()) == pytest.approx(float(expected), abs=0.02)


# ------------------------------------------------------------------ EM
def test_the_likelihood_never_falls():
    n, true = 300, mixture(3, 6, seed=5)
    x = torch.rand(6, n, generator=rng(2), dtype=double)
    y = sample(true, x, torch.rand(6, n, generator=rng(3), dtype=double), normal(6, n, seed=4), 2)
    now = Experts(*(part + 0.1 * normal(6, 3, seed=i) for i, part in enumerate(true.parts()[:4])), true.s)
    value = log_density(now, x, y, 2).sum(1)
    first = value.clone()
    for _ in range(15):
        now = round_of(x, y, now, 2)
        after = log_density(now, x, y, 2).sum(1)
        assert (after >= value - 1e-9).all()
        value = after
    assert (value > first).all()


def test_one_expert_is_least_squares_after_one_round():
    x, y = X[:2], normal(2, 50, seed=6)
    found = fit(x, y, mixture(1, 2), 1, most=1).experts
    for r in range(2):
        line = stats.linregress(x[r].numpy(), y[r].numpy())
        rest = y[r] - line.slope * x[r] - line.intercept
        assert_close(
            torch.stack([found.a[r, 0], found.c[r, 0], found.s[r, 0]]),
            torch.tensor([line.slope, line.intercept, float(rest.square().mean().sqrt())], dtype=double),
        )


def test_the_gates_gradient_is_autograds_and_the_step_is_newtons():
    experts = mixture()
    r = torch.softmax(normal(4, 50, 3, seed=7), -1)
    active = active_set(experts.logits(X), 2)
    r = torch.where(active, r, 0.0)
    r = r / r.sum(-1, keepdim=True)

    def objective(free: torch.Tensor) -> torch.Tensor:
        b0, b1 = (
            torch.cat([part, last[:, -1:]], 1)
            for part, last in zip(free.chunk(2, 1), experts.parts()[:2], strict=True)
        )
        logits = X[..., None] * b1[:, None] + b0[:, None]
        return (r * log_gate(logits, active).clamp(min=-1e300)).sum((1, 2))

    free = torch.cat([experts.b0[:, :-1], experts.b1[:, :-1]], 1).requires_grad_()
    (expected,) = torch.autograd.grad(objective(free).sum(), free, create_graph=True)
    gradient, step = gate_step(X, r, log_gate(experts.logits(X), active).exp())
    assert_close(gradient, expected.detach())
    hessian = torch.stack(
        [torch.autograd.grad(expected[:, i].sum(), free, retain_graph=True)[0] for i in range(4)], 1
    )
    newton = torch.linalg.solve(1e-6 * torch.eye(4, dtype=double) - hessian, expected.detach()[..., None])[
        ..., 0
    ]
    assert_close(step, newton / (newton.abs().amax(1, keepdim=True) / 5).clamp(min=1), rtol=1e-6, atol=1e-9)


def test_a_sample_is_fitted_as_alone():
    n, true = 200, mixture(2, 3, seed=8)
    x = torch.rand(3, n, generator=rng(9), dtype=double)
    y = sample(true, x, torch.rand(3, n, generator=rng(10), dtype=double), normal(3, n, seed=11), 2)
    together, alone = fit(x, y, true, 2), fit(x[1:2], y[1:2], Experts(*(p[1:2] for p in true.parts())), 2)
    assert int(together.rounds[1]) == int(alone.rounds[0])
    assert_close(together.log_likelihood[1:2], alone.log_likelihood)


def test_an_expert_without_points_stays_and_a_deviation_has_a_floor():
    x = torch.rand(1, 40, generator=rng(), dtype=double)
    start = of([0, -1e4], [0, 0], [2, 7], [1, 8], [0.5, 0.9])
    found = fit(x, 2 * x + 1, start, 1, most=3).experts
    assert (float(found.a[0, 1]), float(found.c[0, 1]), float(found.s[0, 1])) == (7, 8, 0.9)
    assert float(found.s[0, 0]) == FLOOR


# ------------------------------------------------------------------ losses
def test_the_truth_in_any_order_has_no_error():
    true = mixture(3, 4, seed=12)
    turned = Experts(*(part[:, [1, 2, 0]] for part in true.parts()))
    errors = voronoi_errors(turned, true)
    assert all(
        float(errors[name].abs().max()) < 1e-9
        for name in ("a", "c", "s", "experts", "gate", "D1", "D2", "empty")
    )
    assert torch.equal(voronoi_cells(turned, true), torch.tensor([1, 2, 0]).expand(4, 3))


def test_a_split_expert_leaves_the_density_and_has_no_error():
    split = of([-1, -math.log(2), -math.log(2)], [2, 0, 0], [-3, 3, 3], [2, -2, -2], [0.3, 0.4, 0.4])
    y = normal(1, 50, seed=13)
    assert_close(log_density(split, X[:1], y, 3), log_density(TRUE, X[:1], y, 2))
    errors = voronoi_errors(split, TRUE)
    assert float(errors["experts"]) == pytest.approx(0, abs=1e-12)
    assert float(errors["largest"]) == 2


def test_errors_by_hand():
    # the last true expert has two fitted ones with shares 3/4 and 1/4, the first one
    fitted = of([-0.5, math.log(3), 0], [2, 0, 0], [-3, 3.4, 3], [2.5, -2, -2.2], [0.3, 0.4, 0.5])
    errors = voronoi_errors(fitted, TRUE)
    assert float(errors["a"]) == pytest.approx(0.75 * 0.4)
    assert float(errors["c"]) == pytest.approx(0.5 + 0.25 * 0.2)
    assert float(errors["s"]) == pytest.approx(0.25 * 0.1)
    assert float(errors["last"]) == pytest.approx(0.3 + 0.05 + 0.025)
    weights = [
        math.exp(-0.5),
        3,
        1,
    ]  # logits are measured from the third, which is nearest to the last true expert
    mass = abs(weights[0] - math.exp(-1)) + abs(weights[1] + weights[2] - 1)
    assert float(errors["D1"]) == pytest.approx(weights[0] * 0.5 + 3 * 0.4 + 1 * 0.3 + mass)
    assert float(errors["D2"]) == pytest.approx(weights[0] * 0.5 + 3 * 0.4**2 + (0.2**4 + 0.1**2) + mass)


def test_hellinger_is_scipys():
    one, other = of([0], [0], [1], [0], [0.5]), of([0], [0], [1.5], [0.2], [0.8])
    assert float(hellinger(one, 1, one, 1)) == 0
    assert_close(hellinger(one, 1, other, 1), hellinger(other, 1, one, 1))

    def at(x: float) -> float:
        f, g = stats.norm(x, 0.5), stats.norm(1.5 * x + 0.2, 0.8)
        squared, _ = integrate.quad(lambda y: 0.5 * (math.sqrt(f.pdf(y)) - math.sqrt(g.pdf(y))) ** 2, -8, 9)
        return math.sqrt(squared)

    expected = sum(at((i + 0.5) / 16) for i in range(16)) / 16
    assert float(hellinger(one, 1, other, 1)) == pytest.approx(expected, abs=1e-4)
    assert float(hellinger(one, 1, of([0], [0], [1], [40], [0.5]), 1)) == pytest.approx(1)


# ------------------------------------------------------------------ the study, bad input
def study(**more) -> Rates:
    truth = {"b0": [-1, 0], "b1": [2, 0], "a": [-3, 3], "c": [2, -2], "s": [0.3, 0.4], "K": 2}
    return Rates(None, **{"truth": truth, "fitted": {"k": 2, "K": 2}, "sizes": [64, 512], "seeds": 3, **more})


def test_more_points_are_nearer_to_the_truth_and_the_start_does_not_see_them():
    found = {cell["n"]: values for cell, values in study(also=[1]).solve({}, [0, 1, 2])}
    assert found[512]["hellinger"].mean() < found[64]["hellinger"].mean()
    assert not torch.equal(found[512]["hellinger"], found[512]["hellinger_1"])
    start = study(most=0).solve({}, [0, 1, 2])
    assert torch.equal(start[0][1]["hellinger"], start[1][1]["hellinger"])


def test_copies_share_the_last_experts_weight():
    start = study(fitted={"k": 4, "K": 4}, noise={"b": 0.0, "experts": 0.0, "s": 0.0}).start([0])
    y = normal(1, 50, seed=14)
    assert_close(log_density(start, X[:1], y, 4), log_density(TRUE, X[:1], y, 2))


@pytest.mark.parametrize(
    ("call", "text"),
    [
        (lambda: Experts(*TRUE.parts()[:4], TRUE.s * 0), "s > 0"),
        (lambda: Experts(*TRUE.parts()[:4], TRUE.s[:, :1]), r"five tensors \(R, k\)"),
        (lambda: Experts(TRUE.b0 * math.nan, *TRUE.parts()[1:]), "finite parameters"),
        (lambda: gate(TRUE, X[:1], 3), "K=3 of k=2"),
        (lambda: gate(TRUE, X[:1], 0), "K=0"),
        (lambda: fit(X[:1], X[:1, :9], TRUE, 2), "finite x and y"),
        (lambda: fit(X[:1] * math.nan, X[:1], TRUE, 2), "finite x and y"),
        (lambda: fit(X[:2], X[:2], TRUE, 2), "R starts"),
        (lambda: fit(X[:1], X[:1], TRUE, 2, most=0), "most >= 1"),
        (lambda: study(fitted={"k": 1, "K": 1}), "at least the 2 true experts"),
        (lambda: study(fitted={"k": 3, "K": 4}), "K=4 of k=3"),
        (lambda: study(sizes=[512, 64]), "sizes must increase"),
    ],
)
def test_bad_input_is_refused_in_one_line(call, text):
    with pytest.raises(ValueError, match=text) as refused:
        call()
    assert "\n" not in str(refused.value)
