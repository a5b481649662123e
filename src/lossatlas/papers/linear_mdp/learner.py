"""The learners of the comparison, all rows (seeds, numbers of episodes, constants) of an arm as one batch."""

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from itertools import pairwise

import torch
from jaxtyping import Float, Int
from torch import Tensor

from lossatlas.cells import draws
from lossatlas.errors import UserError
from lossatlas.keys import nearest
from lossatlas.papers.linear_mdp.estimators import (
    bonus,
    covariance,
    estimate,
    projections,
    reduced_estimate,
    regularised_inverse,
)
from lossatlas.papers.linear_mdp.mdp import LinearMDP
from lossatlas.papers.linear_mdp.policies import hedge, log_barrier

BLOCK = 500  # episodes whose losses and uniform numbers lie ready


@dataclass(frozen=True)
class Learner:
    """An arm: which estimate (eq. 2 or 3), which algorithm (eq. 5), whose rates, and whether there is a bonus."""

    reduced: bool
    barrier: bool
    rates: Callable[[float, float, float, int, int], tuple[float, float, float]]
    dilated: bool = True
    learns: bool = True


def _barrier_rates(K: float, c_eta: float, c_beta: float, H: int, A: int) -> tuple[float, float, float]:
    return c_eta * math.sqrt(A / 6) / math.sqrt(K), 1 / K, c_beta / math.sqrt(K)


def _hedge_rates(K: float, c_eta: float, c_beta: float, H: int, A: int) -> tuple[float, float, float]:
    return c_eta * math.sqrt(math.log(A) / math.log(6)) / math.sqrt(K), 1 / K, c_beta / math.sqrt(K)


def _safe_rates(K: float, c_eta: float, c_beta: float, H: int, A: int) -> tuple[float, float, float]:
    eta = c_eta * K ** (-2 / 3)
    return eta, 2 * H * eta, c_beta * K ** (-1 / 3)  # eta |Q| <= 1/2


LEARNERS = {
    "log_barrier": Learner(reduced=False, barrier=True, rates=_barrier_rates),
    "magnitude_reduced": Learner(reduced=True, barrier=False, rates=_hedge_rates),
    "dilated_hedge": Learner(reduced=False, barrier=False, rates=_safe_rates),
    "hedge_unsafe": Learner(reduced=False, barrier=False, rates=_hedge_rates),
    "reduced_safe": Learner(reduced=True, barrier=False, rates=_safe_rates),
    "no_bonus": Learner(reduced=False, barrier=True, rates=_barrier_rates, dilated=False),
    "uniform": Learner(reduced=False, barrier=False, rates=_hedge_rates, dilated=False, learns=False),
}


def learner_named(name: str) -> Learner:
    """An arm of the comparison.

    Raises:
        UserError: no such arm.
    """
    if name not in LEARNERS:
        raise UserError(f"no learner {name!r}; {nearest(name, LEARNERS)}")
    return LEARNERS[name]


@dataclass
class Runs:
    """Rows of a batch, longest first.

    Args:
        mdp: of each row. seeds: of each row. K: episodes of each row, none larger than the one before.
        eta, gamma, beta: rates of each row.
    """

    mdp: LinearMDP
    seeds: list[int]
    K: list[int]
    eta: Float[Tensor, " R"]
    gamma: Float[Tensor, " R"]
    beta: Float[Tensor, " R"]


def thetas(seeds: Sequence[int], K: int, H: int, d: int) -> Float[Tensor, "R K H d"]:
    """An adversary's losses: .5, less .2 on one coordinate of the seed's, + .2 sin(6 pi k / K), + noise of +-.1."""
    best = draws(seeds, "linear_mdp/best", lambda g: torch.randint(d, (), generator=g))
    shape = (K, H, d)
    noise = draws(
        seeds, f"linear_mdp/losses/{K}", lambda g: torch.rand(shape, generator=g, dtype=torch.float64)
    )
    k = torch.arange(1, K + 1, dtype=torch.float64)
    wave = 0.2 * torch.sin(6 * math.pi * k / K)
    better = 0.2 * torch.nn.functional.one_hot(best, d)
    return 0.5 + 0.2 * (noise - 0.5) + wave[:, None, None] - better[:, None, None]


def simulated(
    mdp: LinearMDP, pi: Float[Tensor, "R H S A"], trajectories: int, generator: torch.Generator
) -> Float[Tensor, "R H S A"]:
    """Shares of states and actions in simulated trajectories, in place of the exact chances."""
    R, H, S, A = pi.shape
    many = mdp.rows(torch.arange(R).repeat_interleave(trajectories))
    uniform = torch.rand(R * trajectories, H, 2, generator=generator, dtype=pi.dtype)
    states, actions = many.play(pi.repeat_interleave(trajectories, dim=0), uniform)
    counts = torch.zeros(R * H, S * A, dtype=pi.dtype)
    pairs = (states * A + actions).view(R, trajectories, H).transpose(1, 2).reshape(R * H, trajectories)
    counts.scatter_add_(1, pairs, torch.ones_like(pairs, dtype=pi.dtype))
    return counts.view(R, H, S, A) / trajectories


@torch.no_grad()
def run(learner: Learner, runs: Runs, trajectories: int | None = None) -> dict[str, Float[Tensor, " R"]]:
    """Plays all episodes of all rows; the regret is exact, by dynamic programming on the summed losses.

    Args:
        trajectories: simulated for each covariance; None: exact covariances.

    Returns:
        regret, of_root (regret / sqrt K), most_negative and largest (of all estimates of Q; the first as a size),
        change (largest |pi_{k+1} - pi_k|_1 of a state), smallest (chance of an action), bonus (sum over episodes of
        E b), uniform (the regret of equal chances).
    """
    R, H, S, A, d = runs.mdp.phi.shape
    double = torch.float64
    pi = torch.full((R, H, S, A), 1 / A, dtype=double)
    equal = pi.clone()
    G, mu = torch.zeros_like(pi), torch.ones(R, H, S, dtype=double)
    most = torch.arange(H, 0, -1, dtype=double).expand(R, H)
    paid, paid_equal, given = (torch.zeros(R, dtype=double) for _ in range(3))
    low, high, change = (torch.zeros(R, dtype=double) for _ in range(3))
    smallest, total = torch.full((R,), 1 / A, dtype=double), torch.zeros(R, H, d, dtype=double)
    q_equal = runs.mdp.occupancy(equal)
    sample = torch.Generator().manual_seed(runs.seeds[0])
    numbers = drawn(runs)
    for start, end in segments(runs.K):
        n = sum(end <= K for K in runs.K)
        mdp = runs.mdp.rows(slice(n))
        now = [part for part in numbers if end <= part.K]
        thetas_now = torch.cat([part.theta[:, start:end][part.rows] for part in now])
        uniform_now = torch.cat([part.uniform[:, start:end][part.rows] for part in now])
        for theta, uniform in zip(thetas_now.unbind(1), uniform_now.unbind(1), strict=True):
            losses = mdp.losses(theta)
            q = mdp.occupancy(pi[:n]) if learner.learns else q_equal[:n]
            paid[:n] += (q * losses).sum((1, 2, 3))
            paid_equal[:n] += (q_equal[:n] * losses).sum((1, 2, 3))
            total[:n] += theta
            if not learner.learns:
                continue
            states, actions = mdp.play(pi[:n], uniform)
            rows, layers = torch.arange(n)[:, None], torch.arange(H)
            L = losses[rows, layers, states, actions].flip(1).cumsum(1).flip(1)
            if trajectories:
                q = simulated(mdp, pi[:n], trajectories, sample)
            Sinv = regularised_inverse(covariance(q, mdp.phi), runs.gamma[:n, None].expand(n, H))
            Z = projections(mdp.phi, Sinv, mdp.phi[rows, layers, states, actions])
            Q = reduced_estimate(Z, L, mdp.phi, Sinv, q, most[:n]) if learner.reduced else estimate(Z, L)
            low[:n] = torch.minimum(low[:n], Q.amin((1, 2, 3)))
            high[:n] = torch.maximum(high[:n], Q.amax((1, 2, 3)))
            G[:n] += Q
            if learner.dilated:
                B, own = bonus(mdp, pi[:n], Sinv, runs.beta[:n])
                G[:n] -= B
                given[:n] += (q * own).sum((1, 2, 3))
            eta = runs.eta[:n, None, None].expand(n, H, S)
            if learner.barrier:
                new, mu[:n] = log_barrier(G[:n], eta, mu[:n])
            else:
                new = hedge(G[:n], eta)
            change[:n] = torch.maximum(change[:n], (new - pi[:n]).abs().sum(-1).amax((1, 2)))
            smallest[:n] = torch.minimum(smallest[:n], new.amin((1, 2, 3)))
            pi[:n] = new
    if not learner.learns:  # there are no estimates of whose size to speak
        low, high, change = (torch.full((R,), math.nan, dtype=double) for _ in range(3))
    best, _ = runs.mdp.best(runs.mdp.losses(total))
    regret = paid - best
    return {
        "regret": regret,
        "of_root": regret / torch.tensor(runs.K, dtype=double).sqrt(),
        "most_negative": -low,
        "largest": high,
        "change": change,
        "smallest": smallest,
        "bonus": given,
        "uniform": paid_equal - best,
    }


@dataclass
class Numbers:
    """What the episodes of all rows of one K draw: a row's losses and uniform numbers are its seed's."""

    K: int
    theta: Float[Tensor, "n K H d"]
    uniform: Float[Tensor, "n K H 2"]
    rows: Int[Tensor, " m"]


def drawn(runs: Runs) -> list[Numbers]:
    """The numbers of every K, in the rows' order."""
    _, H, _, _, d = runs.mdp.phi.shape
    found = []
    for K in dict.fromkeys(runs.K):
        own = [seed for seed, rounds in zip(runs.seeds, runs.K, strict=True) if rounds == K]
        seeds = list(dict.fromkeys(own))
        theta = thetas(seeds, K, H, d)
        shape = (K, H, 2)
        uniform = draws(
            seeds, f"linear_mdp/play/{K}", lambda g, s=shape: torch.rand(s, generator=g, dtype=torch.float64)
        )
        found.append(Numbers(K, theta, uniform, torch.tensor([seeds.index(seed) for seed in own])))
    return found


def segments(K: Sequence[int]) -> list[tuple[int, int]]:
    """Runs of episodes in which no row ends, at most BLOCK long.

    Example:
        >>> segments([1200, 700])
        [(0, 500), (500, 700), (700, 1000), (1000, 1200)]
    """
    edges = sorted({*range(0, max(K), BLOCK), *K})
    return list(pairwise(edges))
