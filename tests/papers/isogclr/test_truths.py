"""Truths of the contrastive losses, float64; expected values are written apart from the code."""

import math

import numpy as np
import pytest
import torch
from scipy.optimize import minimize
from torch.nn.functional import cross_entropy, normalize
from torch.testing import assert_close

from lossatlas.papers.isogclr import BimodalISogCLR, ISogCLR, NTXent, SogCLR, rgcl
from lossatlas.papers.isogclr.pairs import log_mean_exp, two_view_differences

torch.set_num_threads(1)
b, d, n = 6, 5, 9
index = torch.tensor([4, 0, 8, 2, 7, 5])


def embeddings(seed=0, count=2, b=b, dtype=torch.float64):
    e = torch.randn(count, b, d, dtype=torch.float64, generator=torch.Generator().manual_seed(seed))
    return [part.to(dtype) for part in normalize(e, dim=2)]


def negatives(e1, e2):
    """(2b, 2b - 2) h of each anchor by loops: all views of the other samples, minus the positive."""
    e, size = torch.cat([e1, e2]), len(e1)
    rows = []
    for a in range(2 * size):
        others = [z for z in range(2 * size) if z % size != a % size]
        rows.append(torch.stack([e[a] @ e[z] - e[a] @ e[(a + size) % (2 * size)] for z in others]))
    return torch.stack(rows)


def made(kind=ISogCLR, **settings):
    loss = kind(**settings).double()
    loss.allocate(n)  # after double(): in float32 tau_init would be rounded
    return loss


def test_differences_leave_out_the_anchor_and_its_positive():
    h, own = two_view_differences(*embeddings())
    assert_close(h[~own].view(2 * b, -1), negatives(*embeddings()), rtol=0, atol=1e-14)
    assert int(own.sum()) == 4 * b


@pytest.mark.parametrize("rho", [0.05, 0.4, 1.0])
def test_rgcl_at_its_best_tau_is_the_worst_case_over_the_kl_ball(rho):
    h = np.array([-0.8, -0.3, 0.0, 0.1, 0.45, 0.6])
    row, own = torch.tensor(h)[None], torch.zeros(1, 6, dtype=torch.bool)
    grid = torch.logspace(-3, 2, 20001, dtype=torch.float64)
    dual = rgcl(row.expand(len(grid), -1), own.expand(len(grid), -1), grid, rho).min().item()
    ball = {"type": "ineq", "fun": lambda p: rho - np.sum(p * np.log(6 * np.maximum(p, 1e-300)))}
    simplex = {"type": "eq", "fun": lambda p: p.sum() - 1}
    start = np.full(6, 1 / 6) + 1e-3 * h
    primal = minimize(
        lambda p: -p @ h, start / start.sum(), bounds=[(1e-12, 1)] * 6, constraints=[ball, simplex],
        options={"ftol": 1e-14, "maxiter": 1000},
    )  # fmt: skip
    assert primal.success
    assert -primal.fun == pytest.approx(dual, abs=1e-6)


def test_rgcl_gradcheck_and_limits():
    h, own = two_view_differences(*embeddings())
    tau = torch.linspace(0.05, 1.0, 2 * b, dtype=torch.float64, requires_grad=True)
    assert torch.autograd.gradcheck(lambda h, tau: rgcl(h, own, tau, 0.3), (h.clone().requires_grad_(), tau))
    inside = negatives(*embeddings())
    assert_close(rgcl(h, own, 1e-5, 0.0), inside.amax(1), rtol=0, atol=1e-4)
    assert_close(rgcl(h, own, 1e6, 0.0), inside.mean(1), rtol=0, atol=1e-5)


def stepped(gamma=1.0, beta=1.0, eta=1e-3, **settings):
    """The gradient of tau that one visit used, from how far tau moved."""
    loss = made(gamma=gamma, beta=beta, eta=eta, tau_init=0.4, clip=1e9, **settings)
    loss(*embeddings(), index)
    return (0.4 - loss.tau[index]) / eta


@pytest.mark.parametrize("rho", [0.0, 0.4, 1.5])
def test_gradient_of_tau_is_that_of_eq_1_and_rho_minus_kl(rho):
    h, own = two_view_differences(*embeddings())
    tau = torch.full((b,), 0.4, dtype=torch.float64, requires_grad=True)
    rgcl(h, own, tau.repeat(2), rho).view(2, b).mean(0).sum().backward()
    found = stepped(rho=rho, tau_max=10.0)
    assert_close(found, tau.grad, rtol=0, atol=1e-11)
    p = torch.softmax(negatives(*embeddings()) / 0.4, dim=1)
    kl = (p * (p * p.shape[1]).log()).sum(1).view(2, b).mean(0)
    assert_close(found, rho - kl, rtol=0, atol=1e-11)


def test_gradient_of_tau_is_averaged_over_views_then_clipped():
    whole = stepped(rho=0.4)
    loss = made(gamma=1.0, beta=1.0, eta=0.01, tau_init=0.4, clip=0.1)
    loss(*embeddings(), index)
    assert_close(0.4 - loss.tau[index], 0.01 * whole.clamp(-0.1, 0.1), rtol=0, atol=1e-12)
    assert (whole.abs() > 0.1).any()


@pytest.mark.parametrize("epochs", [1, 3])
def test_surrogate_has_the_gradient_of_eq_1_at_gamma_1(epochs):
    e1, e2 = (e.requires_grad_() for e in embeddings())
    loss = made(rho=0.3, gamma=1.0)
    for k in range(epochs):
        tau = loss.tau[index].clone()
        value = loss(e1, e2, index)
        found = torch.autograd.grad(value.sum(), (e1, e2))
        h, own = two_view_differences(e1, e2)
        exact = rgcl(h, own, tau.repeat(2), 0.3).view(2, b).mean(0)
        assert_close(value, exact, rtol=0, atol=1e-12)
        for ours, theirs in zip(found, torch.autograd.grad(exact.sum(), (e1, e2)), strict=True):
            assert_close(ours, theirs, rtol=0, atol=1e-12)
        assert k == 0 or not torch.equal(tau, torch.full_like(tau, 0.1))


def test_three_visits_equal_the_recursion_of_eqs_2_and_3_by_hand():
    gamma, beta, eta, rho = 0.8, 0.5, 0.03, 0.4
    loss = made(rho=rho, gamma=gamma, beta=beta, eta=eta)
    s, u, tau = None, torch.zeros(b, dtype=torch.float64), torch.full((b,), 0.1, dtype=torch.float64)
    for visit in range(3):
        e1, e2 = (e.requires_grad_() for e in embeddings(visit))
        h, t = negatives(e1, e2), tau.repeat(2)[:, None]
        g = (h / t).exp().mean(1).view(2, b).detach()
        views = g if s is None else (1 - gamma) * s + gamma * g
        p = (h / t).exp().detach() / views.flatten()[:, None]
        m = (p * h).mean(1)
        grads = torch.autograd.grad(m.view(2, b).mean(0).sum(), (e1, e2))
        value = loss(e1, e2, index)
        for ours, theirs in zip(torch.autograd.grad(value.sum(), (e1, e2)), grads, strict=True):
            assert_close(ours, theirs, rtol=0, atol=1e-12)
        assert_close(
            value.detach(), (t[:, 0] * (views.flatten().log() + rho)).view(2, b).mean(0), rtol=0, atol=1e-12
        )
        s = views.mean(0)
        grad = (views.log() + rho - (m.detach() / t[:, 0]).view(2, b)).mean(0).clamp(-3, 3)
        u = (1 - beta) * u + beta * grad
        tau = (tau - eta * u).clamp(0.05, 1.0)
        assert_close(loss.tau[index], tau, rtol=0, atol=1e-12)
        assert_close(loss.log_s[index], s.log(), rtol=0, atol=1e-12)
        assert_close(loss.temperature.u[index], u, rtol=0, atol=1e-12)
    unseen = [i for i in range(n) if i not in index.tolist()]
    assert (loss.tau[unseen] == 0.1).all()
    assert (loss.average.visits[unseen] == 0).all()


@pytest.mark.parametrize("tau", [0.1, 0.3])
def test_isogclr_that_does_not_learn_tau_is_sogclr(tau):
    ours, theirs = made(eta=0.0, rho=0.0, tau_init=tau), made(SogCLR, tau=tau)
    for visit in range(3):
        e1, e2 = (e.requires_grad_() for e in embeddings(visit))
        a, z = ours(e1, e2, index), theirs(e1, e2, index)
        assert_close(a, z, rtol=0, atol=1e-13)
        for left, right in zip(
            torch.autograd.grad(a.sum(), (e1, e2)), torch.autograd.grad(z.sum(), (e1, e2)), strict=True
        ):
            assert_close(left, right, rtol=0, atol=1e-13)


def test_sogclr_has_tau_times_the_gradient_of_nt_xent_without_the_positive():
    tau, (e1, e2) = 0.3, (e.requires_grad_() for e in embeddings())
    found = torch.autograd.grad(made(SogCLR, tau=tau, gamma=1.0)(e1, e2, index).sum(), (e1, e2))
    decoupled = torch.logsumexp(negatives(e1, e2) / tau, dim=1).view(2, b).mean(0).sum()
    for ours, theirs in zip(found, torch.autograd.grad(decoupled, (e1, e2)), strict=True):
        assert_close(ours / tau, theirs, rtol=0, atol=1e-12)


@pytest.mark.parametrize("tau", [0.05, 0.1, 0.5])
def test_nt_xent_is_the_cross_entropy_of_the_positive(tau):
    e1, e2 = embeddings()
    e = torch.cat([e1, e2])
    logits = (e @ e.T / tau).fill_diagonal_(-math.inf)
    target = torch.arange(2 * b).roll(b)
    expected = cross_entropy(logits, target, reduction="none").view(2, b).mean(0)
    assert_close(NTXent(tau)(e1, e2), expected, rtol=0, atol=1e-12)


def test_gradcheck_nt_xent():
    assert torch.autograd.gradcheck(NTXent(0.2), tuple(e.requires_grad_() for e in embeddings()))


@pytest.mark.parametrize(
    ("rho", "end"), [(0.0, 1.0), (math.log(2 * b - 2) + 0.01, 0.05)], ids=["rises", "falls"]
)
def test_tau_goes_to_a_bound_where_no_ball_fits(rho, end):
    loss, before = made(rho=rho, eta=0.3, gamma=1.0), torch.full((n,), 0.1, dtype=torch.float64)
    for _ in range(300):
        loss(*embeddings(), index)
        step = loss.tau - before
        assert (step >= 0).all() if rho == 0 else (step <= 0).all()
        before = loss.tau.clone()
    assert_close(loss.tau[index], torch.full((b,), end, dtype=torch.float64), rtol=0, atol=1e-12)


def test_tau_rests_where_kl_is_rho():
    rho, loss = 0.3, made(rho=0.3, gamma=1.0)
    for _ in range(3000):
        loss(*embeddings(), index)
    inside = negatives(*embeddings())
    p = torch.softmax(inside / loss.tau[index].repeat(2)[:, None], dim=1)
    kl = (p * (p * p.shape[1]).log()).sum(1).view(2, b).mean(0)
    free = (loss.tau[index] > 0.05) & (loss.tau[index] < 1.0)
    assert free.any()
    assert_close(kl[free], torch.full_like(kl[free], rho), rtol=0, atol=1e-6)


def test_shared_temperature_takes_the_mean_gradient():
    apart = made(rho=0.4, tau_init=0.2, eta=0.01)
    one = made(rho=0.4, tau_init=0.2, eta=0.01, shared=True)
    values = [loss(*embeddings(), index) for loss in (apart, one)]
    assert_close(values[0], values[1], rtol=0, atol=1e-14)
    assert one.tau.shape == (1,)
    assert_close(one.tau[0], apart.tau[index].mean(), rtol=0, atol=1e-12)
    assert len(one.log_s) == n


def test_eval_mode_moves_nothing():
    loss = made()
    loss(*embeddings(), index)
    before = {name: value.clone() for name, value in loss.state_dict().items()}
    loss.eval()(*embeddings(1), index)
    assert all(torch.equal(before[name], value) for name, value in loss.state_dict().items())


LOSSES = {
    "isogclr": lambda **more: ISogCLR(n=n, **more),
    "sogclr": lambda **more: SogCLR(n=n, **more),
    "bimodal": lambda **more: BimodalISogCLR(n=n, **more),
    "nt_xent": lambda **more: NTXent(**more),
}
losses = pytest.mark.parametrize("name", LOSSES)


def charge(loss, e1, e2, at=index):
    return loss(e1, e2, at) if getattr(loss, "indexed", False) else loss(e1, e2)


def cold(name):
    """A temperature of .01: h / tau reaches 200."""
    bounds = {"tau_init": 0.01, "tau_min": 0.01} if name in ("isogclr", "bimodal") else {"tau": 0.01}
    return LOSSES[name](**bounds)


@losses
@pytest.mark.parametrize("dtype", [torch.float64, torch.float32, torch.float16, torch.bfloat16], ids=str)
@pytest.mark.parametrize("scale", [1.0, 100.0], ids=["h/tau = 200", "scores of 1e4"])
def test_finite_at_h_over_tau_of_200_and_more(name, dtype, scale):
    e1 = torch.ones(b, d, dtype=torch.float64) / math.sqrt(d)
    loss = cold(name)
    # the positives are opposite, the negatives equal: h = 2; then the other way round, from a huge s to a tiny g
    for e2 in (-e1, e1 + 0.01 * embeddings()[0]):
        pair = [(math.sqrt(scale) * e).to(dtype).requires_grad_() for e in (e1, e2)]
        value = charge(loss, *pair)
        assert torch.isfinite(value).all()
        assert all(torch.isfinite(g).all() for g in torch.autograd.grad(value.sum(), pair))
        assert all(torch.isfinite(state).all() for state in loss.state_dict().values())


@losses
def test_order_of_the_samples_does_not_matter(name):
    one, other, order = LOSSES[name]().double(), LOSSES[name]().double(), torch.tensor([3, 1, 5, 0, 2, 4])
    for visit in range(2):
        e1, e2 = embeddings(visit)
        value = charge(one, e1, e2)
        assert_close(charge(other, e1[order], e2[order], index[order]), value[order], rtol=0, atol=1e-13)
    for name_, state in one.state_dict().items():
        assert_close(other.state_dict()[name_], state, rtol=0, atol=1e-13)


def test_bimodal_equals_the_reference_form_with_running_maximum():
    gamma, beta, eta, rho = 0.8, 0.5, 0.03, (0.4, 0.9)
    loss = made(BimodalISogCLR, rho_image=rho[0], rho_text=rho[1])
    tau, u = torch.full((2, b), 0.1, dtype=torch.float64), torch.zeros(2, b, dtype=torch.float64)
    s, top = torch.zeros(2, b, dtype=torch.float64), torch.full((2, b), -math.inf, dtype=torch.float64)
    off = ~torch.eye(b, dtype=torch.bool)
    for visit in range(3):
        image, text = (e.requires_grad_() for e in embeddings(visit))
        similarity = image @ text.T
        total = torch.zeros(b, dtype=torch.float64)
        for k, rows in enumerate((similarity, similarity.T)):
            h = (rows - similarity.diagonal()[:, None])[off].view(b, b - 1)
            x = h.detach() / tau[k, :, None]
            new = torch.maximum(top[k], x.amax(1))
            g = (x - new[:, None]).exp().mean(1)
            s[k] = g if visit == 0 else (1 - gamma) * s[k] * (top[k] - new).exp() + gamma * g
            top[k] = new
            p = (x - new[:, None]).exp() / s[k, :, None]
            m = (p * h).mean(1)
            total = total + m
            grad = s[k].log() + new + rho[k] - m.detach() / tau[k]
            u[k] = (1 - beta) * u[k] + beta * grad.clamp(-5, 5)
            tau[k] = (tau[k] - eta * u[k]).clamp(0.05, 1.0)
        expected = torch.autograd.grad(total.sum(), (image, text))
        found = torch.autograd.grad(loss(image, text, index).sum(), (image, text))
        for ours, theirs in zip(found, expected, strict=True):
            assert_close(ours, theirs, rtol=0, atol=1e-12)
    for k, direction in enumerate((loss.image, loss.text)):
        assert_close(direction.temperature.tau[index], tau[k], rtol=0, atol=1e-12)
        assert_close(direction.average.log_s[index], s[k].log() + top[k], rtol=0, atol=1e-12)


def test_state_survives_a_checkpoint():
    whole, first, second = made(), made(), made()
    for visit in range(4):
        whole(*embeddings(visit), index.roll(visit))
        if visit < 2:
            first(*embeddings(visit), index.roll(visit))
    second.load_state_dict(first.state_dict())
    for visit in (2, 3):
        second(*embeddings(visit), index.roll(visit))
    assert whole.state_dict().keys() >= {
        "average.log_s",
        "average.visits",
        "temperature.tau",
        "temperature.u",
    }
    assert all(torch.equal(second.state_dict()[k], v) for k, v in whole.state_dict().items())


nan, inf = math.nan, math.inf
REFUSED = [
    *((NTXent, {"tau": v}) for v in (0.0, -1.0, nan, inf)),
    *((SogCLR, {"tau": v}) for v in (0.0, nan)),
    *((kind, {"gamma": v}) for kind in (SogCLR, ISogCLR, BimodalISogCLR) for v in (0.0, 1.1, nan)),
    *((ISogCLR, {"rho": v}) for v in (-0.1, nan, inf)),
    *(
        (ISogCLR, bounds)
        for bounds in ({"tau_min": 0.2}, {"tau_max": 0.07}, {"tau_min": 0.0}, {"tau_init": nan})
    ),
    *((ISogCLR, {"beta": v}) for v in (0.0, 1.1)),
    *((ISogCLR, {"eta": v}) for v in (-1.0, nan)),
    (ISogCLR, {"clip": 0.0}),
    (BimodalISogCLR, {"rho_text": -1.0}),
    *((kind, {"n": v}) for kind in (SogCLR, ISogCLR, BimodalISogCLR) for v in (1, 0, -3)),
]


@pytest.mark.parametrize(("kind", "settings"), REFUSED, ids=str)
def test_refused_argument(kind, settings):
    with pytest.raises(ValueError, match=r"needs? .*got .*$") as error:
        kind(**settings)
    assert "\n" not in str(error.value)
    assert str(next(iter(settings.values()))) in str(error.value)


@losses
def test_refused_batches(name):
    loss, (e1, e2) = LOSSES[name](), embeddings()
    with pytest.raises(ValueError, match="at least 2 samples, got 1"):
        charge(loss, e1[:1], e2[:1], index[:1])
    for bad in [(e1[:3], e2), (e1.long(), e2.long()), (e1, e2.float()), (e1[0], e2[0])]:
        with pytest.raises((ValueError, TypeError)):  # TypeError: jaxtyping's own check, where it is on
            charge(loss, *bad)


@pytest.mark.parametrize("name", ["isogclr", "sogclr", "bimodal"])
def test_refused_index(name):
    loss, (e1, e2) = LOSSES[name](), embeddings()
    for value, match in ((n, r"must lie in 0\.\.8, got 0\.\.9"), (-1, r"got -1\.\.8"), (0, "1 repeated")):
        with pytest.raises(ValueError, match=match):
            loss(e1, e2, index.clone().index_fill_(0, torch.tensor([0]), value))
    with pytest.raises(ValueError, match="one per sample"):
        loss(e1, e2, index[:, None][:, [0, 0]][:, 0][:3])
    fresh = type(loss)()
    with pytest.raises(ValueError, match="allocate"):
        fresh(e1, e2, index)


def test_log_mean_exp_needs_no_normaliser():
    h, own = two_view_differences(*embeddings())
    expected = (negatives(*embeddings()) / 0.2).exp().mean(1).log()
    assert_close(log_mean_exp(h, own, 0.2), expected, rtol=0, atol=1e-13)
    with pytest.raises(ValueError, match="rho >= 0"):
        rgcl(h, own, 0.2, -0.1)
    with pytest.raises(ValueError, match="tau > 0"):
        rgcl(h, own, 0.0, 0.1)
