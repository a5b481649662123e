"""Panels of rate figures: what is fitted, what the legend says, what is left out."""

import math

import numpy as np
import pandas as pd
import pytest
from matplotlib.figure import Figure
from scipy import stats

from lossatlas.study import palette
from lossatlas.study.panels import rate, rates, theory

X = np.array([8, 1, 4, 2])  # in no order


@pytest.fixture
def ax():
    return Figure().subplots()


def legend(ax) -> list[str]:
    return ax.get_legend_handles_labels()[1]


def test_the_slope_is_the_mean_of_the_seeds_slopes_with_its_t_interval(ax):
    own = np.array([-0.4, -0.5, -0.6, -0.7])
    values = 3 * X[None] ** own[:, None]
    mean, half = rate(ax, X, values, "ours")
    assert mean == pytest.approx(-0.55)
    assert half == pytest.approx(stats.t.ppf(0.975, 3) * stats.sem(own))
    assert legend(ax) == [f"ours: slope -0.55 ± {half:.2f}"]
    points, law = ax.lines[0], next(line for line in ax.lines if line.get_linestyle() == "-")
    assert np.allclose(points.get_xdata(), [1, 2, 4, 8])
    assert np.allclose(points.get_ydata(), values.mean(0)[[1, 3, 2, 0]])
    x, y = law.get_xdata(), law.get_ydata()
    assert np.allclose(np.diff(np.log(y)) / np.diff(np.log(x)), -0.55)
    assert np.exp(np.log(y).mean()) == pytest.approx(np.exp(np.log(values).mean()))
    assert (ax.get_xscale(), ax.get_yscale()) == ("log", "log")


def test_a_seed_that_lacks_a_point_or_never_got_there_counts_neither_there_nor_for_the_slope(ax):
    values = np.array([1.0 / X, 2.0 / X, 100.0 * X, 100.0 * X])
    values[2, 0], values[3, 1] = math.inf, math.nan
    mean, half = rate(ax, X, values)
    assert (mean, half) == (pytest.approx(-1.0), pytest.approx(0.0, abs=1e-12))
    drawn = dict(zip(ax.lines[0].get_xdata(), ax.lines[0].get_ydata(), strict=True))
    assert drawn[8] == pytest.approx(np.mean([1 / 8, 2 / 8, 800]))
    assert drawn[1] == pytest.approx(np.mean([1, 2, 100]))


def test_one_seed_has_no_interval_and_one_point_no_slope(ax):
    assert rate(ax, X, 1.0 / X[None], "a")[0] == pytest.approx(-1.0)
    mean, half = rate(ax, [4], [[1.0], [2.0]], "b")
    assert math.isnan(mean)
    assert math.isnan(half)
    assert legend(ax) == ["a: slope -1.00", "b"]


def test_an_interval_that_reaches_zero_ends_above_it(ax):
    rate(ax, [1, 2], [[1e-3, 1.0], [1.0, 1e-3]])
    low = min(segment[:, 1].min() for c in ax.collections for segment in c.get_segments())
    assert low > 0


def test_a_rate_needs_values_above_zero(ax):
    with pytest.raises(ValueError, match="logarithm of y, got -1"):
        rate(ax, X, -np.ones((2, 4)))


def test_theory_has_its_slope(ax):
    theory(ax, X, -0.5, at=3.0)
    (line,) = ax.lines
    assert np.allclose(line.get_ydata(), 3 / np.sqrt([1, 2, 4, 8]))
    assert legend(ax) == ["theory: slope -0.5"]


def test_rates_from_tidy_rows(ax):
    table = pd.DataFrame([
        {"arm": arm, "n": f"n{n}", "sigma": sigma, "seed": seed, "status": "done", "m": scale * n**slope * (1 + seed)}
        for arm, slope in (("ours", -1.0), ("sgd", -0.5)) for n in (10, 100, 1000) for sigma in ("0", "1")
        for seed, scale in ((0, 1), (1, 1), (2, 1), (150, 1e6))
    ])  # fmt: skip
    styles = palette(["other", "ours", "sgd"])
    rates(ax, table, "m", "n", styles, where={"sigma": "1"}, slope=-0.5, names={"ours": "ours, tuned"})
    assert legend(ax) == [
        "theory: slope -0.5", "ours, tuned: slope -1.00 ± 0.00", "sgd: slope -0.50 ± 0.00"]  # fmt: skip
    points = next(line for line in ax.lines if line.get_color() == styles["ours"]["color"])
    assert np.allclose(points.get_ydata(), [0.2, 0.02, 0.002])  # mean of 1 + seed, pilots left out
    assert np.allclose(ax.lines[-1].get_ydata()[0], 0.1)
