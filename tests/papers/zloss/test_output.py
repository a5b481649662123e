"""The factored output layer against the dense one, float64: 200 steps of exact SGD."""

from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.testing import assert_close

from lossatlas.papers.zloss import OneHotMSE, SphericalOutput, SphericalSoftmax, TaylorSoftmax, ZLoss

D, d = 300, 16
LOSSES = [ZLoss(0.5, 5.0), SphericalSoftmax(0.1), TaylorSoftmax(), OneHotMSE()]


def name(value) -> str:
    return type(value).__name__ if isinstance(value, nn.Module) else str(value)


def layer(loss: Any, **settings) -> SphericalOutput:
    torch.manual_seed(0)
    return SphericalOutput(d, D, loss, dtype=torch.float64, **settings)


def dense_step(W: Tensor, h: Tensor, y: Tensor, loss: nn.Module, lr: float) -> tuple[Tensor, Tensor, Tensor]:
    """(W after the step, gradient of h before it, losses) by autograd."""
    W, h = W.clone().requires_grad_(), h.clone().requires_grad_()
    values = loss(h @ W.T, y)
    gW, gh = torch.autograd.grad(values.mean(), (W, h))
    return (W - lr * gW).detach(), gh, values.detach()


def batches(m: int, steps: int):
    """Batches with a repeated class where there are two samples or more."""
    g = torch.Generator().manual_seed(m)
    for _ in range(steps):
        y = torch.randint(D, (m,), generator=g)
        y[-1] = y[0]
        yield torch.randn(m, d, dtype=torch.float64, generator=g), y


def off(found: Tensor, wanted: Tensor) -> float:
    """Largest difference relative to the largest entry."""
    return float((found - wanted).abs().max() / wanted.abs().max())


@pytest.mark.parametrize("m", [1, 16])
@pytest.mark.parametrize("loss", LOSSES, ids=name)
def test_200_factored_steps_are_200_dense_steps(m: int, loss: nn.Module) -> None:
    output = layer(loss)
    W, lr = output.weight, {ZLoss: 5.0, OneHotMSE: 1.0}.get(type(loss), 0.05)
    first = W
    for h, y in batches(m, 200):
        W, gh_dense, values_dense = dense_step(W, h, y, loss, lr)
        values, gh = output.update(h, y, lr)
        assert_close(values, values_dense, rtol=1e-8, atol=1e-10)
        assert off(gh, gh_dense) < 1e-8
    assert off(W, first) > 0.1  # it has learned something
    assert off(output.weight, W) < 1e-8
    assert off(output.Q, W.T @ W) < 1e-8
    assert off(output.wbar, W.sum(0)) < 1e-8
    assert (output.U @ output.U_inv - torch.eye(d, dtype=torch.float64)).abs().max() < 1e-10
    assert off(output.U, torch.eye(d, dtype=torch.float64)) > 1e-4  # U was used, not folded away each step
    assert int(output.steps) == 200


def test_coefficients_are_the_sheets_scalars_and_give_the_gradient() -> None:
    loss, a, b = ZLoss(0.5, 5.0), 0.5, 5.0
    output = layer(loss)
    (h, y), *_ = batches(16, 1)
    o = (h @ output.weight.T).requires_grad_()
    (g,) = torch.autograd.grad(loss(o, y).sum(), o)
    o = o.detach()
    o_c, s, q = o[torch.arange(16), y], o.sum(1), (o**2).sum(1)
    _, A, B, G = output.coefficients(o_c, s, q)
    mu, sigma = s / D, (q / D - (s / D) ** 2).sqrt()
    z_c = (o_c - mu) / sigma
    S = torch.sigmoid(a * (b - z_c))
    assert_close(A, S / sigma * (1 / D - z_c * mu / (sigma * D)))
    assert_close(B, S * z_c / (sigma**2 * D))
    assert_close(G, -S / sigma)
    rebuilt = A[:, None] + B[:, None] * o
    rebuilt[torch.arange(16), y] += G
    assert_close(rebuilt, g, atol=1e-12, rtol=0)


def test_backward_reaches_the_net_below() -> None:
    output, loss = layer(ZLoss(0.5, 5.0)), ZLoss(0.5, 5.0)
    (h, y), *_ = batches(16, 1)
    below = nn.Linear(d, d, dtype=torch.float64)
    wanted = torch.autograd.grad(loss(below(h) @ output.weight.T, y).mean(), below.weight)[0]
    values = output.loss(below(h), y, lr=1.0)
    assert_close(values.mean(), loss(below(h) @ layer(loss).weight.T, y).mean())
    values.mean().backward()
    assert_close(below.weight.grad, wanted)
    assert not list(output.parameters())


def test_forward_gives_all_outputs() -> None:
    output = layer(ZLoss(0.5, 5.0))
    for h, y in batches(16, 20):
        output.update(h, y, 5.0)
    assert_close(output(h), h @ output.weight.T)
    assert_close(output.rows(y), output.weight[y])


def test_state_dict_goes_on_bit_for_bit() -> None:
    one, two = layer(ZLoss(0.5, 5.0)), SphericalOutput(d, D, ZLoss(0.5, 5.0), dtype=torch.float64)
    steps = list(batches(16, 20))
    for h, y in steps[:10]:
        one.update(h, y, 5.0)
    two.load_state_dict(one.state_dict())
    for h, y in steps[10:]:
        one.update(h, y, 5.0)
        two.update(h, y, 5.0)
    assert all(torch.equal(v, two.state_dict()[k]) for k, v in one.state_dict().items())
    assert set(one.state_dict()) == {"V", "U", "U_inv", "w", "Q", "wbar", "steps"}


def test_a_spread_out_u_is_folded_and_nothing_changes() -> None:
    """Long inputs of one direction stretch U; with spread = 1.2 it is folded early, with 1e2 never here."""
    loss = OneHotMSE()
    tight, loose = layer(loss, spread=1.2), layer(loss, spread=1e2)
    W = loose.weight
    folds = 0
    for h, y in batches(4, 50):
        W, *_ = dense_step(W, 3 * h, y, loss, 0.2)
        tight.update(3 * h, y, 0.2)
        loose.update(3 * h, y, 0.2)
        folds += torch.equal(tight.U, torch.eye(d, dtype=torch.float64))
    assert 0 < folds < 50
    assert not torch.equal(loose.U, torch.eye(d, dtype=torch.float64))
    for output in (tight, loose):
        assert off(output.weight, W) < 1e-8
        assert off(output.Q, W.T @ W) < 1e-8
    low, high = torch.linalg.svdvals(tight.U)[[-1, 0]]
    assert 1 / 1.2 <= low <= high <= 1.2


def test_after_a_fold_q_is_that_of_the_rounded_table() -> None:
    torch.manual_seed(0)
    output = SphericalOutput(d, D, OneHotMSE(), spread=1.2)  # V in float32
    folded = 0
    for h, y in batches(4, 50):
        output.update(3 * h, y, 0.2)
        if torch.equal(output.U, torch.eye(d, dtype=torch.float64)):
            W = output.V.double() + output.w
            assert off(output.Q, W.T @ W) < 1e-12
            folded += 1
    assert folded


def test_a_singular_step_is_taken_exactly() -> None:
    """MSE with lr 2/D |h|^2 = 1 makes M singular: U would lose its inverse."""
    loss, output = OneHotMSE(), layer(OneHotMSE())
    h = torch.zeros(1, d, dtype=torch.float64)
    h[0, 3] = 1.0
    y = torch.tensor([7])
    W, *_ = dense_step(output.weight, h, y, loss, D / 2)
    output.update(h, y, D / 2)
    assert_close(output.weight, W)
    assert off(output.Q, W.T @ W) < 1e-10
    assert output.U_inv.isfinite().all()


def test_recomputing_stops_the_drift_of_a_float32_table() -> None:
    """V in float32 rounds what Q believes; the sum anew brings both together."""
    torch.manual_seed(0)
    output = SphericalOutput(d, D, ZLoss(0.5, 5.0), recompute_every=10**6)
    for h, y in batches(16, 100):
        output.update(h, y, 5.0)

    def gap() -> float:
        W = output.V.double() @ output.U + output.w
        return off(output.Q, W.T @ W)

    before = gap()
    output.refresh()
    assert before < 1e-4
    assert gap() < 1e-12 < before
    short = SphericalOutput(d, D, ZLoss(0.5, 5.0), recompute_every=7)
    for h, y in batches(16, 14):
        short.update(h, y, 5.0)
    assert torch.equal(short.U, torch.eye(d, dtype=torch.float64))


def test_rows_in_blocks_and_a_given_weight(monkeypatch) -> None:
    monkeypatch.setattr("lossatlas.papers.zloss.output.ROWS", 7)
    output = layer(ZLoss(0.5, 5.0))
    W = torch.randn(D, d, dtype=torch.float64)
    output.set_weight(W)
    assert torch.equal(output.weight, W)
    assert_close(output.Q, W.T @ W)
    assert_close(output.wbar, W.sum(0))


@pytest.mark.parametrize(
    ("settings", "word"),
    [
        ({"D": 2}, "at least 3 classes, got 2"),
        ({"d": 0}, "d >= 1"),
        ({"recompute_every": 0}, "recompute_every=0"),
        ({"spread": 1.0}, r"spread=1\.0"),
    ],
)
def test_wrong_sizes_are_one_line(settings: dict, word: str) -> None:
    with pytest.raises(ValueError, match=word):
        SphericalOutput(**{"d": 4, "D": 5, "loss": ZLoss(), **settings})
