"""Anchors against negatives: h, its log-mean-exp, and the robust global contrastive loss (eq. 1)."""

import math

import torch
from jaxtyping import Bool, Float
from torch import Tensor

from lossatlas.losses import in_float32


def unit_pairs(e1: Tensor, e2: Tensor, name: str) -> tuple[Tensor, Tensor]:
    """Both embeddings in a precision to compute in: float16 and bfloat16 become float32.

    Raises:
        ValueError: not two floating (b, d) of one shape, or fewer than two samples.
    """
    if e1.ndim != 2 or e1.shape != e2.shape or not e1.is_floating_point() or e1.dtype != e2.dtype:
        came = f"{tuple(e1.shape)} {e1.dtype} and {tuple(e2.shape)} {e2.dtype}"
        raise ValueError(f"{name} needs two floating embeddings (b, d) of one shape and dtype, got {came}")
    if len(e1) < 2:
        raise ValueError(
            f"{name} needs a batch of at least 2 samples, got {len(e1)}: negatives are the other samples"
        )
    return in_float32(e1), in_float32(e2)


def two_view_differences(
    e1: Float[Tensor, "b d"], e2: Float[Tensor, "b d"]
) -> tuple[Float[Tensor, "a a"], Bool[Tensor, "a a"]]:
    """h_i(z) of the 2b anchors (all first views, then all second) against all 2b embeddings, and what is no negative.

    Returns:
        h (2b, 2b), and own (2b, 2b): True at the anchor itself and at its positive.
    """
    e, positive = torch.cat([e1, e2]), (e1 * e2).sum(1).repeat(2)
    own = torch.eye(len(e1), dtype=torch.bool, device=e.device).repeat(2, 2)
    return e @ e.T - positive[:, None], own


def log_mean_exp(
    h: Float[Tensor, "a z"], own: Bool[Tensor, "a z"], tau: Float[Tensor, " a"] | float
) -> Float[Tensor, " a"]:
    """log of the mean of exp(h / tau) over each anchor's negatives; finite where exp overflows."""
    tau = tau[:, None] if isinstance(tau, Tensor) else tau
    x = (h / tau).masked_fill(own, -math.inf)
    return torch.logsumexp(x, dim=1) - torch.log((~own).sum(1).to(h.dtype))


def rgcl(
    h: Float[Tensor, "a z"], own: Bool[Tensor, "a z"], tau: Float[Tensor, " a"] | float, rho: float
) -> Float[Tensor, " a"]:
    """Eq. 1 of each anchor: tau log mean_z exp(h / tau) + tau rho, over the entries that are not its own.

    It is the dual of max_p sum_z p_z h_z over KL(p, uniform) <= rho.

    Args:
        h: differences of similarities.
        own: True where an entry is no negative.
        tau: temperature, > 0, in units of h.
        rho: radius of the ball, >= 0, in nats.

    Raises:
        ValueError: rho < 0 or tau not positive.

    Example:
        >>> rgcl(torch.tensor([[0.0, 1.0, 1.0]]), torch.tensor([[True, False, False]]), 0.5, 0.0)
        tensor([1.])
    """
    low = float(tau.detach().min()) if isinstance(tau, Tensor) else tau
    if not (low > 0 and 0 <= rho < math.inf):
        raise ValueError(f"rgcl needs tau > 0 and finite rho >= 0, got tau={low}, {rho=}")
    return tau * log_mean_exp(h, own, tau) + tau * rho


def weighted_mean(
    h: Float[Tensor, "a z"], own: Bool[Tensor, "a z"], tau: Float[Tensor, " a"], log_s: Float[Tensor, " a"]
) -> Float[Tensor, " a"]:
    """The surrogate of eq. 2: mean over negatives of p h, p = exp(h / tau) / s without gradient.

    At most 1 / gamma of weight, because s holds at least gamma of the batch's own mean.
    """
    with torch.no_grad():
        p = torch.exp((h / tau[:, None]).masked_fill(own, -math.inf) - log_s[:, None])
        p /= (~own).sum(1, keepdim=True)
    return (p * h).sum(1)
