"""The learners of the comparison, each for many runs at once: `x` is played, `update(g)` takes the gradient there."""

import math
from collections.abc import Callable
from typing import Protocol

import torch
from jaxtyping import Float
from torch import Tensor

from lossatlas.papers.sea_omd.projections import project_ball_in_norm

Project = Callable[[Tensor], Tensor]
Rate = Callable[[int, Tensor], Tensor | float]  # (t, V_{t-1}) -> eta_t, with t from 1; V is (..., 1)


class Learner(Protocol):
    """Plays `x` (..., d); `update` takes the gradients (..., d) of the losses at x."""

    x: Tensor

    def update(self, g: Tensor) -> None:
        """One round."""
        ...


def convex_rate(D: float, G: float | Tensor, L: float = 0.0) -> Rate:
    """Eq. 2: eta_t = D / sqrt(10 D^2 L^2 + 4 G^2 + V_{t-1}).

    Args:
        D: diameter of X, > 0.
        G: bound of the gradients, > 0; a tensor (..., 1) where runs differ.
        L: smoothness of the mean losses, >= 0; 0 where they are linear.

    Example:
        >>> float(convex_rate(2.0, 1.0)(1, torch.zeros(1)))
        1.0
    """
    _positive(D=D, G=float(torch.as_tensor(G).min()))
    first = 10 * D**2 * L**2 + 4 * torch.as_tensor(G, dtype=torch.float64) ** 2
    return lambda t, V: D / (first + V).sqrt()


def strong_rate(lambda_: float) -> Rate:
    """Eq. 3: eta_t = 2 / (lambda t)."""
    _positive(lambda_=lambda_)
    return lambda t, V: 2 / (lambda_ * t)


class OptimisticDescent:
    """Eq. 1 with a Euclidean psi: two projections a round, eta_t for xhat and eta_{t+1} for x.

    Args:
        start: (..., d) centre of X.
        rate: eta of eq. 2 or 3, or a constant.
        project: onto X.
        hint: whether M_{t+1} = g_t; else M = 0, which leaves plain mirror descent with V_t = sum_s |g_s|^2.

    Example:
        >>> learner = OptimisticDescent(torch.zeros(1, 2), lambda t, V: 0.1, lambda z: z)
        >>> learner.update(torch.ones(1, 2))
        >>> learner.x  # the step and the hint's step
        tensor([[-0.2000, -0.2000]])
    """

    def __init__(self, start: Tensor, rate: Rate, project: Project, hint: bool = True) -> None:
        self.x = self.xhat = start
        self.rate, self.project, self.hint = rate, project, hint
        self.t, self.V = 1, torch.zeros_like(start[..., :1])
        self.M = torch.zeros_like(start)

    def update(self, g: Tensor) -> None:
        """xhat_{t+1} with eta_t, then x_{t+1} with eta_{t+1}, which sees g_t in V_t."""
        self.xhat = self.project(self.xhat - self.rate(self.t, self.V) * g)
        self.V = self.V + (g - self.M).square().sum(-1, keepdim=True)
        self.t += 1
        if self.hint:
            self.M = g
            self.x = self.project(self.xhat - self.rate(self.t, self.V) * g)
        else:
            self.x = self.xhat


class OFTRL:
    """Optimistic follow the regularised leader (Sachs et al. 2022): x_{t+1} = Pi(-eta_{t+1} (sum_{s<=t} g_s + g_t)).

    Args:
        start: (..., d) centre of X, the origin of the steps.
        rate: eta of eq. 2.
        project: onto X.
    """

    def __init__(self, start: Tensor, rate: Rate, project: Project) -> None:
        self.x = self.start = start
        self.rate, self.project = rate, project
        self.t, self.V = 1, torch.zeros_like(start[..., :1])
        self.g, self.sum = torch.zeros_like(start), torch.zeros_like(start)

    def update(self, g: Tensor) -> None:
        """The leader of the gradients so far and of g_t once more."""
        self.V = self.V + (g - self.g).square().sum(-1, keepdim=True)
        self.t, self.g, self.sum = self.t + 1, g, self.sum + g
        self.x = self.project(self.start - self.rate(self.t, self.V) * (self.sum + g))


class Descent:
    """Projected gradient descent x_{t+1} = Pi(x_t - eta_t g_t).

    Args:
        start: (..., d).
        rate: (t, S_t) -> eta_t with S_t = sum_{s<=t} |g_s|^2, so that AdaGrad's scalar rate is one of them.
        project: onto X.
    """

    def __init__(self, start: Tensor, rate: Rate, project: Project) -> None:
        self.x, self.rate, self.project = start, rate, project
        self.t, self.S = 1, torch.zeros_like(start[..., :1])

    def update(self, g: Tensor) -> None:
        """One step."""
        self.S = self.S + g.square().sum(-1, keepdim=True)
        self.x = self.project(self.x - self.rate(self.t, self.S) * g)
        self.t += 1


def sqrt_rate(D: float, G: float | Tensor) -> Rate:
    """eta_t = D / (G sqrt t), of online gradient descent."""
    _positive(D=D, G=float(torch.as_tensor(G).min()))
    return lambda t, S: D / (G * math.sqrt(t))


def adagrad_rate(D: float) -> Rate:
    """eta_t = D / sqrt(2 sum_{s<=t} |g_s|^2); 0 while all gradients were 0, when the step is 0 in any case."""
    _positive(D=D)
    return lambda t, S: torch.where(S > 0, D / (2 * S.where(S > 0, torch.ones_like(S))).sqrt(), 0.0)


def exp_concave_beta(alpha: float, D: float, G: float) -> float:
    """The theorem's beta = min{1 / (4 G D), alpha} / 2.

    Example:
        >>> exp_concave_beta(1.0, D=2.0, G=2.5)
        0.025
    """
    _positive(alpha=alpha, D=D, G=G)
    return 0.5 * min(1 / (4 * G * D), alpha)


class Newton:
    """Eq. 4, the optimistic online Newton step on a ball; without the hint the online Newton step.

    Args:
        start: (..., d).
        beta: > 0, a number or (..., 1) where runs differ.
        G: bound of the gradients.
        radius: of the ball about the origin.
        hint: whether M_{t+1} = g_t.
    """

    def __init__(
        self, start: Tensor, beta: float | Tensor, G: float, radius: float = 1.0, hint: bool = True
    ) -> None:
        _positive(beta=float(torch.as_tensor(beta).min()), G=G, radius=radius)
        self.x = self.xhat = start
        self.beta = torch.as_tensor(beta, dtype=start.dtype)[..., None]  # (..., 1, 1), or (1,)
        self.radius, self.hint = radius, hint
        d = start.shape[-1]
        self.H = (1 + self.beta / 2 * G**2) * torch.eye(d, dtype=start.dtype).expand(*start.shape, d)

    def update(self, g: Tensor) -> None:
        """xhat_{t+1} in the norm of H_t, x_{t+1} in that of H_{t+1}."""
        self.xhat = self._step(self.xhat, g)
        self.H = self.H + self.beta / 2 * g[..., :, None] * g[..., None, :]
        self.x = self._step(self.xhat, g) if self.hint else self.xhat

    def _step(self, x: Tensor, g: Tensor) -> Tensor:
        z = x - torch.linalg.solve(self.H, g[..., None])[..., 0]
        return project_ball_in_norm(z, self.H, self.radius)


def _positive(**numbers: float) -> None:
    """Refuses what is not a finite number above 0."""
    for name, value in numbers.items():
        if not 0 < value < math.inf:
            raise ValueError(f"{name} must be finite and > 0, got {value}")


def run(
    learner: Learner, gradient: Callable[[int, Tensor], Tensor], rounds: int
) -> Float[Tensor, "rounds *b d"]:
    """What a learner plays against gradients that may depend on its point.

    Args:
        learner: a fresh one.
        gradient: (t, x) -> g_t at x, t from 0.
        rounds: T >= 1.

    Returns:
        x_1 .. x_T.

    Raises:
        ValueError: gradients that are not finite or of another shape, named by their round.

    Example:
        >>> start = torch.zeros(1, 1)
        >>> learner = Descent(start, sqrt_rate(2.0, 1.0), lambda z: z.clamp(-1, 1))
        >>> run(learner, lambda t, x: torch.ones_like(x), 3).flatten().tolist()
        [0.0, -1.0, -1.0]
    """
    played = torch.empty(rounds, *learner.x.shape, dtype=learner.x.dtype)
    for t in range(rounds):
        played[t] = learner.x
        g = gradient(t, learner.x)
        if g.shape != learner.x.shape:
            raise ValueError(
                f"round {t + 1}: gradients have shape {tuple(g.shape)}, x has {tuple(learner.x.shape)}"
            )
        learner.update(g)
    if not bool(played.isfinite().all()):
        first = int((~played.flatten(1).isfinite().all(1)).nonzero()[0, 0])
        raise ValueError(f"round {first + 1}: x is not finite, look at the gradients of the round before")
    return played
