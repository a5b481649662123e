"""The images of the dcc study, its loop and what is measured of what comes out."""

import json
import math
import os
import signal
from functools import partial

import pytest
import torch

from lossatlas.data import Data, Split
from lossatlas.papers.dcc import ConvNet, LitCondense, LitLinear, Matching, RealImages
from lossatlas.papers.dcc.images import RANK, texture_basis, textured
from lossatlas.seeding import stream

NET = partial(ConvNet, width=4, depth=1)
DC, DCC = Matching(contrast=False), Matching(contrast=True)


def data(n=60, classes=3, side=8):
    g = stream(0, "images")
    splits = []
    for count in (n, n // 2):
        x = torch.randint(0, 256, (count, 1, side, side), generator=g, dtype=torch.uint8)
        y = torch.arange(count) % classes
        splits.append(Split(x, y, y))
    return Data("made up", classes, splits[0], splits[1], mean=torch.tensor([0.5]), std=torch.tensor([0.25]))


def condense(rule, seed=0, **settings):
    given = {"make_net": NET, "side": 6, "rounds": 1, "inner": 2, "epochs_net": 1, "batch_real": 5,
             "eval_nets": 1, "eval_steps": 2, "whole_steps": 2, "amplitude": 1.0, **settings}  # fmt: skip
    module = LitCondense(data(), rule=rule, seed=seed, **given)
    module._optimizer = torch.optim.SGD([module.S], lr=0.1, momentum=0.5)
    return module


# ------------------------------------------------------------------ images
def test_texture_is_orthonormal_smooth_and_the_same_for_all():
    Q = texture_basis(1, 14)
    torch.testing.assert_close(Q @ Q.mT, torch.eye(RANK), atol=1e-5, rtol=0)
    images = Q.reshape(RANK, 14, 14)
    white = torch.randn(RANK, 14, 14, generator=stream(0, "white"))

    def roughness(x):
        return ((x - x.roll(1, -1)).square().mean() / x.square().mean()).item()

    assert roughness(images) < 0.5 < roughness(white)
    assert texture_basis(1, 14).equal(Q)


def test_texture_has_the_variance_of_the_images_and_knows_no_class():
    plain, under = (textured(data(3000), [2, 0], side=8, amplitude=a, seed=1) for a in (0.0, 1.0))
    assert plain.x.mean().item() == pytest.approx(0.0, abs=1e-5)
    assert plain.x.std().item() == pytest.approx(1.0, rel=1e-5)
    t = under.x - plain.x
    assert t.square().mean().item() == pytest.approx(1.0, rel=0.05)
    flat = t.flatten(1)
    torch.testing.assert_close(flat @ under.Q.mT @ under.Q, flat, atol=1e-4, rtol=0)  # in the span of Q
    means = torch.stack([flat[under.y == c].mean(0) for c in range(2)])
    assert means.abs().max().item() < 0.2
    assert not textured(data(3000), [2, 0], side=8, amplitude=1.0, seed=2).x.equal(under.x)


def test_classes_are_numbered_in_the_order_given():
    made = data()
    images = textured(made, [2, 0], side=8, amplitude=0.0, seed=0)
    first = made.batch("train", torch.tensor([0, 2]), train=False).x  # classes 0 and 2
    rows = torch.stack([images.x[images.y == 1][0], images.x[images.y == 0][0]])
    assert torch.corrcoef(torch.stack([first.flatten(), rows.flatten()]))[0, 1].item() == pytest.approx(1.0)
    assert (len(images.x), len(images.x_test)) == (40, 20)


@pytest.mark.parametrize(
    "wrong",
    [{"classes": [0]}, {"classes": [0, 0]}, {"classes": [0, 7]}, {"side": 9}, {"amplitude": math.nan},
     {"amplitude": -1.0}],
)  # fmt: skip
def test_wrong_images_are_refused(wrong):
    with pytest.raises(ValueError, match=r"classes must be|textured images need"):
        textured(data(), **{"classes": None, "side": 4, "amplitude": 0.0, "seed": 0, **wrong})


@pytest.mark.parametrize("wrong", [{"ipc": 0}, {"inner": 0}, {"ipc": 21}, {"eval_steps": 0}])
def test_wrong_counts_are_refused(wrong):
    with pytest.raises(ValueError, match=r"counts of at least 1|smallest class"):
        condense(DC, **wrong)


# ------------------------------------------------------------------ the loop
def test_all_arms_start_from_the_same_real_images():
    first = condense(RealImages("random"))
    for rule in (DC, DCC):
        module = condense(rule)
        assert module.S.equal(first.S)
        assert module._real("real/0/0", 5).equal(first._real("real/0/0", 5))
    assert not condense(DC, seed=1).S.equal(first.S)
    flat = first.S.detach().flatten(0, 1).flatten(1)
    assert (flat[:, None] == first.images.x.flatten(1)).all(2).any(1).all()


def test_a_move_is_sgd_with_momentum_on_the_distance():
    from lossatlas.papers.dcc.matching import classwise_distance
    from lossatlas.papers.dcc.nets import drawn

    module = condense(DC, inner=1, rounds=3)
    S, v = module.S.detach().clone(), 0.0
    for outer in range(3):
        net = drawn(module.make, 0, f"dcc/net/{outer}")
        moved = S.clone().requires_grad_()
        loss = classwise_distance(net, moved, module._real(f"real/{outer}/0", 5))
        v = 0.5 * v + torch.autograd.grad(loss, moved)[0]
        S = S - 0.1 * v
    module.play(torch.arange(3))
    torch.testing.assert_close(module.S.detach(), S)


def test_the_network_is_trained_between_moves_but_not_after_the_last(monkeypatch):
    module = condense(DCC, inner=4, rounds=2)
    calls = []
    monkeypatch.setattr(module, "_train", lambda *_: calls.append(module.S.detach().clone()))
    module.play(torch.arange(2))
    assert len(calls) == 2 * 3
    assert not calls[0].equal(calls[1])


def test_siamese_augmentation_is_one_draw_a_class_for_both_sets():
    module = condense(Matching(contrast=False, augment=True))
    S = module.S.detach()
    a, b = module._siamese(S, S.expand_as(S).clone(), stream(0, "draws"))
    assert a.equal(b)
    assert not a.allclose(S)


@pytest.mark.parametrize("by", ["random", "kcenter", "whole"])
def test_real_images_stay_real(by):
    module = condense(RealImages(by))
    assert module.play(torch.tensor([0])) is None
    flat = module.S.detach().flatten(0, 1).flatten(1)
    assert (flat[:, None] == module.images.x.flatten(1)).all(2).any(1).all()
    assert set(module.results()) >= {"eval/top1"}
    assert ("match/contrast" in module.results()) == (by != "whole")
    assert bool(module.extras()) == (by != "whole")


def test_share_of_the_texture_by_hand():
    module = condense(DC)
    Q = module.images.Q.reshape(RANK, 1, 6, 6)[:1]
    other = torch.zeros(1, 1, 6, 6)
    other[0, 0, 0, 0] = 1.0
    outside = other - (other.flatten(1) @ module.images.Q.mT @ module.images.Q).reshape(1, 1, 6, 6)
    with torch.no_grad():
        module.S.copy_(torch.stack([Q, -Q, 0 * Q]))
    assert module._texture_share() == pytest.approx(1.0, abs=1e-5)
    assert outside.norm() > 1e-3
    with torch.no_grad():
        module.S.copy_(torch.stack([outside, -outside, 0 * Q]))
    assert module._texture_share() == pytest.approx(0.0, abs=1e-5)


def test_linear_study_refuses_what_it_has_not():
    for wrong in (
        {"rule": RealImages("whole")},
        {"rule": Matching(False, augment=True)},
        {"rule": DC, "C": 1},
    ):
        with pytest.raises(ValueError, match=r"at random only|no augmentation|C, d >= 2"):
            LitLinear(None, **wrong)


def test_repetitions_do_not_meet():
    """Two repetitions together end where each ends alone."""
    ends = []
    for count in (1, 3):
        module = LitLinear(None, rule=DCC, repetitions=count, rounds=2, inner=3, batch_real=4, d=8)
        module._optimizer, module._plain = torch.optim.SGD([module.S], lr=0.1, momentum=0.5), True
        module.play(torch.arange(2))
        ends.append((module.S.detach()[0], module.found[0]))
    torch.testing.assert_close(ends[0][0], ends[1][0])
    torch.testing.assert_close(ends[0][1], ends[1][1])


def test_a_resumed_run_ends_where_an_uncut_one_does(cli, outputs, monkeypatch):
    argv = ["experiment=dcc_condense", "scale=smoke", "rounds=4", "chunk=1", "callbacks.progress=false"]
    assert cli(*argv).code == 0
    (path,) = outputs.glob("dcc_condense/smoke/*/record.json")
    whole = json.loads(path.read_text())["metrics"]
    played = []
    original = LitCondense._condense

    def condense(self, outer):
        played.append(outer)
        if played == [0, 1, 2]:
            os.kill(os.getpid(), signal.SIGINT)
        return original(self, outer)

    monkeypatch.setattr(LitCondense, "_condense", condense)
    monkeypatch.setenv("LOSSATLAS_OUTPUTS", str(outputs.parent / "cut"))
    assert cli(*argv).code == 130
    assert cli(*argv).code == 0
    assert played == [0, 1, 2, 3]
    (path,) = (outputs.parent / "cut").glob("dcc_condense/smoke/*/record.json")
    assert json.loads(path.read_text())["metrics"] == whole


@pytest.mark.parametrize(
    "words",
    [["dcc_condense", "arm=dsac"], ["dcc_condense", "arm=kcenter"], ["dcc_linear", "arm=dcc"]],
)
def test_everything_follows_the_images_precision(cli, outputs, words):
    answer = cli(
        f"experiment={words[0]}",
        words[1],
        "scale=smoke",
        "trainer.precision=64-true",
        "callbacks.progress=false",
    )
    assert answer.code == 0, answer.err


@pytest.mark.parametrize(("ipc", "loops"), [(1, (10, 5, 5)), (10, (10, 50, 10)), (50, (50, 10, 10))])
def test_moves_epochs_and_warmup_follow_the_images_a_class(ipc, loops):
    from hydra import compose, initialize_config_dir

    from lossatlas.paths import conf_dir

    with initialize_config_dir(str(conf_dir()), version_base=None):
        cfg = compose("config", overrides=["experiment=dcc_condense", f"ipc={ipc}"])
    assert (cfg.module.inner, cfg.module.epochs_net, cfg.arms.dcc_warmup.warmup_inner) == loops


def test_images_a_class_that_the_paper_does_not_have_need_their_loops(cli):
    answer = cli(
        "experiment=dcc_condense",
        "scale=smoke",
        "ipc=2",
        "module.epochs_net=null",
        "callbacks.progress=false",
    )
    assert answer.code != 0
    assert "module.epochs_net" in answer.out + answer.err
