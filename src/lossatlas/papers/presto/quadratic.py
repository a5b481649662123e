"""min over d of g.d + d'Hd / 2 + sum t |x + d| for many small dense problems: accelerated proximal steps find the
support, a linear solve on it gives the exact minimiser; t = 0 is not penalised, t = inf holds x + d = 0."""

import torch
from jaxtyping import Float
from torch import Tensor

ROUNDS, STEPS = 8, 20  # accelerated steps between two polishes
POLISHES = 8  # solves on a shrinking support


def minimise_quadratic(
    x: Float[Tensor, "N m"],
    g: Float[Tensor, "N m"],
    H: Float[Tensor, "N m m"],
    t: Float[Tensor, "N m"],
    tol: Float[Tensor, " N"],
) -> Float[Tensor, "N m"]:
    """Direction d of a proximal Newton step.

    Args:
        x: current point. g, H: gradient and positive semidefinite Hessian there. t: l1 weights in [0, inf].
        tol: wanted KKT violation of the quadratic problem; the best point found in 8 rounds is returned.

    Shapes:
        x, g, t (N, m); H (N, m, m); tol (N,) -> d (N, m), never worse than d = 0.
    """
    if not ((t > 0) & t.isfinite()).any():  # smooth: one solve
        return _on_support(x, g, H, torch.zeros_like(t), torch.isfinite(t))[0]
    scale = H.diagonal(dim1=1, dim2=2).clamp_min(1e-300).rsqrt()
    A = H * scale[:, :, None] * scale[:, None, :]
    b, T, z0 = g * scale, t * scale, x / scale
    lip = (A @ A).abs().sum(-1).amax(-1).sqrt()[:, None]  # >= the largest eigenvalue
    best, left = z0.clone(), torch.arange(len(x), device=x.device)
    for _ in range(ROUNDS):
        a = (z0[left], b[left], A[left], T[left])
        z = _accelerated(best[left], *a, lip[left])
        z = _polish(z, *a)
        best[left] = z
        left = left[_violation(z, *a, scale[left]) > tol[left]]
        if not len(left):
            break
    return (best - z0) * scale


def _polish(z: Tensor, z0: Tensor, b: Tensor, A: Tensor, T: Tensor) -> Tensor:
    """Solve on the support and drop what crosses 0 until nothing does; the value never rises.

    The solve may overshoot: then the best of the whole step, of the whole step with the crossers put to 0, and of the
    step to the first crossing is taken, and the next solve is on the smaller support.
    """
    for _ in range(POLISHES):
        d, fine = _on_support(z0, b, A, z.sign() * T.nan_to_num(posinf=0.0), (z != 0) | (T == 0))
        full = torch.where(fine[:, None], z0 + d, z)
        cross = (full * z < 0) & (T > 0)
        reach = torch.where(cross, z / (z - full), 2.0)
        a = reach.amin(1, keepdim=True)
        first = torch.where(cross & (reach <= a), 0.0, z + a.clamp_max(1.0) * (full - z))
        options = torch.stack([z, full, torch.where(cross, 0.0, full), first])
        values = torch.stack([_value(o, z0, b, A, T) for o in options])
        z = options.gather(0, values.argmin(0)[None, :, None].expand_as(options[:1]))[0]
        if not cross.any():
            break
    return z


def _value(z: Tensor, z0: Tensor, b: Tensor, A: Tensor, T: Tensor) -> Tensor:
    e = z - z0
    return (e * (b + 0.5 * _times(A, e))).sum(-1) + (T.nan_to_num(posinf=0.0) * z.abs()).sum(-1)


def _violation(z: Tensor, z0: Tensor, b: Tensor, A: Tensor, T: Tensor, scale: Tensor) -> Tensor:
    """KKT violation in the units of the original coordinates."""
    grad = b + _times(A, z - z0)
    off = (grad.abs() - T).clamp_min(0)
    on = (grad + T.nan_to_num(posinf=0.0) * z.sign()).abs()
    return (torch.where(z == 0, off, on) / scale).amax(-1)


def _times(A: Tensor, v: Tensor) -> Tensor:
    return torch.bmm(A, v[..., None])[..., 0]


def _accelerated(z: Tensor, z0: Tensor, b: Tensor, A: Tensor, T: Tensor, lip: Tensor) -> Tensor:
    """FISTA with the gradient restart of every problem on its own."""
    y, theta, cut = z, torch.ones_like(lip), T / lip
    shift = b - _times(A, z0)
    for _ in range(STEPS):
        v = y - (_times(A, y) + shift) / lip
        new = v.sign() * (v.abs() - cut).clamp_min(0)
        uphill = ((y - new) * (new - z)).sum(-1, keepdim=True) > 0
        nxt = torch.where(uphill, 1.0, 0.5 * (1 + (1 + 4 * theta * theta).sqrt()))
        y = new + torch.where(uphill, 0.0, (theta - 1) / nxt) * (new - z)
        z, theta = new, nxt
    return z


def _on_support(x: Tensor, g: Tensor, H: Tensor, push: Tensor, support: Tensor) -> tuple[Tensor, Tensor]:
    """Exact minimiser with the signs fixed (push = t sign) on the support and x + d = 0 off it; False where H fails."""
    away = torch.where(support, 0.0, -x)
    on = support.to(H.dtype)
    rhs = -(g + push + _times(H, away)) * on
    M = H * on[:, :, None] * on[:, None, :]
    diag = M.diagonal(dim1=1, dim2=2)
    diag.mul_(1 + 1e-12).add_(1 - on)
    chol, info = torch.linalg.cholesky_ex(M)
    d = torch.cholesky_solve(rhs[..., None], chol)[..., 0]
    fine = (info == 0) & d.isfinite().all(-1)
    return torch.where(fine[:, None], torch.where(support, d, away), 0.0), fine
