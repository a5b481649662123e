"""Proximal Newton steps on many cumulative-logit problems at once (eq. 1 to 3 of the room's head), float64.

A *group* g is one data set with row weights, a *problem* (g, l) is one penalty on it. Parameters are
theta[g, l, k, :] = (alpha_k, psi_k1 .. psi_kp), k = 0 .. K-2. Why Newton: the rare boundary's curvature is of the
order of the rare frequency, so that plain accelerated steps need thousands of passes over the data for a KKT
violation of 1e-6; here the curvature is exact, a pass costs twice a gradient, about five are needed, and the l1 part
is solved in `quadratic`. The domain is open: every class probability > 0 on the rows in use. Where the infimum lies
on its edge (small lambda, rare class) Newton is blocked, and a log barrier on the gaps, lowered from 1e-2 to 1e-6,
leads along the edge instead: then the multipliers of the constraints stand in the KKT conditions and the objective
is within 1e-6 (K - 2) of the infimum.
"""

from dataclasses import dataclass, replace

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor
from torch.nn.functional import logsigmoid

from lossatlas.papers.presto.quadratic import minimise_quadratic

ROW_BLOCK = (
    2_000_000  # entries of the outer products x x' held at once, so that wide data do not fill the memory
)
BARRIER = (1e-2, 1e-6)  # first and last weight of the barrier; a factor 10 between stages


def slopes(theta: Float[Tensor, "*b k q"]) -> Float[Tensor, "*b k q"]:
    """Parameters (alpha, psi) to (alpha, beta): beta_k = psi_1 + .. + psi_k; intercepts stay.

    Example:
        >>> slopes(torch.tensor([[0.0, 1.0], [3.0, 0.5]]))  # second column: psi 1, .5 -> beta 1, 1.5
        tensor([[0.0000, 1.0000],
                [3.0000, 1.5000]])
    """
    return torch.cat([theta[..., :1], theta[..., 1:].cumsum(-2)], -1)


def _pull_back(t: Tensor, k_dim: int, q_dim: int) -> Tensor:
    """Derivatives by (alpha, beta) to derivatives by (alpha, psi): d psi_k = sum over l >= k of d beta_l."""
    head, tail = t.narrow(q_dim, 0, 1), t.narrow(q_dim, 1, t.shape[q_dim] - 1)
    return torch.cat([head, tail.flip(k_dim).cumsum(k_dim).flip(k_dim)], q_dim)


@dataclass(frozen=True)
class Problems:
    """Weighted data of G groups and the penalties of L problems on each.

    Shapes:
        X (G, n, q), first column 1; y (G, n) in 0..K-1; w (G, n) >= 0, sums to 1 over n, 0 = row left out;
        l1 and l2 (G, L, K-1, q) >= 0: the penalty is sum l1 |theta| + l2 theta^2; l1 = inf holds a coefficient at 0.
    """

    X: Float[Tensor, "G n q"]
    y: Int[Tensor, "G n"]
    w: Float[Tensor, "G n"]
    l1: Float[Tensor, "G L k q"]
    l2: Float[Tensor, "G L k q"]

    def take(self, g: Int[Tensor, " H"], cols: Int[Tensor, "H M"]) -> "Problems":
        """The problems (g[h], cols[h, m]) as H groups of M problems."""
        rows = g[:, None]
        l1, l2 = self.l1[rows, cols], self.l2[rows, cols]
        return replace(self, X=self.X[g], y=self.y[g], w=self.w[g], l1=l1, l2=l2)


@dataclass
class Local:
    """Value, gradient, Hessian of the smooth part (loss + l2 + barrier) in theta; value is inf outside the domain."""

    value: Float[Tensor, "G L"]
    barrier: Float[Tensor, "G L"]
    grad: Float[Tensor, "G L k q"]
    hess: Float[Tensor, "G L m m"]
    gap: Float[Tensor, "G L j n"]


def _masks(pb: Problems, K: int) -> tuple[Tensor, Tensor, Tensor]:
    """Row weights by the boundary below and above: last row of class k, either side of it, interior classes."""
    m = torch.zeros(pb.y.shape[0], K, pb.y.shape[1], dtype=pb.X.dtype, device=pb.X.device)
    m.scatter_(1, pb.y[:, None], pb.w[:, None])
    m = m[:, None]
    return m[:, :, :-1], m[:, :, :-1] + m[:, :, 1:], m[:, :, 1:-1]


def logits(theta: Float[Tensor, "G L k q"], X: Float[Tensor, "G n q"]) -> Float[Tensor, "G L k n"]:
    """Cumulative logits eta_k = alpha_k + beta_k . x, eq. 1."""
    G, L, k, q = theta.shape
    return (slopes(theta).reshape(G, L * k, q) @ X.mT).view(G, L, k, -1)


def evaluate(theta: Float[Tensor, "G L k q"], pb: Problems, mu: Float[Tensor, "G L"] | None = None) -> Local:
    """Mean negative log-likelihood with l2, its gradient and Hessian, closed form, all problems at once.

    The barrier mu sum_i w_i sum_k -log(1 - e^-gap_ik) is the gap's part of the likelihood, given to every row.

    With eta_K = inf and eta_0 = -inf, -log P(y = k) = log(1 + e^-eta_k) + log(1 + e^eta_{k-1}) - log(1 - e^-gap), gap =
    eta_k - eta_{k-1}: no difference of two sigmoids is taken, so rare classes keep all digits.
    """
    (G, L, k, q), n = theta.shape, pb.X.shape[1]
    own, near, inner = _masks(pb, k + 1)
    eta = logits(theta, pb.X)
    gap = eta[:, :, 1:] - eta[:, :, :-1]
    u = torch.expm1(gap).reciprocal()  # e^-gap / (1 - e^-gap)
    barrier = torch.zeros_like(theta[..., 0, 0])
    if mu is not None and (mu > 0).any():
        barrier = mu * (pb.w[:, None, None] * torch.log1p(u)).sum((2, 3))
        inner = inner + mu[..., None, None] * pb.w[:, None, None]
    iu = inner * u
    sig = eta.sigmoid()
    value = -(near * logsigmoid(-eta) + own * eta).sum((2, 3)) + (inner * torch.log1p(u)).sum((2, 3))
    r = near * sig - own
    r[:, :, 1:] -= iu
    r[:, :, :-1] += iu
    cross = iu.addcmul_(iu, u)  # inner u (1 + u)
    curve = near * sig.mul_(1 - sig)
    curve[:, :, 1:] += cross
    curve[:, :, :-1] += cross
    grad = _pull_back((r.view(G, L * k, n) @ pb.X).view(G, L, k, q), 2, 3)
    hess = _hessian(torch.cat([curve, cross], 2), pb.X, k)
    inside = ((gap > 0) | (pb.w == 0)[:, None, None]).flatten(2).all(-1)
    value = value + (pb.l2 * theta * theta).sum((2, 3))
    value = torch.where(inside & value.isfinite(), value, torch.inf)
    hess.diagonal(dim1=-2, dim2=-1).add_(2 * pb.l2.flatten(2))
    return Local(value, barrier, grad + 2 * pb.l2 * theta, hess, gap)


def _hessian(weight: Float[Tensor, "G L s n"], X: Float[Tensor, "G n q"], k: int) -> Float[Tensor, "G L m m"]:
    """Block tridiagonal Hessian in (alpha, beta), pulled back to (alpha, psi)."""
    G, L, s, n = weight.shape
    q = X.shape[-1]
    gram = weight.new_zeros(G, L * s, q * q)
    step = max(64, ROW_BLOCK // (G * q * q))
    for lo in range(0, n, step):  # over blocks of rows, for memory only
        x = X[:, lo : lo + step]
        xx = (x[..., :, None] * x[..., None, :]).flatten(2)
        gram.baddbmm_(weight[..., lo : lo + step].reshape(G, L * s, -1), xx)
    gram = gram.view(G, L, s, q, q)
    H = weight.new_zeros(G, L, k, q, k, q)
    at = torch.arange(k, device=X.device)
    H[:, :, at, :, at, :] = gram[:, :, :k].movedim(2, 0)
    H[:, :, at[1:], :, at[:-1], :] = -gram[:, :, k:].movedim(2, 0)
    H[:, :, at[:-1], :, at[1:], :] = -gram[:, :, k:].movedim(2, 0)
    return _pull_back(_pull_back(H, 2, 3), 4, 5).reshape(G, L, k * q, k * q)


def kkt_violation(
    theta: Float[Tensor, "*b k q"], grad: Float[Tensor, "*b k q"], l1: Float[Tensor, "*b k q"]
) -> Float[Tensor, "*b"]:
    """Largest violation of the optimality conditions: |grad| <= l1 at 0, grad = -l1 sign(theta) elsewhere."""
    off = (grad.abs() - l1).clamp_min(0)
    on = (grad + l1.nan_to_num(posinf=0.0) * theta.sign()).abs()
    return torch.where(theta == 0, off, on).flatten(-2).amax(-1)


def penalty(theta: Float[Tensor, "*b k q"], l1: Float[Tensor, "*b k q"]) -> Float[Tensor, "*b"]:
    """sum l1 |theta|; a coefficient held at 0 by l1 = inf costs nothing."""
    return (l1.nan_to_num(posinf=0.0) * theta.abs()).sum((-2, -1))


def longest_step(
    gap: Float[Tensor, "G L j n"], d: Float[Tensor, "G L k q"], pb: Problems
) -> Float[Tensor, "G L"]:
    """Largest s at which theta + s d still has every class probability > 0 on the rows in use."""
    move = logits(d, pb.X).diff(dim=2)
    closing = torch.where((move < 0) & (pb.w > 0)[:, None, None], gap / -move, torch.inf)
    return closing.flatten(2).amin(-1) if closing.shape[2] else gap.new_full(gap.shape[:2], torch.inf)


@dataclass
class Fit:
    """Solution of every problem.

    Shapes:
        theta (G, L, K-1, q); objective (without the barrier), kkt, steps (G, L); converged (G, L): kkt < tol was
        reached; edge (G, L): the solution lies on the edge of the domain, kkt counts the constraints' multipliers.
    """

    theta: Float[Tensor, "G L k q"]
    objective: Float[Tensor, "G L"]
    kkt: Float[Tensor, "G L"]
    steps: Int[Tensor, "G L"]
    converged: Bool[Tensor, "G L"]
    edge: Bool[Tensor, "G L"]


class Solver:
    """Proximal Newton with an Armijo line search on every problem; a finished problem leaves the batch.

    Args:
        pb: the problems.
        theta: feasible start (G, L, K-1, q): every class probability > 0 on the rows in use.
        tol: stop a problem when its KKT violation falls below, > 0.
        max_steps: proximal steps (passes over the data) allowed for each problem, >= 1.

    Example:
        >>> solver = Solver(pb, theta)  # doctest: +SKIP
        >>> while solver.step(): pass  # doctest: +SKIP
    """

    def __init__(self, pb: Problems, theta: Tensor, tol: float = 1e-6, max_steps: int = 150) -> None:
        self.pb, self.tol, self.max_steps, self.start = pb, tol, max_steps, theta
        inf = torch.full(theta.shape[:2], torch.inf, dtype=theta.dtype, device=theta.device)
        no = torch.zeros_like(inf, dtype=torch.bool)
        self.fit = Fit(theta.clone(), inf.clone(), inf.clone(), no.long(), no.clone(), no.clone())
        self.active = ~no
        self.best = inf  # value to beat: objective with barrier; inf accepts any feasible trial
        self.trial, self.d = theta.clone(), torch.zeros_like(theta)
        self.s, self.decrease, self.mu = (torch.zeros_like(inf) for _ in range(3))
        self._pack()

    def _pack(self) -> None:
        """Gather the unfinished problems; groups with fewer of them are filled up with finished ones."""
        self.g = self.active.any(1).nonzero()[:, 0]
        act = self.active[self.g]
        width = int(act.sum(1).max()) if len(self.g) else 0
        self.cols = torch.argsort(act.int(), dim=1, descending=True, stable=True)[:, :width]
        self.packed = self.pb.take(self.g, self.cols)

    def step(self) -> bool:
        """One proximal step of every unfinished problem; False when none is left."""
        if not self.active.any():
            return False
        at, pb, fit = (self.g[:, None], self.cols), self.packed, self.fit
        live, trial = self.active[at], self.trial[at]
        here = evaluate(trial, pb, self.mu[at])
        F = here.value + penalty(trial, pb.l1)
        slack = 1e-14 * F.abs()  # differences below the rounding of the sum over n rows decide nothing
        bar = self.best[at] + 1e-4 * self.s[at] * self.decrease[at] + slack
        ok = live & F.isfinite() & (bar >= F)
        theta = torch.where(ok[..., None, None], trial, fit.theta[at])
        fit.theta[at] = theta
        self.best[at] = torch.where(ok, F, self.best[at])
        fit.objective[at] = torch.where(ok, F - here.barrier, fit.objective[at])
        fit.kkt[at] = torch.where(ok, kkt_violation(theta, here.grad, pb.l1), fit.kkt[at])
        fit.steps[at] += live.long()
        self._direct(at, ok, theta, here, pb)
        self._stages(at, live)
        if int(self.active.sum()) < 0.8 * self.cols.numel():
            self._pack()
        return bool(self.active.any())

    def _direct(
        self, at: tuple[Tensor, Tensor], ok: Tensor, theta: Tensor, here: Local, pb: Problems
    ) -> None:
        """A new direction where the trial was accepted, half the step where it was not."""
        d = self.d[at]
        if ok.any():
            flat = (theta.flatten(2), here.grad.flatten(2), here.hess, pb.l1.flatten(2))
            new = minimise_quadratic(*(t[ok] for t in flat), tol=0.01 * self.fit.kkt[at][ok])
            d[ok] = new.view(-1, *theta.shape[2:])
        drop = (here.grad * d).sum((2, 3)) + penalty(theta + d, pb.l1) - penalty(theta, pb.l1)
        room = 0.95 * longest_step(here.gap, d, pb)
        self.decrease[at] = torch.where(ok, drop, self.decrease[at])
        s = torch.where(ok, room.clamp_max(1.0), 0.5 * self.s[at])
        self.s[at], self.d[at] = s, d
        self.trial[at] = theta + s[..., None, None] * d

    def _stages(self, at: tuple[Tensor, Tensor], live: Tensor) -> None:
        """Finish problems, send the blocked ones to the barrier, lower the barrier where its stage is solved."""
        fit, mu, kkt = self.fit, self.mu[at], self.fit.kkt[at]
        last = (mu == 0) | (mu <= 1.01 * BARRIER[1])
        done = live & last & (kkt < self.tol)
        blocked = live & ~done & (mu == 0) & (self.s[at] < 1e-3)
        lower = live & ~last & (kkt < torch.maximum(0.1 * mu, mu.new_tensor(self.tol)))
        self.mu[at] = torch.where(blocked, BARRIER[0], torch.where(lower, 0.1 * mu, mu))
        restart = torch.where(blocked[..., None, None], self.start[at], fit.theta[at])
        self.trial[at] = torch.where((blocked | lower)[..., None, None], restart, self.trial[at])
        self.best[at] = torch.where(blocked | lower, torch.inf, self.best[at])
        fit.converged[at] |= done
        fit.edge[at] |= blocked
        stuck = ~(blocked | lower) & (self.s[at] < 1e-12)  # rounding stops all progress
        self.active[at] &= ~(done | stuck | (fit.steps[at] >= self.max_steps))


def solve(pb: Problems, theta: Float[Tensor, "G L k q"], tol: float = 1e-6, max_steps: int = 150) -> Fit:
    """Run `Solver` to its end; see there."""
    solver = Solver(pb, theta, tol, max_steps)
    while solver.step():
        pass
    return solver.fit
