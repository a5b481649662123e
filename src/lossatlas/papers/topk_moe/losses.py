"""Eq. 3: Voronoi cells and the errors in them; the Hellinger distance of two mixtures."""

import torch
from jaxtyping import Float, Int
from torch import Tensor

from lossatlas.papers.topk_moe.model import Experts, log_density

POINTS_X, POINTS_Y, REACH = 64, 600, 8.0  # of the quadrature; deviations around the means
R_BAR = {2: 4.0, 3: 6.0}  # by the size of a cell


def voronoi_cells(fitted: Experts, true: Experts) -> Int[Tensor, "R k"]:
    """The true expert nearest to each fitted one in (b1, a, c, s), Euclidean."""
    one, other = (torch.stack(e.parts()[1:], dim=-1) for e in (fitted, true))
    return torch.cdist(one, other).argmin(-1)


def translated(fitted: Experts, true: Experts) -> Experts:
    """The same gate with logits measured from the fitted expert nearest to the last true one, as the truth's are.

    Adding one line to all logits changes no density; both sides are then compared with that line fixed.
    """
    last = torch.stack([p[:, -1:] for p in true.parts()[2:]], dim=-1)
    experts = torch.stack(fitted.parts()[2:], dim=-1)
    i = (experts - last).square().sum(-1).argmin(-1, keepdim=True)
    shift0, shift1 = (b.gather(1, i) - t[:, -1:] for b, t in ((fitted.b0, true.b0), (fitted.b1, true.b1)))
    return Experts(fitted.b0 - shift0, fitted.b1 - shift1, fitted.a, fitted.c, fitted.s)


def voronoi_errors(fitted: Experts, true: Experts) -> dict[str, Float[Tensor, " R"]]:
    """Errors of the fitted experts in their cells.

    Returns:
        a, c, s and experts (their sum): absolute errors, weighted by the softmax of b0 inside a cell and summed over
        cells; last: experts of the last true expert's cell; gate: |b1| likewise over all cells; D1, D2; empty: cells
        without a fitted expert; largest: the most experts in a cell.

    Raises:
        ValueError: another number of mixtures.
    """
    if len(fitted.b0) != len(true.b0):
        raise ValueError(f"needs as many fitted as true mixtures, got {len(fitted.b0)} and {len(true.b0)}")
    fitted = translated(fitted, true)
    cell = voronoi_cells(fitted, true)
    k_true = true.b0.shape[1]
    member = torch.nn.functional.one_hot(cell, k_true).to(fitted.b0.dtype)  # (R, k, k*)
    # softmax of b0 within each cell, one column a cell
    inside = torch.where(member > 0, fitted.b0[..., None], -torch.inf)
    share = torch.softmax(inside, dim=1).nan_to_num(0.0) * member
    off = [(f - t.gather(1, cell)).abs() for f, t in zip(fitted.parts()[1:], true.parts()[1:], strict=True)]
    b1, a, c, s = off
    by_cell = {name: (share * e[..., None]).sum(1) for name, e in (("b1", b1), ("a", a), ("c", c), ("s", s))}
    experts = by_cell["a"] + by_cell["c"] + by_cell["s"]
    weight, size = fitted.b0.exp(), member.sum(1)  # (R, k), (R, k*)
    mass = ((weight[..., None] * member).sum(1) - true.b0.exp()).abs().sum(1)
    plain = b1 + a + c + s
    r = torch.ones_like(plain)
    for count, power in R_BAR.items():
        r = torch.where(size.gather(1, cell) == count, torch.full_like(r, power), r)
    crowded = b1**r + c**r + a ** (r / 2) + s ** (r / 2)
    mixed = torch.where(r > 1, crowded, plain)
    return {
        **{name: by_cell[name].sum(1) for name in ("a", "c", "s")},
        "experts": experts.sum(1),
        "last": experts[:, -1],
        "gate": by_cell["b1"].sum(1),
        "D1": (weight * plain).sum(1) + mass,
        "D2": (weight * mixed).sum(1) + mass,
        "empty": (size == 0).sum(1).double(),
        "largest": size.amax(1),
    }


@torch.no_grad()
def hellinger(one: Experts, K_one: int, other: Experts, K_other: int) -> Float[Tensor, " R"]:
    """The Hellinger distance of g(. | x), in [0, 1], averaged over x in [0, 1] by midpoints.

    Args:
        K_one, K_other: logits that each gate keeps.
    """
    x = (torch.arange(POINTS_X, dtype=one.b0.dtype) + 0.5) / POINTS_X
    ends = [torch.stack([e.c, e.a + e.c]) for e in (one, other)]
    widest = max(float(e.s.max()) for e in (one, other))
    low = min(float(e.min()) for e in ends) - REACH * widest
    high = max(float(e.max()) for e in ends) + REACH * widest
    step = (high - low) / POINTS_Y
    y = low + step * (torch.arange(POINTS_Y, dtype=one.b0.dtype) + 0.5)
    X, Y = (v.flatten().expand(len(one.b0), -1) for v in torch.meshgrid(x, y, indexing="ij"))
    roots = [(0.5 * log_density(e, X, Y, K)).exp() for e, K in ((one, K_one), (other, K_other))]
    squared = 0.5 * step * (roots[0] - roots[1]).square().view(-1, POINTS_X, POINTS_Y).sum(-1)
    return squared.clamp(max=1).sqrt().mean(1)
