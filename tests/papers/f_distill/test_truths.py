"""f-distill: weights, the gradient formula by quadrature, stationary points, who gets gradients, refused input."""

import copy
import math

import numpy as np
import pytest
import torch
import yaml
from hydra.utils import instantiate
from torch.testing import assert_close

from lossatlas.diffusion import Mixture, log_uniform, score_matching_loss
from lossatlas.papers.f_distill import (
    ForwardKL,
    Jeffreys,
    JensenShannon,
    LitDistill,
    LitGauss,
    Points,
    ReverseKL,
    SoftenedReverseKL,
    SquaredHellinger,
    generator_loss,
    logistic_loss,
    saturation_free_loss,
    update_weight,
)
from lossatlas.papers.f_distill.moments import add_moments, log_second_moment
from lossatlas.papers.f_distill.points import mode_metrics
from lossatlas.paths import conf_dir
from lossatlas.replicas import ReplicaMLP
from lossatlas.seeding import stream

SIX = (ReverseKL, ForwardKL, JensenShannon, SquaredHellinger, Jeffreys, SoftenedReverseKL)
each = pytest.mark.parametrize("divergence", [kind() for kind in SIX], ids=lambda d: type(d).__name__)
f64 = torch.float64


# ---------------------------------------------------------------- eq. 2
@each
def test_h_is_r_squared_times_the_second_derivative_of_f(divergence):
    r = torch.logspace(-3, 3, 50, dtype=f64, requires_grad=True)
    (first,) = torch.autograd.grad(divergence.f(r).sum(), r, create_graph=True)
    (second,) = torch.autograd.grad(first.sum(), r)
    h = divergence.h(r.detach().log())
    assert_close(h, r.detach() ** 2 * second, rtol=1e-9, atol=1e-12)
    assert (h >= 0).all()
    assert abs(float(divergence.f(torch.ones(1, dtype=f64)))) < 1e-15


def test_h_at_equal_densities():
    found = [float(kind().h(torch.zeros(1, dtype=f64))) for kind in SIX]
    assert found == pytest.approx([1, 1, 0.5, 0.25, 2, 0.5], rel=1e-15)


@each
def test_h_and_its_logarithm_at_extreme_ratios(divergence):
    log_r = torch.tensor([-1e4, -700.0, 0.0, 700.0, 1e4], dtype=f64)
    assert torch.isfinite(divergence.log_h(log_r)).all()
    _, weight = update_weight(divergence, log_r[None].float(), clip=6.0)
    assert torch.isfinite(weight).all()
    assert_close(weight.mean(), torch.tensor(1.0))


def test_every_arm_of_the_experiments_is_one_of_the_six():
    for name in ("gauss", "modes"):
        arms = yaml.safe_load((conf_dir() / "experiment" / f"f_distill_{name}.yaml").read_text())["arms"]
        kinds = {arm: type(instantiate(node)) for arm, node in arms.items()}
        names = ("rkl", "fkl", "js", "hellinger", "jeffreys", "srkl")
        assert kinds == dict(zip(names, SIX, strict=True))


# ---------------------------------------------------------------- eq. 1
def normal(x, m, s):
    return torch.exp(-((x - m) ** 2) / (2 * s**2)) / (s * math.sqrt(2 * math.pi))


def formula(divergence, p, m, s, sigma=0.0):
    """d/dm and d/ds by eq. 1 as the generator computes it, the expectation over z and e by quadrature, w = 1."""
    z = torch.linspace(-12, 12, 6001, dtype=f64)
    weights = normal(z, 0.0, 1.0) * (z[1] - z[0])
    m, s = (torch.tensor(v, dtype=f64, requires_grad=True) for v in (m, s))
    total = torch.zeros((), dtype=f64)
    # E over e for given z enters eq. 1 linearly, dG/dtheta depends on z alone: 40 Gauss-Hermite nodes
    nodes, shares = np.polynomial.hermite_e.hermegauss(40) if sigma else (np.zeros(1), np.ones(1))
    q = Mixture([[0.4]], [1.0], 1.0, f64)
    q.means[:], q.sd[:] = m.detach(), s.detach()
    at = torch.full((len(z), 1), sigma, dtype=f64)
    for node, share in zip(nodes, shares / shares.sum(), strict=True):
        x = (m + s * z)[:, None]
        x_t = (x + sigma * node).detach()
        log_r = p.log_density(x_t, at) - q.log_density(x_t, at)
        h, _ = update_weight(divergence, log_r[None], clip=1e3, normalise="none")
        difference = p.score(x_t, at) - q.score(x_t, at)
        total = total + share * (weights * generator_loss(x, difference, h[0])).sum()
    return torch.stack(torch.autograd.grad(total, [m, s]))


def derivative(divergence, m, s):
    """d/dm and d/ds of D_f(N(0, 1) || N(m, s^2)), the integral written out and differentiated by autograd."""
    x = torch.linspace(-14, 14, 20001, dtype=f64)
    m, s = (torch.tensor(v, dtype=f64, requires_grad=True) for v in (m, s))
    q = normal(x, m, s)
    r = torch.exp(-(x**2) / 2 + (x - m) ** 2 / (2 * s**2)) * s
    value = (q * divergence.f(r)).sum() * (x[1] - x[0])
    return torch.stack(torch.autograd.grad(value, [m, s]))


@each
@pytest.mark.parametrize(("m", "s"), [(0.4, 0.8), (-0.7, 1.3)])
def test_gradient_formula_by_quadrature(divergence, m, s):
    p = Mixture([[0.0]], [1.0], 1.0, f64)
    assert_close(formula(divergence, p, m, s), derivative(divergence, m, s), rtol=1e-6, atol=0)


def test_gradients_of_both_kls_in_closed_form():
    p = Mixture([[0.0]], [1.0], 1.0, f64)
    m, s = 0.4, 0.8  # KL(q || p) and KL(p || q) of normals
    reverse = torch.tensor([m, s - 1 / s], dtype=f64)
    forward = torch.tensor([m / s**2, 1 / s - (1 + m**2) / s**3], dtype=f64)
    assert_close(formula(ReverseKL(), p, m, s), reverse, rtol=1e-8, atol=0)
    assert_close(formula(ForwardKL(), p, m, s), forward, rtol=1e-8, atol=0)


@each
def test_no_gradient_where_student_and_teacher_agree(divergence):
    p = Mixture([[0.3]], [1.0], 0.9, f64)
    assert formula(divergence, p, 0.3, 0.9, sigma=0.4).abs().max() < 1e-12


@pytest.mark.parametrize("sigma", [0.3, 1.0, 3.0])
def test_forward_kl_matches_mean_and_variance_at_every_noise_level(sigma):
    p = Mixture([[-1.5], [1.5]], [0.6, 0.4], 0.5, f64)
    mean = -1.5 * 0.6 + 1.5 * 0.4
    sd = math.sqrt(0.25 + 0.6 * (-1.5 - mean) ** 2 + 0.4 * (1.5 - mean) ** 2)
    assert (mean, sd) == pytest.approx((-0.3, 1.552417), rel=1e-6)
    assert formula(ForwardKL(), p, mean, sd, sigma).abs().max() < 1e-7
    assert formula(JensenShannon(), p, mean, sd, sigma).abs().max() > 1e-5  # no such point for the others


def test_generator_loss_passes_gradcheck_and_holds_weights_fixed():
    x = torch.randn(5, 2, dtype=f64, requires_grad=True)
    difference, h = (torch.randn(*shape, dtype=f64, requires_grad=True) for shape in ((5, 2), (5,)))
    assert torch.autograd.gradcheck(lambda x: generator_loss(x, difference, h), [x])
    grads = torch.autograd.grad(generator_loss(x, difference, h).sum(), [x, difference, h], allow_unused=True)
    assert_close(grads[0], -(h[:, None] * difference).detach())
    assert grads[1] is None
    assert grads[2] is None


# ---------------------------------------------------------------- normalisation and moments
def test_normalised_weights():
    log_r, size = torch.tensor([[0.0, math.log(3.0), 9.0]]), torch.tensor([[1.0, 2.0, 0.5]])
    h, mean = update_weight(ForwardKL(), log_r, clip=math.log(4.0))
    assert_close(h, torch.tensor([[1.0, 3.0, 4.0]]))
    assert_close(mean, h / (8 / 3))
    _, update = update_weight(ForwardKL(), log_r, clip=math.log(4.0), normalise="update", size=size)
    assert_close((update * size).mean(), size.mean())
    _, binned = update_weight(ForwardKL(), log_r, clip=math.log(4.0), bins=torch.tensor([[0, 0, 1]]))
    assert_close(binned, torch.tensor([[0.5, 1.5, 1.0]]))


def test_second_moment_is_that_of_its_definition_and_zero_for_rkl():
    rng = stream(0, "test")
    h, difference = torch.rand(2, 50, generator=rng), torch.randn(2, 50, 3, generator=rng)
    sums = torch.zeros(2, 4, dtype=f64)
    for _ in range(3):
        add_moments(sums, h, 2 * h, difference)
    square = difference.square().sum(-1)
    expected = (h**2 * square).mean(1) / (h.mean(1) ** 2 * square.mean(1))
    found = log_second_moment(sums[1], 3)
    assert found["test/second_moment"] == pytest.approx(float(expected[1].log()), rel=1e-5)
    same = torch.zeros(1, 4, dtype=f64)
    add_moments(same, torch.ones(1, 50), torch.ones(1, 50), difference[:1])
    assert log_second_moment(same[0], 1) == pytest.approx(
        {"test/second_moment": 0.0, "test/update": 1.0}, abs=1e-6
    )
    assert log_second_moment(torch.zeros(4), 1) == {}


# ---------------------------------------------------------------- the discriminator
def test_the_best_discriminator_is_the_log_ratio():
    x = torch.linspace(-9, 9, 2001, dtype=f64)
    p, q = normal(x, 0.5, 1.0), normal(x, -0.5, 1.5)
    weights = (x[1] - x[0]) * len(
        x
    )  # logistic_loss takes means: densities go in as factors of the logits' losses
    logit = torch.zeros_like(x, requires_grad=True)
    softplus = torch.nn.functional.softplus
    for start in (logit.detach() + 0.0, torch.full_like(x, 2.0)):
        value = start.requires_grad_()
        for _ in range(60):  # Newton, point by point
            (g,) = torch.autograd.grad((weights * (p * softplus(-value) + q * softplus(value))).sum(), value)
            curvature = weights * (p + q) * value.sigmoid() * (1 - value.sigmoid())
            value = (value - (g / curvature).clamp(-1, 1)).detach().requires_grad_()
        near = x.abs() < 6
        assert_close(value.detach()[near], (p / q).log()[near], rtol=1e-6, atol=1e-6)
    a, b = torch.randn(2, 1, 7, dtype=f64)
    assert_close(logistic_loss(a, b), (softplus(-a) + softplus(b)).mean(dim=1))
    assert_close(saturation_free_loss(b), -b.sigmoid().log())


def test_a_trained_discriminator_finds_the_log_ratio():
    rng = stream(0, "test")
    net = ReplicaMLP([1, 32, 32, 1], rng).double()
    adam = torch.optim.Adam(net.parameters(), lr=5e-3)
    for _ in range(500):
        real, made = torch.randn(2, 1, 512, 1, generator=rng, dtype=f64)
        loss = logistic_loss(net(0.5 + real)[..., 0], net(-0.5 + made)[..., 0]).sum()
        adam.zero_grad()
        loss.backward()
        adam.step()
    x = torch.linspace(-1.5, 1.5, 31, dtype=f64)[None, :, None]
    assert (net(x) - x).abs().max() < 0.25  # log N(.5, 1) / N(-.5, 1) = x


# ---------------------------------------------------------------- the step
def distil(divergence=None, seed=0, **settings):
    made = LitDistill(
        divergence=divergence or JensenShannon(),
        task=Points(),
        seed=seed,
        rounds=6,
        batch_size=32,
        **settings,
    )
    made.configure_optimizers()
    return made


def test_rkl_is_plain_variational_score_distillation():
    run = distil(ReverseKL(), measured=1)
    G, fake = copy.deepcopy(run.generator), copy.deepcopy(run.fake)
    run.play(torch.arange(6))
    adam_G = torch.optim.Adam(G.parameters(), lr=2e-3, betas=(0.5, 0.9))
    adam_fake = torch.optim.Adam(fake.parameters(), lr=1e-3, betas=(0.5, 0.9))
    teacher = Points().mixture
    for t in range(6):  # no ratio, no discriminator
        score, _, (z, sigma, e), _ = run.draws(t)
        with torch.no_grad():
            x = G(score.z)
        adam_fake.zero_grad()
        score_matching_loss(fake, x, score.sigma, score.e).sum().backward()
        adam_fake.step()
        x = G(z)
        with torch.no_grad():
            x_t = x + sigma * e
            pull = teacher.denoise(x_t, sigma) - fake(x_t, sigma)
        adam_G.zero_grad()
        (-(pull * x).sum(-1).mean(1)).sum().backward()
        adam_G.step()
    for mine, plain in zip((*run.generator.parameters(), *run.fake.parameters()),
                           (*G.parameters(), *fake.parameters()), strict=True):  # fmt: skip
        assert torch.equal(mine, plain)


def test_only_the_other_arms_look_at_the_discriminator():
    for divergence, same in ((ReverseKL(), True), (JensenShannon(), False)):
        run = distil(divergence)
        moved, params = run.draws(0)[-2], list(run.generator.parameters())
        before = torch.autograd.grad(run.generator_losses(moved).mean(), params)
        for p in run.discriminator.parameters():
            p.data = torch.randn_like(p)
        after = torch.autograd.grad(run.generator_losses(moved).mean(), params)
        assert all(torch.equal(a, b) for a, b in zip(before, after, strict=True)) is same


@pytest.mark.parametrize("lambda_gan", [0.0, 0.5])
def test_the_generator_loss_sends_no_gradient_to_the_other_networks(lambda_gan):
    run = distil(lambda_gan=lambda_gan)
    run.generator_losses(run.draws(0)[-2]).mean().backward()
    assert all(p.grad is not None for p in run.generator.parameters())
    for net in (run.fake, run.discriminator, run.task):
        assert all(p.grad is None for p in net.parameters())


def test_the_discriminator_learns_the_ratio_of_teacher_to_student():
    run = LitDistill(
        divergence=ReverseKL(), task=Points(), rounds=80, batch_size=64, lr_generator=1e-9, lr_others=5e-3
    )
    run.play(torch.arange(80))
    sigma = torch.full((1, 500, 1), 0.3)
    real, made = run.task.real(500, stream(1, "test"))[None], run.samples()[:, :500]
    assert run.logits(real, sigma).mean() > 1 > -1 > run.logits(made, sigma).mean()


def test_the_gan_term_adds_its_gradient():
    plain, combined = distil(), distil(lambda_gan=0.5)
    z, sigma, e = moved = plain.draws(0)[-2]
    found = combined.generator_losses(moved) - plain.generator_losses(moved)
    logits = plain.discriminator(plain.generator(z) + sigma * e, sigma)[..., 0]
    assert_close(found, 0.5 * torch.nn.functional.softplus(-logits), rtol=1e-4, atol=1e-5)
    grads = [torch.autograd.grad(run.generator_losses(moved).mean(), list(run.generator.parameters()))[0]
             for run in (plain, combined)]  # fmt: skip
    assert not torch.equal(*grads)


def test_the_oracle_is_close_to_the_ratio_of_the_densities():
    run = distil(ratio="oracle")
    for k, W in enumerate(
        run.generator.weights
    ):  # a student that is N(0, about 1): all but the last layer a copy
        W.data.zero_()
        run.generator.biases[k].data.zero_()
    x = torch.tensor([[[0.2, 0.1], [3.0, 0.0]]])
    sigma = torch.full((1, 2, 1), 1.0)
    found = run.oracle(x, sigma, 0)  # q is a point at 0, noised
    exact = Points().log_density(x, sigma) + math.log(2 * math.pi) + x.square().sum(-1) / 2
    assert_close(found, exact, rtol=1e-5, atol=1e-5)


def test_bins_and_dmd_weighting():
    run = distil(bins=2, weighting="dmd", sigma=(0.1, 10.0))
    assert run.binned(torch.tensor([[[0.1], [0.9], [1.1], [10.0]]])).tolist() == [[0, 0, 1, 1]]  # type: ignore[union-attr]
    x, sigma = torch.randn(1, 9, 2), torch.full((1, 9, 1), 0.5)
    x_t = x + sigma * torch.randn(1, 9, 2)
    plain = distil().difference(x, x_t, sigma)
    scale = (x - run.task.denoise(x_t, sigma)).abs().mean(-1, keepdim=True)  # of the sample before its noise
    assert_close(run.difference(x, x_t, sigma), plain / scale)
    assert torch.isfinite(run.play(torch.arange(6))).all()


def test_mode_metrics_by_hand():
    means, weights = torch.tensor([[0.0, 0.0], [10.0, 0.0], [0.0, 10.0]]), torch.tensor([0.5, 0.4, 0.1])
    x = torch.cat([torch.zeros(89, 2), means[1].expand(7, 2), means[2].expand(3, 2), torch.full((1, 2), 4.0)])
    found = mode_metrics(x, means, weights, 1.0)
    # 7 of 100 at the second mode are less than .2 * .4 of all, 3 at the third more than .2 * .1
    assert found == pytest.approx({"modes": 2.0, "tv": 0.40, "high_quality": 0.99})


# ---------------------------------------------------------------- refused
@pytest.mark.parametrize(
    ("kind", "settings", "match"),
    [
        (LitGauss, {"clip": 0.0}, "clip > 0"),
        (LitGauss, {"normalise": "median"}, "normalise is one of"),
        (LitGauss, {"sigma": (0.5, 0.1)}, "0 < low <= high"),
        (LitGauss, {"lr": 0.0}, "lr > 0"),
        (LitDistill, {"task": None, "weighting": "one"}, "weighting is"),
        (LitDistill, {"task": None, "ratio": "true"}, "ratio is"),
        (LitDistill, {"task": None, "ratio": "oracle"}, "needs a teacher with a density"),
        (LitDistill, {"task": None, "n_fake": 0}, "n_fake"),
        (LitDistill, {"task": None, "lambda_gan": -1.0}, "lambda_gan"),
    ],
)
def test_refused_settings(kind, settings, match):
    with pytest.raises(ValueError, match=match):
        kind(divergence=ReverseKL(), **settings)


def test_points_take_no_data():
    with pytest.raises(ValueError, match="leave data=none"):
        LitDistill("images", divergence=ReverseKL(), task=Points())


def test_unknown_target():
    with pytest.raises(ValueError, match="ring8, grid25"):
        Points("cross")


def test_log_uniform_draws_of_a_run_stay_within_its_levels():
    _, _, moved, _ = distil(sigma=(0.2, 0.4)).draws(3)
    assert float(moved.sigma.min()) >= 0.2
    assert float(moved.sigma.max()) <= 0.4
    assert_close(log_uniform(torch.tensor(0.5, dtype=f64), 0.2, 0.8), torch.tensor(0.4, dtype=f64))
