"""What the study measures: error and calibration of the rare class, and where slopes were found to move."""

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor


def rare_mse(p: Float[Tensor, "*b n"], truth: Float[Tensor, "*b n"]) -> Float[Tensor, "*b"]:
    """Mean squared error of the estimated rare-class probability against the true one.

    Example:
        >>> rare_mse(torch.tensor([0.1, 0.3]), torch.tensor([0.0, 0.0]))
        tensor(0.0500)
    """
    return (p - truth).square().mean(-1)


def calibration_error(
    p: Float[Tensor, "*b n"], rare: Bool[Tensor, "*b n"], bins: int | None = None
) -> Float[Tensor, "*b"]:
    """Estimated calibration error of the rare class: sum over bins of (n_b / n) (share of rare rows - mean p)^2.

    Bins hold equal numbers of rows in the order of p, the first n mod bins of them one more; ties keep the rows' order.
    Bins are those of the paper's code, the error is not: there each row's own p is compared with its bin's share, here
    the bin's mean p, so that a spread of p inside a bin costs nothing.

    Args:
        p: estimated probabilities. rare: outcomes. bins: 1..n, more are cut to n; None: max(10, round(n / 100)).

    Raises:
        ValueError: no rows, or bins < 1.

    Example:
        >>> calibration_error(torch.tensor([0.0, 0.5, 0.5, 1.0]), torch.tensor([False, True, False, True]), bins=2)
        tensor(0.0625, dtype=torch.float64)
    """
    n = p.shape[-1]
    bins = max(10, round(n / 100)) if bins is None else bins
    if n < 1 or bins < 1:
        raise ValueError(f"calibration_error needs rows and bins >= 1, got {n=}, {bins=}")
    bins = min(bins, n)
    gap = (rare.double() - p.double()).gather(-1, p.argsort(dim=-1, stable=True))
    size = torch.full((bins,), n // bins, device=p.device)
    size[: n % bins] += 1
    at = torch.repeat_interleave(torch.arange(bins, device=p.device), size).expand_as(gap)
    total = gap.new_zeros(*p.shape[:-1], bins).scatter_add_(-1, at, gap)
    share = size.to(gap) / n
    return (share * (total / size).square()).sum(-1)


def support_f1(psi: Float[Tensor, "*b k p"], truth: Float[Tensor, "*b k p"]) -> Float[Tensor, "*b"]:
    """F1 of {psi_kj != 0, k >= 2} against the true set; 0 where they share nothing, 1 where both are empty.

    Example:
        >>> support_f1(torch.tensor([[9.0, 9.0], [0.1, 0.2]]), torch.tensor([[0.5, 0.0], [0.5, 0.0]]))
        tensor(0.6667)
    """
    found, real = (t[..., 1:, :].flatten(-2) != 0 for t in (psi, truth))
    hit, size = (found & real).sum(-1), found.sum(-1) + real.sum(-1)
    return torch.where(size > 0, 2 * hit / size.clamp_min(1), 1.0)


def n_moves(psi: Float[Tensor, "*b k p"]) -> Int[Tensor, "*b"]:
    """Number of non-zero psi_kj with k >= 2."""
    return (psi[..., 1:, :] != 0).sum((-2, -1))


def keep_largest(psi: Float[Tensor, "*b k p"], count: Int[Tensor, "*b"]) -> Float[Tensor, "*b k p"]:
    """psi with only the `count` largest |psi_kj|, k >= 2, of each problem kept; psi_1 stays.

    Example:
        >>> keep_largest(torch.tensor([[9.0, 9.0], [0.1, -0.2]]), torch.tensor(1))
        tensor([[ 9.0000,  9.0000],
                [ 0.0000, -0.2000]])
    """
    rest = psi[..., 1:, :].flatten(-2)
    rank = rest.abs().argsort(dim=-1, descending=True, stable=True).argsort(dim=-1)
    kept = torch.where(rank < count[..., None], rest, 0.0)
    return torch.cat([psi[..., :1, :], kept.view_as(psi[..., 1:, :])], -2)
