"""Log-linear policies: the problem of the theory, its convex solver and its measures, all conditions at once.

pi_theta(a|s) is proportional to exp(theta . phi(s, a)), pi0 is uniform and beta = 1, so h = theta . x with the feature
difference x of winner and loser, and pi_theta* is the best policy of the KL-regularised objective.
"""

import math
from dataclasses import dataclass

import torch
from jaxtyping import Float
from torch import Tensor
from torch.nn.functional import softplus

from lossatlas.seeding import stream


@dataclass(frozen=True)
class Problem:
    """One draw of features, true parameter and clean preferences.

    Args:
        phi: (S, A, d) features of every prompt and action, float64.
        theta_true: (d,) the true parameter.
        x: (n, d) feature differences of two different actions of a random prompt.
        y: (n,) +1 where the first action is preferred, else -1: Bradley-Terry with rewards theta_true . phi.
        u: (n,) uniform numbers: the pair is flipped at every rate eps > u, so that rates share their flips.
    """

    phi: Float[Tensor, "S A d"]
    theta_true: Float[Tensor, " d"]
    x: Float[Tensor, "n d"]
    y: Float[Tensor, " n"]
    u: Float[Tensor, " n"]

    def given(self, eps: Float[Tensor, " C"]) -> Float[Tensor, "C n"]:
        """The labels as given, flipped once: one row per flip rate."""
        return torch.where(self.u < eps[:, None], -self.y, self.y)


def draw(
    seed: int,
    d: int,
    n: int,
    norm: float = 0.5,
    prompts: int = 200,
    actions: int = 10,
    pairs: int | None = None,
) -> Problem:
    """A problem that depends on (seed, d, pairs) alone; n keeps its first pairs.

    Args:
        seed: >= 0. d: dimension, >= 1. n: pairs, >= 1. norm: |theta_true|, > 0. prompts: >= 1. actions: >= 2.
        pairs: how many pairs are drawn, >= n; None: n.

    Raises:
        ValueError: a size out of range.

    Example:
        >>> draw(seed=0, d=5, n=64).x.shape
        torch.Size([64, 5])
    """
    pairs = n if pairs is None else pairs
    if not (d >= 1 and 1 <= n <= pairs and 0 < norm < math.inf and prompts >= 1 and actions >= 2):
        raise ValueError(
            f"a log-linear problem needs d, n, prompts >= 1, n <= pairs, actions >= 2 and a finite norm > 0, got "
            f"{d=}, {n=}, {pairs=}, {prompts=}, {actions=}, {norm=}"
        )
    g, f64 = stream(seed, f"rdpo/loglinear/{d}"), torch.float64
    phi = torch.randn(prompts, actions, d, generator=g, dtype=f64)
    theta = torch.randn(d, generator=g, dtype=f64)
    theta = norm * theta / theta.norm()
    s = torch.randint(prompts, (pairs,), generator=g)
    first = torch.randint(actions, (pairs,), generator=g)
    second = (first + 1 + torch.randint(actions - 1, (pairs,), generator=g)) % actions
    x = phi[s, first] - phi[s, second]
    better = torch.rand(pairs, generator=g, dtype=f64) < torch.sigmoid(x @ theta)
    u = torch.rand(pairs, generator=g, dtype=f64)
    return Problem(phi, theta, x[:n], torch.where(better, 1.0, -1.0).double()[:n], u[:n])


def objective(
    theta: Float[Tensor, "C d"], x: Float[Tensor, "n d"], y: Float[Tensor, "C n"], tilt: Float[Tensor, " C"]
) -> Float[Tensor, " C"]:
    """Mean loss softplus(-h) + tilt h of the pairs as given, h = y x . theta."""
    h = y * (theta @ x.T)
    return (softplus(-h) + tilt[:, None] * h).mean(1)


def minimise(
    x: Float[Tensor, "n d"],
    y: Float[Tensor, "C n"],
    tilt: Float[Tensor, " C"],
    radius: float = 1.0,
    iterations: int = 60,
) -> Float[Tensor, "C d"]:
    """Accelerated projected gradient over |theta| <= radius, all labellings and tilts at once.

    softplus(-h) depends on the label only through a linear term (l(-h) = l(h) + h), so one label-free pass over the
    pairs serves every condition: grad = -x' sigmoid(-x theta) / n + b. Step 1/L, L = lambda_max(x'x / n) / 4.

    Args:
        x: feature differences. y: labels +-1, one row per condition. tilt: of the loss, one per condition.
        radius: > 0; at high flip rates the rdpo loss has no finite minimiser without it. iterations: >= 1.

    Raises:
        ValueError: no pairs, chosen and rejected the same in every pair, or settings out of range.
    """
    n = len(x)
    if n == 0:
        raise ValueError("no preference pairs: give at least one")
    if not x.any():
        raise ValueError("chosen equals rejected in every pair: nothing can be learnt, check the pairs")
    if not (0 < radius < math.inf and iterations >= 1):
        raise ValueError(
            f"the solver needs a finite radius > 0 and iterations >= 1, got {radius=}, {iterations=}"
        )
    b = ((1 - y) / 2 + tilt[:, None] * y) @ x / n
    step = 4 / torch.linalg.eigvalsh(x.T @ x / n)[-1]
    theta = ahead = torch.zeros_like(b)
    t = 1.0
    for _ in range(iterations):
        gradient = b - torch.sigmoid(-(ahead @ x.T)) @ x / n
        new = into_ball(ahead - step * gradient, radius)
        t_new = (1 + math.sqrt(1 + 4 * t * t)) / 2
        ahead = new + (t - 1) / t_new * (new - theta)
        theta, t = new, t_new
    return theta


def into_ball(theta: Float[Tensor, "C d"], radius: float) -> Float[Tensor, "C d"]:
    """The nearest point with |theta| <= radius."""
    return theta * (radius / theta.norm(dim=-1, keepdim=True).clamp(min=radius))


def measures(theta: Float[Tensor, "C d"], problem: Problem) -> dict[str, Float[Tensor, " C"]]:
    """How far parameters and their policies are from the best, over all prompts.

    Returns:
        error: |theta - theta*| in the norm of the covariance of feature differences of two different actions.
        gap: KL-regularised objective of pi_theta* less that of pi_theta, in nats; it equals KL(pi_theta, pi_theta*).
        greedy_gap: reward of the best action less that of the action the policy ranks first.
        norm: |theta|.
    """
    phi, true = problem.phi, problem.theta_true
    centred = phi - phi.mean(1, keepdim=True)
    away = torch.einsum("sad,cd->csa", centred, theta - true)
    # E |x . delta|^2 over two different actions is 2/(A-1) times the sum of squares around the prompt's mean
    error = (away.square().sum(2) * 2 / (phi.shape[1] - 1)).mean(1).sqrt()
    log_pi = torch.einsum("sad,cd->csa", phi, theta).log_softmax(2)
    rewards = phi @ true
    gap = (log_pi.exp() * (log_pi - rewards.log_softmax(1))).sum(2).mean(1)
    chosen = rewards.expand_as(log_pi).gather(2, log_pi.argmax(2, keepdim=True))[..., 0]
    greedy = (rewards.amax(1) - chosen).mean(1)
    return {"error": error, "gap": gap.clamp(min=0), "greedy_gap": greedy, "norm": theta.norm(dim=1)}
