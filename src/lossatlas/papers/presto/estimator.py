"""PRESTO and its logistic baselines as scikit-learn estimators."""

import math
import warnings
from collections.abc import Sequence
from typing import Any, Self

import numpy as np
import torch
from jaxtyping import Float, Int
from sklearn.base import BaseEstimator, ClassifierMixin, clone
from sklearn.exceptions import ConvergenceWarning
from sklearn.linear_model import LogisticRegression
from sklearn.utils.multiclass import check_classification_targets
from sklearn.utils.validation import check_is_fitted, validate_data
from torch import Tensor

from lossatlas.papers.presto.path import (
    Choice,
    Path,
    Penalty,
    class_probabilities,
    clip_probabilities,
    cross_validate,
    fit_path,
    lambda_grid,
    stratified_folds,
)


class Presto(ClassifierMixin, BaseEstimator):
    """Ordinal classifier with one slope vector per boundary, neighbours shrunk together (eq. 1 and 2).

    Whole numbers as labels are ordered by value: the sorted distinct values are the classes, whatever they are, and
    the rare end is the last; other labels need `classes`. Constant features get slope 0 and a warning; K = 2 is plain
    penalised logistic regression and says so. Two baselines of the paper are limits: proportional odds is
    ``Presto(lambda_=math.inf, penalise_first=False)``, squared differences ``Presto(penalty="l2")``.

    Args:
        lambda_: penalty >= 0 (inf allowed) in units of the mean loss on standardised features; None: chosen by
            cross-validation on the Brier score of the class probabilities, the largest lambda among the minimisers.
        n_lambdas: length of the path, >= 1. lambda_min_ratio: its end over lambda_max, in (0, 1]; None: .01, l2 .001.
        cv: folds, >= 2, stratified by class; a fold whose training rows miss a class is left out of the score, with a
            warning. random_state: seed of the shuffle into folds, int >= 0.
        penalty: "l1" or "l2". penalise_first: penalise psi_1 = beta_1, too, as the paper does.
        classes: the labels in their order, for labels that are not numbers.
        tol: KKT violation to stop at, > 0. max_steps: proximal steps of a fit, >= 1.

    Attributes:
        classes_, alpha_ (K-1,), beta_ (K-1, p), psi_ (K-1, p) in the units of X, best_lambda_, lambdas_ and scores_
        (the path and its held-out Brier scores; empty without cross-validation), kkt_, n_steps_, n_clipped_: rows
        of the last call of predict_proba where boundaries crossed: probabilities clipped at 0 and renormalised.

    Raises:
        ValueError: NaN, infinite or sparse X, one class, labels outside `classes`, parameters out of range.

    Example:
        >>> X = np.random.default_rng(0).normal(size=(200, 3))
        >>> Presto(lambda_=0.01).fit(X, (X[:, 0] > 0).astype(int) + (X[:, 0] > 1)).predict_proba(X).shape
        (200, 3)
    """

    def __init__(
        self,
        lambda_: float | None = None,
        n_lambdas: int = 20,
        cv: int = 5,
        penalty: str = "l1",
        penalise_first: bool = True,
        lambda_min_ratio: float | None = None,
        classes: Sequence[Any] | None = None,
        tol: float = 1e-6,
        max_steps: int = 150,
        random_state: int = 0,
    ) -> None:
        self.lambda_, self.n_lambdas, self.cv = lambda_, n_lambdas, cv
        self.penalty, self.penalise_first, self.lambda_min_ratio = penalty, penalise_first, lambda_min_ratio
        self.classes, self.tol, self.max_steps, self.random_state = classes, tol, max_steps, random_state

    def _check(self) -> None:
        ratio = 0.5 if self.lambda_min_ratio is None else self.lambda_min_ratio
        if self.lambda_ is not None and not self.lambda_ >= 0:
            raise ValueError(f"Presto needs lambda_ >= 0 or None, got {self.lambda_}")
        if self.n_lambdas < 1 or self.cv < 2 or self.max_steps < 1 or not 0 < ratio <= 1 or not self.tol > 0:
            given = {k: getattr(self, k) for k in ("n_lambdas", "cv", "max_steps", "lambda_min_ratio", "tol")}
            raise ValueError(
                f"Presto needs n_lambdas, max_steps >= 1, cv >= 2, ratio in (0, 1], tol > 0, got {given}"
            )

    def fit(self, X: Any, y: Any) -> Self:
        """Fit on X (n, p) and ordered labels y (n,)."""
        self._check()
        X, y = validate_data(self, X, y, dtype=np.float64, ensure_all_finite=False)
        _refuse_nan(X, "Presto")
        code, self.classes_ = _encode(y, self.classes)
        if len(self.classes_) == 2:
            warnings.warn(
                "K = 2: Presto is plain penalised logistic regression, no step to borrow from", stacklevel=2
            )
        constant = np.ptp(X, 0) == 0
        if constant.any():
            warnings.warn(
                f"constant features get slope 0: columns {np.flatnonzero(constant).tolist()}", stacklevel=2
            )
        rows, codes = (torch.from_numpy(np.ascontiguousarray(t))[None] for t in (X, code))
        path, choice = fit_batch(self, rows, codes, torch.tensor([self.random_state]))
        self.alpha_, self.psi_, self.beta_ = (t[0, 0].numpy() for t in (path.alpha, path.psi, path.beta))
        self.best_lambda_, self.kkt_, self.n_steps_ = map(float, (path.lambdas, path.kkt, path.steps))
        self.lambdas_, self.scores_ = (
            (np.empty(0), np.empty(0))
            if choice is None
            else (choice.lambdas[0].numpy(), choice.score[0].numpy())
        )
        self.n_clipped_ = 0
        self._warn(path, choice)
        return self

    def _warn(self, path: Path, choice: Choice | None) -> None:
        if choice is not None and int(choice.used) < self.cv:
            left = self.cv - int(choice.used)
            warnings.warn(
                f"{left} of {self.cv} folds miss a class and are left out of the score", stacklevel=3
            )
        if not path.converged.all():
            state = f"KKT violation {self.kkt_:.1e} after {self.n_steps_:.0f} steps"
            warnings.warn(
                f"{state}: raise lambda_ (separable classes?) or max_steps", ConvergenceWarning, stacklevel=3
            )

    def predict_proba(self, X: Any) -> np.ndarray:
        """Class probabilities (n, K), clipped at 0 and renormalised where boundaries cross; see n_clipped_."""
        check_is_fitted(self)
        X = validate_data(self, X, dtype=np.float64, ensure_all_finite=False, reset=False)
        _refuse_nan(X, "Presto")
        parts = (torch.from_numpy(np.ascontiguousarray(t)) for t in (self.alpha_, self.beta_, X))
        P, clipped = clip_probabilities(class_probabilities(*parts))
        self.n_clipped_ = int(clipped.sum())
        return P.numpy()

    def predict(self, X: Any) -> np.ndarray:
        """The most probable class of every row."""
        P = self.predict_proba(X)
        return self.classes_[P.argmax(1)]

    def __sklearn_is_fitted__(self) -> bool:
        """The parameter lambda_ ends like a fitted attribute, so say it."""
        return hasattr(self, "alpha_")


def fit_batch(
    method: Presto, X: Float[Tensor, "R n p"], y: Int[Tensor, "R n"], seeds: Int[Tensor, " R"]
) -> tuple[Path, Choice | None]:
    """`Presto.fit` on R data sets at once: the numbers of R fits with random_state = seed.

    Args:
        method: its parameters; what it has fitted is neither used nor changed.
        X, y: float64 features, classes 0..K-1. seeds: of the shuffles into folds.

    Returns:
        The fits, L = 1, and the cross-validation that chose their lambda (None where `method.lambda_` is given).
    """
    penalty, limits = Penalty(method.penalty, method.penalise_first), (method.tol, method.max_steps)
    if method.lambda_ is not None:
        given = torch.full((len(y), 1), float(method.lambda_), dtype=X.dtype)
        return fit_path(X, y, given, None, penalty, *limits), None
    grid = lambda_grid(X, y, method.n_lambdas, method.lambda_min_ratio, penalty)
    choice = cross_validate(X, y, grid, stratified_folds(y, method.cv, seeds), penalty, *limits)
    return fit_path(X, y, choice.lambda_, None, penalty, *limits), choice


class RareLogistic(ClassifierMixin, BaseEstimator):
    """Logistic regression of the last class against the rest: the baselines logistic and logistic_l1.

    Unpenalised it is scikit-learn's, with its iterations capped: a handful of rare cases separate, and then the
    probabilities at the cap stand.

    Args:
        model: estimator of the two classes, None: unpenalised logistic regression; a `Presto` is l1-penalised there.
        max_iter: cap of the unpenalised fit, >= 1.

    Attributes:
        classes_ [0, 1]: 1 is the last of the ordered numbers in y. model_: the fitted estimator.

    Raises:
        ValueError: NaN, infinite or sparse X, one class.

    Example:
        >>> X = np.random.default_rng(0).normal(size=(200, 3))
        >>> RareLogistic().fit(X, (X[:, 0] > 0).astype(int) + (X[:, 0] > 1)).predict_proba(X).shape
        (200, 2)
    """

    def __init__(self, model: BaseEstimator | None = None, max_iter: int = 100) -> None:
        self.model, self.max_iter = model, max_iter

    def fit(self, X: Any, y: Any) -> Self:
        """Fit on X (n, p) and ordered numbers y (n,); the largest is the rare class."""
        X, y = validate_data(self, X, y, dtype=np.float64, ensure_all_finite=False)
        _refuse_nan(X, "RareLogistic")
        code, order = _encode(y, None)
        self.classes_ = np.array([0, 1])
        model: Any = (
            LogisticRegression(C=math.inf, max_iter=self.max_iter)
            if self.model is None
            else clone(self.model)
        )
        with warnings.catch_warnings():
            warnings.filterwarnings("ignore", message="K = 2")
            if self.model is None:
                warnings.simplefilter("ignore", ConvergenceWarning)
            self.model_ = model.fit(X, (code == len(order) - 1).astype(np.int64))
        return self

    def predict_proba(self, X: Any) -> np.ndarray:
        """Probabilities (n, 2) of the rest and of the rare class."""
        check_is_fitted(self)
        return self.model_.predict_proba(validate_data(self, X, dtype=np.float64, reset=False))

    def predict(self, X: Any) -> np.ndarray:
        """1 where the rare class has the larger probability, else 0."""
        P = self.predict_proba(X)
        return self.classes_[P.argmax(1)]


def _refuse_nan(X: np.ndarray, name: str) -> None:
    bad = ~np.isfinite(X)
    if bad.any():
        cols = np.flatnonzero(bad.any(0)).tolist()
        raise ValueError(
            f"{name} needs finite X, got {int(bad.sum())} NaN or inf in columns {cols}: impute or drop them"
        )


def _encode(y: np.ndarray, classes: Sequence[Any] | None) -> tuple[np.ndarray, np.ndarray]:
    """Labels to 0..K-1 in their order, and that order."""
    check_classification_targets(y)
    values = np.unique(y)
    if classes is None and values.dtype.kind not in "biuf":
        raise ValueError(
            f"labels {values[:4].tolist()} have no order of their own: pass classes=[first, ..., rarest]"
        )
    order = values if classes is None else np.asarray(classes)
    if unknown := sorted(set(values.tolist()) - set(order.tolist())):
        raise ValueError(f"labels {unknown[:4]} are not among classes={order.tolist()}")
    if len(values) < len(order):
        raise ValueError(
            f"classes without a row: {sorted(set(order.tolist()) - set(values.tolist()))}: leave them out"
        )
    if len(order) < 2:
        raise ValueError(f"Presto needs at least 2 classes, got 1 class: {values.tolist()}")
    rank = np.argsort(order, kind="stable")
    return rank[np.searchsorted(order[rank], y)].astype(np.int64), order
