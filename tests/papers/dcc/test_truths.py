"""DCC: distances against hand-made numbers, gradients against finite differences, the mechanism by hand."""

import math

import pytest
import torch
from torch import nn

from lossatlas.papers.dcc import augment
from lossatlas.papers.dcc.linear import distance, images, regression_gradients, world
from lossatlas.papers.dcc.matching import (
    class_gradients,
    classwise_distance,
    contrastive_distance,
    gradient_distance,
    gradients,
    row_distance,
)
from lossatlas.papers.dcc.nets import ConvNet, drawn, kernel_velocity, tangent_kernel, trained
from lossatlas.papers.dcc.rules import Matching, RealImages, k_centers
from lossatlas.seeding import stream

f64 = torch.float64


def randn(*shape, seed=0):
    return torch.randn(*shape, generator=stream(seed, "test"), dtype=f64)


def small_net():
    return drawn(lambda: nn.Sequential(nn.Linear(3, 4), nn.Tanh(), nn.Linear(4, 2)), 0, "test").double()


# ------------------------------------------------------------------ the distance
def test_distance_without_eps_is_about_directions_alone():
    G = randn(5, 7)
    assert row_distance(G, G, eps=0.0).item() == pytest.approx(0.0, abs=1e-12)
    assert row_distance(G, -G, eps=0.0).item() == pytest.approx(10.0)  # 2 a neuron
    other = randn(5, 7, seed=1)
    scaled = other * torch.tensor([1e-6, 0.1, 1.0, 10.0, 1e6], dtype=f64)[:, None]
    assert row_distance(3 * G, scaled, eps=0.0).item() == pytest.approx(
        row_distance(G, other, eps=0.0).item()
    )
    expected = sum(1 - math.cos(a) for a in (0.3, 1.2))
    turned = torch.tensor([[math.cos(a), math.sin(a)] for a in (0.3, 1.2)], dtype=f64)
    assert row_distance(turned, torch.tensor([[1.0, 0.0]] * 2, dtype=f64), eps=0.0).item() == pytest.approx(
        expected
    )


@pytest.mark.parametrize(("norm", "cost"), [(1e-6, 0.999999), (1e-3, 0.5), (0.1, 1e-4), (10.0, 1e-8)])
def test_with_the_papers_eps_small_rows_cost_although_equal(norm, cost):
    row = torch.tensor([[0.6, 0.8]], dtype=f64) * norm
    assert row_distance(row, row).item() == pytest.approx(cost, rel=1e-3)  # 1 - |g|^2 / (|g|^2 + 1e-6)


def test_biases_and_norms_are_left_out_and_kernels_flattened():
    kernel, bias = randn(4, 3, 3, 3), randn(4)
    alone = gradient_distance([kernel], [2 * kernel.flip(0)])
    assert gradient_distance([kernel, bias], [2 * kernel.flip(0), -bias]).equal(alone)
    assert alone.equal(row_distance(kernel.flatten(1), 2 * kernel.flip(0).flatten(1)))
    with pytest.raises(ValueError, match="equal shapes"):
        gradient_distance([kernel], [bias])
    with pytest.raises(ValueError, match="output dimension"):
        gradient_distance([bias], [bias])


def test_zero_and_huge_gradients_are_finite():
    zero = torch.zeros(2, 3, requires_grad=True)
    row_distance(zero, torch.ones(2, 3)).backward()
    assert zero.grad is not None
    assert torch.isfinite(zero.grad).all()
    S = (1e4 * torch.randn(2, 1, 1, 8, 8, generator=stream(0, "huge"))).requires_grad_()
    net = drawn(lambda: ConvNet(1, 2, 8, width=4, depth=1), 0, "test")
    for measure in (classwise_distance, contrastive_distance):
        loss = measure(net, S, -S.detach())
        (grad,) = torch.autograd.grad(loss, S)
        assert torch.isfinite(loss)
        assert torch.isfinite(grad).all()


# ------------------------------------------------------------------ matching
def test_one_class_makes_both_distances_one():
    net, S, T = small_net(), randn(1, 2, 3), randn(1, 5, 3, seed=1)
    assert classwise_distance(net, S, T).item() == pytest.approx(contrastive_distance(net, S, T).item())


@pytest.mark.parametrize("measure", [classwise_distance, contrastive_distance])
@pytest.mark.parametrize("kind", ["two neurons", "two layers", "convolutions"])
def test_gradient_of_the_images_is_that_of_finite_differences(measure, kind):
    net, shape = {
        "two neurons": (nn.Linear(3, 2, bias=False), (3,)),
        "two layers": (small_net(), (3,)),
        "convolutions": (ConvNet(1, 2, 4, width=2, depth=1), (1, 4, 4)),
    }[kind]
    net = drawn(lambda: net, 0, "test").double()
    S, T = randn(2, 1, *shape).requires_grad_(), randn(2, 4, *shape, seed=1)
    assert torch.autograd.gradcheck(lambda S: measure(net, S, T), (S,), eps=1e-6, atol=1e-5, rtol=1e-4)


@pytest.mark.parametrize("measure", [classwise_distance, contrastive_distance])
def test_real_gradients_are_constants(measure):
    T = randn(2, 4, 3).requires_grad_()
    S = randn(2, 1, 3, seed=1).requires_grad_()
    grads = torch.autograd.grad(measure(small_net(), S, T), (S, T), allow_unused=True)
    assert grads[0] is not None
    assert grads[1] is None


def test_what_two_classes_share_cancels_in_the_mean_gradient():
    """At W = 0 a class's gradient is -+ x / 2: x_c = v_c + u gives a mean without u, whatever u is."""
    net = nn.Linear(3, 2, bias=False).double()
    nn.init.zeros_(net.weight)
    v = torch.tensor([[[1.0, 0.0, 0.0]], [[0.0, 1.0, 0.0]]], dtype=f64)
    u, other = torch.tensor([0.0, 0.0, 9.0], dtype=f64), torch.tensor([0.0, 0.0, -9.0], dtype=f64)
    T = v + u
    assert contrastive_distance(net, v + other, T, eps=0.0).item() == pytest.approx(0.0, abs=1e-12)
    assert contrastive_distance(net, v, T, eps=0.0).item() == pytest.approx(0.0, abs=1e-12)
    # cosine of every row: (1 - 81) / (1 + 81)
    assert classwise_distance(net, v + other, T, eps=0.0).item() == pytest.approx(4 * (1 + 80 / 82))
    S = (v + 0.5).requires_grad_()
    (g,) = torch.autograd.grad(contrastive_distance(net, S, T, eps=0.0), S)
    assert g.sum(0)[0, 2].item() == pytest.approx(0.0, abs=1e-12)  # both classes along u: no force
    (g,) = torch.autograd.grad(classwise_distance(net, S, T, eps=0.0), S)
    assert abs(g.sum(0)[0, 2].item()) > 0.1  # towards the common part


def test_vmap_over_classes_equals_the_loop():
    net, x = small_net(), randn(2, 3, 3)

    def loss(weights, images, c):
        return nn.functional.cross_entropy(
            torch.func.functional_call(net, weights, (images,)), c.expand(len(images))
        )

    weights = {name: p.detach() for name, p in net.named_parameters()}
    together = torch.func.vmap(torch.func.grad(loss), in_dims=(None, 0, 0))(weights, x, torch.arange(2))
    for c, G in enumerate(class_gradients(net, x, keep=False)):
        matched = [together[name][c] for name, p in net.named_parameters() if p.ndim > 1]
        assert len(G) == len(matched) == 2
        for a, b in zip(G, matched, strict=True):
            torch.testing.assert_close(a, b)


# ------------------------------------------------------------------ the linear study
def test_closed_form_is_autograd_of_softmax_regression():
    W, x = randn(2, 4, 6), randn(2, 4, 3, 6, seed=1)
    G = regression_gradients(W, x)
    for r in range(2):
        net = nn.Linear(6, 4, bias=False).double()
        net.weight.data = W[r]
        for c in range(4):
            (expected,) = gradients(net, x[r, c], torch.full((3,), c), keep=False)
            torch.testing.assert_close(G[r, c], expected)
        T = randn(2, 4, 5, 6, seed=2)
        for contrast, measure in ((False, classwise_distance), (True, contrastive_distance)):
            assert distance(W, x, T, contrast)[r].item() == pytest.approx(measure(net, x[r], T[r]).item())


def test_linear_images_have_the_parts_they_are_said_to_have():
    w = world([0, 1], C=3, d=40, M=20.0)
    torch.testing.assert_close(w.m.norm(dim=1), torch.ones(2))
    torch.testing.assert_close(w.v.norm(dim=2), torch.ones(2, 3))
    x = images(w, [0, 1], "a", 4000)
    along = (x @ w.m[:, None, :, None])[..., 0] - (w.v @ w.m[:, :, None])
    assert along.mean().item() == pytest.approx(20.0, abs=0.1)
    assert along.std().item() == pytest.approx(20 * 0.3, rel=0.02)
    rest = x - along[..., None] * w.m[:, None, None]
    torch.testing.assert_close(rest.mean(2), w.v, atol=0.02, rtol=0)
    assert (rest - w.v[:, :, None]).square().sum(-1).mean().item() == pytest.approx(39 / 40, rel=0.02)
    assert images(w, [0, 1], "a", 4000).equal(x)
    assert not images(w, [0, 1], "b", 4000).equal(x)


# ------------------------------------------------------------------ rules, networks, augmentation
def test_warmup_is_where_both_counts_are_low():
    rule = Matching(contrast=True, warmup_outer=2, warmup_inner=3)
    table = {(o, i): rule.contrasts(o, i) for o in range(4) for i in range(5)}
    assert {at for at, contrasts in table.items() if not contrasts} == {
        (o, i) for o in (0, 1) for i in (0, 1, 2)
    }
    assert Matching(contrast=True).contrasts(0, 0)
    assert not Matching(contrast=False).contrasts(500, 9)


@pytest.mark.parametrize(
    ("make", "says"),
    [
        (lambda: Matching(True, warmup_outer=-1), "warm-up"),
        (lambda: RealImages("luck"), "kcenter"),
        (lambda: k_centers(torch.zeros(3, 2), 4), "k <= 3"),
        (lambda: ConvNet(1, 2, 4, width=2, depth=3), "2\\^depth"),
    ],
)
def test_bad_arguments_are_refused(make, says):
    with pytest.raises(ValueError, match=says):
        make()


def test_k_centers_by_hand():
    line = torch.tensor([[0.0], [1.0], [2.0], [3.0], [10.0]])  # mean 3.2
    assert k_centers(line, 3).tolist() == [3, 4, 0]


def test_networks_depend_on_seed_and_purpose_alone():
    torch.manual_seed(5)
    state = torch.get_rng_state()
    one = drawn(lambda: nn.Linear(3, 2), 1, "dcc/net/0")
    assert torch.get_rng_state().equal(state)
    torch.manual_seed(6)
    assert one.weight.equal(drawn(lambda: nn.Linear(3, 2), 1, "dcc/net/0").weight)
    for seed, purpose in ((2, "dcc/net/0"), (1, "dcc/eval/0")):
        assert not one.weight.equal(drawn(lambda: nn.Linear(3, 2), seed, purpose).weight)


def test_training_divides_the_rate_at_half():
    """One step on a linear net by hand, then what SGD with momentum and weight decay does, written out."""
    x, y = torch.tensor([[1.0, 2.0]], dtype=f64), torch.tensor([0])
    net = nn.Linear(2, 2, bias=False).double()
    W, v = net.weight.detach().clone(), torch.zeros(2, 2, dtype=f64)
    for lr in (0.1, 0.1, 0.01):
        p = (x @ W.mT).softmax(-1)
        v = 0.9 * v + (p - torch.tensor([[1.0, 0.0]], dtype=f64)).mT @ x + 5e-4 * W
        W = W - lr * v
    trained(net, x, y, steps=3, seed=0, lr=0.1)
    torch.testing.assert_close(net.weight.detach(), W)


def test_tangent_kernel_is_the_sum_over_parameters():
    net, x = small_net().float(), torch.randn(3, 3, generator=stream(0, "kernel"))
    rows = []
    for image in x:
        per_score = [torch.autograd.grad(net(image[None])[0, k], list(net.parameters())) for k in range(2)]
        rows.append(torch.stack([torch.cat([g.flatten() for g in G]) for G in per_score]))
    J = torch.stack(rows)
    torch.testing.assert_close(tangent_kernel(net, x), torch.einsum("ikp,jkp->ij", J, J))
    K = torch.tensor([[2.0, 1.0], [1.0, 3.0]])
    assert kernel_velocity(K, 5 * K, 10) == pytest.approx(0.0, abs=1e-7)
    assert kernel_velocity(torch.eye(2), torch.tensor([[0.0, 1.0], [1.0, 0.0]]), 10) == pytest.approx(0.1)


@pytest.mark.parametrize("operation", augment.OPERATIONS)
def test_augmentation_is_differentiable_and_the_same_for_all_images(operation):
    d = augment.Draw(operation, torch.tensor([[0.3, 0.7, 0.9, 0.2]]))
    x = randn(2, 3, 6, 6).requires_grad_()
    assert torch.autograd.gradcheck(lambda x: augment.apply(x, d), (x,))
    twice = torch.cat([x, x]).detach()
    out = augment.apply(twice, d)
    assert out.shape == twice.shape
    torch.testing.assert_close(out[:2], out[2:])
    assert not out.allclose(twice)


def test_augmentation_draws_every_operation():
    g = stream(0, "draws")
    assert {augment.draw(g).operation for _ in range(100)} == set(augment.OPERATIONS)


@pytest.mark.parametrize("operation", augment.OPERATIONS)
def test_images_with_numbers_of_their_own_are_changed_as_each_alone(operation):
    x, u = randn(5, 3, 8, 8), torch.rand(5, 4, generator=stream(0, "u"))
    together = augment.apply(x, augment.Draw(operation, u))
    for k in range(5):
        torch.testing.assert_close(
            together[k : k + 1], augment.apply(x[k : k + 1], augment.Draw(operation, u[k : k + 1]))
        )
    if operation != "flip":
        one = augment.apply(x[:1].expand(5, -1, -1, -1), augment.Draw(operation, u))
        assert not all(one[0].allclose(other) for other in one[1:])
    with pytest.raises(ValueError, match="all 5 images"):
        augment.apply(x, augment.Draw(operation, u[:2]))


def test_augmentation_has_the_ranges_of_its_authors():
    """Colour by hand; the scale is uniform in [1/1.2, 1.2], read off the border of an enlarged constant image."""
    x = randn(1, 3, 4, 4)
    u = torch.tensor([[0.25, 0.0, 0.9, 0.2]], dtype=f64)
    y = x + 0.4
    y = 0.5 * (y - y.mean(1, keepdim=True)) + y.mean(1, keepdim=True)
    y = 0.7 * (y - y.mean()) + y.mean()
    torch.testing.assert_close(augment.apply(x, augment.Draw("colour", u)), y)
    grey = augment.apply(x, augment.Draw("colour", torch.tensor([[0.0, 0.0, 0.5, 0.5]], dtype=f64)))
    torch.testing.assert_close(grey, x.mean(1, keepdim=True).expand_as(x))  # saturation 0
    ramp = torch.linspace(-63 / 64, 63 / 64, 64, dtype=f64).expand(1, 1, 64, 64)  # its value is its place
    for at, factor in ((0.0, 1 / 1.2), (0.5, (1.2 + 1 / 1.2) / 2), (1.0, 1.2)):
        d = augment.Draw("scale", torch.tensor([[0.0, at, 0.0, 0.0]], dtype=f64))
        middle = augment.apply(ramp, d)[0, 0, 32, 20:44]
        torch.testing.assert_close(middle, factor * ramp[0, 0, 32, 20:44])


def test_shift_and_cutout_by_hand():
    x = torch.arange(1.0, 65.0, dtype=f64).view(1, 1, 8, 8)
    moved = augment.apply(
        x, augment.Draw("shift", torch.tensor([[0.0, 0.99, 0.0, 0.0]]))
    )  # one down, one left
    expected = torch.zeros(8, 8, dtype=f64)
    expected[1:, :-1] = x[0, 0, :-1, 1:]
    assert moved[0, 0].equal(expected)
    cut = augment.apply(x, augment.Draw("cutout", torch.tensor([[0.0, 0.5, 0.0, 0.0]])))[0, 0]
    hole = cut == 0
    assert hole[:2, 2:6].all()
    assert hole.sum() == 8
