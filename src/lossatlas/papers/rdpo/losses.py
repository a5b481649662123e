"""Losses of a preference pair, eqs. 2 to 4 of the room's head; DPO and IPO stand in text/losses.py."""

from jaxtyping import Float
from torch import Tensor

from lossatlas.losses import in_float32
from lossatlas.text.losses import DPO, IPO, MarginLoss


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
        return -in_float32(log_w)
