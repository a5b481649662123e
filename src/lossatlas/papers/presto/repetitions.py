"""Repetitions of the study: every arm on the same draws, all repetitions of a setting in a few batched solves."""

import math
from collections.abc import Mapping, Sequence
from typing import Any

import torch
from jaxtyping import Float, Int
from sklearn.base import BaseEstimator
from torch import Tensor

from lossatlas.papers.presto.estimator import Presto, RareLogistic
from lossatlas.papers.presto.metrics import calibration_error, keep_largest, n_moves, rare_mse, support_f1
from lossatlas.papers.presto.path import (
    Choice,
    Path,
    Penalty,
    clip_probabilities,
    cross_validate,
    fit_path,
    lambda_grid,
    stratified_folds,
)
from lossatlas.papers.presto.simulate import simulate

STACK = 10  # repetitions solved together: more save little and fill the cache
Rows = list[dict[str, Any]]


def paper_arms() -> dict[str, BaseEstimator]:
    """The arms of the paper as unfitted estimators; an experiment file lists the same."""
    return {
        "presto": Presto(),
        "prop_odds": Presto(lambda_=math.inf, penalise_first=False),
        "logistic": RareLogistic(),
        "presto_l2": Presto(penalty="l2"),
        "logistic_l1": RareLogistic(l1=True),
    }


def fit_batch(
    arm: Presto,
    X: Float[Tensor, "R n p"],
    y: Int[Tensor, "R n"],
    seeds: Int[Tensor, " R"],
    by: Int[Tensor, "R n"] | None = None,
) -> tuple[Path, Choice | None]:
    """`Presto.fit` on R data sets at once: the same numbers as R fits with random_state = seed.

    Args:
        arm: parameters. seeds: shuffles of the folds. by: labels that stratify the folds, None: y.
    """
    penalty, choice = Penalty(arm.penalty, arm.penalise_first), None
    if arm.lambda_ is None:
        grid = lambda_grid(X, y, arm.n_lambdas, arm.lambda_min_ratio, penalty)
        folds = stratified_folds(y if by is None else by, arm.cv, seeds)
        choice = cross_validate(X, y, grid, folds, penalty, arm.tol, arm.max_steps)
        lam = choice.lambda_
    else:
        lam = torch.full((len(y), 1), float(arm.lambda_), dtype=X.dtype)
    return fit_path(X, y, lam, None, penalty, arm.tol, arm.max_steps), choice


def run_repetitions(
    simulation: str,
    setting: int,
    seeds: Sequence[int],
    arms: Mapping[str, BaseEstimator] | None = None,
    n: int = 2500,
    p: int = 10,
) -> Rows:
    """Repetitions of one simulation and intercept setting, one row per seed and arm.

    Each row has simulation, setting, seed, arm, metrics (mse, log_mse, n_rare, redraws; lambda_, at_end, kkt, steps,
    edge where the batched solver fitted; n_moves and f1 for models with several boundaries) and psi, nested lists.
    presto_l2's f1 is that of its largest differences, as many as presto kept in the same draw: with presto_l2 among the
    arms, presto is fitted for the number even where it is not one of them.

    Args:
        simulation: A_half, A_third or B. setting: 1, 2, 3. seeds: one per repetition. arms: `Presto` and `RareLogistic`
            by name; None: all of the paper. n, p: rows, features.

    Example:
        >>> run_repetitions("B", 1, [0], {"presto": Presto()})[0]["metrics"]["n_rare"] > 0  # doctest: +SKIP
        True
    """
    rows: Rows = []
    for lo in range(0, len(seeds), STACK):  # over stacks, for memory only
        rows += _stack(
            simulation, setting, list(seeds[lo : lo + STACK]), paper_arms() if arms is None else arms, n, p
        )
    return rows


def run_repetition(simulation: str, setting: int, seed: int, **more: Any) -> Rows:
    """One repetition, one row per arm; see `run_repetitions`."""
    return run_repetitions(simulation, setting, [seed], **more)


def _stack(
    simulation: str, setting: int, seeds: list[int], arms: Mapping[str, BaseEstimator], n: int, p: int
) -> Rows:
    draws = [simulate(simulation, setting, s, n, p) for s in seeds]
    X, y, prob, truth = (torch.stack([getattr(d, a) for d in draws]) for a in ("X", "y", "prob", "psi"))
    key, rows, moves = torch.tensor(seeds), [], None
    if any(isinstance(a, Presto) and a.penalty == "l2" for a in arms.values()):
        moves = n_moves(fit_batch(_l1_arm(arms), X, y, key)[0].psi[:, 0])
    for name, arm in arms.items():
        P, parts = _rare_probability(arm, X, y, X, key)
        found = dict(parts, mse=rare_mse(P, prob[..., -1]))
        psi = found.pop("psi", None)
        if psi is not None and psi.shape[1] > 1:
            found |= {"n_moves": n_moves(psi), "f1": support_f1(psi, truth)}
            if isinstance(arm, Presto) and arm.penalty == "l2" and moves is not None:
                found["f1"] = support_f1(keep_largest(psi, moves), truth)
        for r, (seed, draw) in enumerate(zip(seeds, draws, strict=True)):
            metrics = {k: float(v[r]) for k, v in found.items()}
            metrics |= {"log_mse": math.log(metrics["mse"]), "n_rare": float((draw.y == draw.y.max()).sum())}
            head = {"simulation": simulation, "setting": setting, "seed": seed, "arm": name}
            extra = {"psi": None if psi is None else psi[r].tolist()}
            rows.append(head | {"metrics": metrics | {"redraws": float(draw.redraws)}} | extra)
    return rows


def _l1_arm(arms: Mapping[str, BaseEstimator]) -> Presto:
    """The l1 model whose number of non-zeros presto_l2 is thresholded to."""
    presto = arms.get("presto")
    return presto if isinstance(presto, Presto) else Presto()


def _rare_probability(
    arm: BaseEstimator, X: Tensor, y: Tensor, at: Tensor, seeds: Tensor
) -> tuple[Float[Tensor, "R m"], dict[str, Tensor]]:
    """Fit on (X, y) and give the last class's probability at other rows, with what the solver reports."""
    if isinstance(arm, RareLogistic):
        if not arm.l1:
            P = [
                arm.fit(a.numpy(), b.numpy()).predict_proba(c.numpy())[:, -1]
                for a, b, c in zip(X, y, at, strict=True)
            ]
            return torch.stack([torch.from_numpy(v) for v in P]), {}
        model, target = Presto(**(arm.presto or {})), (y == y.max()).long()
    elif isinstance(arm, Presto):
        model, target = arm, y
    else:
        raise TypeError(f"an arm is a Presto or a RareLogistic, got {type(arm).__name__}")
    path, choice = fit_batch(model, X, target, seeds, by=y)
    P, clipped = clip_probabilities(path.predict(at)[:, 0])
    parts = {k: getattr(path, k)[:, 0] for k in ("kkt", "steps", "converged", "edge", "psi")}
    parts |= {"lambda_": path.lambdas[:, 0], "n_clipped": clipped.sum(-1)}
    if choice is not None:  # at_end: the best lambda is the smallest of the path
        parts["at_end"] = choice.best == choice.lambdas.shape[1] - 1
    return P[..., -1], parts


def run_splits(
    X: Float[Tensor, "n p"],
    y: Int[Tensor, " n"],
    seeds: Sequence[int],
    arms: Mapping[str, BaseEstimator] | None = None,
    test: float = 0.1,
) -> Rows:
    """Random splits of a real table (soup, wine), one row per seed and arm: calibration of the rare class.

    Metrics: calibration (the paper's squared error, see `metrics.calibration_error`), ece (absolute), brier of the rare
    class, n_test, n_train (for the Nadeau-Bengio correction), n_rare (test rows), and what the solver reports.

    Args:
        X, y: the table, the rare class last. seeds: one per split, all arms on the same rows. test: share of test rows.
    """
    rows: Rows = []
    for seed in seeds:  # a split is one batch already: its folds times its lambdas
        order = torch.randperm(len(y), generator=torch.Generator().manual_seed(seed))
        cut = round(test * len(y))
        out, into = order[:cut], order[cut:]
        rare = y[out] == y.max()
        for name, arm in (paper_arms() if arms is None else arms).items():
            P, parts = _rare_probability(
                arm, X[into][None], y[into][None], X[out][None], torch.tensor([seed])
            )
            parts.pop("psi", None)
            metrics = {k: float(v[0]) for k, v in parts.items()}
            metrics |= {
                "calibration": calibration_error(P[0], rare),
                "ece": calibration_error(P[0], rare, power=1),
                "brier": float((P[0] - rare.double()).square().mean()),
            } | {"n_test": float(cut), "n_train": float(len(y) - cut), "n_rare": float(rare.sum())}
            rows.append({"seed": seed, "arm": name, "metrics": metrics})
    return rows
