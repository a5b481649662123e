"""First passage of a curve, and censored values in an order."""

import math

import numpy as np
import pytest
from claim_makers import card, claim

from lossatlas import records
from lossatlas.claims import censored_last, curves, first_passage, judge, kendall, log_steps, slopes
from lossatlas.claims.grid import NotRunError, UnfitError


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


def test_first_passage_upwards_is_at_or_above():
    y = [[0.1, 0.95, 0.2, 1.0], [0.0, 0.5, 0.94, 0.9], [math.nan, math.nan, 0.99, 1.0]]
    assert list(first_passage([2, 4, 8, 16], y, 0.95, upwards=True)) == [4, math.inf, 8]
    assert list(first_passage([2, 4, 8, 16], -np.array(y), -0.949)) == [4, math.inf, 8]


def test_slopes_are_numpys_fits_on_the_axes_named():
    rng = np.random.default_rng(1)
    x, y = np.array([1.0, 2.0, 5.0, 40.0]), np.exp(rng.normal(size=(2, 3, 4)))
    for log in ("xy", "x", "y", ""):
        u, v = (np.log(x) if "x" in log else x), (np.log(y) if "y" in log else y)
        expected = [[np.polyfit(u, row, 1)[0] for row in part] for part in v]
        assert np.allclose(slopes(x, y, log), expected, rtol=1e-10)


def test_slopes_leave_nan_out_and_know_nothing_of_censored_units():
    x, nan, inf = [1.0, 2.0, 4.0, 8.0], math.nan, math.inf
    y = [[1, nan, 16, 64], [1, 2, inf, 8], [nan, nan, nan, 3], [nan, nan, nan, nan]]
    assert slopes(x, y)[0] == pytest.approx(2.0)
    assert np.isnan(slopes(x, y)[1:]).all()


@pytest.mark.parametrize(
    ("x", "y", "log", "told"),
    [
        ([1, 2], [1, 2, 3], "xy", "x \\(k,\\)"),
        ([2, 2], [1, 2], "xy", "two different"),
        ([1, 2], [1, 2], "z", "log='z'"),
        ([1, 2], [0, 2], "xy", "logarithm of y, got 0"),
        ([0, 2], [1, 2], "x", "logarithm of x, got 0"),
    ],
)
def test_slopes_refuses(x, y, log, told):
    with pytest.raises(ValueError, match=told):
        slopes(x, y, log)


def test_kendall_is_scipys_tau_b_with_ties():
    from scipy.stats import kendalltau

    rng = np.random.default_rng(2)
    x, y = rng.integers(0, 5, (6, 20)), rng.integers(0, 5, (6, 20))
    assert np.allclose(
        kendall(x, y), [kendalltau(a, b).statistic for a, b in zip(x, y, strict=True)], rtol=1e-12
    )
    assert np.allclose(kendall(x[0], y), [kendalltau(x[0], b).statistic for b in y], rtol=1e-12)
    inf = math.inf
    assert kendall([1, 2, 3, 4], [5, 7, inf, inf]) == pytest.approx(
        kendalltau([1, 2, 3, 4], [5, 7, 8, 8]).statistic
    )
    assert np.isnan(kendall([1, 2, 3], [[1, 1, 1], [1, math.nan, 2]])).all()
    for x, y in (([1, 2], [1, 2, 3]), ([1], [1])):
        with pytest.raises(ValueError, match="k >= 2"):
            kendall(x, y)


def grid_rows():
    """Two seeds: rho passes .9 at n = 8 and never; one of a third seed's points is missing."""
    import pandas as pd

    rho = {"s0": {2: 0.5, 8: 0.9, 32: 0.99}, "s1": {2: 0.4, 8: 0.5, 32: 0.6}, "s2": {2: 0.1, 32: 1.0}}
    return pd.DataFrame(
        [
            {"unit_id": s, "arm": "a", "n": str(n), "score": "borda", "rho": v, "alpha": -v * n}
            for s, of in rho.items()
            for n, v in of.items()
        ]
    ).sample(frac=1.0, random_state=0)


def test_card_functions_on_tidy_rows():
    rows = grid_rows()
    found = curves.passage(rows, "rho", "n", 0.9, upwards=True).set_index("unit")["value"]
    assert (found["s0"], found["s1"]) == (8, math.inf)
    assert math.isnan(found["s2"])
    found = curves.slope(rows, "rho", "n", log="x").set_index("unit")["value"]
    assert found["s1"] == pytest.approx(0.1 / math.log(4))
    found = curves.agreement(rows, "rho", "alpha", ["score", "n"]).set_index(["unit", "arm"])["value"]
    assert found["s0", "a"] == -1.0
    with pytest.raises(NotRunError, match="no record has test/x"):
        curves.slope(rows, "test/x", "n")
    with pytest.raises(NotRunError, match="`where` must fix"):
        curves.slope(rows.assign(n="2"), "rho", "n")
    with pytest.raises(UnfitError, match="score has values without a number: borda"):
        curves.passage(rows[rows["n"] == "2"], "rho", "score", 0.9)


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
    check = {"kind": "trend", "arm": "a"}
    statistic = {"over": "noise", "where": {}, **statistic}
    return judge(card(claim(check, statistic=statistic)), records.tidy(found))[0]


def test_ties_order_what_never_happened():
    assert told(0.4, 0.6).effect == 0.75  # without ties: a shared rank
    up, down = told(0.4, 0.6, ties="final"), told(0.6, 0.4, ties="final")
    assert (up.effect, down.effect) == (1.0, 0.5)
    assert "10 censored values ranked last" in up.remark
    assert told(0.4, 0.6, ties="other").verdict == "not run"
