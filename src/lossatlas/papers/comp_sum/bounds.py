"""The H-consistency bound of the comp-sum losses, checked without training: eq. 2 of the room's head.

Everything is conditional on x: q is the distribution of y there, h are the scores. For H = all functions the
conditional regrets already contain the minimisability gaps (R - R* + M is the mean of C(h) - inf C over x),
so `zero_one_regret <= gamma_tau(surrogate_regret)` for every pair (q, h) is the bound with M included.
"""

import math

import torch
from jaxtyping import Float
from torch import Tensor

from lossatlas.papers.comp_sum.losses import phi

# ratios count where Gamma is below this: where both sides are 1 the bound is attained and says nothing
COUNTED = 0.99
ROUNDING = 1e-12  # relative to the conditional risk; two risks of size C are subtracted


def check_tau_n(tau: float, n: int) -> None:
    """Refuse a tau below 0 or fewer than two classes."""
    if not 0 <= tau < math.inf:
        raise ValueError(f"the bound needs a finite tau >= 0, got {tau=}: choose one of the comp-sum family")
    if n < 2:
        raise ValueError(f"the bound needs n >= 2 classes, got {n=}: give the number of classes")


def _logcosh(x: Tensor) -> Tensor:
    small = x.clamp(
        max=1.0
    )  # both formulas see only arguments at which they and their gradients are accurate
    return torch.where(
        x < 1, torch.log1p(2 * torch.sinh(small / 2) ** 2), x + torch.log1p(torch.exp(-2 * x)) - math.log(2)
    )


def t_tau(b: Float[Tensor, "..."], tau: float, n: int) -> Float[Tensor, "..."]:
    """T_tau(b), eq. 3: the least surrogate regret that a zero-one regret of b can come with.

    With a = atanh b and s = 1 / (2 - tau) the bracket's power is exp(logcosh(s a) / s - logcosh(a)), which
    loses no digits at b near 0 or 1. Near tau = 1 it is a quotient of small numbers, good to 1e-15 / |tau - 1|.

    Args:
        b: zero-one regret in [0, 1].
        tau: member of the family, >= 0.
        n: number of classes, >= 2 (used for tau > 1).

    Shapes:
        any -> the same.

    Raises:
        ValueError: b, tau or n out of range.

    Example:
        >>> t_tau(torch.tensor([0.0, 1.0], dtype=torch.float64), tau=1.0, n=2)  # up to log 2
        tensor([0.0000, 0.6931], dtype=torch.float64)
    """
    check_tau_n(tau, n)
    if not bool(((b >= 0) & (b <= 1)).all()):
        raise ValueError("T_tau needs zero-one regrets b in [0, 1]: clip them or look for NaN")
    return _t_tau(b, tau, n)


def _t_tau(b: Tensor, tau: float, n: int) -> Tensor:
    if tau >= 2:
        return b / ((tau - 1) * n ** (tau - 1))
    # atanh is 18.7 at the last float64 below 1; 80 stands for infinity, exp(-80) being nothing
    a = torch.where(b < 1, torch.atanh(torch.where(b < 1, b, 0.0)), 80.0)
    if tau == 1:
        return a * torch.tanh(a) - _logcosh(a)
    s = 1 / (2 - tau)
    power = torch.expm1(_logcosh(s * a) / s - _logcosh(a))
    return (2.0 ** (1 - tau) if tau < 1 else float(n) ** (1 - tau)) * power / (tau - 1)


def gamma_bound(t: Float[Tensor, "..."], tau: float, n: int) -> Float[Tensor, "..."]:
    """The paper's closed upper bound of Gamma_tau: a square root below tau = 2, linear from there on.

    Args:
        t: surrogate regret, >= 0.
        tau: member of the family, >= 0.
        n: number of classes, >= 2.

    Raises:
        ValueError: tau or n out of range.
    """
    check_tau_n(tau, n)
    if tau >= 2:
        return (tau - 1) * n ** (tau - 1) * t
    return torch.sqrt((2**tau * (2 - tau) if tau < 1 else 2 * n ** (tau - 1)) * t)


def gamma_tau(t: Float[Tensor, "..."], tau: float, n: int) -> Float[Tensor, "..."]:
    """Gamma_tau = inverse of T_tau on [0, T_tau(1)], 1 beyond: the most zero-one regret that t can come with.

    Bisection in [0, `gamma_bound`] down to 2^-50 of that bracket, all elements at once. Not differentiable; a
    t below 0 (rounding) counts as 0.

    Args:
        t: surrogate regret.
        tau: member of the family, >= 0.
        n: number of classes, >= 2.

    Shapes:
        any -> the same, in [0, 1].

    Raises:
        ValueError: NaN in t; tau or n out of range.

    Example:
        >>> gamma_tau(torch.tensor([0.2, 9.0], dtype=torch.float64), tau=2.0, n=3)  # 3 t, at most 1
        tensor([0.6000, 1.0000], dtype=torch.float64)
    """
    check_tau_n(tau, n)
    if bool(t.isnan().any()):
        raise ValueError("Gamma_tau needs surrogate regrets that are numbers, got NaN: look at the scores")
    with torch.no_grad():
        t = t.clamp(min=0)
        high = gamma_bound(t, tau, n).clamp(max=1)
        if tau >= 2:
            return high
        width, low = high, torch.zeros_like(high)
        for _ in range(50):
            width = width / 2
            low = torch.where(_t_tau(low + width, tau, n) <= t, low + width, low)
        return torch.where(t >= _t_tau(torch.ones_like(t), tau, n), 1.0, low + width / 2)


def risk(q: Float[Tensor, "m n"], h: Float[Tensor, "m n"], tau: float) -> Float[Tensor, " m"]:
    """Conditional surrogate risk C_tau(h) = sum_k q_k l_tau(h, k), without the continuation of `CompSumLoss`.

    Args:
        q: distributions of y, rows sum to 1.
        h: scores; for tau < 1 finite up to gaps of 700 / (1 - tau) in float64.
        tau: member of the family, >= 0.
    """
    return (q * phi(-torch.log_softmax(h, dim=1), tau)).sum(1)


def best_risk(q: Float[Tensor, "m n"], tau: float) -> Float[Tensor, " m"]:
    """C*_tau(q), the least conditional surrogate risk over all functions; the entropy of q at tau = 1.

    Below tau = 2 the scores log q / (2 - tau) attain it, from there on only scores that run to infinity do.

    Args:
        q: distributions of y, rows sum to 1.
        tau: member of the family, >= 0.

    Example:
        >>> best_risk(torch.tensor([[0.5, 0.5]]), tau=1.0)
        tensor([0.6931])
    """
    if tau >= 2:
        return (1 - q.amax(1)) / (tau - 1)
    if tau == 1:
        return torch.special.entr(q).sum(1)
    s, log_q = 1 / (2 - tau), torch.log(q.clamp(min=torch.finfo(q.dtype).tiny))
    return torch.expm1((2 - tau) * torch.logsumexp(s * log_q, dim=1)) / (1 - tau)


def surrogate_regret(q: Float[Tensor, "m n"], h: Float[Tensor, "m n"], tau: float) -> Float[Tensor, " m"]:
    """C_tau(h) - C*_tau(q) >= 0; arguments as in `risk`."""
    return risk(q, h, tau) - best_risk(q, tau)


def zero_one_regret(q: Float[Tensor, "m n"], h: Float[Tensor, "m n"]) -> Float[Tensor, " m"]:
    """max q - q_k, k the class of the largest score; equal scores are decided for the least likely of them.

    Args:
        q: distributions of y, rows sum to 1.
        h: scores.

    Example:
        >>> zero_one_regret(torch.tensor([[0.75, 0.25]]), torch.zeros(1, 2))
        tensor([0.5000])
    """
    return q.amax(1) - torch.where(h == h.amax(1, keepdim=True), q, math.inf).amin(1)


def minimizability_gap(
    q: Float[Tensor, "m n"], weight: Float[Tensor, " m"], best_in_class: float, tau: float
) -> float:
    """M_tau(H) = R*_tau(H) - E_x[inf_h C_tau(h)] on a finite domain of m points, for H complete.

    Args:
        q: distribution of y at every point.
        weight: probability of every point, sums to 1.
        best_in_class: R*_tau(H), the least surrogate risk over H.
        tau: member of the family, >= 0.
    """
    return best_in_class - float((weight * best_risk(q, tau)).sum())


def two_class_tie(b: Float[Tensor, " m"], n: int) -> tuple[Float[Tensor, "m n"], Float[Tensor, "m n"]]:
    """The pair that attains the bound for tau <= 1: q = ((1+b)/2, (1-b)/2, 0, ..), two equal scores, the rest
    out.

    Args:
        b: zero-one regrets in [0, 1].
        n: number of classes, >= 2.

    Shapes:
        b (m,) -> q (m, n), h (m, n).

    Raises:
        ValueError: n out of range.
    """
    check_tau_n(1.0, n)
    q = torch.cat([(1 + b)[:, None], (1 - b)[:, None], b.new_zeros(len(b), n - 2)], dim=1) / 2
    h = b.new_full((len(b), n), -200.0)  # exp(-200) is nothing beside 1, and exp(200) * 0 still 0
    h[:, :2] = 0
    return q, h
