"""Losses of a preference pair that several papers share: DPO and IPO, functions of one margin.

Symbols  log_w, log_l log-probabilities of winner and loser under the policy, ref_w, ref_l under the reference,
         h = beta [(log_w - ref_w) - (log_l - ref_l)].
DPO      -log sigmoid(h) (Rafailov et al., NeurIPS 2023).   IPO  (h/beta - 1/(2 beta))^2 (Azar et al., AISTATS 2024).
"""

import math

from jaxtyping import Float
from torch import Tensor, nn
from torch.nn.functional import softplus

from lossatlas.losses import in_float32


class MarginLoss(nn.Module):
    """A loss of the margin h alone: one value per pair, not reduced.

    Args:
        beta: price of leaving the reference, > 0, in units of 1 / nats.
        eps: assumed chance that a given preference is flipped, in [0, 1/2).

    Shapes:
        log_w, log_l, ref_w, ref_l (n,) float: log-probabilities of winner and loser under policy and
        reference, summed over response tokens -> (n,) float, float32 of half precision.

    Raises:
        ValueError: beta <= 0, eps outside [0, 1/2), either not finite; log-probabilities of tokens (n, T), integers,
            shapes that differ.
    """

    def __init__(self, beta: float = 0.1, eps: float = 0.0) -> None:
        super().__init__()
        name = type(self).__name__
        if not 0 < beta < math.inf:  # written so that NaN fails, too
            raise ValueError(f"{name} needs a finite beta > 0, got {beta=}: 0.1 is the usual value")
        if not 0 <= eps < 0.5:
            raise ValueError(
                f"{name} needs a flip rate 0 <= eps < 1/2, got {eps=}: at 1/2 labels say nothing, above swap the pairs"
            )
        self.beta, self.eps = beta, eps

    def margin(
        self,
        log_w: Float[Tensor, " n"],
        log_l: Float[Tensor, " n"],
        ref_w: Float[Tensor, " n"],
        ref_l: Float[Tensor, " n"],
    ) -> Float[Tensor, " n"]:
        """h; 0 where the policy is the reference."""
        four = (log_w, log_l, ref_w, ref_l)
        if any(x.ndim != 1 or x.shape != log_w.shape or not x.is_floating_point() for x in four):
            came = ", ".join(f"{tuple(x.shape)} {x.dtype}" for x in four)
            raise ValueError(
                f"{type(self).__name__} needs four floating log-probabilities (n,), summed over tokens, got {came}"
            )
        log_w, log_l, ref_w, ref_l = (in_float32(x) for x in four)
        return self.beta * ((log_w - ref_w) - (log_l - ref_l))

    def forward(
        self,
        log_w: Float[Tensor, " n"],
        log_l: Float[Tensor, " n"],
        ref_w: Float[Tensor, " n"],
        ref_l: Float[Tensor, " n"],
    ) -> Float[Tensor, " n"]:
        return self.value(self.margin(log_w, log_l, ref_w, ref_l))

    def value(self, h: Float[Tensor, "*n"]) -> Float[Tensor, "*n"]:
        """The loss of margins of any shape."""
        raise NotImplementedError(f"{type(self).__name__} does not say what a margin costs: override value")


class DPO(MarginLoss):
    """-log sigmoid(h) + tilt h: DPO, and the family that differs from it by a term linear in h.

    Attributes:
        tilt: 0 here, eps for CDPO, -eps/(1-2eps) for RDPO.

    Example:
        >>> import torch
        >>> same = torch.zeros(1)
        >>> DPO(beta=0.1)(same, same, same, same)  # the reference itself costs log 2
        tensor([0.6931])
    """

    @property
    def tilt(self) -> float:
        """The coefficient of h."""
        return 0.0

    def value(self, h: Float[Tensor, "*n"]) -> Float[Tensor, "*n"]:
        """softplus(-h) + tilt h, finite at any finite h."""
        return softplus(-h) + self.tilt * h


class IPO(MarginLoss):
    """(h/beta - 1/(2 beta))^2, eq. 4: the log-ratio is drawn to 1/(2 beta) and no further."""

    def value(self, h: Float[Tensor, "*n"]) -> Float[Tensor, "*n"]:
        """Squared distance of the log-ratio from 1/(2 beta)."""
        return ((h - 0.5) / self.beta).square()
