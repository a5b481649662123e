"""Eqs. 1 to 4: covariance and its inverse, the two estimates of Q, the dilated bonus; resampling for the inverse."""

import torch
from jaxtyping import Float
from torch import Tensor

from lossatlas.papers.linear_mdp.mdp import LinearMDP


def covariance(q: Float[Tensor, "*R S A"], phi: Float[Tensor, "*R S A d"]) -> Float[Tensor, "*R d d"]:
    """E phi phi^T over chances q of states and actions."""
    rows = phi.flatten(-3, -2)
    return rows.mT @ (q.flatten(-2)[..., None] * rows)


def regularised_inverse(
    Sigma: Float[Tensor, "*R d d"], gamma: Float[Tensor, "*R2"] | float
) -> Float[Tensor, "*R d d"]:
    """Eq. 1: (gamma I + Sigma)^-1.

    Args:
        gamma: > 0, or 0 where Sigma has full rank; of each matrix or of all.

    Raises:
        ValueError: Sigma not square, gamma negative or NaN.

    Example:
        >>> regularised_inverse(torch.eye(2), 1.0)
        tensor([[0.5000, 0.0000],
                [0.0000, 0.5000]])
    """
    gamma = torch.as_tensor(gamma, dtype=Sigma.dtype)
    if Sigma.ndim < 2 or Sigma.shape[-1] != Sigma.shape[-2] or not bool((gamma >= 0).all()):
        raise ValueError(f"needs Sigma (.., d, d) and gamma >= 0, got {tuple(Sigma.shape)} and {gamma.min()}")
    return torch.linalg.inv(Sigma + gamma[..., None, None] * torch.eye(Sigma.shape[-1], dtype=Sigma.dtype))


def resampled_inverse(
    features: Float[Tensor, "*R M N d"], gamma: float, c: float = 0.5
) -> Float[Tensor, "*R d d"]:
    """Matrix geometric resampling: c sum_{n=0}^N prod_{i<=n} (I - c (gamma I + phi_i phi_i^T)), averaged over M runs.

    Args:
        features: M N samples of phi, norm <= 1. gamma: in (0, 1). c: in (0, 1 / (1 + gamma)].

    Raises:
        ValueError: gamma or c out of range.
    """
    if not (0 < gamma < 1 and 0 < c <= 1 / (1 + gamma)):
        raise ValueError(f"resampling needs 0 < gamma < 1 and 0 < c <= 1 / (1 + gamma), got {gamma=}, {c=}")
    d = features.shape[-1]
    product = torch.eye(d, dtype=features.dtype).expand(*features.shape[:-2], d, d)
    total = product.clone()
    for phi in features.unbind(dim=-2):
        # a product with a rank-one change: P (I - c gamma I - c phi phi^T)
        product = (1 - c * gamma) * product - c * (product @ phi[..., None]) * phi[..., None, :]
        total += product
    return c * total.mean(dim=-3)


def projections(
    phi: Float[Tensor, "*R S A d"], Sinv: Float[Tensor, "*R d d"], played: Float[Tensor, "*R d"]
) -> Float[Tensor, "*R S A"]:
    """Z of eq. 2: phi(s,a)^T Sinv phi(s_h,a_h)."""
    return (phi @ (Sinv @ played[..., None])[..., None, :, :])[..., 0]


def estimate(Z: Float[Tensor, "*R S A"], L: Float[Tensor, "*R"]) -> Float[Tensor, "*R S A"]:
    """Eq. 2 for losses L that were paid from the layer on."""
    return Z * L[..., None, None]


def reduced_estimate(
    Z: Float[Tensor, "*R S A"],
    L: Float[Tensor, "*R"],
    phi: Float[Tensor, "*R S A d"],
    Sinv: Float[Tensor, "*R d d"],
    q: Float[Tensor, "*R S A"],
    most: Float[Tensor, "*R2"],
) -> Float[Tensor, "*R S A"]:
    """Eq. 3: the mean of eq. 2 over the played pair, and never below -most / sqrt(gamma).

    Args:
        Z, L: of the played pair, as in `estimate`; 0 <= L <= most.
        q: chances of the pairs, with which Sinv was made.
        most: H - h, the largest that L can be, broadcast against L.
    """
    rows = phi.flatten(-3, -2)
    low = ((rows @ Sinv) @ rows.mT).clamp(max=0) @ q.flatten(-2)[..., None]
    shift = low[..., 0].unflatten(-1, phi.shape[-3:-1])
    return estimate(Z, L) + most[..., None, None] * (shift - Z.clamp(max=0))


def squared_norms(phi: Float[Tensor, "*R S A d"], Sinv: Float[Tensor, "*R d d"]) -> Float[Tensor, "*R S A"]:
    """|phi(s,a)|^2 in the norm of Sinv."""
    return ((phi @ Sinv[..., None, :, :]) * phi).sum(-1)


def bonus(
    mdp: LinearMDP, pi: Float[Tensor, "R H S A"], Sinv: Float[Tensor, "R H d d"], beta: Float[Tensor, " R"]
) -> tuple[Float[Tensor, "R H S A"], Float[Tensor, "R H S A"]]:
    """Eq. 4: the dilated bonus B, and b, what a layer itself adds.

    Args:
        beta: >= 0; at 0 both are 0.
    """
    norms, H = squared_norms(mdp.phi, Sinv), pi.shape[1]
    own = beta[:, None, None, None] * (norms + (pi * norms).sum(-1, keepdim=True))
    found = [own[:, -1]]
    for h in range(H - 2, -1, -1):
        ahead = (pi[:, h + 1] * found[0]).sum(-1)
        found.insert(0, own[:, h] + (1 + 1 / H) * torch.einsum("rsat,rt->rsa", mdp.P[:, h], ahead))
    return torch.stack(found, dim=1), own
