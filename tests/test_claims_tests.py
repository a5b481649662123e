"""The tests behind the verdicts: against scipy, by hand, and at their nominal level on the boundary of the claim."""

import math
from typing import Any

import numpy as np
import pytest
import scipy.stats

from lossatlas.claims import page_test, ratio_test, sign_test, t_test, tost
from lossatlas.claims.rows import t_rows
from lossatlas.claims.tests import log_slopes, never_test

stats: Any = scipy.stats  # pyright does not follow its result classes
DRAWS = 2000
CEILING = 0.05 + 3 * math.sqrt(0.05 * 0.95 / DRAWS)
a = np.array([0.74, 0.71, 0.73, 0.75, 0.72])
b = np.array([0.70, 0.69, 0.72, 0.70, 0.69])


@pytest.mark.parametrize(("direction", "word"), [(1, "greater"), (-1, "less")])
def test_t_equals_scipy(direction, word):
    paired = stats.ttest_rel(a, b, alternative=word)
    assert t_test(a - b, 0.0, direction).p == pytest.approx(paired.pvalue, rel=1e-9)
    single = stats.ttest_1samp(a, 0.72, alternative=word)
    found = t_test(a, 0.72, direction)
    assert found.p == pytest.approx(single.pvalue, rel=1e-9)
    assert found.p_opposite == pytest.approx(1 - single.pvalue, rel=1e-9)
    ends = stats.ttest_1samp(a, 0.72).confidence_interval(0.90)
    assert (found.low, found.high) == pytest.approx((ends.low, ends.high), rel=1e-9)


def test_nadeau_bengio_by_hand():
    d = [1.0, 2.0, 3.0]  # mean 2, s = 1, so t = 2 / sqrt(1/3 + 1/9) = 3 with 2 degrees of freedom
    assert t_test(d, 0.0, 1, overlap=1 / 9).p == pytest.approx(float(stats.t.sf(3.0, 2)), rel=1e-12)


def test_tost_is_the_larger_of_two():
    above, below = (
        stats.ttest_1samp(a, v, alternative=w).pvalue for v, w in ((0.70, "greater"), (0.76, "less"))
    )
    assert tost(a, 0.70, 0.76).p == pytest.approx(max(above, below), rel=1e-9)


def test_ratio_is_the_geometric_mean():
    found = ratio_test(np.log([1.0, 4.0]), 3.0, -1)  # geometric mean 2; mean log = log 2, s = log(4) / sqrt 2
    assert found.effect == pytest.approx(2.0)
    t = (math.log(2) - math.log(3)) / (math.log(4) / 2)
    assert found.p == pytest.approx(float(stats.t.cdf(t, 1)), rel=1e-9)


@pytest.mark.parametrize("increasing", [True, False])
def test_page_equals_scipy(increasing):
    values = np.random.default_rng(0).normal(size=(6, 4)) + 0.5 * np.arange(4)
    ordered = values if increasing else values[:, ::-1]
    found = page_test(values, increasing)
    assert found.p == pytest.approx(stats.page_trend_test(ordered).pvalue)
    assert found.p_opposite == pytest.approx(stats.page_trend_test(ordered[:, ::-1]).pvalue)
    each = [stats.spearmanr(np.arange(4), row).statistic for row in values]
    assert found.effect == pytest.approx(np.mean(each))


@pytest.mark.parametrize("shift", [0.0, 0.2, 0.4, 0.6, -0.4])
@pytest.mark.parametrize("shape", [(5, 3), (10, 4), (15, 5)])
def test_page_interval_excludes_zero_exactly_when_it_rejects(shape, shift):
    draws = np.random.default_rng(1).normal(size=(20, *shape)) + shift * np.arange(shape[1])
    for values in draws:
        found: Any = page_test(values, True)
        assert (found.low > 0) == (found.p < 0.05)
        assert (found.high < 0) == (found.p_opposite < 0.05)


def test_two_conditions_are_the_sign_test():
    values = [[1.0, 2.0], [1.0, 3.0], [2.0, 1.0], [0.0, math.inf], [math.inf, math.inf]]
    found = page_test(values, True)
    assert found.p == pytest.approx(stats.binomtest(3, 4, alternative="greater").pvalue)
    assert (found.effect, found.n, found.note) == (0.5, 5, "1 ties dropped")
    assert page_test([[1.0, 1.0], [2.0, 2.0]], True).p == 1.0


def test_ties_everywhere_are_no_trend():
    found = page_test(np.ones((5, 3)), True)
    assert (found.p, found.p_opposite) == (1.0, 1.0)
    assert "tie in every unit" in found.note


def test_clopper_pearson_limit():
    found = never_test([0, 0], 0, -1, rate=0.05, trials=[50, 50])  # zero of N: 1 - .05^(1/N)
    assert found.high == pytest.approx(1 - 0.05 ** (1 / 100))
    assert f"rate at most {found.high:.2g}" in found.note
    assert found.p == pytest.approx(0.95**100)
    assert not never_test([1.0, 1.0, 0.5], 0.5, 1, 0.05).refuted  # a value on the bound is no violation
    assert never_test([1.0, math.nan], 0.5, 1, 0.05).refuted
    assert never_test([0, 1], 0, -1, 1e-9, trials=[10**6, 10**6]).refuted  # one is enough, whatever N


def test_log_slopes_are_exact_on_powers():
    x = np.array([1.0, 10.0, 100.0])
    assert log_slopes(x, np.stack([x**-0.5, 7 * x**2])) == pytest.approx([-0.5, 2.0])


def overlapping(n, share=0.2):
    """Differences on n random splits with test share `share`: correlated by it, as Nadeau and Bengio suppose."""
    rng = np.random.default_rng(3)
    common = rng.normal(size=(DRAWS, 1))
    return math.sqrt(share) * common + math.sqrt(1 - share) * rng.normal(size=(DRAWS, n))


def test_level_of_overlapping_splits():
    for p in t_rows(overlapping(10), 0.0, 1, 0.2 / 0.8):
        assert 0.02 < (p < 0.05).mean() <= CEILING


@pytest.mark.parametrize("n", [5, 9, 20])
def test_level_of_the_sign_test_is_exact(n):
    """Over all numbers of rises with their probability under a fair coin."""
    found = [sign_test(np.repeat([1.0, -1.0], [k, n - k]), True) for k in range(n + 1)]
    chance = stats.binom(n, 0.5).pmf(np.arange(n + 1))
    for p in (np.array([r.p for r in found]), np.array([r.p_opposite for r in found])):
        assert 0.01 < chance[p < 0.05].sum() <= 0.05


def test_level_fails_without_the_correction_for_overlap():
    assert (t_rows(overlapping(10), 0.0, 1)[0] < 0.05).mean() > 0.1


def test_level_of_the_largest_p():
    """Two comparators, one far ahead, one at the boundary: the claim about both keeps the level."""
    d = np.random.default_rng(2).normal(size=(DRAWS, 5))
    p = np.maximum(t_rows(d, 0.0, 1)[0], t_rows(d + 9, 0.0, 1)[0])
    assert (p < 0.05).mean() <= CEILING
