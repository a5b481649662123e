"""Layered MDPs whose transitions and losses are linear in features, R of them at once, solved exactly."""

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from jaxtyping import Float, Int
from torch import Tensor

from lossatlas.cells import numpy_draws

TOLERANCE = 1e-9


@dataclass(frozen=True)
class LinearMDP:
    """R MDPs of one size; every episode starts in state 0.

    Args:
        phi: (R, H, S, A, d) features, norm <= 1.
        P: (R, H - 1, S, A, S) chances of the next layer's states.

    Raises:
        ValueError: shapes that do not fit, NaN, a feature longer than 1, chances that are negative or do not sum to 1.
    """

    phi: Tensor
    P: Tensor

    def __post_init__(self) -> None:
        if self.phi.ndim != 5 or self.phi.numel() == 0 or not self.phi.isfinite().all():
            raise ValueError(f"phi must be finite numbers (R, H, S, A, d), got {tuple(self.phi.shape)}")
        R, H, S, A, _ = self.phi.shape
        if self.P.shape != (R, H - 1, S, A, S):
            raise ValueError(
                f"P must be (R, H - 1, S, A, S) = {(R, H - 1, S, A, S)}, got {tuple(self.P.shape)}"
            )
        if self.phi.norm(dim=-1).max() > 1 + TOLERANCE:
            raise ValueError(f"features must have norm <= 1, got {float(self.phi.norm(dim=-1).max()):.4g}")
        if self.P.numel() and not (self.P.min() >= 0 and (self.P.sum(-1) - 1).abs().max() < TOLERANCE):
            raise ValueError("P holds chances: none negative, each row over the next states sums to 1")

    def losses(self, theta: Float[Tensor, "R H d"]) -> Float[Tensor, "R H S A"]:
        """<phi, theta>."""
        return torch.einsum("rhsad,rhd->rhsa", self.phi, theta)

    def occupancy(self, pi: Float[Tensor, "R H S A"]) -> Float[Tensor, "R H S A"]:
        """The chance of each state and action of each layer under a policy."""
        now = torch.zeros_like(pi[:, 0, :, 0])
        now[:, 0] = 1
        found = []
        for h in range(pi.shape[1]):
            found.append(now[:, :, None] * pi[:, h])
            if h < self.P.shape[1]:
                now = torch.einsum("rsa,rsat->rt", found[h], self.P[:, h])
        return torch.stack(found, dim=1)

    def action_values(
        self, pi: Float[Tensor, "R H S A"], losses: Float[Tensor, "R H S A"]
    ) -> Float[Tensor, "R H S A"]:
        """Q^pi: the loss of a layer and what follows under the policy."""
        found = [losses[:, -1]]
        for h in range(self.P.shape[1] - 1, -1, -1):
            ahead = (pi[:, h + 1] * found[0]).sum(-1)
            found.insert(0, losses[:, h] + torch.einsum("rsat,rt->rsa", self.P[:, h], ahead))
        return torch.stack(found, dim=1)

    def best(self, losses: Float[Tensor, "R H S A"]) -> tuple[Float[Tensor, " R"], Int[Tensor, "R H S"]]:
        """Value of the best fixed policy from the start, by dynamic programming, and its actions."""
        ahead, actions = torch.zeros_like(losses[:, 0, :, 0]), []
        for h in range(losses.shape[1] - 1, -1, -1):
            now = losses[:, h]
            if h < self.P.shape[1]:
                now = now + torch.einsum("rsat,rt->rsa", self.P[:, h], ahead)
            ahead, action = now.min(dim=-1)
            actions.insert(0, action)
        return ahead[:, 0], torch.stack(actions, dim=1)

    def play(
        self, pi: Float[Tensor, "R H S A"], uniform: Float[Tensor, "R H 2"]
    ) -> tuple[Int[Tensor, "R H"], Int[Tensor, "R H"]]:
        """States and actions of an episode each, from uniform numbers for the action and the next state."""
        rows = torch.arange(len(pi))
        s, states, actions = torch.zeros(len(pi), dtype=torch.int64), [], []
        for h in range(pi.shape[1]):
            a = picked(pi[rows, h, s], uniform[:, h, 0])
            states.append(s)
            actions.append(a)
            if h < self.P.shape[1]:
                s = picked(self.P[rows, h, s, a], uniform[:, h, 1])
        return torch.stack(states, dim=1), torch.stack(actions, dim=1)

    def rows(self, index: Int[Tensor, " n"] | slice) -> "LinearMDP":
        """Some of the MDPs, one of them several times at need; nothing is checked again."""
        part = object.__new__(LinearMDP)
        object.__setattr__(part, "phi", self.phi[index])
        object.__setattr__(part, "P", self.P[index])
        return part


def picked(p: Float[Tensor, "R n"], u: Float[Tensor, " R"]) -> Int[Tensor, " R"]:
    """One of n by chances p and a uniform number each."""
    below = p.cumsum(-1)
    return (below < u[:, None] * below[:, -1:]).sum(-1).clamp(max=p.shape[1] - 1)


def draw_mdp(
    seeds: Sequence[int], H: int = 3, S: int = 6, A: int = 6, d: int = 4, spread: float = 0.3
) -> LinearMDP:
    """An MDP a seed: features Dirichlet(spread) on the d-simplex, P = sum_i phi_i mu_i with mu_i Dirichlet(spread).

    Args:
        H, S, A, d: layers, states a layer, actions, features, >= 1. spread: > 0.

    Raises:
        ValueError: a size below 1.

    Example:
        >>> draw_mdp([0, 1], H=2, S=3, A=2).P.sum(-1).round(decimals=6).unique().tolist()
        [1.0]
    """
    if min(H, S, A, d) < 1 or not spread > 0:
        raise ValueError(
            f"draw_mdp needs H, S, A, d >= 1 and spread > 0, got {H=}, {S=}, {A=}, {d=}, {spread=}"
        )
    phi = numpy_draws(seeds, "linear_mdp/phi", lambda rng: rng.dirichlet([spread] * d, size=(H, S, A)))
    mu = numpy_draws(seeds, "linear_mdp/mu", lambda rng: rng.dirichlet([spread] * S, size=(H - 1, d)))
    P = torch.einsum("rhsad,rhdt->rhsat", phi[:, :-1], mu)
    return LinearMDP(phi, P / P.sum(-1, keepdim=True))
