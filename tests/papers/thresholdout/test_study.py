"""Truths of the features' law and of the studies: full matrices, passages, pairing, refusals, the card's statistic."""

import math
from statistics import NormalDist

import numpy as np
import pandas as pd
import pytest
import torch

from lossatlas.errors import UserError
from lossatlas.papers.thresholdout import Points, SignAnalyst, Votes, choose_features
from lossatlas.papers.thresholdout.features import (
    ColumnSample,
    LawSample,
    VoteMargins,
    passage_law,
    vote_accuracy,
)
from lossatlas.papers.thresholdout.statistics import fresh_at_best
from lossatlas.papers.thresholdout.study import Growth, Queries, Select
from lossatlas.seeding import numpy_stream

SIZES = {"N": 16, "n": 50, "ks": [4, 30, 60], "concentration": 0.25, "gauss": {"b": 0.1}, "pmw": {"T": 0.2, "b0": 0.02},
         "thresholdout": {"T": 0.1, "s": 0.02}, "conditions": {"answers": ["own", "other"]}}  # fmt: skip
FEATURES = {"n": 200, "d": 60, "ks": [0, 5, 20], "strength": 6.0, "conditions": {"signal": [0, 5]},
            "thresholdout": {"T": 4.0, "s": 1.0, "noise": "gaussian"}}  # fmt: skip


def rows(study):
    study.play(torch.arange(len(study.grid)))
    return pd.DataFrame([{**u["condition"], "seed": u["seed"], **u["metrics"]} for u in study.unit_metrics()])


# ---------------------------------------------------------------- features
def matrix_accuracy(rng, repetitions, n, k, b):
    """The final classifier's accuracy on the sample from all n k numbers."""
    found = []
    for _ in range(repetitions):
        y, x = rng.choice([-1.0, 1.0], n), rng.standard_normal((n, k))
        answers = y @ x / n + b * rng.standard_normal(k)
        found.append((np.sign(x @ np.sign(answers)) == y).mean())
    return np.array(found)


@pytest.mark.parametrize("b", [0.0, 0.1])
def test_the_law_of_a_vote_is_that_of_full_matrices(b):
    rng, n, k, R = np.random.default_rng(0), 200, 300, 1000
    full, margins = matrix_accuracy(rng, R, n, k, b), VoteMargins(R, n)
    for part in (100, 200):  # in two steps
        c = rng.standard_normal((R, part)) / math.sqrt(n)
        signs = np.sign(c + b * rng.standard_normal((R, part)))
        margins.add((signs * c).sum(1), np.full(R, part), rng.standard_normal((R, n)))
    law = margins.accuracy()
    error = math.sqrt((full.var() + law.var()) / R)
    assert law.mean() == pytest.approx(full.mean(), abs=3 * error)
    assert law.std() == pytest.approx(full.std(), rel=0.1)
    closed = NormalDist().cdf(math.sqrt(2 * k / (math.pi * n * (1 + n * b**2))))
    assert law.mean() == pytest.approx(closed, abs=0.01)
    assert vote_accuracy(k, n, b) == pytest.approx(closed, abs=1e-12)


def test_passage_law_inverts_the_accuracy():
    assert passage_law(1000, 0.1) == pytest.approx(100.8, abs=0.05)
    assert vote_accuracy(passage_law(500, 0.2, 0.3), 500, 0.3) == pytest.approx(0.7, abs=1e-12)


def test_margins_of_a_vote_have_exactly_the_drawn_correlation():
    rng, margins = np.random.default_rng(1), VoteMargins(2, 500)
    c, signs = rng.standard_normal((2, 7)) / 20, np.sign(rng.standard_normal((2, 7)))
    margins.add((signs * c).sum(1), [7, 7], rng.standard_normal((2, 500)))
    np.testing.assert_allclose(margins.values.mean(1), [sum(a * b for a, b in zip(s, v, strict=True))
                               for s, v in zip(signs, c, strict=True)], atol=1e-12)  # fmt: skip
    assert margins.values.std() == pytest.approx(math.sqrt(7), rel=0.1)


def test_columns_vote_as_by_hand():
    shift = np.array([0.5, 0.0, 0.0, -0.3, 0.0])
    sample = ColumnSample([3, 8], "training", 40, shift, block=2)
    x = np.concatenate([sample._margins(start) for start in (0, 2, 4)], 2)  # y_i x_ij
    np.testing.assert_allclose(sample("correlations"), x.mean(1), atol=1e-12)
    votes = Votes(np.array([[4, 0, 1], [2, 3, 0]]), np.array([[1.0, -1, 0], [-1, 1, 1]]), (0, 2, 3))
    expected = []
    for r in range(2):
        for k in votes.ks:
            score = [sum(votes.signs[r, i] * x[r, p, votes.order[r, i]] for i in range(k)) for p in range(40)]
            expected.append(sum(0.5 if v == 0 else v > 0 for v in score) / 40)
    np.testing.assert_allclose(sample(votes).ravel(), expected, atol=1e-12)
    assert sample(votes)[0, 0] == 0.5  # k = 0


def test_law_and_columns_agree_on_chosen_features():
    means, shift = {}, np.where(np.arange(80) < 6, 6 / math.sqrt(100), 0.0)
    for kind in (LawSample, ColumnSample):
        training, holdout = (kind(list(range(100, 500)), part, 100, shift) for part in ("a", "b"))
        votes = choose_features(training(""), holdout(""), 0.1, [3, 12])
        means[kind] = np.concatenate([training(votes), holdout(votes)], 1)
    spread = np.sqrt((means[LawSample].var(0) + means[ColumnSample].var(0)) / 400)
    assert (np.abs(means[LawSample].mean(0) - means[ColumnSample].mean(0)) < 3.5 * spread).all()
    assert means[LawSample].mean() > 0.6


def test_chosen_features_pass_both_and_are_in_training_order():
    rng = np.random.default_rng(2)
    t, a = rng.standard_normal((2, 3, 30))
    votes = choose_features(t, a, 0.5, [1, 30])
    for r in range(3):
        passed = [j for j in range(30) if t[r, j] * a[r, j] > 0 and min(abs(t[r, j]), abs(a[r, j])) > 0.5]
        passed.sort(key=lambda j, r=r: -abs(t[r, j]))
        assert votes.order[r, : len(passed)].tolist() == passed
        assert votes.signs[r].tolist() == [math.copysign(1, t[r, j]) for j in passed] + [0] * (
            30 - len(passed)
        )


# ---------------------------------------------------------------- studies
def queries(mechanism, **more):
    return rows(Queries(None, mechanism=mechanism, **{"seeds": 3, "seed": 100, **SIZES, **more}))


def test_naive_errors_by_loops():
    study = Queries(None, mechanism="naive", seeds=2, seed=100, **SIZES)
    found = rows(study)
    P = np.stack([np.random.Generator.dirichlet(rng, [0.25] * 16) for rng in _streams("population")])
    S, other = (np.stack([rng.choice(16, 50, p=p) for rng, p in zip(_streams(name), P, strict=True)])
                for name in ("sample", "other"))  # fmt: skip
    for r, rng in enumerate(_streams("queries/0")):
        q = rng.integers(0, 2, (256, 16), dtype=bool)
        worst = 0.0
        for k in (4, 30, 60):
            for kind, answering in (("own", S), ("other", other)):
                score = np.zeros(16)
                for j in range(k):
                    miss = q[j][answering[r]].mean() - P[r] @ q[j]
                    score += np.sign(miss) * (q[j] - 0.5)
                final = score > 0
                error = abs(final[S[r]].mean() - P[r] @ final)
                row = found[(found.k == k) & (found.answers == kind) & (found.seed == 100 + r)].iloc[0]
                assert row["test/error"] == pytest.approx(error, abs=1e-12)
                if kind == "own":
                    plain = max(abs(q[j][S[r]].mean() - P[r] @ q[j]) for j in range(k))
                    worst = max(worst, plain, error)
                    assert row["test/worst"] == pytest.approx(worst, abs=1e-12)


def _streams(name):
    return [numpy_stream(seed, f"thresholdout/{name}") for seed in (100, 101)]


@pytest.mark.parametrize("arm", Queries.ARMS)
def test_a_seed_is_the_same_alone_and_with_other_ks(arm):
    both, alone = queries(arm), queries(arm, seeds=1, seed=102, ks=[4, 20, 30, 60])
    part = both[both.seed == 102]
    alone = alone[alone.k.isin(part.k)]
    np.testing.assert_allclose(part["test/error"], alone["test/error"], rtol=0, atol=1e-12)


def test_without_noise_the_arms_are_one_another():
    naive, noiseless = queries("naive"), queries("gauss", gauss={"b": 0.0})
    pd.testing.assert_frame_equal(naive, noiseless, atol=1e-14)
    halves = queries("thresholdout", thresholdout={"T": 0, "s": 0})
    study = Queries(None, mechanism="thresholdout", seeds=3, seed=100, **SIZES)
    S = Points(np.zeros((3, 50), int), 16)
    mechanism = study.make(S, study.seeds)
    assert mechanism.training.n == mechanism.holdout.n == 25
    assert (halves["test/used"] > 0).all()
    assert (queries("thresholdout_demo", thresholdout={"T": math.inf, "s": 0.1})["test/used"] == 0).all()


def test_a_spent_budget_is_a_refusal():
    found = queries("thresholdout", thresholdout={"T": 0.0, "s": 0.02, "budget": 10}, seeds=2)
    assert found[found.k == 4]["test/error"].notna().all()
    assert found[found.k > 30]["test/error"].isna().all()
    assert (found["test/used"] <= 10).all()
    assert queries("split").k.unique().tolist() == [4, 30]  # 61 parts of 50 points are none


def test_growth_passes_where_the_law_does():
    naive, gauss = (
        rows(
            Growth(None, mechanism=arm, alpha=0.1, b=0.02, seeds=40, seed=100, conditions={"n": [4000, 500]})
        )
        for arm in ("naive", "gauss")
    )
    grid = [round(8 * 2 ** (j / 4)) for j in range(60)]
    for found, b in ((naive, 0.0), (gauss, 0.02)):
        assert set(found["test/k_star"]) <= set(grid)
        mean = found[found.n == 4000]["test/k_star"].mean()
        assert mean == pytest.approx(passage_law(4000, 0.1, b), rel=0.3 if b else 0.15)
    none = Growth(None, mechanism="naive", alpha=0.4, b=0, last=16, seeds=2, conditions={"n": [2000]})
    assert np.isinf(rows(none)["test/k_star"]).all()
    short = Growth(None, mechanism="gauss", alpha=0.1, b=0.02, seeds=1, seed=117, conditions={"n": [500]})
    whole = gauss[(gauss.seed == 117) & (gauss.n == 500)]
    assert rows(short)["test/k_star"].tolist() == whole["test/k_star"].tolist()


def test_selection_reports():
    found = {arm: rows(Select(None, mechanism=arm, seeds=60, seed=100, **FEATURES)) for arm in Select.ARMS}
    for table in found.values():
        assert (table[table.k == 0][["test/training", "test/reported", "test/fresh"]] == 0.5).all().all()
        assert (table["test/gap"] == (table["test/reported"] - table["test/fresh"]).abs()).all()
        assert (table["test/kept"] <= table.k).all()
    none = {arm: table[(table.signal == 0) & (table.k == 20)].mean() for arm, table in found.items()}
    assert none["naive"]["test/reported"] > 0.53
    for arm in ("nonadaptive", "fresh"):
        assert none[arm]["test/reported"] == pytest.approx(0.5, abs=0.02)
    assert none["naive"]["test/fresh"] == pytest.approx(0.5, abs=0.02)
    some = found["thresholdout"]
    assert some[(some.signal == 5) & (some.k == 5)]["test/fresh"].mean() > 0.7
    kept = found["naive"][["test/training", "test/fresh"]]
    pd.testing.assert_frame_equal(kept, found["fresh"][["test/training", "test/fresh"]])


def test_threshold_and_noise_are_in_units_of_a_standard_error():
    study = Select(None, mechanism="thresholdout", seeds=1, **FEATURES)
    mechanism = study._thresholdout(np.asarray, np.asarray, [0])
    assert (mechanism.T, mechanism.s) == pytest.approx((4 / math.sqrt(200), 1 / math.sqrt(200)), abs=1e-15)


def test_columns_select_as_the_law_does():
    law, full = (
        rows(Select(None, mechanism="naive", columns=kind, seeds=60, seed=100, **FEATURES))
        for kind in (False, True)
    )
    for metric in ("test/training", "test/reported", "test/fresh"):
        a, b = (
            table.pivot_table(index="seed", columns=["signal", "k"], values=metric) for table in (law, full)
        )
        error = np.sqrt((a.var() + b.var()) / 60) + 1e-12
        assert ((a.mean() - b.mean()).abs() < 3.5 * error).all()


def test_fresh_at_best_takes_the_reported_maximum():
    table = pd.DataFrame({
        "unit_id": ["a"] * 3 + ["b"] * 3, "arm": ["naive"] * 6, "k": ["0", "10", "20"] * 2,
        "test/reported": [0.5, 0.7, 0.6, 0.5, 0.5, 0.4], "test/fresh": [0.5, 0.51, 0.59, 0.6, 0.4, 0.3],
    })  # fmt: skip
    answer = fresh_at_best(table)
    assert dict(zip(answer["unit"], answer["value"], strict=True)) == {"a": 0.51, "b": 0.6}


@pytest.mark.parametrize(
    ("make", "line"),
    [
        (lambda: queries("naive", ks=[4, 4]), "increasing"),
        (lambda: queries("naive", concentration=0.0), "concentration > 0"),
        (lambda: Queries(None, mechanism="pmw", **{**SIZES, "pmw": {"T": 0, "b0": 0.1}}), "T > 0"),
        (lambda: Growth(None, mechanism="gauss", alpha=0.6, b=0.1), "alpha < 1/2"),
        (lambda: Growth(None, mechanism="gauss", alpha=0.1, b=0.1, noise="cauchy"), "laplace or gaussian"),
        (
            lambda: Select(None, mechanism="thresholdout", **{**FEATURES, "thresholdout": {"T": -1, "s": 1}}),
            "T >= 0",
        ),
        (lambda: Select(None, mechanism="naive", **{**FEATURES, "ks": [0, 61]}), "ks up to d"),
    ],
)
def test_bad_settings_are_refused_in_one_line(make, line):
    with pytest.raises(ValueError, match=line):
        make()


def test_an_unknown_mechanism_is_named():
    with pytest.raises(UserError, match="did you mean naive"):
        Queries(None, mechanism="naiv", **SIZES)


def test_the_analysts_hold_no_sample():
    assert set(vars(SignAnalyst(np.ones((1, 2)) / 2))) == {"P", "evidence"}
