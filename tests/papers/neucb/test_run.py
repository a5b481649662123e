"""NeuCB's rounds as runs: replicas, resuming, curves, the card's statistic."""

import copy
import csv
import functools
import json

import numpy as np
import pandas as pd
import pytest
import pytorch_lightning as pl
import torch
from torch.testing import assert_close

from lossatlas.data import load
from lossatlas.lit import Diverged
from lossatlas.papers.neucb import Bandit, LitNeuCB, NeuralLearner, RidgeLearner, from_classes
from lossatlas.papers.neucb.lit import second_half_slope
from lossatlas.papers.neucb.study import figure, mean_relative_regret

BANDIT = from_classes(load("toy", 3, [6], fake=True))
ARMS = {
    "neu_square_cb": ("square", 50.0, {"loss": "squared", "eta": 0.1, "S": 5}),
    "neu_fast_cb": ("fast", 50.0, {"loss": "kl", "eta": 1.0, "S": 5, "rho": 2.0}),
    "neu_fast_plain": ("fast", 50.0, {"loss": "kl", "eta": 1.0, "S": 0}),
    "neural_ucb": ("ucb", 0.1, {"loss": "squared", "eta": 0.1, "S": 0}),
    "neural_ts": ("ts", 0.1, {"loss": "squared", "eta": 0.1, "S": 0}),
    "neural_epsilon": ("epsilon", 0.1, {"loss": "squared", "eta": 0.1, "S": 0}),
}


def make(arm: str, seed: int, rounds: int = 60, chunk: int = 20, **other) -> LitNeuCB:
    if arm == "random":
        return LitNeuCB(BANDIT, None, "uniform", rounds=rounds, chunk=chunk, seed=seed)
    if arm == "linear":
        learner = functools.partial(RidgeLearner, ridge=1.0)
        return LitNeuCB(BANDIT, learner, "square", 50.0, rounds=rounds, chunk=chunk, seed=seed)
    rule, knob, kwargs = ARMS[arm]
    learner = functools.partial(NeuralLearner, m=20, **{**kwargs, **other})
    return LitNeuCB(BANDIT, learner, rule, knob, rounds=rounds, chunk=chunk, seed=seed)


def play(module: LitNeuCB) -> LitNeuCB:
    for chunk in torch.arange(module.rounds).split(module.chunk):
        module.play(chunk)
    return module


@pytest.mark.parametrize("arm", [*ARMS, "linear", "random"])
def test_three_stacked_seeds_equal_three_runs(arm):
    alone = [play(make(arm, seed)) for seed in (0, 1, 7)]
    together = play(LitNeuCB.stack([make(arm, seed) for seed in (0, 1, 7)]))
    state = dict(together.named_buffers())
    for r, module in enumerate(alone):
        for name, value in module.named_buffers():
            if name not in ("contexts", "table", "loss_sum"):
                assert_close(state[name][r], value[0], atol=1e-10, rtol=0, msg=f"{name} of replica {r}")
        assert torch.equal(together.regrets[r], module.regrets[0])
        assert together.replica(r)["metrics"] == pytest.approx(module.replica(0)["metrics"])
        assert together.replica(r)["rows"] == module.curve_rows()
    assert not torch.equal(together.order[0], together.order[1])


def test_settings_may_differ_between_replicas():
    fast, slow = make("neu_fast_cb", 0, eta=1.0), make("neu_fast_cb", 0, eta=0.1)
    slow.knob.fill_(5.0)
    alone = [play(copy.deepcopy(module)) for module in (fast, slow)]
    together = play(LitNeuCB.stack([fast, slow]))
    for r, module in enumerate(alone):
        assert_close(together.learner.V[r], module.learner.V[0], atol=1e-10, rtol=0)
        assert torch.equal(together.regrets[r], module.regrets[0])


def test_modules_that_differ_are_not_stacked():
    with pytest.raises(ValueError, match="the same data, rule, learner and rounds"):
        LitNeuCB.stack([make("neural_ucb", 0), make("neural_epsilon", 0)])
    with pytest.raises(ValueError, match="stack them apart"):
        LitNeuCB.stack([make("neu_fast_cb", 0), make("neu_fast_cb", 0, rounds=80)])


def test_a_diverged_replica_leaves_its_neighbour_alone():
    mad, sane = make("neu_square_cb", 0, eta=1e12), make("neu_square_cb", 1)
    expected = play(copy.deepcopy(sane))
    together = play(LitNeuCB.stack([mad, sane]))
    assert together.replica(0)["error"].startswith("Diverged")
    assert together.replica(0)["metrics"] == {}
    assert together.replica(1)["error"] is None
    assert torch.equal(together.regrets[1], expected.regrets[0])
    left, alone = (module.replica(i)["metrics"] for module, i in ((together, 1), (expected, 0)))
    assert left == pytest.approx(alone, abs=1e-12)
    assert together.results() == {}  # of the first replica


def trainer(epochs: int = 1) -> pl.Trainer:
    return pl.Trainer(
        max_epochs=epochs, accelerator="cpu", logger=False, enable_checkpointing=False, enable_progress_bar=False,
        enable_model_summary=False,
    )  # fmt: skip


def test_a_single_diverged_run_stops():
    with pytest.raises(Diverged, match="rounds 0 to 19"):
        trainer().fit(make("neu_square_cb", 0, eta=1e12))


class Cut(pl.Callback):
    """Saves behind the second chunk and stops."""

    def __init__(self, path) -> None:
        self.path, self.seen = path, 0

    def on_train_batch_end(self, trainer: pl.Trainer, *_) -> None:
        self.seen += 1
        if self.seen == 2:
            trainer.save_checkpoint(self.path)
            raise KeyboardInterrupt


@pytest.mark.parametrize("arm", [*ARMS, "linear"])
def test_a_run_cut_in_the_middle_has_the_same_curve_bitwise(arm, tmp_path):
    whole = make(arm, 3)
    trainer().fit(whole)
    cut = trainer()
    cut.callbacks.append(Cut(tmp_path / "cut.ckpt"))  # type: ignore[attr-defined]
    with pytest.raises(SystemExit):
        cut.fit(make(arm, 3))
    resumed = make(arm, 3)
    resumed.order.zero_()  # the order of the rows is the checkpoint's
    trainer().fit(resumed, ckpt_path=tmp_path / "cut.ckpt", weights_only=True)
    for name, value in whole.named_buffers():
        assert torch.equal(dict(resumed.named_buffers())[name], value), name
    assert whole.regrets[0].sum() > 0
    assert resumed.curve_rows() == whole.curve_rows()


def test_regret_is_the_tables():
    module = make("neural_epsilon", 2)
    arms = []
    learn = module.learner.update
    module.learner.update = lambda arm, y: (arms.append((arm, y)), learn(arm, y))[1]  # type: ignore[assignment]
    play(module)
    rows = module.order[0]
    paid = BANDIT.losses[rows, torch.cat([arm for arm, _ in arms])]
    assert torch.equal(torch.cat([y for _, y in arms]), paid.double())
    left = module.replica(0)
    assert left["metrics"]["test/regret"] == paid.sum().item()
    assert left["metrics"]["test/relative_regret"] == pytest.approx(paid.sum().item() / (60 * 2 / 3))
    assert left["rows"][-1] == {"round": 60.0, "regret": paid.sum().item()}
    curve = left["extras"]["curve"]
    assert curve["regret"] == [left["rows"][t - 1]["regret"] for t in curve["t"]]


def test_regret_counts_from_the_best_arm_of_each_round():
    losses = torch.tensor([[0.3, 0.7]]).repeat(10, 1)
    module = play(LitNeuCB(Bandit(torch.ones(10, 1), losses), None, "uniform", rounds=10, seed=0))
    pulled = (module.uniform[0] >= 0.5).sum().item()
    assert module.replica(0)["metrics"]["test/regret"] == pytest.approx(0.4 * pulled, abs=1e-6)
    assert module.uniform_regret.item() == pytest.approx(2.0, abs=1e-6)


@pytest.mark.parametrize("power", [0.5, 1.0])
def test_slope_of_a_power(power):
    assert second_half_slope(3 * np.arange(1, 501) ** power) == pytest.approx(power)


def test_slope_without_a_loss_in_the_half_is_zero():
    assert second_half_slope(np.minimum(np.arange(1.0, 101), 30)) == 0.0
    assert second_half_slope(np.zeros(100)) == 0.0
    assert second_half_slope(np.r_[np.zeros(99), 1.0]) == 0.0


def table() -> pd.DataFrame:
    rows = []
    for seed in (0, 1):
        for data, uniform in (("a", 50.0), ("b", 80.0)):
            for arm, share in (("x", 0.2), ("y", 0.4)):
                regret = uniform * share + seed
                curve = {"curve": {"t": [1, 50, 100], "regret": [0, regret / 2, regret]}}
                rows.append(
                    {"experiment": "neucb_datasets", "arm": arm, "data": data, "seed": seed, "unit_id": f"s{seed}",
                     "failed": False, "test/regret": regret, "test/relative_regret": regret / uniform,
                     "extras": json.dumps(curve)}
                )  # fmt: skip
    return pd.DataFrame(rows)


def test_statistic_averages_the_sets_and_counts_a_failed_run_with_its_worst():
    rows = table()
    lost = (rows["arm"] == "y") & (rows["data"] == "b") & (rows["seed"] == 1)
    rows.loc[lost, ["failed", "test/regret", "test/relative_regret"]] = [True, 100.0, np.nan]
    found = mean_relative_regret(rows, ["a", "b"]).set_index(["unit", "arm"])["value"]
    assert found["s0", "x"] == pytest.approx(0.2)
    assert found["s1", "x"] == pytest.approx((11 / 50 + 17 / 80) / 2)
    assert found["s1", "y"] == pytest.approx((21 / 50 + 100 / 80) / 2)
    assert len(mean_relative_regret(rows[rows["data"] == "a"], ["a", "b"])) == 0


def test_figure_has_a_panel_per_set():
    rows = table().assign(arm=lambda f: f["arm"].map({"x": "neu_fast_cb", "y": "random"}))
    shown = figure(rows)
    assert [ax.get_title() for ax in shown.axes] == ["a (n = 2)", "b (n = 2)"]


def test_cli_curve_has_a_row_a_round(cli, outputs):
    answer = cli("experiment=neucb_datasets", "scale=smoke", "callbacks.progress=false")
    assert answer.code == 0, answer.err
    (path,) = outputs.glob("neucb_datasets/smoke/*/curves.csv")
    rows = list(csv.DictReader(path.open()))
    assert [float(row["round"]) for row in rows] == list(range(1, 49))
    record = json.loads((path.parent / "record.json").read_text())
    assert float(rows[-1]["regret"]) == record["metrics"]["test/regret"]
    assert record["metrics"]["test/regret"] < 24


@pytest.mark.parametrize(
    ("words", "text"),
    [
        (["knob=-1"], "knob=-1: should lie in [0, inf)"),
        (["arm=neural_epsilon", "knob=2"], "epsilon needs eps in [0, 1], got eps=2"),
        (["epochs=2"], "epochs=2: should lie in [1, 1]"),
        (["step=0"], "step=0: should lie in (0, inf)"),
    ],
)
def test_cli_refuses_in_one_line(cli, words, text):
    answer = cli("experiment=neucb_datasets", "scale=smoke", *words)
    assert answer.code == 2
    (line,) = [row for row in answer.err.splitlines() if row.startswith("lossatlas:")]
    assert text in line


def test_paper_scale_steps_at_smoke(cli, outputs):
    answer = cli("experiment=paper/neucb_datasets", "scale=smoke", "data=plants", "callbacks.progress=false")
    assert answer.code == 0, answer.err
    assert len(list(outputs.glob("paper/neucb_datasets/smoke/*/record.json"))) == 1


def test_launcher_stacks_seeds_and_settings(cli, outputs, monkeypatch):
    words = [
        "experiment=neucb_datasets",
        "scale=smoke",
        "data=mushroom",
        "seed=0,1",
        "knob=10,1000",
        "step=0.3,1.0",
    ]
    made = []
    monkeypatch.setattr(
        LitNeuCB, "stack", classmethod(lambda cls, r, *a, f=LitNeuCB.stack: made.append(len(r)) or f(r))
    )
    answer = cli("-m", *words, "arm=neu_fast_cb", "hydra/launcher=stacked", "hydra.launcher.n_jobs=1")
    assert answer.code == 0, answer.err
    assert made == [8]
    stacked = {
        path.parent.name: json.loads(path.read_text())
        for path in outputs.glob("neucb_datasets/smoke/*/record.json")
    }
    answer = cli("-m", *words, "arm=neu_fast_cb", "rerun=true")
    assert answer.code == 0, answer.err
    for path in outputs.glob("neucb_datasets/smoke/*/record.json"):
        alone = json.loads(path.read_text())
        assert stacked[path.parent.name]["extras"] == alone["extras"]
        for name in ("test/regret", "test/slope", "test/regression"):
            assert stacked[path.parent.name]["metrics"][name] == pytest.approx(alone["metrics"][name])
    assert len(stacked) == 8
