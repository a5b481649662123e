"""What is remembered of each training sample: the moving average s_i (eq. 2) and the temperature tau_i (eq. 3)."""

import math

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn

from lossatlas.ema import log_ema
from lossatlas.losses import put_finite


class MovingMean(nn.Module):
    """s_i <- (1 - gamma) s_i + gamma g_i on the logarithm, so that no exp(h / tau) has to fit a float.

    Args:
        gamma: weight of the new value, in (0, 1].

    Attributes:
        log_s: buffer (n,). visits: buffer (n,) int64; before the first visit log_s is 0 and not used.
        skipped: buffer, int64, values left out because they were not finite: no visit.
    """

    log_s: Tensor
    visits: Tensor
    skipped: Tensor

    def __init__(self, gamma: float) -> None:
        super().__init__()
        self.gamma = gamma
        self.register_buffer("log_s", torch.empty(0))
        self.register_buffer("visits", torch.empty(0, dtype=torch.int64))
        self.register_buffer("skipped", torch.zeros((), dtype=torch.int64), persistent=False)

    def allocate(self, n: int) -> None:
        """n samples that were never visited; device and dtype stay."""
        self.log_s, self.visits = self.log_s.new_zeros(n), self.visits.new_zeros(n)

    @torch.no_grad()
    def mixed(self, index: Int[Tensor, " b"], log_g: Float[Tensor, "v b"]) -> Float[Tensor, "v b"]:
        """log s^(v) of each view: the stored value moved towards log_g, log_g itself at a first visit."""
        old, log_g = self.log_s[index].to(log_g.dtype), log_g.detach()
        return log_ema(old, log_g, self.gamma, self.visits[index] == 0)

    @torch.no_grad()
    def store(self, index: Int[Tensor, " b"], log_s: Float[Tensor, "v b"]) -> None:
        """The mean of the views' s becomes the sample's, where it is finite."""
        good = put_finite(self.log_s, index, torch.logsumexp(log_s, dim=0) - math.log(len(log_s)))
        self.visits[index] += good
        self.skipped += (~good).sum()


class Temperatures(nn.Module):
    """tau_i by averaged, clipped gradient steps: eq. 3.

    Args:
        tau_init, tau_min, tau_max: first value and bounds, 0 < tau_min <= tau_init <= tau_max.
        rho: radius of the KL ball, >= 0, in nats.
        beta: weight of a new gradient, in (0, 1].
        eta: step, >= 0; 0 leaves tau_init.
        clip: largest size of a gradient, > 0.
        shared: one temperature for all samples, moved by the batch's mean gradient.

    Attributes:
        tau, u: buffers (n,), or (1,) where shared. A gradient that is not finite moves neither.

    Raises:
        ValueError: an argument out of range, or bounds out of order.
    """

    tau: Tensor
    u: Tensor

    def __init__(
        self,
        tau_init: float,
        tau_min: float,
        tau_max: float,
        rho: float,
        beta: float,
        eta: float,
        clip: float,
        shared: bool = False,
    ) -> None:
        super().__init__()
        if not 0 < tau_min <= tau_init <= tau_max < math.inf:
            raise ValueError(
                f"temperatures need 0 < tau_min <= tau_init <= tau_max, got {tau_min=}, {tau_init=}, {tau_max=}"
            )
        if not (0 <= rho < math.inf and 0 < beta <= 1 and 0 <= eta < math.inf and clip > 0):
            needs = "finite rho >= 0 and eta >= 0, beta in (0, 1] and clip > 0"
            raise ValueError(f"temperatures need {needs}, got {rho=}, {eta=}, {beta=}, {clip=}")
        self.tau_init, self.tau_min, self.tau_max, self.rho = tau_init, tau_min, tau_max, rho
        self.beta, self.eta, self.clip, self.shared = beta, eta, clip, shared
        self.register_buffer("tau", torch.empty(0))
        self.register_buffer("u", torch.empty(0))

    def allocate(self, n: int) -> None:
        """tau_init for n samples; device and dtype stay."""
        size = 1 if self.shared else n
        self.tau, self.u = self.tau.new_full((size,), self.tau_init), self.u.new_zeros(size)

    def of(self, index: Int[Tensor, " b"]) -> Float[Tensor, " b"]:
        """The samples' temperatures."""
        return self.tau.expand(len(index)) if self.shared else self.tau[index]

    @torch.no_grad()
    def descend(self, index: Int[Tensor, " b"], gradient: Float[Tensor, " b"]) -> None:
        """One step down the gradient, averaged over the views of each sample."""
        d = gradient.detach().to(self.u.dtype).clamp(-self.clip, self.clip)
        rows = torch.zeros(1, dtype=torch.int64, device=index.device) if self.shared else index
        d = d.mean(0, keepdim=True) if self.shared else d
        u = torch.lerp(self.u[rows], d, self.beta)
        tau = (self.tau[rows] - self.eta * u).clamp(self.tau_min, self.tau_max)
        put_finite(self.u, rows, u)
        put_finite(self.tau, rows, tau)


def check_size(n: int, name: str) -> None:
    """Raises ValueError where fewer than two samples are allocated for."""
    if isinstance(n, bool) or not isinstance(n, int) or n < 2:
        raise ValueError(f"{name} needs n >= 2 training samples (negatives are other samples), got {n=}")


def check_gamma(gamma: float, name: str) -> None:
    """Raises ValueError where gamma is outside (0, 1]."""
    if not 0 < gamma <= 1:
        raise ValueError(f"{name} needs gamma in (0, 1], the weight of the new mean, got {gamma=}")
