"""The grokking studies: networks trained together and alone, resuming, refused input, the deep networks, the figure."""

import csv
import math
import signal
from dataclasses import asdict

import numpy as np
import pytest
import torch
import yaml
from hydra import compose, initialize_config_dir
from torch.testing import assert_close

from lossatlas import records
from lossatlas.nets import MLP
from lossatlas.papers.grokking import LitPoly, LitScaled, ModularTransformer, gaussian_error, modular_table
from lossatlas.papers.grokking.figure import figure
from lossatlas.paths import conf_dir

POLY = ("experiment=grokking_poly", "scale=smoke", "callbacks.progress=false")
SIZES = {"D": 6, "N": 12, "P": 20, "rounds": 300, "dtype": "float64"}


def made(outputs, experiment="grokking_poly"):
    return {
        path.parent: asdict(records.read(path))  # type: ignore[arg-type]
        for path in outputs.glob(f"{experiment}/smoke/*/record.json")
    }


# ---------------------------------------------------------------- many at once
def test_networks_trained_together_are_those_trained_alone():
    settings = [{"alpha": a, "e": e, "seed": s} for a in (0.5, 8.0) for e in (0.1, 0.5) for s in (0, 1)]
    together = LitPoly.stack([LitPoly(**SIZES, **one) for one in settings])
    values = together.play(torch.arange(300))
    alone = []
    for i, one in enumerate(settings):
        single = LitPoly(**SIZES, **one)
        alone.append(single.play(torch.arange(300)))
        assert_close(together.W[i], single.W[0], rtol=1e-9, atol=1e-12)
        assert_close(together.curves[i], single.curves[0], rtol=1e-6, atol=1e-9)
        metrics = together.replica(i)["metrics"]
        mean = float(alone[-1].sum()) / single.rounds
        assert metrics == pytest.approx({"train/loss": mean, **single.results()}, rel=1e-5, abs=1e-8)
    assert_close(values, torch.stack(alone).mean(dim=0), rtol=1e-9, atol=1e-12)


def test_a_diverged_network_leaves_the_others_alone():
    wild, tame = (LitPoly(**SIZES, alpha=2.0, e=e) for e in (50.0, 0.25))
    both = LitPoly.stack([wild, tame])
    assert torch.isfinite(both.play(torch.arange(300))).all()
    assert both.replica(0)["error"].startswith("Diverged")
    assert both.replica(0)["metrics"] == {}
    assert both.replica(1)["error"] is None
    single = LitPoly(**SIZES, alpha=2.0, e=0.25)
    single.play(torch.arange(300))
    assert_close(both.W[1], single.W[0])


def test_what_differs_in_size_is_not_stacked():
    with pytest.raises(ValueError, match="stack them apart"):
        LitPoly.stack([LitPoly(**SIZES), LitPoly(**{**SIZES, "P": 21})])


def test_a_sweep_makes_one_batch_of_a_p_and_a_record_of_each_network(cli, outputs, tmp_path, monkeypatch):
    words = ("setting=alpha05,alpha2,P1", "seed=0,1", "hydra.launcher.n_jobs=1")
    assert cli("-m", *POLY, *words).code == 0  # the experiment chooses the stacked launcher
    found = {(r["condition"]["setting"], r["seed"]): (f, r) for f, r in made(outputs).items()}
    assert len(found) == 6
    assert {s: found[s, 0][1]["device"].split(", ")[1] for s in ("alpha05", "alpha2", "P1")} == {
        "alpha05": "stack of 4",
        "alpha2": "stack of 4",
        "P1": "stack of 2",
    }
    monkeypatch.setenv("LOSSATLAS_OUTPUTS", str(tmp_path / "alone"))
    assert cli(*POLY, "setting=alpha2", "seed=1").code == 0
    ((folder, alone),) = made(tmp_path / "alone").items()
    for name, value in found["alpha2", 1][1]["metrics"].items():
        assert alone["metrics"][name] == pytest.approx(value, rel=1e-4), name
    rows = list(csv.DictReader((folder / "curves.csv").open()))
    assert [int(float(row["step"])) for row in rows] == list(range(13))
    assert alone["config_hash"] == found["alpha2", 1][1]["config_hash"]


def test_the_core_grid_is_the_study_of_the_card():
    loaded = yaml.safe_load((conf_dir() / "experiment" / "grokking_poly.yaml").read_text())
    grid, settings = loaded["hydra"]["sweeper"]["params"], loaded["settings"]
    points = {name: (s["alpha"], s["e"], s["P"] / loaded["D"]) for name, s in settings.items()}
    assert [points[name] for name in grid["setting"].split(",")] == [
        *((a, 0.25, 5.0) for a in (0.5, 2.0, 8.0, 32.0)),
        *((2.0, e, 7.0) for e in (0.1, 0.25, 0.5)),
        (2.0, 0.25, 1.0),
        (2.0, 0.25, 4.48),  # 112 points
        (2.0, 0.25, 10.0),
    ]
    assert grid["seed"] == "range(20)"
    with initialize_config_dir(str(conf_dir()), version_base="1.3"):
        launcher = compose("config", ["experiment=grokking_poly"], return_hydra_config=True).hydra.launcher
    assert launcher["_target_"].endswith("StackedLauncher")
    assert launcher.size == 80  # the 4 settings of P = 5 D


# ---------------------------------------------------------------- one run
def test_metrics_are_those_of_the_curves():
    run = LitPoly(**{**SIZES, "rounds": 3000}, alpha=2.0, e=0.25, seed=1, fitted=0.5, general=0.9)
    run.play(torch.arange(3000))
    rows, found = run.curve_rows(), run.results()
    start, end = rows[0], rows[-1]
    assert (start["step"], end["step"]) == (0, 3000)
    t_train = next(row["step"] for row in rows if row["train"] < 0.5 * start["train"])
    t_test = next(row["step"] for row in rows if row["test"] < 0.9 * start["test"])
    assert (found["test/t_train"], found["test/t_test"]) == (t_train, t_test)
    assert found["test/delay"] == t_test - t_train
    assert found["test/gap"] == pytest.approx(math.log10(t_test / t_train))
    assert found["test/final"] == end["test"] / start["test"]
    assert found["test/lowest"] == min(row["test"] for row in rows) / start["test"]
    assert found["test/growth"] == end["square_weight"] / start["square_weight"]
    assert start["test"] == pytest.approx(0.75)
    assert start["kernel_distance"] == start["mean_weight"] == 0
    dw = run.W[0].mean(0) - run.w_0[0]
    dM = run.W[0].mT @ run.W[0] / 12 - run.M_0[0]
    assert end["test"] == pytest.approx(float(gaussian_error(2 * dw, 0.25 * dM, run.b[0])))
    assert end["mean_weight"] == pytest.approx(float(dw.norm()))


def test_what_is_never_reached_is_infinite():
    run = LitPoly(**{**SIZES, "rounds": 3}, fitted=1e-9)
    run.play(torch.arange(3))
    found = run.results()
    assert found["test/t_train"] == found["test/gap"] == found["test/delay"] == math.inf
    assert "test/over_flow" not in found
    assert all(math.isfinite(found[f"test/{name}"]) for name in ("final", "over_kernel", "growth"))


@pytest.mark.parametrize("experiment", ["grokking_poly", "grokking_mnist", "grokking_modular"])
def test_a_resumed_run_equals_an_uninterrupted_one(cli, outputs, tmp_path, monkeypatch, experiment):
    from lossatlas import callbacks

    words = (
        f"experiment={experiment}",
        *POLY[1:],
        "chunk=2",
        "callbacks.checkpoint.every_chunks=1",
        "callbacks.checkpoint.every_seconds=null",
    )

    def left(outputs):
        ((folder, record),) = made(outputs, experiment).items()
        state = torch.load(folder / "last.ckpt", weights_only=True)["state_dict"]
        return record["metrics"], record["extras"], (folder / "curves.csv").read_text(), state

    assert cli(*words).code == 0
    whole = left(outputs)
    monkeypatch.setenv("LOSSATLAS_OUTPUTS", str(tmp_path / "cut"))
    seen, maybe = [], callbacks.Checkpoints._maybe

    def stop_at_third(self, trainer):
        seen.append(1)
        self.stop_signal = signal.SIGINT if len(seen) == 3 else None
        return maybe(self, trainer)

    monkeypatch.setattr(callbacks.Checkpoints, "_maybe", stop_at_third)
    assert cli(*words).code == 130
    torch.rand(7)  # somebody else's draws in between
    assert cli(*words).code == 0
    again = left(tmp_path / "cut")
    assert again[:3] == whole[:3]
    assert again[3].keys() == whole[3].keys()
    for key, value in whole[3].items():
        assert torch.equal(value, again[3][key]), key


@pytest.mark.parametrize(
    ("words", "told"),
    [
        (("experiment=grokking_poly", "settings.alpha2.alpha=0"), "module.alpha=0: should lie in (0, inf)"),
        (("experiment=grokking_poly", "settings.alpha2.e=-1"), "module.e=-1: should lie in [0, inf)"),
        (("experiment=grokking_poly", "setting=alpha3"), "alpha3"),
        (("experiment=grokking_poly", "eta=nan"), "eta=nan: should lie in (0, inf)"),
        (("experiment=grokking_poly", "stack=0"), "stack=0"),
        (("experiment=grokking_modular", "p=1"), "p=1: should lie in [2, inf)"),
        (("experiment=grokking_modular", "net.width=30"), "width a multiple of heads"),
    ],
)
def test_refused_input_is_one_line(cli, words, told):
    answer = cli(*words, "scale=smoke")
    assert answer.code == 2
    assert told in answer.err
    assert len(answer.err.strip().splitlines()) == 1


@pytest.mark.parametrize(
    "wrong", [{"eta": 0.0}, {"fitted": 1.0}, {"general": 0.0}, {"rounds": 0}, {"factor": 1.0}]
)
def test_refused_arguments(wrong):
    with pytest.raises(ValueError, match="needs"):
        LitPoly(**{**SIZES, **wrong})


# ---------------------------------------------------------------- deep networks
def test_a_deep_network_needs_its_parts():
    with pytest.raises(ValueError, match="needs data, a net and an optimizer"):
        LitScaled(None, MLP(2, [], 2), None, torch.optim.Adam)


def test_the_table_holds_every_sum_once():
    data = modular_table(p=7, share=0.5, seed=3)
    x, y = torch.cat([data.train.x, data.test.x]), torch.cat([data.train.y, data.test.y])
    assert len(data.train) == round(0.5 * 49)
    assert sorted(map(tuple, x.tolist())) == [(a, b) for a in range(7) for b in range(7)]
    assert torch.equal(y, (x[:, 0] + x[:, 1]) % 7)
    assert not torch.equal(data.train.x, modular_table(p=7, share=0.5, seed=4).train.x)
    with pytest.raises(ValueError, match="share"):
        modular_table(p=2, share=0.1)


def test_the_transformer_tells_the_two_places_apart_and_reads_both():
    torch.manual_seed(0)
    f = ModularTransformer(p=5, width=8, heads=2)
    x = torch.tensor([[1, 2], [2, 1], [1, 3], [4, 2]])
    scores = f(x)
    assert scores.shape == (4, 5)
    assert all(not torch.allclose(scores[0], other) for other in scores[1:])
    assert_close(f(x[:1]), scores[:1])


def small(alpha, optimizer, normalised, rounds=1):
    torch.manual_seed(0)
    data = modular_table(p=5)
    return LitScaled(
        data, ModularTransformer(5, 8, 2), None, optimizer, alpha=alpha, normalised=normalised, rounds=rounds
    )


@pytest.mark.parametrize("kind", ["adam", "gd"])
def test_the_function_starts_at_one_speed_for_every_alpha(kind):
    moved = []
    for alpha in (10.0, 1000.0):
        rate = {"adam": 1e-5, "gd": 1e-3}[kind]
        run = small(
            alpha,
            lambda p, r=rate: (torch.optim.Adam if kind == "adam" else torch.optim.SGD)(p, lr=r),
            kind == "adam",
        ).double()
        assert not run(run.x_train).any()
        run._optimizer, run._plain = run.configure_optimizers()["optimizer"], True
        run.play(torch.arange(1))
        moved.append(run(run.x_train).detach())
    assert float(moved[0].abs().max()) > 0
    assert_close(moved[0], moved[1], rtol=0.02, atol=0.02 * float(moved[0].abs().max()))


def test_scaled_networks_count_errors_and_times():
    torch.manual_seed(0)
    data = modular_table(p=5)
    net = torch.nn.Sequential(torch.nn.Embedding(5, 16), torch.nn.Flatten(), MLP(32, [64], 5, "relu"))
    run = LitScaled(data, net, None, lambda p: torch.optim.Adam(p, lr=1e-2), alpha=1.0, rounds=200)
    run._optimizer, run._plain = run.configure_optimizers()["optimizer"], True
    run.play(torch.arange(200))
    rows, found = run.curve_rows(), run.results()
    assert found["test/t_train"] == next(row["step"] for row in rows if row["train_error"] < 0.05) > 0
    with torch.no_grad():
        wrong = (run(data.test.x).argmax(1) != data.test.y).double().mean()
    assert found["test/error"] == pytest.approx(float(wrong))
    assert found["test/train_error"] == 0


# ---------------------------------------------------------------- figure
def test_the_figure_shows_every_sweep_and_what_is_censored():
    from lossatlas.papers.grokking.figure import ALPHAS, ES, PS

    curve = {"t": [0, 1, 10], "train": [1, 0.5, 0.1], "test": [1, 0.9, 0.8]}
    curve |= {"mean_weight": [0, 0.1, 0.2], "target_weight": [0.1, 0.2, 0.3]}
    found = [
        records.Record(
            "grokking_poly", "grokking", "gd", seed, condition={"setting": setting},
            metrics={"test/gap": math.inf if setting == "alpha8" else 0.5 + seed, "test/delay": 10.0 + seed},
            extras={"curve": curve},
        )
        for setting in (*ALPHAS, *ES, *PS)
        for seed in (0, 1)
    ]  # fmt: skip
    axes = figure(records.tidy(found)).axes
    assert len(axes) == 6
    assert any("never" in text.get_text() for text in axes[1].texts)
    assert not axes[2].texts
    assert len(axes[0].lines) == 2 * len(ALPHAS) + 2
    heights = np.asarray([line.get_ydata() for line in axes[1].lines[:2]], float)  # a line is a seed
    assert heights[:, :2].max() < heights[:, 2].min()  # alpha = 8 is censored, above all others
