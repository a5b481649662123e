"""Two arms or experiments, compared: values against scipy, names, and the three forms of output."""

import csv
import io

import numpy as np
import pytest
from claim_makers import around, runs
from scipy import stats

from lossatlas import compare, records
from lossatlas.errors import UserError

A, B, C = around(0.7), [0.6, 0.62, 0.61, 0.58, 0.64], [0.1, 0.2, "failed", 0.3, 0.4]
TABLE = records.tidy(
    runs({("ours", "u30"): A, ("ce", "u30"): B, ("mae", "u30"): C, ("ours", "u60"): B, ("ce", "u60"): A})
)
OTHER = records.tidy(runs({("ours", "u30"): [0.1, 0.3, 0.2]}, experiment="second"))


def lines(a, b, tables=(TABLE, OTHER), **more):
    return compare.compare(compare.sides(tables, a, b), ["acc"], **more)


def test_paired_by_unit_agrees_with_scipy():
    first, second = lines("exp:ours", "exp:ce")
    test = stats.ttest_rel(A, B)
    ends = test.confidence_interval(0.90)
    assert (first.condition, second.condition, first.test, first.n) == (
        "noise=u30",
        "noise=u60",
        "paired t",
        5,
    )
    assert (first.p, first.low, first.high) == pytest.approx((test.pvalue, ends.low, ends.high))
    assert first.effect == pytest.approx(-second.effect) == pytest.approx(np.mean(A) - np.mean(B))
    assert first.size == pytest.approx(first.effect / np.sqrt((np.var(A, ddof=1) + np.var(B, ddof=1)) / 2))
    half = stats.t.ppf(0.975, 4) * stats.sem(A)
    assert (first.a.mean, first.a.half, first.a.n) == pytest.approx((np.mean(A), half, 5))


def test_experiments_are_compared_by_welch_and_failed_runs_are_counted():
    (row,) = lines("exp:ours", "second:ours", where={"noise": ["u30"]})
    test = stats.ttest_ind(A, [0.1, 0.3, 0.2], equal_var=False)
    assert (row.p, row.test, row.n) == (pytest.approx(test.pvalue), "Welch's t", 3)
    assert (row.first, row.second) == ("exp:ours", "second:ours")
    (row,) = lines("ce", "mae", where={"noise": ["u30"]})
    assert (row.b.failed, row.b.n, row.n) == (1, 4, 4)
    assert "(1 failed)" in compare.text([row])


def test_times_never_reached_are_counted_apart_and_left_out_of_the_mean():
    table = records.tidy(runs({("ours", ""): [1.0, 3.0, np.inf, np.inf, "failed"], ("ce", ""): [2.0] * 5}))
    (row,) = lines("ours", "ce", tables=(table,))
    assert (row.a.mean, row.a.n, row.a.failed, row.a.never, row.b.never) == (2.0, 2, 1, 2, 0)
    assert "2 never" in compare.text([row])


def test_names():
    assert [(r.first, r.second) for r in lines("exp:ours", "exp", where={"noise": ["u30"]})] == [
        ("ours", "ce"),
        ("ours", "mae"),
    ]
    (row,) = lines("exp:ours@noise=u30", "exp:ours@noise=u60")
    assert (row.condition, row.first, row.second) == ("all", "ours@noise=u30", "ours@noise=u60")
    assert row.effect == pytest.approx(np.mean(A) - np.mean(B))
    for names, part in (
        (("exp:our", "exp:ce"), "did you mean exp:ours"),
        (("ours", "ours"), "several experiments have that arm: exp:ours, second:ours"),
        (("exp:ours", "exp:mae@noise=u90"), "nothing to compare"),
    ):
        with pytest.raises(UserError, match=part):
            lines(*names)


def test_csv_holds_every_digit_and_latex_compiles_by_eye(tmp_path, capsys):
    records.to_csv(TABLE, tmp_path / "records.csv")
    command = ["exp:ours", "exp:ce", "--metric", "acc", "--records", str(tmp_path)]
    assert compare.main([*command, "--csv"]) == 0
    first, _ = csv.DictReader(io.StringIO(capsys.readouterr().out))
    assert float(first["difference"]) == pytest.approx(np.mean(A) - np.mean(B), rel=1e-12)
    assert (first["a"], first["n_a"], first["test"]) == ("ours", "5", "paired t")
    assert compare.main([*command, "--latex"]) == 0
    table = capsys.readouterr().out
    for part in (r"\begin{tabular}{llrrrrr}", r"\toprule", r"\bottomrule", r"noise=u30 & $0.700 \pm", r" \\"):
        assert part in table
    body = table[table.index(r"\midrule") : table.index(r"\bottomrule")].strip().splitlines()[1:]
    assert {line.count("&") for line in body} == {6}
    assert compare._tex("aldr_kl 50% {&}") == r"aldr\_kl 50\% \{\&\}"
    assert compare.main(["exp:ours", "nothing", "--records", str(tmp_path)]) == 2
    assert capsys.readouterr().err.count("\n") == 1


def test_the_evidence_is_compared_without_naming_it(capsys):
    assert compare.main(["aldr_kl", "ce", "--metric", "test/top1", "--where", "noise=u60"]) == 0
    out = capsys.readouterr().out
    assert "paired t" in out
    assert len(out.splitlines()) == 3
