"""How close samples are to data in a feature space: precision and recall by neighbours, and a distance of Gaussians."""

import torch
from jaxtyping import Float
from torch import Tensor


def precision_recall(
    real: Float[Tensor, "n f"], made: Float[Tensor, "m f"], k: int = 3
) -> tuple[float, float]:
    """Improved precision and recall (Kynkaanniemi et al., 2019).

    Precision is the share of made points within the k-th neighbour's distance of some real point; recall exchanges
    the two sets.

    Args:
        k: neighbours, 1 <= k < min(n, m); a point is not its own neighbour.

    Raises:
        ValueError: k out of range.

    Example:
        >>> precision_recall(torch.arange(9.0)[:, None], torch.arange(3.0)[:, None], k=1)
        (1.0, 0.4444444477558136)
    """
    if not 1 <= k < min(len(real), len(made)):
        raise ValueError(
            f"precision_recall needs 1 <= k < the size of both sets, got {k=}, {len(real)}, {len(made)}"
        )
    between = torch.cdist(real, made)
    precision = (between <= _radii(real, k)[:, None]).any(dim=0)
    recall = (between <= _radii(made, k)[None]).any(dim=1)
    return float(precision.float().mean()), float(recall.float().mean())


def _radii(x: Tensor, k: int) -> Tensor:
    """Distance of every point to its k-th neighbour."""
    # no matrix product: its rounding would give equal points a distance
    apart = torch.cdist(x, x, compute_mode="donot_use_mm_for_euclid_dist")
    return apart.kthvalue(k + 1, dim=1).values


def feature_distance(real: Float[Tensor, "n f"], made: Float[Tensor, "m f"]) -> float:
    """Frechet distance of the Gaussians with the two sets' means and covariances.

    With the features of a network of one's own this is no FID, and numbers of different networks do not compare.

    Example:
        >>> x = torch.tensor([[-1.0], [1.0]])
        >>> round(feature_distance(x, x + 3), 6)
        9.0
    """
    (mean_r, C_r), (mean_m, C_m) = (
        (x.double().mean(0), torch.cov(x.double().T).reshape(x.shape[1], -1)) for x in (real, made)
    )
    values, vectors = torch.linalg.eigh(C_r)
    root = vectors @ torch.diag(values.clamp(min=0).sqrt()) @ vectors.T
    cross = torch.linalg.eigvalsh(root @ C_m @ root).clamp(min=0).sqrt().sum()
    return float((mean_r - mean_m).square().sum() + C_r.trace() + C_m.trace() - 2 * cross)
