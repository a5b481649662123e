"""Projections onto a ball about the origin, in the Euclidean norm and in the norm of a matrix."""

import torch
from jaxtyping import Float
from torch import Tensor

ITERATIONS = 60  # of Newton's method on the secular equation, which needs 3 to 8 from its start


def project_ball(z: Float[Tensor, "*b d"], radius: float = 1.0) -> Float[Tensor, "*b d"]:
    """The nearest point of |x| <= radius.

    Example:
        >>> project_ball(torch.tensor([[3.0, 4.0], [0.3, 0.4]]))
        tensor([[0.6000, 0.8000],
                [0.3000, 0.4000]])
    """
    norm = torch.linalg.vector_norm(z, dim=-1, keepdim=True)
    return z * (radius / norm.clamp(min=radius))


def project_ball_in_norm(
    z: Float[Tensor, "*b d"], H: Float[Tensor, "*b d d"], radius: float = 1.0
) -> Float[Tensor, "*b d"]:
    """argmin of (x - z)^T H (x - z) over |x| <= radius: x = (H + mu I)^-1 H z with the mu >= 0 at which |x| = radius.

    mu solves 1 / |x(mu)| = 1 / radius, which is concave and increasing in mu and close to linear, by Newton's method
    from mu = 0: the iterates rise to the root and never pass it.

    Args:
        z: points.
        H: symmetric, positive definite.
        radius: > 0.

    Example:
        >>> project_ball_in_norm(torch.tensor([3.0, 4.0]), torch.eye(2))
        tensor([0.6000, 0.8000])
    """
    outside = torch.linalg.vector_norm(z, dim=-1) > radius
    if not bool(outside.any()):
        return z
    w, U = torch.linalg.eigh(H)
    c = (U.mT @ z[..., None])[..., 0]
    mu = torch.zeros_like(c[..., :1])
    for _ in range(ITERATIONS):
        part = w * c / (w + mu)
        norm2 = part.square().sum(-1, keepdim=True)
        slope = (part.square() / (w + mu)).sum(-1, keepdim=True)  # minus half the derivative of norm2
        step = (norm2 / slope) * (norm2.sqrt() / radius - 1)
        step = torch.where(outside[..., None], step.clamp(min=0.0), 0.0)
        mu = mu + step
        if bool((step <= 1e-13 * (1 + mu)).all()):
            break
    x = (U @ (w * c / (w + mu))[..., None])[..., 0]
    return torch.where(outside[..., None], project_ball(x, radius), z)
