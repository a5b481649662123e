"""The word studies: a next-word model, its ranks on the test text, and a plain classifier."""

from collections.abc import Callable
from itertools import pairwise
from typing import Any

import torch
from torch import Tensor, nn
from torchmetrics import CatMetric

from lossatlas.data import Batch, Data
from lossatlas.errors import UserError
from lossatlas.lit import LitModule
from lossatlas.papers.zloss.heads import FactoredHead

KS = (1, 5, 10, 20, 50)  # reported top-k errors
CURVE = 100  # the figure's curve goes from k = 1 to here


class WordContext(nn.Module):
    """Embeddings of the previous words, side by side, and tanh layers.

    Args:
        words: size of the embedding, >= 1.
        context: previous words, >= 1.
        width: of an embedding.
        hidden: widths of the layers; the last one is d.

    Shapes:
        (b, context) int64 -> (b, hidden[-1]) float.
    """

    def __init__(self, words: int, context: int, width: int, hidden: list[int]) -> None:
        super().__init__()
        self.embedding = nn.Embedding(words, width)
        widths = [context * width, *hidden]
        self.layers = nn.Sequential(*(m for a, b in pairwise(widths) for m in (nn.Linear(a, b), nn.Tanh())))

    def forward(self, x: Tensor) -> Tensor:
        """Hidden representations h."""
        return self.layers(self.embedding(x).flatten(1))


class LitWords(LitModule):
    """Next-word model under SGD whose rate falls linearly to 0 over the run, step by step.

    Metrics: test/top1 (accuracy), test/top{1,5,10,20,50}_error, test/mrr (mean reciprocal rank), test/perplexity of
    arms with probabilities; val/top1 and val/top10 (accuracies) where there is a validation part. A tie counts
    against the target.

    Args:
        data: x (n, context) word numbers < classes + 2, y (n,) < classes.
        head: called as head(d=, D=): the output layer with its loss.
        lr: learning rate at the start, > 0, of the net and of the output layer.
        width: of the embeddings.
        hidden: widths of the tanh layers.

    Raises:
        ValueError: too few classes for the loss.
        UserError: the factored layer under several processes.
    """

    def __init__(
        self,
        data: Data,
        net: None = None,
        loss: None = None,
        optimizer: Any = None,
        schedule: None = None,
        *,
        head: Callable[..., nn.Module],
        lr: float,
        width: int = 64,
        hidden: list[int],
        **settings: Any,
    ) -> None:
        body = WordContext(data.classes + 2, data.shape[0], width, hidden)
        super().__init__(data, body, None, optimizer, None, **settings)
        self.head: Any = head(d=hidden[-1], D=data.classes)
        self.lr = lr
        self.register_buffer("taken", torch.zeros((), dtype=torch.int64))
        self.taken: Tensor
        self.ranks, self.nll = CatMetric(), CatMetric()

    def on_fit_start(self) -> None:
        """Refuses what the factored layer cannot do."""
        if self.trainer.world_size > 1 and isinstance(self.head, FactoredHead):
            raise UserError(
                "the factored output layer takes its own step on one process: use trainer.devices=1"
            )
        super().on_fit_start()

    def forward(self, x: Tensor) -> Tensor:
        """(b, K) what words are ranked by."""
        assert self.net is not None
        return self.head.scores(self.net(x))

    def step(self, batch: Batch) -> Tensor:
        """One SGD step at this step's rate."""
        assert self.net is not None
        lr = self.lr * (1 - float(self.taken) / self.total_steps)
        for group in self._optimizer.param_groups:
            group["lr"] = lr
        loss = self.head.losses(self.net(batch.x), batch.y, lr).mean()
        self.descend(loss)
        self.taken += 1
        return loss.detach()

    @property
    def total_steps(self) -> int:
        """Mini-batches of the whole run."""
        assert self.data is not None
        assert self.trainer.max_epochs is not None
        return self.trainer.max_epochs * -(-len(self.data.train) // self.batch_size)

    # ---------------------------------------------------------------- evaluation
    def validation_step(self, index: Tensor, _: int) -> None:
        """Ranks on the validation part."""
        assert self.data is not None
        assert self.data.val is not None
        if len(index):
            self._rank(self.data.batch(self.data.val, index.to(self.device), train=False))

    def on_validation_epoch_end(self) -> None:
        """Logs val/top1 and val/top10."""
        if self.data is not None and self.data.val is not None:
            ranks = self.ranks.compute()
            self.log_dict({f"val/top{k}": (ranks <= k).float().mean() for k in (1, 10)})
            self.ranks.reset()

    def test_step(self, index: Tensor, _: int) -> None:
        """Ranks and log-likelihoods on the test part."""
        assert self.data is not None
        if len(index):
            batch = self.data.batch(self.data.test, index.to(self.device), train=False)
            self._rank(batch)
            log_probs = self.head.log_probs(self.net(batch.x))  # type: ignore[misc]
            if log_probs is not None:
                self.nll.update(-log_probs.gather(1, batch.y[:, None])[:, 0])

    def _rank(self, batch: Batch) -> None:
        self.ranks.update(rank(self(batch.x), batch.y).float())

    def on_test_epoch_end(self) -> None:
        """Logs the test metrics and keeps the error curve."""
        assert self.data is not None
        ranks = self.ranks.compute()
        found = {f"test/top{k}_error": (ranks > k).float().mean() for k in KS if k < self.data.classes}
        found |= {"test/top1": (ranks <= 1).float().mean(), "test/mrr": (1 / ranks).mean()}
        if self.nll.update_called:
            found["test/perplexity"] = self.nll.compute().double().mean().exp()
            self.nll.reset()
        self.log_dict(found)
        ks = torch.arange(1, min(CURVE, self.data.classes) + 1, device=ranks.device)
        self.curve = (
            1 - torch.searchsorted(ranks.sort().values, ks.float(), right=True) / len(ranks)
        ).tolist()
        self.ranks.reset()

    def extras(self) -> dict[str, Any]:
        """Top-k error for k = 1.., and the number of words."""
        assert self.data is not None
        return {"error_curve": [round(v, 5) for v in self.curve], "words": self.data.classes}


def rank(scores: Tensor, y: Tensor) -> Tensor:
    """(n,) place of the target among the scores (n, K), 1 the best; equal scores count against it."""
    return (scores >= scores.gather(1, y[:, None])).sum(1)


class LitPlain(LitModule):
    """A plain classifier with any loss of the family; classes are ranked by the loss's own scores.

    Metrics besides those of LitModule: outputs/mean and outputs/std over the test set's outputs: a loss that
    a shift or a scale does not change leaves them where they drift.

    Raises:
        ValueError: too few classes for the loss.
    """

    def __init__(self, data: Data, net: nn.Module, loss: nn.Module, *args: Any, **settings: Any) -> None:
        super().__init__(data, net, loss, *args, **settings)
        if hasattr(loss, "check"):
            loss.check(data.classes)  # type: ignore[operator]

    def losses(self, batch: Batch) -> Tensor:
        """(b,) loss values from the outputs themselves."""
        return self.loss(self.net(batch.x), batch.y)  # type: ignore[misc]

    def forward(self, x: Tensor) -> Tensor:
        """(b, K) what classes are ranked by."""
        o = self.net(x)  # type: ignore[misc]
        return self.loss.scores(o) if hasattr(self.loss, "scores") else o  # type: ignore[union-attr, operator]

    @torch.no_grad()
    def on_test_epoch_end(self) -> None:
        """Logs the outputs' mean and deviation beside the accuracies."""
        assert self.data is not None
        o = self.net(self.data.batch(self.data.test, torch.arange(len(self.data.test)), train=False).x)  # type: ignore[misc]
        self.log_dict({"outputs/mean": o.mean(), "outputs/std": o.std(1).mean()})
        super().on_test_epoch_end()
