"""The network, its loss and data, one gradient step of many networks at once, and the exact test error."""

import copy
import math
from typing import NamedTuple

import torch
from jaxtyping import Float
from torch import Tensor, nn

from lossatlas.losses import in_float32
from lossatlas.seeding import stream


class QuadraticNet(nn.Module):
    """mean_i phi(w_i.x), phi(h) = h + (e/2) h^2: a committee of N units (eq. 1 without alpha and centring).

    Args:
        W: (N, D) weights at the start.
        e: weight of the quadratic part, >= 0, finite.

    Shapes:
        (n, D) -> (n,).

    Raises:
        ValueError: e out of range, W not a matrix.

    Example:
        >>> QuadraticNet(torch.tensor([[1.0], [2.0]]), e=1.0)(torch.tensor([[2.0]]))  # mean of 2 + 2 and 4 + 8
        tensor([8.], grad_fn=<MeanBackward1>)
    """

    def __init__(self, W: Float[Tensor, "N D"], e: float) -> None:
        super().__init__()
        if W.ndim != 2 or W.numel() == 0:
            raise ValueError(
                f"QuadraticNet needs weights (N, D) with N, D >= 1, got a tensor {tuple(W.shape)}"
            )
        check_laziness(1.0, e)
        self.W, self.e = nn.Parameter(W.clone()), e

    def forward(self, x: Float[Tensor, "n D"]) -> Float[Tensor, " n"]:
        h = x @ self.W.mT
        return (h + self.e / 2 * h.square()).mean(dim=-1)


class Centred(nn.Module):
    """alpha (net - net at the start): any network, made lazier by a larger alpha, with f = 0 when training begins.

    Args:
        net: any module; its parameters stay its own.
        alpha: output scale, > 0, finite.

    Raises:
        ValueError: alpha out of range.

    Example:
        >>> f = Centred(nn.Linear(3, 2), alpha=8.0)
        >>> f(torch.ones(1, 3)).abs().max().item()
        0.0
    """

    def __init__(self, net: nn.Module, alpha: float) -> None:
        super().__init__()
        check_laziness(alpha, 0.0)
        self.net, self.alpha = net, alpha
        self.start = copy.deepcopy(net).requires_grad_(False)

    def forward(self, x: Tensor) -> Tensor:
        return self.alpha * (self.net(x) - self.start(x))


class LazyMSE(nn.Module):
    """(f - y)^2 / (2 alpha^2), eq. 2: one value per sample, the mean over outputs where there are several.

    With learning rate eta (times the width) the function then starts at the same speed for every alpha.

    Args:
        alpha: output scale of the network, > 0, finite.

    Shapes:
        f and y (n,) or (n, K) -> (n,).

    Raises:
        ValueError: alpha out of range, f and y of different shape or not floating.

    Example:
        >>> LazyMSE(alpha=2.0)(torch.tensor([4.0]), torch.tensor([0.0]))
        tensor([2.])
    """

    def __init__(self, alpha: float = 1.0) -> None:
        super().__init__()
        check_laziness(alpha, 0.0)
        self.alpha = alpha

    def forward(self, f: Tensor, y: Tensor) -> Float[Tensor, " n"]:
        if f.shape != y.shape or not (f.is_floating_point() and y.is_floating_point()):
            came = f"{tuple(f.shape)} {f.dtype} and {tuple(y.shape)} {y.dtype}"
            raise ValueError(f"LazyMSE needs floating outputs and targets of one shape, got {came}")
        # divided first: f^2 of a large alpha would overflow where the loss does not
        value = ((in_float32(f) - in_float32(y)) / self.alpha).square() / 2
        return value if value.ndim == 1 else value.flatten(1).mean(dim=1)


class Draw(NamedTuple):
    """One seed's target b (D,), data X (P, D), y (P,) and weights W (N, D)."""

    b: Tensor
    X: Tensor
    y: Tensor
    W: Tensor


def draw(seed: int, D: int, N: int, P: int, dtype: torch.dtype = torch.float32) -> Draw:
    """Target, training data and initial weights of a seed, the same for every alpha and e.

    The points of a smaller P are the first of a larger one.

    Args:
        seed: >= 0.
        D, N, P: input dimension, width and training points, >= 1.
        dtype: of what comes back; drawn in float64 whatever it is.

    Raises:
        ValueError: a size below 1.
    """
    if min(D, N, P) < 1:
        raise ValueError(f"draw needs D, N, P >= 1, got {D=}, {N=}, {P=}")
    target, data, init = (stream(seed, f"grokking/{name}") for name in ("target", "data", "init"))
    double = torch.float64
    b = torch.randn(D, generator=target, dtype=double)
    b /= b.norm()
    # torch fills blocks of 16 numbers: whole blocks keep the first rows equal for every P
    X = torch.randn(-(-P // 16) * 16, D, generator=data, dtype=double)[:P]
    W = torch.randn(N, D, generator=init, dtype=double) / math.sqrt(D)
    return Draw(b.to(dtype), X.to(dtype), ((X @ b).square() / 2).to(dtype), W.to(dtype))


def moments(W: Float[Tensor, "*R N D"]) -> tuple[Float[Tensor, "*R D"], Float[Tensor, "*R D D"]]:
    """mean_i w_i and mean_i w_i w_i': all that the function and its kernel depend on (eq. 3, 4)."""
    return W.mean(dim=-2), W.mT @ W / W.shape[-2]


def descend(
    W: Float[Tensor, "*R N D"],
    start: tuple[Float[Tensor, "*R D"], Float[Tensor, "*R D D"]],
    X: Float[Tensor, "*R P D"],
    y: Float[Tensor, "*R P"],
    alpha: Float[Tensor, "*R"],
    e: Float[Tensor, "*R"],
    eta: float,
) -> tuple[Float[Tensor, "*R N D"], Float[Tensor, "*R"]]:
    """One step of gradient descent on eq. 2 with learning rate eta N, of all networks at once.

    With g = mean_mu r x and S = mean_mu r x x' the gradient of w_i is (g + e S w_i) / (alpha N): function and
    gradient go through D x D matrices, and no activation (P, N) is ever formed.

    Args:
        W: weights now.
        start: `moments` of the weights at the start.
        X, y: training data.
        alpha, e: of each network.
        eta: learning rate without its factor N, > 0.

    Returns:
        The weights after the step, and mean (f - y)^2 before it.
    """
    a, e = alpha[..., None], e[..., None]
    f = output(W, start, X, alpha, e[..., 0])
    r = f - y
    g = (r[..., None, :] @ X).squeeze(-2) / X.shape[-2]
    S = X.mT @ (r[..., None] * X) / X.shape[-2]
    step = eta / a[..., None]
    return W - step * (g[..., None, :] + e[..., None] * (W @ S)), r.square().mean(dim=-1)


def output(
    W: Float[Tensor, "*R N D"],
    start: tuple[Float[Tensor, "*R D"], Float[Tensor, "*R D D"]],
    X: Float[Tensor, "*R P D"],
    alpha: Float[Tensor, "*R"],
    e: Float[Tensor, "*R"],
) -> Float[Tensor, "*R P"]:
    """f(X) of eq. 3; arguments as in `descend`."""
    w, M = moments(W)
    dw, dM = w - start[0], M - start[1]
    linear = (X @ dw[..., None]).squeeze(-1)
    return alpha[..., None] * (linear + e[..., None] / 2 * ((X @ dM) * X).sum(dim=-1))


def gaussian_error(
    linear: Float[Tensor, "*R D"], quadratic: Float[Tensor, "*R D D"], b: Float[Tensor, "*R D"]
) -> Float[Tensor, "*R"]:
    """E (f(x) - y(x))^2 over x ~ N(0, I) of f = linear.x + x' quadratic x and y = (b.x)^2 / 2, exactly (eq. 3).

    Args:
        linear: alpha dw for the network.
        quadratic: symmetric; alpha e dM / 2 for the network.
        b: of the target.

    Example:
        >>> zero = torch.zeros(2)
        >>> gaussian_error(zero, torch.zeros(2, 2), torch.tensor([1.0, 0.0]))  # E y^2
        tensor(0.7500)
    """
    A = quadratic - b[..., :, None] * b[..., None, :] / 2
    trace = A.diagonal(dim1=-2, dim2=-1).sum(dim=-1)
    return 2 * A.square().sum(dim=(-2, -1)) + trace.square() + linear.square().sum(dim=-1)


def check_laziness(alpha: float, e: float) -> None:
    """Raises ValueError where alpha or e cannot be."""
    if not (0 < alpha < math.inf and 0 <= e < math.inf):  # written so that NaN fails, too
        raise ValueError(f"needs finite alpha > 0 and e >= 0, got {alpha=}, {e=}: alpha = 1 is the plain net")
