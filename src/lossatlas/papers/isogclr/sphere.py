"""The mechanism without a network: class centres on a sphere, views around samples, only s, u and tau move."""

from dataclasses import dataclass
from typing import Any

import torch
from jaxtyping import Float, Int
from torch import Tensor
from torch.nn.functional import normalize

from lossatlas.lit import LitModule
from lossatlas.papers.isogclr.losses import ISogCLR
from lossatlas.papers.isogclr.study import boxes, class_means, size_correlation
from lossatlas.papers.isogclr.tail import class_sizes
from lossatlas.seeding import stream


@dataclass
class Sphere:
    """Classes that differ in size alone: sample i of class c is m_c + N(0, I) / 4, the m_c orthonormal.

    Args:
        seed: of centres, samples and views, >= 0.
        classes, d: number of classes, dimension; 2 <= classes <= d.
        n_max, ratio: see `class_sizes`; classes are numbered from head to tail.
        noise: of a view, in units of N(0, I) / 4, >= 0.

    Raises:
        ValueError: more classes than dimensions, noise < 0, or sizes out of range.

    Example:
        >>> sphere = Sphere(seed=0)
        >>> len(sphere), sphere.sizes[0], sphere.sizes[-1]
        (1401, 500, 10)
    """

    seed: int
    classes: int = 10
    d: int = 16
    n_max: int = 500
    ratio: float = 0.02
    noise: float = 0.3

    def __post_init__(self) -> None:
        self.sizes = class_sizes(self.classes, self.n_max, self.ratio)
        if self.classes > self.d or not 0 <= self.noise < float("inf"):
            came = f"classes={self.classes}, d={self.d}, noise={self.noise}"
            raise ValueError(
                f"orthonormal centres need classes <= d, and views finite noise >= 0, got {came}"
            )
        generator = stream(self.seed, "isogclr/sphere")
        centres = torch.linalg.qr(torch.randn(self.d, self.d, generator=generator)).Q[: self.classes]
        self.y = torch.repeat_interleave(torch.arange(self.classes), torch.tensor(self.sizes))
        self.base = centres[self.y] + torch.randn(len(self.y), self.d, generator=generator) / 4

    def __len__(self) -> int:
        return len(self.y)

    def epoch(
        self, number: int, batch_size: int = 128
    ) -> list[tuple[Float[Tensor, "b d"], Float[Tensor, "b d"], Int[Tensor, " b"]]]:
        """Mini-batches (first views, second views, positions) of an epoch, a function of (seed, number) alone."""
        generator = stream(self.seed, f"isogclr/sphere/{number}")
        order = torch.randperm(len(self), generator=generator)
        noise = torch.randn(2, len(self), self.d, generator=generator) / 4
        e = normalize(self.base + self.noise * noise, dim=2)
        return [(e[0, index], e[1, index], index) for index in order.split(batch_size)]


class LitSphere(LitModule):
    """Epochs of a `Sphere` as rounds; the loss keeps the state.

    Metrics: tau/spearman (class size, mean tau), tau/mean, tau/head, tau/tail (largest and smallest class),
    tau/class_k.

    Args:
        loss: an ISogCLR.
        noise, n_max, ratio: of the sphere.
        epochs: rounds, >= 1.
        settings: of LitModule.

    Raises:
        ValueError: no ISogCLR with a temperature per sample, or a last mini-batch of one sample.
    """

    def __init__(
        self,
        data: None,
        net: None = None,
        loss: ISogCLR | None = None,
        *args: Any,
        noise: float = 0.3,
        n_max: int = 500,
        ratio: float = 0.02,
        epochs: int = 40,
        **settings: Any,
    ) -> None:
        super().__init__(None, None, loss, *args, rounds=epochs, **settings)
        if not isinstance(loss, ISogCLR) or loss.temperature.shared:
            raise ValueError(f"the sphere needs an ISogCLR with a temperature per sample, got {loss}")
        self.sphere = Sphere(self.seed, n_max=n_max, ratio=ratio, noise=noise)
        if self.batch_size < 2 or len(self.sphere) % self.batch_size == 1:
            raise ValueError(
                f"a mini-batch would have one sample and no negatives: change batch_size={self.batch_size}"
            )
        loss.allocate(len(self.sphere))

    @property
    def states(self) -> ISogCLR:
        """The loss, whose buffers are all that training changes."""
        assert isinstance(self.loss, ISogCLR)
        return self.loss

    @torch.no_grad()
    def play(self, rounds: Tensor) -> Tensor:
        """Epochs; returns the mean loss of each."""
        values = []
        for number in rounds.tolist():
            batches = self.sphere.epoch(number, self.batch_size)
            losses = [self.states(*(part.to(self.device) for part in batch)) for batch in batches]
            values.append(torch.cat(losses).mean())
        return torch.stack(values)

    def results(self) -> dict[str, float]:
        """What tau became."""
        means = class_means(self.states.tau, self.sphere.y.numpy())
        found = {"tau/spearman": size_correlation(self.sphere.sizes, means)}
        found |= {"tau/mean": float(self.states.tau.mean()), "tau/head": means[0], "tau/tail": means[-1]}
        return found | {f"tau/class_{k}": mean for k, mean in enumerate(means)}

    def extras(self) -> dict[str, Any]:
        """Boxes of tau for the figure."""
        return {"sizes": self.sphere.sizes, "tau": boxes(self.states.tau, self.sphere.y.numpy())}
