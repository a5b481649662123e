"""LDR-KL and ALDR-KL, eqs. 1 to 3 of the room's head."""

import math

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn
from torch.nn.functional import log_softmax

from lossatlas.losses import check_index, checked, put_finite
from lossatlas.papers.ldr.scores import NORMALISATIONS, magnitude

P_SMOOTHING = 1e-5  # the reference adds it to every p_k and renormalises before the KL of eq. 2


def soft_maximum(
    f: Float[Tensor, "n K"],
    y: Int[Tensor, " n"],
    c: float,
    lambda_: Float[Tensor, "n 1"] | Float[Tensor, ""] | float,
    r: Float[Tensor, "n 1"] | float = 1.0,
) -> Float[Tensor, " n"]:
    """lambda log( (1/K) sum_k exp(d_k / lambda) ), d of the head for scores f r: from mean_k d_k to max_k d_k.

    Since d_y = 0, the sum is 1 / softmax(d / lambda)_y, and softmax does not see that f_y is taken off all
    scores: d itself is never made, and one fused log-softmax stands for six passes over (n, K).

    Example:
        >>> soft_maximum(torch.tensor([[1.0, 3.0]]), torch.tensor([0]), 0.0, 1e-3)  # nearly max - lambda log K
        tensor([1.9993])
    """
    factor, label = r / lambda_, y[:, None]
    scaled = f * factor
    scaled.scatter_add_(1, label, scaled.new_zeros(label.shape) - c / lambda_)  # c elsewhere is -c here
    # log_softmax, because exp(d / lambda) overflows float32 from d = 89 lambda on
    log_p = log_softmax(scaled, dim=1).gather(1, label)
    return ((log_p + math.log(f.shape[1])) * -lambda_).squeeze(1)


class LDRKL(nn.Module):
    """LDR-KL, eq. 1: one value per sample, not reduced. The study normalises by "softplus_l1".

    Args:
        lambda_: price of leaving uniform, > 0, in units of the (normalised) scores.
        c: margin asked of every wrong class, >= 0, in the same units.
        normalise: "none" (eq. 1 as it stands), "l1" or "softplus_l1", eq. 3.

    Shapes:
        f (n, K) float, y (n,) integer in [0, K) -> (n,) float, each >= -lambda_ log K.
        float32 rounds the value by about lambda_ log K times 1e-7: huge lambda_ wants float64.

    Raises:
        ValueError: lambda_ or c out of range or not finite, normalise unknown, shapes that do not fit.

    Example:
        >>> LDRKL(lambda_=2.0, c=0.0)(torch.zeros(1, 3), torch.tensor([0])).abs()  # equal scores cost nothing
        tensor([0.])
    """

    stacked_scalars = ("lambda_",)  # tensors do, so replicas may differ in them

    def __init__(self, lambda_: float = 1.0, c: float = 0.1, normalise: str = "none") -> None:
        super().__init__()
        if not (0 < lambda_ < math.inf and 0 <= c < math.inf):  # written so that NaN fails, too
            raise ValueError(f"LDRKL needs finite lambda_ > 0 and c >= 0, got {lambda_=}, {c=}")
        if normalise not in NORMALISATIONS:
            raise ValueError(f"LDRKL needs normalise from {'|'.join(NORMALISATIONS)}, got {normalise!r}")
        self.lambda_, self.c, self.normalise = lambda_, c, normalise

    def forward(self, f: Float[Tensor, "n K"], y: Int[Tensor, " n"]) -> Float[Tensor, " n"]:
        g, r = magnitude(checked(f, y), self.normalise)
        return soft_maximum(g, y, self.c, self.lambda_, r)


class ALDRKL(nn.Module):
    """ALDR-KL, eq. 2: every training sample owns a lambda_i, moved one inner step at each visit.

    In training mode a call with `index` updates lambda_i (detached), then charges the loss at the new value.
    In eval mode nothing is updated: with `index` the stored lambda_i are used, without one (samples that were
    never trained on, whose positions mean something else) one step from lambda0.

    Args:
        lambda0: largest and first lambda, > 0, in units of the (normalised) scores.
        alpha: > 1; lambda_i stays in [lambda0 (1 - 1/alpha), lambda0].
        c: margin asked of every wrong class, >= 0, in the same units; the inner step ignores it.
        normalise: "none", "l1" or "softplus_l1", eq. 3.
        n: training samples to allocate for, >= 1; None leaves it to `allocate`.
        smoothing: added to every p_k before the KL, >= 0. With K = 26 and alpha = 2 a one-hot prediction then
            stops 5e-4 lambda0 above the lower end, 0 lets it arrive; a uniform one gives lambda0 either way.

    Shapes:
        f (n, K) float, y (n,) integer in [0, K), index (n,) integer -> (n,) float.

    Attributes:
        lambda_i: buffer (number of training samples,), in state_dict; `allocate` before loading one.
        skipped: buffer, int64, steps of a lambda_i left out because the scores were not finite.

    Raises:
        ValueError: an argument out of range or not finite; training without index or before `allocate`; an index
            of another shape or dtype, on the CPU also one out of range.

    Example:
        >>> loss = ALDRKL(lambda0=1.0, alpha=2.0, n=4)
        >>> value = loss(torch.tensor([[9.0, -9.0], [0.0, 0.0]]), torch.tensor([0, 1]), torch.tensor([3, 1]))
        >>> loss.lambda_i  # sure of itself at 3: sharper; undecided at 1: stays; not seen yet: lambda0
        tensor([1.0000, 1.0000, 1.0000, 0.7635])
    """

    indexed = True
    stacked_scalars = ("lambda0",)
    lambda_i: Tensor
    skipped: Tensor

    def __init__(
        self,
        lambda0: float = 1.0,
        alpha: float = 2.0,
        c: float = 0.1,
        normalise: str = "l1",
        n: int | None = None,
        smoothing: float = P_SMOOTHING,
    ) -> None:
        super().__init__()
        if not (0 < lambda0 < math.inf and 1 < alpha < math.inf and 0 <= c < math.inf):
            needs = "finite lambda0 > 0, alpha > 1 (keeps lambda_i positive) and c >= 0"
            raise ValueError(f"ALDRKL needs {needs}, got {lambda0=}, {alpha=}, {c=}")
        if normalise not in NORMALISATIONS:
            raise ValueError(f"ALDRKL needs normalise from {'|'.join(NORMALISATIONS)}, got {normalise!r}")
        if not 0 <= smoothing < math.inf:
            raise ValueError(f"ALDRKL needs finite smoothing >= 0, got {smoothing=}")
        self.lambda0, self.alpha, self.c = lambda0, alpha, c
        self.normalise, self.smoothing = normalise, smoothing
        self.register_buffer("lambda_i", torch.empty(0))
        self.register_buffer("skipped", torch.zeros((), dtype=torch.int64), persistent=False)
        if n is not None:
            self.allocate(n)

    def allocate(self, n: int) -> None:
        """Give n training samples a lambda_i of lambda0, forgetting earlier ones; device and dtype stay."""
        if n < 1:
            raise ValueError(f"ALDRKL needs at least one training sample to allocate for, got {n=}")
        self.lambda_i = self.lambda_i.new_full((n,), self.lambda0)

    @torch.no_grad()
    def inner_step(
        self, f: Float[Tensor, "n K"], lambda_: Float[Tensor, " n"], r: Float[Tensor, "n 1"] | float = 1.0
    ) -> Float[Tensor, " n"]:
        """lambda0 - lambda0 KL(p, 1/K) / (alpha log K) at p = softmax(f r / lambda_), f r normalised scores.

        No margin: p is what the network predicts. A fixed point of this step at c = 0 is stationary in eq. 2.
        """
        p = torch.softmax(f * (r / lambda_[:, None]), dim=1).add_(self.smoothing)
        p /= p.sum(dim=1, keepdim=True)
        log_k = math.log(f.shape[1])
        kl = log_k - torch.special.entr(p).sum(dim=1)
        share = (kl / log_k).clamp(0.0, 1.0)  # rounding may leave [0, log K] by an ulp
        return self.lambda0 * (1 - share / self.alpha)

    def forward(
        self, f: Float[Tensor, "n K"], y: Int[Tensor, " n"], index: Int[Tensor, " n"] | None = None
    ) -> Float[Tensor, " n"]:
        g, r = magnitude(checked(f, y), self.normalise)
        lambda_ = self._visit(g, r, index)
        a = self.alpha * math.log(f.shape[1]) / self.lambda0
        penalty = a / 2 * (lambda_ - self.lambda0) ** 2  # no gradient, but the value is eq. 2's
        return soft_maximum(g, y, self.c, lambda_[:, None], r) - penalty

    def _visit(self, f: Tensor, r: Tensor | float, index: Tensor | None) -> Tensor:
        if index is None:
            if self.training:
                raise ValueError(
                    "ALDRKL trains with index, the samples' positions in the training set, got None"
                )
            return self.inner_step(f, f.new_full((len(f),), self.lambda0), r)
        check_index(index, len(f), len(self.lambda_i), "ALDRKL")
        lambda_ = self.lambda_i[index].to(f.dtype)
        if self.training:
            lambda_ = self.inner_step(f, lambda_, r)
            self.skipped += (~put_finite(self.lambda_i, index, lambda_)).sum()
        return lambda_
