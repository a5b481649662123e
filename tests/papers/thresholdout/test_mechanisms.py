"""Truths of the mechanisms: noise, budgets, multiplicative weights, limits, refused input."""

import math

import numpy as np
import pytest
from scipy import stats

from lossatlas.papers.thresholdout import (
    BudgetSpentError,
    Naive,
    Noisy,
    Points,
    PrivateWeights,
    Rows,
    SignAnalyst,
    Split,
    Thresholdout,
    choose_features,
    noise_scale,
    update_bound,
)
from lossatlas.seeding import numpy_stream

N = 32


def case(seed, n=60, k=200, R=3):
    """R samples of a skewed law, and k random tables for each."""
    rng = np.random.default_rng(seed)
    P = rng.dirichlet([0.3] * N, size=R)
    points = np.stack([rng.choice(N, n, p=p) for p in P])
    return Points(points, N), rng.random((R, k, N)), P


def divergence(p, d):
    """KL(p || d) with loops."""
    return sum(a * math.log(a / b) for a, b in zip(p.tolist(), d.tolist(), strict=True) if a > 0)


def test_means_of_samples():
    sample, q, _ = case(0)
    for r, j in ((0, 0), (2, 7)):
        by_hand = sum(q[r, j, x] for x in sample.points[r]) / 60
        assert sample(q)[r, j] == pytest.approx(by_hand, abs=1e-14)
        assert sample(q[:, j])[r] == pytest.approx(by_hand, abs=1e-14)
        assert Rows(sample.points[r])(lambda x, v=q[r, j]: v[x]) == pytest.approx(by_hand, abs=1e-14)
    assert (sample.part(10, 30).points == sample.points[:, 10:30]).all()


@pytest.mark.parametrize(("noise", "law"), [("laplace", stats.laplace), ("gaussian", stats.norm)])
def test_noise_has_its_law_and_scale(noise, law):
    a = Noisy(lambda m: np.full((2, m), 0.5), b=0.3, noise=noise, seed=[0, 1]).ask(20000)
    z = (a - 0.5) / 0.3
    assert stats.kstest(z.ravel(), law.cdf).pvalue > 1e-3
    assert np.abs(z).mean() == pytest.approx(
        {"laplace": 1, "gaussian": math.sqrt(2 / math.pi)}[noise], abs=0.02
    )
    assert not np.isclose(z[0], z[1]).any()  # a stream a seed


def test_noise_of_eq_1():
    assert noise_scale(0.1, 100) == pytest.approx(0.1 / math.sqrt(2 * math.log(100)), abs=1e-15)


# ---------------------------------------------------------------- Thresholdout
def by_hand(t, h, T, s, streams):
    """Eq. 3 for one repetition, query after query: answers and how many came from the holdout."""
    first, threshold, compare, answer = streams
    That, used, found = T + 2 * s * first[0], 0, []
    for j in range(len(t)):
        if abs(h[j] - t[j]) > That + 4 * s * compare[j]:
            found.append(h[j] + s * answer[j])
            That = T + 2 * s * threshold[j]
            used += 1
        else:
            found.append(t[j])
    return found, used


def test_thresholdout_is_its_definition():
    rng = np.random.default_rng(1)
    t, h = rng.random((2, 300)), rng.random((2, 300))
    mechanism = Thresholdout(lambda _: t, lambda _: h, T=0.2, s=0.05, seed=[4, 9])
    answers = mechanism.ask(None)
    for r, seed in enumerate((4, 9)):
        names = ("first", "threshold", "compare", "answer")
        streams = [numpy_stream(seed, f"thresholdout/mechanism/{name}").laplace(size=300) for name in names]
        expected, used = by_hand(t[r], h[r], 0.2, 0.05, streams)
        np.testing.assert_allclose(answers[r], expected, rtol=0, atol=1e-14)
        assert mechanism.used[r] == used
        assert 0 < used < 300


def test_demonstration_form_compares_and_answers_with_gaussian_noise():
    h = np.full((1, 40000), 0.5)
    mechanism = Thresholdout(lambda _: h - 0.03, lambda _: h, T=0.04, s=0.01, noise="gaussian", seed=[0])
    answers = mechanism.ask(None)[0]
    fired = answers != 0.47
    assert fired.mean() == pytest.approx(stats.norm.cdf(-1), abs=0.01)  # .03 > .04 + .01 z
    assert stats.kstest((answers[fired] - 0.5) / 0.01, "norm").pvalue > 1e-3


def test_thresholds_of_zero_and_infinity():
    (S, q, _), training = case(2), Points(np.arange(60) % N, N)
    halves = training.points[None].repeat(3, 0), S.points
    t, h = (Points(p, N) for p in halves)
    seeds = [0, 1, 2]
    np.testing.assert_array_equal(
        Thresholdout(t, h, T=0, s=0, seed=seeds).ask(q), Naive(h, seed=seeds).ask(q)
    )
    never = Thresholdout(t, h, T=math.inf, s=0.01, seed=seeds)
    np.testing.assert_array_equal(never.ask(q), t(q))
    assert not never.used.any()


@pytest.mark.parametrize("noise", ["laplace", "gaussian"])
def test_budget_ends_and_the_holdout_is_not_read_afterwards(noise):
    reads = []

    def holdout(q):
        reads.append(q)
        return 0.9

    mechanism = Thresholdout(lambda q: 0.1, holdout, T=0.2, s=0.01, budget=3, noise=noise)
    for _ in range(3):
        assert mechanism.ask("q") == pytest.approx(0.9, abs=0.2)
    for _ in range(2):
        with pytest.raises(BudgetSpentError, match="budget of 3 answers is spent"):
            mechanism.ask("q")
    assert (len(reads), int(mechanism.used[0])) == (3, 3)
    side = Thresholdout(lambda q: np.array([[0.1] * 5, [0.9] * 5]), lambda q: np.full((2, 5), 0.9),
                        T=0.2, s=0.01, budget=2, noise=noise, seed=[0, 1])  # fmt: skip
    assert np.isnan(side.ask(0)).tolist() == [[False] * 2 + [True] * 3, [False] * 5]
    assert side.used.tolist() == [2, 0]


# ---------------------------------------------------------------- private multiplicative weights
def test_every_update_brings_the_hypothesis_closer():
    T, (S, q, _) = 0.12, case(3)
    mechanism = PrivateWeights(S, T=T, b0=0.0, seed=[0, 1, 2])
    eta, before = 0.06, [divergence(S.shares[r], mechanism.D[r]) for r in range(3)]
    assert mechanism.eta == eta
    for j in range(200):
        used = mechanism.used.copy()
        answer = mechanism.ask(q[:, j])
        assert (np.abs(answer - (q[:, j] * S.shares).sum(1)) <= T + 1e-12).all()
        np.testing.assert_allclose(mechanism.D.sum(1), 1, atol=1e-12)
        assert (mechanism.D > 0).all()
        for r in range(3):
            now = divergence(S.shares[r], mechanism.D[r])
            least = (eta * T - eta**2 / 8) * (mechanism.used[r] - used[r])
            assert before[r] - now >= least - 1e-12
            before[r] = now
    assert mechanism.used.min() > 0
    assert (mechanism.used <= math.log(N) / (eta * T - eta**2 / 8)).all()
    assert update_bound(N, T, eta) == pytest.approx(math.log(N) / 0.00675, rel=1e-12)


def test_one_update_by_hand():
    mechanism = PrivateWeights(Points([0, 0, 0, 1], N=4), T=0.2, b0=0.0, eta=0.5)
    assert mechanism.ask([1, 0.5, 0, 0]) == pytest.approx(0.875)
    w = [math.exp(0.5), math.exp(0.25), 1, 1]
    np.testing.assert_allclose(mechanism.D[0], np.array(w) / sum(w), rtol=1e-14)


def test_noise_enters_comparison_and_answer():
    S, q, _ = case(7, k=60)
    mechanism = PrivateWeights(S, T=0.1, b0=0.05, seed=[5, 6, 7])
    answers = mechanism.ask(q)
    for r, seed in enumerate((5, 6, 7)):
        near, told = (
            numpy_stream(seed, f"thresholdout/mechanism/{role}").laplace(size=60)
            for role in ("compare", "answer")
        )
        D, p, used = np.full(N, 1 / N), S.shares[r], 0
        for j in range(60):
            guess, h = D @ q[r, j], p @ q[r, j] + 0.05 * told[j]
            if abs(guess - p @ q[r, j] + 0.05 * near[j]) <= 0.1:
                assert answers[r, j] == pytest.approx(guess, abs=1e-12)
                continue
            assert answers[r, j] == pytest.approx(h, abs=1e-12)
            D = D * np.exp(0.05 * (1 if h > guess else -1) * q[r, j])
            D, used = D / D.sum(), used + 1
        assert 5 < used == mechanism.used[r] < 55


def test_a_hypothesis_that_is_the_sample_is_never_changed():
    S, q, _ = case(4)
    mechanism = PrivateWeights(S, T=1e-9, b0=0.0, start=S.shares, seed=[0, 1, 2])
    np.testing.assert_allclose(mechanism.ask(q), S(q), atol=1e-12)
    assert not mechanism.used.any()


def test_updates_end():
    mechanism = PrivateWeights(Points([0, 0, 0, 0], N=4), T=0.1, b0=0.0, updates=2)
    assert [mechanism.ask([1, 0, 0, 0]) for _ in range(2)] == [1.0, 1.0]
    with pytest.raises(BudgetSpentError, match="all 2 updates"):
        mechanism.ask([0, 0, 0, 0])
    assert np.isnan(PrivateWeights(Points([0], N=2), T=0.1, b0=0.0, updates=1).ask([[1, 0]] * 3)).tolist() == [
        False, True, True]  # fmt: skip


# ---------------------------------------------------------------- the rest
def test_every_query_has_points_of_its_own():
    sample = Rows(np.arange(11.0))
    mechanism, seen = Split(sample, k=3), []
    for _ in range(3):
        mechanism.ask(lambda x: seen.append(x.tolist()) or x * 0)
    assert seen == [[0, 1, 2], [3, 4, 5], [6, 7, 8]]
    with pytest.raises(BudgetSpentError, match="all 3 parts"):
        mechanism.ask(lambda x: x * 0)


def test_blocks_and_single_queries_agree_and_forks_leave_no_trace():
    S, q, _ = case(5, k=12)
    seeds = [3, 1, 2]
    for make in (
        lambda S, seed: Noisy(S, b=0.1, noise="laplace", seed=seed),
        lambda S, seed: PrivateWeights(S, T=0.1, b0=0.05, seed=seed),
        lambda S, seed: Thresholdout(S.part(0, 30), S.part(30, 60), T=0.05, s=0.02, seed=seed),
    ):
        block = make(S, seeds).ask(q)
        single = make(S, seeds)
        answers = []
        for j in range(12):
            fork = single.fork("other")
            assert (fork.ask(q[:, j]) == single.fork("other").ask(q[:, j])).all()
            answers.append(single.ask(q[:, j]))
        np.testing.assert_allclose(block, np.stack(answers, 1), rtol=0, atol=1e-13)
        alone = make(Points(S.points[1], N), 1).ask(q[1])  # a repetition is the same without those beside it
        np.testing.assert_allclose(block[1], alone, rtol=0, atol=1e-13)


def test_the_analyst_asks_what_all_errors_say_and_holds_no_sample():
    _, q, P = case(6, k=9)
    analyst, answers = SignAnalyst(P), np.random.default_rng(0).random((3, 9))
    answers[0, 4] = np.nan
    analyst.observe(q[:, :5], answers[:, :5])
    analyst.observe(q[:, 5:], answers[:, 5:])
    for r in range(3):
        for x in range(N):
            score = 0.0
            for j in range(9):
                if not math.isnan(answers[r, j]):
                    miss = answers[r, j] - sum(P[r, i] * q[r, j, i] for i in range(N))
                    score += math.copysign(1, miss) * (q[r, j, x] - 0.5)
            assert analyst.final()[r, x] == (score > 0)
    assert set(vars(analyst)) == {"P", "evidence"}


POINTS = Points([0, 1, 1], N=3)
BAD = [
    (lambda: Thresholdout(POINTS, POINTS, T=-0.1), "T >= 0"),
    (lambda: Thresholdout(POINTS, POINTS, T=math.nan), "T >= 0"),
    (lambda: Thresholdout(POINTS, POINTS, s=-1), "finite s >= 0"),
    (lambda: Thresholdout(POINTS, POINTS, budget=0), "integer >= 1"),
    (lambda: Thresholdout(POINTS, POINTS, noise="uniform"), "laplace or gaussian"),
    (lambda: Noisy(POINTS, b=math.nan), "finite b >= 0"),
    (lambda: PrivateWeights(POINTS, T=0, b0=0.1), "T > 0"),
    (lambda: PrivateWeights(POINTS, T=0.1, b0=0.1, eta=1.0), "eta < 8 T"),
    (lambda: PrivateWeights(POINTS, T=0.1, b0=0.1, updates=0), "updates >= 1"),
    (lambda: PrivateWeights(POINTS, T=0.1, b0=0.1, start=[1, 1, 1]), "a distribution"),
    (lambda: Split(POINTS, k=4), "1 to 3 queries"),
    (lambda: Naive(POINTS, seed=[]), "at least one"),
    (lambda: noise_scale(0, 10), "alpha > 0"),
    (lambda: Points([0, 3], N=3), "0 to N - 1"),
    (lambda: Points([0.5], N=3), "integers"),
    (lambda: Rows([]), "n >= 1"),
    (lambda: Naive(POINTS).ask([0, 1.5, 0]), r"in \[0, 1\]"),
    (lambda: Naive(POINTS).ask([0, math.nan, 0]), r"in \[0, 1\]"),
    (lambda: Naive(POINTS).ask([0, 1]), r"shape \(3,\)"),
    (lambda: Naive(POINTS, seed=[0, 1]).ask([0, 1, 0]), "2 seeds"),
    (lambda: Naive(Rows([1, 2])).ask(lambda x: 1.0), "each of 2 rows"),
    (lambda: Naive(lambda q: math.nan).ask(0), "finite number"),
    (lambda: choose_features(np.full((1, 2), math.nan), np.zeros((1, 2)), 0.1, [0]), "finite number"),
    (lambda: choose_features(np.zeros((1, 2)), np.zeros((1, 2)), 0.1, [3]), "0 to 2"),
]  # fmt: skip


@pytest.mark.parametrize(("make", "line"), BAD, ids=range(len(BAD)))
def test_bad_input_is_refused_in_one_line(make, line):
    with pytest.raises(ValueError, match=line) as error:
        make()
    assert "\n" not in str(error.value)
