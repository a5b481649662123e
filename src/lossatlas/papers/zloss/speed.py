"""The speed study: time and memory of one training step of an output layer over D words."""

import resource
import statistics
import time
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn

from lossatlas.lit import LitModule
from lossatlas.papers.zloss.heads import FactoredHead
from lossatlas.papers.zloss.losses import Spherical
from lossatlas.papers.zloss.output import SphericalOutput
from lossatlas.seeding import stream

LEAST = 3  # steps of a repetition, however long they take


class LitSpeed(LitModule):
    """Each round is one repetition: the median time of some training steps of the layer, h's gradient included.

    Metrics per repetition (unit): time/step_ms. Per run: memory/layer_mb, what layer and steps took at their peak
    (resident memory over that of the process before, host only, with some tens of MB of the trainer's own); for
    the factored layer time/refresh_ms, one refresh, and time/amortised_ms, its share of a step;
    exact/weight_error, see `exactness`.

    Args:
        layer: called as layer(d=, D=): a head of heads.py.
        D: words.
        d: width of h.
        batch: samples of a step; targets follow Zipf's law 1/k over the D words.
        steps: timed steps of a repetition at most; one warm-up step before the first.
        budget: seconds after which a repetition ends, though not before 3 steps.
        rounds: repetitions.
        lr: learning rate; small, so that the layer stays where it is.

    Raises:
        ValueError: too few classes for the loss.
    """

    def __init__(
        self,
        data: None = None,
        net: None = None,
        loss: None = None,
        optimizer: None = None,
        schedule: None = None,
        *,
        layer: Callable[..., nn.Module],
        D: int,
        d: int = 256,
        batch: int = 100,
        steps: int = 20,
        budget: float = 10.0,
        rounds: int = 10,
        lr: float = 1e-2,
        **settings: Any,
    ) -> None:
        super().__init__(None, rounds=rounds, **settings)
        self.before = resident_mb("VmRSS")
        self.D, self.d, self.batch, self.steps, self.lr = D, d, batch, steps, lr
        self.budget = budget
        # the layer is no state of the study and may take gigabytes: it stays out of checkpoints
        self.strict_loading = False
        self.head: Any = layer(d=d, D=D)
        self.register_buffer("times", torch.full((rounds,), torch.nan, dtype=torch.float64))
        self.times: Tensor

    def play(self, rounds: Tensor) -> Tensor:
        """Times a chunk of repetitions; their medians in ms."""
        parameters = list(self.head.parameters())
        # foreach=False: one tensor at a time, as little memory as can be
        optimizer = torch.optim.SGD(parameters, lr=self.lr, foreach=False) if parameters else None
        for r in rounds.tolist():
            if r == rounds[0]:
                self.timed(r, self.steps, optimizer)
            found: list[float] = []
            while len(found) < self.steps and (len(found) < LEAST or sum(found) < self.budget):
                found.append(self.timed(r, len(found), optimizer))
            self.times[r] = 1e3 * statistics.median(found)
        return self.times[rounds]

    def timed(self, r: int, position: int, optimizer: torch.optim.Optimizer | None) -> float:
        """Seconds of one step."""
        h, y = self.draw(r, position)
        start = time.perf_counter()
        self.one_step(h, y, optimizer)
        return time.perf_counter() - start

    def draw(self, r: int, position: int) -> tuple[Tensor, Tensor]:
        """h (batch, d) standard normal with a gradient, y (batch,) from Zipf's law: P(k) ~ 1/(k + 1)."""
        generator = stream(self.seed, f"speed/{r}/{position}")
        h = torch.randn(self.batch, self.d, generator=generator).to(self.device).requires_grad_()
        y = zipf(torch.rand(self.batch, generator=generator, dtype=torch.float64), self.D)
        return h, y.to(self.device)

    def one_step(self, h: Tensor, y: Tensor, optimizer: torch.optim.Optimizer | None) -> None:
        """Forward, gradients of h and of the layer, the layer's SGD step."""
        if optimizer is not None:
            optimizer.zero_grad()
        with torch.enable_grad():
            self.head.losses(h, y, self.lr).mean().backward()
        if optimizer is not None:
            optimizer.step()
        if h.device.type == "cuda":
            torch.cuda.synchronize(h.device)

    def on_save_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """Times only; a resumed run goes on with a layer made anew."""
        kept = {k: v for k, v in checkpoint["state_dict"].items() if not k.startswith("head.")}
        checkpoint["state_dict"] = kept

    def results(self) -> dict[str, float]:
        """Memory, and what the refresh costs."""
        found = {"memory/layer_mb": max(resident_mb("VmHWM") - self.before, 0.0)}
        if isinstance(self.head, FactoredHead):
            start = time.perf_counter()
            self.head.output.refresh()
            found["time/refresh_ms"] = 1e3 * (time.perf_counter() - start)
            found["time/amortised_ms"] = found["time/refresh_ms"] / self.head.output.recompute_every
            with torch.inference_mode(
                False
            ):  # Lightning tests in inference mode, where no gradient is to be had
                found["exact/weight_error"] = exactness(self.head.output.of_loss)
        return found

    def unit_metrics(self) -> list[dict[str, Any]]:
        """One time per repetition."""
        return [{"unit": r, "metrics": {"time/step_ms": t}} for r, t in enumerate(self.times.tolist())]


def exactness(loss: Spherical, D: int = 300, d: int = 16, batch: int = 16, steps: int = 200) -> float:
    """Largest difference of W between factored and dense SGD steps, float64, relative to the largest entry of W.

    The first two samples of every batch share their class.
    """
    g = torch.Generator().manual_seed(0)
    output = SphericalOutput(d, D, loss, dtype=torch.float64)
    W, lr = output.weight.requires_grad_(), 5.0
    for _ in range(steps):
        h, y = (
            torch.randn(batch, d, dtype=torch.float64, generator=g),
            torch.randint(D, (batch,), generator=g),
        )
        y[1] = y[0]
        with torch.enable_grad():
            (step,) = torch.autograd.grad(loss(h @ W.T, y).mean(), W)  # type: ignore[operator]
        W = (W - lr * step).detach().requires_grad_()
        output.update(h, y, lr)
    W = W.detach()
    return float((output.weight - W).abs().max() / W.abs().max())


def zipf(u: Tensor, D: int) -> Tensor:
    """Word numbers in [0, D) with P(k) ~ 1/(k + 1), from uniform u in [0, 1), by the inverse of the sum."""
    mass = torch.arange(1, D + 1, dtype=torch.float64).reciprocal_().cumsum_(0)
    return torch.searchsorted(mass, u * mass[-1], right=True).clamp_(max=D - 1)


def resident_mb(which: str) -> float:
    """VmRSS (now) or VmHWM (peak) of this process in MB; outside Linux the peak since its start."""
    try:
        with open("/proc/self/status") as handle:
            return next(int(line.split()[1]) / 1024 for line in handle if line.startswith(which))
    except (OSError, StopIteration):
        return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
