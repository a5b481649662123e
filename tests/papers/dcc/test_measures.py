"""What the dcc loop draws, when it changes its distance, and how what comes out is measured."""

import itertools
from functools import partial

import pytest
import torch
from torch.nn import functional

from lossatlas.data import Data, Split
from lossatlas.papers.dcc import ConvNet, LitCondense, LitLinear, Matching, RealImages, condense, linear
from lossatlas.papers.dcc.matching import class_gradients, classwise_distance, contrastive_distance
from lossatlas.papers.dcc.nets import drawn, kernel_velocity, tangent_kernel
from lossatlas.seeding import stream

DCC = Matching(contrast=True)


def made(rule, **settings):
    g = stream(0, "images")
    train, test = (
        Split(torch.randint(0, 256, (n, 1, 8, 8), generator=g, dtype=torch.uint8), y, y)
        for n, y in ((60, torch.arange(60) % 3), (30, torch.arange(30) % 3))
    )
    data = Data("made up", 3, train, test, mean=torch.tensor([0.5]), std=torch.tensor([0.25]))
    given = {"make_net": partial(ConvNet, width=4, depth=1), "side": 6, "rounds": 2, "inner": 2, "epochs_net": 2,
             "batch_real": 5, "eval_nets": 2, "eval_steps": 2, "amplitude": 1.0, **settings}  # fmt: skip
    module = LitCondense(data, rule=rule, **given)
    module._optimizer = torch.optim.SGD([module.S], lr=0.1, momentum=0.5)
    return module


def test_the_loop_uses_the_distance_that_the_warmup_says(monkeypatch):
    used = []
    for name, distance in (("dc", classwise_distance), ("dcc", contrastive_distance)):
        monkeypatch.setattr(
            condense,
            f"{'classwise' if name == 'dc' else 'contrastive'}_distance",
            lambda net, S, T, name=name, distance=distance: used.append(name) or distance(net, S, T),
        )
    module = made(Matching(contrast=True, warmup_outer=1, warmup_inner=2), inner=3)
    for outer in range(2):
        module._condense(outer)
    assert used == ["dc", "dc", "dcc", "dcc", "dcc", "dcc"]


def test_no_network_that_is_matched_on_is_evaluated(monkeypatch):
    found = {}

    def noted(make, seed, purpose):
        net = drawn(make, seed, purpose)
        found[purpose] = next(net.parameters()).detach().flatten()
        return net

    monkeypatch.setattr(condense, "drawn", noted)
    module = made(DCC)
    module.play(torch.arange(1))
    matched = set(found)
    module.play(torch.arange(1, 2))
    matched |= {"dcc/net/1"}
    assert matched == {"dcc/net/0", "dcc/net/1"}
    assert len(found) == 2 + 2 + condense.CHECKS + 1  # matched, evaluated, checked, kernel
    for one, other in itertools.combinations(found.values(), 2):
        assert not one.equal(other)


def test_accuracy_is_the_mean_over_networks(monkeypatch):
    scores = iter([0.2, 0.6])
    monkeypatch.setattr(condense, "accuracy", lambda *_: next(scores))
    module = made(RealImages("random"))
    module.play(torch.arange(2))
    (top1,) = (v for name, v in module.results().items() if name.endswith("top1"))
    assert top1 == pytest.approx(0.4)


def test_the_network_follows_plain_sgd_on_the_images():
    module = made(DCC, lr_net=0.3)
    net = drawn(module.make, 0, "dcc/net/0")
    hand = drawn(module.make, 0, "dcc/net/0")
    module._train(net, torch.optim.SGD(net.parameters(), lr=module.lr_net), stream(0, "draws"))
    x, y = module.S.detach()[:, 0], torch.arange(3)
    for _ in range(2):
        grads = torch.autograd.grad(functional.cross_entropy(hand(x), y), list(hand.parameters()))
        with torch.no_grad():
            for p, g in zip(hand.parameters(), grads, strict=True):
                p -= 0.3 * g
    for a, b in zip(net.parameters(), hand.parameters(), strict=True):
        torch.testing.assert_close(a, b)


def test_between_moves_the_network_has_its_own_rate(monkeypatch):
    rates, original = [], torch.optim.SGD

    def noted(parameters, lr, **settings):
        rates.append((lr, settings))
        return original(parameters, lr=lr, **settings)

    module = made(DCC, lr_net=0.3)
    monkeypatch.setattr(torch.optim, "SGD", noted)
    module._condense(0)
    assert rates == [(0.3, {})]  # no momentum, no weight decay


def test_share_of_the_texture_leaves_out_what_the_images_have_in_common():
    module = made(RealImages("random"))
    before = module._texture_share()
    with torch.no_grad():
        module.S += 50 * module.images.Q[0].reshape(1, 6, 6)
    assert module._texture_share() == pytest.approx(before, rel=1e-3)


def test_distances_and_cosines_are_means_over_fresh_networks():
    module = made(RealImages("random"))
    nets = [drawn(module.make, 0, f"dcc/check/{k}") for k in range(condense.CHECKS)]
    cosines, contrast = [], []
    for k, net in enumerate(nets):
        S = module.S.detach()
        contrast.append(contrastive_distance(net, S, module._real(f"check/{k}", 5)).item())
        G = [torch.cat([g.flatten() for g in grads]) for grads in class_gradients(net, S, keep=False)]
        cosines += [functional.cosine_similarity(a, b, dim=0).item() for a, b in itertools.combinations(G, 2)]
    found = module._distances()
    assert found[0] == pytest.approx(sum(contrast) / len(contrast), rel=1e-5)
    assert found[2] == pytest.approx(sum(cosines) / len(cosines), rel=1e-4)


def test_velocity_of_the_kernel_is_per_step_of_training_on_the_images(monkeypatch):
    module = made(RealImages("random"), lr_net=0.05)
    monkeypatch.setattr(condense, "PROBES", 2)
    net, probe = drawn(module.make, 0, "dcc/kernel"), module._real("kernel", 4).flatten(0, 1)
    sgd, kernels = torch.optim.SGD(net.parameters(), lr=0.05), [tangent_kernel(net, probe)]
    for _ in range(2):
        for _ in range(2):
            sgd.zero_grad()
            functional.cross_entropy(net(module.S.detach()[:, 0]), torch.arange(3)).backward()
            sgd.step()
        kernels.append(tangent_kernel(net, probe))
    expected = [kernel_velocity(a, b, 2) for a, b in itertools.pairwise(kernels)]
    assert module._velocity() == pytest.approx(sum(expected) / 2, rel=1e-3, abs=1e-8)


def test_accuracy_of_the_linear_study_is_that_of_sgd_with_momentum():
    run = LitLinear(None, rule=RealImages("random"), repetitions=2, M=20.0, C=4, d=30, rounds=1)
    run.play(torch.arange(1))
    tested = linear.images(run.world, run.numbers, "test", linear.TEST)
    for r, row in enumerate(run.unit_metrics()):
        net = torch.nn.Linear(30, 4, bias=False)
        net.weight.data = run._weights("eval")[r].clone()
        sgd = torch.optim.SGD(net.parameters(), lr=run.lr_net, momentum=0.9)
        for _ in range(linear.EVAL_STEPS):
            sgd.zero_grad()
            functional.cross_entropy(net(run.S.detach()[r, :, 0]), torch.arange(4)).backward()
            sgd.step()
        right = net(tested[r]).argmax(-1) == torch.arange(4)[:, None]
        assert row["metrics"]["test/accuracy"] == pytest.approx(right.float().mean().item(), abs=0.003)
