"""Every kind of check says every verdict it can say, and what else a verdict depends on."""

import math
import random

import numpy as np
import pytest
from claim_makers import around, card, claim, one, powers, runs

from lossatlas import records
from lossatlas.claims import holm, judge

NOISY = [3.0, -2.5, 2.0, -3.0, 1.0]  # five differences that say nothing
LOG = {"over": "noise", "where": {}}


def arms(a, b):
    return {("a", "u60"): a, ("b", "u60"): b}


def steps(*rows):
    """Five units along three conditions."""
    return {("a", f"n{k}"): row for k, row in enumerate(rows, 1)}


UP = steps(around(1), around(2), around(3))
MIXED = steps([1, 2, 3, 1, 2], [2, 3, 1, 3, 1], [3, 1, 2, 2, 3])
BETTER = {"kind": "better", "arm": "a", "than": ["b"], "by": 0.1}
LOWER = {"kind": "better", "arm": "a", "than": ["b"], "by": 0.1, "lower": True}
NOT_WORSE = {"kind": "better", "arm": "a", "than": ["b"], "by": -0.5}
ABOVE = {"kind": "bound", "arm": "a", "above": 0.5}
BELOW = {"kind": "bound", "arm": "a", "below": 0.5}
CLOSE = {"kind": "close", "arm": "a", "than": ["b"], "within": 0.1}
CLOSE_TO = {"kind": "close", "arm": "a", "value": 3.0, "within": 0.1}
SLOPE = {"kind": "slope", "arm": "a", "between": [-0.6, -0.4]}
RISES = {"kind": "order", "arm": "a"}
FALLS = {"kind": "order", "arm": "a", "increasing": False}
RATIO = {"kind": "ratio", "arm": "a", "than": ["b"], "below": 0.5}
RATIO_UP = {"kind": "ratio", "arm": "a", "than": ["b"], "above": 2.0}
LOW, HIGH = around(1), [2.03, 2.0, 1.99, 2.0, 2.02]
CASES = [
    (BETTER, {}, arms(HIGH, LOW), arms(LOW, HIGH), arms(NOISY, around(0))),
    (LOWER, {}, arms(LOW, HIGH), arms(HIGH, LOW), arms(NOISY, around(0))),
    (NOT_WORSE, {}, arms(around(0.9), [1.0, 1.01, 1, 1, 1.02]), arms(LOW, HIGH), arms(NOISY, around(0))),
    (ABOVE, {}, arms(HIGH, LOW), arms(around(0), LOW), arms(NOISY, LOW)),
    (BELOW, {}, arms(around(0), LOW), arms(HIGH, LOW), arms(NOISY, LOW)),
    (CLOSE, {}, arms(around(1), [1.0, 1.01, 1, 1, 1.02]), arms(HIGH, LOW), arms(NOISY, around(0))),
    (CLOSE_TO, {}, arms(around(3), LOW), arms(HIGH, LOW), arms([3 + v for v in NOISY], LOW)),
    (SLOPE, LOG, powers(-0.5), powers(-1.0), powers(-0.5, noise=1.0)),
    (RISES, LOG, UP, steps(around(3), around(2), around(1)), MIXED),
    (FALLS, LOG, steps(around(3), around(2), around(1)), UP, MIXED),
    (RATIO, {}, arms(LOW, [4 * v for v in HIGH]), arms(HIGH, LOW), arms([1, 9, 1, 9, 2], [4, 8, 9, 8, 3])),
    (RATIO_UP, {}, arms([4 * v for v in HIGH], LOW), arms(LOW, HIGH), arms([4, 8, 9, 8, 3], [1, 9, 1, 9, 2])),
]


@pytest.mark.parametrize(("check", "statistic", "yes", "no", "unclear"), CASES)
def test_every_kind_says_every_verdict(check, statistic, yes, no, unclear):
    said = [one(check, values, statistic=statistic) for values in (yes, no, unclear)]
    assert [v.verdict for v in said] == ["reproduced", "not reproduced", "inconclusive"]
    assert all(v.n == 5 and v.low <= v.effect <= v.high for v in said)
    missing = {key: row for key, row in yes.items() if key[0] != "a"} or {("other", "n1"): LOW}
    gone = one(check, missing, statistic=statistic)
    assert gone.verdict == "not run"
    assert "a" in gone.remark.split()
    assert gone.p is None


@pytest.mark.parametrize(("check", "statistic", "yes", "no", "unclear"), CASES)
def test_order_of_rows_does_not_matter(check, statistic, yes, no, unclear):
    rows = runs(yes)
    shuffled = random.Random(0).sample(rows, len(rows))
    known = card(claim(check, statistic=statistic))
    assert judge(known, records.tidy(rows)) == judge(known, records.tidy(shuffled))


@pytest.mark.parametrize(
    ("values", "verdict"),
    [([0, 0, 0], "reproduced"), ([0, 1, 0], "not reproduced"), ([0, "failed", 0], "not reproduced")],
)
def test_exact_bound_is_decided_by_the_values(values, verdict):
    check = {"kind": "bound", "arm": "a", "below": 0, "exact": True}
    said = one(check, {("a", "u60"): values})
    assert said.verdict == verdict
    assert "violations in 3, rate at most" in said.remark
    assert one(check, {("b", "u60"): values}).verdict == "not run"


@pytest.mark.parametrize(
    ("gap", "verdict"), [(0.2, "reproduced"), (0.1, "not reproduced"), (0.0, "not reproduced")]
)
def test_all_units_equal_is_decided_by_the_values(gap, verdict):
    said = one(
        BETTER, arms([0.7 + gap] * 5, [0.7] * 5)
    )  # .8 - .7 is not .1 in floats, the margin still counts as met
    assert said.verdict == verdict
    assert "all units equal: decided by the values" in said.remark


@pytest.mark.parametrize("check", [BETTER, ABOVE, CLOSE, RATIO])
def test_one_unit_is_too_few(check):
    said = one(check, arms([2.0], [1.0]))
    assert (said.verdict, said.n, said.p) == ("inconclusive", 1, None)
    assert "needs at least 2 units" in said.remark


@pytest.mark.parametrize("status", ["diverged", "failed"])
@pytest.mark.parametrize(("lower", "expected"), [(False, 0.3), (True, 9.0)])
def test_a_lost_run_counts_as_the_worst_value_seen(status, lower, expected):
    check = {"kind": "better", "arm": "a", "than": ["b"], "lower": lower}
    values = {**arms([1.0, 2.0, status], [0.5, 0.3, 1.0]), ("c", "u00"): [9.0, 5.0, 5.0]}
    said = one(check, values)
    worst = expected
    assert said.effect == pytest.approx(((1 - 0.5) + (2 - 0.3) + (worst - 1.0)) / 3)
    assert (said.n, said.failed) == (3, 1)
    assert "1 failed or diverged counted as worst" in said.remark


def test_a_lost_run_counts_as_the_worst_given_and_nan_is_lost():
    values = arms([1.0, 2.0, "diverged", math.nan], [0.5, 0.3, 1.0, 1.0])
    said = one(BETTER, values, statistic={"worst": 0.04})
    assert said.effect == pytest.approx((0.5 + 1.7 - 0.96 - 0.96) / 4)
    assert said.failed == 2


def test_a_lost_run_speaks_against_close_slope_and_order():
    close = one(CLOSE, arms([1.0, 1.3, 1.0, "failed"], [1.0] * 4))
    assert close.effect == pytest.approx(0.15)  # the lost difference counts as .3, the farthest
    lost = powers(-0.5)
    lost["a", "n10"][0] = "failed"
    slope = one(SLOPE, lost, statistic=LOG)
    assert (slope.n, slope.failed) == (5, 1)
    up = {key: list(row) for key, row in UP.items()}
    up["a", "n3"][0] = "failed"  # last in the ranks would favour a rising trend
    order = one(RISES, up, statistic=LOG)
    assert order.effect == pytest.approx((4 * 1 - 0.5) / 5)


def test_censored_values_rank_last():
    said = one(RISES, steps(around(1), around(2), [math.nan] * 4 + [math.inf]), statistic=LOG)
    assert (said.verdict, said.effect) == ("reproduced", 1.0)
    assert "5 censored values ranked last" in said.remark


def test_missing_and_interrupted_units_are_left_out_and_counted():
    said = one(BETTER, arms([2.0, 2.1, 2.2, None, "interrupted"], [1.0, 1.2, 1.1, 1.0, 1.0]))
    assert (said.n, said.missing, said.failed) == (3, 2, 0)
    assert "2 units incomplete, left out" in said.remark
    bound = one(ABOVE, arms([2.0, 2.1, "interrupted"], [1.0] * 3))
    assert (bound.n, bound.missing) == (2, 1)
    assert one(BETTER, arms([2.0, None], [None, 1.0])).verdict == "not run"


def test_tuning_seeds_never_count_and_fresh_seeds_can_be_chosen():
    rows = [
        *runs(arms(HIGH, LOW), seeds=[0, 1, 2, 3, 99]),
        *runs(arms([9.0] * 3, [0.0] * 3), seeds=[100, 500, 999]),
        *runs(arms([1.5, 1.6], [1.0, 1.2]), seeds=[1000, 1001]),
    ]
    table = records.tidy(rows)
    said = {s: judge(card(claim(BETTER, seeds=s)), table)[0] for s in ("all", "first", "fresh")}
    assert {s: v.n for s, v in said.items()} == {"all": 7, "first": 5, "fresh": 2}
    assert said["fresh"].effect == pytest.approx(0.45)
    only = records.tidy(runs(arms(HIGH, LOW), seeds=[100, 101, 102, 103, 104]))
    assert judge(card(claim(BETTER)), only)[0].verdict == "not run"


def test_several_conditions_and_comparators_ask_for_all():
    values = {
        (arm, noise): row for noise in ("u30", "u60") for arm, row in (("a", HIGH), ("b", LOW), ("c", LOW))
    }
    check = {**BETTER, "than": ["b", "c"]}
    both = {"where": {"noise": ["u30", "u60"]}}
    fine = one(check, values, statistic=both)
    assert fine.verdict == "reproduced"
    assert "largest p of 4" in fine.remark
    values["c", "u30"] = NOISY
    said = one(check, values, statistic=both)
    assert said.verdict == "inconclusive"
    assert "a - c at u30 (largest p of 4)" in said.remark
    values["c", "u30"] = [v + 5 for v in HIGH[::-1]]  # one clear failure refutes a claim about all four
    said = one(check, values, statistic=both)
    alone = one({**BETTER, "than": ["c"]}, values, statistic={"where": {"noise": "u30"}})
    assert said.verdict == "not reproduced"
    assert said.p_opposite == pytest.approx(4 * alone.p_opposite)
    del values["c", "u30"]
    assert one(check, values, statistic=both).remark == "no run of arm c"


def test_holm_changes_a_verdict():
    weak = {"kind": "bound", "arm": "a", "above": -0.65}  # p about .04 on its own
    values = {("a", "u60"): [0.5, -0.4, 0.9, 0.2, -0.6]}
    alone = one(weak, values)
    assert alone.verdict == "reproduced"
    assert 0.025 < alone.p < 0.05
    table = records.tidy(runs(values))
    two = judge(card(claim(weak, "first"), claim(weak, "second")), table)
    assert [v.verdict for v in two] == ["inconclusive", "inconclusive"]
    assert "reproduced before Holm's correction" in two[0].remark
    assert two[0].p_holm == pytest.approx(2 * alone.p)
    absent = claim({"kind": "bound", "arm": "z", "above": 0.0}, "absent")
    three = judge(card(claim(weak, "first"), absent), table)  # a claim that was not run costs nothing
    assert [v.verdict for v in three] == ["reproduced", "not run"]


def test_holm_equals_statsmodels():
    from statsmodels.stats.multitest import multipletests  # in the dev environment only

    p = [0.01, 0.04, 0.03, 0.005, 0.9, 0.04]
    assert holm(p) == pytest.approx(list(np.asarray(multipletests(p, method="holm")[1])))
    assert holm([]) == []


def test_each_claim_uses_its_own_experiment():
    rows = [*runs(arms(HIGH, LOW)), *runs(arms(LOW, HIGH), experiment="other")]
    claims = claim(BETTER), claim(BETTER, "o", experiment="other"), claim(BETTER, "g", experiment="gone")
    said = judge(card(*claims), records.tidy(rows))
    assert [v.verdict for v in said] == ["reproduced", "not reproduced", "not run"]
    assert said[2].remark == "no run of experiment gone"
    part = {"statistic": {"metric": "acc", "where": {"noise": "u60"}}, "check": BETTER}
    joint = {
        "id": "j",
        "says": "s",
        "source": "t",
        "experiment": "exp",
        "all": [part, {**part, "experiment": "other"}],
    }
    assert judge(card(joint), records.tidy(rows))[0].verdict == "not reproduced"


def test_scales_are_not_mixed():
    rows = [*runs(arms(HIGH, LOW)), *runs(arms(LOW, HIGH), scale="smoke")]
    table = records.tidy(rows)
    assert [
        judge(card(claim(BETTER, **s)), table)[0].verdict
        for s in ({}, {"scale": "smoke"}, {"scale": "paper"})
    ] == [
        "reproduced",
        "not reproduced",
        "not run",
    ]


def test_nadeau_bengio_widens_the_interval():
    values = arms([1.10, 1.14, 1.01, 1.16, 1.05], [1.0] * 5)
    check = {"kind": "better", "arm": "a", "than": "b"}
    plain = one(check, values)
    wide = one({**check, "correction": "nadeau_bengio", "test_fraction": 0.1}, values)
    assert (wide.high - wide.effect) / (plain.high - plain.effect) == pytest.approx(
        math.sqrt((1 / 5 + 1 / 9) / (1 / 5))
    )
    assert wide.p > plain.p


def test_what_cannot_be_tested_is_said():
    ratio = one(RATIO, arms([0.0, 1.0, 2.0], [1.0] * 3))
    assert (ratio.verdict, ratio.remark) == ("inconclusive", "a ratio needs values > 0, got 0")
    log = one(BETTER, arms([0.0, 1.0, 2.0], [1.0] * 3), statistic={"log": True})
    assert (log.verdict, log.remark) == ("inconclusive", "log needs acc > 0, not so in s0, a")
    failed = one(BETTER, arms(["failed"] * 3, ["failed"] * 3))
    assert (failed.verdict, failed.remark) == ("not run", "no run of experiment exp is done")
    verdict = one(BETTER, arms(HIGH, LOW)).to_json()
    assert verdict["verdict"] == "reproduced"
    assert one(BETTER, arms(["failed"] * 3, ["failed"] * 3)).to_json()["effect"] is None
