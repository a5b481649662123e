"""The neural tangent kernel of the quadratic network, and what a machine with the initial one would learn."""

import math

import torch
from jaxtyping import Float
from scipy.optimize import brentq
from torch import Tensor


def kernel(
    X: Float[Tensor, "*R n D"],
    Z: Float[Tensor, "*R m D"],
    w: Float[Tensor, "*R D"],
    M: Float[Tensor, "*R D D"],
    e: Float[Tensor, "*R"],
) -> Float[Tensor, "*R n m"]:
    """K(x, z) = mean_i phi'(w_i.x) phi'(w_i.z) x.z (eq. 4), from the moments w, M of the weights.

    The gradient's own kernel is alpha^2 / N times this.

    Example:
        >>> one = torch.ones(1, 1)
        >>> kernel(2 * one, 3 * one, torch.ones(1), one, torch.tensor(0.5))  # (1 + 1)(1 + 1.5) 6
        tensor([[30.]])
    """
    e = e[..., None, None]
    xw, zw = X @ w[..., None], (Z @ w[..., None]).mT
    return (1 + e * (xw + zw) + e.square() * (X @ M @ Z.mT)) * (X @ Z.mT)


def combine(
    c: Float[Tensor, "*R P"],
    X: Float[Tensor, "*R P D"],
    w: Float[Tensor, "*R D"],
    M: Float[Tensor, "*R D D"],
    e: Float[Tensor, "*R"],
) -> tuple[Float[Tensor, "*R D"], Float[Tensor, "*R D D"]]:
    """sum_mu c_mu K(., x_mu) as linear.x + x' quadratic x, what `gaussian_error` takes; quadratic is symmetric."""
    scale, column = e[..., None, None], X.mT @ c[..., None]
    linear = column + scale * (X.mT @ (c[..., None] * (X @ w[..., None])))
    Q = scale * (w[..., None] @ column.mT) + scale.square() * (M @ (X.mT @ (c[..., None] * X)))
    return linear.squeeze(-1), (Q + Q.mT) / 2


def min_norm(K: Float[Tensor, "P P"], y: Float[Tensor, " P"], rtol: float = 1e-10) -> Float[Tensor, " P"]:
    """Coefficients of the minimum-norm kernel interpolant (least squares where none fits): pseudo-inverse of K on y.

    Args:
        K: positive semi-definite.
        y: targets.
        rtol: eigenvalues below rtol times the largest count as 0.
    """
    return torch.linalg.pinv(K, rtol=rtol, hermitian=True) @ y


def flow_until(K: Float[Tensor, "P P"], y: Float[Tensor, " P"], level: float) -> Float[Tensor, " P"]:
    """Coefficients of the gradient flow of the kernel K, from f = 0 to where mean (f - y)^2 is level times its start.

    Exact: the residual is exp(-K t) y, the coefficients are K^-1 (1 - exp(-K t)) y, and t solves one equation.

    Args:
        K: positive semi-definite.
        y: targets.
        level: in (0, 1).

    Raises:
        ValueError: level outside (0, 1), or below what the kernel's null space leaves.
    """
    if not 0 < level < 1:
        raise ValueError(f"flow_until needs a level in (0, 1), got {level}")
    values, vectors = torch.linalg.eigh(K)
    top = values[-1]
    values = values.clamp(min=0.0) / top  # time in units of the fastest direction
    target = vectors.mT @ y
    weight = target.square() / target.square().sum()

    def excess(log_t: float) -> float:
        return float((weight * torch.exp(-2 * values * math.exp(log_t))).sum()) - level

    if excess(30.0) > 0:
        raise ValueError(f"the kernel's flow does not reach {level} of the starting loss: raise the level")
    t = math.exp(float(brentq(excess, -30.0, 30.0, xtol=1e-12)))  # type: ignore[arg-type]
    scale = torch.where(
        values * t > 1e-12, -torch.expm1(-values * t) / values.clamp(min=1e-300), torch.full_like(values, t)
    )
    return vectors @ (scale * target) / top


def alignment(K: Float[Tensor, "*R P P"], y: Float[Tensor, "*R P"]) -> Float[Tensor, "*R"]:
    """Centred kernel alignment of K with y y', in [0, 1] for a positive semi-definite K.

    Example:
        >>> y = torch.tensor([1.0, -1.0, 0.0])
        >>> alignment(torch.outer(y, y), y)
        tensor(1.)
    """
    y = y - y.mean(dim=-1, keepdim=True)
    K = K - K.mean(dim=-1, keepdim=True)
    K = K - K.mean(dim=-2, keepdim=True)
    agree = (y[..., None, :] @ K @ y[..., None])[..., 0, 0]
    return agree / (K.square().sum(dim=(-2, -1)).sqrt() * y.square().sum(dim=-1))
