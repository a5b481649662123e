"""The log-linear study: one run is an arm and a seed, its units are every dimension, sample size and flip rate."""

from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor

from lossatlas.lit import LitModule
from lossatlas.papers.rdpo.loglinear import draw, measures, minimise, objective
from lossatlas.papers.rdpo.losses import DPO


class LogLinear(LitModule):
    """Minimises one arm's loss for every d and n (a round each), all flip rates at once.

    Metrics of unit 0 at each condition (d, n, eps, assumed): error, gap, greedy_gap, norm and, where the assumed rate
    is the true one, noise_factor = error(eps) (1 - 2 eps) / error(0).

    Args:
        loss: partial of DPO, CDPO or RDPO, called with the assumed rate as `eps`.
        dims, sizes: d and n; the pairs of a smaller n are the first of a larger one.
        rates: true flip rates, known to the loss.
        wrong: [true, assumed] rates, measured at the largest n only.
        norm: |theta*|. radius: of the ball the solver stays in. prompts, actions: of the problem.
        iterations: of the solver.

    Raises:
        ValueError: a rate outside [0, 1/2), an empty list, a size out of range, or a loss that is not convex.
    """

    def __init__(
        self,
        data: None = None,
        net: None = None,
        loss: Callable[..., DPO] | None = None,
        optimizer: None = None,
        schedule: None = None,
        *,
        dims: Sequence[int] = (5, 20),
        sizes: Sequence[int] = (1024, 32768),
        rates: Sequence[float] = (0.0, 0.4),
        wrong: Sequence[Sequence[float]] = (),
        norm: float = 0.5,
        radius: float = 1.0,
        prompts: int = 200,
        actions: int = 10,
        iterations: int = 60,
        **settings: Any,
    ) -> None:
        if not (dims and sizes and rates):
            raise ValueError(
                f"dims, sizes and rates need at least one value, got {dims=}, {sizes=}, {rates=}"
            )
        super().__init__(None, rounds=len(dims) * len(sizes), **settings)
        self.true = [float(r) for r in rates] + [float(pair[0]) for pair in wrong]
        self.assumed = [float(r) for r in rates] + [float(pair[1]) for pair in wrong]
        self.right = len(rates)
        if not all(0 <= eps < 0.5 for eps in self.true):
            raise ValueError(f"flip rates lie in [0, 1/2), got {self.true}: at 1/2 labels say nothing")
        made = [loss(beta=1.0, eps=eps) for eps in self.assumed] if loss is not None else []
        if not made or not all(isinstance(one, DPO) for one in made):
            raise ValueError(f"the solver takes partials of DPO, CDPO and RDPO (convex), got {loss}")
        self.tilt = torch.tensor([one.tilt for one in made], dtype=torch.float64)
        self.dims, self.sizes = [int(d) for d in dims], [int(n) for n in sizes]
        self.problem = {"norm": norm, "prompts": prompts, "actions": actions, "pairs": max(self.sizes)}
        self.solver = {"radius": radius, "iterations": iterations}
        draw(0, min(self.dims), min(self.sizes), norm, 1, actions)  # refuses sizes before the first round
        shape = (self.rounds, len(self.true), max(self.dims))
        self.register_buffer("theta", torch.zeros(shape, dtype=torch.float64))
        self.theta: Tensor

    def cell(self, round_: int) -> tuple[int, int]:
        """d and n of a round."""
        return self.dims[round_ // len(self.sizes)], self.sizes[round_ % len(self.sizes)]

    def play(self, rounds: Tensor) -> Tensor:
        """Solves (d, n) cells; returns the mean final loss over flip rates of each."""
        values = []
        for k in rounds.tolist():
            d, n = self.cell(k)
            problem = draw(self.seed, d, n, **self.problem)
            given = problem.given(torch.tensor(self.true, dtype=torch.float64))
            theta = minimise(problem.x, given, self.tilt, **self.solver)
            self.theta[k, :, :d] = theta.to(self.theta.device)
            values.append(objective(theta, problem.x, given, self.tilt).mean())
        return torch.stack(values)

    def unit_metrics(self) -> list[dict[str, Any]]:
        """One entry per condition, all of unit 0, so that arms and conditions pair by seed."""
        return [entry for k in range(self.rounds) for entry in self._entries(k)]

    def _entries(self, round_: int) -> list[dict[str, Any]]:
        d, n = self.cell(round_)
        problem = draw(self.seed, d, 1, **self.problem)  # the measures need no pairs
        found = measures(self.theta[round_, :, :d].cpu(), problem)
        conditions = len(self.true) if n == max(self.sizes) else self.right
        entries = []
        for c in range(conditions):
            metrics = {name: float(values[c]) for name, values in found.items()}
            if c < self.right and 0.0 in self.true[: self.right]:
                clean = float(found["error"][self.true.index(0.0)])
                metrics["noise_factor"] = metrics["error"] * (1 - 2 * self.true[c]) / clean
            assumed = "right" if c < self.right else str(self.assumed[c])
            condition = {"d": d, "n": n, "eps": self.true[c], "assumed": assumed}
            entries.append({"unit": 0, "condition": condition, "metrics": metrics})
        return entries

    def results(self) -> dict[str, float]:
        """Gap, error and greedy gap at the first d, the largest n and the largest known rate."""
        at = {
            "d": self.dims[0],
            "n": max(self.sizes),
            "eps": max(self.true[: self.right]),
            "assumed": "right",
        }
        (found,) = [e["metrics"] for e in self.unit_metrics() if e["condition"] == at]
        return {f"test/{name}": found[name] for name in ("gap", "error", "greedy_gap")}
