"""The mechanism without any network: a Gaussian student of a two-humped teacher, scores and ratio exact."""

import math
from collections.abc import Sequence
from typing import Any, Self

import torch
from torch import Tensor, nn

from lossatlas.diffusion import Mixture, log_uniform, merge_replicas
from lossatlas.diffusion.levels import check_range
from lossatlas.lit import LitModule
from lossatlas.papers.f_distill.divergences import Divergence
from lossatlas.papers.f_distill.losses import check_weight, generator_loss, update_weight
from lossatlas.papers.f_distill.moments import add_moments, log_second_moment
from lossatlas.seeding import stream

SHARED = ("teacher", "loss_sum")
EVERY = 10  # steps between points of the curve


class LitGauss(LitModule):
    """Student N(m, s^2) on `rounds` steps of eq. 1; a round is a step.

    Metrics under test/: m, s; second_moment, log E[h^2 |ds|^2] / (E[h]^2 E[|ds|^2]) over the last `measured` steps;
    update, E[h |ds|] / E[|ds|] there with the normalised h.

    Args:
        divergence: of the arm.
        sigma: lowest and highest noise level. clip, normalise: see `update_weight`.
        lr: of Adam on (m, log s). rounds: steps, >= 1. measured: last steps that the second moment looks at.
        dtype: float64 or float32.

    Shapes:
        m and log_s (R,), R = 1 as built; `stack` concatenates.

    Raises:
        ValueError: an argument out of range.
    """

    replica_seed: Tensor
    moments: Tensor
    curve: Tensor
    losses_sum: Tensor
    diverged: Tensor

    def __init__(
        self,
        data: None = None,
        *args: Any,
        divergence: Divergence,
        means: Sequence[float] = (-1.5, 1.5),
        weights: Sequence[float] = (0.6, 0.4),
        sd: float = 0.5,
        sigma: Sequence[float] = (0.05, 0.5),
        clip: float = 6.0,
        normalise: str = "mean",
        lr: float = 0.05,
        rounds: int = 400,
        measured: int = 200,
        dtype: str = "float64",
        **settings: Any,
    ) -> None:
        check_range(*sigma)
        check_weight(clip, normalise)
        if rounds < 1 or measured < 1 or not 0 < lr < math.inf:
            raise ValueError(f"needs rounds, measured >= 1 and lr > 0, got {rounds=}, {measured=}, {lr=}")
        super().__init__(None, *args, rounds=rounds, **settings)
        self.divergence, self.sigma, self.clip, self.normalise = divergence, tuple(sigma), clip, normalise
        self.lr, self.measured, self.kind = lr, measured, getattr(torch, dtype)
        self.teacher = Mixture([[m] for m in means], weights, sd, self.kind)
        start = torch.randn(1, generator=stream(self.seed, "f_distill/student"), dtype=torch.float64)
        self.m = nn.Parameter(start.to(self.kind))
        self.log_s = nn.Parameter(torch.zeros(1, dtype=self.kind))
        for name, value in {
            "replica_seed": torch.tensor([self.seed]),
            "moments": torch.zeros(1, 4, dtype=torch.float64),
            "curve": torch.zeros(1, rounds // EVERY + 1, 2, dtype=torch.float64),
            "losses_sum": torch.zeros(1, dtype=torch.float64),
            "diverged": torch.zeros(1, dtype=torch.bool),
        }.items():
            self.register_buffer(name, value)
        self._adam: torch.optim.Adam | None = None

    def configure_optimizers(self) -> Any:
        """Adam on m and log s."""
        self._adam = torch.optim.Adam([self.m, self.log_s], lr=self.lr)
        return self._adam

    # ---------------------------------------------------------------- steps
    def play(self, rounds: Tensor) -> Tensor:
        """A chunk of steps; returns E[|h w (score_p - score_q)|^2] of each, averaged over what has not diverged."""
        if self._adam is None:
            self.configure_optimizers()
        values = []
        for t in rounds.tolist():
            if t % EVERY == 0:
                self._note(t)
            values.append(self.descend_once(t))
        self._note(int(rounds[-1]) + 1)
        loss = torch.stack(values)
        self.losses_sum += loss.sum(dim=0, dtype=torch.float64)
        self.diverged |= ~loss.isfinite().all(dim=0)
        fine = ~self.diverged
        return loss[:, fine].mean(dim=1) if bool(fine.any()) else loss[:, 0]

    def draws(self, t: int) -> tuple[Tensor, Tensor, Tensor]:
        """z, noise e and noise level of step t, (R, b) each: of the replica's seed alone, the same for every arm."""
        normals, uniforms = [], []
        for seed in self.replica_seed.tolist():
            rng = stream(seed, f"f_distill/step/{t}")
            normals.append(torch.randn(2, self.batch_size, generator=rng, dtype=torch.float64))
            uniforms.append(torch.rand(self.batch_size, generator=rng, dtype=torch.float64))
        z, e = torch.stack(normals, dim=1).to(self.m)
        return z, e, log_uniform(torch.stack(uniforms).to(self.m), *self.sigma)

    def descend_once(self, t: int) -> Tensor:
        """One step of eq. 1 on (m, log s): exact noised scores and ratio, then Adam."""
        z, e, sigma = self.draws(t)
        m, s = self.m[:, None], self.log_s.exp()[:, None]
        x = m + s * z
        with torch.no_grad():
            x_t, at = (x + sigma * e)[..., None], sigma[..., None]
            variance = s.square() + sigma.square()
            score_q = (m - x_t[..., 0]) / variance
            log_q = -(x_t[..., 0] - m).square() / variance / 2 - torch.log(2 * math.pi * variance) / 2
            log_r = self.teacher.log_density(x_t, at) - log_q
            difference = sigma.square() * (self.teacher.score(x_t, at)[..., 0] - score_q)  # w = sigma^2
            h, weight = update_weight(self.divergence, log_r, self.clip, self.normalise, difference.abs())
            if t >= self.rounds - self.measured:
                add_moments(self.moments, h, weight, difference[..., None])
        loss = generator_loss(x[..., None], difference[..., None], weight).mean(dim=1)
        adam = self._adam
        assert adam is not None
        self.m.grad, self.log_s.grad = torch.autograd.grad(loss.sum(), [self.m, self.log_s])
        adam.step()
        return (weight * difference).square().mean(dim=1)

    @torch.no_grad()
    def _note(self, t: int) -> None:
        if t % EVERY == 0:
            self.curve[:, t // EVERY] = torch.stack([self.m, self.log_s.exp()], dim=1)

    # ---------------------------------------------------------------- replicas
    @property
    def can_stack(self) -> bool:
        """Its steps are vectorised over replicas: `stack`."""
        return True

    @classmethod
    def stack(cls, replicas: Sequence[Self], scalars: Any = None) -> Self:
        """One module with the replicas' students, in order."""
        return merge_replicas(replicas, SHARED)

    def replica(self, i: int) -> dict[str, Any]:
        """What a run of replica i alone would leave: error, metrics, rows of its curves, units, extras."""
        curve = self.curve[i].tolist()
        rows = [{"step": float(EVERY * k), "m": m, "s": s} for k, (m, s) in enumerate(curve)]
        left = {"error": None, "metrics": {}, "rows": rows, "units": [], "extras": {}}
        if bool(self.diverged[i]):
            return left | {"error": "Diverged: the update became NaN or infinite"}
        metrics = {
            "train/loss": float(self.losses_sum[i]) / self.rounds,
            "test/m": self.m[i].item(),
            "test/s": self.log_s[i].exp().item(),
            **log_second_moment(self.moments[i], min(self.measured, self.rounds)),
        }
        return left | {"metrics": metrics}

    def results(self) -> dict[str, float]:
        """Metrics of the first replica; train/loss is logged by the training."""
        return {name: v for name, v in self.replica(0)["metrics"].items() if name.startswith("test/")}

    def curve_rows(self) -> list[dict[str, float]]:
        """m and s at every tenth step, of the first replica."""
        return self.replica(0)["rows"]
