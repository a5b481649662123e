"""Truths of the preference losses, float64."""

import math

import pytest
import torch
from torch.nn.functional import logsigmoid
from torch.testing import assert_close

from lossatlas.papers.rdpo import CDPO, DPO, IPO, RDPO, RIPO, SFT, RSLiC, SLiC

torch.set_num_threads(1)
RATES = [0.0, 0.1, 0.25, 0.4, 0.49]
LOSSES = [DPO, CDPO, RDPO, IPO, RIPO, SLiC, RSLiC, SFT]
rates = pytest.mark.parametrize("eps", RATES)
losses = pytest.mark.parametrize("Loss", LOSSES, ids=lambda c: c.__name__)


def margins(n=100):
    return 5 * torch.randn(n, dtype=torch.float64, generator=torch.Generator().manual_seed(0))


def log_probabilities(n=8):
    generator = torch.Generator().manual_seed(1)
    return list(-20 * torch.rand(4, n, dtype=torch.float64, generator=generator))


@rates
def test_rdpo_is_trl_robust_dpo(eps):
    """TRL's loss_type="robust" written apart: logits are log-ratio differences, beta multiplies them."""
    beta, logits = 0.1, margins() / 0.1
    trl = (-logsigmoid(beta * logits) * (1 - eps) + logsigmoid(-beta * logits) * eps) / (1 - 2 * eps)
    zero = torch.zeros_like(logits)
    assert_close(RDPO(beta, eps)(logits, zero, zero, zero), trl, atol=1e-12, rtol=1e-12)


@rates
@pytest.mark.parametrize(("robust", "plain"), [(RDPO, DPO), (RIPO, IPO), (RSLiC, SLiC)])
def test_robust_loss_is_unbiased_for_the_clean_one(robust, plain, eps):
    """A given pair is the clean one with chance 1 - eps and turned round with chance eps."""
    h = margins()
    mean = (1 - eps) * robust(0.3, eps).value(h) + eps * robust(0.3, eps).value(-h)
    assert_close(mean, plain(0.3).value(h), atol=1e-11, rtol=1e-12)


@rates
def test_the_linear_form_is_the_papers(eps):
    h = margins()

    def ell(x):
        return -torch.log(torch.sigmoid(x))

    assert_close(ell(-h), ell(h) + h)
    assert_close(CDPO(0.3, eps).value(h), (1 - eps) * ell(h) + eps * ell(-h))
    assert_close(RDPO(0.3, eps).value(h), ((1 - eps) * ell(h) - eps * ell(-h)) / (1 - 2 * eps))
    ipo = (h / 0.3 - 1 / 0.6) ** 2, (-h / 0.3 - 1 / 0.6) ** 2
    assert_close(RIPO(0.3, eps).value(h), ((1 - eps) * ipo[0] - eps * ipo[1]) / (1 - 2 * eps))


@rates
@pytest.mark.parametrize("Loss", [DPO, CDPO, RDPO])
def test_convex_with_dpos_second_derivative(Loss, eps):
    h = margins().requires_grad_()
    (first,) = torch.autograd.grad(Loss(0.3, eps).value(h).sum(), h, create_graph=True)
    (second,) = torch.autograd.grad(first.sum(), h)
    assert_close(second, torch.sigmoid(h.detach()) * torch.sigmoid(-h.detach()))


@rates
def test_gradient_weight(eps):
    """Eq. 5, and that it lies eps/(1-2eps) above DPO's; the parameters are the log-probabilities themselves."""
    beta = 0.3
    w, lo, ref_w, ref_l = log_probabilities()
    w, lo = w.requires_grad_(), lo.requires_grad_()
    RDPO(beta, eps)(w, lo, ref_w, ref_l).sum().backward()
    h = beta * ((w - ref_w) - (lo - ref_l)).detach()
    zeta = (1 - eps) / (1 - 2 * eps) * torch.sigmoid(-h) + eps / (1 - 2 * eps) * torch.sigmoid(h)
    assert_close(w.grad, -beta * zeta)
    assert_close(lo.grad, beta * zeta)
    assert_close(zeta, torch.sigmoid(-h) + eps / (1 - 2 * eps))


def test_without_flips_all_three_are_dpo():
    h = margins()
    for other in (CDPO, RDPO):
        assert torch.equal(other(0.3, 0.0).value(h), DPO(0.3).value(h))


@pytest.mark.parametrize("Loss", [DPO, CDPO, RDPO])
def test_the_reference_itself_costs_log_2(Loss):
    w, lo, *_ = log_probabilities()
    loss = Loss(0.1, 0.4)
    assert_close(loss.margin(w, lo, w, lo), torch.zeros(8, dtype=torch.float64))
    assert_close(loss(w, lo, w, lo), torch.full((8,), math.log(2), dtype=torch.float64))


def test_rdpo_falls_without_bound_but_dpo_and_cdpo_do_not():
    h = torch.tensor([1e2, 1e4], dtype=torch.float64)
    assert_close(RDPO(0.1, 0.4).value(h), -0.4 / 0.2 * h)
    assert (CDPO(0.1, 0.4).value(h) > 0).all()
    assert (DPO(0.1, 0.4).value(h) >= 0).all()


@losses
@pytest.mark.parametrize("dtype", [torch.float64, torch.float32, torch.bfloat16], ids=str)
def test_huge_log_probabilities_stay_finite(Loss, dtype):
    zero = torch.zeros(2, dtype=dtype)
    w = torch.tensor([1e4, -1e4], dtype=dtype, requires_grad=True)
    value = Loss(1.0, 0.4)(w, zero, zero, zero)
    value.sum().backward()
    assert value.isfinite().all()
    assert w.grad is not None
    assert w.grad.isfinite().all()
    if Loss is DPO:
        assert_close(value.detach(), torch.stack([value.new_zeros(()), -w.detach()[1].to(value.dtype)]))


@losses
def test_gradcheck(Loss):
    logs = [x.requires_grad_() for x in log_probabilities(5)]
    assert torch.autograd.gradcheck(Loss(0.3, 0.2), logs)


def test_sft_is_the_winners_likelihood():
    w, lo, ref_w, ref_l = log_probabilities()
    assert torch.equal(SFT()(w, lo, ref_w, ref_l), -w)


@pytest.mark.parametrize("eps", [0.5, 0.9, -0.1, math.nan])
def test_a_flip_rate_outside_is_refused(eps):
    with pytest.raises(ValueError, match="flip rate 0 <= eps < 1/2, got eps="):
        RDPO(0.1, eps)


@pytest.mark.parametrize("beta", [0.0, -1.0, math.inf, math.nan])
def test_a_beta_that_is_no_price_is_refused(beta):
    with pytest.raises(ValueError, match="beta > 0, got beta="):
        DPO(beta)


@losses
def test_shapes_that_differ_are_refused(Loss):
    with pytest.raises(ValueError, match="four floating log-probabilities"):
        Loss()(torch.zeros(3), torch.zeros(3), torch.zeros(3), torch.zeros(1))
