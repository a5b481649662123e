"""Replicas: equal to networks alone, derivatives in x equal to autograd's."""

import pytest
import torch
from torch.func import hessian, jacrev, vmap
from torch.testing import assert_close

from lossatlas.nets import MLP
from lossatlas.replicas import ACTIVATIONS, ReplicaMLP, forward_derivatives

f64 = torch.float64


def rng(seed=0):
    return torch.Generator().manual_seed(seed)


def replicas(widths, activation="tanh", R=2):
    nets = [ReplicaMLP(widths, rng(r), activation=activation, gain=1.7).double() for r in range(R)]
    whole = ReplicaMLP(widths, rng(), activation=activation).double()
    for into, parts in zip(
        whole.parameters(), zip(*(n.parameters() for n in nets), strict=True), strict=True
    ):
        into.data = torch.cat([p.detach() for p in parts])
    return whole


def test_old_arguments_draw_what_they_drew():
    net = ReplicaMLP([3, 4, 2], rng(5), last=0.5)
    g = rng(5)
    for k, (before, after) in enumerate([(3, 4), (4, 2)]):
        for part, shape in ((net.weights[k], (1, before, after)), (net.biases[k], (1, 1, after))):
            assert part.equal((torch.rand(shape, generator=g) * 2 - 1) * before**-0.5 * (0.5 if k else 1.0))
    x = torch.randn(1, 5, 3)
    first = torch.baddbmm(net.biases[0], x, net.weights[0])
    assert net(x).equal(torch.baddbmm(net.biases[1], torch.nn.functional.silu(first), net.weights[1]))


def test_gain_keeps_the_second_moment():
    net = ReplicaMLP([400, 400, 400, 400], rng(), activation="relu", gain=6**0.5)
    x = torch.randn(1, 300, 400)
    assert net(x).square().mean().item() == pytest.approx(
        2.0, rel=0.2
    )  # the last layer meets half of the moment
    assert ReplicaMLP([2, 3], rng(), gain=2.0).weights[0].equal(2 * ReplicaMLP([2, 3], rng()).weights[0])


@pytest.mark.parametrize("order", ["norm_act", "act_norm"])
@pytest.mark.parametrize("norm", [None, "batch"])
def test_replicas_train_as_each_alone(norm, order):
    torch.manual_seed(0)
    nets = [MLP(3, [5, 4], 2, "relu", norm, order).double() for _ in range(3)]
    whole = ReplicaMLP.of(nets)
    x, y = torch.randn(4, 3, 8, 3, dtype=f64), torch.randint(2, (4, 3, 8))
    together = torch.optim.SGD(whole.parameters(), lr=0.1, momentum=0.9)
    alone = [torch.optim.SGD(net.parameters(), lr=0.1, momentum=0.9) for net in nets]
    for a, b in zip(x, y, strict=True):
        together.zero_grad()
        scores = whole(a)
        torch.nn.functional.cross_entropy(scores.flatten(0, 1), b.flatten(), reduction="sum").div(
            8
        ).backward()
        together.step()
        for r, (net, sgd) in enumerate(zip(nets, alone, strict=True)):
            sgd.zero_grad()
            torch.nn.functional.cross_entropy(net(a[r]), b[r]).backward()
            sgd.step()
    for evaluated in (False, True):
        for module in (whole, *nets):
            module.train(not evaluated)
        assert_close(
            whole(x[0]), torch.stack([n(a) for n, a in zip(nets, x[0], strict=True)]), atol=1e-10, rtol=1e-8
        )
    fresh = [MLP(3, [5, 4], 2, "relu", norm, order).double().eval() for _ in range(3)]
    whole.read_back(fresh)
    assert_close(torch.stack([n(a) for n, a in zip(fresh, x[1], strict=True)]), whole(x[1]))
    with pytest.raises(ValueError, match="equal layers"):
        ReplicaMLP.of([nets[0], MLP(3, [5], 2, "relu", norm, order)])


@pytest.mark.parametrize("activation", ACTIVATIONS)
def test_activations_are_torchs_and_so_are_their_derivatives(activation):
    f, all_three = ACTIVATIONS[activation]
    z = torch.linspace(-4.1, 4.0, 28, dtype=f64, requires_grad=True)
    value, first, second = all_three(z)
    assert_close(value, f(z), rtol=1e-12, atol=1e-12)
    (slope,) = torch.autograd.grad(f(z).sum(), z, create_graph=True)
    assert_close(first, slope, rtol=1e-10, atol=1e-12)
    if activation != "relu":
        (bend,) = torch.autograd.grad(slope.sum(), z)
        assert_close(second.detach(), bend, rtol=1e-10, atol=1e-10)
    wide = torch.tensor([-1e4, 1e4], requires_grad=True)
    parts = all_three(wide)
    (g,) = torch.autograd.grad(sum(p.sum() for p in parts), wide)
    assert all(torch.isfinite(p).all() for p in (*parts, g))


@pytest.mark.parametrize("activation", ACTIVATIONS)
@pytest.mark.parametrize("widths", [[3, 2], [3, 7, 2], [2, 6, 5, 4, 3]])
def test_forward_derivatives_are_autograds(activation, widths):
    net = replicas(widths, activation)
    x = torch.randn(2, 4, widths[0], dtype=f64, generator=rng(1))
    found = forward_derivatives(net, x, order=2)
    for r in range(2):

        def f(row, r=r):
            every = net(torch.stack([row] * 2)[:, None])
            return every[r, 0]

        H = vmap(hessian(f))(x[r])
        assert_close(found.value[r], net(x)[r], rtol=1e-10, atol=1e-10)
        assert_close(found.jacobian[r], vmap(jacrev(f))(x[r]), rtol=1e-10, atol=1e-10)
        assert_close(found.laplacian[r], H.diagonal(dim1=-2, dim2=-1).sum(-1), rtol=1e-10, atol=1e-10)
    only = forward_derivatives(net, x, order=1)
    assert only.laplacian is None
    assert_close(only.jacobian, found.jacobian)


def test_an_mlp_is_one_replica_without_the_axis():
    net = MLP(3, [6, 5], 2, "gelu").double()
    x = torch.randn(4, 3, dtype=f64)
    found = forward_derivatives(net, x, order=2)
    assert_close(found.value, net(x))

    def f(row):
        return net(row[None])[0]

    assert_close(found.jacobian, vmap(jacrev(f))(x), rtol=1e-10, atol=1e-10)
    H = vmap(hessian(f))(x)
    assert_close(found.laplacian, H.diagonal(dim1=-2, dim2=-1).sum(-1), rtol=1e-10, atol=1e-10)


def test_losses_of_the_derivatives_reach_weights_and_points():
    net = replicas([2, 3, 1])
    x = torch.randn(2, 3, 2, dtype=f64, requires_grad=True)

    def penalty(x, *_):
        value, jacobian, laplacian = forward_derivatives(net, x, order=2)
        return (value + jacobian.square().sum(-1) + laplacian).square().sum()

    assert torch.autograd.gradcheck(penalty, (x, *net.parameters()))


def test_the_laplacian_of_a_sine_is_known():
    """sin(w x + b): - |w|^2 sin."""
    net = ReplicaMLP([2, 1, 1], rng(), activation="sin").double()
    net.weights[1].data[:], net.biases[1].data[:] = 1.0, 0.0
    x = torch.randn(1, 5, 2, dtype=f64)
    found = forward_derivatives(net, x, order=2)
    assert_close(found.laplacian, -net.weights[0].square().sum() * found.value)


@pytest.mark.parametrize(
    ("net", "shape", "order"),
    [
        (ReplicaMLP([2, 3, 1], rng(), norm="batch"), (1, 2, 2), 1),
        (MLP(2, [3], 1), (1, 2, 2), 1),
        (MLP(2, [3], 1), (2, 2), 3),
        (MLP(2, [3], 1, norm="batch"), (2, 2), 1),
    ],
)
def test_derivatives_refuse(net, shape, order):
    with pytest.raises(ValueError, match="forward_derivatives"):
        forward_derivatives(net, torch.zeros(shape), order)


@pytest.mark.parametrize("wrong", [{"activation": "step"}, {"gain": 0.0}, {"norm": "layer"}, {"order": "x"}])
def test_replicas_refuse(wrong):
    with pytest.raises(ValueError, match="ReplicaMLP"):
        ReplicaMLP([2, 3], rng(), **wrong)
