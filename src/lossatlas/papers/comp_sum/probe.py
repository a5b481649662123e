"""Random and adversarial pairs (q, h) against the bound: the experiment `comp_sum_bounds`."""

import math

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor

from lossatlas.papers.comp_sum.bounds import (
    COUNTED,
    ROUNDING,
    best_risk,
    check_tau_n,
    gamma_tau,
    risk,
    surrogate_regret,
    t_tau,
    two_class_tie,
    zero_one_regret,
)

MEASURED = (
    "violations",
    "pairs",
    "counted",
    "max_ratio",
    "search_ratio",
    "search_violations",
    "tightness",
)  # what `run_bounds` returns
CHUNK = 2_000_000  # numbers in one block of q: some 16 MB, and a dozen such blocks alive at once


def sample_pairs(
    n: int, count: int, tau: float, rng: np.random.Generator
) -> tuple[Float[Tensor, "m n"], Float[Tensor, "m n"]]:
    """`count` conditional distributions q and scores h in float64, half of the scores near the Bayes scores.

    q is Dirichlet with a concentration drawn for every pair, log-uniform in [.05, 10]. The first half of the
    scores is log q / (2 - tau) (slope 4 where that is larger or not defined) plus normal noise of scale 1e-3
    to 3, the other half normal of scale .1 to 10, both scales log-uniform.

    Args:
        n: number of classes, >= 2.
        count: number of pairs, >= 1.
        tau: member of the family, >= 0.
        rng: source of the draws.
    """
    shape = rng.standard_gamma(np.exp(rng.uniform(math.log(0.05), math.log(10), count))[:, None], (count, n))
    q = torch.from_numpy(shape / shape.sum(1, keepdims=True))
    slope = min(1 / (2 - tau), 4.0) if tau < 2 else 4.0
    near = torch.arange(count) < count // 2
    scale = torch.from_numpy(
        10 ** rng.uniform(np.where(near, -3.0, -1.0), np.where(near, math.log10(3), 1.0))
    )
    h = torch.from_numpy(rng.standard_normal((count, n))) * scale[:, None]
    return q, h + torch.where(near[:, None], slope * torch.log(q.clamp(min=1e-30)), 0.0)


def _violations(q: Tensor, h: Tensor, tau: float) -> tuple[Tensor, Tensor, Tensor]:
    """Zero-one regret, surrogate regret, and where T of the one exceeds the other by more than rounding.

    Below tau = 1 the slope of T is infinite at b = 1, so that the last digit of b is worth 1e-8 of T there:
    T is taken at b less its own rounding. (Without that, ties of nearly sure q count as violations by up to
    1.5e-8, where 50 digits show the bound attained to 1e-42.)
    """
    b, attained, least = zero_one_regret(q, h), risk(q, h, tau), best_risk(q, tau)
    low = (b.detach() - 4 * torch.finfo(b.dtype).eps).clamp(min=0)
    return b, attained - least, t_tau(low, tau, q.shape[1]) > attained - least + ROUNDING * (1 + attained)


def check_samples(tau: float, n: int, samples: int, rng: np.random.Generator) -> dict[str, float]:
    """Count violations over random pairs; the largest zero-one regret over Gamma where that Gamma is < .99.

    Args:
        tau: member of the family, >= 0.
        n: number of classes, >= 2.
        samples: number of pairs, >= 1.
        rng: source of the draws.
    """
    size = max(1, CHUNK // n)
    violations, counted, top = 0, 0, 0.0
    for start in range(0, samples, size):
        b, t, bad = _violations(*sample_pairs(n, min(size, samples - start), tau, rng), tau)
        violations += int(bad.sum())
        # a regret of 0 has ratio 0, and below 1e-9 the difference of two risks holds no digits for a ratio
        b, t = b[(b > 0) & (t > 1e-9)], t[(b > 0) & (t > 1e-9)]
        gamma = gamma_tau(t, tau, n)
        ratio = (b / gamma)[gamma < COUNTED]
        counted += len(ratio)
        top = max(top, float(ratio.max()) if len(ratio) else 0.0)
    counts = {"violations": violations, "pairs": samples, "counted": counted}
    return {k: float(v) for k, v in counts.items()} | {"max_ratio": top}


def _search_start(n: int, starts: int, rng: np.random.Generator) -> tuple[Tensor, Tensor]:
    logit = torch.from_numpy(rng.standard_normal((starts, n)) * rng.uniform(0.1, 10, (starts, 1)))
    # a predicted class 1 that is also the likeliest would have no regret and no gradient
    logit[:, :2] = logit[:, :2].sort(dim=1, descending=True).values
    below = torch.from_numpy(-rng.exponential(1.0, (starts, n)))
    return logit.requires_grad_(), below.requires_grad_()


def search_ratio(
    tau: float, n: int, starts: int, steps: int, rng: np.random.Generator, lr: float = 0.3
) -> dict[str, float]:
    """Maximise zero-one regret over Gamma_tau(surrogate regret) by Adam from many starts at once.

    Class 1 is the predicted one: its score is 0 and no other is above 0, so that ties - where the supremum
    lies - are reachable and belong to the feasible set. Every visited pair with Gamma < .99 counts, not only
    the last.

    Args:
        tau: member of the family, >= 0.
        n: number of classes, >= 2.
        starts: number of starts, >= 1.
        steps: Adam steps, >= 1.
        rng: source of the starts.
        lr: Adam's step size in logits and scores, > 0.
    """
    logit, below = _search_start(n, starts, rng)
    optimizer = torch.optim.Adam([logit, below], lr=lr)
    top, violations = torch.zeros(starts, dtype=torch.float64), 0
    predicted = torch.arange(n) == 1
    for _ in range(steps):
        q, h = torch.softmax(logit, dim=1), torch.where(predicted, 0.0, below)
        b, t, bad = _violations(q, h, tau)
        violations += int(bad.sum())
        gamma = gamma_tau(t.detach(), tau, n)
        valid = (gamma < COUNTED) & (t > 1e-9)
        top = torch.where(valid, torch.maximum(top, b.detach() / gamma), top)
        # Gamma by the implicit function: one Newton step, whose value is gamma's and whose slope is 1 / T'
        at = gamma.clamp(1e-6, COUNTED).requires_grad_()
        slope = torch.autograd.grad(t_tau(at, tau, n).sum(), at)[0]
        log_ratio = torch.log(b.clamp(min=1e-12)) - torch.log(
            gamma.clamp(min=1e-12) + (t - t.detach()) / slope
        )
        pull = torch.relu(gamma + (t - t.detach()) / slope - 0.9)  # keeps the search where ratios count
        optimizer.zero_grad()
        (pull - log_ratio).sum().backward()
        optimizer.step()
        with torch.no_grad():
            below.clamp_(min=-200.0, max=0.0)
    return {"search_ratio": float(top.max()), "search_violations": float(violations)}


def tightness(tau: float, n: int, points: int = 99) -> float:
    """min over b in (0, 1) of T_tau(b) / surrogate regret at the two-class tie: 1 where the bound is
    attained."""
    b = torch.linspace(0, 1, points + 2, dtype=torch.float64)[1:-1]
    return float((t_tau(b, tau, n) / surrogate_regret(*two_class_tie(b, n), tau)).min())


def check_arguments(tau: float, n: int, samples: int, seed: int, starts: int, steps: int) -> None:
    """Refuse what `run_bounds` cannot do, before any work.

    Raises:
        ValueError: a number out of range.
    """
    check_tau_n(tau, n)
    if min(samples, starts, steps) < 1 or seed < 0:
        raise ValueError(
            "run_bounds needs samples, starts, steps >= 1 and seed >= 0, "
            f"got {samples=}, {starts=}, {steps=}, {seed=}"
        )


def run_bounds(
    tau: float, n: int, samples: int = 250_000, seed: int = 0, starts: int = 1000, steps: int = 300
) -> dict[str, float]:
    """Everything `comp_sum_bounds` measures at one tau and n.

    Args:
        tau: member of the family, >= 0.
        n: number of classes, >= 2.
        samples: random pairs, >= 1 (four n at 250 000 make 1e6 per tau).
        seed: of the draws, >= 0; each n has its own.
        starts: starts of the gradient search, >= 1.
        steps: its steps, >= 1.

    Raises:
        ValueError: a number out of range.

    Returns:
        violations (of `pairs`), counted and max_ratio (random pairs with Gamma < .99), search_ratio and
        search_violations (gradient search), tightness (two-class tie).
    """
    check_arguments(tau, n, samples, seed, starts, steps)
    rng = np.random.default_rng([seed, n])
    found = check_samples(tau, n, samples, rng) | search_ratio(tau, n, starts, steps, rng)
    return found | {"tightness": tightness(tau, n)}
