"""Presto and RareLogistic as scikit-learn estimators: the common battery, labels, choice of lambda, bad input."""

import math
import warnings

import numpy as np
import pytest
import torch
from sklearn.base import clone
from sklearn.exceptions import ConvergenceWarning
from sklearn.linear_model import LogisticRegression
from sklearn.utils.estimator_checks import check_estimator

from lossatlas.papers.presto import Presto, RareLogistic
from lossatlas.papers.presto.path import cross_validate, fit_path, lambda_grid, stratified_folds

NAMES = {
    "check_classifiers_classes": "names as labels have no order: they need classes=[...], which is refused in words"
}


def problem(n=300, p=3, seed=0):
    """Four classes by the first feature, the last one rare."""
    rng = np.random.default_rng(seed)
    X = rng.normal(size=(n, p))
    u = X[:, 0] + rng.logistic(size=n)
    return X, (u[:, None] > np.array([0.0, 1.0, 3.0])).sum(1)


@pytest.mark.filterwarnings("ignore")
def test_check_estimator():
    ran = check_estimator(Presto(lambda_=0.05), expected_failed_checks=NAMES, on_skip=None)
    assert sum(check["status"] == "passed" for check in ran) > 40
    assert {check["check_name"] for check in ran if check["status"] == "xfail"} == set(NAMES)


def test_parameters_and_clone():
    model = Presto(lambda_=0.3, penalty="l2", classes=["a", "b"], random_state=7)
    again = clone(model)
    assert again.get_params() == model.get_params()
    assert again.set_params(lambda_=0.1).lambda_ == 0.1
    assert not hasattr(clone(model), "alpha_")
    assert clone(RareLogistic(Presto(cv=4))).get_params()["model__cv"] == 4


def test_attributes_and_probabilities():
    X, y = problem()
    model = Presto(n_lambdas=4, cv=3).fit(X, y)
    assert (model.alpha_.shape, model.beta_.shape, model.psi_.shape) == ((3,), (3, 3), (3, 3))
    np.testing.assert_allclose(np.cumsum(model.psi_, 0), model.beta_, atol=1e-15)
    P = model.predict_proba(X)
    np.testing.assert_allclose(P.sum(1), 1, atol=1e-12)
    assert (P > 0).all()
    cum = 1 / (1 + np.exp(-(X @ model.beta_.T + model.alpha_)))
    np.testing.assert_allclose(np.cumsum(P, 1)[:, :3], cum, atol=1e-12)
    assert (model.predict(X) == P.argmax(1)).all()
    assert model.kkt_ < 1e-6
    assert model.n_steps_ >= 1


def test_lambda_has_the_least_brier_score_by_hand():
    X, y = problem()
    model = Presto(n_lambdas=5, cv=3, random_state=4).fit(X, y)
    fold = stratified_folds(torch.from_numpy(y)[None], 3, torch.tensor([4]))[0].numpy()
    scores = []
    for lam in model.lambdas_:
        total = 0.0
        for f in range(3):
            P = Presto(lambda_=lam).fit(X[fold != f], y[fold != f]).predict_proba(X[fold == f])
            total += ((P - np.eye(4)[y[fold == f]]) ** 2).sum()
        scores.append(total / len(y))
    np.testing.assert_allclose(model.scores_, scores, rtol=1e-6)
    assert model.best_lambda_ == model.lambdas_[np.argmin(scores)]
    whole = Presto(lambda_=model.best_lambda_).fit(X, y)
    np.testing.assert_allclose(model.psi_, whole.psi_, atol=1e-9)


def test_the_largest_lambda_among_the_minimisers():
    """A constant feature gives every lambda one fit, hence one score."""
    y = torch.arange(60)[None] % 3
    grid = torch.tensor([[0.1, 0.9, 0.5]], dtype=torch.float64)
    choice = cross_validate(
        torch.ones(1, 60, 1, dtype=torch.float64), y, grid, stratified_folds(y, 3, torch.tensor([0]))
    )
    assert choice.score.unique().numel() == 1
    assert float(choice.lambda_) == 0.9


def test_folds_deal_every_class_evenly():
    y = torch.cat([torch.zeros(50), torch.ones(7), torch.full((3,), 2)]).long().expand(2, 60)
    folds = stratified_folds(y, 3, torch.tensor([0, 1]))
    for k in range(3):
        counts = torch.stack([((folds == f) & (y == k)).sum(1) for f in range(3)], 1)
        assert (counts.amax(1) - counts.amin(1) <= 1).all()
    assert (folds[0] != folds[1]).any()
    assert torch.equal(folds[1], stratified_folds(y[1:], 3, torch.tensor([1]))[0])


def test_limits_of_the_penalty():
    X, y = problem()
    frequencies = np.bincount(y) / len(y)
    assert np.allclose(Presto(lambda_=math.inf).fit(X, y).predict_proba(X), frequencies, atol=1e-9)
    odds = Presto(lambda_=math.inf, penalise_first=False).fit(X, y)
    assert (odds.psi_[1:] == 0).all()
    assert (odds.psi_[0] != 0).all()


@pytest.mark.parametrize(
    "labels", [[-2.0, 0, 3, 40], [7, 8, 9, 10], [False, True]], ids=["floats", "from 7", "bool"]
)
@pytest.mark.filterwarnings("ignore:K = 2")
def test_numbers_as_labels_are_ordered_by_value(labels):
    X, y = problem()
    order = np.array(labels)
    y = np.minimum(y, len(order) - 1)
    model, plain = Presto(lambda_=0.02).fit(X, order[y]), Presto(lambda_=0.02).fit(X, y)
    np.testing.assert_array_equal(model.classes_, order)
    np.testing.assert_array_equal(model.psi_, plain.psi_)
    np.testing.assert_array_equal(model.predict(X), order[plain.predict(X)])


def test_names_as_labels_need_their_order():
    X, y = problem()
    names = np.array(["view", "click", "cart", "buy"])  # not their alphabetic order
    with pytest.raises(ValueError, match=r"no order of their own: pass classes=\[first"):
        Presto(lambda_=0.02).fit(X, names[y])
    model = Presto(lambda_=0.02, classes=names).fit(X, names[y])
    np.testing.assert_array_equal(model.psi_, Presto(lambda_=0.02).fit(X, y).psi_)
    assert set(model.predict(X)) <= set(names)
    with pytest.raises(ValueError, match=r"labels \['buy'\] are not among classes"):
        Presto(lambda_=0.02, classes=names[:3]).fit(X, names[y])
    with pytest.raises(ValueError, match=r"classes without a row: \['buy'\]"):
        Presto(lambda_=0.02, classes=names).fit(X[y < 3], names[y[y < 3]])


def test_two_classes_are_logistic_regression_and_say_so():
    X, y = problem()
    y = (y > 0).astype(int)
    with pytest.warns(UserWarning, match="K = 2: Presto is plain penalised logistic regression"):
        model = Presto(lambda_=0.0, tol=1e-10).fit(X, y)
    ref = LogisticRegression(C=math.inf, tol=1e-12, solver="newton-cholesky").fit(X, y)
    np.testing.assert_allclose(model.predict_proba(X), ref.predict_proba(X), atol=1e-6)


def test_constant_features_get_slope_0_and_a_warning():
    X, y = problem()
    wide = np.column_stack([X[:, :1], np.full(len(X), 7.0), X[:, 1:]])
    with pytest.warns(UserWarning, match=r"constant features get slope 0: columns \[1\]"):
        model = Presto(lambda_=0.0).fit(wide, y)
    assert (model.beta_[:, 1] == 0).all()
    np.testing.assert_allclose(model.beta_[:, [0, 2, 3]], Presto(lambda_=0.0).fit(X, y).beta_, atol=1e-9)


def test_a_fold_without_a_class_is_left_out_and_said():
    X, y = problem()
    X, y = np.vstack([X[y < 3], X[y == 3][:1]]), np.append(y[y < 3], 3)  # one rare row
    with pytest.warns(UserWarning, match="1 of 3 folds miss a class and are left out"):
        model = Presto(n_lambdas=3, cv=3).fit(X, y)
    assert np.isfinite(model.scores_).all()
    pair, rows = (
        np.array([0, 0, 0, 1, 2]),
        np.arange(10.0).reshape(5, 2),
    )  # each fold lacks a class in training
    folds = torch.tensor([[0, 1, 0, 0, 1]])
    with pytest.raises(
        ValueError, match="needs a fold whose training rows have every class, data set 0 has none"
    ):
        cross_validate(
            torch.from_numpy(rows)[None], torch.from_numpy(pair)[None], torch.ones(1, 2).double(), folds
        )


@pytest.mark.parametrize("bad", [np.nan, np.inf])
@pytest.mark.parametrize("model", [Presto(lambda_=0.1), RareLogistic()], ids=["presto", "logistic"])
def test_nan_names_its_columns(model, bad):
    X, y = problem()
    fitted = clone(model).fit(X, y)
    X[3, 1] = bad
    with pytest.raises(ValueError, match=r"needs finite X, got 1 NaN or inf in columns \[1\]: impute"):
        model.fit(X, y)
    with pytest.raises(ValueError, match=r"NaN|infinity"):
        fitted.predict_proba(X)


@pytest.mark.parametrize(
    ("given", "says"),
    [
        ({"lambda_": -1.0}, "lambda_ >= 0 or None, got -1.0"),
        ({"lambda_": math.nan}, "lambda_ >= 0 or None, got nan"),
        ({"n_lambdas": 0}, "n_lambdas, max_steps >= 1"),
        ({"cv": 1}, "cv >= 2"),
        ({"lambda_min_ratio": 0.0}, r"ratio in \(0, 1\]"),
        ({"tol": 0.0}, "tol > 0"),
        ({"penalty": "l3"}, "'l1' or 'l2', got 'l3'"),
    ],
)
def test_parameters_out_of_range(given, says):
    with pytest.raises(ValueError, match=says):
        Presto(**given).fit(*problem())


def test_one_class_and_labels_that_are_no_classes():
    X, _ = problem()
    with pytest.raises(ValueError, match="Unknown label type: continuous"):
        Presto(lambda_=0.1).fit(X, X[:, 0])
    with pytest.raises(ValueError, match="at least 2 classes, got 1 class"):
        Presto(lambda_=0.1).fit(X, np.zeros(len(X)))


def test_a_fit_that_does_not_converge_warns():
    X, y = problem()
    with pytest.warns(ConvergenceWarning, match=r"KKT violation .* after 1 steps"):
        Presto(lambda_=0.0, max_steps=1).fit(X, y)


def test_crossing_boundaries_are_clipped_and_counted():
    X, y = problem()
    model = Presto(lambda_=0.0).fit(X, y)
    model.beta_[0], model.beta_[1] = [5.0, 0, 0], [0.0, 0, 0]
    P = model.predict_proba(X)
    crossed = 5 * X[:, 0] + model.alpha_[0] > model.alpha_[1]
    assert (P[crossed, 1] == 0).all()
    np.testing.assert_allclose(P.sum(1), 1, atol=1e-12)
    assert (P >= 0).all()
    assert model.n_clipped_ >= crossed.sum() > 0


def test_rare_logistic_is_scikit_learns_and_keeps_a_separated_fit():
    X, y = problem()
    model = RareLogistic().fit(X, y)
    ref = LogisticRegression(C=math.inf).fit(X, y == 3)
    np.testing.assert_array_equal(model.predict_proba(X), ref.predict_proba(X))
    np.testing.assert_array_equal(model.predict(X), ref.predict(X).astype(int))
    apart = np.where(X[:, 0] > 2, 3, np.minimum(y, 2))
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        P = RareLogistic(max_iter=5).fit(X, apart).predict_proba(X)
    assert np.isfinite(P).all()


def test_rare_logistic_with_a_penalty_is_presto_of_two_classes():
    X, y = problem()
    model = RareLogistic(Presto(lambda_=0.01)).fit(X, y)
    path = fit_path(torch.from_numpy(X)[None], torch.from_numpy(y == 3).long()[None], torch.tensor([[0.01]]))
    np.testing.assert_allclose(
        model.predict_proba(X)[:, 1], path.predict(torch.from_numpy(X)[None])[0, 0, :, 1], atol=1e-9
    )
    top = float(lambda_grid(torch.from_numpy(X)[None], torch.from_numpy(y == 3).long()[None], 1))
    assert (RareLogistic(Presto(lambda_=1.01 * top)).fit(X, y).model_.psi_ == 0).all()
