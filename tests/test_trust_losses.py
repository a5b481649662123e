"""Losses that gave a wrong number, or a dead gradient, without a word: what each gave before, and what it gives.

Every exported loss is found by walking the rooms. One that takes more than scores and labels has its inputs in INPUTS.
"""

import importlib
import inspect
import math
import pkgutil

import pytest
import torch
from pytorch_lightning import LightningModule
from torch import nn
from torch.nn.functional import cross_entropy, normalize
from torch.testing import assert_close

from lossatlas import papers
from lossatlas.ema import LogEMA
from lossatlas.losses import checked, tell_skipped
from lossatlas.papers.comp_sum import CompSumLoss
from lossatlas.papers.f_distill import generator_loss, logistic_loss, saturation_free_loss
from lossatlas.papers.hl_gauss import CategoricalMSE, SquaredError
from lossatlas.papers.isogclr import BimodalISogCLR, ISogCLR, SogCLR
from lossatlas.papers.ldr import ALDRKL, LDRKL, RCE
from lossatlas.papers.zloss import SphericalOutput, ZLoss

n, K = 12, 5
y = torch.arange(n) % K
nan, inf = math.nan, math.inf

# modules that a room exports and that are no loss
NO_LOSS = {"Centred", "Confidence", "ConvNet", "Digits", "ModularTransformer", "NeuralLearner", "Points"}
NO_LOSS |= {"MarginLoss", "QuadraticNet", "RidgeLearner", "SphericalOutput"}
PAIRS = ("CDPO", "DPO", "IPO", "RDPO", "RIPO", "RSLiC", "SFT", "SLiC")


def exported() -> dict[str, type[nn.Module]]:
    """Every nn.Module in a room's __all__ that is neither a method nor listed above."""
    found = {}
    for room in pkgutil.iter_modules(papers.__path__):
        package = importlib.import_module(f"lossatlas.papers.{room.name}")
        for name in package.__all__:
            kind = getattr(package, name)
            module = (
                inspect.isclass(kind)
                and issubclass(kind, nn.Module)
                and not issubclass(kind, LightningModule)
            )
            if module and name not in NO_LOSS:
                found[name] = kind
    return found


class Scores(nn.Module):
    """A net whose scores are a parameter, plus the flat image: what a loss that attacks its net is called with."""

    def __init__(self, f: torch.Tensor) -> None:
        super().__init__()
        self.f = f

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.f.repeat(len(x) // len(self.f), 1) + x.flatten(1)


def attacked(f):
    return Scores(f), torch.zeros(n, 1, 1, K, dtype=f.dtype, device=f.device), y.to(f.device)


def numbers(f):
    return f, ((torch.arange(n, device=f.device) - 6) / 8).to(f.dtype)  # the same number in every dtype


def pairs(f):
    return f[:, 0], f[:, 1], f[:, 2].detach(), f[:, 3].detach()


def two_views(f):
    return f, f.roll(1, 1).detach()


def indexed_views(f):
    return *two_views(f), torch.arange(n, device=f.device)


ATTACKS = {"AdvCompSumLoss", "ATPGD", "TRADES", "MART"}

# inputs made from scores f (n, K), and the arguments of the loss, of those that take other than (f, y)
INPUTS = {
    **{name: (attacked, {"radius": 0.0}) for name in ATTACKS},
    **{name: (numbers, {"m": K}) for name in ("HLGauss", "TwoHot", "CategoricalMSE")},
    "SquaredError": (lambda f: numbers(f[:, :1]), {}),
    "Huber": (lambda f: numbers(f[:, :1]), {"delta": 1e5}),
    "C51Loss": (lambda f: (f, numbers(f)[1], numbers(f)[1].abs(), f.flip(0)), {"m": K}),
    "LazyMSE": (lambda f: (f, f.flip(0).detach()), {}),
    "NTXent": (two_views, {}),
    **{name: (pairs, {}) for name in PAIRS},
    **{name: (indexed_views, {"n": n}) for name in ("SogCLR", "ISogCLR", "BimodalISogCLR")},
    **{
        name: (lambda f: (f, y.to(f.device), torch.arange(n, device=f.device)), {"n": n})
        for name in ("ALDRKL", "TGCE")
    },
    "NCEPlus": (lambda f: (f, y.to(f.device)), {"other": RCE()}),
}
LOSSES = exported()
UNIT = {"NTXent", "SogCLR", "ISogCLR", "BimodalISogCLR"}  # of embeddings on the sphere, not of scores
OF_CLASSES = sorted(name for name in LOSSES if name not in INPUTS or name in ("ALDRKL", "TGCE", "NCEPlus"))
losses = pytest.mark.parametrize("name", sorted(LOSSES))


def charged(name, f):
    """(n,) values of a new loss of this name at scores f."""
    inputs, settings = INPUTS.get(name, (lambda f: (f, y.to(f.device)), {}))
    return LOSSES[name](**settings).to(f.device)(*inputs(f))


def scores(size: float = 2.0, rows: int = n, classes: int = K) -> torch.Tensor:
    return size * torch.randn(rows, classes, generator=torch.Generator().manual_seed(7))


# ---------------------------------------------------------------- 14: half precision
@losses
@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16], ids=str)
def test_half_precision_is_computed_in_float32(name, dtype):
    """Before: ZLoss, the adversarial losses, HL-Gauss and its kin and LazyMSE computed, and gave, half precision."""
    f = scores().to(dtype).requires_grad_()
    value = charged(name, f)
    assert value.dtype == torch.float32
    assert_close(value, charged(name, f.detach().float()), rtol=1e-6, atol=1e-6)  # of the same rounded scores
    (grad,) = torch.autograd.grad(value.sum(), f)
    assert grad.dtype == dtype
    assert grad.isfinite().all()
    assert grad.abs().max() > 0


@pytest.mark.parametrize("name", sorted(LOSSES.keys() - UNIT))
@pytest.mark.parametrize("dtype", [torch.float32, torch.float16, torch.bfloat16], ids=str)
def test_scores_of_1e4_are_finite(name, dtype):
    f = scores().sign().mul(1e4).to(dtype).requires_grad_()
    value = charged(name, f)
    (grad,) = torch.autograd.grad(value.mean(), f)
    assert value.isfinite().all()
    assert grad.isfinite().all()


def test_zloss_of_4000_classes_in_half_precision_has_a_gradient():
    f = scores(5.0, 4, 4000).half().requires_grad_()
    (grad,) = torch.autograd.grad(ZLoss()(f, y[:4]).mean(), f)  # before: exactly 0, q = 1e5 overflows
    single = f.detach().float().requires_grad_()
    (expected,) = torch.autograd.grad(ZLoss()(single, y[:4]).mean(), single)
    assert_close(grad.float(), expected, rtol=2e-3, atol=2e-7)
    assert grad[range(4), y[:4]].abs().min() > 1e-3


def test_loss_functions_in_half_precision():
    a, b = (
        scores(50.0).half(),
        scores(40.0).half(),
    )  # before: the product of two such scores by hand overflowed
    for loss in (
        lambda a, b: generator_loss(a, b, a[:, 0]),
        logistic_loss,
        lambda a, b: saturation_free_loss(a),
    ):
        assert loss(a, b).dtype == torch.float32
        assert_close(loss(a, b), loss(a.float(), b.float()))


# ---------------------------------------------------------------- 15: what a loss refuses
BAD = {
    "labels of another length": (scores(), y[:2]),  # CompSumLoss: 2 values of 12
    "float labels": (scores(), y.float()),
    "int32 labels": (scores(), y.int()),
    "bool labels": (scores(), y > 1),
    "labels (n, 1)": (scores(), y[:, None]),
    "integer scores": (scores().long(), y),  # zloss: an error of torch's about mean()
    "one class": (scores()[:, :1], y * 0),  # most: 0 with gradient 0
    "1-d scores": (scores()[0], y),
    "a label of K": (scores(), y + 1),
    "a label of -1": (scores(), y - 1),
    "a label of -100": (scores(), torch.where(y == 0, -100, y)),  # ATPGD, TRADES, MART: a silent 0
}


@pytest.mark.parametrize("name", OF_CLASSES)
@pytest.mark.parametrize("bad", BAD.values(), ids=BAD)
def test_a_loss_refuses_what_is_not_its_own(name, bad):
    f, labels = bad
    more = (torch.arange(n),) if name in ("ALDRKL", "TGCE") else ()
    with pytest.raises(ValueError, match=r"^[^\n]* needs [^\n]* got [^\n]*$"):
        LOSSES[name](**INPUTS.get(name, (None, {}))[1])(f, labels, *more)


@pytest.mark.parametrize("name", sorted(ATTACKS))
def test_an_attacked_loss_refuses_a_label_of_minus_100(name):
    net, x, _ = attacked(scores())
    assert (
        cross_entropy(scores(), torch.full_like(y, -100), reduction="none").eq(0).all()
    )  # torch's, and ours before
    with pytest.raises(ValueError, match=r"labels y in 0\.\.4, got -100"):
        LOSSES[name](radius=0.0)(net, x, torch.full_like(y, -100))


def test_comp_sum_refuses_to_drop_a_row():
    with pytest.raises(ValueError, match=r"got f \(3, 5\) torch.float32, y \(2,\) torch.int64"):
        CompSumLoss()(scores()[:3], y[:2])  # before: 2 values, the third row in none of them


@pytest.mark.parametrize(
    "loss", [SquaredError(), CategoricalMSE(m=K)], ids=["SquaredError", "CategoricalMSE"]
)
def test_targets_of_another_shape_are_refused(loss):
    f = scores()[:, : 1 if isinstance(loss, SquaredError) else K]
    for targets in (f[:, :1], f[:1, 0], f[:, 0].long()):  # before: (n, n), n errors to one target, a cast
        with pytest.raises(ValueError, match=r"^[^\n]*floating targets y \(n,\), got [^\n]*$"):
            loss(f, targets)
    if isinstance(loss, SquaredError):
        with pytest.raises(ValueError, match=r"outputs \(n, 1\)"):
            loss(scores(), scores()[:, 0])  # before: the first output, the others unused


@pytest.mark.parametrize("name", ["ALDRKL", "TGCE"])
def test_a_position_of_minus_1_is_no_other_sample(name):
    with pytest.raises(ValueError, match=r"index must lie in 0\.\.11, got -1\.\.10"):
        LOSSES[name](n=n)(scores(), y, torch.arange(n) - 1)  # before: sample 11's state


@pytest.mark.parametrize(
    "name", sorted(LOSSES.keys() - ATTACKS)
)  # once an attack: are these images in [0, 1]?
def test_no_loss_reads_a_number_off_another_device(name):
    """A meta tensor has no numbers: reading one, which on a GPU is a wait, raises."""
    f = scores().to("meta").requires_grad_()
    assert charged(name, f).shape == (n,)


# ---------------------------------------------------------------- 14: one NaN mini-batch
STATES = {
    "ALDRKL": lambda: ALDRKL(n=n),
    "SogCLR": lambda: SogCLR(n=n),
    "ISogCLR": lambda: ISogCLR(n=n),
    "one temperature": lambda: ISogCLR(n=n, shared=True),
    "BimodalISogCLR": lambda: BimodalISogCLR(n=n),
}


@pytest.mark.parametrize("make", STATES.values(), ids=STATES)
def test_one_nan_batch_leaves_the_state_of_its_samples(make):
    loss, seen = make(), torch.arange(4)

    def visit(f):
        views = (normalize(f), normalize(f.roll(1, 1)))
        return loss(f, y[:4], seen) if isinstance(loss, ALDRKL) else loss(*views, seen)

    visit(scores()[:4])
    before = {name: value.clone() for name, value in loss.state_dict().items()}
    spoilt = scores()[4:8]
    spoilt[1, 2] = nan
    assert visit(spoilt).isnan().any()  # the value says so
    for name, value in loss.state_dict().items():
        assert value.isfinite().all(), name  # before: lambda_i, or log_s, u and tau, NaN for good
        if not isinstance(loss, ALDRKL):  # there the other samples' lambda_i move, as they should
            assert torch.equal(value, before[name]), name
    with pytest.warns(UserWarning, match="left out"):
        count = tell_skipped(loss)
    assert count == {ALDRKL: 1, BimodalISogCLR: 8}.get(type(loss), 4)
    assert visit(scores()[8:]).isfinite().all()


def test_aldr_kl_moves_the_others_of_a_nan_batch():
    loss, fine = ALDRKL(n=n), ALDRKL(n=n)
    spoilt = scores()
    spoilt[3, 0] = inf - inf
    loss(spoilt, y, torch.arange(n))
    fine(scores(), y, torch.arange(n))
    expected = fine.lambda_i.clone()
    expected[3] = 1.0  # lambda0
    assert torch.equal(loss.lambda_i, expected)
    assert int(loss.skipped) == 1


def test_log_ema_counts_what_it_leaves_out():
    average = LogEMA(0.5, n=3)
    average(torch.tensor([0, 1]), torch.tensor([inf, 1.0]))
    assert average.log_u.tolist() == [0, 1, 0]
    assert average.visits.tolist() == [0, 1, 0]
    assert int(average.skipped) == 1


# ---------------------------------------------------------------- 14: eq. 3 at the edge
@pytest.mark.parametrize("make", [lambda: ALDRKL(c=0.0, n=n).eval(), lambda: LDRKL(c=0.0, normalise="l1")])
def test_l1_normalisation_of_a_score_of_minus_infinity_is_the_limit(make):
    f = torch.tensor([[1.0, -inf, 2.0], [0.5, -1.0, -inf]], requires_grad=True)
    limit = torch.tensor(
        [[0.0, -3.0, 0.0], [0.0, 0.0, -3.0]]
    )  # the infinite score takes the whole norm, K = 3
    labels = torch.tensor([0, 1])
    value = make()(f, labels)  # before: NaN, and lambda_i with it
    assert_close(value, make()(limit, labels))
    (grad,) = torch.autograd.grad(value.sum(), f)
    assert grad.isfinite().all()


def test_l1_normalisation_of_zeros_has_the_plain_gradient():
    f = torch.zeros(1, 4, requires_grad=True)
    (grad,) = torch.autograd.grad(LDRKL(1.0, 0.0, "l1")(f, torch.tensor([2])).sum(), f)
    assert_close(grad, torch.tensor([[0.25, 0.25, -0.75, 0.25]]))  # before: 4e12 times that


# ---------------------------------------------------------------- 15: the layer that takes its own step
def moved(output, start):
    return [name for name, value in output.state_dict().items() if not torch.equal(value, start[name])]


def layer():
    torch.manual_seed(0)
    output = SphericalOutput(d=K, D=7, loss=ZLoss())
    return output, {name: value.clone() for name, value in output.state_dict().items()}


REFUSED = {
    "a label of -1": (
        scores(),
        y - 1,
        0.1,
        r"labels y must lie in 0\.\.6, got -1\.\.3",
    ),  # before: class 6 was moved
    "a label of D": (scores(), y + 3, 0.1, r"got 3\.\.7"),  # before: Q and wbar had moved when torch raised
    "a rate of NaN": (scores(), y, nan, "finite lr >= 0, got .*lr=nan"),  # before: everything NaN
    "a negative rate": (scores(), y, -0.1, "lr=-0.1"),
    "too few labels": (scores(), y[:2], 0.1, "int64 y"),
    "integer input": (scores().long(), y, 0.1, "floating h"),
}


@pytest.mark.parametrize(("h", "labels", "lr", "told"), REFUSED.values(), ids=REFUSED)
def test_spherical_output_refuses_before_anything_moves(h, labels, lr, told):
    output, start = layer()
    with pytest.raises(ValueError, match=told):
        output.loss(h, labels, lr)
    assert moved(output, start) == []


def test_spherical_output_leaves_out_a_step_that_is_not_finite():
    output, start = layer()
    h = scores()
    h[2, 1] = nan
    assert output.loss(h, y, 0.1).isnan().any()
    assert moved(output, start) == ["steps"]  # before: V, U, w, Q and wbar NaN
    assert int(output.skipped) == 1


@pytest.mark.parametrize("cast", ["half", "float", "bfloat16"])
def test_spherical_output_keeps_float64(cast):
    output, start = layer()
    with pytest.raises(ValueError, match=r"^SphericalOutput keeps Q, U and w in float64, got [^\n]*$"):
        getattr(nn.ModuleList([output]), cast)()  # before: done, without a word
    assert moved(output, start) == []
    assert output.double().V.dtype == torch.float64
    with pytest.raises(ValueError, match="dtype float32 or float64 of V"):
        SphericalOutput(d=K, D=7, loss=ZLoss(), dtype=torch.float16)


def test_spherical_output_of_half_precision_input_answers_in_float32():
    h = scores(20.0).half().requires_grad_()
    (one, _), (two, _) = layer(), layer()
    values = one.loss(h, y, 0.1)
    assert values.dtype == torch.float32
    assert_close(values, two.loss(h.detach().float(), y, 0.1), rtol=1e-6, atol=1e-6)
    (grad,) = torch.autograd.grad(values.mean(), h)
    assert grad.isfinite().all()
    assert grad.abs().max() > 0


def test_the_checker_takes_what_is_right():
    f = scores()
    assert checked(f, y) is f
    assert checked(f[:0], y[:0]).shape == (0, K)
    assert checked(f.double(), y).dtype == torch.float64
