"""Losses of the spherical family: functions of the target's output, the sum and the sum of squares.

Each is written once, as `value(o_c, s, q, D)`; the dense loss and the factored output layer both use it.
"""

import math
from typing import Protocol

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn

from lossatlas.losses import checked, in_float32


class Spherical(Protocol):
    """What the factored output layer asks of a loss."""

    def value(
        self, o_c: Float[Tensor, " m"], s: Float[Tensor, " m"], q: Float[Tensor, " m"], D: int
    ) -> Float[Tensor, " m"]:
        """(m,) loss from the target's output, the sum and the sum of squares of the D outputs."""
        ...

    def check(self, D: int) -> None:
        """Raises ValueError where the loss has no meaning for D classes."""
        ...


def _dense(loss: Spherical, o: Tensor, y: Tensor) -> Tensor:
    return loss.value(o.gather(1, y[:, None])[:, 0], o.sum(1), o.square().sum(1), o.shape[1])


class ZLoss(nn.Module):
    """The Z-loss, eq. 1: softplus(a (b - z_c)) / a with z_c the target's z-score among the D outputs.

    It is indifferent to a shift and a positive scale of the outputs. The largest possible z_c is sqrt(D - 1), so
    the loss is never below softplus(a (b - sqrt(D - 1))) / a: b says from where on a target stands out enough.

    Args:
        a: sharpness of the softplus, > 0, per unit of z.
        b: where the target should sit, > 0, in standard deviations above the mean output.
        eps: smallest variance of the outputs, > 0. Below it the variance counts as the constant eps: with equal
            outputs the loss is softplus(a b) / a and the slope of z_c is 1 / sqrt(eps), not infinite.

    Shapes:
        o (n, D) float, y (n,) integer in [0, D) -> (n,) float, each > 0.

    Raises:
        ValueError: a, b or eps not finite and > 0; fewer than 3 classes.

    Example:
        >>> ZLoss(a=1.0, b=1.0)(torch.tensor([[2.0, 0.0, 0.0]]), torch.tensor([0])).item() < math.log(2)
        True
    """

    def __init__(self, a: float = 1.0, b: float = 10.0, eps: float = 1e-8) -> None:
        super().__init__()
        if not all(0 < v < math.inf for v in (a, b, eps)):
            raise ValueError(f"ZLoss needs finite a, b and eps > 0, got {a=}, {b=}, {eps=}")
        self.a, self.b, self.eps = a, b, eps

    def check(self, D: int) -> None:
        """Two z-scores are 1 and -1 whatever the outputs are: no gradient."""
        if D < 3:
            raise ValueError(
                f"ZLoss needs at least 3 classes, got {D}: z-scores of two outputs are always 1 and -1, so there is"
                " no gradient; use cross-entropy"
            )

    def value(
        self, o_c: Float[Tensor, " m"], s: Float[Tensor, " m"], q: Float[Tensor, " m"], D: int
    ) -> Float[Tensor, " m"]:
        """Eq. 1 from the three numbers."""
        mu = s / D
        sigma = (q / D - mu.square()).clamp_min(self.eps).sqrt()
        x = self.a * (self.b - (o_c - mu) / sigma)
        return torch.logaddexp(x, torch.zeros_like(x)) / self.a

    def forward(self, o: Float[Tensor, "n D"], y: Int[Tensor, " n"]) -> Float[Tensor, " n"]:
        # in float32 at least: the sum of squares of 4000 outputs of size 5 overflows half precision, without a word
        o = checked(o, y, "ZLoss")
        self.check(o.shape[1])
        # centred first: q/D - mu^2 of outputs around 1e4 would lose a float32 variance
        return _dense(self, o - o.mean(1, keepdim=True), y)

    def scores(self, o: Float[Tensor, "n D"]) -> Float[Tensor, "n D"]:
        """What classes are ranked by: the outputs."""
        return o


class SphericalSoftmax(nn.Module):
    """-log((o_c^2 + e) / sum_k (o_k^2 + e)): squares in the place of exponentials.

    Args:
        e: > 0, keeps the logarithm of a zero output finite, in units of squared outputs.

    Shapes:
        o (n, D) float, y (n,) integer in [0, D) -> (n,) float, each >= 0.

    Raises:
        ValueError: e not finite and > 0.

    Example:
        >>> SphericalSoftmax()(torch.ones(1, 2), torch.tensor([0]))  # log 2
        tensor([0.6931])
    """

    def __init__(self, e: float = 1e-2) -> None:
        super().__init__()
        if not 0 < e < math.inf:
            raise ValueError(f"SphericalSoftmax needs a finite e > 0, got {e=}")
        self.e = e

    def check(self, D: int) -> None:
        """Any number of classes >= 2."""
        _two(D, "SphericalSoftmax")

    def value(
        self, o_c: Float[Tensor, " m"], s: Float[Tensor, " m"], q: Float[Tensor, " m"], D: int
    ) -> Float[Tensor, " m"]:
        """The loss from the target's output and the sum of squares."""
        return (q + D * self.e).log() - (o_c.square() + self.e).log()

    def forward(self, o: Float[Tensor, "n D"], y: Int[Tensor, " n"]) -> Float[Tensor, " n"]:
        return _dense(self, checked(o, y, "SphericalSoftmax"), y)

    def scores(self, o: Float[Tensor, "n D"]) -> Float[Tensor, "n D"]:
        """Proportional to the probabilities: o^2 + e, not o."""
        return in_float32(o).square() + self.e

    def log_probs(self, o: Float[Tensor, "n D"]) -> Float[Tensor, "n D"]:
        """Logarithms of the class probabilities."""
        p = self.scores(o)
        return p.log() - p.sum(1, keepdim=True).log()


class TaylorSoftmax(nn.Module):
    """-log of softmax with the exponential replaced by 1 + o + o^2/2, which is >= 1/2 everywhere.

    Shapes:
        o (n, D) float, y (n,) integer in [0, D) -> (n,) float, each >= 0.

    Raises:
        ValueError: fewer than 2 classes.

    Example:
        >>> TaylorSoftmax()(torch.zeros(1, 2), torch.tensor([0]))  # log 2
        tensor([0.6931])
    """

    def check(self, D: int) -> None:
        """Any number of classes >= 2."""
        _two(D, "TaylorSoftmax")

    def value(
        self, o_c: Float[Tensor, " m"], s: Float[Tensor, " m"], q: Float[Tensor, " m"], D: int
    ) -> Float[Tensor, " m"]:
        """The loss from the three numbers."""
        return (D + s + q / 2).log() - self.scores(o_c).log()

    def forward(self, o: Float[Tensor, "n D"], y: Int[Tensor, " n"]) -> Float[Tensor, " n"]:
        return _dense(self, checked(o, y, "TaylorSoftmax"), y)

    def scores(self, o: Float[Tensor, "*n"]) -> Float[Tensor, "*n"]:
        """Proportional to the probabilities: 1 + o + o^2/2, which falls below o = -1 and rises again."""
        o = in_float32(o)
        return 1 + o + o.square() / 2

    def log_probs(self, o: Float[Tensor, "n D"]) -> Float[Tensor, "n D"]:
        """Logarithms of the class probabilities."""
        p = self.scores(o)
        return p.log() - p.sum(1, keepdim=True).log()


class OneHotMSE(nn.Module):
    """Squared error to the one-hot target, mean over the D outputs: (q - 2 o_c + 1) / D.

    Shapes:
        o (n, D) float, y (n,) integer in [0, D) -> (n,) float, each >= 0.

    Raises:
        ValueError: fewer than 2 classes.

    Example:
        >>> OneHotMSE()(torch.tensor([[1.0, 0.0]]), torch.tensor([0]))
        tensor([0.])
    """

    def check(self, D: int) -> None:
        """Any number of classes >= 2."""
        _two(D, "OneHotMSE")

    def value(
        self, o_c: Float[Tensor, " m"], s: Float[Tensor, " m"], q: Float[Tensor, " m"], D: int
    ) -> Float[Tensor, " m"]:
        """The loss from the three numbers."""
        return (q - 2 * o_c + 1) / D

    def forward(self, o: Float[Tensor, "n D"], y: Int[Tensor, " n"]) -> Float[Tensor, " n"]:
        return _dense(self, checked(o, y, "OneHotMSE"), y)

    def scores(self, o: Float[Tensor, "n D"]) -> Float[Tensor, "n D"]:
        """What classes are ranked by: the outputs."""
        return o


def _two(D: int, name: str) -> None:
    if D < 2:
        raise ValueError(f"{name} needs at least 2 classes, got {D}")
