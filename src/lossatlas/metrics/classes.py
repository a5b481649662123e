"""Predicted classes where a network may have given NaN: argmax and top-k would then name class 0, silently."""

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor


def unordered(f: Float[Tensor, "*n K"]) -> Bool[Tensor, "*n"]:
    """Rows of scores that name no class: with NaN or +inf in them, or -inf everywhere. One -inf rules a class out.

    Example:
        >>> inf, nan = torch.inf, torch.nan
        >>> unordered(torch.tensor([[0.0, 1.0], [-inf, 1.0], [-inf, -inf], [0.0, nan], [0.0, inf]])).tolist()
        [False, False, True, True, True]
    """
    return ~f.amax(dim=-1).isfinite()  # the largest is NaN where any is


def predicted(f: Float[Tensor, "*n K"]) -> Int[Tensor, "*n"]:
    """The class of the largest score; -1, which is nobody's label, where there is none.

    Example:
        >>> predicted(torch.tensor([[0.0, 1.0], [torch.nan, torch.nan]])).tolist()
        [1, -1]
    """
    return torch.where(unordered(f), -1, f.argmax(dim=-1))


def counted_wrong(
    f: Float[Tensor, "n K"], y: Int[Tensor, " n"], bad: Bool[Tensor, " n"]
) -> Float[Tensor, "n K"]:
    """Scores whose `bad` rows rank the label last, so that every top-k with k < K counts them wrong.

    Example:
        >>> f, y = torch.full((2, 3), torch.nan), torch.tensor([0, 2])
        >>> counted_wrong(f, y, unordered(f)).topk(2).indices.sort().values.tolist()
        [[1, 2], [0, 1]]
    """
    last = torch.zeros_like(f).scatter(1, y[:, None], -1.0)
    return torch.where(bad[:, None], last, f)
