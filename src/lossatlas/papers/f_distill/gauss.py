"""The mechanism without any network: a Gaussian student of a two-humped teacher, scores and ratio exact."""

import math
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn

from lossatlas.diffusion import Mixture, log_uniform
from lossatlas.diffusion.levels import check_range
from lossatlas.papers.f_distill.divergences import Divergence
from lossatlas.papers.f_distill.losses import check_weight, generator_loss, update_weight
from lossatlas.papers.f_distill.moments import add_moments, log_second_moment
from lossatlas.papers.f_distill.replicas import LitReplicas
from lossatlas.seeding import stream

EVERY = 10  # steps between points of the curve


class LitGauss(LitReplicas):
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

    shared = ("teacher", "loss_sum")
    every = EVERY

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
        self.start(torch.zeros(1, rounds // EVERY + 1, 2, dtype=torch.float64))

    def configure_optimizers(self) -> Any:
        """Adam on m and log s."""
        self._adams = [torch.optim.Adam([self.m, self.log_s], lr=self.lr)]
        return self._adams[0]

    # ---------------------------------------------------------------- steps
    def draws(self, t: int) -> tuple[Tensor, Tensor, Tensor]:
        """z, noise e and noise level of step t, (R, b) each: of the replica's seed alone, the same for every arm."""
        normals, uniforms = [], []
        for seed in self.replica_seed.tolist():
            rng = stream(seed, f"f_distill/step/{t}")
            normals.append(torch.randn(2, self.batch_size, generator=rng, dtype=torch.float64))
            uniforms.append(torch.rand(self.batch_size, generator=rng, dtype=torch.float64))
        z, e = torch.stack(normals, dim=1).to(self.m)
        return z, e, log_uniform(torch.stack(uniforms).to(self.m), *self.sigma)

    def one_step(self, t: int) -> Tensor:
        """Eq. 1 on (m, log s): exact noised scores and ratio, then Adam. Returns E[|h w (score_p - score_q)|^2]."""
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
        self.m.grad, self.log_s.grad = torch.autograd.grad(loss.sum(), [self.m, self.log_s])
        self._adams[0].step()
        return (weight * difference).square().mean(dim=1)

    @torch.no_grad()
    def note(self, point: int) -> None:
        """m and s."""
        self.curve[:, point] = torch.stack([self.m, self.log_s.exp()], dim=1)

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
