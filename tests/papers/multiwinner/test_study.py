"""The studies of multiwinner: what their rows are, first passages, pairing, films, the figure."""

import numpy as np
import pytest
import torch

from lossatlas.cells import numpy_stream
from lossatlas.data.ratings import fake_ratings
from lossatlas.errors import UserError
from lossatlas.papers.multiwinner import draw_qualities, make_score, positions_of, select, utilities, weigh
from lossatlas.papers.multiwinner.movies import Movies, predict_ratings
from lossatlas.papers.multiwinner.study import Bias, Samples, Smoothness, Swaps

SIZES = {"m": 10, "k": 4, "scores": ["sntv", "borda", "cc"], "fresh": 300}


def rows(study):
    study.play(torch.arange(len(study.grid)))
    return [
        {**u["condition"], "arm": u.get("arm"), "seed": u["seed"], **u["metrics"]}
        for u in study.unit_metrics()
    ]


def of(found, metric="test/rho", **point):
    return np.array([r[metric] for r in found if all(r[k] == v for k, v in point.items())])


def test_without_bias_the_committee_is_the_latent_one_and_rho_is_at_most_one():
    found = rows(Bias(None, seeds=6, rankings=[30, 301], conditions={"theta": [1.0, 0.4]}, **SIZES))
    for score in ("borda", "cc"):  # sntv has ties, broken anew in each selection
        args = {"score": score, "n": 301, "theta": 1.0}
        assert (of(found, arm="uncon", **args) == of(found, arm="latent", **args)).all()
        args["theta"] = 0.4  # a bias does not touch latent
        assert (of(found, arm="latent", **args) == of(found, arm="latent", **{**args, "theta": 1.0})).all()
    assert (of(found, arm="oracle") == 1).all()
    assert (of(found, score="sntv") <= 1 + 1e-12).all()
    assert (of(found, score="borda") <= 1 + 1e-12).all()
    assert (of(found, score="cc") <= 1.01).all()
    assert (of(found) > 0).all()
    assert (of(found, "test/share", arm="cons") == 0.5).all()
    assert (of(found, "test/share", arm="random_cons") == 0.5).all()
    assert of(found, "test/share", arm="uncon", theta=0.4, score="borda").max() < 0.5
    gain = of(found, arm="cons") - of(found, arm="uncon")
    np.testing.assert_allclose(of(found, "test/gain", arm="cons"), gain, atol=1e-12)
    lost = of(found, arm="latent") - of(found, arm="cons")
    np.testing.assert_allclose(of(found, "test/lost", arm="cons"), lost, atol=1e-12)


def test_a_seed_is_the_same_alone_and_rules_do_not_move_each_other():
    settings = {**SIZES, "rankings": [20], "conditions": {"theta": [0.5]}}
    both = rows(Bias(None, seeds=3, **settings))
    alone = rows(Bias(None, seeds=1, seed=2, rules=["cons"], **settings))
    assert (of(both, arm="cons", seed=2) == of(alone)).all()


def test_rho_by_the_lone_functions():
    study = Bias(None, seeds=2, rankings=[25], conditions={"theta": [0.6]}, **{**SIZES, "scores": ["borda"]})
    found = rows(study)
    for seed in (0, 1):
        w, second = draw_qualities(numpy_stream(seed, "multiwinner/items"), 10)
        draw = {
            name: numpy_stream(seed, f"multiwinner/{name}").standard_normal((n, 10), dtype=np.float32)
            for name, n in (("rankings", 25), ("fresh", 300))
        }
        borda, fresh = make_score("borda", 10, 4), positions_of(utilities(w, draw["fresh"]))
        S = select(positions_of(weigh(utilities(w, draw["rankings"]), second, 0.6)), borda, 4, second)
        best = select(fresh, borda, 4)
        rho = borda.value(fresh, S.tolist()) / borda.value(fresh, best.tolist())
        assert of(found, arm="cons", seed=seed) == pytest.approx([rho], abs=1e-12)


def test_first_passage_is_where_the_curve_passes():
    study = Samples(
        None, seeds=3, thetas=[0.6], last=64, repeats=1, piece=8, **{**SIZES, "scores": ["sntv", "borda"]}
    )
    found = rows(study)
    assert (of(found, "test/extra", theta=1.0) == 0).all()
    assert set(of(found, "test/log2_n").tolist()) <= {1.0, 2, 3, 4, 5, 6, 7}
    assert ((of(found, "test/log2_n") == 7) == (of(found, "test/censored") == 1)).all()
    extra = of(found, "test/log2_n", theta=0.6, arm="cons") - of(found, "test/log2_n", theta=1.0, arm="cons")
    np.testing.assert_array_equal(of(found, "test/extra", theta=0.6, arm="cons"), extra)
    assert (of(found, "test/extra", theta=0.6, arm="latent", score="borda") == 0).all()  # the same rankings
    lone = Samples(None, seeds=1, thetas=[0.6], last=64, repeats=1, piece=8, **{**SIZES, "scores": ["borda"]})
    n = rows(lone)[0]["test/log2_n"]
    (noted,) = lone.extras()["all"].values()
    curve = next(c for c in noted["curves"] if c["theta"] == 1.0 and c["arm"] == "cons")
    passed = [n for n, rho in zip(noted["n"], curve["rho"], strict=True) if rho >= 0.95]
    assert n == np.log2(passed[0])


def test_rankings_in_pieces_are_all_counted():
    study = Samples(None, seeds=2, thetas=[0.6], last=8, piece=3, **{**SIZES, "scores": ["borda"]})
    w, second = study._items([0, 1])
    assert (study._tables([0, 1], "0", 3, w, second).sum(-1) == 3).all()
    assert study._tables([0, 1], "0", 3, w, second).shape == (2, 2, 4, 10, 10)


def test_swaps_lower_the_second_group_step_by_step():
    study = Swaps(None, seeds=3, phi=0.5, sweeps=[0, 2, 5], last=16, **{**SIZES, "scores": ["borda"]})
    w, second = study._items([0, 1, 2])
    none, zero, two, five = study._tables([0, 1, 2], "0", 200, w, second)
    place = np.arange(10)
    mean = [
        (t @ place / 200)[np.broadcast_to(second[:, None], t.shape[:-1])].mean()
        for t in (none, zero, two, five)
    ]
    assert mean[0] == pytest.approx(mean[1], abs=0.3)
    assert mean[1] + 0.5 < mean[2] < mean[3] - 0.5
    found = rows(study)
    assert {r["sweeps"] for r in found} == {"none", 0, 2, 5}
    assert (of(found, "test/extra", sweeps="none") == 0).all()


def test_smoothness_rows_hold_alpha_beside_rho():
    found = rows(
        Smoothness(None, seeds=2, rankings=[20], many=400, conditions={"theta": [0.9, 0.4]}, **SIZES)
    )
    for score in ("sntv", "borda", "cc"):
        for seed in (0, 1):
            mild, strong = (
                of(found, "test/alpha", score=score, theta=t, seed=seed, arm="cons") for t in (0.9, 0.4)
            )
            assert 0 <= strong < mild <= 1
    assert (of(found, "test/alpha", arm="cons") == of(found, "test/alpha", arm="latent")).all()


def test_films():
    settings = {**SIZES, "rankings": [20], "ratings": fake_ratings(), "seeds": 3}
    found = rows(Movies(None, conditions={"group": ["old", "random"], "theta": [1.0, 0.5]}, **settings))
    assert len(found) == 3 * 2 * 2 * 3 * 5
    assert (
        of(found, "test/share", arm="uncon", theta=0.5) <= of(found, "test/share", arm="uncon", theta=1.0)
    ).mean() > 0.8
    with pytest.raises(UserError, match="users"):
        Movies(None, conditions={"group": ["old"], "theta": [1.0]}, **{**settings, "rankings": [2000]})
    with pytest.raises(UserError, match="choose another year"):
        Movies(None, conditions={"group": ["old"], "theta": [1.0]}, before=1900, **settings)


def test_factor_model_finds_low_rank_ratings():
    rng = np.random.default_rng(0)
    whole = 3 + rng.normal(size=(120, 2)) @ rng.normal(size=(2, 40))
    table = np.where(rng.random(whole.shape) < 0.6, whole, np.nan)
    hidden = np.isnan(table)
    off = {rank: (predict_ratings(table, rank, 1e-2, 100) - whole)[hidden].std() for rank in (1, 4)}
    assert off[4] < 0.05 * whole[hidden].std() < 0.3 * off[1]  # rank 2 and the two means


@pytest.mark.parametrize(
    ("make", "line"),
    [
        (lambda: Samples(None, thetas=[], last=100, **SIZES), "power of 2"),
        (lambda: Samples(None, thetas=[], last=64, **SIZES), "cc is not separable"),
        (
            lambda: Swaps(None, phi=0.5, sweeps=[5, 1], last=64, **{**SIZES, "scores": ["borda"]}),
            "increasing",
        ),
        (lambda: predict_ratings(np.full((2, 2), np.nan)), "a rating"),
    ],
)
def test_bad_settings_are_refused_in_one_line(make, line):
    with pytest.raises(ValueError, match=line):
        make()


def test_an_unknown_rule_is_named():
    with pytest.raises(UserError, match="did you mean cons"):
        Bias(None, rankings=[5], rules=["con"], conditions={"theta": [1.0]}, **SIZES)
