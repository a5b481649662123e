"""The f-distill studies: replicas together and alone, resuming, equal draws, the figure."""

import json
import signal
from dataclasses import asdict

import pytest
import torch
from torch.testing import assert_close

from lossatlas import records
from lossatlas.papers.f_distill import ForwardKL, JensenShannon, LitDistill, LitGauss, Points, ReverseKL
from lossatlas.papers.f_distill.figure import figure


def gauss(seed, divergence=None, **settings):
    return LitGauss(
        divergence=divergence or ForwardKL(), seed=seed, rounds=60, measured=30, batch_size=32, **settings
    )


def plane(seed, divergence=None, **settings):
    settings = {"rounds": 8, "measured": 4, "eval_steps": 4, "batch_size": 32, **settings}
    return LitDistill(divergence=divergence or ForwardKL(), task=Points(), seed=seed, **settings)


@pytest.mark.parametrize(("make", "n"), [(gauss, 60), (plane, 8)])
def test_replicas_together_are_those_alone(make, n):
    together = type(make(0)).stack([make(seed) for seed in (0, 1, 2)])
    together.play(torch.arange(n))
    for i, seed in enumerate((0, 1, 2)):
        single = make(seed)
        single.play(torch.arange(n))
        left = together.replica(i)
        assert left["error"] is None
        for name, value in single.results().items():
            assert left["metrics"][name] == pytest.approx(value, rel=1e-4, abs=1e-4), name
        assert_close(left["rows"], single.curve_rows(), rtol=1e-3, atol=1e-3)


@pytest.mark.parametrize("make", [gauss, plane])
def test_all_arms_see_the_same_draws_and_start(make):
    one, other = make(3, ReverseKL()), make(3, JensenShannon())
    for a, b in zip(one.parameters(), other.parameters(), strict=True):
        assert torch.equal(a, b)
    flat = [torch.cat([t.flatten() for part in run.draws(5) for t in (part if isinstance(part, tuple) else [part])])
            for run in (one, other, make(4))]  # fmt: skip
    assert torch.equal(flat[0], flat[1])
    assert not torch.equal(flat[0], flat[2])


def test_the_weight_decides_between_seeking_and_covering():
    ends = {}
    for divergence in (ReverseKL(), ForwardKL()):
        run = LitGauss.stack([LitGauss(divergence=divergence, seed=s, rounds=300) for s in (200, 201, 202)])
        run.play(torch.arange(300))
        ends[type(divergence)] = run.log_s.exp().mean().item()
    assert ends[ReverseKL] + 0.05 < ends[ForwardKL] < 1.8


@pytest.mark.parametrize("make", [gauss, plane])
def test_a_diverged_replica_leaves_the_others_alone(make):
    wild, tame = make(0), make(1)
    next(wild.parameters()).data.fill_(float("nan"))
    both = type(wild).stack([wild, tame])
    assert torch.isfinite(both.play(torch.arange(4))).all()
    assert both.replica(0)["error"].startswith("Diverged")
    assert both.replica(1)["error"] is None


def made(outputs, experiment):
    return {
        path.parent: asdict(records.read(path)) for path in outputs.glob(f"{experiment}/smoke/*/record.json")
    }  # type: ignore[arg-type]


@pytest.mark.parametrize("experiment", ["f_distill_gauss", "f_distill_modes"])
def test_a_sweep_stacks_the_seeds_and_gives_the_numbers_of_single_runs(
    cli, outputs, tmp_path, monkeypatch, experiment
):
    words = (f"experiment={experiment}", "scale=smoke", "callbacks.progress=false")
    assert cli("-m", *words, "arm=js", "seed=0,1", "hydra.launcher.n_jobs=1").code == 0
    found = {r["seed"]: r for r in made(outputs, experiment).values()}
    assert found[1]["device"].endswith("stack of 2")
    monkeypatch.setenv("LOSSATLAS_OUTPUTS", str(tmp_path / "alone"))
    assert cli(*words, "arm=js", "seed=1").code == 0
    (alone,) = made(tmp_path / "alone", experiment).values()
    for name, value in found[1]["metrics"].items():
        assert alone["metrics"][name] == pytest.approx(value, rel=1e-3, abs=1e-4), name


def test_a_run_cut_in_the_middle_ends_as_an_uncut_one(cli, outputs, tmp_path, monkeypatch):
    words = ("experiment=f_distill_modes", "scale=smoke", "callbacks.progress=false", "rounds=24")
    play, calls = LitDistill.play, []

    def cut(self, rounds):
        calls.append(rounds)
        if len(calls) == 3:
            signal.raise_signal(signal.SIGTERM)
        return play(self, rounds)

    monkeypatch.setattr(LitDistill, "play", cut)
    assert cli(*words).code != 0
    monkeypatch.setattr(LitDistill, "play", play)
    assert cli(*words).code == 0
    (resumed,) = made(outputs, "f_distill_modes").values()
    monkeypatch.setenv("LOSSATLAS_OUTPUTS", str(tmp_path / "uncut"))
    assert cli(*words).code == 0
    (uncut,) = made(tmp_path / "uncut", "f_distill_modes").values()
    assert resumed["metrics"] == uncut["metrics"]
    assert resumed["extras"] == uncut["extras"]


def test_figure_draws_what_there_is(cli, outputs):
    import matplotlib.pyplot as plt

    for experiment in ("f_distill_gauss", "f_distill_modes", "f_distill_digits"):
        assert cli(f"experiment={experiment}", "scale=smoke", "callbacks.progress=false").code == 0
    table = records.tidy(records.read(path) for path in outputs.glob("*/smoke/*/record.json"))  # type: ignore[misc]
    assert json.loads(table["extras"].max())["samples"]
    for part, panels in ((table, 8), (table[table["experiment"] != "f_distill_digits"], 6)):
        fig = figure(part)
        assert len(fig.axes) == panels
        plt.close(fig)
