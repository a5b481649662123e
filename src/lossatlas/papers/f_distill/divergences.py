"""Six f-divergences D_f(p || q) = E_q f(r), r = p / q, and the weights h(r) = r^2 f''(r) of their gradients (eq. 2)."""

import math

import torch
from jaxtyping import Float
from torch import Tensor
from torch.nn.functional import logsigmoid, softplus


class Divergence:
    """What a divergence has to say.

    Shapes:
        any; r > 0, f(1) = 0, h >= 0.

    Example:
        >>> JensenShannon().h(torch.tensor([0.0]))  # r = 1
        tensor([0.5000])
    """

    def f(self, r: Float[Tensor, "*b"]) -> Float[Tensor, "*b"]:
        """The convex function of the ratio."""
        raise NotImplementedError

    def log_h(self, log_r: Float[Tensor, "*b"]) -> Float[Tensor, "*b"]:
        """log h as a function of log r, finite for every finite log r."""
        raise NotImplementedError

    def h(self, log_r: Float[Tensor, "*b"]) -> Float[Tensor, "*b"]:
        """The weight."""
        return self.log_h(log_r).exp()


class ReverseKL(Divergence):
    """rkl: f = -log r, h = 1."""

    def f(self, r: Float[Tensor, "*b"]) -> Float[Tensor, "*b"]:
        return -r.log()

    def log_h(self, log_r: Float[Tensor, "*b"]) -> Float[Tensor, "*b"]:
        return torch.zeros_like(log_r)


class ForwardKL(Divergence):
    """fkl: f = r log r, h = r."""

    def f(self, r: Float[Tensor, "*b"]) -> Float[Tensor, "*b"]:
        return r * r.log()

    def log_h(self, log_r: Float[Tensor, "*b"]) -> Float[Tensor, "*b"]:
        return log_r


class JensenShannon(Divergence):
    """js: f = r log r - (r + 1) log((r + 1) / 2), h = r / (r + 1)."""

    def f(self, r: Float[Tensor, "*b"]) -> Float[Tensor, "*b"]:
        return r * r.log() - (r + 1) * ((r + 1) / 2).log()

    def log_h(self, log_r: Float[Tensor, "*b"]) -> Float[Tensor, "*b"]:
        return logsigmoid(log_r)


class SquaredHellinger(Divergence):
    """hellinger: f = 1 - sqrt r, h = sqrt(r) / 4."""

    def f(self, r: Float[Tensor, "*b"]) -> Float[Tensor, "*b"]:
        return 1 - r.sqrt()

    def log_h(self, log_r: Float[Tensor, "*b"]) -> Float[Tensor, "*b"]:
        return log_r / 2 - math.log(4)


class Jeffreys(Divergence):
    """jeffreys: f = (r - 1) log r, h = r + 1."""

    def f(self, r: Float[Tensor, "*b"]) -> Float[Tensor, "*b"]:
        return (r - 1) * r.log()

    def log_h(self, log_r: Float[Tensor, "*b"]) -> Float[Tensor, "*b"]:
        return softplus(log_r)


class SoftenedReverseKL(Divergence):
    """srkl: f = (r + 1) log(1/2 + 1/(2r)), h = 1 / (r + 1)."""

    def f(self, r: Float[Tensor, "*b"]) -> Float[Tensor, "*b"]:
        return (r + 1) * (0.5 + 0.5 / r).log()

    def log_h(self, log_r: Float[Tensor, "*b"]) -> Float[Tensor, "*b"]:
        return -softplus(log_r)
