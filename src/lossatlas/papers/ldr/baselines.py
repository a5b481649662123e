"""Baselines of the LDR comparison on raw scores, p = softmax(f); cross-entropy is torch's own.

Each loss returns one value per sample for f (n, K) float and y (n,) integer in [0, K), computes float16 and
bfloat16 scores in float32, and raises ValueError on an argument out of range or shapes that do not fit.
Everything is written in log p_y, so that p_y = 0 harms neither value nor gradient.
"""

import math

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn

from lossatlas.losses import check_index, checked
from lossatlas.papers.ldr.scores import differences, log_p_label


def generalised_ce(log_p: Float[Tensor, " n"], q: float | Tensor) -> Float[Tensor, " n"]:
    """(1 - p^q) / q: cross-entropy as q -> 0, 1 - p at q = 1."""
    return -torch.expm1(q * log_p) / q


class CS(nn.Module):
    """Crammer-Singer: max_k [c 1(k != y) + f_k - f_y]_+. Args: c, margin in units of the scores, >= 0.

    Example:
        >>> CS(c=1.0)(torch.tensor([[2.0, 1.5, 0.0]]), torch.tensor([0]))
        tensor([0.5000])
    """

    stacked_scalars = ("c",)  # tensors do, so replicas may differ in them

    def __init__(self, c: float = 1.0) -> None:
        super().__init__()
        if not 0 <= c < math.inf:
            raise ValueError(f"CS needs a finite margin c >= 0, got {c=}")
        self.c = c

    def forward(self, f: Float[Tensor, "n K"], y: Int[Tensor, " n"]) -> Float[Tensor, " n"]:
        return differences(checked(f, y), y, self.c).amax(dim=1)  # d_y = 0 is the positive part


class WW(nn.Module):
    """Weston-Watkins: mean over all K classes of [c 1(k != y) + f_k - f_y]_+. Args: c as in `CS`.

    Example:
        >>> WW(c=1.0)(torch.tensor([[2.0, 1.5, 3.0, 0.0]]), torch.tensor([0]))  # (0.5 + 2) / 4
        tensor([0.6250])
    """

    stacked_scalars = ("c",)  # tensors do, so replicas may differ in them

    def __init__(self, c: float = 1.0) -> None:
        super().__init__()
        if not 0 <= c < math.inf:
            raise ValueError(f"WW needs a finite margin c >= 0, got {c=}")
        self.c = c

    def forward(self, f: Float[Tensor, "n K"], y: Int[Tensor, " n"]) -> Float[Tensor, " n"]:
        return differences(checked(f, y), y, self.c).relu().mean(dim=1)


class GCE(nn.Module):
    """Generalised cross-entropy (Zhang, Sabuncu 2018): (1 - p_y^q) / q.

    Args:
        q: 0 < q <= 1; towards 0 cross-entropy, at 1 half of MAE.
        k_t: 0 < k_t < 1 truncates at (1 - k_t^q) / q: where p_y < k_t now, a sample has no gradient.

    Example:
        >>> GCE(q=1.0)(torch.zeros(1, 4), torch.tensor([2]))
        tensor([0.7500])
    """

    stacked_scalars = ("q",)  # tensors do, so replicas may differ in them

    def __init__(self, q: float = 0.7, k_t: float | None = None) -> None:
        super().__init__()
        if not (0 < q <= 1 and (k_t is None or 0 < k_t < 1)):
            raise ValueError(f"GCE needs 0 < q <= 1 and 0 < k_t < 1 (or None), got {q=}, {k_t=}")
        self.q, self.k_t = q, k_t

    def forward(self, f: Float[Tensor, "n K"], y: Int[Tensor, " n"]) -> Float[Tensor, " n"]:
        loss = generalised_ce(log_p_label(f, y), self.q)
        return loss if self.k_t is None else loss.clamp(max=(1 - self.k_t**self.q) / self.q)


class TGCE(nn.Module):
    """Pruned GCE (Zhang, Sabuncu 2018, section 3.3): w_i (1 - p_y^q)/q + (1 - w_i) (1 - k_t^q)/q.

    w_i is 1 until `refresh` sets it to 1(p_y > k_t); the caller refreshes once an epoch, from the share
    `warm_up` of the epochs on. Unlike GCE(k_t) a sample stays in or out for the whole epoch. In eval mode the
    index may be left out (samples never trained on): then w is 1(p_y > k_t) of these very scores.

    Args:
        q, k_t: as in `GCE`.
        warm_up: share of the epochs before the first refresh, in [0, 1].
        n: training samples to allocate for, >= 1; None leaves it to `allocate`.

    Attributes:
        weight_i: buffer (number of training samples,) of 0 and 1, in state_dict.

    Example:
        >>> loss = TGCE(q=1.0, k_t=0.5, n=2)
        >>> loss.refresh(torch.tensor([0.1, 0.9]))
        >>> loss(torch.zeros(2, 4), torch.tensor([2, 2]), torch.tensor([0, 1]))  # the first one is pruned
        tensor([0.5000, 0.7500])
    """

    indexed = True
    weight_i: Tensor

    stacked_scalars = ("q",)  # tensors do, so replicas may differ in them

    def __init__(self, q: float = 0.7, k_t: float = 0.5, warm_up: float = 0.4, n: int | None = None) -> None:
        super().__init__()
        if not (0 < q <= 1 and 0 < k_t < 1 and 0 <= warm_up <= 1):
            needs = "0 < q <= 1, 0 < k_t < 1 and 0 <= warm_up <= 1"
            raise ValueError(f"TGCE needs {needs}, got {q=}, {k_t=}, {warm_up=}")
        self.q, self.k_t, self.warm_up = q, k_t, warm_up
        self.register_buffer("weight_i", torch.empty(0))
        if n is not None:
            self.allocate(n)

    def allocate(self, n: int) -> None:
        """Give n training samples the weight 1, forgetting earlier ones; device and dtype stay."""
        if n < 1:
            raise ValueError(f"TGCE needs at least one training sample to allocate for, got {n=}")
        self.weight_i = self.weight_i.new_ones(n)

    @torch.no_grad()
    def refresh(self, p_y: Float[Tensor, " m"], index: Int[Tensor, " m"] | None = None) -> None:
        """Set w_i = 1(p_y > k_t) for the samples at `index`, or for all of them in order.

        Raises:
            ValueError: p_y is not one probability per index (per allocated sample without one).
        """
        expected = self.weight_i.shape if index is None else index.shape
        if not len(self.weight_i) or p_y.shape != expected:
            came = f"p_y {tuple(p_y.shape)} for {tuple(expected)}"
            raise ValueError(f"TGCE.refresh needs allocate(n) first and one p_y per sample, got {came}")
        self.weight_i[... if index is None else index] = (p_y > self.k_t).to(self.weight_i)

    def forward(
        self, f: Float[Tensor, "n K"], y: Int[Tensor, " n"], index: Int[Tensor, " n"] | None = None
    ) -> Float[Tensor, " n"]:
        log_p = log_p_label(f, y)
        if index is None:
            if self.training:
                raise ValueError(
                    "TGCE trains with index, the samples' positions in the training set, got None"
                )
            w = (log_p.detach().exp() > self.k_t).to(log_p)
        else:
            check_index(index, len(y), len(self.weight_i), "TGCE")
            w = self.weight_i[index].to(log_p.dtype)
        return w * generalised_ce(log_p, self.q) + (1 - w) * (1 - self.k_t**self.q) / self.q


class MAE(nn.Module):
    """Mean absolute error: sum_k |1(k = y) - p_k| = 2 (1 - p_y); symmetric, so robust and hard to fit.

    Example:
        >>> MAE()(torch.zeros(1, 4), torch.tensor([0]))
        tensor([1.5000])
    """

    def forward(self, f: Float[Tensor, "n K"], y: Int[Tensor, " n"]) -> Float[Tensor, " n"]:
        return -2 * torch.expm1(log_p_label(f, y))


class MSE(nn.Module):
    """Squared error (Brier): sum_k (1(k = y) - p_k)^2.

    Example:
        >>> MSE()(torch.zeros(1, 4), torch.tensor([0]))
        tensor([0.7500])
    """

    def forward(self, f: Float[Tensor, "n K"], y: Int[Tensor, " n"]) -> Float[Tensor, " n"]:
        p = torch.softmax(checked(f, y), dim=1)
        label = y[:, None]
        # in place on a copy: an integer (n, K) of one_hot would cost twice the scores' memory
        return p.scatter_add(1, label, p.new_full((len(y), 1), -1.0)).square().sum(dim=1)


class SCE(nn.Module):
    """Symmetric cross-entropy: (1 - b) ce + b A (1 - p_y).

    Args:
        b: share of the symmetric part, in [0, 1].
        A: > 0, minus the logarithm that stands in for log 0; 4 here and in the reference.

    Example:
        >>> SCE(b=1.0, A=4.0)(torch.zeros(1, 4), torch.tensor([0]))
        tensor([3.])
    """

    stacked_scalars = ("b",)  # tensors do, so replicas may differ in them

    def __init__(self, b: float = 0.5, A: float = 4.0) -> None:
        super().__init__()
        if not (0 <= b <= 1 and 0 < A < math.inf):
            raise ValueError(f"SCE needs 0 <= b <= 1 and finite A > 0, got {b=}, {A=}")
        self.b, self.A = b, A

    def forward(self, f: Float[Tensor, "n K"], y: Int[Tensor, " n"]) -> Float[Tensor, " n"]:
        log_p = log_p_label(f, y)
        return -(1 - self.b) * log_p - self.b * self.A * torch.expm1(log_p)


class RLL(nn.Module):
    """Robust log loss: -log(c + p_y) + mean over k != y of log(c + p_k); symmetric in y. Args: c > 0.

    Example:
        >>> RLL(c=1.0)(torch.tensor([[0.0, 1e4]]), torch.tensor([0]))  # p = (0, 1): -log 1 + log 2
        tensor([0.6931])
    """

    stacked_scalars = ("c",)  # tensors do, so replicas may differ in them

    def __init__(self, c: float = 1.0) -> None:
        super().__init__()
        if not 0 < c < math.inf:
            raise ValueError(f"RLL needs finite c > 0, got {c=}")
        self.c = c

    def forward(self, f: Float[Tensor, "n K"], y: Int[Tensor, " n"]) -> Float[Tensor, " n"]:
        log_cp = torch.log(self.c + torch.softmax(checked(f, y), dim=1))
        others = f.shape[1] - 1
        sign = torch.full_like(log_cp, 1 / others).scatter(1, y[:, None], -1.0)
        return (sign * log_cp).sum(dim=1)


class JS(nn.Module):
    """Generalised Jensen-Shannon of one-hot (weight pi) and p (1 - pi), over -(1 - pi) log(1 - pi).

    With m_y = pi + (1 - pi) p_y the classes k != y add (1 - p_y) log(1/(1 - pi)) whatever their p_k, hence
        JS = -pi log m_y + (1 - pi) (p_y log(p_y / m_y) - (1 - p_y) log(1 - pi)).
    Cross-entropy as pi -> 0, half of MAE as pi -> 1. Args: pi in (0, 1).

    Example:
        >>> JS(pi=0.5)(torch.tensor([[0.0, 1e4]]), torch.tensor([0]))  # p_y = 0: H(pi) / its divisor
        tensor([2.])
    """

    def __init__(self, pi: float = 0.5) -> None:
        super().__init__()
        if not 0 < pi < 1:
            raise ValueError(f"JS needs 0 < pi < 1, got {pi=}")
        self.pi = pi

    def forward(self, f: Float[Tensor, "n K"], y: Int[Tensor, " n"]) -> Float[Tensor, " n"]:
        pi, log_rest = self.pi, math.log1p(-self.pi)
        log_p = log_p_label(f, y)
        wrong = -torch.expm1(log_p)  # 1 - p_y
        log_m = torch.log1p(-(1 - pi) * wrong)
        to_mixture = log_p.exp() * (log_p - log_m) - wrong * log_rest
        return (-pi * log_m + (1 - pi) * to_mixture) / (-(1 - pi) * log_rest)
