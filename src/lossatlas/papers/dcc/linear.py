"""The mechanism where everything is linear: images with a large common part, softmax regression as the network.

The gradient of a class has the closed form (softmax - onehot)' x / n, so that one autograd pass through it moves the
images; all repetitions move side by side.
"""

import math
from typing import Any, NamedTuple

import torch
from jaxtyping import Float
from torch import Tensor, nn
from torch.nn import functional

from lossatlas.lit import LitModule
from lossatlas.metrics.classes import predicted
from lossatlas.papers.dcc.matching import EPS, row_distance
from lossatlas.papers.dcc.rules import Matching, RealImages
from lossatlas.seeding import stream

METRICS = ("share", "alignment", "accuracy")
PER_SEED = 1000  # repetition r of seed s is draw number 1000 s + r
TEST = 200  # test images a class
EVAL_STEPS = 300  # of the evaluation's gradient descent, with momentum .9


class World(NamedTuple):
    """Of R repetitions: the common part's direction m (R, d), its size M, the classes' signals v (R, C, d)."""

    m: Tensor
    M: float
    v: Tensor


def world(numbers: list[int], C: int, d: int, M: float) -> World:
    """Unit vectors m and v_c of each draw number."""
    drawn = torch.stack([torch.randn(C + 1, d, generator=stream(n, "dcc/linear/world")) for n in numbers])
    unit = functional.normalize(drawn, dim=-1)
    return World(unit[:, 0], M, unit[:, 1:])


def images(w: World, numbers: list[int], purpose: str, count: int) -> Float[Tensor, "R C n d"]:
    """x = s M m + v_c + N(0, I) / sqrt(d), s ~ N(1, .3^2) of each image."""
    (_, C, d), made = w.v.shape, []
    for number in numbers:
        made.append(torch.randn(C, count, d + 1, generator=stream(number, f"dcc/linear/{purpose}")))
    z = torch.stack(made)
    s = 1 + 0.3 * z[..., :1]
    return s * w.M * w.m[:, None, None] + w.v[:, :, None] + z[..., 1:] / math.sqrt(d)


def regression_gradients(W: Float[Tensor, "R C d"], x: Float[Tensor, "R C n d"]) -> Float[Tensor, "R C C d"]:
    """Of each class c, the gradient of the mean cross-entropy of its images with respect to W: (R, c, neuron, d)."""
    excess = (x @ W[:, None].mT).softmax(-1) - torch.eye(W.shape[1], dtype=W.dtype, device=W.device)[:, None]
    return excess.mT @ x / x.shape[2]


def distance(
    W: Float[Tensor, "R C d"], S: Float[Tensor, "R C ipc d"], T: Float[Tensor, "R C n d"], contrast: bool,
    eps: float = EPS,
) -> Float[Tensor, " R"]:  # fmt: skip
    """Eq. (3) if `contrast`, else eq. (2), of each repetition."""
    G, H = regression_gradients(W, S), regression_gradients(W, T).detach()
    if contrast:
        return row_distance(G.mean(1), H.mean(1), eps)
    return row_distance(G, H, eps).sum(1)


class LitLinear(LitModule):
    """All repetitions of one arm, moved together; a round is one network of each.

    Metrics of a repetition, under test/: share (of S~ along m), alignment (cosine of S~ and the true v~), accuracy (of
    softmax regression trained on S), S~ and v~ being S and v less their mean over classes.

    Args:
        optimizer: partial, of the images.
        rule: how the images come about, random or by matching.
        repetitions: 1..1000.
        M: size of the common part, >= 0.
        C, d: classes and dimension, >= 2.
        rounds, inner, epochs_net, batch_real, lr_net: as for images (LitCondense).

    Raises:
        ValueError: a number out of range, or a rule for images only.
    """

    found: Tensor

    def __init__(
        self,
        data: None,
        net: None = None,
        loss: None = None,
        optimizer: Any = None,
        schedule: Any = None,
        *,
        rule: Matching | RealImages,
        repetitions: int = 20,
        M: float = 20.0,
        C: int = 5,
        d: int = 50,
        ipc: int = 1,
        rounds: int = 20,
        inner: int = 10,
        epochs_net: int = 5,
        batch_real: int = 64,
        lr_net: float = 0.01,
        seed: int = 0,
        **settings: Any,
    ) -> None:
        counts = {
            "ipc": ipc,
            "rounds": rounds,
            "inner": inner,
            "epochs_net": epochs_net,
            "batch_real": batch_real,
        }
        if min(counts.values()) < 1 or min(C, d) < 2 or not 0 <= M < math.inf:
            raise ValueError(
                f"needs counts >= 1, C, d >= 2 and a finite M >= 0, got {counts}, {C=}, {d=}, {M=}"
            )
        if not 1 <= repetitions <= PER_SEED:
            raise ValueError(f"repetitions must lie in 1..{PER_SEED}, got {repetitions}")
        if isinstance(rule, RealImages) and rule.by != "random":
            raise ValueError(f"the linear study chooses real images at random only, got {rule.by!r}")
        if isinstance(rule, Matching) and rule.augment:
            raise ValueError("the linear study has no augmentation")
        super().__init__(None, None, loss, optimizer, schedule, rounds=rounds, seed=seed, **settings)
        self.rule, self.inner, self.epochs_net = rule, inner, epochs_net
        self.batch_real, self.lr_net = batch_real, lr_net
        self.numbers = [PER_SEED * seed + r for r in range(repetitions)]
        self.world = world(self.numbers, C, d, M)
        self.S = nn.Parameter(images(self.world, self.numbers, "start", ipc))
        self.register_buffer("found", torch.full((repetitions, len(METRICS)), torch.nan, dtype=torch.float64))

    def play(self, rounds: Tensor) -> Tensor | None:
        """A chunk of networks; after the last one the images are evaluated."""
        rule = self.rule
        losses = (
            [self._condense(outer, rule) for outer in rounds.tolist()] if isinstance(rule, Matching) else []
        )
        if int(rounds[-1]) == self.rounds - 1:
            self._evaluate()
        return torch.stack(losses) if losses else None

    def _condense(self, outer: int, rule: Matching) -> Tensor:
        """The algorithm's outer step, as for images: move S, train the network on S, in turn."""
        W, losses = self._weights(f"net/{outer}"), []
        T = images(self.world, self.numbers, f"real/{outer}", self.inner * self.batch_real).to(self.S)
        for inner, real in enumerate(T.split(self.batch_real, dim=2)):
            loss = distance(W, self.S, real, rule.contrasts(outer, inner)).sum()  # repetitions do not meet
            self.descend(loss)
            losses.append(loss.detach() / len(W))
            if inner < self.inner - 1:
                for _ in range(self.epochs_net):
                    W = W - self.lr_net * regression_gradients(W, self.S.detach()).mean(1)
        return torch.stack(losses).mean()

    def _weights(self, purpose: str) -> Tensor:
        """Random weights of variance 1 / (9 d): softmax regression without a bias."""
        C, d = self.world.v.shape[1:]
        drawn = [torch.randn(C, d, generator=stream(n, f"dcc/linear/{purpose}")) for n in self.numbers]
        return torch.stack(drawn).to(self.S) / (3 * math.sqrt(d))

    @torch.no_grad()
    def _evaluate(self) -> None:
        w, S = self.world, self.S.detach()
        m, v = w.m.to(S), w.v.to(S)
        centred = S.mean(2) - S.mean((1, 2))[:, None]
        signal = v - v.mean(1, keepdim=True)
        along = (centred @ m[:, :, None])[..., 0]
        share = along.square().sum(1) / centred.square().sum((1, 2))
        alignment = functional.cosine_similarity(centred.flatten(1), signal.flatten(1))
        W, speed = self._weights("eval"), 0.0
        for _ in range(EVAL_STEPS):
            speed = 0.9 * speed + regression_gradients(W, S).mean(1)
            W = W - self.lr_net * speed
        x = images(w, self.numbers, "test", TEST).to(S)
        right = predicted(x @ W[:, None].mT) == torch.arange(W.shape[1], device=W.device)[:, None]
        self.found.copy_(torch.stack([share, alignment, right.float().mean((1, 2))], dim=1))

    def unit_metrics(self) -> list[dict[str, Any]]:
        """One entry per repetition."""
        return [{"unit": r, "metrics": _named(row)} for r, row in enumerate(self.found.tolist())]

    def results(self) -> dict[str, float]:
        """Means over the repetitions."""
        return _named(self.found.mean(0).tolist())


def _named(row: list[float]) -> dict[str, float]:
    return {f"test/{name}": value for name, value in zip(METRICS, row, strict=True)}
