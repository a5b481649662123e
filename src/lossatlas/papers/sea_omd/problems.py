"""The environments: what the gradients are, what the mean losses cost, and the totals sigma^2_{1:T} and Sigma^2_{1:T}.

A problem holds R runs side by side, all rounds drawn beforehand. Its `regret(played, T)` is that of the mean losses
F_t, the same in expectation as that of the f_t for a fixed comparator, but without the noise's own sigma sqrt(T).
"""

from dataclasses import dataclass
from typing import Protocol

import torch
from jaxtyping import Float
from torch import Tensor
from torch.nn.functional import softplus

from lossatlas.papers.sea_omd.projections import project_ball

FIRST = (0.3, 0.0, 0.0)  # the quadratic's centre where it does not move
E_NOISE = 8 / 3  # largest E |E_t x|^2 over the unit ball


class Problem(Protocol):
    """R runs; X has diameter D, gradients are bounded by G, mean losses are L-smooth."""

    D: float
    L: float
    start: Tensor

    @property
    def G(self) -> float | Tensor:  # noqa: N802
        """A number, or (R, 1) where runs differ."""
        ...

    def project(self, z: Tensor) -> Tensor:
        """Onto X."""
        ...

    def gradient(self, t: int, x: Tensor) -> Tensor:
        """(R, d) gradients of the drawn losses of round t (from 0) at x."""
        ...

    def regret(self, played: Tensor, T: int) -> Tensor:
        """(R,) sum over the first T rounds of F_t(x_t) - F_t(u)."""
        ...

    def totals(self, T: int) -> tuple[Tensor, Tensor]:
        """(R,) sigma^2_{1:T} and (R,) Sigma^2_{1:T}."""
        ...


@dataclass
class Blocks:
    """(a) X = [-1, 1], f_t = (c_t + sigma xi_t) x, xi = +-1, c_t = +-size in alternating blocks.

    Args:
        c: (R, T) means of the slopes.
        noise: (R, T) sigma xi.
        sigma: (R,).
        moving: whether the comparator is -sign(c_t) in each round instead of the best fixed point.
    """

    c: Float[Tensor, "R T"]
    noise: Float[Tensor, "R T"]
    sigma: Float[Tensor, " R"]
    moving: bool = False
    D: float = 2.0
    L: float = 0.0

    def __post_init__(self) -> None:
        self.G = (self.c.abs().amax(1) + self.sigma)[:, None]
        self.start = torch.zeros(len(self.c), 1, dtype=torch.float64)
        self._slopes = (self.c + self.noise).T.contiguous()[..., None]

    def project(self, z: Tensor) -> Tensor:
        """Onto [-1, 1]."""
        return z.clamp(-1, 1)

    def gradient(self, t: int, x: Tensor) -> Tensor:
        """The drawn slope, wherever x is."""
        return self._slopes[t]

    def regret(self, played: Tensor, T: int) -> Tensor:
        """Against the best fixed point, or the best of each round."""
        paid = (self.c[:, :T] * played[:T, :, 0].T).sum(1)
        best = self.c[:, :T].abs().sum(1) if self.moving else self.c[:, :T].sum(1).abs()
        return paid + best

    def totals(self, T: int) -> tuple[Tensor, Tensor]:
        """sigma^2 T, and 4 size^2 for every switch."""
        return self.sigma**2 * T, self.c[:, :T].diff(dim=1).square().sum(1)


def block_means(length: int, phase: Float[Tensor, " R"], T: int, size: float = 1.0) -> Float[Tensor, "R T"]:
    """c_t = +size and -size in alternating blocks; the phase, in [0, 1), moves them by up to two blocks.

    Example:
        >>> block_means(2, torch.tensor([0.0, 0.25]), 5).tolist()
        [[1.0, 1.0, -1.0, -1.0, 1.0], [1.0, -1.0, -1.0, 1.0, 1.0]]
    """
    offset = (phase * 2 * length).floor().long()
    odd = (torch.arange(T) + offset[:, None]) // length % 2
    return (size * (1 - 2 * odd)).double()


@dataclass
class Quadratic:
    """(b), (c) the unit ball, F_t = |x - m_t|^2 / 2, m_t = (.3 + .2 amp (-1)^t, 0, 0), noise N(0, sigma^2 / 3 I).

    Args:
        noise: (R, T, 3) noise of the gradient.
        sigma: sqrt of its mean squared length.
        amp: of the moving centre.
        curvature: (R, T, 3, 3) the E_t of (c), f_t(x) = F_t(x) + x^T E_t x / 2, or None.
    """

    noise: Float[Tensor, "R T 3"]
    sigma: float
    amp: float = 0.0
    curvature: Float[Tensor, "R T 3 3"] | None = None
    D: float = 2.0
    G: float = 2.5
    L: float = 1.0

    def __post_init__(self) -> None:
        R, T, d = self.noise.shape
        self.start = torch.zeros(R, d, dtype=torch.float64)
        self.m = torch.tensor(FIRST, dtype=torch.float64).repeat(T, 1)
        self.m[:, 0] += 0.2 * self.amp * (-1.0) ** torch.arange(1, T + 1)

    def project(self, z: Tensor) -> Tensor:
        """Onto the unit ball."""
        return project_ball(z)

    def gradient(self, t: int, x: Tensor) -> Tensor:
        """x - m_t + noise, and E_t x."""
        g = x - self.m[t] + self.noise[:, t]
        return g if self.curvature is None else g + (self.curvature[:, t] @ x[..., None])[..., 0]

    def regret(self, played: Tensor, T: int) -> Tensor:
        """Against the projected mean of the centres."""
        m = self.m[:T, None]
        u = project_ball(self.m[:T].mean(0))
        return 0.5 * ((played[:T] - m).square().sum(-1) - (u - m).square().sum(-1)).sum(0)

    def totals(self, T: int) -> tuple[Tensor, Tensor]:
        """The noise of the gradients at the worst point of the ball, and the way of the centres."""
        noise = self.sigma**2 + (0.0 if self.curvature is None else E_NOISE)
        ones = torch.ones(len(self.noise), dtype=torch.float64)
        return noise * T * ones, self.m[:T].diff(dim=0).square().sum() * ones


def random_curvature(T: int, generator: torch.Generator) -> Float[Tensor, "T 3 3"]:
    """E_t = +-2 (v v^T - w w^T) with v, w random orthonormal: mean 0, I + E_t has the eigenvalue -1."""
    q = torch.linalg.qr(torch.randn(T, 3, 2, dtype=torch.float64, generator=generator)).Q
    v, w = q[..., :1], q[..., 1:]
    sign = torch.randint(2, (T, 1, 1), generator=generator) * 2.0 - 1
    return 2 * sign * (v @ v.mT - w @ w.mT)


@dataclass
class Regression:
    """The unit ball of R^3, f_t(w) = (<a_t, w> - y_t)^2 / 2, a ~ N(0, diag(.2, .6, 1)^2) clipped to norm 1.

    Args:
        a: (R, T, 3).
        y: (R, T).
        target: (R, 3) w*, inside the ball.
    """

    a: Float[Tensor, "R T 3"]
    y: Float[Tensor, "R T"]
    target: Float[Tensor, "R 3"]
    D: float = 2.0
    G: float = 2.5
    L: float = 1.0

    def __post_init__(self) -> None:
        self.start = torch.zeros(len(self.a), 3, dtype=torch.float64)
        rows = draw_features(2**18, torch.Generator().manual_seed(0))
        self.A = rows.T @ rows / len(rows)  # E a a^T, good to 1e-3 of its entries
        self.A2 = (rows.square().sum(1)[:, None, None] * rows[:, :, None] * rows[:, None, :]).mean(0)

    def project(self, z: Tensor) -> Tensor:
        """Onto the unit ball."""
        return project_ball(z)

    def gradient(self, t: int, x: Tensor) -> Tensor:
        """(<a_t, x> - y_t) a_t."""
        a = self.a[:, t]
        return ((a * x).sum(-1) - self.y[:, t])[:, None] * a

    def regret(self, played: Tensor, T: int) -> Tensor:
        """(x - w*)^T E[a a^T] (x - w*) / 2, summed."""
        e = played[:T] - self.target
        return 0.5 * ((e @ self.A) * e).sum(-1).sum(0)

    def totals(self, T: int) -> tuple[Tensor, Tensor]:
        """The gradients' noise at the worst of 4096 points of the sphere; nothing drifts."""
        u = torch.nn.functional.normalize(
            torch.randn(4096, 3, dtype=torch.float64, generator=torch.Generator().manual_seed(0)), dim=1
        )
        e = u[:, None] - self.target  # (4096, R, 3)
        spread = self.A2 - self.A @ self.A
        noise = ((e @ spread) * e).sum(-1).amax(0) + NOISE_VARIANCE * self.A.trace()
        return noise * T, torch.zeros_like(noise)


NOISE = 0.3  # y = <a, w*> + NOISE U(-1, 1)
NOISE_VARIANCE = NOISE**2 / 3


def draw_features(n: int, generator: torch.Generator) -> Float[Tensor, "n 3"]:
    """n rows a of `Regression`."""
    scale = torch.tensor([0.2, 0.6, 1.0], dtype=torch.float64)
    return project_ball(torch.randn(n, 3, dtype=torch.float64, generator=generator) * scale)


def draw_regression(T: int, generator: torch.Generator) -> Tensor:
    """(T + 1, 4): rows (a_t, y_t), then (w*, 0) with |w*| = .6."""
    a = draw_features(T, generator)
    target = (
        torch.nn.functional.normalize(torch.randn(3, dtype=torch.float64, generator=generator), dim=0) * 0.6
    )
    y = a @ target + NOISE * (2 * torch.rand(T, dtype=torch.float64, generator=generator) - 1)
    return torch.cat([torch.cat([a, y[:, None]], 1), torch.cat([target, torch.zeros(1).double()])[None]])


@dataclass
class Logistic:
    """Logistic regression on a stream of real rows in a ball; the mean losses are not known: regret of the f_t.

    Args:
        x: (n, d) rows, bounded.
        y: (n,) labels -1, 1.
        order: (R, T) rows in the order they come.
        radius: of the ball.
        chunks: pieces of the stream whose mean gradients stand for grad F_t.
    """

    x: Float[Tensor, "n d"]
    y: Float[Tensor, " n"]
    order: Tensor
    radius: float = 3.0
    chunks: int = 8
    L: float = 0.0

    def __post_init__(self) -> None:
        self.D = 2 * self.radius
        self.G = float(self.x.norm(dim=1).max())
        self.L = self.G**2 / 4
        self.start = torch.zeros(len(self.order), self.x.shape[1], dtype=torch.float64)
        self._signed = self.x * self.y[:, None]

    def project(self, z: Tensor) -> Tensor:
        """Onto the ball."""
        return project_ball(z, self.radius)

    def gradient(self, t: int, x: Tensor) -> Tensor:
        """-y a / (1 + exp(y <a, x>))."""
        a = self._signed[self.order[:, t]]
        return -torch.sigmoid(-(a * x).sum(-1, keepdim=True)) * a

    def regret(self, played: Tensor, T: int) -> Tensor:
        """Of the f_t against the best fixed point of each stream."""
        a = self._signed[self.order[:, :T]]  # (R, T, d)
        paid = softplus(-(a * played[:T].transpose(0, 1)).sum(-1)).sum(1)
        w = best_logistic(a, self.radius)
        return paid - softplus(-(a @ w[..., None])[..., 0]).sum(1)

    def totals(self, T: int) -> tuple[Tensor, Tensor]:
        """Estimates at x = 0: variance within chunks of the stream, squared steps between their mean gradients."""
        g = -0.5 * self._signed[self.order[:, :T]]  # (R, T, d)
        size = T // self.chunks
        parts = g[:, : size * self.chunks].unflatten(1, (self.chunks, size))
        within = (parts - parts.mean(2, keepdim=True)).square().sum((1, 2, 3))
        return within, parts.mean(2).diff(dim=1).square().sum((1, 2))


def best_logistic(a: Float[Tensor, "R T d"], radius: float) -> Float[Tensor, "R d"]:
    """argmin over |w| <= radius of sum_t log(1 + exp(-<a_t, w>)), for R streams at once.

    The multiplier mu of |w|^2 / 2 is moved by Newton's method on 1 / |w(mu)| = 1 / radius, as in a trust region; for
    each mu Newton's method solves for w from the one before.

    Raises:
        ValueError: no such point was found to 1e-8 of the radius.

    Example:
        >>> one = torch.tensor([[[1.0], [1.0]]], dtype=torch.float64)
        >>> round(float(best_logistic(one, 2.0)), 6)  # separable: at the edge
        2.0
    """
    R, T, d = a.shape
    eye, w = torch.eye(d, dtype=a.dtype), torch.zeros(R, d, dtype=a.dtype)
    mu = torch.full((R, 1), 1e-3 * T, dtype=a.dtype)
    floor = 1e-9 * T  # keeps directions in which nothing varies defined
    for _ in range(100):
        for _ in range(50):
            p = torch.sigmoid(-(a @ w[..., None]))  # (R, T, 1)
            H = (a * (p * (1 - p))).mT @ a + mu[..., None] * eye
            step = torch.linalg.solve(H, ((a * p).sum(1) - mu * w)[..., None])[..., 0]
            w = w + step
            if bool((step.norm(dim=1) <= 1e-10 * (1 + w.norm(dim=1))).all()):
                break
        norm = w.norm(dim=1, keepdim=True)
        if bool((((norm - radius).abs() <= 1e-8 * radius) | ((mu <= floor) & (norm <= radius))).all()):
            return w
        slope = (w * torch.linalg.solve(H, w[..., None])[..., 0]).sum(1, keepdim=True) / norm.square()
        mu = (mu + (norm / radius - 1) / slope).clamp(min=floor).maximum(mu / 10)
    raise ValueError("the best fixed point was not found: look at the rows")
