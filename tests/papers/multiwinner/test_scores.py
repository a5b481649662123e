"""Truths of the scores, biases and selections of multiwinner, float64 and integers."""

import itertools

import numpy as np
import pytest

from lossatlas.papers.multiwinner import (
    draw_qualities,
    greedy,
    lazy_greedy,
    make_quotas,
    make_score,
    optimum,
    position_table,
    positions_of,
    select,
    smoothness,
    swap,
    utilities,
    weigh,
)
from lossatlas.papers.multiwinner.scores import order_of

M, K = 8, 4
SEPARABLE = ["sntv", "top_3", "bloc", "borda", "geometric"]
ALL = [*SEPARABLE, "cc"]
HALF = np.arange(M) % 2 == 1


def rankings(seed, n=25, m=M):
    """Positions in which the first items tend to be better."""
    rng = np.random.default_rng(seed)
    return positions_of(rng.normal(size=(n, m)) - 0.2 * np.arange(m))


def by_hand(name, positions, S, m=M, k=K):
    """F(S) with loops, from the definitions in words."""
    total = 0.0
    for place in positions.tolist():
        marks = {
            "sntv": [1.0 * (place[i] == 0) for i in S],
            "top_3": [1.0 * (place[i] in (0, 1, 2)) for i in S],
            "bloc": [1.0 * (place[i] < k) for i in S],
            "borda": [(m - 1 - place[i]) / (m - 1) for i in S],
            "geometric": [0.8 ** place[i] for i in S],
            "cc": [max((m - 1 - place[i]) / (m - 1) for i in S)],
        }
        total += sum(marks[name])
    return total


# ---------------------------------------------------------------- scores
@pytest.mark.parametrize("name", ALL)
def test_score_is_its_definition(name):
    positions = rankings(0)
    for S in ([0], [5, 2], [1, 3, 4, 7]):
        assert make_score(name, M, K).value(positions, S) == pytest.approx(
            by_hand(name, positions, S), abs=1e-12
        )


@pytest.mark.parametrize("name", ALL)
def test_score_is_monotone_and_submodular(name):
    score, rng = make_score(name, M, K), np.random.default_rng(1)
    positions = rankings(2)
    for _ in range(60):
        order = rng.permutation(M).tolist()
        s, t = sorted(rng.integers(1, M, size=2))
        S, T, i = order[:s], order[:t], order[-1]
        gains = [score.value(positions, [*A, i]) - score.value(positions, A) for A in (S, T)]
        assert gains[1] >= -1e-12
        assert gains[0] >= gains[1] - 1e-12


def test_scores_that_are_one_another():
    positions = rankings(3)
    for S in itertools.combinations(range(M), 1):
        same = [make_score(name, M, 1).value(positions, S) for name in ("cc", "borda")]
        assert same[0] == pytest.approx(same[1], abs=1e-12)
    assert (make_score("top_1", M, K).marks == make_score("sntv", M, K).marks).all()
    assert (make_score(f"top_{K}", M, K).marks == make_score("bloc", M, K).marks).all()
    assert (make_score("geometric", M, K, q=1.0).marks == 1).all()
    assert sum(make_score("sntv", M, K).value(positions, [i]) for i in range(M)) == len(positions)


def test_position_table_counts_every_place():
    U = np.random.default_rng(4).normal(size=(3, 40, M))
    table, positions = position_table(order_of(U)), positions_of(U)
    for r, i, p in itertools.product(range(3), range(M), range(M)):
        assert table[r, i, p] == (positions[r, :, i] == p).sum()


# ---------------------------------------------------------------- bias
def test_no_bias_changes_nothing():
    rng = np.random.default_rng(5)
    w, second = draw_qualities(rng, M)
    U = utilities(w, rng.normal(size=(50, M)))
    assert (weigh(U, second, 1.0) == U).all()
    order = order_of(U)
    assert (swap(order, second, 0.0, 5, rng) == order).all()
    assert (swap(order, second, 0.5, 0, rng) == order).all()


def test_groups_have_the_same_qualities_unless_independent():
    w, second = draw_qualities(np.random.default_rng(6), 20)
    assert second.sum() == 10
    assert (np.sort(w[second]) == np.sort(w[~second])).all()
    w, second = draw_qualities(np.random.default_rng(6), 20, independent=True)
    assert not np.isin(w[second], w[~second]).any()


@pytest.mark.parametrize("theta", [0.9, 0.5, 1e-3])
def test_weighing_keeps_the_order_inside_groups(theta):
    rng = np.random.default_rng(7)
    w, second = draw_qualities(rng, M)
    U = utilities(w, 4 * rng.normal(size=(200, M)))  # many below the floor
    assert (U > 0).all()
    assert (U < 1e-6).any()
    before, after = positions_of(U), positions_of(weigh(U, second, theta))
    for group in (second, ~second):
        assert (np.argsort(before[:, group], 1) == np.argsort(after[:, group], 1)).all()
    assert (after[:, second] >= before[:, second]).all()


def test_utilities_keep_what_is_above_the_floor_and_its_order_below():
    w, e = np.full(5, 0.3), np.array([[0.0, 1.0, -2.0, -1.5, -3.0]])
    U = utilities(w, e)
    np.testing.assert_allclose(U[0, :2], [0.3, 0.6], rtol=0, atol=1e-15)
    assert (U[0, 2:] <= 1e-6).all()
    assert np.argsort(-U[0]).tolist() == [1, 0, 3, 2, 4]


def test_at_the_strongest_bias_the_first_places_are_of_the_first_group():
    rng = np.random.default_rng(8)
    w, second = draw_qualities(rng, M)
    U = utilities(w, 0.01 * rng.normal(size=(100, M))) + 0.1
    positions = positions_of(weigh(U, second, 1e-9))
    assert positions[:, ~second].max() < positions[:, second].min()
    for name in ("sntv", "bloc"):
        score = make_score(name, M, K)
        assert score.value(positions, np.flatnonzero(second).tolist()) == 0
        assert score.value(positions, np.flatnonzero(~second).tolist()) > 0


@pytest.mark.parametrize(("phi", "sweeps"), [(0.5, 1), (0.5, 3), (0.3, 7)])
def test_swaps_only_lower_the_second_group_and_keep_the_order_inside(phi, sweeps):
    rng = np.random.default_rng(9)
    second = rng.permutation(M) < 4
    before = order_of(rng.normal(size=(300, M)))
    after = swap(before, second, phi, sweeps, rng)
    assert (np.sort(after, 1) == np.arange(M)).all()
    for group in (second, ~second):
        assert (before[group[before]] == after[group[after]]).all()
    p, q = np.argsort(before, 1), np.argsort(after, 1)
    assert (q[:, second] >= p[:, second]).all()
    assert (q[:, second] > p[:, second]).any()


def test_swaps_by_chance_are_as_often_as_phi():
    low = swap(np.tile([1, 0], (40000, 1)), np.array([False, True]), 0.3, 1, np.random.default_rng(10))
    assert (low[:, 0] == 0).mean() == pytest.approx(0.3, abs=4 * np.sqrt(0.21 / 40000))
    twice = swap(
        np.tile([2, 0, 1], (40000, 1)), np.array([False, False, True]), 0.5, 1, np.random.default_rng(11)
    )
    assert (twice[:, 2] == 2).mean() == pytest.approx(
        0.25, abs=4 * np.sqrt(0.19 / 40000)
    )  # sank twice in one pass


def test_sure_swaps_put_the_first_group_first():
    rng = np.random.default_rng(12)
    second = rng.permutation(M) < 4
    after = swap(order_of(rng.normal(size=(50, M))), second, 1.0, M, rng)
    assert not second[after[:, :4]].any()


# ---------------------------------------------------------------- selection
def brute(score, positions, k, second=None, quotas=(0, 0)):
    """The largest F over all committees that keep the quotas."""
    best = -np.inf
    for S in itertools.combinations(range(positions.shape[1]), k):
        seats = 0 if second is None else int(second[list(S)].sum())
        if seats >= quotas[1] and k - seats >= quotas[0]:
            best = max(best, score.value(positions, list(S)))
    return best


@pytest.mark.parametrize("quotas", ["none", "proportional", "equal", 1, 3])
@pytest.mark.parametrize("name", SEPARABLE)
def test_selection_is_the_best_of_all_committees(name, quotas):
    score = make_score(name, M, K)
    for seed in range(3):
        positions = rankings(seed)
        second = np.arange(M) >= 5  # three bad ones
        seats = make_quotas(second, K, quotas)
        S = select(positions, score, K, second, quotas, seed)
        assert len(set(S.tolist())) == K
        assert second[S].sum() >= seats[1]
        assert (~second[S]).sum() >= seats[0]
        most = brute(score, positions, K, second, seats)
        assert score.value(positions, S.tolist()) == pytest.approx(most, abs=1e-9)
        assert optimum(positions, score, K, second, seats)[1] == pytest.approx(most, abs=1e-9)


@pytest.mark.parametrize("name", SEPARABLE)
def test_quotas_that_fill_the_committee_take_the_best_of_each_group(name):
    score, positions = make_score(name, M, K), rankings(4, n=200)
    S = set(select(positions, score, K, HALF).tolist())
    alone = np.array([score.value(positions, [i]) for i in range(M)])
    for group in (HALF, ~HALF):
        inside = np.flatnonzero(group)
        taken = [i for i in inside if i in S]
        assert len(taken) == 2
        assert min(alone[taken]) >= max(alone[[i for i in inside if i not in S]])


@pytest.mark.parametrize(("quotas", "share"), [((0, 0), 1 - 1 / np.e), ((1, 3), 0.5)])
def test_greedy_for_chamberlin_courant(quotas, share):
    score = make_score("cc", M, K)
    for seed in range(4):
        positions, tie = rankings(seed), np.random.default_rng(seed).random(M)
        values = score.marks[positions]
        S = greedy(values[None], K, tie[None], HALF[None], quotas)[0]
        assert S.tolist() == lazy_greedy(values, K, tie, HALF, quotas).tolist()
        assert HALF[S].sum() >= quotas[1]
        assert (~HALF[S]).sum() >= quotas[0]
        most = brute(score, positions, K, HALF, quotas)
        assert optimum(positions, score, K, HALF, quotas)[1] == pytest.approx(most, abs=1e-9)
        assert share * most <= score.value(positions, S.tolist()) <= most + 1e-9


def test_greedy_solves_its_problems_apart():
    values = np.stack([make_score("cc", M, K).marks[rankings(seed)] for seed in range(5)])
    tie = np.random.default_rng(0).random((5, M))
    second = np.stack([np.random.default_rng(seed).permutation(M) < 4 for seed in range(5)])
    together = greedy(values, K, tie, second, (2, 2))
    for r in range(5):
        assert (
            together[r].tolist()
            == greedy(values[r : r + 1], K, tie[r : r + 1], second[r : r + 1], (2, 2))[0].tolist()
        )


def test_ties_are_broken_by_chance_and_not_by_index():
    score = make_score("sntv", M, 1)
    positions = np.arange(M)[None]  # one ranking: all but item 0 have score 0
    second = np.arange(M) >= 4
    picks = [select(positions, score, 2, seed=seed).tolist() for seed in range(400)]
    counts = np.bincount([S[1] for S in picks], minlength=M)
    assert all(S[0] == 0 for S in picks)
    assert (counts[1:] > 25).all()  # 57 expected each
    seats = [select(positions, score, 2, second, seed=seed)[1] for seed in range(400)]
    assert (np.bincount(seats, minlength=M)[4:] > 60).all()


@pytest.mark.parametrize("name", ALL)
def test_copies_and_relabelling_change_nothing_and_all_items_are_the_whole(name):
    score, positions = make_score(name, M, K), rankings(5, n=301)
    S = select(positions, score, K, HALF)
    assert select(np.concatenate([positions, positions]), score, K, HALF).tolist() == S.tolist()
    label = np.concatenate([np.random.default_rng(1).permutation(np.flatnonzero(g)) for g in (~HALF, HALF)])
    label = label[np.argsort(np.concatenate([np.flatnonzero(~HALF), np.flatnonzero(HALF)]))]  # within groups
    moved = np.empty_like(positions)
    moved[:, label] = positions
    other = select(moved, score, K, HALF)
    assert score.value(moved, other.tolist()) == pytest.approx(score.value(positions, S.tolist()), abs=1e-9)
    assert sorted(label[S].tolist()) == other.tolist()
    assert select(positions, score, M, HALF).tolist() == list(range(M))


def test_quotas():
    second = np.arange(10) >= 7
    assert make_quotas(second, 5) == (3, 1)
    assert make_quotas(second, 5, "equal") == (2, 2)
    assert make_quotas(second, 8, "equal") == (4, 3)
    assert make_quotas(second, 5, "none") == (0, 0)
    assert make_quotas(second, 5, 2) == (0, 2)


# ---------------------------------------------------------------- smoothness
def test_smoothness_is_its_definition():
    rng = np.random.default_rng(13)
    U = utilities(np.linspace(0.9, 0.1, M), rng.normal(size=(400, M)))
    there, low = positions_of(U), positions_of(weigh(U, HALF, 0.6))
    for name in SEPARABLE:
        score = make_score(name, M, K)
        alpha, gamma = smoothness(score, there, low, HALF, best=2)
        items = [i for i in range(M) if HALF[i]]
        items.sort(key=lambda i: -np.mean([score.marks[p] for p in there[:, i]]))
        left = [np.mean(score.marks[low[:, i]]) / np.mean(score.marks[there[:, i]]) for i in items[:2]]
        assert alpha == pytest.approx(min(left), abs=1e-12)
        signals = []
        for a, i in enumerate(items[:2]):
            for j in items[a + 1 :]:
                d = score.marks[low[:, i]] - score.marks[low[:, j]]
                signals.append(d.mean() / d.std() if d.std() > 0 else 0.0)
        assert gamma == pytest.approx(min(signals), abs=1e-9)


def test_smoothness_without_bias_is_one():
    there = rankings(14, n=300)
    for name in ALL:
        assert smoothness(make_score(name, M, K), there, there, HALF, S=[0, 2])[0] == pytest.approx(
            1.0, abs=1e-12
        )


# ---------------------------------------------------------------- refused
GOOD = [[0, 1, 2], [2, 0, 1]]
BORDA = make_score("borda", 3, 2)


@pytest.mark.parametrize(
    ("call", "line"),
    [
        (lambda: make_score("brda", 5, 2), "did you mean"),
        (lambda: make_score("top_9", 5, 2), "top_t needs"),
        (lambda: make_score("borda", 5, 6), "1 <= k <= m"),
        (lambda: make_score("geometric", 5, 2, q=1.5), "q in"),
        (lambda: positions_of([[0.1, np.nan]]), "finite"),
        (lambda: select([[0, 1, 1]], make_score("borda", 3, 2), 2), "ranking 0 is no permutation"),
        (lambda: select([[1, 2, 3]], make_score("borda", 3, 2), 2), "ranking 0 is no permutation"),
        (lambda: select([[0.1, 0.2, 0.7]], make_score("borda", 3, 2), 2), "whole numbers"),
        (lambda: select(GOOD, make_score("borda", 4, 2), 2), r"\(n, 4\)"),
        (lambda: select(GOOD, make_score("borda", 3, 2), 4), "k=4"),
        (lambda: select(GOOD, make_score("borda", 3, 2), 2, [1, 0]), "3 items"),
        (lambda: select(GOOD, make_score("borda", 3, 2), 2, [1, 0, 0], 2), "0 to 1 seats"),
        (lambda: select(GOOD, make_score("borda", 3, 2), 2, [1, 0, 0], "fair"), "proportional"),
        (lambda: optimum(np.array(GOOD), BORDA, 2, np.array([True, False, False]), (2, 1)), "no committee"),
        (lambda: weigh(np.array([[1.0, -1.0]]), np.array([True, False]), 0.5), "shift"),
        (lambda: weigh(np.array([[1.0, 1.0]]), np.array([True, False]), 0.0), "theta"),
        (lambda: weigh(np.array([[1.0, np.nan]]), np.array([True, False]), 0.5), "> 0"),
        (lambda: swap(np.array(GOOD), np.array([True, False, False]), 1.5, 1, np.random.default_rng(0)), "phi"),
        (lambda: draw_qualities(np.random.default_rng(0), 7), "even"),
        (lambda: smoothness(BORDA, np.array(GOOD), np.array(GOOD), np.array([True, True, False]), 2), "best"),
    ],
)  # fmt: skip
def test_bad_input_is_refused_in_one_line(call, line):
    with pytest.raises(ValueError, match=line) as refused:
        call()
    assert "\n" not in str(refused.value)
