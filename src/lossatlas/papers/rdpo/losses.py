"""Losses of a preference pair, eqs. 1 to 4 of the room's head."""

import math

from jaxtyping import Float
from torch import Tensor, nn
from torch.nn.functional import softplus


class MarginLoss(nn.Module):
    """A loss of the margin h alone: one value per pair, not reduced.

    Args:
        beta: price of leaving the reference, > 0, in units of 1 / nats.
        eps: assumed chance that a given preference is flipped, in [0, 1/2).

    Shapes:
        log_w, log_l, ref_w, ref_l (n,) float: log-probabilities of winner and loser under policy and
        reference, summed over response tokens -> (n,) float.

    Raises:
        ValueError: beta <= 0, eps outside [0, 1/2), either not finite, or shapes that differ.
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
        if not log_w.shape == log_l.shape == ref_w.shape == ref_l.shape:
            shapes = [tuple(x.shape) for x in (log_w, log_l, ref_w, ref_l)]
            raise ValueError(
                f"{type(self).__name__} needs four log-probabilities per pair, got shapes {shapes}"
            )
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


class CDPO(DPO):
    """Conservative DPO, eq. 3: label smoothing. Biased: its minimiser is even smaller than DPO's on flipped pairs."""

    @property
    def tilt(self) -> float:
        """eps."""
        return self.eps


class RDPO(DPO):
    """Robust DPO, eq. 2: its mean over flips with chance eps is DPO of the clean pair.

    Not bounded below for eps > 0 (it falls like -eps h/(1-2eps)): bound the policy or stop early.

    Example:
        >>> import torch
        >>> pi, ref = torch.tensor([-3.0, -5.0]), torch.tensor([-4.0, -4.0])  # moved towards the winner
        >>> RDPO(beta=0.5, eps=0.25)(pi[:1], pi[1:], ref[:1], ref[1:])  # h = 1: softplus(-1) - 1/2
        tensor([-0.1867])
    """

    @property
    def tilt(self) -> float:
        """-eps / (1 - 2 eps)."""
        return -self.eps / (1 - 2 * self.eps)


class IPO(MarginLoss):
    """(h/beta - 1/(2 beta))^2, eq. 4: the log-ratio is drawn to 1/(2 beta) and no further."""

    def value(self, h: Float[Tensor, "*n"]) -> Float[Tensor, "*n"]:
        """Squared distance of the log-ratio from 1/(2 beta)."""
        return ((h - 0.5) / self.beta).square()


class RIPO(IPO):
    """Robust IPO: eq. 2 with IPO for l, which is IPO less (2 eps/(1-2eps)) h/beta^2; convex."""

    def value(self, h: Float[Tensor, "*n"]) -> Float[Tensor, "*n"]:
        """Unbiased for IPO's value of the clean pair."""
        return super().value(h) - 2 * self.eps / (1 - 2 * self.eps) * h / self.beta**2


class SLiC(MarginLoss):
    """max(0, 1 - h), the hinge of eq. 4."""

    def value(self, h: Float[Tensor, "*n"]) -> Float[Tensor, "*n"]:
        """Zero from a margin of 1 on."""
        return (1 - h).clamp(min=0)


class RSLiC(SLiC):
    """Robust SLiC: eq. 2 with the hinge for l; unbiased, but neither convex nor bounded below."""

    def value(self, h: Float[Tensor, "*n"]) -> Float[Tensor, "*n"]:
        """Unbiased for the hinge of the clean pair."""
        own, flipped = super().value(h), super().value(-h)
        return ((1 - self.eps) * own - self.eps * flipped) / (1 - 2 * self.eps)


class SFT(MarginLoss):
    """-log pi(w|s), the likelihood of the given winners: no margin, no reference."""

    def forward(
        self,
        log_w: Float[Tensor, " n"],
        log_l: Float[Tensor, " n"],
        ref_w: Float[Tensor, " n"],
        ref_l: Float[Tensor, " n"],
    ) -> Float[Tensor, " n"]:
        self.margin(log_w, log_l, ref_w, ref_l)  # the same shapes as every other loss
        return -log_w
