"""Contrastive losses of two views: iSogCLR, and its baselines SimCLR (NT-Xent) and SogCLR."""

import math

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn

from lossatlas.losses import check_index
from lossatlas.papers.isogclr.pairs import log_mean_exp, two_view_differences, unit_pairs, weighted_mean
from lossatlas.papers.isogclr.states import MovingMean, Temperatures, check_gamma, check_size


class NTXent(nn.Module):
    """SimCLR's loss at a fixed temperature: cross-entropy of the positive among all 2b - 1 others.

    Args:
        tau: temperature, > 0.

    Shapes:
        e1, e2 (b, d) unit embeddings of the two views -> (b,), the mean over a sample's two anchors.

    Raises:
        ValueError: tau out of range, a batch of one sample, other shapes.

    Example:
        >>> NTXent(tau=1.0)(torch.eye(2), torch.eye(2))  # log(1 + 2 / e)
        tensor([0.5514, 0.5514])
    """

    def __init__(self, tau: float = 0.1) -> None:
        super().__init__()
        if not 0 < tau < math.inf:
            raise ValueError(f"NTXent needs finite tau > 0, got {tau=}")
        self.tau = tau

    def forward(self, e1: Float[Tensor, "b d"], e2: Float[Tensor, "b d"]) -> Float[Tensor, " b"]:
        h, own = two_view_differences(*unit_pairs(e1, e2, "NTXent"))
        # h of the positive is 0, so the loss is log(1 + sum over negatives of exp(h / tau))
        log_sum = torch.logsumexp((h / self.tau).masked_fill(own, -math.inf), dim=1)
        return torch.logaddexp(log_sum, torch.zeros_like(log_sum)).view(2, -1).mean(0)


class SogCLR(nn.Module):
    """SogCLR at a fixed temperature: eq. 2 alone, value tau log s_i.

    Args:
        tau: temperature, > 0.
        gamma: weight of the batch's mean in s_i, in (0, 1].
        n: training samples to allocate for, >= 2; None leaves it to `allocate`.

    Shapes:
        e1, e2 (b, d) unit embeddings of the two views, index (b,) positions in the data set -> (b,).

    Attributes:
        average: log_s and visits per sample, in state_dict; `allocate` before loading one.

    Raises:
        ValueError: an argument out of range; a batch of one sample; an index out of range or repeated.
    """

    indexed = True

    def __init__(self, tau: float = 0.1, gamma: float = 0.8, n: int | None = None) -> None:
        super().__init__()
        if not 0 < tau < math.inf:
            raise ValueError(f"SogCLR needs finite tau > 0, got {tau=}")
        check_gamma(gamma, "SogCLR")
        self.tau = tau
        self.average = MovingMean(gamma)
        if n is not None:
            self.allocate(n)

    def allocate(self, n: int) -> None:
        """Forget all; n samples not yet seen."""
        check_size(n, "SogCLR")
        self.average.allocate(n)

    def forward(
        self, e1: Float[Tensor, "b d"], e2: Float[Tensor, "b d"], index: Int[Tensor, " b"]
    ) -> Float[Tensor, " b"]:
        e1, e2 = unit_pairs(e1, e2, "SogCLR")
        check_index(index, len(e1), len(self.average.log_s), "SogCLR", once=True)
        h, own = two_view_differences(e1, e2)
        log_s = self.average.mixed(index, log_mean_exp(h.detach(), own, self.tau).view(2, -1))
        surrogate = weighted_mean(h, own, h.new_full((len(h),), self.tau), log_s.flatten())
        if self.training:
            self.average.store(index, log_s)
        return with_gradient_of(surrogate, self.tau * log_s.flatten()).view(2, -1).mean(0)


class ISogCLR(nn.Module):
    """iSogCLR: eq. 2 for the embeddings, eq. 3 for the temperature of each sample.

    In training mode a call moves s, u and tau of the samples in `index` once, tau after the loss of this visit.
    In eval mode nothing moves. gamma = beta = 1 is RGCL on the batch alone, without moving averages; shared = True
    learns one temperature for all.

    Args:
        rho: radius of the KL ball, >= 0, in nats.
        tau_init, tau_min, tau_max: first temperature and bounds, 0 < tau_min <= tau_init <= tau_max.
        gamma: weight of the batch's mean in s_i, in (0, 1].
        beta: weight of a new gradient in u_i, in (0, 1].
        eta: step of tau, >= 0.
        clip: largest size of tau's gradient, > 0.
        shared: one temperature instead of one per sample.
        n: training samples to allocate for, >= 2; None leaves it to `allocate`.

    Shapes:
        e1, e2 (b, d) unit embeddings of the two views, index (b,) positions in the data set -> (b,): the estimate
        tau (log s + rho) of eq. 1, averaged over the views, with the surrogate's gradient.

    Attributes:
        tau: (n,) temperatures, and log_s (n,): both in state_dict; `allocate` before loading one.

    Raises:
        ValueError: an argument out of range; a batch of one sample; an index out of range or repeated.

    Example:
        >>> loss = ISogCLR(rho=0.4, n=4)
        >>> value = loss(torch.eye(2), torch.eye(2), torch.tensor([3, 1]))
        >>> loss.tau  # equal negatives: KL = 0 < rho, so tau falls by eta beta rho; 0 and 2 were not seen
        tensor([0.1000, 0.0940, 0.1000, 0.0940])
    """

    indexed = True

    def __init__(
        self,
        rho: float = 0.4,
        tau_init: float = 0.1,
        tau_min: float = 0.05,
        tau_max: float = 1.0,
        gamma: float = 0.8,
        beta: float = 0.5,
        eta: float = 0.03,
        clip: float = 3.0,
        shared: bool = False,
        n: int | None = None,
    ) -> None:
        super().__init__()
        check_gamma(gamma, "ISogCLR")
        self.average = MovingMean(gamma)
        self.temperature = Temperatures(tau_init, tau_min, tau_max, rho, beta, eta, clip, shared)
        if n is not None:
            self.allocate(n)

    @property
    def tau(self) -> Tensor:
        """(n,) the temperature of each sample, (1,) where shared."""
        return self.temperature.tau

    @property
    def log_s(self) -> Tensor:
        """(n,) log s_i, 0 before the first visit."""
        return self.average.log_s

    def allocate(self, n: int) -> None:
        """Forget all; n samples not yet seen, at tau_init."""
        check_size(n, "ISogCLR")
        self.average.allocate(n)
        self.temperature.allocate(n)

    def forward(
        self, e1: Float[Tensor, "b d"], e2: Float[Tensor, "b d"], index: Int[Tensor, " b"]
    ) -> Float[Tensor, " b"]:
        e1, e2 = unit_pairs(e1, e2, "ISogCLR")
        check_index(index, len(e1), len(self.log_s), "ISogCLR", once=True)
        h, own = two_view_differences(e1, e2)
        tau = self.temperature.of(index).to(h.dtype).repeat(2)
        log_s = self.average.mixed(index, log_mean_exp(h.detach(), own, tau).view(2, -1))
        surrogate = weighted_mean(h, own, tau, log_s.flatten())
        estimate = log_s.flatten() + self.temperature.rho
        if self.training:
            self.average.store(index, log_s)
            self.temperature.descend(index, (estimate - surrogate.detach() / tau).view(2, -1).mean(0))
        return with_gradient_of(surrogate, tau * estimate).view(2, -1).mean(0)


def with_gradient_of(surrogate: Tensor, value: Tensor) -> Tensor:
    """The second tensor's value with the first one's gradient."""
    return value.detach() + (surrogate - surrogate.detach())
