"""Gaussian processes of a few hundred points, many at once: exact posterior, fitted scales, expected improvement.

Everything has a leading axis B of independent processes. gpytorch gives the same numbers; for 30 to 60 points one
Cholesky in torch is shorter, a step of the fit takes about as long, the posterior less than half (scripts/bench_gp.py).
"""

import math
from dataclasses import dataclass

import torch
from jaxtyping import Float
from torch import Tensor

KERNELS = ("matern52", "rbf")
BOUNDS = {"lengthscale": (5e-3, 1e2), "variance": (1e-3, 1e3), "noise": (1e-6, 1e1)}  # of the fit


@dataclass(frozen=True)
class Scales:
    """Hyper-parameters of B processes.

    Args:
        lengthscale: (B, d), one a coordinate (ARD), > 0, in units of x.
        variance: (B,), k(x, x), > 0, in units of y squared.
        noise: (B,), variance of the observations, >= 0.
        kernel: matern52 or rbf.
    """

    lengthscale: Tensor
    variance: Tensor
    noise: Tensor
    kernel: str = "matern52"

    def __post_init__(self) -> None:
        if self.kernel not in KERNELS:
            raise ValueError(
                f"a Gaussian process here has the kernel {' or '.join(KERNELS)}, got {self.kernel!r}"
            )


def covariance(s: Scales, a: Float[Tensor, "B n d"], b: Float[Tensor, "B m d"]) -> Float[Tensor, "B n m"]:
    """k(a, b) / variance: (1 + r + r^2/3) exp(-r) for r = sqrt(5) |a - b| in length scales; rbf: exp(-|a - b|^2/2).

    Example:
        >>> s = Scales(torch.ones(1, 1), torch.ones(1), torch.zeros(1), "rbf")
        >>> covariance(s, torch.zeros(1, 1, 1), torch.tensor([[[0.0], [1.0]]]))
        tensor([[[1.0000, 0.6065]]])
    """
    scale = s.lengthscale[:, None]
    centre = b.mean(1, keepdim=True).detach()
    a, b = (a - centre) / scale, (b - centre) / scale
    # one product in place of (B, n, m, d) differences, four times as slow; centred, it cancels little in float64
    square = a.square().sum(2)[:, :, None] + b.square().sum(2)[:, None] - 2 * a @ b.mT
    square = square.clamp(min=0)
    variance = s.variance[:, None, None]
    if s.kernel == "rbf":
        return variance * torch.exp(-0.5 * square)
    near = square < 1e-10  # the root's slope at 0 is infinite, the kernel's is 0: there its series
    r = torch.sqrt(torch.where(near, 1.0, 5 * square))
    return variance * torch.where(near, 1 - 5 / 6 * square, (1 + r + r.square() / 3) * torch.exp(-r))


def _cholesky(s: Scales, x: Float[Tensor, "B n d"], jitter: float) -> Float[Tensor, "B n n"]:
    K = covariance(s, x, x)
    added = s.noise + jitter * s.variance
    L, failed = torch.linalg.cholesky_ex(K + torch.diag_embed(added[:, None].expand(K.shape[:2])))
    if failed.any():
        raise ValueError(
            f"the covariance of {int((failed > 0).sum())} of {len(failed)} processes is not positive: points lie on "
            f"one another; give a jitter above {jitter} or a noise"
        )
    return L


def posterior(
    s: Scales,
    x: Float[Tensor, "B n d"],
    y: Float[Tensor, "B n"],
    at: Float[Tensor, "B m d"],
    full: bool = False,
    jitter: float = 1e-6,
) -> tuple[Float[Tensor, "B m"], Tensor]:
    """Mean and variance of f(at) given y = f(x) + noise, prior mean 0 (Rasmussen and Williams, eq. 2.25, 2.26).

    Args:
        full: the covariance (B, m, m) in place of the variances (B, m).
        jitter: added to the diagonal as noise, in units of the variance, >= 0.

    Raises:
        ValueError: a covariance that is not positive in spite of the jitter.

    Example:
        >>> s = Scales(torch.ones(1, 1), torch.ones(1), torch.zeros(1))
        >>> x = torch.tensor([[[0.0], [2.0]]])
        >>> mean, variance = posterior(s, x, torch.tensor([[1.0, -1.0]]), x)
        >>> mean.round(decimals=3), bool(variance.max() < 1e-5)
        (tensor([[ 1., -1.]]), True)
    """
    L = _cholesky(s, x, jitter)
    across = torch.linalg.solve_triangular(L, covariance(s, x, at), upper=False)  # L^-1 k(x, at)
    weights = torch.linalg.solve_triangular(L, y[..., None], upper=False)
    mean = (across.mT @ weights)[..., 0]
    if full:
        return mean, covariance(s, at, at) - across.mT @ across
    return mean, (s.variance[:, None] - across.square().sum(1)).clamp(min=0)


def log_marginal(
    s: Scales, x: Float[Tensor, "B n d"], y: Float[Tensor, "B n"], jitter: float = 1e-6
) -> Float[Tensor, " B"]:
    """log N(y; 0, K + noise), the log marginal likelihood of each process (eq. 2.30)."""
    L = _cholesky(s, x, jitter)
    weights = torch.linalg.solve_triangular(L, y[..., None], upper=False)[..., 0]
    determinant = L.diagonal(dim1=1, dim2=2).log().sum(1)
    return -0.5 * weights.square().sum(1) - determinant - 0.5 * y.shape[1] * math.log(2 * math.pi)


def fit(
    x: Float[Tensor, "B n d"],
    y: Float[Tensor, "B n"],
    kernel: str = "matern52",
    steps: int = 100,
    lr: float = 0.1,
    start: Scales | None = None,
    jitter: float = 1e-6,
) -> Scales:
    """Scales of largest marginal likelihood, every process on its own, by Adam on their logarithms within BOUNDS.

    Data without any noise end some nats below the maximum of a jitter of 0 (69.0 and 76.3 on 30 points in 3
    coordinates): the jitter is noise in units of the variance, and such data ask for a variance of hundreds. With
    `jitter=0` in float64 the fit is scikit-learn's to 1e-5 nats; the posterior then takes the same jitter.

    Args:
        x: in units in which BOUNDS make sense, the unit cube for instance. y: standardised.
        steps: of Adam, >= 1. lr: its rate.
        start: where to begin, such as the last fit of the same processes; None: 0.5, 1 and 0.01.
        jitter: as in `posterior`, with which it should agree; 0 leaves the noise, >= 1e-6, to keep K positive.

    Raises:
        ValueError: y that is not finite, steps < 1, or a covariance that is not positive in spite of the jitter.

    Example:
        >>> x = torch.linspace(0, 1, 20)[None, :, None]
        >>> s = fit(x, torch.sin(9 * x[..., 0]), steps=50)
        >>> s.lengthscale.shape, bool(s.noise.item() < 0.01)
        (torch.Size([1, 1]), True)
    """
    if steps < 1 or not torch.isfinite(y).all():
        raise ValueError(f"fit needs finite y and steps >= 1, got {steps=}")
    B, _, d = x.shape
    first = start or Scales(x.new_full((B, d), 0.5), x.new_ones(B), x.new_full((B,), 0.01), kernel)
    logs = {name: getattr(first, name).detach().log().clone().requires_grad_() for name in BOUNDS}
    limits = {name: (math.log(low), math.log(high)) for name, (low, high) in BOUNDS.items()}

    def scales() -> Scales:
        return Scales(logs["lengthscale"].exp(), logs["variance"].exp(), logs["noise"].exp(), kernel)

    adam = torch.optim.Adam(logs.values(), lr=lr)
    with torch.enable_grad():
        for _ in range(steps):
            adam.zero_grad()
            (-log_marginal(scales(), x, y, jitter).sum()).backward()  # a sum: no process moves another
            adam.step()
            with torch.no_grad():
                for name, t in logs.items():
                    t.clamp_(*limits[name])
    for t in logs.values():
        t.requires_grad_(False)
    return scales()


def expected_improvement(
    mean: Float[Tensor, "*B"], variance: Float[Tensor, "*B"], best: Float[Tensor, "*B"] | float
) -> Float[Tensor, "*B"]:
    """E max(f - best, 0) for f ~ N(mean, variance): sd (phi(u) + u Phi(u)), u = (mean - best) / sd (Jones et al. 1998).

    Larger is better; to minimise give -mean and -best. At variance 0 it is max(mean - best, 0).

    Example:
        >>> expected_improvement(torch.tensor([0.0, 2.0]), torch.tensor([1.0, 0.0]), 0.0)
        tensor([0.3989, 2.0000])
    """
    known = variance <= 0
    sd = torch.where(known, 1.0, variance).sqrt()
    gain = mean - best
    u = gain / sd
    density = torch.exp(-0.5 * u.square()) / math.sqrt(2 * math.pi)
    # far below the best Phi(u) and phi(u) cancel: phi(u) (1 - |u| Phi(-|u|) / phi(u)) with the scaled erfc
    tail = density * (1 - u.abs() * math.sqrt(math.pi / 2) * torch.special.erfcx(u.abs() / math.sqrt(2)))
    improvement = sd * (u.clamp(min=0) + tail.clamp(min=0))  # E max(u + z, 0) = max(u, 0) + tail(|u|)
    return torch.where(known, gain.clamp(min=0), improvement)
