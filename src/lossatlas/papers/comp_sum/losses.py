"""The comp-sum losses themselves: eq. 1 of the room's head."""

import math

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn

from lossatlas.losses import checked


def gap(f: Float[Tensor, "n K"], y: Int[Tensor, " n"]) -> Float[Tensor, " n"]:
    """log(1 + u) = -log p_y >= 0, the only quantity of the scores that a comp-sum loss sees.

    Shapes:
        f (n, K) scores, y (n,) integer in [0, K) -> (n,), float32 where the scores have half precision.

    Example:
        >>> gap(torch.zeros(1, 2), torch.tensor([0]))
        tensor([0.6931])
    """
    return -torch.log_softmax(checked(f, y), dim=1).gather(1, y[:, None])[:, 0]


def phi(g: Float[Tensor, "..."], tau: float) -> Float[Tensor, "..."]:
    """Phi_tau in terms of g = log(1 + u): expm1((1 - tau) g) / (1 - tau), and g itself at tau = 1.

    Never through u, which overflows first; expm1 keeps tau -> 1 continuous. No continuation: see
    `CompSumLoss`.

    Args:
        g: log(1 + u) >= 0, any shape.
        tau: member of the family, >= 0.

    Example:
        >>> phi(torch.tensor([0.0, 1.0]), tau=1.0)
        tensor([0., 1.])
    """
    return g if tau == 1 else torch.expm1((1 - tau) * g) / (1 - tau)


class CompSumLoss(nn.Module):
    """Comp-sum loss l_tau, eq. 1: one value per sample, not reduced.

    tau = 0 is the sum-exponential loss, 1 cross-entropy, 1 + q the generalised cross-entropy of exponent q, 2
    the mean absolute error 1 - p_y. Below 1 the loss grows like exp((1 - tau) g), g = -log p_y: from (1 -
    tau) g = `limit` on it goes on along its tangent there, and `continued` counts the samples that did.

    Args:
        tau: member of the family, >= 0.
        limit: exponent (1 - tau) g at which the tangent takes over, > 0; None: log(largest float) - 10 of the
            scores' type, 699.8 in float64 and 78.7 in float32. Only tau < 1 uses it. Float32 training wants
            it lower (the study: 20), for one gradient of e^78 is the end of every weight.

    Shapes:
        f (n, K) float, y (n,) integer in [0, K) -> (n,) float >= 0. NaN scores give NaN.

    Attributes:
        continued: int64 scalar buffer, samples on the tangent since it was last set to zero
            (`continued.zero_()`).

    Raises:
        ValueError: tau or limit out of range or not finite; scores or labels that `losses.checked` refuses.

    Example:
        >>> CompSumLoss(tau=2.0)(torch.zeros(1, 4), torch.tensor([0]))  # 1 - p_y
        tensor([0.7500])
    """

    continued: Tensor

    def __init__(self, tau: float = 1.0, limit: float | None = None) -> None:
        super().__init__()
        if not 0 <= tau < math.inf:  # written so that NaN fails, too
            raise ValueError(
                f"CompSumLoss needs a finite tau >= 0, got {tau=}: 1 is cross-entropy, 2 the MAE"
            )
        if limit is not None and not 0 < limit < math.inf:
            raise ValueError(
                f"CompSumLoss needs a finite limit > 0, got {limit=}: leave it out for the default"
            )
        self.tau, self.limit = float(tau), limit
        self.register_buffer("continued", torch.zeros((), dtype=torch.int64))

    def forward(self, f: Float[Tensor, "n K"], y: Int[Tensor, " n"]) -> Float[Tensor, " n"]:
        g = gap(f, y)
        if self.tau >= 1:
            return phi(g, self.tau)
        z = (1 - self.tau) * g
        limit = math.log(torch.finfo(g.dtype).max) - 10 if self.limit is None else self.limit
        beyond = z > limit
        self.continued += beyond.sum()
        # Two whole formulas, selected. A clamp plus slope * (z - clamp(z)) loses all digits of the gradient
        # in float32, and without the inner where the unselected inf would come back as NaN in the backward
        # pass.
        exact = torch.expm1(torch.where(beyond, 0.0, z))
        tangent = math.expm1(limit) + math.exp(limit) * (z - limit)
        return torch.where(beyond, tangent, exact) / (1 - self.tau)
