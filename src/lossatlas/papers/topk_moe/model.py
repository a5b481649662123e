"""Eq. 1: Gaussian experts behind a gate that keeps the K largest logits; R mixtures at once."""

import math
from dataclasses import dataclass, fields

import torch
from jaxtyping import Bool, Float
from torch import Tensor


@dataclass(frozen=True)
class Experts:
    """Parameters of R mixtures of k experts, each (R, k).

    Args:
        b0, b1: offset and slope of the gate's logits.
        a, c: slope and offset of an expert's mean.
        s: its standard deviation, > 0.

    Raises:
        ValueError: shapes that differ, NaN, s <= 0.
    """

    b0: Tensor
    b1: Tensor
    a: Tensor
    c: Tensor
    s: Tensor

    def __post_init__(self) -> None:
        parts = self.parts()
        if any(part.ndim != 2 or part.shape != self.b0.shape for part in parts) or self.b0.shape[1] < 1:
            raise ValueError(
                f"experts need five tensors (R, k), k >= 1, got {[tuple(p.shape) for p in parts]}"
            )
        if not all(bool(part.isfinite().all()) for part in parts) or not bool((self.s > 0).all()):
            raise ValueError("experts need finite parameters and deviations s > 0")

    def parts(self) -> list[Tensor]:
        """b0, b1, a, c, s."""
        return [getattr(self, field.name) for field in fields(self)]

    def logits(self, x: Float[Tensor, "R n"]) -> Float[Tensor, "R n k"]:
        """b1 x + b0."""
        return x[..., None] * self.b1[:, None] + self.b0[:, None]

    def log_normal(self, x: Float[Tensor, "R n"], y: Float[Tensor, "R n"]) -> Float[Tensor, "R n k"]:
        """log N(y | a x + c, s^2) of each expert."""
        s = self.s[:, None]
        z = (y[..., None] - x[..., None] * self.a[:, None] - self.c[:, None]) / s
        return -0.5 * z.square() - s.log() - 0.5 * math.log(2 * math.pi)


def where(take: Bool[Tensor, " R"], yes: Experts, no: Experts) -> Experts:
    """Mixture by mixture `yes` where taken, else `no`."""
    pairs = zip(yes.parts(), no.parts(), strict=True)
    return Experts(*(torch.where(take[:, None], one, other) for one, other in pairs))


def check_kept(K: int, k: int) -> None:
    """Raises ValueError where K of k experts cannot be kept."""
    if not 1 <= K <= k:
        raise ValueError(f"a gate keeps 1 <= K <= k logits, got {K=} of {k=}")


def active_set(logits: Float[Tensor, "*R k"], K: int) -> Bool[Tensor, "*R k"]:
    """The K largest logits; all that are equal to the smallest of them are kept.

    Raises:
        ValueError: K < 1, or more than there are.

    Example:
        >>> active_set(torch.tensor([[3.0, 1.0, 2.0], [0.0, 1.0, 0.0]]), K=2).tolist()
        [[True, False, True], [True, True, True]]
    """
    check_kept(K, logits.shape[-1])
    return logits >= logits.topk(K, dim=-1).values[..., -1:]


def log_gate(logits: Float[Tensor, "*R k"], active: Bool[Tensor, "*R k"]) -> Float[Tensor, "*R k"]:
    """log pi: log-softmax over the active set, -inf outside."""
    return torch.log_softmax(torch.where(active, logits, -math.inf), dim=-1)


def gate(experts: Experts, x: Float[Tensor, "R n"], K: int) -> Float[Tensor, "R n k"]:
    """pi of eq. 1.

    Raises:
        ValueError: K < 1, or more than there are experts.
    """
    logits = experts.logits(x)
    return log_gate(logits, active_set(logits, K)).exp()


def log_density(
    experts: Experts, x: Float[Tensor, "R n"], y: Float[Tensor, "R n"], K: int
) -> Float[Tensor, "R n"]:
    """log g(y | x).

    Raises:
        ValueError: K < 1, or more than there are experts.
    """
    logits = experts.logits(x)
    return torch.logsumexp(log_gate(logits, active_set(logits, K)) + experts.log_normal(x, y), dim=-1)


def sample(
    experts: Experts,
    x: Float[Tensor, "R n"],
    uniform: Float[Tensor, "R n"],
    normal: Float[Tensor, "R n"],
    K: int,
) -> Float[Tensor, "R n"]:
    """y for each x, from a uniform number that picks the expert and a standard normal one.

    Raises:
        ValueError: K < 1, or more than there are experts.
    """
    chosen = (gate(experts, x, K).cumsum(-1) < uniform[..., None]).sum(-1).clamp(max=experts.b0.shape[1] - 1)
    a, c, s = (part[:, None].expand(-1, x.shape[1], -1).gather(2, chosen[..., None])[..., 0]
               for part in (experts.a, experts.c, experts.s))  # fmt: skip
    return a * x + c + s * normal
