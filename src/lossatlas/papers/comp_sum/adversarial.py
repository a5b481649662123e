"""Smooth adversarial comp-sum training, eq. 4 of the room's head, and its baselines.

Each loss is called with the net, not with scores, because it attacks the net first (attack.py: pixels in [0,
1], batch norm frozen). What is trained on sees clean and perturbed points as one batch, in the net's own
mode, so that both are scored by the same function.
"""

import math

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn

from lossatlas.attacks import Objective, ball, frozen, pgd
from lossatlas.losses import checked, in_float32
from lossatlas.papers.comp_sum.attack import per_sample_cross_entropy
from lossatlas.papers.comp_sum.losses import CompSumLoss


def score_change(
    f_moved: Float[Tensor, "n K"], f: Float[Tensor, "n K"], y: Int[Tensor, " n"]
) -> Float[Tensor, " n"]:
    """|| Delta(x', y, .) - Delta(x, y, .) ||_2 over y' != y, Delta(x, y, y') = h(x, y) - h(x, y').

    A safe norm: where nothing changed it is 0 with gradient 0 instead of NaN.

    Shapes:
        f_moved (n, K) scores at x', f (n, K) scores at x, y (n,) -> (n,).
    """
    moved = checked(f_moved, y) - in_float32(f)
    square = (moved.gather(1, y[:, None]) - moved).square().sum(1)  # y' = y adds 0
    still = square == 0
    return torch.where(still, 0.0, torch.where(still, 1.0, square).sqrt())


class _Attacked(nn.Module):
    """What the four losses share: the radius and length of the attack, and one forward pass of both
    points."""

    def __init__(self, radius: float, step: float | None, steps: int) -> None:
        super().__init__()
        if not 0 <= radius < math.inf or steps < 1 or not (step is None or 0 < step < math.inf):
            raise ValueError(
                f"the attack needs radius >= 0, step > 0, steps >= 1, got {radius=}, {step=}, {steps=}"
            )
        self.radius, self.step, self.steps = radius, step, steps

    def attack(
        self, net: nn.Module, x: Tensor, y: Tensor, objective: Objective, generator: torch.Generator | None
    ):
        """PGD at this loss's radius."""
        return pgd(net, x, y, objective, self.radius, self.step, self.steps, generator)

    def both(self, net: nn.Module, x: Tensor, moved: Tensor) -> tuple[Tensor, Tensor]:
        """Scores at x and at x' from one pass, so that batch norm is the same function for both."""
        f, f_moved = in_float32(net(torch.cat([x, moved]))).chunk(2)
        return f, f_moved

    def clean(self, net: nn.Module, x: Tensor) -> Tensor:
        """Scores at x for the attack: evaluation mode, no gradient."""
        with frozen(net), torch.no_grad():
            return in_float32(net(x))


class AdvCompSumLoss(_Attacked):
    """ADV-COMP-SUM, eq. 4: the comp-sum loss at x plus nu times the largest change of score gaps in the ball.

    The inner maximum is PGD on the change itself, from a random start because its gradient at x is 0, and
    against the detached scores at x; in the loss the gradient goes through both points.

    Args:
        tau: member of the comp-sum family, >= 0.
        nu: price of the change, >= 0.
        rho: width of the margin in score units, > 0: scores enter the first term divided by it.
        radius: of the ball in pixels, >= 0; 0 leaves the clean comp-sum loss.
        step: length of a step of the attack, > 0; None: radius / 3.
        steps: steps of the attack, >= 1.
        limit: as in `CompSumLoss`.

    Shapes:
        net, x (n, *shape) in [0, 1], y (n,) -> (n,).

    Raises:
        ValueError: a number out of range, or x no image.

    Example:
        >>> AdvCompSumLoss(radius=0.0)(nn.Flatten(), torch.zeros(1, 1, 1, 2), torch.tensor([0]))
        tensor([0.6931])
    """

    def __init__(
        self,
        tau: float = 1.0,
        nu: float = 0.1,
        rho: float = 1.0,
        radius: float = 0.1,
        step: float | None = None,
        steps: int = 5,
        limit: float | None = None,
    ) -> None:
        super().__init__(radius, step, steps)
        if not (0 <= nu < math.inf and 0 < rho < math.inf):
            raise ValueError(f"AdvCompSumLoss needs finite nu >= 0 and rho > 0, got {nu=}, {rho=}")
        self.nu, self.rho, self.comp_sum = nu, rho, CompSumLoss(tau, limit)

    def forward(
        self,
        net: nn.Module,
        x: Float[Tensor, "n ..."],
        y: Int[Tensor, " n"],
        generator: torch.Generator | None = None,
    ) -> Float[Tensor, " n"]:
        ball(x, self.radius)
        if self.radius == 0:
            return self.comp_sum(in_float32(net(x)) / self.rho, y)
        fixed = self.clean(net, x)
        moved = self.attack(net, x, y, lambda f, y: score_change(f, fixed, y), generator)
        f, f_moved = self.both(net, x, moved)
        return self.comp_sum(f / self.rho, y) + self.nu * score_change(f_moved, f, y)


class ATPGD(_Attacked):
    """Adversarial training (Madry et al. 2018): cross-entropy at the PGD point of cross-entropy.

    Args:
        radius: of the ball in pixels, >= 0; 0 leaves cross-entropy.
        step: length of a step of the attack, > 0; None: radius / 3.
        steps: steps of the attack, >= 1.

    Shapes:
        net, x (n, *shape) in [0, 1], y (n,) -> (n,).

    Raises:
        ValueError: a number out of range, or x no image.
    """

    def __init__(self, radius: float = 0.1, step: float | None = None, steps: int = 5) -> None:
        super().__init__(radius, step, steps)

    def forward(
        self,
        net: nn.Module,
        x: Float[Tensor, "n ..."],
        y: Int[Tensor, " n"],
        generator: torch.Generator | None = None,
    ) -> Float[Tensor, " n"]:
        return per_sample_cross_entropy(net(self.attack(net, x, y, per_sample_cross_entropy, generator)), y)


def divergence(log_p: Float[Tensor, "n K"], f_moved: Float[Tensor, "n K"]) -> Float[Tensor, " n"]:
    """KL(p(x) || p(x')) from log p(x) and the scores at x', one value per sample."""
    return (log_p.exp() * (log_p - torch.log_softmax(in_float32(f_moved), dim=1))).sum(1)


class TRADES(_Attacked):
    """TRADES (Zhang et al. 2019): cross-entropy at x plus beta KL(p(x) || p(x')), x' maximising that
    divergence.

    Args:
        beta: price of the divergence, >= 0.
        radius: of the ball in pixels, >= 0; 0 leaves cross-entropy.
        step: length of a step of the attack, > 0; None: radius / 3.
        steps: steps of the attack, >= 1.

    Shapes:
        net, x (n, *shape) in [0, 1], y (n,) -> (n,).

    Raises:
        ValueError: a number out of range, or x no image.
    """

    def __init__(
        self, beta: float = 6.0, radius: float = 0.1, step: float | None = None, steps: int = 5
    ) -> None:
        super().__init__(radius, step, steps)
        if not 0 <= beta < math.inf:
            raise ValueError(f"TRADES needs a finite beta >= 0, got {beta=}")
        self.beta = beta

    def forward(
        self,
        net: nn.Module,
        x: Float[Tensor, "n ..."],
        y: Int[Tensor, " n"],
        generator: torch.Generator | None = None,
    ) -> Float[Tensor, " n"]:
        ball(x, self.radius)
        if self.radius == 0:
            return per_sample_cross_entropy(net(x), y)
        fixed = torch.log_softmax(self.clean(net, x), dim=1)
        f, f_moved = self.both(net, x, self.attack(net, x, y, lambda f, _: divergence(fixed, f), generator))
        return per_sample_cross_entropy(f, y) + self.beta * divergence(torch.log_softmax(f, dim=1), f_moved)


class MART(_Attacked):
    """MART (Wang et al. 2020): boosted cross-entropy at x' plus beta (1 - p_y(x)) KL(p(x) || p(x')).

    The boosted cross-entropy is -log p_y(x') - log(1 - max_{k != y} p_k(x')), x' the PGD point of
    cross-entropy.

    Args:
        beta: price of the weighted divergence, >= 0.
        radius: of the ball in pixels, >= 0; 0 leaves the boosted cross-entropy.
        step: length of a step of the attack, > 0; None: radius / 3.
        steps: steps of the attack, >= 1.

    Shapes:
        net, x (n, *shape) in [0, 1], y (n,) -> (n,).

    Raises:
        ValueError: a number out of range, or x no image.
    """

    def __init__(
        self, beta: float = 5.0, radius: float = 0.1, step: float | None = None, steps: int = 5
    ) -> None:
        super().__init__(radius, step, steps)
        if not 0 <= beta < math.inf:
            raise ValueError(f"MART needs a finite beta >= 0, got {beta=}")
        self.beta = beta

    def forward(
        self,
        net: nn.Module,
        x: Float[Tensor, "n ..."],
        y: Int[Tensor, " n"],
        generator: torch.Generator | None = None,
    ) -> Float[Tensor, " n"]:
        f, f_moved = self.both(net, x, self.attack(net, x, y, per_sample_cross_entropy, generator))
        charged, log_p = per_sample_cross_entropy(f_moved, y), torch.log_softmax(f, dim=1)
        # 1 - p_k is the sum over the other classes: a logsumexp, where 1 - p would round to 0
        rival = f_moved.scatter(1, y[:, None], -math.inf).argmax(1, keepdim=True)
        others = f_moved.scatter(1, rival, -math.inf)
        boost = torch.logsumexp(f_moved, dim=1) - torch.logsumexp(others, dim=1)
        doubt = 1 - log_p.gather(1, y[:, None])[:, 0].exp()
        return charged + boost + self.beta * doubt * divergence(log_p, f_moved)
