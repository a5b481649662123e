"""The losses: eq. 4 of the room's head with each target histogram, and the regression losses beside them.

A loss has `predict`, the number that its outputs stand for, and `clipped`, a buffer that counts the targets
outside the support which it was trained on. Half precision is computed in float32; outputs or targets of another
shape or dtype raise ValueError in one line.
"""

import math

import torch
from jaxtyping import Float
from torch import Tensor, nn
from torch.nn.functional import cross_entropy, huber_loss

from lossatlas.losses import checked_targets, in_float32
from lossatlas.papers.hl_gauss.histograms import Support, gaussian_histogram, project, two_hot


def mean_value(l: Float[Tensor, "n m"], support: Support) -> Float[Tensor, " n"]:  # noqa: E741  (the paper's l)
    """Q = sum_i softmax(l)_i z_i."""
    l = in_float32(l)  # noqa: E741
    return l.softmax(dim=1) @ support.centres(l)


def clip(y: Float[Tensor, " n"], low: float, high: float, count: Tensor | None) -> Float[Tensor, " n"]:
    """y moved into [low, high]; `count` grows by how many were outside."""
    if count is not None:
        count += ((y < low) | (y > high)).sum()
    return y.clamp(low, high)


class HLGauss(nn.Module):
    """HL-Gauss, eq. 1 and 4: cross-entropy with a normal histogram around the target.

    Args:
        v_min, v_max: ends of the support, finite, in units of the targets.
        m: bins, >= 2; the net has so many outputs.
        ratio: deviation of the normal in bin widths, > 0; towards 0 the target is one-hot.

    Shapes:
        l (n, m) logits, y (n,) numbers -> (n,).

    Attributes:
        clipped: int64 scalar buffer, training targets outside the support so far.

    Raises:
        ValueError: bad support or ratio.

    Example:
        >>> loss = HLGauss(-1.0, 1.0, m=4, ratio=0.75)
        >>> loss(torch.zeros(1, 4), torch.tensor([0.3]))  # equal logits cost log m
        tensor([1.3863])
    """

    clipped: Tensor

    def __init__(self, v_min: float = -10.0, v_max: float = 10.0, m: int = 51, ratio: float = 0.75) -> None:
        super().__init__()
        self.support = Support(v_min, v_max, m)
        if not 0 < ratio * self.support.w < math.inf:
            raise ValueError(f"HLGauss needs a finite ratio > 0 of deviation to bin width, got {ratio=}")
        self.ratio = ratio
        self.register_buffer("clipped", torch.zeros((), dtype=torch.int64))

    def target(self, y: Float[Tensor, " n"]) -> Float[Tensor, "n m"]:
        """The histogram p of each y inside the support."""
        return gaussian_histogram(y, self.support, self.ratio)

    def forward(self, l: Float[Tensor, "n m"], y: Float[Tensor, " n"]) -> Float[Tensor, " n"]:  # noqa: E741
        l, y = checked_targets(l, y, self.support.m, "HLGauss")  # noqa: E741
        y = clip(y, self.support.v_min, self.support.v_max, self.clipped if self.training else None)
        return cross_entropy(l, self.target(y), reduction="none")

    def predict(self, l: Float[Tensor, "n m"]) -> Float[Tensor, " n"]:  # noqa: E741
        """The mean of softmax(l)."""
        return mean_value(l, self.support)


class TwoHot(nn.Module):
    """Two-Hot, eq. 2 and 4: cross-entropy with the two centres around the target.

    Args:
        v_min, v_max: ends of the support, finite, in units of the targets.
        m: bins, >= 2; the net has so many outputs.

    Shapes:
        l (n, m) logits, y (n,) numbers -> (n,).

    Attributes:
        clipped: int64 scalar buffer, training targets outside the support so far.

    Raises:
        ValueError: bad support.
    """

    clipped: Tensor

    def __init__(self, v_min: float = -10.0, v_max: float = 10.0, m: int = 51) -> None:
        super().__init__()
        self.support = Support(v_min, v_max, m)
        self.register_buffer("clipped", torch.zeros((), dtype=torch.int64))

    def target(self, y: Float[Tensor, " n"]) -> Float[Tensor, "n m"]:
        """The masses p of each y."""
        return two_hot(y, self.support)

    def forward(self, l: Float[Tensor, "n m"], y: Float[Tensor, " n"]) -> Float[Tensor, " n"]:  # noqa: E741
        l, y = checked_targets(l, y, self.support.m, "TwoHot")  # noqa: E741
        y = clip(y, self.support.v_min, self.support.v_max, self.clipped if self.training else None)
        return cross_entropy(l, self.target(y), reduction="none")

    def predict(self, l: Float[Tensor, "n m"]) -> Float[Tensor, " n"]:  # noqa: E741
        """The mean of softmax(l)."""
        return mean_value(l, self.support)


class C51Loss(nn.Module):
    """C51, eq. 3 and 4: cross-entropy with the next state's distribution, shifted, shrunk and projected.

    No gradient reaches the target distribution.

    Args:
        v_min, v_max: ends of the support, finite, in units of the returns.
        m: atoms, >= 2; the net has so many outputs.

    Shapes:
        l (n, m) logits, r (n,) rewards, discount (n,) gamma or 0 at an end, l_next (n, m) logits of the target
        network -> (n,).

    Raises:
        ValueError: bad support.
    """

    def __init__(self, v_min: float = -10.0, v_max: float = 10.0, m: int = 51) -> None:
        super().__init__()
        self.support = Support(v_min, v_max, m)

    def forward(
        self,
        l: Float[Tensor, "n m"],  # noqa: E741
        r: Float[Tensor, " n"],
        discount: Float[Tensor, " n"],
        l_next: Float[Tensor, "n m"],
    ) -> Float[Tensor, " n"]:
        l, r = checked_targets(l, r, self.support.m, "C51Loss")  # noqa: E741
        l_next, discount = checked_targets(l_next.detach(), discount, self.support.m, "C51Loss")
        p = project(l_next.softmax(dim=1), r, discount, self.support)
        return cross_entropy(l, p, reduction="none")

    def predict(self, l: Float[Tensor, "n m"]) -> Float[Tensor, " n"]:  # noqa: E741
        """The mean of softmax(l)."""
        return mean_value(l, self.support)


class CategoricalMSE(nn.Module):
    """The square of Q - y with Q the mean of a softmax: HL-Gauss's head without its loss.

    Args:
        v_min, v_max: ends of the support, finite, in units of the targets.
        m: bins, >= 2; the net has so many outputs.

    Shapes:
        l (n, m) logits, y (n,) numbers -> (n,).

    Attributes:
        clipped: int64 scalar buffer, training targets outside the support so far.

    Raises:
        ValueError: bad support.
    """

    clipped: Tensor

    def __init__(self, v_min: float = -10.0, v_max: float = 10.0, m: int = 51) -> None:
        super().__init__()
        self.support = Support(v_min, v_max, m)
        self.register_buffer("clipped", torch.zeros((), dtype=torch.int64))

    def forward(self, l: Float[Tensor, "n m"], y: Float[Tensor, " n"]) -> Float[Tensor, " n"]:  # noqa: E741
        l, y = checked_targets(l, y, self.support.m, "CategoricalMSE")  # noqa: E741
        y = clip(y, self.support.v_min, self.support.v_max, self.clipped if self.training else None)
        return (self.predict(l) - y).square()

    def predict(self, l: Float[Tensor, "n m"]) -> Float[Tensor, " n"]:  # noqa: E741
        """The mean of softmax(l)."""
        return mean_value(l, self.support)


class SquaredError(nn.Module):
    """(f - y)^2 of one output.

    Args:
        v_min, v_max: targets are clipped to this interval, as those of the histograms are.

    Shapes:
        f (n, 1), y (n,) -> (n,).

    Attributes:
        clipped: int64 scalar buffer, training targets outside the interval so far.

    Raises:
        ValueError: ends out of order.
    """

    clipped: Tensor

    def __init__(self, v_min: float = -math.inf, v_max: float = math.inf) -> None:
        super().__init__()
        if not v_min < v_max:
            raise ValueError(
                f"targets are clipped to [v_min, v_max] with v_min < v_max, got {v_min=}, {v_max=}"
            )
        self.v_min, self.v_max = v_min, v_max
        self.register_buffer("clipped", torch.zeros((), dtype=torch.int64))

    def error(self, f: Float[Tensor, " n"], y: Float[Tensor, " n"]) -> Float[Tensor, " n"]:
        """One value per sample of prediction f and target y."""
        return (f - y).square()

    def forward(self, f: Float[Tensor, "n 1"], y: Float[Tensor, " n"]) -> Float[Tensor, " n"]:
        f, y = checked_targets(f, y, 1, type(self).__name__)
        y = clip(y, self.v_min, self.v_max, self.clipped if self.training else None)
        return self.error(self.predict(f), y)

    def predict(self, f: Float[Tensor, "n 1"]) -> Float[Tensor, " n"]:
        """The output itself."""
        return in_float32(f[:, 0])


class Huber(SquaredError):
    """Half the square of f - y up to `delta`, delta (|f - y| - delta / 2) beyond; DQN's loss with delta = 1.

    Args:
        v_min, v_max: targets are clipped to this interval.
        delta: in units of the targets, > 0.

    Raises:
        ValueError: ends out of order, or delta.
    """

    def __init__(self, v_min: float = -math.inf, v_max: float = math.inf, delta: float = 1.0) -> None:
        super().__init__(v_min, v_max)
        if not 0 < delta < math.inf:
            raise ValueError(f"Huber needs a finite delta > 0, got {delta=}")
        self.delta = delta

    def error(self, f: Float[Tensor, " n"], y: Float[Tensor, " n"]) -> Float[Tensor, " n"]:
        """Huber's value per sample."""
        return huber_loss(f, y, reduction="none", delta=self.delta)
