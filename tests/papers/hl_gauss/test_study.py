"""The hl_gauss experiments: their targets, what they measure, what they refuse, stacks, figure."""

import csv
import json
from typing import Any

import numpy as np
import pandas as pd
import pytest
import pytorch_lightning as pl
import torch
from hydra import compose, initialize_config_dir
from hydra.utils import instantiate
from torch import nn
from torch.testing import assert_close

from lossatlas.data import Data, Split, load
from lossatlas.papers.hl_gauss import HLGauss, SquaredError, hashed_values, noisy_values, random_values
from lossatlas.papers.hl_gauss.figure import figure
from lossatlas.papers.hl_gauss.study import LitMoving, LitNoisy
from lossatlas.paths import conf_dir
from lossatlas.stacked.stack import Stack

SMOKE = ("scale=smoke", "callbacks.progress=false")


def images(val_fold: int | None = None, n: int = 200) -> Data:
    limit = {"train": n, "test": 50}
    return load("toy", 10, [1, 4, 4], fake=True, limit=limit, val_fold=val_fold, mean=[0.5], std=[0.2])


def test_the_random_network_is_one_function():
    x = torch.linspace(-1, 1, 144, dtype=torch.float64).view(9, 16).sin()
    f = random_values(x)
    assert f.dtype == torch.float64
    assert_close(torch.cat([random_values(x[:4]), random_values(x[4:])]), f, atol=1e-14, rtol=0)
    assert_close(
        float(f[0]), -0.6550652574264005, atol=1e-12, rtol=0
    )  # a number that another machine must get, too


def test_clean_targets():
    data = noisy_values(images(0), "uniform", 0.0, seed=3)
    assert data.classes == 0
    x = {name: getattr(data, name).x.flatten(1).double() / 255 for name in ("train", "test", "val")}
    f = {name: random_values((rows - 0.5) / 0.2) for name, rows in x.items()}
    for name in x:
        wanted = torch.tanh((f[name] - f["train"].mean()) / f["train"].std())
        split = getattr(data, name)
        assert_close(split.y.double(), wanted, atol=1e-5, rtol=0)  # the net's own inputs are float32
        assert split.y_clean is split.y


def test_noise_is_drawn_by_seed_and_never_on_test_targets():
    clean = noisy_values(images(0, n=4000), "uniform", 0.0, seed=0)
    for kind, L in (("uniform", 2.0), ("student", 0.5)):
        one, same, other = (noisy_values(images(0, n=4000), kind, L, seed=s) for s in (0, 0, 1))
        assert torch.equal(one.train.y, same.train.y)
        assert not torch.equal(one.train.y, other.train.y)
        assert torch.equal(one.test.y, clean.test.y)
        assert torch.equal(one.train.y_clean, clean.train.y)
        assert one.val is not None
        assert clean.val is not None
        noise = torch.cat([one.train.y - clean.train.y, one.val.y - clean.val.y]) / L
        if kind == "uniform":
            assert 0.9 < float(noise.abs().max()) <= 1 + 1e-6
            assert_close(float(noise.var()), 1 / 3, atol=0.02, rtol=0)
        else:  # quartiles of Student's t with 1.5 degrees of freedom
            assert_close(float(noise.quantile(0.75)), 0.8726, atol=0.1, rtol=0)
            assert float(noise.abs().max()) > 5


def test_hashed_targets_are_sines_of_a_float64_value():
    data = hashed_values(images(), 1e5)
    f = random_values(((data.train.x.float() / 255 - 0.5) / 0.2).flatten(1).double())
    assert_close(data.train.y.double(), torch.sin(1e5 * f), atol=1e-6, rtol=0)
    assert_close(float(data.train.y.var()), 0.5, atol=0.1, rtol=0)


@pytest.mark.parametrize(
    ("words", "told"),
    [
        (["experiment=hl_gauss_noise", "m=1"], "m=1: should lie in [2, inf) int"),
        (["experiment=hl_gauss_noise", "ratio=0.0"], "ratio=0.0: should lie in (0, inf)"),
        (["experiment=hl_gauss_noise", "module.L=-1.0"], "module.L=-1.0: should lie in [0, inf)"),
        (["experiment=hl_gauss_noise", "module.noise=cauchy"], "noise is one of uniform, student"),
        (["experiment=hl_gauss_noise", "v_min=4.0"], "finite v_min < v_max, got 4.0 and 3.0"),
        (["experiment=hl_gauss_plasticity", "epochs=4"], "a multiple of the 3 offsets, got epochs=4"),
        (["experiment=hl_gauss_plasticity", "offsets=[]"], "a multiple of the 0 offsets"),
        (["experiment=hl_gauss_plasticity", "module.M=0.0"], "module.M=0.0: should lie in (0, inf)"),
    ],
)
def test_bad_input_is_one_line(cli, words, told):
    answer = cli(*SMOKE, *words)
    assert answer.code == 2
    assert answer.err.count("\n") == 1
    assert told in answer.err


@pytest.mark.parametrize("experiment", ["hl_gauss_noise", "hl_gauss_plasticity"])
def test_arms_with_a_softmax_share_the_network(experiment):
    def state(arm: str) -> dict[str, torch.Size]:
        with initialize_config_dir(str(conf_dir()), version_base="1.3"):
            cfg = compose("config", overrides=[f"experiment={experiment}", f"arm={arm}"])
        net = instantiate(cfg.net, _convert_="all")
        loss = instantiate(cfg.loss, _convert_="all")
        return {k: v.shape for k, v in nn.ModuleDict({"net": net, "loss": loss}).state_dict().items()}

    assert state("mse_categorical") == state("two_hot") == state("hl_gauss")
    assert state("mse").keys() == state("hl_gauss").keys()  # only its last layer is narrower


def test_the_best_epoch_is_chosen_by_the_noisy_fold(cli, outputs):
    answer = cli(*SMOKE, "experiment=hl_gauss_noise", "arm=mse", "epochs=12", "lr=0.003")
    assert answer.code == 0, answer.err
    (path,) = outputs.glob("hl_gauss_noise/smoke/*/record.json")
    metrics = json.loads(path.read_text())["metrics"]
    rows = list(csv.DictReader((path.parent / "curves.csv").read_text().splitlines()))
    best = min(rows, key=lambda row: float(row["val/mse"]))
    assert metrics["test/mse_best"] == pytest.approx(float(best["curve/mse"]), rel=1e-5)
    assert metrics["test/mse"] == pytest.approx(float(rows[-1]["curve/mse"]), rel=1e-5)
    assert metrics["test/mse"] != pytest.approx(metrics["test/mse_best"], rel=1e-3)
    assert len(rows) == 12


def test_clipped_targets_are_a_metric(cli, outputs):
    answer = cli(*SMOKE, "experiment=hl_gauss_noise", "arm=two_hot", "target_noise=t050", "epochs=2")
    assert answer.code == 0, answer.err
    (path,) = outputs.glob("hl_gauss_noise/smoke/*/record.json")
    share = json.loads(path.read_text())["metrics"]["train/clipped"] / (2 * 204)  # four fifths of 256 rows
    assert 0.01 < share < 0.3  # P(|T| > 4 or so) is about .1


def moving(seed: int = 0, loss: nn.Module | None = None, epochs: int = 90) -> LitMoving:
    torch.manual_seed(seed)
    loss = loss or HLGauss(-2.0, 6.0, 33)
    outputs = 33 if isinstance(loss, HLGauss) else 1
    net = nn.Sequential(nn.Flatten(), nn.Linear(16, 64), nn.ReLU(), nn.Linear(64, outputs))
    data = images()
    data.train = Split(data.train.x[:24], data.train.y[:24], data.train.y[:24])
    return LitMoving(
        data, net=net, loss=loss, optimizer=lambda p: torch.optim.Adam(p, lr=0.01), seed=seed,
        offsets=[0.0, 4.0], epochs=epochs, batch_size=8, chunk=2,
    )  # fmt: skip


def trained(module: pl.LightningModule, epochs: int = 90) -> dict[str, float]:
    trainer = pl.Trainer(
        accelerator="cpu", max_epochs=epochs, logger=False, enable_checkpointing=False, enable_progress_bar=False,
        enable_model_summary=False, num_sanity_val_steps=0,
    )  # fmt: skip
    trainer.fit(module)
    return dict(trainer.test(module, verbose=False)[0]) if isinstance(module, LitMoving) else {}


@pytest.mark.parametrize("loss", [SquaredError(), HLGauss(-2.0, 6.0, 33)], ids=["mse", "hl_gauss"])
def test_phases_by_a_hand_written_loop(loss):
    from lossatlas.seeding import stream

    module = moving(loss=loss, epochs=6)
    found = trained(module, epochs=6)
    other = moving(loss=loss, epochs=6)
    assert other.net is not None
    assert other.data is not None
    adam = torch.optim.Adam(other.net.parameters(), lr=0.01)
    x, y, _ = other.data.batch("train", torch.arange(24), train=False)
    fits = []
    for epoch in range(6):
        b = 0.0 if epoch < 3 else 4.0
        for i in torch.randperm(24, generator=stream(0, f"order/{epoch}")).split(8):
            adam.zero_grad()
            loss(other.net(x[i]), y[i] + b).mean().backward()
            adam.step()
        if epoch in (2, 5):
            fits.append(float((loss.predict(other.net(x)) - y - b).square().mean()))
    assert found["test/fit_first"] == pytest.approx(fits[0], rel=1e-4)
    assert found["test/fit_last"] == pytest.approx(fits[1], rel=1e-4)
    assert found["test/fit_mean"] == pytest.approx(sum(fits) / 2, rel=1e-4)
    assert found["test/fit_growth"] == pytest.approx(fits[1] / fits[0], rel=1e-4)
    assert module.extras() == {"fit": pytest.approx(fits, rel=1e-4), "offsets": [0.0, 4.0]}


def test_a_phase_is_fitted_when_it_is_long_enough():
    found = trained(moving(epochs=240), epochs=240)
    assert found["test/fit_first"] < 0.02
    assert found["test/fit_last"] < 0.02


def noisy(seed: int) -> LitNoisy:
    torch.manual_seed(seed)
    net = nn.Sequential(nn.Flatten(), nn.Linear(16, 32), nn.ReLU(), nn.Linear(32, 21))
    adam = lambda p: torch.optim.Adam(p, lr=0.003)  # noqa: E731
    return LitNoisy(
        images(0), net=net, loss=HLGauss(-2.0, 2.0, 21), optimizer=adam, noise="student", L=1.0, seed=seed,
        batch_size=16, chunk=4,
    )  # fmt: skip


@pytest.mark.parametrize(
    ("make", "buffers"), [(moving, ("b", "fit")), (noisy, ("best",))], ids=["moving", "noisy"]
)
def test_a_stack_trains_as_its_replicas_alone(make, buffers):
    alone, together = ([make(seed=s).double() for s in (0, 1)] for _ in range(2))
    for module in alone:
        fit(module)
    fit(Stack(list(together)))
    for one, other in zip(alone, together, strict=True):
        for name in (*buffers, "loss.clipped"):
            assert_close(other.state_dict()[name], one.state_dict()[name], rtol=1e-6, atol=1e-9)
        assert_close(other.net.state_dict(), one.net.state_dict(), rtol=1e-6, atol=1e-9)


def fit(module: pl.LightningModule) -> None:
    trainer = pl.Trainer(
        accelerator="cpu", max_epochs=90, limit_train_batches=1, logger=False, enable_checkpointing=False,
        enable_progress_bar=False, enable_model_summary=False, num_sanity_val_steps=0,
    )  # fmt: skip
    trainer.fit(module)


def row(experiment: str, arm: str, seed: int, **more) -> dict:
    base = {
        "experiment": experiment,
        "scale": "laptop",
        "arm": arm,
        "seed": seed,
        "status": "done",
        "extras": "",
    }
    return base | more


def test_figure_shows_geometric_means():
    rows = [
        row("hl_gauss_noise", arm, s, target_noise="u200", **{"test/mse": v, "test/mse_best": v / 2})
        for arm, values in (("mse", (0.1, 0.4)), ("hl_gauss", (0.1, 0.1)))
        for s, v in enumerate(values)
    ]
    told = json.dumps({"fit": [0.01, 0.04], "offsets": [0.0, 16.0]})
    rows += [row("hl_gauss_plasticity", "hl_gauss", s, extras=told) for s in (0, 1)]
    panels: Any = figure(pd.DataFrame(rows)).axes
    last, best, phases = panels
    drawn = [np.asarray(bars.lines[0].get_ydata()).item() for bars in last.containers]
    assert drawn == pytest.approx([0.2, 0.1])
    assert [np.asarray(bars.lines[0].get_ydata()).item() for bars in best.containers] == pytest.approx(
        [0.1, 0.05]
    )
    assert np.asarray(phases.containers[0].lines[0].get_ydata()).tolist() == pytest.approx([0.01, 0.04])
    assert [t.get_text() for t in phases.get_xticklabels()] == ["0", "16"]


def test_figure_of_one_experiment_alone():
    told = json.dumps({"fit": [0.01], "offsets": [0.0]})
    assert figure(pd.DataFrame([row("hl_gauss_plasticity", "mse", 0, extras=told)])).axes[0].containers


def test_figure_shows_interquartile_means_of_the_returns_by_frames():
    rows = []
    for seed, value in enumerate([1.0, 2.0, 4.0, 100.0]):  # the middle two count
        told = json.dumps({"seeds": {}, "curve": {"frames": [10, 20, 30], "return": [0.0, value, 2 * value]}})
        rows.append(row("hl_gauss_minatar", "mse", seed, game="breakout", frames="100000", extras=told))
    short = json.dumps({"seeds": {}, "curve": {"frames": [20], "return": [7.0]}})
    rows.append(row("hl_gauss_minatar", "hl_gauss", 0, game="breakout", frames="100000", extras=short))
    rows.append(row("hl_gauss_minatar", "hl_gauss", 0, game="freeway", frames="100000", extras=short))
    breakout, freeway = figure(pd.DataFrame(rows)).axes
    assert breakout.get_title() == "DQN on breakout, 100 000 frames"
    squares, histograms = breakout.lines
    assert np.asarray(squares.get_xydata()).tolist() == [[10.0, 0.0], [20.0, 3.0], [30.0, 6.0]]
    assert np.asarray(histograms.get_xydata()).tolist() == [[20.0, 7.0]]
    (band,) = breakout.collections
    low, high = band.get_paths()[0].vertices[:, 1].min(), band.get_paths()[0].vertices[:, 1].max()
    assert 0.0 <= low < 3.0 < high <= 200.0
    assert len(freeway.lines) == 1


def test_figure_of_all_experiments_has_two_rows():
    told = json.dumps({"fit": [0.01], "offsets": [0.0], "curve": {"frames": [1], "return": [1.0]}})
    more = {
        "test/mse": 0.1,
        "test/mse_best": 0.1,
        "target_noise": "u200",
        "game": "breakout",
        "frames": "100000",
    }
    rows = [
        row(f"hl_gauss_{name}", "mse", 0, extras=told, **more) for name in ("noise", "plasticity", "minatar")
    ]
    shown = figure(pd.DataFrame(rows))
    assert len(shown.axes) == 4
    assert [bool(ax.lines) for ax in shown.axes] == [True] * 4
    assert len({ax.get_position().y0.round(2) for ax in shown.axes}) == 2
