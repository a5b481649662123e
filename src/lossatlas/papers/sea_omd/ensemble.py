"""Eq. 5: an ensemble of optimistic descents with constant rates, weighed by an optimistic exponential rule.

Base learner i of N = ceil(log2(T) / 2) + 2 has eta_i = D / (2 G sqrt T) 2^(i-1), at most 1 / (8 L). With kappa = 2 L,

    l_{s,i}   = <g_s, x_{s,i}> + kappa |x_{s,i} - x_{s-1,i}|^2
    m_{t+1,i} = <g_t, x_{t+1,i}> + kappa |x_{t+1,i} - x_{t,i}|^2,   the hint
    p_{t+1,i} ~ exp(-eps_t (sum_{s<=t} l_{s,i} + m_{t+1,i})),   eps_t = sqrt(2 log N) / sqrt(G^2 D^2 + (D^2 / 4) V_t).

All base learners see the one gradient at x_t = sum_i p_{t,i} x_{t,i}.
"""

import math

import torch
from jaxtyping import Float
from torch import Tensor

from lossatlas.papers.sea_omd.learners import OptimisticDescent, Project, _positive


def base_rates(D: float, G: float, T: int, L: float = 0.0) -> Float[Tensor, " N"]:
    """eta_1 .. eta_N, each twice the one before.

    Example:
        >>> len(base_rates(2.0, 1.0, T=4096))
        8
    """
    _positive(D=D, G=G, T=T)
    N = math.ceil(0.5 * math.log2(T)) + 2
    rates = D / (2 * G * math.sqrt(T)) * 2.0 ** torch.arange(N, dtype=torch.float64)
    return rates.clamp(max=1 / (8 * L)) if L > 0 else rates


class Ensemble:
    """The learner of eq. 5 for many runs at once.

    Args:
        start: (..., d) centre of X.
        rates: (N,) constant rates of the base learners.
        project: onto X.
        D, G: diameter of X, bound of the gradients.
        L: smoothness of the mean losses, >= 0; kappa = 2 L.
        hint: whether the base learners have M_{t+1} = g_t and the weights m_{t+1}, else 0.
    """

    def __init__(
        self,
        start: Tensor,
        rates: Tensor,
        project: Project,
        D: float,
        G: float,
        L: float = 0.0,
        hint: bool = True,
    ) -> None:
        _positive(D=D, G=G, rates=float(rates.min()))
        N = len(rates)
        bases = start[..., None, :].expand(*start.shape[:-1], N, start.shape[-1])
        eta = rates.to(start)[:, None]
        self.base = OptimisticDescent(bases, lambda t, V: eta, project, hint)
        self.D, self.G, self.kappa, self.hint = D, G, 2 * L, hint
        self.p = torch.full(bases.shape[:-1], 1 / N, dtype=start.dtype)
        self.total = torch.zeros_like(self.p)
        self.before = bases
        self.x = start

    def update(self, g: Tensor) -> None:
        """The base learners' step, then their weights and x_{t+1}."""
        now, shared = self.base.x, g[..., None, :]
        self.total = self.total + self._loss(shared, now, self.before)
        self.base.update(shared.expand_as(now))
        self.before = now
        V = self.base.V[..., 0, :]  # the same for all base learners
        eps = math.sqrt(2 * math.log(self.p.shape[-1])) / (self.G**2 * self.D**2 + self.D**2 / 4 * V).sqrt()
        hint = self._loss(shared, self.base.x, now) if self.hint else 0.0
        self.p = torch.softmax(-eps * (self.total + hint), dim=-1)
        self.x = (self.p[..., None] * self.base.x).sum(-2)

    def _loss(self, g: Tensor, x: Tensor, before: Tensor) -> Tensor:
        return (g * x).sum(-1) + self.kappa * (x - before).square().sum(-1)
