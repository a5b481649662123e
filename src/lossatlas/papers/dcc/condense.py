"""Condensation of images: the loop of the paper, and what is measured of the images that come out."""

import itertools
from collections.abc import Callable
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional

from lossatlas.data import Data
from lossatlas.lit import LitModule
from lossatlas.papers.dcc import augment
from lossatlas.papers.dcc.images import textured
from lossatlas.papers.dcc.matching import class_gradients, classwise_distance, contrastive_distance, labels_of
from lossatlas.papers.dcc.nets import accuracy, drawn, kernel_velocity, tangent_kernel, trained
from lossatlas.papers.dcc.rules import Matching, RealImages, k_centers
from lossatlas.seeding import stream

METRICS = (
    "eval/top1",
    "match/contrast",
    "match/classwise",
    "match/class_cosine",
    "kernel/velocity",
    "texture/share",
)
CHECKS = 5  # fresh networks on which distances are measured
PROBES = 10  # steps between two tangent kernels, and kernels after the first


class LitCondense(LitModule):
    """S, `ipc` images a class, moved by a rule; a round is one network: drawn, matched and trained in turn.

    Metrics: eval/top1 (mean test accuracy of `eval_nets` networks trained on S alone), match/contrast and
    match/classwise (eq. 3 and 2 on fresh networks and fresh real images), match/class_cosine (of the gradients of two
    classes of S, mean over pairs), kernel/velocity (of a network's tangent kernel, a step of its training on S),
    texture/share (of the squared deviation of S from its mean, within the texture's space).

    Args:
        data: images; `limit` keeps fewer.
        optimizer: partial, of the images.
        rule: how the images come about.
        net: partial, called with channels, classes and side.
        classes, side, amplitude: see `textured`.
        ipc: images a class, >= 1.
        rounds: networks, the outer loop, >= 1.
        inner: moves of S on each network, >= 1.
        epochs_net: epochs of the network on S between two moves, >= 1; the paper has 5, 50, 10 at ipc = 1, 10, 50.
        batch_real, batch_syn: real images a class of a move; mini-batch of the network's training.
        lr_net: its rate.
        eval_nets, eval_steps: networks of the evaluation and their steps (`whole_steps` for all real images).

    Raises:
        ValueError: no data, or a count out of range.
    """

    found: Tensor

    def __init__(
        self,
        data: Data | None,
        net: None = None,
        loss: None = None,
        optimizer: Any = None,
        schedule: Any = None,
        *,
        rule: Matching | RealImages,
        make_net: Callable[..., nn.Module],
        classes: list[int] | None = None,
        side: int = 14,
        amplitude: float = 0.0,
        ipc: int = 1,
        rounds: int = 40,
        inner: int = 10,
        epochs_net: int = 5,
        batch_real: int = 64,
        batch_syn: int = 256,
        lr_net: float = 0.01,
        eval_nets: int = 3,
        eval_steps: int = 300,
        whole_steps: int = 1000,
        seed: int = 0,
        **settings: Any,
    ) -> None:
        counts = {"ipc": ipc, "rounds": rounds, "inner": inner, "epochs_net": epochs_net, "batch_real": batch_real,
                  "batch_syn": batch_syn, "eval_nets": eval_nets, "eval_steps": eval_steps}  # fmt: skip
        if None in (inner, epochs_net):
            raise ValueError(
                "the paper has moves and epochs for ipc = 1, 10 and 50; give module.inner and "
                f"module.epochs_net for {ipc=}"
            )
        if data is None or min(counts.values()) < 1:
            raise ValueError(f"LitCondense needs images (data=) and counts of at least 1, got {counts}")
        super().__init__(None, None, loss, optimizer, schedule, rounds=rounds, seed=seed, **settings)
        self.rule, self.inner, self.epochs_net, self.lr_net = rule, inner, epochs_net, lr_net
        self.batch_syn, self.eval_nets, self.eval_steps = batch_syn, eval_nets, eval_steps
        self.whole_steps = whole_steps
        self.images = textured(data, classes, side, amplitude, seed)
        self.rows = [(self.images.y == c).nonzero()[:, 0] for c in range(int(self.images.y.max()) + 1)]
        fewest = min(map(len, self.rows))
        if ipc > fewest:
            raise ValueError(f"ipc={ipc} is more than the {fewest} real images of the smallest class")
        self.batch_real = min(batch_real, fewest)
        self.make = partial(make_net, channels=data.shape[0], classes=len(self.rows), side=side)
        self.S = nn.Parameter(self._real("start", ipc))
        self.register_buffer("found", torch.full((len(METRICS),), torch.nan, dtype=torch.float64))

    def on_fit_start(self) -> None:
        """The real images follow S to its device and precision."""
        super().on_fit_start()
        self.images = self.images.like(self.S)

    def play(self, rounds: Tensor) -> Tensor | None:
        """A chunk of networks; after the last one the images are evaluated."""
        moves = isinstance(self.rule, Matching)
        losses = [self._condense(outer) for outer in rounds.tolist()] if moves else []
        if int(rounds[-1]) == self.rounds - 1:
            self._evaluate()
        return torch.stack(losses) if losses else None

    def _condense(self, outer: int) -> Tensor:
        """The algorithm's outer step: a new network, on which S is moved and which is trained on S in turn."""
        rule = self.rule
        assert isinstance(rule, Matching)
        net = self._net(f"net/{outer}")
        optimizer_net = torch.optim.SGD(net.parameters(), lr=self.lr_net)
        draws = stream(self.seed, f"dcc/augment/{outer}")
        losses = []
        for inner in range(self.inner):
            T = self._real(f"real/{outer}/{inner}", self.batch_real)
            S, T = self._siamese(self.S, T, draws) if rule.augment else (self.S, T)
            distance = contrastive_distance if rule.contrasts(outer, inner) else classwise_distance
            loss = distance(net, S, T)
            # not `descend`, whose backward() would form the weights' gradients, too
            (self.S.grad,) = torch.autograd.grad(self.scaled(loss), self.S)
            self.update()
            losses.append(loss.detach())
            if inner < self.inner - 1:
                self._train(net, optimizer_net, draws)
        return torch.stack(losses).mean()

    def _train(self, net: nn.Module, optimizer: torch.optim.Optimizer, draws: torch.Generator) -> None:
        """Some epochs of the network on S, which stays."""
        x, y = self._synthetic()
        for _ in range(self.epochs_net):
            order = (
                torch.randperm(len(x), generator=draws) if len(x) > self.batch_syn else torch.arange(len(x))
            )
            for rows in order.split(self.batch_syn):
                shown = augment.apply(x[rows], augment.draw(draws, len(rows))) if self._augments else x[rows]
                optimizer.zero_grad()
                functional.cross_entropy(net(shown), y[rows]).backward()
                optimizer.step()

    @property
    def _augments(self) -> bool:
        return isinstance(self.rule, Matching) and self.rule.augment

    def _siamese(self, S: Tensor, T: Tensor, draws: torch.Generator) -> tuple[Tensor, Tensor]:
        """Both sets under one draw a class."""
        found = [augment.draw(draws) for _ in range(len(S))]
        both = [[augment.apply(x, d) for x, d in zip(X, found, strict=True)] for X in (S, T)]
        return torch.stack(both[0]), torch.stack(both[1])

    def _real(self, purpose: str, count: int) -> Tensor:
        """(C, count, channels, s, s) real images, no image twice, the same for every arm."""
        g = stream(self.seed, f"dcc/{purpose}")
        picked = [rows[torch.randperm(len(rows), generator=g)[:count]] for rows in self.rows]
        return self.images.x[torch.stack(picked).to(self.images.x.device)]

    def _net(self, purpose: str) -> Any:
        """A new network where S is."""
        return drawn(self.make, self.seed, f"dcc/{purpose}").to(self.S)

    def _synthetic(self) -> tuple[Tensor, Tensor]:
        """S as a training set: (C ipc, ...) images and labels."""
        S = self.S.detach()
        return S.flatten(0, 1), labels_of(S)

    # ---------------------------------------------------------------- what came out
    def _evaluate(self) -> None:
        images, whole = self.images, False
        if isinstance(self.rule, RealImages):
            whole = self.rule.by == "whole"
            if self.rule.by == "kcenter":
                self._choose_centers()
        x, y = (images.x, images.y) if whole else self._synthetic()
        steps = self.whole_steps if whole else self.eval_steps
        draws = stream(self.seed, "dcc/eval/augment")
        change = (
            (lambda shown: augment.apply(shown, augment.draw(draws, len(shown)))) if self._augments else None
        )
        scores = []
        for k in range(self.eval_nets):
            net = self._net(f"eval/{k}")
            trained(net, x, y, steps, self.seed + k, change=change)
            scores.append(accuracy(net, images.x_test, images.y_test))
        self.found[0] = sum(scores) / len(scores)
        if not whole:
            self.found[1:] = torch.tensor([*self._distances(), self._velocity(), self._texture_share()])

    def _choose_centers(self) -> None:
        net = self._net("kcenter")
        trained(net, self.images.x, self.images.y, self.whole_steps, self.seed)
        with torch.no_grad():
            for c, rows in enumerate(self.rows):
                features = net.features(self.images.x[rows.to(self.images.x.device)])
                self.S[c] = self.images.x[rows[k_centers(features, self.S.shape[1])]]

    def _distances(self) -> tuple[float, float, float]:
        """Eq. (3), eq. (2) and the mean cosine of two classes' gradients, on networks that S was not fitted to."""
        contrast, classwise, cosines = [], [], []
        S = self.S.detach()
        for k in range(CHECKS):
            net, T = self._net(f"check/{k}"), self._real(f"check/{k}", self.batch_real)
            contrast.append(contrastive_distance(net, S, T).item())
            classwise.append(classwise_distance(net, S, T).item())
            flat = torch.stack(
                [torch.cat([g.flatten() for g in G]) for G in class_gradients(net, S, keep=False)]
            )
            pairs = itertools.combinations(functional.normalize(flat, dim=1), 2)
            cosines.append(float(torch.stack([a @ b for a, b in pairs]).mean()))
        return sum(contrast) / CHECKS, sum(classwise) / CHECKS, sum(cosines) / CHECKS

    def _velocity(self) -> float:
        """Mean change of the tangent kernel (on four real images a class) per step of a network's training on S."""
        net, probe = self._net("kernel"), self._real("kernel", min(4, self.batch_real))
        x, y = self._synthetic()
        optimizer = torch.optim.SGD(net.parameters(), lr=self.lr_net)
        kernels = [tangent_kernel(net, probe.flatten(0, 1))]
        for _ in range(PROBES):
            for _ in range(PROBES):
                optimizer.zero_grad()
                functional.cross_entropy(net(x), y).backward()
                optimizer.step()
            kernels.append(tangent_kernel(net, probe.flatten(0, 1)))
        moved = [kernel_velocity(a, b, PROBES) for a, b in itertools.pairwise(kernels)]
        return sum(moved) / len(moved)

    def _texture_share(self) -> float:
        """How much of what varies within S lies in the texture's space."""
        flat = self.S.detach().flatten(0, 1).flatten(1)
        flat = flat - flat.mean(0)
        return float((flat @ self.images.Q.mT).square().sum() / flat.square().sum())

    def results(self) -> dict[str, float]:
        """What `_evaluate` found; NaN is left out."""
        return {name: v for name, v in zip(METRICS, self.found.tolist(), strict=True) if v == v}

    def extras(self) -> dict[str, Any]:
        """The first image of each class, for the figure."""
        if isinstance(self.rule, RealImages) and self.rule.by == "whole":
            return {}
        shown = self.S.detach()[:, 0].mean(1)  # grey
        return {"images": [[round(v, 1) for v in image.flatten().tolist()] for image in shown]}
