"""What papers on diffusion models share: exact scores, preconditioning, samplers, kept networks, neighbours."""

import math

import pytest
import torch
from scipy import linalg
from torch.testing import assert_close

from lossatlas.diffusion import (
    Denoiser,
    Mixture,
    NoiseNet,
    edm_scales,
    feature_distance,
    fourier_embedding,
    grid,
    heun_sample,
    karras_levels,
    log_normal,
    log_uniform,
    plain_embedding,
    precision_recall,
    ring,
    score_matching_loss,
)
from lossatlas.replicas import ReplicaMLP, merge_replicas

f64 = torch.float64


@pytest.mark.parametrize(
    "mixture", [ring(), grid(), Mixture([[0.0], [3.0]], [1, 2], [0.5, 2.0])], ids=["ring", "grid", "line"]
)
@pytest.mark.parametrize("sigma", [0.0, 0.3, 5.0])
def test_mixture_score_is_the_gradient_of_the_log_density(mixture, sigma):
    mixture = mixture.double()
    x = (4 * torch.randn(3, 5, mixture.d, dtype=f64)).requires_grad_()
    at = torch.full((3, 5, 1), sigma, dtype=f64)
    (expected,) = torch.autograd.grad(mixture.log_density(x, at).sum(), x)
    assert_close(mixture.score(x, at).detach(), expected, rtol=1e-9, atol=1e-12)
    assert_close(mixture.denoise(x, at), x + sigma**2 * expected)


def test_mixture_density_integrates_to_one_and_is_that_of_the_formula():
    mixture = Mixture([[0.0], [3.0]], [1, 3], [0.5, 1.0], f64)
    x = torch.linspace(-20, 25, 9001, dtype=f64)[:, None]
    sigma = torch.full_like(x, 0.7)
    density = mixture.log_density(x, sigma).exp()
    assert float(density.sum() * (x[1] - x[0])) == pytest.approx(1.0, rel=1e-10)
    sd = (math.sqrt(0.74), math.sqrt(1.49))
    one, two = (
        torch.distributions.Normal(m, s).log_prob(x[:, 0]).exp() for m, s in zip((0.0, 3.0), sd, strict=True)
    )
    assert_close(density, 0.25 * one + 0.75 * two)


def test_mixture_samples_have_its_shares():
    mixture = ring(4, rare=0.5)
    x = mixture.sample(20000, torch.Generator().manual_seed(0))
    shares = torch.bincount(torch.cdist(x, mixture.means).argmin(1)) / len(x)
    assert_close(shares, mixture.weights, atol=0.02, rtol=0)
    with pytest.raises(ValueError, match="weights > 0"):
        Mixture([[0.0]], [0.0], 1.0)
    with pytest.raises(ValueError, match="K weights"):
        Mixture([[0.0]], [1.0, 1.0], 1.0)


def test_levels():
    u = torch.rand(1000, dtype=f64)
    sigma = log_uniform(u, 0.01, 10.0)
    assert_close(sigma.log10(), 3 * u - 2)
    assert_close(log_normal(torch.tensor([0.0, 1.0])), torch.tensor([-1.2, 0.0]).exp())
    levels = karras_levels(18, 0.002, 80.0)
    assert (len(levels), float(levels[-1])) == (19, 0.0)
    assert (levels.diff() < 0).all()
    with pytest.raises(ValueError, match="steps >= 1"):
        karras_levels(0, 0.1, 1.0)


def test_preconditioning_keeps_unit_variance():
    sigma = torch.logspace(-2, 2, 9, dtype=f64)
    c_skip, c_out, c_in = edm_scales(sigma, 0.5)
    assert_close(c_in**2 * (0.25 + sigma**2), torch.ones(9, dtype=f64))
    # the network's target (x - c_skip (x + sigma e)) / c_out has variance 1 for data of variance sigma_data^2
    assert_close(((1 - c_skip) ** 2 * 0.25 + c_skip**2 * sigma**2) / c_out**2, torch.ones(9, dtype=f64))
    with pytest.raises(ValueError, match="sigma_data > 0"):
        Denoiser(torch.nn.Identity(), 0.0)


def test_score_matching_finds_the_gaussian_denoiser():
    x, e = torch.randn(2, 1, 4000, 1, dtype=f64)
    sigma = torch.full_like(x, 0.8)

    class Linear(torch.nn.Module):
        a = torch.zeros((), dtype=f64, requires_grad=True)

        def forward(self, x, sigma):
            return self.a * x

    net = Linear()
    (slope,) = torch.autograd.grad(score_matching_loss(Denoiser(net, 1.0), x, sigma, e).sum(), net.a)
    assert abs(float(slope)) < 0.1  # N(0, 1): c_skip x is the best denoiser already
    (wrong,) = torch.autograd.grad(score_matching_loss(Denoiser(net, 3.0), x, sigma, e).sum(), net.a)
    assert abs(float(wrong)) > 0.2


def test_heun_sampling_of_an_exact_denoiser_gives_the_mixture():
    mixture = ring(8, rare=0.5)
    x = 40.0 * torch.randn(1, 4000, 2, generator=torch.Generator().manual_seed(0))
    made = heun_sample(mixture.denoise, x, karras_levels(30, 0.01, 40.0))[0]
    near, at = torch.cdist(made, mixture.means).min(1)
    assert float((near < 0.9).float().mean()) > 0.97
    assert_close(torch.bincount(at, minlength=8) / 4000, mixture.weights, atol=0.03, rtol=0)


@pytest.mark.parametrize("embed", [plain_embedding, fourier_embedding])
def test_replicas_of_a_net_do_not_see_each_other(embed):
    made = [NoiseNet(3, 2, [5], torch.Generator().manual_seed(s), lambda s: 1 / s, embed) for s in range(3)]
    whole = merge_replicas(made, shared=())
    x, sigma = torch.randn(3, 4, 3), torch.rand(3, 4, 1) + 0.1
    out = whole(x, sigma)
    for r, net in enumerate(made):
        assert_close(out[r : r + 1], net(x[r : r + 1], sigma[r : r + 1]))
    assert len(list(whole.parameters())) == len(list(made[0].parameters()))
    with pytest.raises(ValueError, match="stack them apart"):
        merge_replicas([ReplicaMLP([2, n, 1], torch.Generator()) for n in (3, 4)], shared=())
    with pytest.raises(ValueError, match="widths"):
        ReplicaMLP([3], torch.Generator())


# ---------------------------------------------------------------- quality
def test_precision_and_recall_by_loops():
    rng = torch.Generator().manual_seed(0)
    real, made = torch.randn(40, 2, generator=rng), 0.5 * torch.randn(30, 2, generator=rng) + 1

    def covered(points, centres, k):
        hit = 0
        for x in points:
            hit += any(
                math.dist(x.tolist(), c.tolist())
                <= sorted(math.dist(c.tolist(), o.tolist()) for o in centres)[k]
                for c in centres
            )
        return hit / len(points)

    assert precision_recall(real, made, 3) == pytest.approx((covered(made, real, 3), covered(real, made, 3)))
    assert precision_recall(real, real, 3) == (1.0, 1.0)
    with pytest.raises(ValueError, match="1 <= k"):
        precision_recall(real, made, 30)


def test_feature_distance_is_frechets():
    rng = torch.Generator().manual_seed(0)
    real, made = (
        torch.randn(60, 4, generator=rng),
        torch.randn(50, 4, generator=rng) @ torch.randn(4, 4, generator=rng) + 1,
    )
    C, D = torch.cov(real.double().T).numpy(), torch.cov(made.double().T).numpy()
    gap = real.double().mean(0) - made.double().mean(0)
    expected = float(gap @ gap) + (C + D - 2 * linalg.sqrtm(C @ D).real).trace()
    assert feature_distance(real, made) == pytest.approx(expected, rel=1e-6)
    assert feature_distance(real, real) == pytest.approx(0.0, abs=1e-9)
