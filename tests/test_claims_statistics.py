"""Statistics: the number per unit and arm that a card's line asks for."""

import math
from typing import Any

import numpy as np
import pytest
from claim_makers import card, claim, runs
from pandas import DataFrame

from lossatlas import records
from lossatlas.claims import Statistic, compute, judge, number_in, unit_ids
from lossatlas.claims.statistics import NotRunError, select

GRID = {
    ("a", "u00"): [4.0, 9.0],
    ("a", "u30"): [2.0, 3.0],
    ("a", "u60"): [1.0, 6.0],
    ("b", "u60"): [5.0, 5.5],
}


def numbers(statistic, table=None, independent=False) -> dict:
    """{(unit, arm, condition, step): value} of a statistic."""
    table = records.tidy(runs(GRID)) if table is None else table
    order = "over" in statistic and "reduce" not in statistic
    check = {"kind": "order", "arm": "a"} if order else {"kind": "bound", "arm": "a", "above": 0}
    part = card({**claim(check), "statistic": statistic}).claims[0].parts[0]
    found = compute(part.statistic, select(table, "exp"), independent=independent).table
    return {(r.unit, r.arm, r.condition, r.step): r.value for r in found.itertuples()}


def test_metric_at_a_condition_and_at_several():
    assert numbers({"metric": "acc", "where": {"noise": "u30"}}) == {
        ("s0", "a", "", ""): 2,
        ("s1", "a", "", ""): 3,
    }
    both = numbers({"metric": "acc", "where": {"noise": ["u60", "u30"]}})
    assert both["s1", "b", "u60", ""] == 5.5
    assert both["s0", "a", "u30", ""] == 2


@pytest.mark.parametrize(
    ("how", "expected"),
    [("mean", 7 / 3), ("min", 1), ("max", 4), ("range", 3), ("slope", -1)],
)
def test_reduce_collapses_the_axis(how, expected):
    values = {"u30": 1, "u60": 2} if how == "slope" else ["u00", "u30", "u60"]
    found = numbers(
        {"metric": "acc", "over": "noise", "values": values, "reduce": how, "where": {"arm": "a"}}
    )
    assert found["s0", "a", "", ""] == pytest.approx(expected)


def test_minus_log_and_arms_by_condition():
    assert (
        numbers({"metric": "acc", "where": {"noise": "u00"}, "minus": {"noise": "u60"}})["s1", "a", "", ""]
        == 3
    )
    log = numbers({"metric": "acc", "where": {"noise": "u00"}, "log": True})
    assert log["s0", "a", "", ""] == pytest.approx(math.log(4))
    assert numbers({"metric": "acc", "where": {"arm": "a"}, "arms": "noise"})["s0", "u60", "", ""] == 1


def test_axis_is_ordered_by_number_or_as_listed():
    found = numbers({"metric": "acc", "over": "noise", "where": {"arm": "a"}})
    assert [step for unit, *_, step in found if unit == "s0"] == ["u00", "u30", "u60"]
    table = records.tidy(runs({("a", "low"): [1.0], ("a", "high"): [2.0]}))
    with pytest.raises(NotRunError, match="must list `values` in order"):
        numbers({"metric": "acc", "over": "noise"}, table)


@pytest.mark.parametrize(
    ("text", "number"),
    [("u30", 30), ("1e-2", 0.01), ("-2", -2), ("theta-1", 1), ("n64", 64), (".5", 0.5), ("x", math.nan)],
)
def test_number_in_a_name(text, number):
    assert number_in(text) == pytest.approx(number, nan_ok=True)


def test_conditions_match_as_numbers():
    table = records.tidy(runs({("a", "0.5"): [1.0, 2.0], ("a", "true"): [5.0, 5.0]}))
    assert numbers({"metric": "acc", "where": {"noise": 0.50}}, table)["s1", "a", "", ""] == 2
    assert numbers({"metric": "acc", "where": {"noise": True}}, table)["s1", "a", "", ""] == 5


@pytest.mark.parametrize(
    ("statistic", "text"),
    [
        ({"metric": "accu"}, "no record has the metric accu"),
        ({"metric": "acc", "where": {"noise": "u61"}}, "no run at noise=u61"),
        ({"metric": "acc", "where": {"nois": "u60"}}, "no record has the condition nois"),
        ({"metric": "acc"}, "several values for s0, a: `where` or `over` must fix noise"),
        (
            {"metric": "acc", "over": "noise", "values": ["u00", "u90"], "reduce": "mean"},
            "no run at noise=u90",
        ),
    ],
)
def test_what_is_missing_is_named(statistic, text):
    with pytest.raises(NotRunError, match=text):
        numbers(statistic)


def stacked(seed, status="done", values=(1.0, 2.0)):
    units = [{"unit": i, "metrics": {"acc": v}} for i, v in enumerate(values)] if status == "done" else []
    metrics = {"loss": 0.5} if status == "done" else {}
    return records.Record("exp", "p", "a", seed, status=status, metrics=metrics, units=units)


def test_repetitions_of_a_seed_are_averaged_unless_they_are_independent():
    table = records.tidy([stacked(0), stacked(1, values=(3.0, 6.0))])
    assert list(unit_ids(table)) == ["s0", "s0u0", "s0u1", "s1", "s1u0", "s1u1"]
    averaged = numbers({"metric": "acc"}, table)
    assert averaged == {("s0", "a", "", ""): 1.5, ("s1", "a", "", ""): 4.5}
    assert numbers({"metric": "acc", "log": True}, table)["s1", "a", "", ""] == pytest.approx(
        (math.log(3) + math.log(6)) / 2
    )
    units = [("s0u0", 1), ("s0u1", 2), ("s1u0", 3), ("s1u1", 6)]
    alone = {(unit, "a", "", ""): value for unit, value in units}
    assert numbers({"metric": "acc"}, table, independent=True) == alone
    assert numbers({"metric": "loss"}, table) == {("s0", "a", "", ""): 0.5, ("s1", "a", "", ""): 0.5}


def test_a_seed_that_lost_a_repetition_is_lost():
    table = records.tidy([stacked(0), stacked(1), stacked(2)])
    first = (table["unit"] == 0) & (table["seed"] == 1)
    table.loc[first, "status"] = "failed"
    part = card(claim({"kind": "bound", "arm": "a", "above": 0}, statistic={"where": {}})).claims[0].parts[0]
    found = compute(part.statistic, select(table, "exp")).table
    assert np.array_equal(found["failed"], [0.0, np.nan, 0.0], equal_nan=True)


def test_violations_of_a_seeds_repetitions_add_up():
    rows = [{"unit": i, "metrics": {"bad": 1.0, "tried": 10.0}} for i in range(3)]
    table = records.tidy([records.Record("exp", "p", "a", 0, units=rows)])
    raw = claim({"kind": "never", "arm": "a"})
    raw["statistic"] = {"metric": "bad", "trials": "tried"}
    found = compute(card(raw).claims[0].parts[0].statistic, select(table, "exp")).table
    assert found[["value", "trials"]].to_numpy().tolist() == [[3.0, 30.0]]


def test_a_diverged_run_stands_for_each_of_its_units():
    table = records.tidy([stacked(0), stacked(1, "diverged")])
    found = numbers({"metric": "acc", "worst": -1.0}, table, independent=True)
    assert found["s1u0", "a", "", ""] == found["s1u1", "a", "", ""] == -1.0


def difference(records: Any, of: str) -> Any:
    """A card's own function: acc at u60, for one arm, with the failed runs as they come."""
    rows = records[(records["noise"] == "u60") & (records["arm"] == of)]
    return DataFrame({"unit": rows["unit_id"], "arm": of, "value": rows["acc"]})


def broken(records: Any) -> Any:
    """A card's own function with a fault."""
    return records[["nothing"]]


def columnless(records: Any) -> Any:
    """A card's own function that forgets the units."""
    return records[["acc"]]


def function(name, check=None, **more):
    check = check or {"kind": "bound", "above": 0.0}
    return {**claim(check), "statistic": {"function": f"{__name__}.{name}", **more}}


@pytest.mark.parametrize("status", ["failed", "diverged"])
def test_named_function(status):
    table = records.tidy(runs({**GRID, ("a", "u60"): [1.0, 6.0, status]}))
    said = judge(card(function("difference", args={"of": "a"}), n=2), table)[0]
    assert (said.n, said.effect) == (
        2,
        pytest.approx(3.5),
    )  # what a function makes of a lost run nobody checks


@pytest.mark.parametrize(
    ("name", "text"),
    [
        ("broken", "broken raised KeyError"),
        ("columnless", "must return a DataFrame"),
        ("gone", "cannot be imported"),
    ],
)
def test_a_functions_fault_costs_only_its_claim(name, text):
    fine = claim({"kind": "bound", "arm": "b", "above": 0.0}, "fine")
    grid = {**GRID, ("b", "u60"): [5.0, 5.5, 5.2, 5.1, 5.4]}
    said = judge(card(function(name), fine), records.tidy(runs(grid)))
    assert [v.verdict for v in said] == ["not run", "reproduced"]
    assert text in said[0].remark
    assert "\n" not in said[0].remark


def grid_of_slopes(records: DataFrame) -> DataFrame:
    """A card's own function with an axis and two conditions."""
    rows = [
        (f"s{s}", c, x, float(x**-0.5 * (1 + 0.01 * (s * x % 3))))
        for s in range(5)
        for c in "pq"
        for x in (1, 10, 100)
    ]
    return DataFrame(rows, columns=["unit", "condition", "x", "value"])


def test_named_function_with_an_axis():
    check = {"kind": "slope", "between": [-0.6, -0.4]}
    said = judge(card(function("grid_of_slopes", check)), records.tidy(runs(GRID)))[0]
    assert said.verdict == "reproduced"
    assert said.effect == pytest.approx(-0.5, abs=0.01)
    assert "largest p of 2" in said.remark


def test_an_arm_that_never_logs_the_metric_is_not_run():
    rows = [records.Record("exp", "p", "a", s, metrics={"acc": 1.0 + s}) for s in range(3)]
    rows += [records.Record("exp", "p", "b", s, metrics={"loss": 1.0}) for s in range(3)]
    raw = claim({"kind": "better", "arm": "a", "than": "b", "by": 0.1})
    raw["statistic"] = {"metric": "acc"}
    said = judge(card(raw), records.tidy(rows))[0]
    assert (said.verdict, said.remark) == ("not run", "b has no finite value")


def test_order_over_arms():
    values = {
        (arm, "u60"): [i + 0.1 * s * (-1) ** i for s in range(5)]
        for i, arm in enumerate(["rkl", "js", "fkl"])
    }
    raw = claim({"kind": "trend"}, statistic={"over": "arm", "values": ["rkl", "js", "fkl"]})
    said = judge(card(raw), records.tidy(runs(values)))[0]
    assert (said.verdict, said.effect) == ("reproduced", pytest.approx(1.0))


def test_statistic_holds_gaps_apart_from_failures():
    table = records.tidy(runs({("a", "u60"): [1.0, "interrupted", "diverged", "failed"]}))
    part = card(claim({"kind": "bound", "arm": "a", "above": 0})).claims[0].parts[0]
    found = compute(part.statistic, select(table, "exp"))
    assert isinstance(found, Statistic)
    assert np.array_equal(found.table["failed"], [0.0, np.nan, 1.0, np.nan], equal_nan=True)
