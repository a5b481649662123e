"""What all 15 arms of the LDR comparison must bear: extreme scores, every dtype, gradcheck, refused input."""

import math

import pytest
import torch
from torch.testing import assert_close

from lossatlas.papers.ldr import (
    AGCE,
    ALDRKL,
    AUL,
    CS,
    GCE,
    JS,
    LDRKL,
    MAE,
    MSE,
    RCE,
    RLL,
    SCE,
    TGCE,
    WW,
    NCEPlus,
)

K, n = 5, 12
torch.set_num_threads(1)
y = torch.arange(n) % K
index = torch.arange(n).roll(3)
ARMS = {
    "ce": lambda: torch.nn.CrossEntropyLoss(reduction="none"),
    "cs": CS,
    "ww": WW,
    "gce": GCE,
    "gce truncated": lambda: GCE(k_t=0.5),
    "tgce": lambda: TGCE(n=n),
    "mae": MAE,
    "mse": MSE,
    "sce": SCE,
    "rll": RLL,
    "js": JS,
    "nce_rce": lambda: NCEPlus(RCE()),
    "nce_agce": lambda: NCEPlus(AGCE()),
    "nce_aul": lambda: NCEPlus(AUL()),
    "ldr_kl": LDRKL,
    "ldr_kl l1": lambda: LDRKL(0.1, normalise="l1"),
    "ldr_kl softplus_l1": lambda: LDRKL(0.1, normalise="softplus_l1"),
    "aldr_kl": lambda: ALDRKL(n=n),
    "aldr_kl none": lambda: ALDRKL(0.1, normalise="none", n=n),
    "aldr_kl softplus_l1": lambda: ALDRKL(0.1, normalise="softplus_l1", n=n),
}
arms = pytest.mark.parametrize("make", ARMS.values(), ids=ARMS)
dtypes = pytest.mark.parametrize(
    "dtype", [torch.float64, torch.float32, torch.bfloat16, torch.float16], ids=str
)


def scores(dtype=torch.float64):
    return torch.randn(n, K, dtype=torch.float64, generator=torch.Generator().manual_seed(2)).to(dtype)


def charge(loss, f, labels=y, positions=index):
    return loss(f, labels, positions) if getattr(loss, "indexed", False) else loss(f, labels)


EXTREMES = {
    "signs": 1e4 * scores().sign(),
    "label wins": 1e4 * torch.eye(K, dtype=torch.float64)[y],
    "label loses": -1e4 * torch.eye(K, dtype=torch.float64)[y],
    "all high": torch.full((n, K), 1e4, dtype=torch.float64),
    "all low": torch.full((n, K), -1e4, dtype=torch.float64),
    "all zero": torch.zeros(n, K, dtype=torch.float64),
}


@arms
@dtypes
@pytest.mark.parametrize("extreme", EXTREMES.values(), ids=EXTREMES)
def test_extreme_scores_give_finite_values_and_gradients(make, dtype, extreme):
    f = extreme.to(dtype).requires_grad_()
    for loss in (make(), make().double()):  # per-sample state in another dtype than the scores
        value = charge(loss, f)
        (grad,) = torch.autograd.grad(value.sum(), f)
        assert value.shape == (n,)
        assert torch.isfinite(value).all()
        assert torch.isfinite(grad).all()


@arms
@dtypes
def test_half_precision_scores_are_charged_in_float32(make, dtype):
    if isinstance(make(), torch.nn.CrossEntropyLoss):
        pytest.skip("torch's own")
    f = scores(dtype)
    value = charge(make(), f)
    assert value.dtype == (dtype if dtype in (torch.float64, torch.float32) else torch.float32)
    assert_close(value.double(), charge(make(), f.double()), rtol=1e-5, atol=1e-5)
    assert charge(make().double(), f).dtype == value.dtype  # whatever per-sample state is kept in


@arms
def test_gradcheck(make):
    loss = make().double().eval()  # eval: ALDR's lambda_i is a constant, as it is in its gradient
    assert torch.autograd.gradcheck(lambda f: charge(loss, f), (2 * scores()).requires_grad_())


@arms
def test_samples_do_not_see_each_other(make):
    f, order = scores(), torch.randperm(n, generator=torch.Generator().manual_seed(3))
    value = charge(make(), f)
    assert_close(charge(make(), f[order], y[order], index[order]), value[order], rtol=0, atol=1e-14)
    one_by_one = [charge(make(), f[i : i + 1], y[i : i + 1], index[i : i + 1]) for i in range(n)]
    assert_close(torch.cat(one_by_one), value, rtol=0, atol=1e-14)
    assert charge(make(), f[:0], y[:0], index[:0]).shape == (0,)


@arms
def test_arm_learns_the_labels(make):
    """Gradient descent on free scores names every label; truncated GCE has to start where p_y > k_t."""
    loss, f = make(), 0.1 * scores()
    if isinstance(loss, GCE) and loss.k_t:
        f += 2 * torch.eye(K)[y]
    assert isinstance(loss, GCE) or not torch.equal(f.argmax(1), y)
    f.requires_grad_()
    optimizer = torch.optim.SGD([f], lr=0.5)
    for _ in range(60):
        optimizer.zero_grad()
        charge(loss, f).sum().backward()
        optimizer.step()
    assert torch.equal(f.argmax(1), y)


@arms
def test_refused_scores_and_labels(make):
    if isinstance(make(), torch.nn.CrossEntropyLoss):
        pytest.skip("torch's own")
    f = scores()
    for bad, labels in [(f[:, :1], y), (f[0], y), (f[None], y), (f, y[:3]), (f.long(), y)]:
        with pytest.raises((ValueError, TypeError)):  # TypeError: jaxtyping's own check, where it is on
            charge(make(), bad, labels)
    for label in (K, -100, -1 - K):
        with pytest.raises(ValueError, match=r"labels y in 0\.\.4, got"):
            charge(make(), f, torch.full_like(y, label))


nan, inf = math.nan, math.inf
REFUSED = [
    (LDRKL, "lambda_", [0.0, -1.0, nan, inf]),
    (LDRKL, "c", [-0.1, nan, inf]),
    (LDRKL, "normalise", ["l2", ""]),
    (ALDRKL, "lambda0", [0.0, -1.0, nan, inf]),
    (ALDRKL, "alpha", [1.0, 0.0, nan, inf]),
    (ALDRKL, "c", [-0.1, nan, inf]),
    (ALDRKL, "normalise", ["l2"]),
    (ALDRKL, "smoothing", [-1e-9, nan, inf]),
    (ALDRKL, "n", [0, -1]),
    (CS, "c", [-0.1, nan, inf]),
    (WW, "c", [-0.1, nan, inf]),
    (GCE, "q", [0.0, 1.1, nan]),
    (GCE, "k_t", [0.0, 1.0, nan]),
    (TGCE, "q", [0.0, 1.1, nan]),
    (TGCE, "k_t", [0.0, 1.0, nan]),
    (TGCE, "warm_up", [-0.1, 1.1, nan]),
    (TGCE, "n", [0, -1]),
    (SCE, "b", [-0.1, 1.1, nan]),
    (SCE, "A", [0.0, nan, inf]),
    (RLL, "c", [0.0, nan, inf]),
    (JS, "pi", [0.0, 1.0, nan]),
    (RCE, "A", [0.0, nan, inf]),
    (AGCE, "a", [0.0, nan, inf]),
    (AGCE, "q", [0.0, nan, inf]),
    (AUL, "a", [1.0, nan, inf]),
    (AUL, "q", [0.0, nan, inf]),
]


@pytest.mark.parametrize(
    ("loss", "name", "value"),
    [(loss, name, value) for loss, name, values in REFUSED for value in values],
)
def test_refused_argument(loss, name, value):
    with pytest.raises(ValueError, match=f"^{loss.__name__} needs .*got .*$") as error:
        loss(**{name: value})
    assert str(value) in str(error.value)
    assert "\n" not in str(error.value)


@pytest.mark.parametrize("w", [-0.1, 10.1, nan])
def test_refused_weight_and_partner(w):
    with pytest.raises(ValueError, match="NCEPlus needs 0 <= w <= 10"):
        NCEPlus(RCE(), w)
    with pytest.raises((ValueError, TypeError), match="other"):
        NCEPlus("rce")  # type: ignore[arg-type]
