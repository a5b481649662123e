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


LOW, HIGH = around(1), [2.03, 2.0, 1.99, 2.0, 2.02]
UP, DOWN = steps(LOW, HIGH, around(3)), steps(around(3), HIGH, LOW)
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
TREND = {"kind": "trend", "arm": "a"}
FALLS = {"kind": "order", "arm": "a", "increasing": False}
RATIO = {"kind": "ratio", "arm": "a", "than": ["b"], "below": 0.5}
RATIO_UP = {"kind": "ratio", "arm": "a", "than": ["b"], "above": 2.0}
CASES = [
    (BETTER, {}, arms(HIGH, LOW), arms(LOW, HIGH), arms(NOISY, around(0))),
    (LOWER, {}, arms(LOW, HIGH), arms(HIGH, LOW), arms(NOISY, around(0))),
    (NOT_WORSE, {}, arms(around(0.9), [1.0, 1.01, 1, 1, 1.02]), arms(LOW, HIGH), arms(NOISY, around(0))),
    (ABOVE, {}, arms(HIGH, LOW), arms(around(0), LOW), arms(NOISY, LOW)),
    (BELOW, {}, arms(around(0), LOW), arms(HIGH, LOW), arms(NOISY, LOW)),
    (CLOSE, {}, arms(around(1), [1.0, 1.01, 1, 1, 1.02]), arms(HIGH, LOW), arms(NOISY, around(0))),
    (CLOSE_TO, {}, arms(around(3), LOW), arms(HIGH, LOW), arms([3 + v for v in NOISY], LOW)),
    (SLOPE, LOG, powers(-0.5), powers(-1.0), powers(-0.5, noise=1.0)),
    (RISES, LOG, UP, DOWN, MIXED),
    (TREND, LOG, UP, DOWN, MIXED),
    (FALLS, LOG, DOWN, UP, MIXED),
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


NEVER = {"kind": "never", "arm": "a", "rate": 0.5}


@pytest.mark.parametrize(
    ("values", "verdict"),
    [
        ([0] * 5, "reproduced"),
        ([0, 1, 0, 0, 0], "not reproduced"),
        ([0, math.nan, 0, 0, 0], "inconclusive"),
        ([0, "failed", 0, 0, 0], "inconclusive"),
        ([0, "diverged", 0, 0, 0], "inconclusive"),
    ],
)
def test_never_is_refuted_by_one_case_and_left_open_by_a_crash(values, verdict):
    said = one(NEVER, {("a", "u60"): values})
    assert said.verdict == verdict
    assert "violations in " in said.remark
    assert one(NEVER, {("b", "u60"): values}).verdict == "not run"
    assert one({**NEVER, "rate": 0.05}, {("a", "u60"): [0] * 5}).verdict == "inconclusive"  # 5 cases are few


@pytest.mark.parametrize(
    ("gap", "verdict", "p"),
    [(0.2, "reproduced", 2**-5), (0.1, "inconclusive", 1.0), (0.0, "no difference", 1.0)],
)
def test_equal_differences_have_the_probability_of_equal_signs(gap, verdict, p):
    said = one(BETTER, arms([0.7 + gap] * 5, [0.7] * 5))  # .8 - .7 is not .1 in floats
    assert (said.verdict, said.p) == (verdict, p)
    assert "exact sign probability" in said.remark


@pytest.mark.parametrize("check", [BETTER, ABOVE, CLOSE, RATIO])
@pytest.mark.parametrize("n", [1, 4])
def test_few_units_decide_nothing(check, n):
    said = one(check, arms([2.0, 2.1, 2.2, 2.1][:n], [1.0, 1.1, 1.0, 1.1][:n]), n=n)
    assert said.verdict == "inconclusive"
    assert f"n = {n}: at least 5 units" in said.remark


@pytest.mark.parametrize("n", [4, 6])
def test_another_number_of_units_than_planned_decides_nothing(n):
    said = one(BETTER, arms((HIGH * 2)[:n], (LOW * 2)[:n]))
    assert said.verdict == "inconclusive"
    assert said.remark.startswith(f"n = {n}, planned 5")
    assert (said.p, said.n, said.planned) == (None, n, 5)
    assert one(BETTER, arms((HIGH * 2)[:6], (LOW * 2)[:6]), n=6).verdict == "reproduced"


CRASHES = {
    "every baseline run": arms(HIGH, ["failed"] * 5),
    "one baseline run": arms(HIGH, [*LOW[:4], "failed"]),
    "one run of the arm": arms([*HIGH[:4], "failed"], LOW),
    "every run of the arm": arms(["failed"] * 5, LOW),
    "all but one baseline run": arms(HIGH, [LOW[0], *["failed"] * 4]),
    "every run": arms(["failed"] * 5, ["failed"] * 5),
    "different seeds": arms(["failed", *HIGH[:4]], [*LOW[:4], "failed"]),
    "every baseline run diverged": arms(HIGH, ["diverged"] * 5),
    "interrupted": arms(HIGH, [*LOW[:4], "interrupted"]),
    "never started": arms(HIGH, [*LOW[:4], None]),
}


@pytest.mark.parametrize("pattern", CRASHES)
@pytest.mark.parametrize("check", [BETTER, LOWER, NOT_WORSE, CLOSE, RATIO, RATIO_UP])
def test_a_crash_is_no_evidence(pattern, check):
    said = one(check, CRASHES[pattern], statistic={"worst": 0.04})
    assert said.verdict in ("inconclusive", "not run")
    assert said.p is None


def test_a_diverged_arm_counts_as_the_worst_given_where_that_speaks_against_it():
    values = arms([2.0, 2.1, 2.2, 2.0, "diverged"], [1.0, 1.2, 1.1, 1.0, 1.1])
    said = one(BETTER, values, statistic={"worst": 0.04})
    assert said.effect == pytest.approx((1.0 + 0.9 + 1.1 + 1.0 - 1.06) / 5)
    assert (said.n, said.failed) == (5, 1)
    assert "1 diverged counted as worst" in said.remark
    assert one(BETTER, values).verdict == "inconclusive"  # no worst on the card: missing
    assert one(BETTER, values, statistic={"worst": 9.0}).n == 4  # a worst that speaks for the claim
    nan = arms([2.0, 2.1, 2.2, 2.0, math.nan], [1.0, 1.2, 1.1, 1.0, 1.1])
    assert one(BETTER, nan, statistic={"worst": 0.04}).effect == pytest.approx(said.effect)
    below = one({**BELOW, "below": 3.0}, values, statistic={"worst": 9.0})
    assert (below.n, below.failed) == (5, 1)
    assert one({**BELOW, "below": 3.0}, values, statistic={"worst": 0.04}).n == 4


def test_a_diverged_comparator_must_leave_the_verdict_either_way():
    near = arms([1.3, 1.32, 1.31, 1.3, 1.33], [1.0, 1.02, 1.01, 1.0, "diverged"])
    said = one(BETTER, near, statistic={"worst": 0.0})
    cautious = one(BETTER, arms([1.3, 1.32, 1.31, 1.3, 1.33], [1.0, 1.02, 1.01, 1.0, 1.02]))
    generous = one(BETTER, arms([1.3, 1.32, 1.31, 1.3, 1.33], [1.0, 1.02, 1.01, 1.0, 0.0]))
    assert said.p == pytest.approx(max(cautious.p, generous.p))
    assert said.p_opposite == pytest.approx(max(cautious.p_opposite, generous.p_opposite))


@pytest.mark.parametrize("status", ["failed", "diverged"])
def test_a_lost_run_is_missing_for_close_slope_order_and_trend(status):
    assert one(CLOSE, arms([1.0, 1.1, 1.0, 1.1, status], LOW)).n == 4
    for check, values in ((SLOPE, powers(-0.5)), (RISES, UP), (TREND, UP)):
        lost = {key: list(row) for key, row in values.items()}
        lost[next(key for key in lost if key[1] in ("n10", "n3"))][0] = status
        said = one(check, lost, statistic=LOG)
        assert (said.verdict, said.n, said.missing) == ("inconclusive", 4, 1)


def test_censored_values_rank_last():
    said = one(RISES, steps(around(1), around(2), [math.nan] * 4 + [math.inf]), statistic=LOG)
    assert (said.verdict, said.effect) == ("reproduced", 1.0)
    assert "5 censored values ranked last" in said.remark
    assert one(TREND, steps(around(1), around(2), [math.inf] * 5), statistic=LOG).effect == 1.0


def test_missing_and_interrupted_units_are_left_out_and_counted():
    said = one(BETTER, arms([2.0, 2.1, 2.2, None, "interrupted"], [1.0, 1.2, 1.1, 1.0, 1.0]))
    assert (said.n, said.missing, said.failed) == (3, 2, 0)
    assert "2 units incomplete, left out" in said.remark
    assert said.verdict == "inconclusive"
    bound = one(ABOVE, arms([2.0, 2.1, "interrupted"], [1.0] * 3))
    assert (bound.n, bound.missing) == (2, 1)
    assert one(BETTER, arms([2.0, None], [None, 1.0])).n == 0


def test_tuning_seeds_never_count_and_fresh_seeds_can_be_chosen():
    rows = [
        *runs(arms(HIGH, LOW), seeds=[0, 1, 2, 3, 99]),
        *runs(arms([9.0] * 3, [0.0] * 3), seeds=[100, 500, 999]),
        *runs(arms([1.5, 1.6], [1.0, 1.2]), seeds=[1000, 1001]),
    ]
    table = records.tidy(rows)
    said = {
        s: judge(card(claim(BETTER, seeds=s, n=n)), table)[0]
        for s, n in (("all", 7), ("first", 5), ("fresh", 2))
    }
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
    weak = {"kind": "bound", "arm": "a", "above": -0.9}  # p about .04 on its own
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
    check = {"kind": "better", "arm": "a", "than": "b", "by": 0.01}
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
