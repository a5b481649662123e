"""The study: maximum likelihood from samples of growing size, all repetitions of an arm at once."""

import math
from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor

from lossatlas.cells import Cell, CellStudy, draws
from lossatlas.papers.topk_moe.em import FLOOR, fit
from lossatlas.papers.topk_moe.losses import hellinger, voronoi_errors
from lossatlas.papers.topk_moe.model import Experts, check_kept, sample

double = torch.float64


class Rates(CellStudy):
    """One arm at several sample sizes; the sample of a size is the first part of a larger one's.

    Metrics of a seed, under test/: hellinger, the distance to the truth averaged over x; those of `voronoi_errors`;
    log_likelihood, a point; rounds used; floored, experts whose deviation is at its floor. With `also` the same again
    after fewer rounds, as <name>_<rounds>.

    Args:
        truth: b0, b1, a, c, s, lists of k* numbers each, and K, the logits that its gate keeps.
        fitted: k and K of the arm; k >= k*.
        sizes: sample sizes n, each >= 2.
        most: rounds of EM, >= 0; 0 measures the start.
        also: numbers of rounds after which to measure as well.
        noise: deviations of the start's noise, of b (b0 and b1), of a and c, and of s.
        settings: of `CellStudy`.

    Raises:
        ValueError: an argument out of range.
    """

    def __init__(
        self,
        data: None = None,
        *,
        truth: Mapping[str, Any],
        fitted: Mapping[str, int],
        sizes: Sequence[int],
        most: int = 100,
        also: Sequence[int] = (),
        noise: Mapping[str, float] | None = None,
        **settings: Any,
    ) -> None:
        super().__init__(data, **settings)
        self.truth = Experts(
            *(torch.tensor([list(truth[name])], dtype=double) for name in ("b0", "b1", "a", "c", "s"))
        )
        self.K_true, self.k, self.K = int(truth["K"]), int(fitted["k"]), int(fitted["K"])
        check_kept(self.K_true, self.truth.b0.shape[1])
        check_kept(self.K, self.k)
        if self.k < self.truth.b0.shape[1]:
            raise ValueError(
                f"an arm needs at least the {self.truth.b0.shape[1]} true experts, got k = {self.k}"
            )
        if not sizes or min(sizes) < 2 or sorted(set(sizes)) != list(sizes) or most < 0:
            raise ValueError(f"sizes must increase from >= 2, most >= 0, got {list(sizes)}, {most}")
        self.sizes, self.most, self.also = list(sizes), most, tuple(also)
        self.noise = {"b": 0.2, "experts": 0.1, "s": 0.03, **(noise or {})}

    def solve(self, cell: Cell, seeds: list[int]) -> list[tuple[Cell, dict[str, Tensor]]]:
        """All sizes, one fit each for all seeds."""
        R, largest = len(seeds), self.sizes[-1]
        true = Experts(*(part.expand(R, -1) for part in self.truth.parts()))
        x, uniform = (
            draws(seeds, f"topk_moe/{name}", lambda g: torch.rand(largest, generator=g, dtype=double))
            for name in ("x", "chosen")
        )
        normal = draws(seeds, "topk_moe/noise", lambda g: torch.randn(largest, generator=g, dtype=double))
        y = sample(true, x, uniform, normal, self.K_true)
        start = self.start(seeds)
        answers = []
        for n in self.sizes:
            if self.most == 0:
                found = self.measured(start, true)
            else:
                fitted = fit(x[:, :n], y[:, :n], start, self.K, self.most, also=self.also)
                found = self.measured(fitted.experts, true)
                found |= {"log_likelihood": fitted.log_likelihood, "rounds": fitted.rounds.to(double)}
                for t, experts in fitted.earlier.items():
                    earlier = self.measured(experts, true)
                    found |= {f"{name}_{t}": earlier[name] for name in ("hellinger", "last", "experts")}
            answers.append(({"n": n}, found))
        return answers

    def start(self, seeds: Sequence[int]) -> Experts:
        """The truth with its last expert copied up to k of them, and noise."""
        extra = self.k - self.truth.b0.shape[1]
        b0, b1, a, c, s = (
            torch.cat([part, part[:, -1:].expand(1, extra)], 1).expand(len(seeds), -1)
            for part in self.truth.parts()
        )
        share = torch.zeros_like(b0)
        share[:, -1 - extra :] = math.log(1 + extra)
        drawn = draws(seeds, "topk_moe/start", lambda g: torch.randn(5, self.k, generator=g, dtype=double))
        scale = [self.noise[name] for name in ("b", "b", "experts", "experts", "s")]
        noise = [size * drawn[:, i] for i, size in enumerate(scale)]
        parts = zip((b0 - share, b1, a, c, s), noise, strict=True)
        b0, b1, a, c, s = (part + error for part, error in parts)
        return Experts(b0, b1, a, c, s.abs().clamp(min=FLOOR))

    def measured(self, experts: Experts, true: Experts) -> dict[str, Tensor]:
        """Distance and errors of fitted experts."""
        errors = voronoi_errors(experts, true)
        return {
            "hellinger": hellinger(experts, self.K, true, self.K_true),
            **errors,
            "floored": (experts.s <= FLOOR).sum(1).to(double),
        }
