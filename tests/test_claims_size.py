"""Size under the null and power of every kind, by simulation; what a card's verdicts are worth.

Size: on the claim's boundary, at n = 5, 10, 20, normal, exponential and log-normal units, at most .05 + 3 standard
errors of 2000 samples. The rows of claims/rows.py are the tests of claims/tests.py (test_claims_alone.py).
"""

import math
from collections.abc import Callable

import numpy as np
import pytest

from lossatlas.claims import page_test, t_test, tost
from lossatlas.claims.curves import slopes
from lossatlas.claims.rows import order_rows, skewed_rows, t_rows, tost_rows
from lossatlas.claims.tests import never_test, order_test, skewed_test

DRAWS = 2000
CEILING = 0.05 + 3 * math.sqrt(0.05 * 0.95 / DRAWS)
SHAPES: dict[str, Callable] = {
    "normal": lambda rng, shape: rng.normal(size=shape),
    "exponential": lambda rng, shape: rng.exponential(size=shape) - 1,
    "lognormal": lambda rng, shape: rng.lognormal(0, 0.5, size=shape) - math.exp(0.125),
}
X = np.array([10.0, 30.0, 100.0])


def paired(draw, n):
    return draw((n, 2)) @ np.array([1.0, -1.0])


def page_rows(values):
    found = [page_test(v, True) for v in values[:400]]
    return np.array([r.p for r in found]), np.array([r.p_opposite for r in found])


# kind -> p and opposite p of samples of n units whose true effect lies `shift` standard deviations inside the claim
KINDS: dict[str, Callable] = {
    "better": lambda draw, n, shift: t_rows(paired(draw, n) + 0.1 + shift, 0.1, 1),
    "non-inferior": lambda draw, n, shift: t_rows(paired(draw, n) - 0.1 + shift, -0.1, 1),
    "bound above": lambda draw, n, shift: skewed_rows(draw((n,)) + shift, 0.0, 1),
    "bound below": lambda draw, n, shift: skewed_rows(draw((n,)) - shift, 0.0, -1),
    "close to arm": lambda draw, n, shift: tost_rows(paired(draw, n) + 3 - shift, -3.0, 3.0),
    "close to value": lambda draw, n, shift: tost_rows(
        draw((n,)) + 3 - shift, -3.0, 3.0, one_sided=skewed_rows
    ),
    "ratio": lambda draw, n, shift: t_rows(paired(draw, n) + math.log(2) - shift, math.log(2), -1),
    "slope": lambda draw, n, shift: tost_rows(slopes(X, X**-0.4 * np.exp(draw((n, 3)))) - shift, -9.0, -0.4),
    "order": lambda draw, n, shift: order_rows(
        draw((n, 3)) + np.array([0.0, shift, 2 * shift + 9 * (shift == 0)]), True
    ),
    "trend": lambda draw, n, shift: page_rows(draw((n, 3)) + shift * np.arange(3)),
}


def rates(kind, shape, n, shift=0.0):
    """How often the claim and its opposite are accepted at 5 %."""
    rng = np.random.default_rng([n, len(kind)])
    pair = KINDS[kind](lambda size: SHAPES[shape](rng, (DRAWS, *size)), n, shift)
    return [float(np.mean(p < 0.05)) for p in pair]


@pytest.mark.parametrize("n", [5, 10, 20])
@pytest.mark.parametrize("kind", KINDS)
def test_size_on_the_boundary(kind, n):
    shapes = ["normal"] if kind == "trend" else SHAPES  # ranks of equal units do not depend on their shape
    found = {shape: rates(kind, shape, n) for shape in shapes}
    ceiling = 0.05 + 3 * math.sqrt(0.05 * 0.95 / 400) if kind == "trend" else CEILING
    assert all(max(pair) <= ceiling for pair in found.values()), found


@pytest.mark.parametrize("kind", KINDS)
def test_power_on_a_known_effect(kind):
    assert rates(kind, "normal", 10, 2.0)[0] > 0.8


def test_what_a_bound_cannot_know_of_a_heavy_tail():
    """Log-normal units of sigma 1, whose mean hangs on rare values: t alone passes a bound at 23 to 18 %, the test
    kept at 5.5 to 8 %; on the log scale the claim (of the median) has its 5 %. Why CONTRIBUTING asks for `log: true`.
    """
    for n in (5, 10, 20):
        units = np.random.default_rng(n).lognormal(size=(DRAWS, n))
        raw, plain = (np.mean(test(units, math.exp(0.5), -1)[0] < 0.05) for test in (skewed_rows, t_rows))
        assert plain > 0.15
        assert raw <= 0.09
        assert np.mean(skewed_rows(np.log(units), 0.0, -1)[0] < 0.05) <= CEILING


def test_below_eight_units_p_counts_double():
    d = np.array([0.3, 0.9, 1.4, 0.2, 2.0, 0.8, 1.1])
    resampled = [t_test(d, 0.0, 1).p, skewed_test(d, 0.0, 1).p, skewed_test([*d, 0.9], 0.0, 1).p]
    assert resampled[1] >= 2 * resampled[0] > resampled[2]
    for limit in np.linspace(0.0, 1.2, 13):  # the interval is that of the test
        found = skewed_test(d, float(limit), 1)
        assert (found.low > limit) == (found.p < 0.05)


def test_size_and_power_of_never():
    rng = np.random.default_rng(0)
    counts = rng.binomial(100, 0.05, 400)
    found = [never_test([k], 0, -1, 0.05, trials=[100]) for k in counts]
    assert np.mean([(r.p or 0) < 0.05 for r in found]) <= 0.05 + 3 * math.sqrt(0.05 * 0.95 / 400)
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
