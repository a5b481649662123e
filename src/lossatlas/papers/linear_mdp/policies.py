"""Eq. 5: what an expert algorithm plays on the losses so far; any number of states at once."""

import torch
from jaxtyping import Float
from torch import Tensor

STEPS, CLOSE = 60, 1e-13  # of Newton's method, and where it stops


def log_barrier(
    G: Float[Tensor, "*n A"], eta: Float[Tensor, "*m"] | float, start: Float[Tensor, "*n"] | None = None
) -> tuple[Float[Tensor, "*n A"], Float[Tensor, "*n"]]:
    """argmin_p <p, G> + (1 / eta) sum_a log(1 / p_a): p_a = 1 / (eta (G_a - min G) + mu) with the mu of sum p = 1.

    sum p is convex and falls in mu, so Newton's method from the left, mu = 1, rises to the root in [1, A]. From the
    right its first step lands on the left; it is kept at 1 there, hence any start will do.

    Args:
        G: losses so far, finite. eta: step size, >= 0, of each state or of all; 0 gives equal chances.
        start: mu of a problem near by, such as the last episode's.

    Returns:
        p and mu.

    Raises:
        ValueError: no action, eta negative or NaN, G not finite.

    Example:
        >>> log_barrier(torch.zeros(2), 1.0)[0]
        tensor([0.5000, 0.5000])
    """
    eta = torch.as_tensor(eta, dtype=G.dtype)
    if G.ndim < 1 or G.shape[-1] < 1 or not bool((eta >= 0).all()):
        raise ValueError(f"log_barrier needs losses (.., A) and eta >= 0, got {tuple(G.shape)}, {eta.min()}")
    gaps = eta[..., None] * (G - G.amin(dim=-1, keepdim=True))
    if not bool(gaps.isfinite().all()):
        raise ValueError("log_barrier needs finite losses G")
    mu = torch.ones_like(gaps[..., 0]) if start is None else start.clone()
    for _ in range(STEPS):
        p = 1 / (gaps + mu[..., None])
        change = (p.sum(-1) - 1) / p.square().sum(-1)
        mu = (mu + change).clamp(min=1)
        if float(change.abs().max()) < CLOSE * gaps.shape[-1]:
            break
    p = 1 / (gaps + mu[..., None])
    return p / p.sum(-1, keepdim=True), mu


def hedge(G: Float[Tensor, "*n A"], eta: Float[Tensor, "*m"] | float) -> Float[Tensor, "*n A"]:
    """Exponential weights, p_a proportional to exp(-eta G_a).

    Raises:
        ValueError: no action, eta negative or NaN.

    Example:
        >>> hedge(torch.tensor([0.0, 1e4]), 1.0)
        tensor([1., 0.])
    """
    eta = torch.as_tensor(eta, dtype=G.dtype)
    if G.ndim < 1 or G.shape[-1] < 1 or not bool((eta >= 0).all()):
        raise ValueError(f"hedge needs losses (.., A) and eta >= 0, got {tuple(G.shape)}, {eta.min()}")
    return torch.softmax(-eta[..., None] * G, dim=-1)
