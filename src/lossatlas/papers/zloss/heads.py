"""Output layers over D words: dense with any loss, the factored one, and what PyTorch users have instead.

All have `losses(h, y, lr)`, (m,) values whose mean is minimised, and `scores(h)`, (n, D) by which words are ranked;
`log_probs(h)` is None where the method gives no probabilities. A head is made by `head(d, D)`.
"""

import math

import torch
from torch import Tensor, nn
from torch.nn.functional import cross_entropy, log_softmax

from lossatlas.papers.zloss.output import SphericalOutput

CUTOFFS = (50, 10, 2)  # adaptive softmax: D/50, D/10, D/2


class DenseHead(nn.Module):
    """A linear layer without bias and a loss on its outputs, O(m D d).

    Args:
        d, D: width of h, number of words.
        loss: (o, y) -> one value per sample; `scores` and `log_probs` where it has its own.

    Raises:
        ValueError: too few classes for the loss.
    """

    def __init__(self, d: int, D: int, loss: nn.Module) -> None:
        super().__init__()
        if hasattr(loss, "check"):
            loss.check(D)  # type: ignore[operator]
        self.of_loss = loss
        self.linear = nn.Linear(d, D, bias=False)

    def losses(self, h: Tensor, y: Tensor, lr: float) -> Tensor:
        """(m,) loss values."""
        return self.of_loss(self.linear(h), y)

    def scores(self, h: Tensor) -> Tensor:
        """(n, D) what words are ranked by."""
        o = self.linear(h)
        return self.of_loss.scores(o) if hasattr(self.of_loss, "scores") else o  # type: ignore[operator]

    def log_probs(self, h: Tensor) -> Tensor | None:
        """(n, D) logarithms of probabilities, of losses that have them."""
        if isinstance(self.of_loss, nn.CrossEntropyLoss):
            return log_softmax(self.linear(h), dim=1)
        known = getattr(self.of_loss, "log_probs", None)
        return None if known is None else known(self.linear(h))


class FactoredHead(nn.Module):
    """The same training as DenseHead under plain SGD, in O(m d^2): see SphericalOutput.

    `losses` takes the step on the layer's weights; scale no loss afterwards.
    """

    def __init__(self, d: int, D: int, loss: nn.Module, recompute_every: int = 5000) -> None:
        super().__init__()
        self.output = SphericalOutput(d, D, loss, recompute_every=recompute_every)  # type: ignore[arg-type]

    def losses(self, h: Tensor, y: Tensor, lr: float) -> Tensor:
        """(m,) loss values; the layer has moved."""
        return self.output.loss(h, y, lr)

    def scores(self, h: Tensor) -> Tensor:
        """(n, D) what words are ranked by."""
        loss = self.output.of_loss
        return loss.scores(self.output(h))  # type: ignore[attr-defined]

    def log_probs(self, h: Tensor) -> Tensor | None:
        """(n, D) logarithms of probabilities, of losses that have them."""
        known = getattr(self.output.of_loss, "log_probs", None)
        return None if known is None else known(self.output(h))


class AdaptiveHead(nn.Module):
    """torch.nn.AdaptiveLogSoftmaxWithLoss with clusters of words by frequency (word 0 the most frequent)."""

    def __init__(self, d: int, D: int, div_value: float = 4.0) -> None:
        super().__init__()
        cutoffs = sorted({max(1, D // part) for part in CUTOFFS})
        self.softmax = nn.AdaptiveLogSoftmaxWithLoss(d, D, cutoffs, div_value=div_value)

    def losses(self, h: Tensor, y: Tensor, lr: float) -> Tensor:
        """(m,) negative log-likelihoods."""
        return -self.softmax(h, y).output

    def scores(self, h: Tensor) -> Tensor:
        """(n, D) log-probabilities."""
        return self.softmax.log_prob(h)

    def log_probs(self, h: Tensor) -> Tensor:
        """(n, D) log-probabilities."""
        return self.softmax.log_prob(h)


class SampledHead(nn.Module):
    """Sampled softmax: the target against words drawn from a log-uniform law, corrected by their expected counts.

    The table is an nn.Embedding with sparse gradients, so a step costs O(m S d). Words must be numbered by
    frequency. The draws come from torch's global generator, which the runner seeds and checkpoints.

    Args:
        d, D: width of h, number of words.
        samples: S, words drawn per mini-batch and shared by it, >= 1.

    Raises:
        ValueError: samples < 1.
    """

    def __init__(self, d: int, D: int, samples: int = 100) -> None:
        super().__init__()
        if samples < 1:
            raise ValueError(f"SampledHead needs samples >= 1, got {samples=}")
        self.D, self.samples = D, samples
        self.table = nn.Embedding(D, d, sparse=True)
        nn.init.uniform_(self.table.weight, -(d**-0.5), d**-0.5)  # as nn.Linear

    def losses(self, h: Tensor, y: Tensor, lr: float) -> Tensor:
        """(m,) cross-entropies of the target among target and drawn words."""
        drawn = self.draw(h.device)
        others = h @ self.table(drawn).T - self.log_count(drawn)
        others = others.masked_fill(drawn == y[:, None], -math.inf)  # the target stands in column 0 already
        own = (h * self.table(y)).sum(1) - self.log_count(y)
        logits = torch.cat([own[:, None], others], dim=1)
        return cross_entropy(logits, torch.zeros_like(y), reduction="none")

    def draw(self, device: torch.device) -> Tensor:
        """(S,) words k with probability log((k + 2)/(k + 1)) / log(D + 1)."""
        u = torch.rand(self.samples, dtype=torch.float64, device=device)
        return ((u * math.log(self.D + 1)).exp().long() - 1).clamp_(0, self.D - 1)

    def log_count(self, k: Tensor) -> Tensor:
        """Logarithm of the expected number of times that word k is drawn."""
        return (torch.log1p(1 / (k + 1.0)) * (self.samples / math.log(self.D + 1))).log()

    def scores(self, h: Tensor) -> Tensor:
        """(n, D) all outputs."""
        return h @ self.table.weight.T

    def log_probs(self, h: Tensor) -> Tensor:
        """(n, D) of the full softmax."""
        return log_softmax(self.scores(h), dim=1)
