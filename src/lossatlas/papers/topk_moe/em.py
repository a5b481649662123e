"""Eq. 2: generalised EM for R samples at once; the likelihood of no sample ever falls."""

from typing import NamedTuple

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from lossatlas.papers.topk_moe.model import Experts, active_set, check_kept, log_density, log_gate, where

FLOOR, LEAST, RIDGE, LARGEST = 1e-3, 1e-6, 1e-6, 5.0  # of s; of a weight; of the Hessian; of a Newton step
SHRINK, TRIES = 0.3, 6  # of the step where the likelihood falls


class Fit(NamedTuple):
    """Experts, mean log-likelihood, rounds used; and the same after the rounds asked for by `also`."""

    experts: Experts
    log_likelihood: Float[Tensor, " R"]
    rounds: Int[Tensor, " R"]
    earlier: dict[int, Experts]


@torch.no_grad()
def fit(
    x: Float[Tensor, "R n"],
    y: Float[Tensor, "R n"],
    start: Experts,
    K: int,
    most: int = 100,
    gain: float = 1e-9,
    also: tuple[int, ...] = (),
) -> Fit:
    """Maximises the likelihood from a start; each sample stops at a round that gains less than `gain` a point.

    Args:
        x, y: R samples of n points. start: of the same R. K: logits that are kept.
        most: rounds, >= 1. gain: of the mean log-likelihood, >= 0. also: rounds after which the experts are kept, too.

    Raises:
        ValueError: shapes that do not fit, NaN, K, most or gain out of range.
    """
    check_kept(K, start.b0.shape[1])
    if (
        x.ndim != 2
        or x.shape != y.shape
        or len(x) != len(start.b0)
        or not (x.isfinite() & y.isfinite()).all()
    ):
        raise ValueError(
            f"fit needs finite x and y (R, n) and R starts, got {tuple(x.shape)}, {tuple(y.shape)}"
        )
    if most < 1 or not gain >= 0:
        raise ValueError(f"fit needs most >= 1 and gain >= 0, got {most=}, {gain=}")
    now, value = start, log_density(start, x, y, K).mean(1)
    going, rounds = torch.ones(len(x), dtype=torch.bool), torch.zeros(len(x), dtype=torch.int64)
    earlier = {}
    for t in range(1, most + 1):
        rows = going.nonzero()[:, 0]
        part = Experts(*(p[rows] for p in now.parts()))
        new = round_of(x[rows], y[rows], part, K)
        after = log_density(new, x[rows], y[rows], K).mean(1)
        kept = after >= value[rows]  # rounding, or a floor that binds
        new = where(kept, new, part)
        step = torch.where(kept, after - value[rows], 0.0)
        now = Experts(*(old.index_copy(0, rows, p) for old, p in zip(now.parts(), new.parts(), strict=True)))
        value = value.index_copy(0, rows, torch.where(kept, after, value[rows]))
        rounds[rows] = t
        if t in also:
            earlier[t] = now
        going[rows[step < gain]] = False
        if not bool(going.any()):
            break
    for t in also:  # all had stopped before
        earlier.setdefault(t, now)
    return Fit(now, value, rounds, earlier)


def round_of(x: Float[Tensor, "R n"], y: Float[Tensor, "R n"], now: Experts, K: int) -> Experts:
    """One round: responsibilities, experts, then the gate, where that does not lower the likelihood."""
    logits = now.logits(x)
    active = active_set(logits, K)
    log_pi = log_gate(logits, active)
    r = torch.softmax(log_pi + now.log_normal(x, y), dim=-1)
    better = Experts(now.b0, now.b1, *regressed(x, y, r, now))
    return moved_gate(x, y, r, log_pi.exp(), better, K)


def regressed(
    x: Float[Tensor, "R n"], y: Float[Tensor, "R n"], r: Float[Tensor, "R n k"], now: Experts
) -> tuple[Tensor, Tensor, Tensor]:
    """Weighted least squares of each expert: a, c, s. One with next to no weight, or no spread in x, stays."""
    w = r.sum(1)
    safe = w.clamp(min=1e-300)
    mean_x, mean_y = ((r * v[..., None]).sum(1) / safe for v in (x, y))
    dx, dy = (v[..., None] - m[:, None] for v, m in ((x, mean_x), (y, mean_y)))
    spread = (r * dx.square()).sum(1) / safe
    stays = (w / x.shape[1] < LEAST) | (spread < 1e-12)
    a = (r * dx * dy).sum(1) / safe / spread.clamp(min=1e-300)
    c = mean_y - a * mean_x
    rest = (r * (dy - a[:, None] * dx).square()).sum(1) / safe
    s = rest.sqrt().clamp(min=FLOOR)
    old = (now.a, now.c, now.s)
    return tuple(torch.where(stays, before, new) for before, new in zip(old, (a, c, s), strict=True))  # type: ignore[return-value]


def gate_step(
    x: Float[Tensor, "R n"], r: Float[Tensor, "R n k"], pi: Float[Tensor, "R n k"]
) -> tuple[Float[Tensor, "R m2"], Float[Tensor, "R m2"]]:
    """Gradient of sum_n sum_i r_i log pi_i in (b0, b1) of all experts but the last, and its Newton step.

    The active set is held; the Hessian has RIDGE on its diagonal, the step's largest entry is at most LARGEST.
    """
    p, difference = pi[..., :-1], (r - pi)[..., :-1]
    px = p * x[..., None]
    gradient = torch.cat([difference.sum(1), (difference * x[..., None]).sum(1)], dim=1)
    blocks = [
        torch.diag_embed(total) - left.mT @ right
        for total, left, right in (
            (p.sum(1), p, p),
            (px.sum(1), px, p),
            ((px * x[..., None]).sum(1), px, px),
        )
    ]
    H = torch.cat([torch.cat([blocks[0], blocks[1].mT], 2), torch.cat([blocks[1], blocks[2]], 2)], 1)
    H = H + RIDGE * torch.eye(H.shape[-1], dtype=H.dtype)
    step = torch.linalg.solve(H, gradient[..., None])[..., 0]
    return gradient, step / (step.abs().amax(1, keepdim=True) / LARGEST).clamp(min=1)


def moved_gate(
    x: Float[Tensor, "R n"],
    y: Float[Tensor, "R n"],
    r: Float[Tensor, "R n k"],
    pi: Float[Tensor, "R n k"],
    now: Experts,
    K: int,
) -> Experts:
    """The Newton step, shortened per sample until the likelihood at the new active set does not fall; else no step."""
    k = now.b0.shape[1]
    if k == 1:
        return now
    _, step = gate_step(x, r, pi)
    zero = torch.zeros_like(now.b0[:, :1])
    d0, d1 = torch.cat([step[:, : k - 1], zero], 1), torch.cat([step[:, k - 1 :], zero], 1)
    before = log_density(now, x, y, K).mean(1)
    best, found = now, torch.zeros(len(x), dtype=torch.bool)
    size = 1.0
    for _ in range(TRIES + 1):
        tried = Experts(now.b0 + size * d0, now.b1 + size * d1, now.a, now.c, now.s)
        good: Bool[Tensor, " R"] = ~found & (log_density(tried, x, y, K).mean(1) >= before)
        best, found = where(good, tried, best), found | good
        if bool(found.all()):
            break
        size *= SHRINK
    return best
