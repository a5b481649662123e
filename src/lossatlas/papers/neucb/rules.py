"""How a bandit chooses from predicted losses: inverse-gap weighting, confidence bounds, epsilon-greedy.

All rules work on R replicas at once and draw from numbers that the caller hands in, so that a replica's
choices depend on its own seed alone.
"""

import torch
from jaxtyping import Float, Int
from torch import Tensor


def square_rule(yhat: Float[Tensor, "R K"], gamma: Float[Tensor, " R"]) -> Float[Tensor, "R K"]:
    """Inverse-gap weighting of NeuSquareCB: p_a = 1 / (K + gamma (yhat_a - yhat_b)), b the best arm takes the rest.

    Args:
        yhat: predicted losses of K arms, any sign.
        gamma: >= 0, how hard a gap is punished; 0 is uniform, infinity would be greedy.

    Shapes:
        (R, K), (R,) -> (R, K), rows sum to 1, p_b >= 1/K.

    Example:
        >>> square_rule(torch.tensor([[0.0, 0.5]]), torch.tensor([4.0]))
        tensor([[0.7500, 0.2500]])
    """
    K, b = yhat.shape[-1], yhat.argmin(dim=-1, keepdim=True)
    gap = yhat - yhat.gather(-1, b)
    return _rest_to_best(1 / (K + gamma[:, None] * gap), b)


def fast_rule(yhat: Float[Tensor, "R K"], gamma: Float[Tensor, " R"]) -> Float[Tensor, "R K"]:
    """Inverse-gap weighting of NeuFastCB: p_a = yhat_b / (K yhat_b + gamma (yhat_a - yhat_b)), b takes the rest.

    A small predicted loss of the best arm leaves little to explore: this brings the first-order bound.
    Where the fraction is 0/0 (yhat_b = 0 without a gap, or with gamma = 0) its limit 1/K from yhat_b > 0 is taken.

    Args:
        yhat: predicted losses of K arms, >= 0.
        gamma: >= 0.

    Shapes:
        (R, K), (R,) -> (R, K), rows sum to 1, p_b >= 1/K.

    Raises:
        ValueError: a negative prediction.

    Example:
        >>> fast_rule(torch.tensor([[0.0, 0.5]]), torch.tensor([4.0]))  # a loss of 0 cannot be beaten
        tensor([[1., 0.]])
    """
    if (yhat < 0).any():
        raise ValueError(
            f"fast_rule needs predicted losses >= 0, got {yhat.min():.4g}: use kl predictions (a sigmoid)"
        )
    K, b = yhat.shape[-1], yhat.argmin(dim=-1, keepdim=True)
    best = yhat.gather(-1, b)
    below = K * best + gamma[:, None] * (yhat - best)
    p = torch.where(below > 0, best / below, yhat.new_tensor(1 / K))
    return _rest_to_best(torch.where(below.isnan(), below, p), b)


def epsilon_rule(yhat: Float[Tensor, "R K"], eps: Float[Tensor, " R"]) -> Float[Tensor, "R K"]:
    """The best arm with probability 1 - eps, any arm (the best included) with probability eps / K each.

    Shapes:
        (R, K), (R,) in [0, 1] -> (R, K).

    Example:
        >>> epsilon_rule(torch.tensor([[0.2, 0.1]]), torch.tensor([0.5]))
        tensor([[0.2500, 0.7500]])
    """
    p = (eps[:, None] / yhat.shape[-1]).expand_as(yhat)
    return _rest_to_best(p, yhat.argmin(dim=-1, keepdim=True))


def draw(p: Float[Tensor, "R K"], u: Float[Tensor, " R"]) -> Int[Tensor, " R"]:
    """One arm per replica, by inversion: the first whose cumulative probability exceeds u in [0, 1).

    A row of NaN (a diverged replica) gives arm 0 instead of an error.

    Shapes:
        (R, K), (R,) -> (R,) int64.

    Example:
        >>> draw(torch.tensor([[0.5, 0.5]]), torch.tensor([0.6]))
        tensor([1])
    """
    passed = (u[:, None] >= p.cumsum(dim=-1)).sum(dim=-1)
    return passed.clamp(max=p.shape[-1] - 1)  # rounding may leave the last sum below 1


def choose(
    rule: str,
    yhat: Float[Tensor, "R K"],
    knob: Float[Tensor, " R"],
    u: Float[Tensor, " R"],
    width: Float[Tensor, "R K"] | None = None,
    normal: Float[Tensor, "R K"] | None = None,
) -> Int[Tensor, " R"]:
    """The arm that a rule pulls.

    Args:
        rule: square, fast, epsilon, uniform, ucb or ts.
        yhat: predicted losses.
        knob: gamma (square, fast), eps (epsilon), nu (ucb, ts); unused by uniform.
        u: uniform draws in [0, 1).
        width: of the confidence interval of each arm (ucb, ts).
        normal: standard normal draws (ts).

    Shapes:
        (R, K), (R,), (R,) -> (R,) int64.

    Raises:
        ValueError: no such rule.
    """
    match rule:
        case "square":
            return draw(square_rule(yhat, knob), u)
        case "fast":
            return draw(fast_rule(yhat, knob), u)
        case "epsilon":
            return draw(epsilon_rule(yhat, knob), u)
        case "uniform":
            return draw(torch.full_like(yhat, 1 / yhat.shape[-1]), u)
        case "ucb":  # losses, not rewards: the optimist takes the lower bound
            assert width is not None
            return (yhat - knob[:, None] * width).argmin(dim=-1)
        case "ts":
            assert width is not None
            assert normal is not None
            return (yhat + knob[:, None] * width * normal).argmin(dim=-1)
    raise ValueError(f"rule must be square, fast, epsilon, uniform, ucb or ts, got {rule!r}")


def check_knob(rule: str, knob: float) -> None:
    """Raises ValueError where gamma or nu is negative or eps is no probability."""
    name = {"epsilon": "eps", "ucb": "nu", "ts": "nu"}.get(rule, "gamma")
    high = 1.0 if rule == "epsilon" else float("inf")
    if not 0 <= knob <= high or knob == float("inf"):
        raise ValueError(
            f"{rule} needs {name} in {'[0, 1]' if high == 1 else '[0, inf)'}, got {name}={knob}: set knob="
        )


def _rest_to_best(p: Tensor, b: Tensor) -> Tensor:
    p = p.scatter(-1, b, 0.0)
    return p.scatter(-1, b, 1 - p.sum(dim=-1, keepdim=True))
