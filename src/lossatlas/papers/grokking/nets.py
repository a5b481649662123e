"""Deep networks with an output scale: MNIST digits and modular addition, full batch, without weight decay."""

import math
from typing import Any

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn
from torch.nn.functional import one_hot

from lossatlas.data import Data, Split
from lossatlas.lit import LitModule
from lossatlas.metrics.classes import predicted
from lossatlas.papers.grokking.network import Centred, LazyMSE
from lossatlas.seeding import stream

CURVES = ("train", "test", "train_error", "test_error")


def modular_table(p: int = 31, share: float = 0.5, seed: int = 0) -> Data:
    """All pairs (a, b) of 0..p-1 with label (a + b) mod p; a random share of them is for training.

    Args:
        p: >= 2.
        share: in (0, 1), such that both parts have a row.
        seed: of the split.

    Raises:
        ValueError: p or share out of range.

    Example:
        >>> modular_table(p=5, share=0.4).train.x.shape
        torch.Size([10, 2])
    """
    if p < 2 or not 0 < share < 1 or not 1 <= round(share * p * p) < p * p:
        raise ValueError(
            f"modular_table needs p >= 2 and 0 < share < 1 with rows on both sides, got {p=}, {share=}"
        )
    pairs = torch.cartesian_prod(torch.arange(p), torch.arange(p))
    y = pairs.sum(dim=1) % p
    order = torch.randperm(p * p, generator=stream(seed, "grokking/table"))
    parts = order.split([round(share * p * p), p * p - round(share * p * p)])
    train, test = (Split(pairs[rows], y[rows], y[rows]) for rows in parts)
    return Data(name=f"modular{p}", classes=p, train=train, test=test)


class ModularTransformer(nn.Module):
    """One transformer layer over the two numbers and an equals sign; scores are read at the sign.

    Args:
        p: numbers and classes, >= 2.
        width: of the embedding, a multiple of heads.
        heads: of the attention, >= 1.

    Shapes:
        (n, 2) integer in [0, p) -> (n, p).

    Raises:
        ValueError: width is no multiple of heads.
    """

    def __init__(self, p: int = 31, width: int = 64, heads: int = 4) -> None:
        super().__init__()
        if heads < 1 or width % heads:
            raise ValueError(f"ModularTransformer needs width a multiple of heads, got {width=}, {heads=}")
        self.p = p
        self.embed = nn.Embedding(p + 1, width)
        self.place = nn.Parameter(torch.randn(3, width) / math.sqrt(width))
        self.attend = nn.MultiheadAttention(width, heads, batch_first=True)
        self.feed = nn.Sequential(nn.Linear(width, 4 * width), nn.ReLU(), nn.Linear(4 * width, width))
        self.read = nn.Linear(width, p, bias=False)

    def forward(self, x: Int[Tensor, "n 2"]) -> Float[Tensor, "n p"]:
        h = self.embed(torch.cat([x, x.new_full((len(x), 1), self.p)], dim=1)) + self.place
        last = h[:, -1:]  # attention's query: only the sign is read
        last = last + self.attend(last, h, h, need_weights=False)[0]
        return self.read(last + self.feed(last))[:, 0]


class LitScaled(LitModule):
    """alpha (net - net at the start) trained on one-hot targets by eq. 2, full batch; a round is a step.

    Metrics under test/: t_train and t_test (first measured step with an error rate below `fitted`, `general`;
    infinite = never), delay, gap (log10 of their ratio), error and train_error (final), final (test loss over its
    start).

    Args:
        data: a classified set; `limit` keeps the training set small.
        net: maps inputs (flattened, if they are images) to scores (n, K).
        optimizer: partial, without weight decay.
        alpha: output scale, > 0.
        normalised: the optimiser's step does not depend on the gradient's size (Adam): its rate is divided by alpha,
            which gives the function the same speed at the start for every alpha, as eq. 2 does for plain descent.
        rounds: steps.
        factor: between measured steps, > 1.
        fitted, general: error rates in (0, 1).

    Raises:
        ValueError: no data or net, or an argument out of range.
    """

    curves: Tensor

    def __init__(
        self,
        data: Data | None,
        net: nn.Module | None = None,
        loss: None = None,
        optimizer: Any = None,
        schedule: Any = None,
        *,
        alpha: float = 1.0,
        normalised: bool = True,
        rounds: int = 5000,
        factor: float = 1.08,
        fitted: float = 0.05,
        general: float = 0.2,
        **settings: Any,
    ) -> None:
        from lossatlas.claims.curves import log_steps  # not at the top: pandas comes with it

        if data is None or net is None or optimizer is None:
            raise ValueError("LitScaled needs data, a net and an optimizer: choose them with data=, net=")
        if not (0 < fitted < 1 and 0 < general < 1 and rounds >= 1):
            raise ValueError(
                f"needs fitted and general in (0, 1), rounds >= 1, got {fitted=}, {general=}, {rounds=}"
            )
        super().__init__(
            None, Centred(net, alpha), LazyMSE(alpha), optimizer, schedule, rounds=rounds, **settings
        )
        self.rate = 1 / alpha if normalised else 1.0
        self.levels, self.steps = (fitted, general), log_steps(rounds, factor)
        for name, split in (("train", data.train), ("test", data.test)):
            x = data.batch(split, torch.arange(len(split)), train=False).x
            self.register_buffer(f"x_{name}", x.flatten(1), persistent=False)
            self.register_buffer(f"y_{name}", split.y, persistent=False)
        self.classes = data.classes
        shape = (len(self.steps), len(CURVES))
        self.register_buffer("curves", torch.full(shape, math.nan, dtype=torch.float64))
        self._measure(0)

    def configure_optimizers(self) -> Any:
        """The config's optimiser, its rate divided by alpha where its step is normalised."""
        found = super().configure_optimizers()
        for group in (found["optimizer"] if isinstance(found, dict) else found).param_groups:  # type: ignore[union-attr]
            group["lr"] *= self.rate
        return found

    def play(self, rounds: Tensor) -> Tensor:
        """A chunk of full-batch steps; returns the training loss before each."""
        at, values = {step: k for k, step in enumerate(self.steps)}, []
        assert self.loss is not None
        for t in rounds.tolist():
            loss = self.loss(self(self.x_train), self._targets("train")).mean()
            self.descend(loss)
            values.append(loss.detach())
            if t + 1 in at:
                self._measure(at[t + 1])
        return torch.stack(values)

    def _targets(self, name: str) -> Tensor:
        return one_hot(getattr(self, f"y_{name}"), self.classes).to(self.dtype)

    @torch.no_grad()
    def _measure(self, k: int) -> None:
        assert self.loss is not None
        scores = {name: self(getattr(self, f"x_{name}")) for name in ("train", "test")}
        losses = [self.loss(f, self._targets(name)).mean() for name, f in scores.items()]
        wrong = [(predicted(f) != getattr(self, f"y_{n}")).double().mean() for n, f in scores.items()]
        self.curves[k] = torch.stack([value.double() for value in (*losses, *wrong)])

    def results(self) -> dict[str, float]:
        """Metrics of the run."""
        from lossatlas.claims.curves import first_passage

        curve = dict(zip(CURVES, self.curves.cpu().numpy().T, strict=True))
        t_train, t_test = (
            float(first_passage(self.steps, curve[name], level))
            for name, level in zip(("train_error", "test_error"), self.levels, strict=True)
        )
        both = max(t_train, t_test) < math.inf and t_train > 0 and t_test > 0
        found = {
            "t_train": t_train,
            "t_test": t_test,
            "delay": t_test - t_train if both else math.inf,
            "gap": math.log10(t_test / t_train) if both else math.inf,
            "error": curve["test_error"][-1],
            "train_error": curve["train_error"][-1],
            "final": curve["test"][-1] / curve["test"][0],
        }
        return {f"test/{name}": float(value) for name, value in found.items()}

    def curve_rows(self) -> list[dict[str, float]]:
        """Losses and error rates at log-spaced steps."""
        rows = self.curves.tolist()
        return [
            {"step": float(t), **dict(zip(CURVES, row, strict=True))}
            for t, row in zip(self.steps, rows, strict=True)
        ]
