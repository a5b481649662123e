"""From data to fitted paths: standardisation and its way back, lambda grids, stratified folds, cross-validation by the
Brier score. Everything is batched: R data sets of one shape, their folds and lambdas are one call of the solver."""

import math
from dataclasses import dataclass

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor
from torch.nn.functional import one_hot, pad

from lossatlas.papers.presto.solver import Problems, evaluate, slopes, solve

PENALTIES = ("l1", "l2")
MIN_RATIO = {
    "l1": 1e-2,
    "l2": 1e-3,
}  # an l2 path is wider: its lambdas act like curvatures, which span decades


@dataclass(frozen=True)
class Penalty:
    """What the path penalises.

    Args:
        kind: "l1" (lambda sum |psi|, the paper's) or "l2" (lambda sum psi^2).
        first: also penalise psi_1 = beta_1, as the paper does; False leaves it free, so that lambda -> inf is the
            proportional-odds fit.

    Raises:
        ValueError: another kind.
    """

    kind: str = "l1"
    first: bool = True

    def __post_init__(self) -> None:
        if self.kind not in PENALTIES:
            raise ValueError(f"Presto needs penalty 'l1' or 'l2', got {self.kind!r}")


@dataclass(frozen=True)
class Path:
    """Fits of L lambdas on G data sets, in the units of the features as given.

    Shapes:
        lambdas, objective, kkt, steps, converged, edge (G, L), see `solver.Fit`; alpha (G, L, K-1);
        psi (G, L, K-1, p): differences of slopes.
    """

    lambdas: Float[Tensor, "G L"]
    alpha: Float[Tensor, "G L k"]
    psi: Float[Tensor, "G L k p"]
    objective: Float[Tensor, "G L"]
    kkt: Float[Tensor, "G L"]
    steps: Int[Tensor, "G L"]
    converged: Bool[Tensor, "G L"]
    edge: Bool[Tensor, "G L"]

    @property
    def beta(self) -> Float[Tensor, "G L k p"]:
        """Slopes of every boundary."""
        return self.psi.cumsum(-2)

    def predict(self, X: Float[Tensor, "G n p"]) -> Float[Tensor, "G L n K"]:
        """Class probabilities as the model gives them: negative where boundaries cross, see `clip_probabilities`."""
        return class_probabilities(self.alpha, self.beta, X[:, None])


def class_probabilities(
    alpha: Float[Tensor, "*b k"], beta: Float[Tensor, "*b k p"], X: Float[Tensor, "*#b n p"]
) -> Float[Tensor, "*b n K"]:
    """P(y = k | x) as differences of the cumulative probabilities, eq. 1; negative where boundaries cross.

    Example:
        >>> class_probabilities(torch.tensor([-1.0, 1.0]), torch.zeros(2, 1), torch.zeros(1, 1))
        tensor([[0.2689, 0.4621, 0.2689]])
    """
    eta = X @ beta.mT + alpha[..., None, :]
    below, above = pad(eta.sigmoid(), (1, 0)), pad((-eta).sigmoid(), (0, 1))
    # the upper half from the other tail, so that a rare class keeps its digits
    low, high = below[..., 2:] - below[..., 1:-1], above[..., :-2] - above[..., 1:-1]
    return torch.cat([below[..., 1:2], torch.where(eta[..., :-1] > 0, high, low), above[..., -2:-1]], -1)


def clip_probabilities(P: Float[Tensor, "*b K"]) -> tuple[Float[Tensor, "*b K"], Bool[Tensor, "*b"]]:
    """Negative probabilities to 0, the rest renormalised; and which rows that touched.

    Example:
        >>> clip_probabilities(torch.tensor([[0.6, -0.2, 0.6]]))
        (tensor([[0.5000, 0.0000, 0.5000]]), tensor([True]))
    """
    kept = P.clamp_min(0)
    return kept / kept.sum(-1, keepdim=True), (P < 0).any(-1)


def brier(P: Float[Tensor, "*b n K"], y: Int[Tensor, "*#b n"]) -> Float[Tensor, "*b n"]:
    """Brier score of every row: sum over classes of (P_k - 1[y = k])^2, in [0, 2]."""
    return (P - one_hot(y, P.shape[-1]).to(P.dtype)).square().sum(-1)


@dataclass(frozen=True)
class _Scaled:
    """Standardised data with a leading column of ones, the null fit, and the way back."""

    X: Tensor
    y: Tensor
    w: Tensor
    mean: Tensor
    scale: Tensor
    null: Tensor  # (G, 1, K-1, q): psi = 0, intercepts at their maximum
    weights: Tensor  # (G, 1, K-1, q): 1 penalised, 0 free, inf held at 0


def _scaled(X: Tensor, y: Tensor, w: Tensor | None, penalty: Penalty) -> _Scaled:
    K = int(y.max()) + 1
    w = torch.ones_like(X[..., 0]) if w is None else w
    w = w / w.sum(1, keepdim=True)
    count = torch.zeros(len(y), K, dtype=X.dtype, device=X.device).scatter_add_(1, y, w)
    if K < 2 or (count <= 0).any():
        g, k = (count <= 0).nonzero()[0].tolist() if K > 1 else (0, 1)
        raise ValueError(
            f"every class 0..{max(K - 1, 1)} needs a row, data set {g} has none of class {k}: merge classes"
        )
    mean = (w[:, None] @ X)[:, 0]
    scale = (w[:, None] @ (X - mean[:, None]).square())[:, 0].sqrt()
    constant = scale <= 1e-10 * (1 + mean.abs())
    scale = torch.where(constant, 1.0, scale)
    Z = torch.where(constant[:, None], 0.0, (X - mean[:, None]) / scale[:, None])
    null = torch.zeros(len(y), 1, K - 1, X.shape[2] + 1, dtype=X.dtype, device=X.device)
    null[:, 0, :, 0] = count.cumsum(1)[:, :-1].logit()
    weights = torch.ones_like(null)
    weights[:, :, 0, 1:] = 1.0 if penalty.first else 0.0
    weights[..., 1:].masked_fill_(constant[:, None, None], torch.inf)
    weights[..., 0] = 0.0
    return _Scaled(pad(Z, (1, 0), value=1.0), y, w, mean, scale, null, weights)


def _start(s: _Scaled, tol: float) -> Tensor:
    """Fit with every penalised coefficient at 0 (lambda = inf)."""
    l1 = torch.where(s.weights > 0, torch.inf, 0.0)
    return solve(Problems(s.X, s.y, s.w, l1, torch.zeros_like(l1)), s.null, tol).theta


def _largest(s: _Scaled, start: Tensor, penalty: Penalty) -> Tensor:
    free = torch.zeros_like(start)
    at = evaluate(start, Problems(s.X, s.y, s.w, free, free))
    size = at.grad if penalty.kind == "l1" else at.hess.diagonal(dim1=-2, dim2=-1).view_as(start)
    top = torch.where((s.weights > 0) & s.weights.isfinite(), size.abs(), 0.0).amax((1, 2, 3))
    return top.clamp_min(1e-12)  # all features constant


def lambda_grid(
    X: Float[Tensor, "G n p"],
    y: Int[Tensor, "G n"],
    n: int,
    ratio: float | None = None,
    penalty: Penalty | None = None,
) -> Float[Tensor, "G L"]:
    """n lambdas, log-spaced down from lambda_max to ratio lambda_max.

    l1: lambda_max is the smallest lambda with psi = 0, max |d loss / d psi| at psi = 0 on standardised features.
    l2 has no such point: the largest curvature there, at which even the best determined slope keeps a third.

    Args:
        n: number of lambdas, >= 1. ratio: in (0, 1]; None: .01 for l1, .001 for l2.
    """
    penalty = penalty or Penalty()
    s = _scaled(X, y, None, penalty)
    top = _largest(s, _start(s, 1e-9), penalty)
    low = math.log10(MIN_RATIO[penalty.kind] if ratio is None else ratio)
    return top[:, None] * torch.logspace(0, low, n, dtype=X.dtype, device=X.device)


def fit_path(
    X: Float[Tensor, "G n p"],
    y: Int[Tensor, "G n"],
    lambdas: Float[Tensor, "G L"],
    w: Float[Tensor, "G n"] | None = None,
    penalty: Penalty | None = None,
    tol: float = 1e-6,
    max_steps: int = 150,
) -> Path:
    """Fit every lambda on every data set; features are standardised for the fit and the coefficients brought back.

    Args:
        X: features. y: classes 0..K-1, each present in every data set. lambdas: penalties >= 0; inf holds the
            penalised coefficients at 0.
        w: row weights >= 0, any scale; None: equal. penalty: see `Penalty`.
        tol: KKT violation to stop at, > 0, in units of the mean loss on standardised features. max_steps: >= 1.

    Raises:
        ValueError: a class without a row of positive weight.

    Example:
        >>> X, y = torch.randn(1, 90, 2, dtype=torch.float64), torch.arange(90)[None] % 3
        >>> fit_path(X, y, torch.tensor([[9.0, 0.0]])).psi[0, 0].abs().max()  # lambda above lambda_max: no slope
        tensor(0., dtype=torch.float64)
    """
    penalty = penalty or Penalty()
    s = _scaled(X, y, w, penalty)
    lambdas = lambdas.to(X.dtype)
    held = (lambdas.isinf()[..., None, None] & (s.weights > 0)) | s.weights.isinf()
    pen = (lambdas.nan_to_num(posinf=0.0)[..., None, None] * s.weights.nan_to_num(posinf=0.0)).masked_fill(
        held, torch.inf
    )
    zero = torch.zeros_like(pen)
    l1, l2 = (
        (pen, zero)
        if penalty.kind == "l1"
        else (zero.masked_fill(held, torch.inf), pen.masked_fill(held, 0.0))
    )
    start = s.null if penalty.first else _start(s, tol)
    fit = solve(Problems(s.X, s.y, s.w, l1, l2), start.expand_as(pen).clone(), tol, max_steps)
    psi = fit.theta[..., 1:] / s.scale[:, None, None]
    shift = (slopes(fit.theta)[..., 1:] * (s.mean / s.scale)[:, None, None]).sum(-1)
    alpha = fit.theta[..., 0] - shift
    return Path(lambdas, alpha, psi, fit.objective, fit.kkt, fit.steps, fit.converged, fit.edge)


def stratified_folds(y: Int[Tensor, "R n"], cv: int, seeds: Int[Tensor, " R"]) -> Int[Tensor, "R n"]:
    """Fold 0..cv-1 of every row, each class dealt out evenly; data set r is shuffled by seeds[r] alone."""
    gens = [torch.Generator().manual_seed(int(s)) for s in seeds]
    noise = torch.stack([torch.rand(y.shape[1], generator=g, dtype=torch.float64) for g in gens])
    order = (y.cpu() + noise).argsort(1)
    deal = (torch.arange(y.shape[1]) % cv).expand_as(order)
    return torch.empty_like(order).scatter_(1, order, deal).to(y.device)


@dataclass(frozen=True)
class Choice:
    """Outcome of the cross-validation.

    Shapes:
        lambdas, score (R, L): grid and held-out Brier score; best (R,): chosen column; used (R,): folds with a fit.
    """

    lambdas: Float[Tensor, "R L"]
    score: Float[Tensor, "R L"]
    best: Int[Tensor, " R"]
    used: Int[Tensor, " R"]

    @property
    def lambda_(self) -> Float[Tensor, "R 1"]:
        """The chosen lambda of every data set."""
        return self.lambdas.gather(1, self.best[:, None])


def cross_validate(
    X: Float[Tensor, "R n p"],
    y: Int[Tensor, "R n"],
    lambdas: Float[Tensor, "R L"],
    folds: Int[Tensor, "R n"],
    penalty: Penalty | None = None,
    tol: float = 1e-6,
    max_steps: int = 150,
) -> Choice:
    """Held-out Brier score of every lambda, pooled over the folds; the largest lambda among the minimisers wins.

    A fold whose training rows miss a class has no fit (an intercept would be infinite) and is left out of the score.

    Args:
        folds: fold of every row, 0..cv-1, see `stratified_folds`. The rest as in `fit_path`.

    Raises:
        ValueError: a data set in which no fold can be fitted.
    """
    cv, K = int(folds.max()) + 1, int(y.max()) + 1
    train = folds[:, None] != torch.arange(cv, device=y.device)[:, None]  # (R, cv, n)
    seen = (one_hot(y, K)[:, None] * train[..., None]).sum(2).gt(0).all(-1)
    if not seen.any(1).all():
        r = int((~seen.any(1)).nonzero()[0, 0])
        raise ValueError(
            f"cross-validation needs a fold whose training rows have every class, data set {r} has none:"
            " pass a lambda_, take more folds or merge classes"
        )
    r, f = seen.nonzero(as_tuple=True)
    mask = train[r, f]
    order = mask.int().argsort(
        dim=1, descending=True, stable=True
    )  # training rows first, then the held-out ones
    inside, outside = int(mask.sum(1).max()), int((~mask).sum(1).max())
    fit_rows, held = order[:, :inside], order[:, -outside:]
    rows = r[:, None]
    w = mask.gather(1, fit_rows).to(X.dtype)
    path = fit_path(X[rows, fit_rows], y[rows, fit_rows], lambdas[r], w, penalty, tol, max_steps)
    P, _ = clip_probabilities(path.predict(X[rows, held]))
    out = (~mask).gather(1, held).to(X.dtype)
    loss = (brier(P, y[rows, held][:, None]) * out[:, None]).sum(-1)
    total = torch.zeros_like(lambdas).index_add_(0, r, loss)
    score = total / torch.zeros_like(total[:, 0]).index_add_(0, r, out.sum(1))[:, None]
    tied = score <= score.amin(1, keepdim=True) * (1 + 1e-12)
    best = torch.where(tied, lambdas, -1.0).argmax(1)
    return Choice(lambdas, score, best, seen.sum(1))
