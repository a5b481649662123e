"""Size under the null and power of every kind, by simulation; what a card's verdicts are worth.

Size: at n = 5, 10, 20, normal, exponential and log-normal units, at most .05 + 3 standard errors, on the claim's
boundary. A mean of log-normal values has no such test at any n: there a bound is declared on the log scale.
"""

import math
from collections.abc import Callable

import numpy as np
import pytest
from claim_makers import one

from lossatlas.claims import page_test, ratio_test, t_test, tost
from lossatlas.claims.curves import slopes
from lossatlas.claims.tests import Result, never_test, order_test, skewed_test, skewed_tost

DRAWS = 400
CEILING = 0.05 + 3 * math.sqrt(0.05 * 0.95 / DRAWS)
SHAPES: dict[str, Callable] = {
    "normal": lambda rng, shape: rng.normal(size=shape),
    "exponential": lambda rng, shape: rng.exponential(size=shape) - 1,
    "lognormal": lambda rng, shape: rng.lognormal(size=shape) - math.exp(0.5),
}
X = np.array([10.0, 30.0, 100.0])


def paired(draw, n):
    return draw((n, 2)) @ np.array([1.0, -1.0])


# kind -> a test of n units whose true effect lies `shift` standard deviations inside the claim (0: on its boundary)
KINDS: dict[str, Callable[[Callable, int, float], Result]] = {
    "better": lambda draw, n, shift: t_test(paired(draw, n) + 0.1 + shift, 0.1, 1),
    "non-inferior": lambda draw, n, shift: t_test(paired(draw, n) - 0.1 + shift, -0.1, 1),
    "bound above": lambda draw, n, shift: skewed_test(draw(n) + shift, 0.0, 1),
    "bound below": lambda draw, n, shift: skewed_test(draw(n) - shift, 0.0, -1),
    "close to arm": lambda draw, n, shift: tost(paired(draw, n) + 3 - shift, -3.0, 3.0),
    "close to value": lambda draw, n, shift: skewed_tost(draw(n) + 3 - shift, -3.0, 3.0),
    "close from below": lambda draw, n, shift: skewed_tost(draw(n) - 3 + shift, -3.0, 3.0),
    "ratio": lambda draw, n, shift: ratio_test(paired(draw, n) + math.log(2) - shift, 2.0, -1),
    "slope": lambda draw, n, shift: tost(slopes(X, X**-0.4 * np.exp(draw((n, 3)))) - shift, -9.0, -0.4),
    "order": lambda draw, n, shift: order_test(
        draw((n, 3)) + np.array([0.0, shift, 2 * shift + 9 * (shift == 0)]), True
    ),
    "trend": lambda draw, n, shift: page_test(draw((n, 3)) + shift * np.arange(3), True),
}


OF_VALUES = (
    "bound above",
    "bound below",
    "close to value",
    "close from below",
)  # of one arm, not of a difference


def rate(kind, shape, n, shift=0.0, draws=DRAWS):
    rng = np.random.default_rng([n, len(kind)])
    p = [KINDS[kind](lambda size: SHAPES[shape](rng, size), n, shift).p for _ in range(draws)]
    return float(np.mean(np.array(p, float) < 0.05))


@pytest.mark.parametrize("n", [5, 10, 20])
@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize("kind", KINDS)
def test_size_on_the_boundary(kind, shape, n):
    if shape == "lognormal" and kind in OF_VALUES:
        pytest.skip("declared on the log scale, where the units are normal: the next two tests")
    assert rate(kind, shape, n) <= CEILING


def test_a_raw_bound_on_lognormal_values_passes_too_often_at_any_n():
    """Why CONTRIBUTING asks for `log: true` there; about .1 instead of .05."""
    assert [rate("bound below", "lognormal", n) > 0.07 for n in (5, 20)] == [True, True]


@pytest.mark.parametrize("n", [5, 20])
def test_a_bound_on_the_log_scale_keeps_its_size_on_lognormal_values(n):
    check = {"kind": "bound", "arm": "a", "below": 0.0}  # the logarithm's mean, below that of 1
    rng, passed = np.random.default_rng(n), 0
    for _ in range(100):
        verdict = one(check, {("a", "u60"): rng.lognormal(size=n)}, statistic={"log": True}, n=n)
        passed += verdict.p < 0.05
    assert passed / 100 <= 0.05 + 3 * math.sqrt(0.05 * 0.95 / 100)


@pytest.mark.parametrize("kind", KINDS)
def test_power_on_a_known_effect(kind):
    assert rate(kind, "normal", 10, 2.0, 100) > 0.8


def test_t_alone_would_fail_on_a_skewed_metric():
    rng = np.random.default_rng(0)
    p = [t_test(rng.exponential(size=5) - 1, 0.0, -1).p for _ in range(DRAWS)]
    assert np.mean(np.array(p, float) < 0.05) > 0.1


def test_size_and_power_of_never():
    rng = np.random.default_rng(0)
    counts = rng.binomial(100, 0.05, DRAWS)
    found = [never_test([k], 0, -1, 0.05, trials=[100]) for k in counts]
    assert np.mean([(r.p or 0) < 0.05 for r in found]) <= CEILING
    assert (never_test([0], 0, -1, 0.05, trials=[100]).p or 1) < 0.05


def test_order_needs_every_step_and_trend_does_not():
    """True means 0, 2, 1: a trend in most samples, an order in hardly any."""
    rng = np.random.default_rng(0)
    draws = rng.normal(size=(200, 10, 3)) + np.array([0.0, 2.0, 1.0])
    assert np.mean([(page_test(d, True).p or 1) < 0.05 for d in draws]) > 0.3
    assert np.mean([(order_test(d, True).p or 1) < 0.05 for d in draws]) < 0.02


def test_no_p_is_zero():
    for d in ([1.0] * 5, [1.0, 1.0 + 1e-9, 1.0, 1.0, 1.0], np.linspace(1, 1 + 1e-8, 200)):
        for result in (t_test(d, 0.0, 1), skewed_test(d, 0.0, 1), tost(d, 0.0, 2.0)):
            assert result.p is not None
            assert 0 < result.p < 0.05
    assert t_test([1.0] * 5, 0.0, 1).p == 2.0**-5
