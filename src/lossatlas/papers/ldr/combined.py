"""Normalised cross-entropy and its three partners: active plus passive losses, p = softmax(f).

Same shapes, precision and errors as in `baselines`.
"""

import math

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn
from torch.nn.functional import log_softmax

from lossatlas.losses import checked
from lossatlas.papers.ldr.scores import log_p_label


class NCE(nn.Module):
    """Normalised cross-entropy (Ma et al. 2020): -log p_y / sum_k -log p_k, in [0, 1]; symmetric.

    Example:
        >>> NCE()(torch.zeros(1, 4), torch.tensor([0]))
        tensor([0.2500])
    """

    def forward(self, f: Float[Tensor, "n K"], y: Int[Tensor, " n"]) -> Float[Tensor, " n"]:
        log_p = log_softmax(checked(f, y), dim=1)
        return log_p.gather(1, y[:, None]).squeeze(1) / log_p.sum(dim=1)  # |sum| >= K log K: never 0 / 0


class RCE(nn.Module):
    """Reverse cross-entropy: A (1 - p_y); symmetric. Args: A > 0, stands in for -log 0: -log 1e-4.

    Example:
        >>> RCE(A=2.0)(torch.zeros(1, 4), torch.tensor([0]))
        tensor([1.5000])
    """

    def __init__(self, A: float = -math.log(1e-4)) -> None:
        super().__init__()
        if not 0 < A < math.inf:
            raise ValueError(f"RCE needs finite A > 0, got {A=}")
        self.A = A

    def of(self, log_p: Float[Tensor, " n"]) -> Float[Tensor, " n"]:
        """The loss in terms of log p_y."""
        return -self.A * torch.expm1(log_p)

    def forward(self, f: Float[Tensor, "n K"], y: Int[Tensor, " n"]) -> Float[Tensor, " n"]:
        return self.of(log_p_label(f, y))


class AGCE(nn.Module):
    """Asymmetric generalised cross-entropy (Zhou et al. 2021): ((a + 1)^q - (a + p_y)^q) / q.

    Args:
        a, q: > 0.

    Example:
        >>> AGCE(a=1.0, q=1.0)(torch.zeros(1, 4), torch.tensor([0]))
        tensor([0.7500])
    """

    def __init__(self, a: float = 3.0, q: float = 1.5) -> None:
        super().__init__()
        if not (0 < a < math.inf and 0 < q < math.inf):
            raise ValueError(f"AGCE needs finite a > 0 and q > 0, got {a=}, {q=}")
        self.a, self.q = a, q

    def of(self, log_p: Float[Tensor, " n"]) -> Float[Tensor, " n"]:
        """The loss in terms of log p_y."""
        p_y = log_p.exp()
        return ((self.a + 1) ** self.q - (self.a + p_y) ** self.q) / self.q

    def forward(self, f: Float[Tensor, "n K"], y: Int[Tensor, " n"]) -> Float[Tensor, " n"]:
        return self.of(log_p_label(f, y))


class AUL(nn.Module):
    """Asymmetric unhinged loss (Zhou et al. 2021): ((a - p_y)^q - (a - 1)^q) / q.

    Args:
        a: > 1.
        q: > 0.

    Example:
        >>> AUL(a=2.0, q=1.0)(torch.zeros(1, 4), torch.tensor([0]))
        tensor([0.7500])
    """

    def __init__(self, a: float = 6.0, q: float = 1.5) -> None:
        super().__init__()
        if not (1 < a < math.inf and 0 < q < math.inf):
            raise ValueError(f"AUL needs finite a > 1 and q > 0, got {a=}, {q=}")
        self.a, self.q = a, q

    def of(self, log_p: Float[Tensor, " n"]) -> Float[Tensor, " n"]:
        """The loss in terms of log p_y."""
        p_y = log_p.exp()
        return ((self.a - p_y) ** self.q - (self.a - 1) ** self.q) / self.q

    def forward(self, f: Float[Tensor, "n K"], y: Int[Tensor, " n"]) -> Float[Tensor, " n"]:
        return self.of(log_p_label(f, y))


class NCEPlus(nn.Module):
    """w NCE + (10 - w) other: nce_rce, nce_agce and nce_aul with `RCE`, `AGCE`, `AUL` as the other.

    Args:
        other: loss of (f, y) without reduction.
        w: weight of NCE, in [0, 10].

    Example:
        >>> NCEPlus(RCE(A=1.0), w=8.0)(torch.zeros(1, 4), torch.tensor([0]))  # 8 / 4 + 2 * 3/4
        tensor([3.5000])
    """

    stacked_scalars = ("w",)  # tensors do, so replicas may differ in them

    def __init__(self, other: nn.Module, w: float = 5.0) -> None:
        super().__init__()
        if not isinstance(other, nn.Module):
            raise ValueError(f"NCEPlus needs a loss module as other, got {type(other).__name__}")
        if not 0 <= w <= 10:
            raise ValueError(f"NCEPlus needs 0 <= w <= 10, got {w=}")
        self.nce, self.other, self.w = NCE(), other, w

    def forward(self, f: Float[Tensor, "n K"], y: Int[Tensor, " n"]) -> Float[Tensor, " n"]:
        if not isinstance(self.other, RCE | AGCE | AUL):
            return self.w * self.nce(f, y) + (10 - self.w) * self.other(f, y)
        log_p = log_softmax(checked(f, y), dim=1)  # one softmax for both
        log_p_y = log_p.gather(1, y[:, None]).squeeze(1)
        return self.w * (log_p_y / log_p.sum(dim=1)) + (10 - self.w) * self.other.of(log_p_y)
