"""Truths of the linear MDP room, float64."""

import itertools
import math

import pytest
import torch
from torch.testing import assert_close

from lossatlas.errors import UserError
from lossatlas.papers.linear_mdp import (
    LinearMDP,
    bonus,
    covariance,
    draw_mdp,
    estimate,
    hedge,
    log_barrier,
    reduced_estimate,
    regularised_inverse,
    resampled_inverse,
)
from lossatlas.papers.linear_mdp.estimators import projections, squared_norms
from lossatlas.papers.linear_mdp.learner import LEARNERS, Runs, learner_named, run, simulated, thetas

double = torch.float64
MDP = draw_mdp([0, 1, 2], H=3, S=4, A=3, d=3)
R, H, S, A, D = MDP.phi.shape


def rng(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def random_policy(seed: int = 0) -> torch.Tensor:
    return torch.softmax(torch.randn(R, H, S, A, generator=rng(seed), dtype=double), -1)


PI = random_policy()
Q = MDP.occupancy(PI)
LOSSES = MDP.losses(torch.rand(R, H, D, generator=rng(1), dtype=double))


# ------------------------------------------------------------------ the MDP
def test_values_by_occupancy_by_recursion_and_by_rollouts_agree():
    assert_close(Q.sum((2, 3)), torch.ones(R, H, dtype=double))
    value = (MDP.action_values(PI, LOSSES)[:, 0, 0] * PI[:, 0, 0]).sum(-1)
    assert_close((Q * LOSSES).sum((1, 2, 3)), value)
    shares = simulated(MDP, PI, 20000, rng())
    assert_close(shares, Q, atol=4 * 0.5 / math.sqrt(20000), rtol=0)


def test_the_best_fixed_policy_is_the_best_of_all():
    small = draw_mdp([3], H=2, S=2, A=2, d=2)
    losses = small.losses(torch.rand(1, 2, 2, generator=rng(2), dtype=double))
    values = []
    for choice in itertools.product(range(2), repeat=4):
        pi = torch.nn.functional.one_hot(torch.tensor(choice).view(1, 2, 2), 2).double()
        values.append(float((small.occupancy(pi) * losses).sum()))
    best, actions = small.best(losses)
    assert float(best) == pytest.approx(min(values), abs=1e-12)
    own = torch.nn.functional.one_hot(actions, 2).double()
    assert float((small.occupancy(own) * losses).sum()) == pytest.approx(
        min(values), abs=1e-12
    )  # the oracle's regret is 0


# ------------------------------------------------------------------ policies
G = torch.randn(50, 6, generator=rng(3), dtype=double) * torch.logspace(-3, 4, 50, dtype=double)[:, None]


def test_the_log_barrier_policy_solves_its_problem():
    p, mu = log_barrier(G, 0.7)
    assert_close(p.sum(-1), torch.ones(50, dtype=double))
    assert (p > 0).all()
    # stationary: <p, G> + sum log(1 / p) / eta on the simplex has G - 1 / (eta p) the same for every action
    slack = 0.7 * G - 1 / p
    assert ((slack - slack.mean(-1, keepdim=True)).abs() / slack.abs().amax(-1, keepdim=True)).max() < 1e-10
    assert torch.equal(p.argsort(-1), G.argsort(-1, descending=True))
    assert_close(log_barrier(G + 5, 0.7)[0], p, rtol=1e-6, atol=1e-12)
    assert_close(log_barrier(G, 0.7, start=1 + 5 * torch.rand(50, generator=rng(), dtype=double))[0], p)
    assert ((mu >= 1) & (mu <= 6)).all()


def test_policies_at_the_edges():
    assert_close(log_barrier(G, 0.0)[0], torch.full((50, 6), 1 / 6, dtype=double))
    far, _ = log_barrier(torch.tensor([0.0, 1e12], dtype=double), 1.0)
    assert_close(far, torch.tensor([1.0, 1e-12], dtype=double), rtol=1e-6, atol=0)
    assert_close(hedge(G + 3, 0.1), hedge(G, 0.1))
    weights = torch.exp(-0.1 * G[:20])
    assert_close(hedge(G[:20], 0.1), weights / weights.sum(-1, keepdim=True))


def stability(p: torch.Tensor, c: torch.Tensor, eta: float) -> tuple[torch.Tensor, torch.Tensor]:
    """max_q <p - q, c> - D(q, p) / eta over eta sum p c^2, for the log-barrier and for the relative entropy."""
    q, _ = log_barrier(c + 1 / (eta * p), eta)
    u = q / p
    barrier = ((p - q) * c).sum(-1) - (u - 1 - u.log()).sum(-1) / eta
    entropy = (p * c).sum(-1) + torch.logsumexp(p.log() - eta * c, -1) / eta
    scale = eta * (p * c.square()).sum(-1)
    return barrier / scale, entropy / scale


def test_the_log_barrier_bears_any_loss_and_exponential_weights_do_not():
    p = torch.distributions.Dirichlet(torch.full((5,), 0.3, dtype=double)).sample((40000,)).clamp(min=1e-9)
    p = p / p.sum(-1, keepdim=True)
    c = torch.randn(40000, 5, generator=rng(4), dtype=double) * 10 ** torch.empty(
        40000, 1, dtype=double
    ).uniform_(-2, 3)
    assert stability(p, c, 1.0)[0].max() <= 1
    small, size = torch.meshgrid(
        torch.logspace(-8, -0.5, 16, dtype=double), torch.logspace(-2, 12, 29, dtype=double), indexing="ij"
    )
    p = torch.stack([1 - small, small], -1).flatten(0, 1)
    c = torch.stack([torch.zeros_like(size), -size], -1).flatten(0, 1)
    barrier, entropy = stability(p, c, 1.0)
    assert barrier.max() <= 1
    assert entropy.max() > 100


# ------------------------------------------------------------------ estimates
def enumerated(gamma: float, h: int):
    """(weights, estimates of eq. 2, of eq. 3) of one layer for every pair that may be played; losses by that pair."""
    phi, q = MDP.phi[:1, h], Q[:1, h]
    Sinv = regularised_inverse(covariance(q, phi), gamma)
    values = MDP.action_values(PI, LOSSES)[:1, h]
    most = torch.full((1,), float(H - h), dtype=double)
    plain, reduced = [], []
    for s, a in itertools.product(range(S), range(A)):
        Z, L = projections(phi, Sinv, phi[:, s, a]), values[:, s, a]
        plain.append(estimate(Z, L))
        reduced.append(reduced_estimate(Z, L, phi, Sinv, q, most))
    return q.flatten(), torch.cat(plain), torch.cat(reduced), values[0]


@pytest.mark.parametrize("gamma", [0.3, 1e-2, 1e-4])
@pytest.mark.parametrize("h", [0, 2])
def test_both_estimates_have_one_mean_and_the_reduced_one_a_floor(gamma, h):
    weight, plain, reduced, _ = enumerated(gamma, h)
    mean = torch.einsum("n,nsa->sa", weight, plain)
    assert_close(torch.einsum("n,nsa->sa", weight, reduced), mean)
    assert reduced.min() >= -(H - h) / math.sqrt(gamma) - 1e-12
    if gamma == 1e-4:
        assert plain.min() < reduced.min()


def test_without_regularisation_the_estimate_is_unbiased():
    h = 1
    weight, plain, _, values = enumerated(0.0, h)
    # the values of this layer are linear in phi, since losses and transitions are
    assert_close(torch.einsum("n,nsa->sa", weight, plain), values, rtol=1e-8, atol=1e-8)


def test_the_shift_is_within_the_norm():
    gamma = 1e-3
    Sinv = regularised_inverse(covariance(Q, MDP.phi), gamma)
    zero = torch.zeros(R, H, S, A, dtype=double)
    most = torch.arange(H, 0, -1, dtype=double).expand(R, H)
    m = reduced_estimate(zero, torch.zeros(R, H, dtype=double), MDP.phi, Sinv, Q, most)
    norms = squared_norms(MDP.phi, Sinv).sqrt()
    assert (m <= 0).all()
    assert (m.abs() <= most[:, :, None, None] * norms + 1e-12).all()
    assert (norms <= 1 / math.sqrt(gamma)).all()
    Z = torch.randn(R, H, S, A, generator=rng(5), dtype=double)
    L = most * torch.rand(R, H, generator=rng(6), dtype=double)
    assert (reduced_estimate(Z, L, MDP.phi, Sinv, Q, most) - m >= -1e-12).all()


def test_covariance_and_its_inverse():
    Sigma = covariance(Q, MDP.phi)
    by_hand = sum(
        Q[0, 1, s, a] * torch.outer(MDP.phi[0, 1, s, a], MDP.phi[0, 1, s, a])
        for s, a in itertools.product(range(S), range(A))
    )
    assert_close(Sigma[0, 1], by_hand)
    Sinv = regularised_inverse(Sigma, 0.01)
    eigenvalues = torch.linalg.eigvalsh(Sinv)
    assert_close(Sinv, Sinv.mT)
    assert (eigenvalues > 0).all()
    assert eigenvalues.max() <= 100 + 1e-9
    assert ((Q * squared_norms(MDP.phi, Sinv)).sum((2, 3)) <= D).all()
    assert_close(regularised_inverse(Sigma, 0.01) @ (Sigma + 0.01 * torch.eye(D, dtype=double)),
                 torch.eye(D, dtype=double).expand(R, H, D, D))  # fmt: skip


def test_resampling_has_the_mean_of_a_truncated_series_and_its_limit():
    rows = torch.nn.functional.normalize(torch.randn(3, 2, generator=rng(7), dtype=double))
    pairs = torch.stack(
        [torch.stack(pair) for pair in itertools.product(rows, repeat=2)]
    )  # all draws of N = 2
    factor = torch.eye(2, dtype=double) - 0.5 * (0.1 * torch.eye(2, dtype=double) + rows.mT @ rows / 3)
    expected = 0.5 * (torch.eye(2, dtype=double) + factor + factor @ factor)
    assert_close(resampled_inverse(pairs, 0.1), expected)
    same = rows[0].expand(1, 2000, 2)
    exact = torch.linalg.inv(0.1 * torch.eye(2, dtype=double) + torch.outer(rows[0], rows[0]))
    assert_close(resampled_inverse(same, 0.1), exact)


def test_the_bonus_by_hand():
    Sinv = regularised_inverse(covariance(Q, MDP.phi), 0.1)
    beta = torch.tensor([0.0, 0.5, 2.0], dtype=double)
    B, own = bonus(MDP, PI, Sinv, beta)
    assert not B[0].any()
    assert_close(B[:, -1], own[:, -1])  # a single layer: B is b
    s, a = 2, 1
    norms = squared_norms(MDP.phi, Sinv)[1, 1]
    b = 0.5 * (norms[s, a] + (PI[1, 1, s] * norms[s]).sum())
    ahead = sum(MDP.P[1, 1, s, a, t] * (PI[1, 2, t] * B[1, 2, t]).sum() for t in range(S))
    assert_close(B[1, 1, s, a], b + (1 + 1 / H) * ahead)


# ------------------------------------------------------------------ learners
def played(name: str, K: int, c_eta: float = 4.0, c_beta: float = 0.05, mdp: LinearMDP = MDP, **more):
    rates = learner_named(name).rates(K, c_eta, c_beta, mdp.phi.shape[1], mdp.phi.shape[3])
    own = [torch.full((len(mdp.phi),), value, dtype=double) for value in rates]
    return run(learner_named(name), Runs(mdp, list(range(len(mdp.phi))), [K] * len(mdp.phi), *own), **more)


def test_a_bonus_of_zero_is_no_bonus_bit_for_bit():
    zero, none = played("log_barrier", 60, c_beta=0.0), played("no_bonus", 60)
    assert all(torch.equal(zero[key], none[key]) for key in zero)


@pytest.mark.parametrize("name", LEARNERS)
def test_one_action_leaves_nothing_to_regret(name):
    found = played(name, 20, mdp=draw_mdp([0, 1], H=2, S=3, A=1))
    assert found["regret"].abs().max() < 1e-10


def test_an_estimate_of_a_run_keeps_its_floor():
    found = played("magnitude_reduced", 200)
    assert (found["most_negative"] <= H * math.sqrt(200) + 1e-9).all()
    assert (found["most_negative"] < played("hedge_unsafe", 200)["most_negative"]).all()


def test_rows_of_different_length_are_those_of_runs_alone():
    rates = [torch.full((4,), v, dtype=double) for v in (0.1, 0.01, 0.02)]
    both = run(
        learner_named("magnitude_reduced"),
        Runs(MDP.rows(torch.tensor([0, 1, 0, 1])), [0, 1, 0, 1], [700, 700, 30, 30], *rates),
    )
    for K, part in ((700, slice(0, 2)), (30, slice(2, 4))):
        alone = run(
            learner_named("magnitude_reduced"),
            Runs(MDP.rows(slice(2)), [0, 1], [K, K], *(r[:2] for r in rates)),
        )
        assert_close(both["regret"][part], alone["regret"], rtol=1e-9, atol=1e-9)


def test_learning_beats_equal_chances_and_losses_are_as_said():
    theta = thetas([0, 1], 300, 2, 3)
    assert theta.min() >= 0
    assert theta.max() <= 1
    better = theta.mean((1, 2)).argmin(-1)
    others = theta.mean((1, 2)).sum(-1) - theta.mean((1, 2)).amin(-1)
    assert_close(
        others / 2 - theta.mean((1, 2)).amin(-1), torch.full((2,), 0.2, dtype=double), atol=0.02, rtol=0
    )
    assert better.shape == (2,)
    found = played("log_barrier", 400, 20.0, 0.02)
    assert (found["regret"] < found["uniform"]).all()
    exact, sampled = played("log_barrier", 100), played("log_barrier", 100, trajectories=2000)
    assert_close(sampled["regret"], exact["regret"], rtol=0.2, atol=2.0)


# ------------------------------------------------------------------ bad input
@pytest.mark.parametrize(
    ("call", "text"),
    [
        (lambda: LinearMDP(MDP.phi[0], MDP.P), r"phi must be finite numbers \(R, H, S, A, d\)"),
        (lambda: LinearMDP(MDP.phi * torch.nan, MDP.P), "phi must be finite"),
        (lambda: LinearMDP(MDP.phi * 3, MDP.P), "norm <= 1"),
        (lambda: LinearMDP(MDP.phi, MDP.P[:, :1]), r"P must be \(R, H - 1, S, A, S\)"),
        (lambda: LinearMDP(MDP.phi, MDP.P * 0.9), "sums to 1"),
        (lambda: LinearMDP(MDP.phi, -MDP.P), "none negative"),
        (lambda: draw_mdp([0], A=0), "H, S, A, d >= 1"),
        (lambda: regularised_inverse(torch.eye(3)[:2], 0.1), "gamma >= 0"),
        (lambda: regularised_inverse(torch.eye(3), -0.1), "gamma >= 0"),
        (lambda: resampled_inverse(torch.ones(2, 3, 2), 0.0), "0 < gamma < 1"),
        (lambda: log_barrier(torch.zeros(2, 0), 1.0), "eta >= 0"),
        (lambda: log_barrier(torch.zeros(2), math.nan), "eta >= 0"),
        (lambda: log_barrier(torch.tensor([0.0, math.nan]), 1.0), "finite losses"),
        (lambda: hedge(torch.zeros(2), -1.0), "eta >= 0"),
        (lambda: learner_named("log_barier"), "did you mean log_barrier"),
    ],
)  # fmt: skip
def test_bad_input_is_refused_in_one_line(call, text):
    with pytest.raises((ValueError, UserError), match=text) as refused:
        call()
    assert "\n" not in str(refused.value)
