"""The polynomial study: all networks (alpha, e, seed) of one P trained as one batch, measured at log-spaced steps."""

import math
from collections.abc import Sequence
from typing import Any, Self

import numpy as np
import torch
from torch import Tensor

from lossatlas.papers.grokking.kernel import alignment, combine, flow_until, kernel, min_norm
from lossatlas.papers.grokking.network import check_laziness, descend, draw, gaussian_error, moments, output
from lossatlas.stacked.rounds import Rounds

CURVES = ("train", "test", "mean_weight", "target_weight", "square_weight", "cka", "kernel_distance")
SHOWN = {"train": 4, "test": 4, "mean_weight": 4, "target_weight": 4}  # of extras, significant digits
MOVED = ("W", "alpha", "e", "curves", "losses_sum", "diverged")  # what a checkpoint has to hold


class LitPoly(Rounds):
    """Gradient descent on eq. 2 for `rounds` steps; a round is a step.

    Curves (at step 0, every factor-th step, the last one): train and test, mean (f - y)^2; mean_weight |dw|;
    target_weight b'Mb; square_weight tr M; cka, of the kernel on the training points with y y'; kernel_distance
    ||K_t - K_0|| / ||K_0||.

    Metrics under test/: t_train and t_test (first measured step with training loss below `fitted`, test loss below
    `general` of its start; infinite = never), delay (t_test - t_train), gap (log10 of their ratio), final and lowest
    (test loss over its start), train (final, over its start), over_flow (test loss at t_train over that of the
    initial kernel's gradient flow stopped at the same training loss), over_kernel (final test loss over that of the
    initial kernel's minimum-norm regression), growth (square_weight, end over start), cka, kernel_distance.

    Args:
        alpha: output scale, > 0; e: quadratic part, >= 0. Larger alpha e: lazier.
        D, N, P: input dimension, width, training points, >= 1.
        eta: learning rate without its factor N, > 0; .2 is unstable at e = 1.
        rounds: steps, >= 1.
        factor: between measured steps, > 1.
        fitted, general: in (0, 1).
        dtype: float32 or float64, of the descent; what is measured is computed in float64.

    Shapes:
        state is (R, ...) in buffers, R = 1 as built; `stack` concatenates.

    Raises:
        ValueError: an argument out of range.
    """

    W: Tensor
    X: Tensor
    y: Tensor
    b: Tensor
    w_0: Tensor
    M_0: Tensor
    alpha: Tensor
    e: Tensor
    curves: Tensor

    # numbers of a replica's own, in buffers: runs that differ in them are one batch
    stacked_scalars = ("alpha", "e")

    def __init__(
        self,
        data: None = None,
        *args: Any,
        alpha: float = 1.0,
        e: float = 0.25,
        D: int = 25,
        N: int = 100,
        P: int = 125,
        eta: float = 0.2,
        rounds: int = 20000,
        factor: float = 1.08,
        fitted: float = 0.1,
        general: float = 0.2,
        dtype: str = "float32",
        **settings: Any,
    ) -> None:
        from lossatlas.claims.curves import log_steps  # not at the top: pandas comes with it

        check_laziness(alpha, e)
        if not (0 < eta < math.inf and 0 < fitted < 1 and 0 < general < 1 and rounds >= 1):
            raise ValueError(
                f"needs eta > 0, fitted and general in (0, 1), rounds >= 1, got {eta=}, {fitted=}, {general=},"
                f" {rounds=}"
            )
        super().__init__(None, *args, rounds=rounds, **settings)
        self.sizes, self.eta, self.levels, self.kind = (
            (D, N, P),
            eta,
            (fitted, general),
            getattr(torch, dtype),
        )
        self.steps = log_steps(rounds, factor)
        for name, value in self._state(alpha, e).items():
            # drawn from the seed, so that a checkpoint need not hold what never changes
            self.register_buffer(name, value, persistent=name in MOVED)
        self._measure(0)

    def _state(self, alpha: float, e: float) -> dict[str, Tensor]:
        """Everything that one network has of its own."""
        own = draw(self.seed, *self.sizes, self.kind)
        w_0, M_0 = moments(own.W)
        return {
            "W": own.W[None],
            "X": own.X[None],
            "y": own.y[None],
            "b": own.b[None],
            "w_0": w_0[None],
            "M_0": M_0[None],
            "alpha": torch.tensor([alpha], dtype=self.kind),
            "e": torch.tensor([e], dtype=self.kind),
            "curves": torch.full((1, len(self.steps), len(CURVES)), math.nan, dtype=torch.float64),
            "losses_sum": torch.zeros(1, dtype=torch.float64),  # of (f - y)^2 over the steps
            "diverged": torch.zeros(1, dtype=torch.bool),
        }

    # ---------------------------------------------------------------- steps
    @torch.no_grad()
    def play(self, rounds: Tensor) -> Tensor:
        """A chunk of steps; returns mean (f - y)^2 before each, averaged over networks that have not diverged."""
        at, values = {step: k for k, step in enumerate(self.steps)}, []
        for t in rounds.tolist():
            self.W, value = descend(
                self.W, (self.w_0, self.M_0), self.X, self.y, self.alpha, self.e, self.eta
            )
            values.append(value)
            if t + 1 in at:
                self._measure(at[t + 1])
        loss = torch.stack(values)
        self.losses_sum += loss.sum(dim=0, dtype=torch.float64)
        self.diverged |= ~(loss.isfinite().all(dim=0) & self.W.isfinite().all(dim=2).all(dim=1))
        if len(self.alpha) == 1 or bool(self.diverged.all()):
            return torch.where(self.diverged, math.nan, loss)[:, 0]
        return loss[:, ~self.diverged].mean(dim=1)

    @torch.no_grad()
    def _measure(self, k: int) -> None:
        """Row k of the curves, in float64: losses are differences of moments."""
        W, X, y, b, w_0, M_0, alpha, e = self._double()
        w, M = moments(W)
        dw, dM = w - w_0, M - M_0
        f = output(W, (w_0, M_0), X, alpha, e)
        K, K_0 = kernel(X, X, w, M, e), kernel(X, X, w_0, M_0, e)
        row = {
            "train": (f - y).square().mean(dim=1),
            "test": gaussian_error(alpha[:, None] * dw, (alpha * e / 2)[:, None, None] * dM, b),
            "mean_weight": dw.norm(dim=1),
            "target_weight": (b[:, None] @ M @ b[..., None])[:, 0, 0],
            "square_weight": M.diagonal(dim1=1, dim2=2).sum(dim=1),
            "cka": alignment(K, y),
            "kernel_distance": (K - K_0).flatten(1).norm(dim=1) / K_0.flatten(1).norm(dim=1),
        }
        self.curves[:, k] = torch.stack([row[name] for name in CURVES], dim=1)

    def _double(self) -> list[Tensor]:
        own = (self.W, self.X, self.y, self.b, self.w_0, self.M_0, self.alpha, self.e)
        return [value.double() for value in own]

    # ---------------------------------------------------------------- replicas
    @classmethod
    def stack(cls, replicas: Sequence[Self], scalars: Any = None) -> Self:
        """One module whose networks are those of the single ones, in order; alpha, e and seed may differ.

        Raises:
            ValueError: modules of other sizes, steps, thresholds or learning rate.
        """
        alike = ("sizes", "eta", "levels", "kind", "steps")
        if any(getattr(other, name) != getattr(replicas[0], name) for other in replicas for name in alike):
            raise ValueError("stacked networks need the same D, N, P, eta and steps: stack them apart")
        return super().stack(replicas)

    def replica(self, i: int) -> dict[str, Any]:
        """What a run of network i alone would leave: error, metrics, rows of its curves, units, extras."""
        curves = self.curves[i].cpu().numpy()
        rows = [
            {"step": float(t), **dict(zip(CURVES, row, strict=True))}
            for t, row in zip(self.steps, curves.tolist(), strict=True)
        ]
        left = {"error": None, "metrics": {}, "rows": rows, "units": [], "extras": {}}
        if bool(self.diverged[i]):
            return left | {"error": "Diverged: the loss became NaN or infinite"}
        shown = np.arange(len(self.steps))[::3]  # a factor 1.26: enough for a figure
        curve = {
            name: [_rounded(v, SHOWN[name]) for v in curves[shown, CURVES.index(name)]] for name in SHOWN
        }
        extras = {"curve": {"t": [self.steps[k] for k in shown], **curve}}
        return left | {
            "metrics": {
                "train/loss": float(self.losses_sum[i]) / self.rounds,
                **self._metrics(i, dict(zip(CURVES, curves.T, strict=True))),
            },
            "extras": extras,
        }

    def _metrics(self, i: int, curve: dict[str, np.ndarray]) -> dict[str, float]:
        from lossatlas.claims.curves import first_passage

        train, test = (curve[name] / curve[name][0] for name in ("train", "test"))
        t_train, t_test = (
            float(first_passage(self.steps, y, level))
            for y, level in zip((train, test), self.levels, strict=True)
        )
        both = max(t_train, t_test) < math.inf
        found = {
            "t_train": t_train,
            "t_test": t_test,
            "delay": t_test - t_train if both else math.inf,
            "gap": math.log10(t_test / t_train) if both else math.inf,
            "final": test[-1],
            "lowest": test.min(),
            "train": train[-1],
            "growth": curve["square_weight"][-1] / curve["square_weight"][0],
            "cka": curve["cka"][-1],
            "kernel_distance": curve["kernel_distance"][-1],
        }
        _, X, y, b, w_0, M_0, _, e = (value[i].cpu() for value in self._double())
        K = kernel(X, X, w_0, M_0, e)
        error = float(gaussian_error(*combine(min_norm(K, y), X, w_0, M_0, e), b))
        found["over_kernel"] = curve["test"][-1] / error
        if t_train < math.inf:
            k = self.steps.index(int(t_train))
            flow = combine(flow_until(K, y, float(train[k])), X, w_0, M_0, e)
            found["over_flow"] = curve["test"][k] / float(gaussian_error(*flow, b))
        return {f"test/{name}": float(value) for name, value in found.items()}


def _rounded(value: float, digits: int) -> float:
    return float(f"{value:.{digits}g}")
