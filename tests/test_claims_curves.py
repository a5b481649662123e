"""First passage of a curve, and censored values in an order."""

import math

import numpy as np
import pytest
from claim_makers import card, claim

from lossatlas import records
from lossatlas.claims import censored_last, first_passage, judge, log_steps


def test_log_steps_are_spaced_by_the_factor_and_end_with_the_last():
    steps = log_steps(20000, 1.08)
    assert steps[:4] == [0, 1, 2, 3]
    assert steps[-1] == 20000
    late = np.array([t for t in steps if t > 100], float)
    ratios = late[1:-1] / late[:-2]
    assert np.allclose(ratios, 1.08, atol=0.01)
    assert log_steps(0, 2.0) == [0]
    assert log_steps(1, 2.0) == [0, 1]


def test_first_passage_by_a_loop():
    rng = np.random.default_rng(0)
    t = np.cumsum(rng.random(40))
    y = np.exp(rng.normal(size=(3, 5, 40)).cumsum(axis=-1))
    y[0, 0, 3] = math.nan  # is not below
    found = first_passage(t, y, 0.5)
    for i in range(3):
        for j in range(5):
            below = [time for time, value in zip(t, y[i, j], strict=True) if value < 0.5]
            assert found[i, j] == (below[0] if below else math.inf)
    assert math.isinf(first_passage([0, 1], [1.0, 0.5], 0.5))  # on the level is not below


def test_first_passage_counts_the_first_time_also_where_the_curve_comes_back():
    assert first_passage([0, 1, 2, 3], [1.0, 0.1, 0.9, 0.1], 0.2) == 1


@pytest.mark.parametrize(
    ("t", "y"),
    [([0, 1], [1.0]), ([0, 0], [1.0, 1.0]), ([1, 0], [1.0, 1.0])],
    ids=["length", "equal", "falling"],
)
def test_first_passage_refuses(t, y):
    with pytest.raises(ValueError, match="increasing t"):
        first_passage(t, y, 0.5)


@pytest.mark.parametrize(("last", "factor"), [(10, 1.0), (10, math.nan), (-1, 2.0)])
def test_log_steps_refuses(last, factor):
    with pytest.raises(ValueError, match="factor > 1"):
        log_steps(last, factor)


def test_censored_values_come_last_in_the_order_of_their_ties():
    inf = math.inf
    values = np.array([[5.0, inf, inf], [inf, 1.0, inf], [1.0, 2.0, 3.0]])
    ties = np.array([[9.0, 0.4, 0.3], [math.nan, 0.1, -7.0], [1.0, 1.0, 1.0]])
    order = censored_last(values, ties).argsort(axis=1).tolist()
    assert order == [[0, 2, 1], [1, 2, 0], [0, 1, 2]]
    assert np.isfinite(censored_last(values, ties)).all()
    assert np.array_equal(censored_last(values, ties)[values < inf], values[values < inf])
    assert np.array_equal(
        censored_last([inf, inf], [2.0, 1.0]).argsort(), [1, 0]
    )  # nothing else to lie above


def told(second, third, **statistic):
    """The verdict on five units that rise, where the last two conditions are censored with these final losses."""
    found = []
    for seed in range(5):
        rows = {"n1": (1.0, 0.1), "n2": (math.inf, second), "n3": (math.inf, third)}
        for noise, (time, final) in rows.items():
            metrics = {"acc": time, "final": final + 0.01 * seed}
            found.append(
                records.Record("exp", "paper", "a", seed, condition={"noise": noise}, metrics=metrics)
            )
    check = {"kind": "order", "arm": "a"}
    statistic = {"over": "noise", "where": {}, **statistic}
    return judge(card(claim(check, statistic=statistic)), records.tidy(found))[0]


def test_ties_order_what_never_happened():
    assert told(0.4, 0.6).effect == 0.75  # without ties: a shared rank
    up, down = told(0.4, 0.6, ties="final"), told(0.6, 0.4, ties="final")
    assert (up.effect, down.effect) == (1.0, 0.5)
    assert "10 censored values ranked last" in up.remark
    assert told(0.4, 0.6, ties="other").verdict == "not run"
