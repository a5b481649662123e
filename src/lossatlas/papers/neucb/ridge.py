"""Ridge regression on block contexts, and what every learner asks of its input."""

import math

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn


class RidgeLearner(nn.Module):
    """Online ridge regression of loss - 1/2 on block contexts: exact after every round (Sherman and Morrison).

    Args:
        K, d: as for NeuralLearner.
        seed: unused, nothing is drawn.
        ridge: penalty on the squared norm, > 0.
        dtype: float64 or float32.

    Shapes:
        contexts (R, d), predictions (R, K), arms (R,), losses (R,).

    Raises:
        ValueError: ridge <= 0, fewer than 2 arms, contexts of another width, losses outside [0, 1].
    """

    def __init__(self, K: int, d: int, seed: int = 0, *, ridge: float = 1.0, dtype: str = "float64") -> None:
        super().__init__()
        check_sizes(K, d)
        if not 0 < ridge < math.inf:
            raise ValueError(f"needs ridge > 0, got {ridge=}")
        self.K, self.d = K, d
        kind = getattr(torch, dtype)
        inverse = torch.eye(d, dtype=kind).div(ridge).expand(1, K, d, d).contiguous()
        self.register_buffer("inverse", inverse)
        self.register_buffer("w2", torch.zeros(1, K, d, dtype=kind))
        self.inverse: Tensor
        self.w2: Tensor  # the only layer there is

    def predict(self, x: Float[Tensor, "R d"], prepared: None = None) -> Float[Tensor, "R K"]:
        """1/2 + w_a . x for every arm."""
        check_width(x, self.d)
        self._x = x
        self._yhat = 0.5 + (self.w2 @ x[:, :, None])[:, :, 0]
        return self._yhat

    def update(self, arm: Int[Tensor, " R"], y: Float[Tensor, " R"]) -> Float[Tensor, " R"]:
        """Adds one observation to the chosen arms; returns half the squared error before it."""
        check_losses(y)
        rows = torch.arange(len(arm), device=arm.device)
        error = y - self._yhat[rows, arm]
        held = self.inverse[rows, arm]
        v = (held @ self._x[:, :, None])[:, :, 0]
        gain = v / (1 + (v * self._x).sum(dim=1, keepdim=True))
        self.w2[rows, arm] += gain * error[:, None]
        self.inverse[rows, arm] = held - gain[:, :, None] * v[:, None, :]
        return error.square() / 2


def check_sizes(K: int, d: int) -> None:
    """Raises ValueError for fewer than 2 arms or empty contexts."""
    if K < 2 or d < 1:
        raise ValueError(f"a bandit needs K >= 2 arms and contexts of d >= 1 numbers, got {K=}, {d=}")


def check_width(x: Tensor, d: int) -> None:
    """Raises ValueError for contexts that are not d numbers wide."""
    if x.shape[-1] != d:
        raise ValueError(
            f"contexts must be {d} wide, got {x.shape[-1]}: build the learner with d={x.shape[-1]}"
        )


def check_losses(y: Tensor) -> None:
    """Raises ValueError for a loss outside [0, 1], NaN included."""
    if not bool(((y >= 0) & (y <= 1)).all()):
        worst = y.flatten()[((y >= 0) & (y <= 1)).flatten().logical_not().nonzero()[0, 0]]
        raise ValueError(f"losses must lie in [0, 1], got {float(worst):g}: rescale them before playing")
