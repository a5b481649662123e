"""The linear MDP studies: cells, settings that are refused, the card's statistic, the figure."""

import matplotlib
import pandas as pd
import pytest
import torch

from lossatlas import records
from lossatlas.papers.linear_mdp.figure import figure
from lossatlas.papers.linear_mdp.statistics import mean_log_error
from lossatlas.papers.linear_mdp.study import Inverses, Regret
from lossatlas.paths import experiments_dir

matplotlib.use("Agg")
CHANCES = [0.9, 0.08, 0.015, 0.005]


def regret(**more) -> Regret:
    settings = {"learner": "log_barrier", "episodes": [10, 20], "c_eta": 4.0, "c_beta": 0.1, "seeds": 2}
    return Regret(None, **{**settings, **more})


def rows(study) -> pd.DataFrame:
    study.play(torch.arange(len(study.grid)))
    found = [
        {"seed": u["seed"], "arm": u.get("arm", ""), **u["condition"], **u["metrics"]}
        for u in study.unit_metrics()
    ]
    return pd.DataFrame(found)


def test_a_tuning_grid_is_the_runs_alone():
    grid = rows(regret(c_eta=[1.0, 4.0], c_beta=[0.0, 0.1]))
    assert len(grid) == 2 * 2 * 2 * 2
    alone = rows(regret(episodes=[20]))
    same = grid[(grid["K"] == 20) & (grid["c_eta"] == 4.0) & (grid["c_beta"] == 0.1)]
    assert same["test/regret"].tolist() == pytest.approx(alone["test/regret"].tolist(), rel=1e-9)


def test_a_condition_sets_the_number_of_actions():
    found = rows(regret(learner="uniform", episodes=[10], conditions={"A": [2, 3]}))
    assert found.groupby("A")["test/smallest"].unique().to_dict() == {2: [1 / 2], 3: [1 / 3]}


def test_errors_of_both_inverses_shrink_with_samples_and_are_averaged():
    study = Inverses(
        None,
        inverses=["direct", "resampling"],
        weights=CHANCES,
        seeds=10,
        conditions={"gamma": [0.1], "M": [4, 64]},
    )
    found = rows(study)
    middle = found.groupby(["arm", "M"])["test/error"].median().unstack()
    assert middle[64]["direct"] < 0.5 * middle[4]["direct"]
    assert middle[64]["direct"] < middle[64]["resampling"] < middle[4]["resampling"]
    table = found.rename(columns={"seed": "unit_id"})
    mean = mean_log_error(table).set_index(["unit", "arm"])["value"]
    own = found[(found["seed"] == 3) & (found["arm"] == "direct")]["test/error"]
    assert float(mean[3, "direct"]) == pytest.approx(float(torch.tensor(own.tolist()).log().mean()), abs=1e-6)


@pytest.mark.parametrize(
    ("call", "text"),
    [
        (lambda: regret(episodes=[1, 20]), "numbers >= 2"),
        (lambda: regret(c_eta=0.0), "c_eta > 0"),
        (lambda: regret(trajectories=0), "trajectories >= 1"),
        (lambda: Inverses(None, inverses=["mgr"], weights=CHANCES), "direct and resampling"),
        (lambda: Inverses(None, inverses=["direct"], weights=[0.5, 0.6]), "sum to 1"),
    ],
)
def test_bad_settings_are_refused_in_one_line(call, text):
    with pytest.raises(ValueError, match=text) as refused:
        call()
    assert "\n" not in str(refused.value)


def test_the_figure_draws_what_there_is():
    published = records.from_csv(experiments_dir() / "linear_mdp" / "records.csv")
    drawn, empty = figure(published), figure(published[:0])
    assert [len(ax.get_legend().get_texts()) if ax.get_legend() else 0 for ax in drawn.axes] == [6, 3, 2, 6]
    assert len(empty.axes) == 4
