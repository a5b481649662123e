"""The paper's algorithm with everything learned: fake score, discriminator and one-step generator in turn."""

import math
from collections.abc import Sequence
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn
from torch.func import functional_call

from lossatlas.diffusion import log_uniform, score_matching_loss
from lossatlas.diffusion.levels import check_range
from lossatlas.papers.f_distill.divergences import Divergence
from lossatlas.papers.f_distill.losses import (
    check_settings,
    check_weight,
    generator_loss,
    logistic_loss,
    saturation_free_loss,
    update_weight,
)
from lossatlas.papers.f_distill.moments import add_moments, log_second_moment
from lossatlas.papers.f_distill.replicas import LitReplicas
from lossatlas.seeding import stream
from lossatlas.stacked.optim import clip_each


class Draw(NamedTuple):
    """Random numbers of one mini-batch: z (R, b, d_z), noise level (R, b, 1), noise e (R, b, d)."""

    z: Tensor
    sigma: Tensor
    e: Tensor


class LitDistill(LitReplicas):
    """`rounds` steps of the algorithm; a round is one step of the generator.

    Metrics under test/: the task's; second_moment, log E[h^2 |ds|^2] / (E[h]^2 E[|ds|^2]) over the last `measured`
    steps; update, the ratio of mean updates there. The task's metrics are measured every `eval_steps` steps, too.

    Args:
        data: images for a `task` that is a partial; None for one that brings its own.
        divergence: of the arm.
        task: teacher, data, networks and metrics: `Points` or `Digits`.
        sigma: lowest and highest noise level. clip, normalise: see `update_weight`. bins: of log sigma, for its means.
        weighting: sigma2: w = sigma^2; dmd: divided by the sample's mean |G(z) - teacher's denoised|, as DMD does.
        ratio: learned, or oracle: the teacher's density over the mean of 1024 kernels around student samples.
        n_fake: score steps a generator step, >= 1. lambda_gan: weight of the GAN term, >= 0.
        lr_generator, lr_others, betas: of Adam.

    Shapes:
        networks have a leading axis R, R = 1 as built; `stack` concatenates.

    Raises:
        ValueError: an argument out of range.
    """

    shared = ("task", "loss_sum")

    def __init__(
        self,
        data: Any = None,
        *args: Any,
        divergence: Divergence,
        task: Any,
        sigma: Sequence[float] = (0.1, 1.0),
        clip: float = 4.0,
        normalise: str = "mean",
        bins: int = 1,
        weighting: str = "sigma2",
        ratio: str = "learned",
        n_fake: int = 1,
        lambda_gan: float = 0.0,
        lr_generator: float = 2e-3,
        lr_others: float = 1e-3,
        betas: Sequence[float] = (0.5, 0.9),
        rounds: int = 1200,
        measured: int = 200,
        eval_steps: int = 100,
        **settings: Any,
    ) -> None:
        check_range(*sigma)
        check_weight(clip, normalise)
        check_settings(weighting, ratio, task, data)
        rates = (lr_generator, lr_others, lr_others)
        if min(n_fake, rounds, measured, eval_steps, bins) < 1 or lambda_gan < 0 or min(rates) <= 0:
            raise ValueError(
                "needs n_fake, rounds, measured, eval_steps, bins >= 1, lambda_gan >= 0 and rates > 0, got "
                f"{n_fake=}, {rounds=}, {measured=}, {eval_steps=}, {bins=}, {lambda_gan=}, {lr_generator=}, "
                f"{lr_others=}"
            )
        super().__init__(None, *args, rounds=rounds, **settings)
        task = task if data is None else task(data)
        self.divergence, self.task = divergence, task
        self.sigma, self.clip, self.normalise, self.bins = tuple(sigma), clip, normalise, bins
        self.weighting, self.ratio, self.n_fake, self.lambda_gan = weighting, ratio, n_fake, lambda_gan
        self.rates, self.betas = rates, (betas[0], betas[1])
        self.measured, self.every = measured, eval_steps
        self.generator = task.generator(stream(self.seed, "f_distill/generator"))
        self.fake = task.fake(stream(self.seed, "f_distill/fake"))
        self.discriminator = task.discriminator(stream(self.seed, "f_distill/discriminator"))
        self.names = tuple(task.measure(task.real(task.evaluated, stream(0, "f_distill/names"))))
        shape = (1, rounds // eval_steps + 1, len(self.names))
        self.start(torch.full(shape, math.nan, dtype=torch.float64))

    def configure_optimizers(self) -> Any:
        """Adam on the generator, the fake score and the discriminator."""
        nets = (self.generator, self.fake, self.discriminator)
        self._adams = [
            torch.optim.Adam(net.parameters(), lr=lr, betas=self.betas)
            for net, lr in zip(nets, self.rates, strict=True)
        ]
        return self._adams

    # ---------------------------------------------------------------- the algorithm
    def one_step(self, t: int) -> Tensor:
        """n_fake score steps, a discriminator step, a generator step. Returns the last score loss (R,)."""
        generator_adam, fake_adam, discriminator_adam = self._adams
        *fakes, judged, moved, (real, e_real) = self.draws(t)
        loss = self.losses_sum

        # 1. the fake score follows the student: denoising score matching on its samples
        for z, sigma, e in fakes:
            with torch.no_grad():
                x = self.generator(z)
            loss = score_matching_loss(self.fake, x, sigma, e)
            self.improve(fake_adam, loss)

        # 2. the discriminator tells noised teacher data from noised student samples, at the same noise levels
        z, sigma, e = judged
        with torch.no_grad():
            x = self.generator(z)
        logits = (self.logits(real + sigma * e_real, sigma), self.logits(x + sigma * e, sigma))
        self.improve(discriminator_adam, logistic_loss(*logits))

        # 3. the generator moves along the weighted score difference (eq. 1)
        self.improve(generator_adam, self.generator_losses(moved, t).mean(dim=1))
        return loss.detach()

    def generator_losses(self, draw: Draw, t: int = 0) -> Tensor:
        """(R, b) eq. 1 as a loss, plus the GAN term; no gradient flows into teacher, fake score or discriminator."""
        z, sigma, e = draw
        x = self.generator(z)
        x_t = x + sigma * e
        with torch.no_grad():
            difference = self.difference(x, x_t, sigma)
            log_r = self.logits(x_t, sigma) if self.ratio == "learned" else self.oracle(x_t, sigma, t)
            size, bins = difference.norm(dim=-1), self.binned(sigma)
            h, weight = update_weight(self.divergence, log_r, self.clip, self.normalise, size, bins)
            if t >= self.rounds - self.measured:
                add_moments(self.moments, h, weight, difference)
        loss = generator_loss(x, difference, weight)
        if self.lambda_gan > 0:
            loss = loss + self.lambda_gan * saturation_free_loss(self.logits(x_t, sigma, frozen=True))
        return loss

    def difference(self, x: Tensor, x_t: Tensor, sigma: Tensor) -> Tensor:
        """w (score_p - score_q), (R, b, d): sigma^2 times a score is the denoised point minus the noised one."""
        denoised = self.task.denoise(x_t, sigma)
        difference = denoised - self.fake(x_t, sigma)
        if self.weighting == "dmd":
            return difference / (x - denoised).abs().mean(dim=-1, keepdim=True).clamp(min=1e-3)
        return difference

    def logits(self, x_t: Tensor, sigma: Tensor, frozen: bool = False) -> Tensor:
        """(R, b) logits of the discriminator, log p / q where it is optimal; frozen: its parameters get no gradient."""
        if not frozen:
            return self.discriminator(x_t, sigma)[..., 0]
        held = {name: p.detach() for name, p in self.discriminator.named_parameters()}
        return functional_call(self.discriminator, held, (x_t, sigma))[..., 0]

    def oracle(self, x_t: Tensor, sigma: Tensor, t: int) -> Tensor:
        """(R, b) log p / q with the teacher's own density and the student's from 1024 of its samples."""
        seeds = self.replica_seed.tolist()
        z = [torch.randn(1024, self.task.d_z, generator=stream(s, f"f_distill/oracle/{t}")) for s in seeds]
        apart = torch.cdist(x_t, self.generator(torch.stack(z).to(x_t))).square() / sigma.square() / 2
        scale = math.log(1024) + self.task.d / 2 * torch.log(2 * math.pi * sigma.square())[..., 0]
        return self.task.log_density(x_t, sigma) - (torch.logsumexp(-apart, dim=-1) - scale)

    def binned(self, sigma: Tensor) -> Tensor | None:
        """(R, b) bins of equal width in log sigma; None for one."""
        if self.bins == 1:
            return None
        low, high = map(math.log, self.sigma)
        share = (sigma[..., 0].log() - low) / max(high - low, 1e-12)
        return (share * self.bins).long().clamp(0, self.bins - 1)

    def improve(self, adam: torch.optim.Optimizer, loss: Tensor) -> None:
        """A step of one network's optimiser on the replicas' losses (R,); no other network gets a gradient."""
        params: list[nn.Parameter] = adam.param_groups[0]["params"]
        for p, grad in zip(params, torch.autograd.grad(loss.sum(), params), strict=True):
            p.grad = grad
        if self.gradient_clip is not None:
            clip_each(params, self.gradient_clip)
        adam.step()

    # ---------------------------------------------------------------- draws and rounds
    def draws(self, t: int) -> list[Any]:
        """Draws of the score steps, the discriminator and the generator, then teacher data and its noise.

        Everything follows from a replica's seed and the step alone, so arms see the same numbers.
        """
        d, d_z, b, n = self.task.d, self.task.d_z, self.batch_size, self.n_fake + 2
        like, found = next(self.generator.parameters()), []
        for seed in self.replica_seed.tolist():
            rng = stream(seed, f"f_distill/step/{t}")
            normal = torch.randn(n, b, d_z + d, generator=rng)
            levels = log_uniform(torch.rand(n, b, 1, generator=rng), *self.sigma)
            found.append((normal, levels, self.task.real(b, rng), torch.randn(b, d, generator=rng)))
        normal, levels, real, e_real = (torch.stack(part).to(like) for part in zip(*found, strict=True))
        each = [Draw(normal[:, k, :, :d_z], levels[:, k], normal[:, k, :, d_z:]) for k in range(n)]
        return [*each, (real, e_real)]

    @torch.no_grad()
    def samples(self) -> Tensor:
        """(R, n, d) student samples at z of the task's own, the same for all replicas and steps."""
        z = torch.randn(self.task.evaluated, self.task.d_z, generator=stream(0, "f_distill/evaluation"))
        like = next(self.generator.parameters())
        return self.generator(z.to(like).expand(len(self.replica_seed), -1, -1))

    def note(self, point: int) -> None:
        """The task's metrics of every replica whose samples are finite."""
        for r, x in enumerate(self.samples()):
            if bool(x.isfinite().all()):
                row = self.task.measure(x)
                self.curve[r, point] = torch.tensor([row[name] for name in self.names])

    # ---------------------------------------------------------------- replicas
    def replica(self, i: int) -> dict[str, Any]:
        """What a run of replica i alone would leave: error, metrics, rows of its curves, units, extras."""
        names = ["step", *(f"test/{name}" for name in self.names)]
        points = enumerate(self.curve[i].tolist())
        rows = [dict(zip(names, [float(k * self.every), *row], strict=True)) for k, row in points]
        left = {"error": None, "metrics": {}, "rows": rows, "units": [], "extras": {}}
        x = self.samples()[i]
        if bool(self.diverged[i]) or not bool(x.isfinite().all()):
            return left | {"error": "Diverged: loss or samples became NaN or infinite"}
        metrics = {
            "train/loss": float(self.losses_sum[i]) / self.rounds,
            **{f"test/{name}": value for name, value in self.task.measure(x).items()},
            **log_second_moment(self.moments[i], min(self.measured, self.rounds)),
        }
        curve = {n: [round(v, 4) for v in self.curve[i, :, k].tolist()] for k, n in enumerate(self.names)}
        extras = {"samples": self.task.shown(x), "steps": self.every, "curve": curve}
        return left | {"metrics": metrics, "extras": extras}
