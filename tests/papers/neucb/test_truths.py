"""Truths of NeuCB, float64: rules, the perturbed network, projection, confidence, ridge, contexts."""

import itertools
import math

import pytest
import torch
from torch.nn.functional import binary_cross_entropy_with_logits
from torch.testing import assert_close

from lossatlas.data import load
from lossatlas.papers.neucb import (
    Bandit,
    Confidence,
    LitNeuCB,
    NeuralLearner,
    RidgeLearner,
    block_contexts,
    choose,
    draw,
    epsilon_rule,
    fast_rule,
    from_classes,
    square_rule,
    visiting_order,
)

RULES = {"square": square_rule, "fast": fast_rule}


def numbers(*shape: int, seed: int = 0) -> torch.Tensor:
    return torch.rand(shape, dtype=torch.float64, generator=torch.Generator().manual_seed(seed))


def gammas(value: float, n: int) -> torch.Tensor:
    return torch.full((n,), value, dtype=torch.float64)


# --- rules


@pytest.mark.parametrize("rule", RULES)
def test_probabilities_and_the_best_arms_share(rule):
    for K in (2, 3, 26):
        yhat = numbers(2000, K, seed=K)
        p = RULES[rule](yhat, 10 ** (6 * numbers(2000, seed=1)))
        assert p.min() >= 0
        assert_close(p.sum(1), torch.ones(2000, dtype=torch.float64))
        best = p.gather(1, yhat.argmin(1, keepdim=True))
        assert best.min() >= 1 / K - 1e-12


def test_square_rule_by_hand():
    p = square_rule(torch.tensor([[0.2, 0.5, 0.1]]).double(), gammas(10, 1))
    assert_close(p, torch.tensor([[1 / 4, 1 / 7, 1 - 1 / 4 - 1 / 7]]).double())


def test_fast_rule_by_hand():
    p = fast_rule(torch.tensor([[0.2, 0.5, 0.1]]).double(), gammas(10, 1))
    assert_close(p, torch.tensor([[0.1 / 1.3, 0.1 / 4.3, 1 - 0.1 / 1.3 - 0.1 / 4.3]]).double())


def test_epsilon_rule_by_hand():
    p = epsilon_rule(torch.tensor([[0.2, 0.5, 0.1]]).double(), gammas(0.3, 1))
    assert_close(p, torch.tensor([[0.1, 0.1, 0.8]]).double())


@pytest.mark.parametrize("rule", RULES)
def test_limits_of_gamma(rule):
    yhat = 0.05 + numbers(50, 5)
    uniform = torch.full_like(yhat, 0.2)
    assert_close(RULES[rule](yhat, gammas(0, 50)), uniform)
    assert_close(RULES[rule](torch.full_like(yhat, 0.3), gammas(1000, 50)), uniform)
    greedy = torch.zeros_like(yhat).scatter(1, yhat.argmin(1, keepdim=True), 1.0)
    assert_close(RULES[rule](yhat, gammas(1e14, 50)), greedy, atol=1e-9, rtol=0)


def test_fast_rule_where_a_loss_of_zero_is_predicted():
    zero = torch.tensor([[0.3, 0.0, 0.1]]).double()
    assert_close(fast_rule(zero, gammas(5, 1)), torch.tensor([[0.0, 1.0, 0.0]]).double())
    assert_close(fast_rule(zero, gammas(0, 1)), torch.full((1, 3), 1 / 3).double())
    assert_close(fast_rule(torch.zeros(1, 4).double(), gammas(5, 1)), torch.full((1, 4), 0.25).double())


def test_square_rule_needs_no_sign_and_the_fast_rule_does():
    yhat = numbers(20, 3) - 0.5
    assert_close(square_rule(yhat, gammas(7, 20)), square_rule(yhat + 3, gammas(7, 20)))
    with pytest.raises(ValueError, match="needs predicted losses >= 0, got -"):
        fast_rule(yhat, gammas(7, 20))


def test_replicas_have_their_own_gamma():
    yhat = numbers(2, 4)
    both = square_rule(yhat, torch.tensor([3.0, 300.0]).double())
    for r, gamma in enumerate((3.0, 300.0)):
        assert_close(both[r : r + 1], square_rule(yhat[r : r + 1], gammas(gamma, 1)))


def test_draw_inverts_the_cumulative_probabilities():
    p = torch.tensor([[0.2, 0.0, 0.5, 0.3]]).double()
    u = (torch.arange(10000, dtype=torch.float64) + 0.5) / 10000
    share = draw(p.expand(10000, 4), u).bincount(minlength=4) / 10000
    assert_close(share.double(), p[0], atol=1e-4, rtol=0)
    assert draw(torch.full((1, 3), math.nan), torch.tensor([0.5])).item() == 0
    assert draw(torch.tensor([[0.5, 0.5 - 1e-16]]).double(), torch.tensor([1 - 1e-17]).double()).item() == 1


def test_ucb_takes_the_lowest_bound_and_ts_a_sample():
    yhat, width = torch.tensor([[0.3, 0.5]]).double(), torch.tensor([[0.1, 0.9]]).double()
    nu, u = torch.tensor([0.5]).double(), torch.zeros(1).double()
    assert choose("ucb", yhat, nu, u, width).item() == 1  # .25 against .05
    assert choose("ucb", yhat, 0 * nu, u, width).item() == 0
    normal = torch.tensor([[0.0, 1.0]]).double()
    assert choose("ts", yhat, nu, u, width, normal).item() == 0  # .3 against .95
    assert choose("ts", yhat, nu, u, width, -normal).item() == 1
    with pytest.raises(ValueError, match="rule must be square"):
        choose("greedy", yhat, nu, u)


# --- the perturbed network, against the formulas on dense contexts


def dense(learner: NeuralLearner, theta: torch.Tensor, x: torch.Tensor, e: torch.Tensor) -> torch.Tensor:
    """f~(theta; x, e) for dense contexts x (n, K d), written from eq. 1 alone; theta and e flat, blocks first."""
    K, m, d = learner.K, learner.m, learner.d

    def net(flat: torch.Tensor) -> torch.Tensor:
        W1 = flat[: K * m * d].view(K, m, d).permute(1, 0, 2).reshape(m, K * d)
        return torch.relu(x @ W1.T) @ flat[K * m * d :] / math.sqrt(m)

    start = torch.cat([learner.W1_0[0].flatten(), learner.w2_0[0]])
    return net(theta) - net(start) + learner.c_p[0] * ((theta - start) @ e) / m**0.25


def theta_of(learner: NeuralLearner) -> torch.Tensor:
    return torch.cat([learner.weights[0].flatten(), learner.w2[0]])


def ensemble(
    learner: NeuralLearner, theta: torch.Tensor, x: torch.Tensor, y: torch.Tensor, signs
) -> torch.Tensor:
    """Mean over draws and samples of eq. 2."""
    values = []
    for e in signs:
        f = dense(learner, theta, x, e)
        if learner.loss == "squared":
            values.append((0.5 + f - y).square() / 2)
        else:
            values.append(binary_cross_entropy_with_logits(f, y, reduction="none"))
    return torch.stack(values).mean()


def tiny(loss: str, **kwargs) -> NeuralLearner:
    return NeuralLearner(K=3, d=4, seed=7, loss=loss, **{"eta": 0.3, "m": 5, "S": 4, "c_p": 0.7, **kwargs})


def walk(learner: NeuralLearner, rounds: int, seed: int = 3) -> None:
    for t in range(rounds):
        learner.predict(numbers(1, learner.d, seed=seed + t) - 0.5)
        learner.update(torch.tensor([t % learner.K]), numbers(1, seed=100 + t).round())


@pytest.mark.parametrize("loss", ["squared", "kl"])
@pytest.mark.parametrize("S", [0, 4])
def test_round_equals_autograd_on_the_dense_network(loss, S):
    learner = tiny(loss, S=S)
    walk(learner, 6)
    signs = learner.e[0] if S else torch.zeros(1, learner.e.shape[2], dtype=torch.float64)
    x, y, arm = numbers(1, 4, seed=50) - 0.3, torch.tensor([1.0]).double(), torch.tensor([2])
    blocks = block_contexts(x, 3)[0]
    theta = theta_of(learner).requires_grad_()
    outputs = torch.stack([dense(learner, theta, blocks, e) for e in signs])
    expected = (0.5 + outputs if loss == "squared" else outputs.sigmoid()).mean(0)
    assert_close(learner.predict(x)[0], expected.detach())
    value = ensemble(learner, theta, blocks[arm], y, signs)
    value.backward()
    assert_close(learner.update(arm, y)[0], value.detach())
    assert theta.grad is not None
    assert_close(theta_of(learner), theta.detach() - 0.3 * theta.grad)


@pytest.mark.parametrize("loss", ["squared", "kl"])
@pytest.mark.parametrize("rho", [math.inf, 0.2])
def test_the_running_sums_are_the_dot_products(loss, rho):
    learner = tiny(loss, rho=rho)
    walk(learner, 60)
    assert_close(learner.z, (learner.e @ learner.moved()[:, :, None])[:, :, 0], atol=1e-12, rtol=1e-10)
    assert learner.z.abs().min() > 1e-4


def test_prepared_contexts_predict_the_same():
    learner = tiny("kl")
    walk(learner, 5)
    x = numbers(1, 6, 4)
    f_0, ex = learner.prepare(x)
    for i in range(6):
        assert_close(learner.predict(x[:, i], (f_0[:, i], ex[:, i])), learner.predict(x[:, i]))


def all_signs(p: int) -> torch.Tensor:
    return torch.tensor(list(itertools.product((-1.0, 1.0), repeat=p)), dtype=torch.float64)


def smallest(loss: str, c_p: float = 0.7) -> tuple[NeuralLearner, torch.Tensor]:
    """A network of 6 parameters, and a point away from theta_0."""
    learner = NeuralLearner(K=2, d=1, seed=1, loss=loss, eta=1.0, m=2, S=1, c_p=c_p)
    return learner, theta_of(learner) + numbers(6, seed=9) - 0.5


def test_the_perturbation_vanishes_in_the_mean_over_all_signs():
    learner, theta = smallest("squared")
    x = block_contexts(numbers(4, 1), 2).flatten(0, 1)
    mean = torch.stack([dense(learner, theta, x, e) for e in all_signs(6)]).mean(0)
    assert_close(mean, dense(learner, theta, x, torch.zeros(6).double()))


def hessians(loss: str) -> tuple[torch.Tensor, torch.Tensor, NeuralLearner]:
    """Of the ensemble loss over all sign vectors, and of the loss without perturbation."""
    learner, theta = smallest(loss)
    x, y = block_contexts(numbers(4, 1), 2).flatten(0, 1), numbers(8, seed=4)
    with_signs, none = all_signs(6), torch.zeros(1, 6, dtype=torch.float64)
    first = torch.autograd.functional.hessian(lambda v: ensemble(learner, v, x, y, with_signs), theta)
    second = torch.autograd.functional.hessian(lambda v: ensemble(learner, v, x, y, none), theta)
    return first, second, learner  # type: ignore[return-value]


def test_the_squared_loss_gains_exactly_a_multiple_of_the_identity():
    perturbed, plain, learner = hessians("squared")
    gain = float(learner.c_p) ** 2 / math.sqrt(learner.m)
    assert_close(perturbed - plain, gain * torch.eye(6, dtype=torch.float64), atol=1e-12, rtol=0)


def test_the_kl_loss_gains_a_positive_definite_matrix():
    perturbed, plain, _ = hessians("kl")
    gain = torch.linalg.eigvalsh(perturbed - plain)
    assert gain.min() > 1e-3
    assert gain.max() - gain.min() > 1e-4  # no multiple of the identity


def test_few_draws_gain_a_matrix_of_their_rank_only():
    learner, theta = smallest("squared")
    x, y = block_contexts(numbers(4, 1), 2).flatten(0, 1), numbers(8, seed=4)
    signs = all_signs(6)[[0, 11]]
    signs = torch.cat([signs, -signs])  # so that the mean perturbation is zero and the gain is E'E alone
    gain = [
        torch.autograd.functional.hessian(lambda v, e=e: ensemble(learner, v, x, y, e), theta)
        for e in (signs, torch.zeros(1, 6, dtype=torch.float64))
    ]
    assert torch.linalg.matrix_rank(gain[0] - gain[1], tol=1e-10) == 2  # type: ignore[operator]


@pytest.mark.parametrize("loss", ["squared", "kl"])
def test_projection(loss):
    free, wide, narrow = (tiny(loss, rho=rho) for rho in (math.inf, 1e6, 0.05))
    for t in range(20):
        for learner in (free, wide, narrow):
            walk(learner, 1, seed=t)
        assert narrow.moved().norm() <= 0.05 * (1 + 1e-12)
    assert free.moved().norm() > 0.05
    assert_close(theta_of(free), theta_of(wide))


def test_decaying_steps():
    first = tiny("squared", decay=1.0)
    walk(first, 3)
    assert first.t.tolist() == [3]
    x, arm, y = numbers(1, 4), torch.tensor([0]), torch.zeros(1).double()
    first.predict(x)
    before = theta_of(first)
    twin = tiny("squared", eta=0.3 / 4)
    twin.load_state_dict({**first.state_dict(), "eta": twin.eta, "decay": twin.decay})
    twin.predict(x)
    first.update(arm, y)
    twin.update(arm, y)
    assert_close(theta_of(first), theta_of(twin))
    assert (theta_of(first) - before).norm() > 1e-3


def test_scores_of_1e4_stay_finite():
    learner = tiny("kl", S=0)
    walk(learner, 1)  # at theta_0 everything is 0
    learner.w2.mul_(1e4)
    yhat = learner.predict(torch.ones(1, 4).double())
    assert yhat.isfinite().all()
    arm = (yhat - 0.5).abs().argmax(1)
    value = learner.update(arm, (yhat.gather(1, arm[:, None])[:, 0] < 0.5).double())
    assert value.item() > 100
    assert theta_of(learner).isfinite().all()


# --- neural_ucb, ridge


def test_confidence_is_the_diagonal_form_of_autograds_gradient():
    learner = tiny("squared", S=0)
    confidence, Z = Confidence(learner), torch.ones(3, 3 * 4 * 5 + 5, dtype=torch.float64)
    none = torch.zeros(Z.shape[1], dtype=torch.float64)
    for t in range(5):
        x, arm = numbers(1, 4, seed=t) - 0.4, torch.tensor([t % 3])
        learner.predict(x)
        theta = theta_of(learner)
        g = torch.autograd.functional.jacobian(
            lambda v, x=x: dense(learner, v, block_contexts(x, 3)[0], none), theta
        )
        assert_close(confidence.widths(learner)[0], (g.square() / Z).sum(1).sqrt())  # type: ignore[union-attr]
        Z += g[arm].square()  # type: ignore[index]
        confidence.observe(learner, arm)
        learner.update(arm, torch.ones(1).double())


def test_the_bound_of_neural_ucb_is_linear_on_orthogonal_tangent_features():
    def information(T: int, lambda_: float = 0.5, c: float = 2.0) -> float:
        """log det(I + H / lambda) of T contexts in blocks of their own: disjoint, equally long gradients."""
        features = torch.zeros(T, 3 * T, dtype=torch.float64)
        for t in range(T):
            features[t, 3 * t : 3 * t + 3] = math.sqrt(c / 3)
        H = features @ features.T
        return float(torch.logdet(torch.eye(T, dtype=torch.float64) + H / lambda_))

    small, large = information(10), information(80)
    assert small == pytest.approx(10 * math.log(1 + 2.0 / 0.5))
    assert math.log(large / small) / math.log(8) == pytest.approx(1.0, abs=1e-12)


def test_ridge_is_scikit_learns_after_every_round():
    from sklearn.linear_model import Ridge

    learner = RidgeLearner(K=2, d=3, ridge=0.7)
    x, y = numbers(30, 3) - 0.5, numbers(30, seed=2)
    arms = torch.arange(30) % 2
    for t in range(30):
        learner.predict(x[t : t + 1])
        learner.update(arms[t : t + 1], y[t : t + 1])
    dense_x = block_contexts(x, 2)[torch.arange(30), arms]
    fit = Ridge(alpha=0.7, fit_intercept=False).fit(dense_x.numpy(), y.numpy() - 0.5)
    assert_close(learner.w2[0].flatten(), torch.from_numpy(fit.coef_), atol=1e-10, rtol=0)


# --- contexts, losses, refused input


def test_rows_are_standardised_scaled_and_cost_0_or_1():
    data = load("toy", 3, [5], fake=True)
    bandit = from_classes(data)
    assert_close(bandit.x.norm(dim=1), torch.ones(len(bandit.x)))
    assert (bandit.losses.sum(1) == 2).all()
    y = torch.cat([data.train.y, data.test.y])
    assert (bandit.losses[torch.arange(len(y)), y] == 0).all()
    x = torch.cat([data.train.x, data.test.x]).double()
    x = (x - x.mean(0)) / x.std(0, correction=0)
    assert_close(bandit.x.double(), x / x.norm(dim=1, keepdim=True), atol=1e-5, rtol=0)


def test_images_are_pooled():
    bandit = from_classes(load("toy", 3, [1, 28, 28], fake=True, mean=[0.5], std=[0.5]), pool=4)
    assert bandit.x.shape[1] == 49


def test_every_row_comes_once_before_any_comes_twice():
    order = visiting_order(10, 25, seed=4)
    assert order[:10].sort().values.tolist() == order[10:20].sort().values.tolist() == list(range(10))
    assert len(order) == 25
    assert order.tolist() != visiting_order(10, 25, seed=5).tolist()


REFUSED = [
    (lambda: tiny("kl").predict(torch.ones(1, 5).double()), "contexts must be 4 wide, got 5"),
    (lambda: RidgeLearner(2, 3).predict(torch.ones(1, 2).double()), "contexts must be 3 wide, got 2"),
    (
        lambda: Bandit(torch.ones(2, 3), torch.tensor([[0.0, 1.5], [0.0, 1.0]])),
        r"losses must lie in \[0, 1\], got 1.5",
    ),
    (
        lambda: Bandit(torch.ones(2, 3), torch.tensor([[0.0, math.nan]] * 2)),
        r"losses must lie in \[0, 1\], got nan",
    ),
    (lambda: Bandit(torch.ones(2, 3), torch.ones(3, 2)), "of the same n expected"),
    (lambda: Bandit(torch.ones(2, 3), torch.ones(2, 1)), "K >= 2 arms"),
    (lambda: tiny("hinge"), "loss must be squared or kl, got 'hinge'"),
    (lambda: tiny("kl", eta=0.0), "needs eta > 0"),
    (lambda: tiny("kl", S=-1), "S >= 0 draws"),
    (lambda: NeuralLearner(K=1, d=4, seed=0, loss="kl", eta=1.0), "K >= 2 arms"),
    (lambda: RidgeLearner(2, 3, ridge=-1.0), "needs ridge > 0"),
    (lambda: LitNeuCB(None), "needs a classified data set"),
    (
        lambda: LitNeuCB(Bandit(torch.eye(2), torch.eye(2)), knob=-1.0),
        r"fast needs gamma in \[0, inf\), got gamma=-1",
    ),
    (
        lambda: LitNeuCB(Bandit(torch.eye(2), torch.eye(2)), rule="epsilon", knob=1.5),
        r"eps in \[0, 1\], got eps=1.5",
    ),
    (lambda: LitNeuCB(Bandit(torch.eye(2), torch.eye(2)), rule="ucb", knob=0.1), "give it a NeuralLearner"),
]


@pytest.mark.parametrize(("call", "text"), REFUSED, ids=[text[:25] for _, text in REFUSED])
def test_refused_input_is_one_line(call, text):
    with pytest.raises(ValueError, match=text) as error:
        call()
    assert "\n" not in str(error.value)


def test_losses_outside_the_unit_interval_are_refused_when_revealed():
    for learner in (tiny("kl"), RidgeLearner(3, 4)):
        learner.predict(torch.ones(1, 4).double())
        with pytest.raises(ValueError, match=r"losses must lie in \[0, 1\], got -0.1"):
            learner.update(torch.tensor([0]), torch.tensor([-0.1]).double())
