"""Truths of the Z-loss and of the spherical family, float64."""

import math

import pytest
import torch
from torch.nn.functional import cross_entropy, mse_loss, one_hot
from torch.testing import assert_close

from lossatlas.papers.zloss import OneHotMSE, SphericalSoftmax, TaylorSoftmax, ZLoss

N, D = 40, 13
y = torch.arange(N) % D
o = torch.randn(N, D, dtype=torch.float64, generator=torch.Generator().manual_seed(0)) * 3 + 1
FAMILY = [ZLoss(0.7, 2.0), SphericalSoftmax(0.1), TaylorSoftmax(), OneHotMSE()]


def name(loss) -> str:
    return type(loss).__name__ if isinstance(loss, torch.nn.Module) else str(loss)


def z_scores(o: torch.Tensor) -> torch.Tensor:
    return (o - o.mean(1, keepdim=True)) / o.std(1, correction=0, keepdim=True)


def test_value_is_the_softplus_of_the_z_score() -> None:
    z_c = z_scores(o)[torch.arange(N), y]
    assert_close(ZLoss(0.7, 2.0)(o, y), (1 + (0.7 * (2.0 - z_c)).exp()).log() / 0.7, atol=1e-12, rtol=0)


@pytest.mark.parametrize("a", [1e-3, 1.0, 40.0])
@pytest.mark.parametrize("t", [-50.0, 0.0, 1e3])
def test_a_shift_or_a_positive_scale_changes_nothing(a: float, t: float) -> None:
    loss = ZLoss(1.0, 3.0, eps=1e-12)
    assert_close(loss(a * o + t, y), loss(o, y), atol=1e-8, rtol=0)


def test_the_sign_of_the_outputs_is_the_sign_of_z() -> None:
    a, b = 0.5, 2.0
    z_c = z_scores(o)[torch.arange(N), y]
    assert_close(ZLoss(a, b)(-o, y), torch.logaddexp(a * (b + z_c), torch.zeros(N).double()) / a)


def test_the_gradient_sums_to_zero_along_ones_and_along_the_outputs() -> None:
    free = o.clone().requires_grad_()
    (g,) = torch.autograd.grad(ZLoss(0.7, 2.0)(free, y).sum(), free)
    assert g.abs().max() > 0.01
    assert_close(g.sum(1), torch.zeros(N).double(), atol=1e-12, rtol=0)
    assert_close((g * o).sum(1), torch.zeros(N).double(), atol=1e-12, rtol=0)


def test_formula_2_is_the_gradient() -> None:
    a, b = 0.7, 2.0
    free = o.clone().requires_grad_()
    (g,) = torch.autograd.grad(ZLoss(a, b)(free, y).sum(), free)
    z, sigma = z_scores(o), o.std(1, correction=0, keepdim=True)
    z_c = z.gather(1, y[:, None])
    formula = -torch.sigmoid(a * (b - z_c)) / sigma * (one_hot(y, D).double() - 1 / D - z_c * z / D)
    assert_close(g, formula, atol=1e-12, rtol=0)


@pytest.mark.parametrize("loss", FAMILY, ids=name)
def test_gradcheck(loss) -> None:
    assert torch.autograd.gradcheck(lambda o: loss(o, y[:5]), o[:5].clone().requires_grad_())


@pytest.mark.parametrize("loss", FAMILY, ids=name)
def test_the_three_numbers_are_all_a_loss_of_the_family_sees(loss) -> None:
    value = loss.value(o[torch.arange(N), y], o.sum(1), (o**2).sum(1), D)
    assert_close(value, loss(o, y), atol=1e-10, rtol=0)


def test_the_largest_z_score_is_at_the_one_hot_outputs() -> None:
    a, b = 1.5, 2.0
    floor = math.log1p(math.exp(a * (b - math.sqrt(D - 1)))) / a
    best = torch.eye(D, dtype=torch.float64)
    assert_close(ZLoss(a, b)(best, torch.arange(D)), torch.full((D,), floor, dtype=torch.float64))
    assert (ZLoss(a, b)(o, y) > floor).all()


def test_a_sharp_softplus_is_a_hinge() -> None:
    z_c = z_scores(o)[torch.arange(N), y]
    assert_close(ZLoss(1e6, 0.5)(o, y), (0.5 - z_c).clamp_min(0), atol=1e-5, rtol=0)


def test_constant_outputs_are_finite_and_documented() -> None:
    same = torch.full((2, 5), 3.0, dtype=torch.float64, requires_grad=True)
    value = ZLoss(0.5, 4.0, eps=1e-8)(same, y[:2])
    assert_close(value, torch.full((2,), math.log1p(math.exp(2.0)) / 0.5, dtype=torch.float64))
    (g,) = torch.autograd.grad(value.sum(), same)
    slope = -1 / (1 + math.exp(-2.0)) / math.sqrt(1e-8)
    assert_close(g, slope * (one_hot(y[:2], 5).double() - 0.2))


@pytest.mark.parametrize("loss", FAMILY, ids=name)
def test_large_scores_stay_finite_and_right_in_float32(loss) -> None:
    big = (1e4 * z_scores(o) + (1e4 if isinstance(loss, ZLoss) else 0)).float()
    free = big.clone().requires_grad_()
    value = loss(free, y)
    (g,) = torch.autograd.grad(value.sum(), free)
    assert g.isfinite().all()
    assert_close(value.double(), loss(big.double(), y), rtol=1e-3, atol=1e-5)


def test_mse_and_the_softmaxes_are_what_libraries_say() -> None:
    target = one_hot(y, D).double()
    assert_close(OneHotMSE()(o, y), mse_loss(o, target, reduction="none").mean(1))
    taylor = (1 + o + o**2 / 2).log()
    assert_close(TaylorSoftmax()(o, y), cross_entropy(taylor, y, reduction="none"))
    assert_close(SphericalSoftmax(0.1)(o, y), cross_entropy((o**2 + 0.1).log(), y, reduction="none"))


def test_taylor_is_softmax_to_second_order() -> None:
    small = 1e-3 * o
    assert_close(TaylorSoftmax()(small, y), cross_entropy(small, y, reduction="none"), atol=1e-7, rtol=0)


@pytest.mark.parametrize("loss", [SphericalSoftmax(0.1), TaylorSoftmax()], ids=name)
def test_ranking_is_by_probability_not_by_output(loss) -> None:
    assert_close(loss.log_probs(o).exp().sum(1), torch.ones(N).double())
    assert_close(-loss.log_probs(o).gather(1, y[:, None])[:, 0], loss(o, y))
    assert torch.equal(loss.scores(o).argsort(1), loss.log_probs(o).argsort(1))
    assert not torch.equal(loss.scores(o).argsort(1), o.argsort(1))


@pytest.mark.parametrize(
    ("settings", "word"),
    [
        ({"a": 0.0}, "a, b and eps > 0, got a=0.0"),
        ({"a": math.nan}, "a=nan"),
        ({"b": -1.0}, "b=-1.0"),
        ({"b": math.inf}, "b=inf"),
        ({"eps": 0.0}, "eps=0.0"),
    ],
)
def test_wrong_settings_are_one_line(settings: dict, word: str) -> None:
    with pytest.raises(ValueError, match=word) as error:
        ZLoss(**settings)
    assert "\n" not in str(error.value)


def test_too_few_classes_are_refused_and_why() -> None:
    with pytest.raises(
        ValueError, match="at least 3 classes, got 2: z-scores of two outputs are always 1 and -1"
    ):
        ZLoss()(torch.zeros(1, 2), torch.tensor([0]))
    with pytest.raises(ValueError, match="e > 0, got e=0"):
        SphericalSoftmax(0)
    with pytest.raises(ValueError, match=r"TaylorSoftmax needs floating scores f \(n, K >= 2\)"):
        TaylorSoftmax()(torch.zeros(1, 1), torch.tensor([0]))


def test_two_classes_have_no_gradient() -> None:
    """Why they are refused: seen with the check switched off."""
    free = o[:, :2].clone().requires_grad_()
    loss = ZLoss()
    loss.check = lambda D: None  # type: ignore[method-assign]
    (g,) = torch.autograd.grad(loss(free, y % 2).sum(), free)
    assert g.abs().max() < 1e-10
