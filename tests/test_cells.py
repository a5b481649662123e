"""Studies of cells: seeds in one run, what a repetition depends on, resuming, records, verdicts, bad input."""

import json
import re
import shutil
import signal
import sys
import types

import numpy as np
import pytest
import torch

from lossatlas import cells, paths, records
from lossatlas.cells import CellStudy, draws, numpy_draws
from lossatlas.errors import UserError
from lossatlas.jobs import swept_keys
from lossatlas.lit import LitModule

CARD = """
paper: location_demo
title: Location
authors: [A]
venue: V
year: 2000
n: 20
claims:
  - id: median-better
    says: the median has a smaller squared error
    source: Table 1
    experiment: location_demo
    statistic: {metric: test/error, where: {n: 101}}
    check: {kind: better, arm: median, than: [mean], lower: true, by: 0.005}
  - id: rate
    says: the squared error falls as 1 / n
    source: Table 1
    experiment: location_demo
    statistic: {metric: test/error, over: n}
    check: {kind: slope, arm: mean, between: [-1.1, -0.9]}
"""


@pytest.fixture
def demo(tmp_path, monkeypatch):
    """A checkout that holds the example of CONTRIBUTING.md, word for word, with a card."""
    text = (paths.CHECKOUT / "CONTRIBUTING.md").read_text()
    section = text.split("## A paper of repetitions in ten lines")[1].split("\n## ")[0]
    blocks = dict(re.findall(r"```(python|yaml)\n(.*?)```", section, re.DOTALL))
    root = tmp_path / "checkout"
    shutil.copytree(paths.CHECKOUT / "conf", root / "conf")
    (root / "pyproject.toml").touch()
    (root / "conf/experiment/location_demo.yaml").write_text(blocks["yaml"])
    (root / "conf/scale/smoke/location_demo.yaml").write_text(
        "# @package _global_\nseeds: 2\nconditions: {n: [5, 7]}\n"
    )
    (root / "experiments/location_demo").mkdir(parents=True)
    (root / "experiments/location_demo/card.yaml").write_text(CARD)
    module = types.ModuleType("lossatlas.papers.location_demo")
    exec(blocks["python"], module.__dict__)
    monkeypatch.setitem(sys.modules, module.__name__, module)
    monkeypatch.setattr(paths, "CHECKOUT", root)
    return root


def table_of(outputs, scale="laptop"):
    return records.tidy(records.read_all(outputs / "location_demo" / scale))


RUN = ("experiment=location_demo", "callbacks.progress=false")


def test_a_study_ends_with_a_verdict_per_claim_over_seeds(cli, outputs, demo):
    answer = cli("-m", *RUN)
    assert answer.code == 0, answer.err
    assert answer.out.count("[2/2]") == 1
    said = json.loads((outputs / "location_demo/laptop/_study/verdicts.json").read_text())["verdicts"]
    assert {v["id"]: (v["verdict"], v["n"]) for v in said} == {
        "median-better": ("reproduced", 20), "rate": ("reproduced", 20)}  # fmt: skip
    rows = table_of(outputs)
    own = rows[rows["unit"].notna()]
    assert len(own) == 2 * 3 * 20
    assert sorted(own["seed"].unique()) == list(range(20))
    assert rows.loc[rows["unit"].isna(), "test/error"].isna().all()  # the overview is no row of the table
    assert rows["seconds"].notna().sum() == 2
    mean = own.groupby(["arm", "n"])["test/error"].mean()
    assert mean["mean", "101"] == pytest.approx(2 / 101, rel=0.1)  # the variance of a Laplace law is 2
    assert mean["median", "1001"] == pytest.approx(1 / 1001, rel=0.1)  # 1 / (4 n density(0)^2)


def test_a_narrowed_or_shifted_run_has_the_same_numbers(cli, outputs, demo):
    for words in (["seeds=4"], ["seed=2", "seeds=2"]):
        assert cli(*RUN, *words, "conditions={n:[11]}").code == 0
    rows = table_of(outputs)
    rows = rows[rows["unit"].notna()]
    both = rows.groupby(["seed", "n"])["test/error"].agg(["nunique", "count"])
    assert list(both.loc[[2, 3], "count"]) == [2, 2]
    assert (both["nunique"] == 1).all()  # bitwise
    assert len(both) == 4


def test_smoke_is_cut_and_pilots_keep_their_seeds(cli, outputs, demo):
    assert cli(*RUN, "scale=smoke", "seed=100").code == 0
    rows = table_of(outputs, "smoke")
    rows = rows[rows["unit"].notna()]
    assert sorted(zip(rows["seed"], rows["n"], strict=True)) == [
        (100, "5"),
        (100, "7"),
        (101, "5"),
        (101, "7"),
    ]


def test_a_cut_run_goes_on_behind_the_last_cell(cli, outputs, demo, monkeypatch):
    seen, original = [], LitModule.training_step

    def step(self, index, i):
        original(self, index, i)
        seen.append(int(index))
        if len(seen) == 2:
            signal.raise_signal(signal.SIGTERM)

    monkeypatch.setattr(LitModule, "training_step", step)
    assert cli(*RUN, "seeds=3").code == 130
    assert cli(*RUN, "seeds=3").code == 0
    assert seen == [0, 1, 2]
    (cut,) = records.read_all(outputs)
    shutil.rmtree(outputs)
    assert cli(*RUN, "seeds=3").code == 0
    (whole,) = records.read_all(outputs)
    assert cut.units == whole.units
    assert cut.metrics == whole.metrics


@pytest.mark.parametrize(
    ("words", "told"),
    [
        (["seeds=0"], "seeds=0: should be greater than 0"),
        (["seed=90"], "seeds 90 to 109 mix verdicts"),
        (["-m", "seed=0,1,2"], "seeds=20 seeds from `seed` on, these overlap; write seed=0 seeds=3"),
    ],
)  # fmt: skip
def test_bad_input_is_one_line(cli, demo, words, told):
    answer = cli(*RUN, *words)
    assert answer.code == 2
    assert answer.err.count("\n") == 1
    assert told in answer.err


class Walk(CellStudy):
    """Points along a run, an arm in the answer, notes."""

    calls: list

    def solve(self, cell, seeds):
        self.calls.append(list(seeds))
        steps = draws(seeds, "steps", lambda g: torch.randn(8, generator=g, dtype=torch.float64))
        self.note(first=steps[0, :2])
        far = torch.full((len(seeds),), torch.inf)
        return [
            ({"T": T, "arm": arm}, {"regret": sign * steps[:, :T].sum(1), "bound/never": far})
            for T in (4, 8)
            for arm, sign in (("plus", 1.0), ("minus", -1.0))
        ]


def test_points_arms_notes_and_blocks_of_seeds():
    whole, parts = (Walk(None, seeds=5, together=n, conditions={"B": [1, 2]}) for n in (None, 2))
    for study in (whole, parts):
        study.calls = []
        study.play(torch.arange(2))
        study.play(torch.arange(2))  # a second epoch solves nothing again
    assert whole.calls == [[0, 1, 2, 3, 4]] * 2
    assert parts.calls == [[0, 1], [2, 3], [4]] * 2
    assert whole.unit_metrics() == parts.unit_metrics()
    rows = whole.unit_metrics()
    assert len(rows) == 2 * 4 * 5
    assert rows[0] | {"metrics": 0} == {
        "unit": 0, "seed": 0, "arm": "plus", "condition": {"B": 1, "T": 4}, "metrics": 0}  # fmt: skip
    assert [
        a["metrics"]["test/regret"] + b["metrics"]["test/regret"]
        for a, b in zip(rows[:5], rows[5:10], strict=True)
    ] == [0] * 5
    assert rows[0]["metrics"]["bound/never"] == np.inf
    assert list(whole.extras()) == ["B=1", "B=2"]
    assert len(whole.extras()["B=1"]["first"]) == 2


class Wrong(CellStudy):
    points: object
    answer: object

    def cells(self):
        return self.points

    def solve(self, cell, seeds):
        return self.answer


@pytest.mark.parametrize(
    ("points", "answer", "told"),
    [
        ([{}], {"regret": torch.zeros(4)}, r"regret has shape \(4,\), it must be \(3,\)"),
        ([{}], {"regret": 0.0}, r"shape \(\)"),
        ([{}], {"regret": torch.zeros(3, 2, 2)}, r"shape \(3, 2, 2\)"),
        ([{}], [({}, {}), ({}, {})], "answers one cell twice"),
        ([], {}, "gives 0 cells"),
        ([{"B": 1}, {"B": 1}], {}, "2 cells, 1 different"),
        ([{"seed": 1}], {}, "'seed' is a column of every record"),
    ],
)
def test_what_cells_and_solve_must_give(points, answer, told):
    study = Wrong(None, seeds=3)
    study.points, study.answer = points, answer
    with pytest.raises((ValueError, UserError), match=told):
        study.play(torch.arange(1))


def test_the_mean_of_repetitions_inside_a_seed_is_the_seeds_number():
    study = Wrong(None, seeds=2)
    study.points, study.answer = [{}], {"error": np.array([[1, 2, 6], [0, 0, 3]])}
    study.play(torch.arange(1))
    assert [u["metrics"]["test/error"] for u in study.unit_metrics()] == [3.0, 1.0]


def test_a_study_without_solve_says_what_is_missing():
    with pytest.raises(TypeError, match="override solve"):
        CellStudy(None).play(torch.arange(1))


def test_streams_depend_on_seed_and_purpose_alone():
    for make, sample in (
        (draws, lambda g: torch.rand(3, generator=g)),
        (numpy_draws, lambda rng: rng.random(3)),
    ):
        both, alone = make([3, 5], "a", sample), make([5], "a", sample)
        assert torch.equal(both[1], alone[0])
        assert not torch.equal(both[0], both[1])
        assert not torch.equal(make([5], "b", sample)[0], alone[0])
    with pytest.raises(ValueError, match="seed >= 0"):
        numpy_draws([-1], "a", lambda rng: rng.random(3))


def test_a_list_is_one_value_of_a_grid():
    assert swept_keys([{"arm": "a", "conditions.n": "[1,2]", "x": "1,2"}], "a") == ["x"]


def test_label_is_the_records_text():
    assert cells.label({"a": True, "b": None, "c": 0.5}) == "a=true b=null c=0.5"
