"""Leaving out each unit is the test of the rest; what a verdict is worth beside a contrast or a seed effect."""

import math

import numpy as np
import pytest
from claim_makers import card, claim, one, runs

from lossatlas import records
from lossatlas.claims import judge, t_test, tost
from lossatlas.claims.rows import left_out, order_rows, skewed_rows, t_rows, tost_rows
from lossatlas.claims.tests import order_test, skewed_test, skewed_tost

BETTER = {"kind": "better", "arm": "a", "than": ["b"], "by": 0.1}
RNG = np.random.default_rng(0)
SAMPLES = [RNG.normal(0.3, 1, 4), RNG.exponential(size=9), np.array([0.5] * 6), np.array([1.0, 1, 1, 1, 3])]
TESTS = {
    "t": (lambda d: t_test(d, 0.2, 1), lambda d: t_rows(d, 0.2, 1)),
    "t below": (lambda d: t_test(d, 0.5, -1, 0.2), lambda d: t_rows(d, 0.5, -1, 0.2)),
    "skewed": (lambda d: skewed_test(d, 0.4, -1), lambda d: skewed_rows(d, 0.4, -1)),
    "tost": (lambda d: tost(d, 0.0, 1.0), lambda d: tost_rows(d, 0.0, 1.0)),
    "skewed tost": (
        lambda d: skewed_tost(d, 0.0, 1.0),
        lambda d: tost_rows(d, 0.0, 1.0, one_sided=skewed_rows),
    ),
}


@pytest.mark.parametrize("name", TESTS)
@pytest.mark.parametrize("sample", SAMPLES, ids=["normal", "exponential", "equal", "one off"])
def test_rows_without_a_unit_are_the_tests_of_the_rest(name, sample):
    single, many = TESTS[name]
    p, opposite = many(left_out(sample))
    for i in range(len(sample)):
        found = single(np.delete(sample, i))
        assert (p[i], opposite[i]) == pytest.approx((found.p, found.p_opposite), rel=1e-9)


def test_order_without_a_unit():
    values = RNG.normal(size=(6, 3)) + np.arange(3)
    p, opposite = order_rows(left_out(values), True)
    found = [order_test(np.delete(values, i, axis=0), True) for i in range(6)]
    assert p == pytest.approx([r.p for r in found])
    assert opposite == pytest.approx([r.p_opposite for r in found])


def arms(a, b):
    return {("a", "u60"): a, ("b", "u60"): b}


def test_carried_counts_the_units_without_which_the_verdict_is_another():
    """Judged anew on the records without each unit."""
    a = [0.9, 0.8, 1.1, 0.7, 0.15, 0.95]
    whole = one(BETTER, arms(a, [0.0] * 6), n=6)
    others = [one(BETTER, arms(np.delete(a, i).tolist(), [0.0] * 5)).verdict for i in range(6)]
    assert whole.carried == sum(verdict != whole.verdict for verdict in others)
    weak = [0.3, 0.3, 0.6, -0.1, 0.3, 0.15]
    whole = one(BETTER, arms(weak, [0.0] * 6), n=6)
    others = [one(BETTER, arms(np.delete(weak, i).tolist(), [0.0] * 5)).verdict for i in range(6)]
    assert 0 < sum(verdict != whole.verdict for verdict in others) == whole.carried
    assert one(BETTER, arms(weak, [0.0] * 6)).carried is None  # another n than planned: nothing is worked out


def test_needed_falls_with_the_effect_and_is_none_where_it_points_away():
    noise = [0.02, -0.3, 0.3, 0.2, -0.22]
    needed = [one(BETTER, arms([c + v for v in noise], [0.0] * 5)).needed for c in (1.0, 0.3, 0.0)]
    assert needed[0] < needed[1]
    assert needed[2] is None


@pytest.mark.parametrize(
    ("elsewhere", "verdict", "told"),
    [
        (2.0, "inconclusive", "holds as well"),
        (0.0, "reproduced", "does not hold"),
        (None, "inconclusive", "not run"),
    ],
)
def test_what_holds_for_the_contrast_as_well_is_no_evidence(elsewhere, verdict, told):
    values = arms([2.0, 2.1, 2.05, 1.9, 2.0], [1.0, 1.1, 0.9, 1.0, 1.05])
    if elsewhere is not None:
        values |= {("a", "u00"): [elsewhere + v for v in (0.1, 0, -0.1, 0.05, 0)], ("b", "u00"): [0.0] * 5}
    said = one(BETTER, values, contrast={"where": {"noise": "u00"}})
    assert said.verdict == verdict
    assert told in said.contrast


def test_a_contrast_never_improves_a_verdict():
    values = arms([0.0, 0.1, -0.1, 0.05, 0.0], [1.0, 1.1, 0.9, 1.0, 1.05])
    values |= {("a", "u00"): [0.0] * 5, ("b", "u00"): [0.0] * 5}
    assert one(BETTER, values, contrast={"where": {"noise": "u00"}}).verdict == "not reproduced"


def seeds_and_units(rng, seeds=5, units=20):
    """Records of no true difference whose units share their seed's draw."""
    found = []
    for arm, on in (("a", 1), ("b", 0)):
        for seed in range(seeds):
            shared = on * rng.normal() if on else 0.0
            record = records.Record("exp", "paper", arm, seed, "laptop", condition={"noise": "u60"})
            values = 0.1 * on + shared + 0.5 * rng.normal(size=units)
            record.units = [{"unit": u, "metrics": {"acc": float(v)}} for u, v in enumerate(values)]
            found.append(record)
    return records.tidy(found)


def test_units_of_a_seed_are_not_counted_as_seeds():
    """5 seeds of 20 units with a seed effect: 43 % false before; at most the level once a seed is the unit."""
    rng, draws = np.random.default_rng(0), 40
    tables = [seeds_and_units(rng) for _ in range(draws)]
    by_seed = np.mean([judge(card(claim(BETTER)), table)[0].verdict == "reproduced" for table in tables])
    own = card(claim(BETTER, n=100, units={"independent": "as if each redrew everything"}))
    by_unit = np.mean([judge(own, table)[0].verdict == "reproduced" for table in tables[:20]])
    assert by_seed <= 0.05 + 3 * math.sqrt(0.05 * 0.95 / draws)
    assert by_unit > 0.2


def test_adding_seeds_until_p_is_small_reproduces_nothing():
    rng, known = np.random.default_rng(0), card(claim(BETTER))
    for _ in range(8):
        a = (0.1 + rng.normal(size=9)).tolist()
        for n in range(6, 10):
            said = judge(known, records.tidy(runs(arms(a[:n], [0.0] * n))))[0]
            assert said.verdict == "inconclusive"
            assert said.p is None
