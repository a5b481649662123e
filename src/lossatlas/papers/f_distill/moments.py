"""How much a weight adds to the variance of the generator's update, from sums over steps."""

import math

import torch
from jaxtyping import Float
from torch import Tensor


@torch.no_grad()
def add_moments(
    sums: Float[Tensor, "R 4"],
    h: Float[Tensor, "R b"],
    weight: Float[Tensor, "R b"],
    difference: Float[Tensor, "R b d"],
) -> None:
    """Adds a batch's means of h^2 |ds|^2, h, |ds|^2 and the ratio of mean updates to the sums, in place.

    Args:
        h: weights before normalisation. weight: after it. difference: ds = w (score_p - score_q).
    """
    size = difference.norm(dim=-1)
    sums[:, 0] += (h * size).square().mean(dim=1)
    sums[:, 1] += h.mean(dim=1)
    sums[:, 2] += size.square().mean(dim=1)
    sums[:, 3] += (weight * size).mean(dim=1) / size.mean(dim=1).clamp(min=torch.finfo(size.dtype).tiny)


def log_second_moment(sums: Float[Tensor, " 4"], steps: int) -> dict[str, float]:
    """test/second_moment, log E[h^2 |ds|^2] / (E[h]^2 E[|ds|^2]), and test/update, E[weight |ds|] / E[|ds|].

    Args:
        steps: how many batches the sums hold, >= 1.
    """
    square, h, size, update = (float(v) / steps for v in sums)
    if min(square, h, size) <= 0:
        return {}
    return {"test/second_moment": math.log(square / (h * h * size)), "test/update": update}
