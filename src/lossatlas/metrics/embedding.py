"""How good an embedding is: retrieval among its own rows, and a linear probe.

torchmetrics' RetrievalHitRate is recall@k here, computed query by query in Python; MAP@R it does not have.
"""

from collections.abc import Iterator, Sequence

import numpy as np
import torch
from jaxtyping import Float, Int
from torch import Tensor

ROWS = 1024  # queries at a time, so that memory is ROWS n


def squared_distances(a: Float[Tensor, "n d"], b: Float[Tensor, "m d"]) -> Float[Tensor, "n m"]:
    """|a_i - b_j|^2 by one matrix product of centred rows; differentiable, never below 0.

    Its error is about 1e-6 (float32) of the squared size of the centred rows, so that distances below a thousandth of
    that size should be asked in float64.

    Example:
        >>> squared_distances(torch.zeros(1, 2), torch.tensor([[3.0, 4.0]]))
        tensor([[25.]])
    """
    centre = b.mean(0).detach()
    a, b = a - centre, b - centre
    return (a.square().sum(1)[:, None] + b.square().sum(1) - 2 * a @ b.mT).clamp(min=0)


def _ranked(z: Float[Tensor, "n d"], y: Int[Tensor, " n"], k: int) -> Iterator[tuple[Tensor, Tensor]]:
    """Blocks of queries: whether each of their k nearest other rows has their label, and those labels."""
    if not 1 <= k < len(z) or len(z) != len(y):
        raise ValueError(
            f"retrieval needs k in 1..{len(z) - 1} and a label a row, got {k=}, {len(z)=}, {len(y)=}"
        )
    if not torch.isfinite(z).all():
        raise ValueError("embeddings are not finite: an order of their distances would be arbitrary")
    for rows in torch.arange(len(z), device=z.device).split(ROWS):
        distances = squared_distances(z[rows], z)
        distances[torch.arange(len(rows), device=z.device), rows] = torch.inf  # a query does not find itself
        nearest = distances.topk(k, dim=1, largest=False).indices
        yield y[nearest] == y[rows][:, None], y[rows]


@torch.no_grad()
def recall_at_k(
    z: Float[Tensor, "n d"], y: Int[Tensor, " n"], ks: Sequence[int] = (1, 2, 4)
) -> dict[int, float]:
    """Share of rows with a row of their label among their k nearest others, for every k (leave one out).

    Args:
        z: embeddings; normalised ones give the order of cosines.
        y: labels. A row that is alone with its label counts as a miss.
        ks: 1 <= k < n.

    Raises:
        ValueError: k out of range, or embeddings that are not finite.

    Example:
        >>> recall_at_k(torch.tensor([[0.0], [1.0], [3.0], [3.5]]), torch.tensor([0, 1, 1, 0]), ks=(1, 2))
        {1: 0.0, 2: 0.5}
    """
    hits = [hit.cumsum(1) > 0 for hit, _ in _ranked(z, y, max(ks))]
    found = torch.cat(hits).double().mean(0)
    return {k: float(found[k - 1]) for k in ks}


@torch.no_grad()
def map_at_r(z: Float[Tensor, "n d"], y: Int[Tensor, " n"]) -> float:
    """MAP@R: mean over rows of (1/R) sum_{k <= R} precision@k [row k is right], R the other rows of the label.

    From Musgrave, Belongie, Lim (ECCV 2020), eq. 2. Rows that are alone with their label have no R and are left out.

    Raises:
        ValueError: every label once, or embeddings that are not finite.

    Example:
        >>> round(map_at_r(torch.tensor([[0.0], [1.0], [1.5], [9.0]]), torch.tensor([0, 0, 1, 0])), 4)
        0.3333
    """
    _, number, counts = y.unique(return_inverse=True, return_counts=True)
    R = counts[number] - 1
    if len(y) == 0 or int(R.max()) == 0:
        raise ValueError("MAP@R needs a label that two rows share")
    longest = min(int(R.max()), len(z) - 1)
    place = torch.arange(1, longest + 1, device=z.device)
    parts, at = [], 0
    for hit, labels in _ranked(z, y, longest):
        r = R[at : at + len(labels)]
        at += len(labels)
        right = (hit & (place <= r[:, None])).double()
        parts.append(((right.cumsum(1) / place * right).sum(1) / r.clamp(min=1))[r > 0])
    return float(torch.cat(parts).mean())


def linear_probe(
    z: Float[Tensor, "n d"],
    y: Int[Tensor, " n"],
    z_test: Float[Tensor, "m d"],
    y_test: Int[Tensor, " m"],
    l2: float = 1e-4,
    standardise: bool = False,
    steps: int = 1000,
) -> float:
    """Test accuracy of scikit-learn's logistic regression (L-BFGS): mean loss + l2 / 2 |W|^2, the bias free.

    Args:
        l2: > 0; scikit-learn's C is 1 / (n l2).
        standardise: by the training rows' mean and deviation. steps: at most.

    Raises:
        ValueError: l2 out of range, one label only, or features that are not finite.

    Example:
        >>> z, y = torch.tensor([[-1.0], [-2.0], [1.0], [2.0]]), torch.tensor([0, 0, 1, 1])
        >>> linear_probe(z, y, z, y)
        1.0
    """
    from sklearn.linear_model import LogisticRegression
    from sklearn.pipeline import make_pipeline
    from sklearn.preprocessing import StandardScaler

    if not 0 < l2 < float("inf"):
        raise ValueError(f"linear_probe needs a finite l2 > 0, got {l2}")
    model = LogisticRegression(C=1 / (len(z) * l2), max_iter=steps)
    whole = make_pipeline(StandardScaler(), model) if standardise else model
    arrays = [t.detach().cpu().double().numpy() for t in (z, z_test)]
    whole.fit(arrays[0], y.cpu().numpy())
    return float(np.mean(whole.predict(arrays[1]) == y_test.cpu().numpy()))
