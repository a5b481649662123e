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
    p: Float[Tensor, " n"], rare: Bool[Tensor, " n"], bins: int | None = None, power: int = 2
) -> float:
    """Estimated calibration error of the rare class: sum over bins of (n_b / n) |mean rare - mean p| ^ power.

    Bins hold equal numbers of rows in the order of p, the first n mod bins of them one more; ties keep the rows' order.
    As in the paper's soup study: power 2 and max(10, round(n / 100)) bins. power 1 is the usual ECE.

    Args:
        p: estimated probabilities. rare: outcomes. bins: 1..n, more are cut to n; None as above. power: 1 or 2.

    Raises:
        ValueError: no rows, bins < 1 or another power.

    Example:
        >>> calibration_error(torch.tensor([0.0, 0.5, 0.5, 1.0]), torch.tensor([False, True, False, True]), bins=2)
        0.0625
    """
    n = len(p)
    bins = max(10, round(n / 100)) if bins is None else bins
    if n < 1 or bins < 1 or power not in (1, 2):
        raise ValueError(
            f"calibration_error needs rows, bins >= 1 and power 1 or 2, got {n=}, {bins=}, {power=}"
        )
    bins = min(bins, n)
    order = p.argsort(stable=True)
    size = torch.full((bins,), n // bins)
    size[: n % bins] += 1
    at = torch.repeat_interleave(torch.arange(bins), size)
    gap = torch.zeros(bins, dtype=torch.float64).index_add_(0, at, (rare.double() - p.double())[order])
    share = size / n
    return float((share * (gap / size).abs() ** power).sum())


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
