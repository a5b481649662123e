"""The studies: long tail, probe, sphere, statistics; checkpoints and two processes give the same states."""

import json
import os
import signal
import subprocess
import sys
from contextlib import contextmanager
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch
import yaml
from torch import nn

from lossatlas.claims import load_card
from lossatlas.data import Split
from lossatlas.lit import LitModule
from lossatlas.nets import SharedBatchNorm2d, SmallConv, resnet18, share_batch_norms
from lossatlas.papers.isogclr.embed import Embedder, alignment, uniformity
from lossatlas.papers.isogclr.sphere import Sphere
from lossatlas.papers.isogclr.study import at_tuned, boxes, class_means, gains, size_correlation
from lossatlas.papers.isogclr.tail import class_sizes, long_tail
from lossatlas.paths import conf_dir, experiments_dir
from lossatlas.schedules import warmup_cosine

IMAGES = ("experiment=isogclr_longtail", "scale=smoke", "callbacks.progress=false", "batch_size=8", "chunk=2")
BALL = ("experiment=isogclr_sphere", "scale=smoke", "callbacks.progress=false", "rounds=8", "chunk=1")


# ---------------------------------------------------------------- data and parts
def test_sizes_of_the_study():
    longtail, balanced = class_sizes(10, 1000, 0.02), class_sizes(10, 280, 1.0)
    assert longtail[0] == 1000
    assert longtail[-1] == 20
    assert sum(longtail) == sum(balanced) == 2800
    assert longtail == sorted(longtail, reverse=True)
    for wrong in [(1, 10, 0.5), (10, 0, 0.5), (10, 10, 0.0), (10, 10, 1.5), (10, 10, 0.01)]:
        with pytest.raises(ValueError, match="class"):
            class_sizes(*wrong)


def labels(n=600):
    y = torch.arange(n) % 10
    return Split(torch.arange(n)[:, None].float(), y, y)


def test_long_tail_takes_other_images_for_the_probe_and_a_permutation_by_seed():
    sizes = class_sizes(10, 30, 0.1)
    pretrain, probe, pi = long_tail(labels(), 10, sizes, 7, seed=3)
    assert torch.bincount(pretrain.y, minlength=10)[pi].tolist() == sizes
    assert torch.bincount(probe.y).tolist() == [7] * 10
    rows, probed = (set(part.x[:, 0].tolist()) for part in (pretrain, probe))
    assert len(rows) == sum(sizes)
    assert not rows & probed
    assert sorted(pi.tolist()) == list(range(10))
    again, other = long_tail(labels(), 10, sizes, 7, seed=3), long_tail(labels(), 10, sizes, 7, seed=4)
    assert torch.equal(again[0].x, pretrain.x)
    assert not torch.equal(other[2], pi)
    assert torch.equal(
        long_tail(labels(), 10, [5] * 10, 7, seed=3)[2], pi
    )  # the balanced set of the same seed
    own = long_tail(labels(), 10, sizes, 0, seed=3)
    assert own[1] is own[0]
    with pytest.raises(ValueError, match="has 60 training images"):
        long_tail(labels(), 10, [55] * 10, 7, seed=3)


@pytest.mark.parametrize(
    "make", [lambda: SmallConv(3, 10), lambda: resnet18(3, 10)], ids=["small", "resnet18"]
)
def test_embedder_takes_the_scores_off_and_normalises(make):
    width = next(m.in_features for m in reversed(list(make().modules())) if isinstance(m, nn.Linear))
    net, x = Embedder(make(), [16, 8]), torch.randn(3, 3, 32, 32)
    assert net.features(x).shape == (3, width)
    torch.testing.assert_close(net(x).norm(dim=1), torch.ones(3))
    assert net(x).shape == (3, 8)
    assert not isinstance(net.projection[-1], nn.ReLU)
    with pytest.raises(ValueError, match="last linear layer"):
        Embedder(nn.Conv2d(3, 4, 3))
    with pytest.raises(ValueError, match="width >= 1"):
        Embedder(make(), [])


def test_alignment_and_uniformity():
    e = torch.eye(3, dtype=torch.float64)
    assert alignment(e, e) == 0
    assert alignment(e, e.roll(1, 0)) == pytest.approx(2)
    assert uniformity(e) == pytest.approx(-4)  # all pairs at squared distance 2
    assert uniformity(e[[0, 0, 0]]) == pytest.approx(0)


def test_warmup_cosine_rises_then_falls_to_nearly_zero():
    optimizer = torch.optim.SGD([nn.Parameter(torch.zeros(1))], lr=0.2)
    schedule, rates = warmup_cosine(optimizer, 40, 0.1), []
    for _ in range(40):
        rates.append(optimizer.param_groups[0]["lr"])
        optimizer.step()
        schedule.step()
    assert rates[:4] == pytest.approx([0.2 * k / 8 for k in (1, 3, 5, 7)])
    assert rates[4:] == sorted(rates[4:], reverse=True)
    assert rates[4] > 0.199
    assert 0 < rates[-1] < 1e-3
    for wrong in [(0, 0.1), (10, 1.0), (10, -0.1)]:
        with pytest.raises(ValueError, match="warmup_cosine"):
            warmup_cosine(optimizer, *wrong)


def test_shared_batch_norm_of_one_process_is_batch_norm():
    torch.manual_seed(0)
    one = SmallConv(1, 10)
    other = SmallConv(1, 10)
    other.load_state_dict(one.state_dict())
    share_batch_norms(other)
    assert sum(isinstance(m, SharedBatchNorm2d) for m in other.modules()) == 3
    assert other.state_dict().keys() == one.state_dict().keys()
    x = torch.randn(5, 1, 28, 28)
    assert torch.equal(one(x), other(x))
    assert torch.equal(one.eval()(x), other.eval()(x))
    for name, value in one.state_dict().items():
        assert torch.equal(other.state_dict()[name], value), name


# ---------------------------------------------------------------- sphere
def test_sphere_has_the_declared_classes_and_new_views_each_epoch():
    sphere = Sphere(seed=0)
    assert sphere.sizes == class_sizes(10, 500, 0.02)
    assert len(sphere) == sum(sphere.sizes) == 1401
    first, again, next_ = sphere.epoch(0), Sphere(seed=0).epoch(0), sphere.epoch(1)
    assert [len(index) for *_, index in first] == [128] * 10 + [121]
    assert torch.equal(torch.cat([index for *_, index in first]).sort().values, torch.arange(1401))
    e1, e2, _ = (torch.cat(parts) for parts in zip(*first, strict=True))
    torch.testing.assert_close(e1.norm(dim=1), torch.ones(1401))
    assert all(
        torch.equal(a, b) for x, y in zip(first, again, strict=True) for a, b in zip(x, y, strict=True)
    )
    assert not torch.equal(next_[0][0], first[0][0])
    same = (e1 * e2).sum(1).mean()
    assert 0.9 < same < 1
    centre = torch.stack([sphere.base[sphere.y == c].mean(0) for c in range(10)])
    assert (centre @ centre.T - torch.eye(10)).abs().max() < 0.35  # ten samples leave .25 / sqrt(10) of noise
    assert abs(float((sphere.base - centre[sphere.y])[:500].std()) - 0.25) < 0.01
    with pytest.raises(ValueError, match="classes <= d"):
        Sphere(seed=0, classes=10, d=9)


def test_class_statistics_of_temperatures():
    tau, ranks = torch.tensor([1.0, 3.0, 0.5, 0.5, 0.1]), np.array([0, 0, 1, 1, 2])
    assert class_means(tau, ranks) == pytest.approx([2.0, 0.5, 0.1])
    assert size_correlation([9, 5, 1], [2.0, 0.5, 0.1]) == pytest.approx(1)
    assert size_correlation([9, 5, 1], [0.1, 0.5, 2.0]) == pytest.approx(-1)
    assert size_correlation([9, 5, 1], [0.1, 0.1, 0.1]) == 0
    assert boxes(tau, ranks)[0] == [1.1, 1.5, 2.0, 2.5, 2.9]


# ---------------------------------------------------------------- card
def rows():
    """Two seeds; isogclr's tuned setting is high, simclr's low."""
    found = []
    for seed in (0, 1):
        for arm, base in (("simclr", 0.5), ("isogclr", 0.6)):
            for k, at in enumerate(("low", "middle", "high", "balanced")):
                found.append(
                    {"arm": arm, "setting": at, "unit_id": f"s{seed}", "m": base + 0.01 * k + 0.1 * seed}
                )
    return pd.DataFrame(found)


def test_statistics_take_each_arm_at_its_own_setting():
    tuned = {"simclr": "low", "isogclr": "high"}
    table = at_tuned(rows(), tuned, "m").set_index(["unit", "arm"])["value"]
    assert table.to_dict() == pytest.approx(
        {("s0", "simclr"): 0.5, ("s0", "isogclr"): 0.62, ("s1", "simclr"): 0.6, ("s1", "isogclr"): 0.72}
    )
    found = gains(rows(), tuned, "isogclr", "simclr", "m")
    assert sorted(found["arm"]) == ["balanced", "balanced", "longtail", "longtail"]
    assert found[found["arm"] == "longtail"]["value"].tolist() == pytest.approx([0.12, 0.12])
    assert found[found["arm"] == "balanced"]["value"].tolist() == pytest.approx([0.1, 0.1])


def test_card_and_experiment_name_the_same_tuned_settings_and_values():
    card = load_card(experiments_dir() / "isogclr" / "card.yaml")
    cfg = yaml.safe_load((conf_dir() / "experiment" / "isogclr_longtail.yaml").read_text())
    tuned = {arm: cfg["tuned"][arm]["all"]["setting"] for arm in ("simclr", "isogclr")}
    named = [c.parts[0].statistic.args["tuned"] for c in card.claims if hasattr(c.parts[0].statistic, "args")]
    assert named == [tuned, tuned]
    assert cfg["values"]["simclr"]["low"] == 0.1
    assert cfg["hydra"]["sweeper"]["params"]["setting"] == "low,middle,high,balanced"


# ---------------------------------------------------------------- runs
@contextmanager
def cut(monkeypatch, chunk):
    """SIGTERM in the middle of that chunk."""
    seen, original = [], LitModule.training_step

    def step(self, index, i):
        seen.append(1)
        if len(seen) == chunk:
            signal.raise_signal(signal.SIGTERM)
        return original(self, index, i)

    with monkeypatch.context() as patch:
        patch.setattr(LitModule, "training_step", step)
        yield


def state(outputs):
    (path,) = Path(outputs).rglob("last.ckpt")
    return torch.load(path, weights_only=True)["state_dict"]


def record(outputs):
    (path,) = Path(outputs).rglob("record.json")
    return json.loads(path.read_text())


@pytest.mark.parametrize(
    ("words", "chunk"), [(IMAGES, 3), (IMAGES, 6), (BALL, 3)], ids=["first epoch", "second", "sphere"]
)
def test_resume_gives_bitwise_the_same_tau_and_s(cli, outputs, tmp_path, monkeypatch, words, chunk):
    with monkeypatch.context() as patch:
        patch.setenv("LOSSATLAS_OUTPUTS", str(tmp_path / "whole"))
        assert cli(*words).code == 0
    whole = state(tmp_path / "whole")
    with cut(monkeypatch, chunk):
        assert cli(*words).code == 130
    part = state(outputs)
    assert not torch.equal(part["loss.temperature.tau"], whole["loss.temperature.tau"])
    assert cli(*words).code == 0
    resumed = state(outputs)
    assert {"loss.temperature.tau", "loss.temperature.u", "loss.average.log_s"} <= resumed.keys()
    assert resumed.keys() == whole.keys()
    assert all(torch.equal(resumed[name], value) for name, value in whole.items())
    assert record(outputs)["metrics"] == record(tmp_path / "whole")["metrics"]


TOGETHER = {  # a last mini-batch of 6 or 5 images: the two processes have 3 and 3, or 3 and 2
    "isogclr": (*IMAGES, "trainer.precision=64-true", "sets.low.n_max=17", "seed=0"),
    "uneven": (*IMAGES, "trainer.precision=64-true", "sets.low.n_max=19", "seed=1"),
    "shared": (*IMAGES, "trainer.precision=64-true", "arm=temperature_global", "seed=2"),
    "nt_xent": (*IMAGES, "trainer.precision=64-true", "arm=simclr", "seed=3"),
}


@pytest.fixture(scope="module")
def two_processes(tmp_path_factory):
    """Every case in the same two processes."""
    outputs = tmp_path_factory.mktemp("ranks")
    root = Path(__file__).parents[3]
    lines = [[*words, "trainer=ddp_sim", "trainer.devices=2"] for words in TOGETHER.values()]
    paths = os.pathsep.join([str(root / "src"), str(root / "tests"), os.environ.get("PYTHONPATH", "")])
    command = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2"]
    done = subprocess.run(
        [*command, str(root / "tests" / "rank_script.py"), json.dumps(lines)],
        env={**os.environ, "OMP_NUM_THREADS": "1", "PYTHONPATH": paths, "LOSSATLAS_OUTPUTS": str(outputs)},
        capture_output=True,
        text=True,
        timeout=550,
    )
    return outputs, done


@pytest.mark.parametrize("case", TOGETHER)
def test_two_processes_give_the_states_of_one(cli, outputs, two_processes, case):
    folder, done = two_processes
    assert done.returncode == 0, done.stderr
    answer = cli(*TOGETHER[case])
    assert answer.code == 0, answer
    (path,) = folder.rglob(f"*-s{list(TOGETHER).index(case)}-*/last.ckpt")
    alone, together = state(outputs), torch.load(path, weights_only=True)["state_dict"]
    assert alone.keys() == together.keys()
    for name, value in alone.items():
        torch.testing.assert_close(together[name], value, rtol=1e-9, atol=1e-9, msg=name)
    theirs = json.loads((path.parent / "record.json").read_text())
    assert theirs["device"] == "2 x cpu"
    for name, value in record(outputs)["metrics"].items():
        assert theirs["metrics"][name] == pytest.approx(value, abs=1e-5), name


REFUSED = [
    ("data.augment=none", "two views"),
    ("sets.low.n_max=300", "lower n_max or labelled"),
    ("module.labelled=-1", "module.labelled"),
    ("arms.isogclr.tau_min=0.5", "tau_min <= tau_init <= tau_max"),
    ("value=-0.1", "value=-0.1"),
    ("sets.low.n_max=16", "single one and no negatives"),
    ("batch_size=1", "at least 2"),
]


@pytest.mark.parametrize(("word", "says"), REFUSED)
def test_a_wrong_word_is_one_line(cli, outputs, word, says):
    answer = cli("experiment=isogclr_longtail", "scale=smoke", "callbacks.progress=false", word)
    assert answer.code == 2, answer
    assert says in answer.err
    assert answer.err.count("\n") == 1
    assert not list(outputs.rglob("record.json"))
