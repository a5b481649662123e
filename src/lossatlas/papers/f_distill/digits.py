"""The task of scikit-learn's 8 x 8 digits: an EDM teacher and a small classifier, each trained once and kept."""

from functools import cache
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor, nn

from lossatlas.diffusion import (
    Denoiser,
    NoiseNet,
    edm_scales,
    feature_distance,
    fourier_embedding,
    heun_sample,
    karras_levels,
    kept,
    log_normal,
    precision_recall,
    score_matching_loss,
)
from lossatlas.nets import MLP
from lossatlas.seeding import stream

SIGMA_DATA = 0.75  # of pixels in [-1, 1]
HIDDEN = (256, 256)
SHOWN = 24  # student samples that a record keeps


class OneStep(nn.Module):
    """G(z) = D(sigma_init z, sigma_init): a denoiser used once, at one noise level."""

    def __init__(self, denoiser: Denoiser, sigma_init: float) -> None:
        super().__init__()
        self.denoiser, self.sigma_init = denoiser, sigma_init

    def forward(self, z: Float[Tensor, "R b d"]) -> Float[Tensor, "R b d"]:
        """Student samples."""
        sigma = z.new_full((*z.shape[:-1], 1), self.sigma_init)
        return self.denoiser(self.sigma_init * z, sigma)


class Digits(nn.Module):
    """Teacher (64, 256, 256, 64); student and fake score start as the teacher.

    Args:
        teacher_steps: of the teacher's training, batch 256. classifier_steps: of the feature net's, all rows.
        sigma_init: the student's noise level, > 0.
        evaluated: student samples of a measurement, at most the 1797 images.
        keep: false trains teacher and classifier anew each time and leaves no file.

    Raises:
        ValueError: sizes out of range. UserError: the cache cannot be written.
    """

    d = d_z = 64
    images: Tensor
    features: Tensor

    def __init__(
        self,
        teacher_steps: int = 12000,
        classifier_steps: int = 300,
        sigma_init: float = 2.5,
        evaluated: int = 1797,
        keep: bool = True,
    ) -> None:
        super().__init__()
        x, y = digits()
        if min(teacher_steps, classifier_steps) < 1 or not sigma_init > 0 or not 3 < evaluated <= len(x):
            raise ValueError(
                f"Digits needs steps >= 1, sigma_init > 0 and 3 < evaluated <= {len(x)}, got {teacher_steps=}, "
                f"{classifier_steps=}, {sigma_init=}, {evaluated=}"
            )
        self.sigma_init, self.evaluated = sigma_init, evaluated
        self.teacher, self.classifier = new_denoiser(torch.Generator()), new_classifier()
        made = {
            "digits-teacher": (self.teacher, lambda: train_teacher(x, teacher_steps), teacher_steps),
            "digits-classifier": (
                self.classifier,
                lambda: train_classifier(x, y, classifier_steps),
                classifier_steps,
            ),
        }
        for name, (net, make, steps) in made.items():
            recipe = {"format": 1, "hidden": list(HIDDEN), "sigma_data": SIGMA_DATA, "steps": steps}
            net.load_state_dict(kept(name, recipe, make) if keep else make())
            net.requires_grad_(False)
        self.register_buffer("images", x, persistent=False)
        self.register_buffer("features", self.embed(x), persistent=False)

    def generator(self, rng: torch.Generator) -> nn.Module:
        """The teacher at one noise level."""
        return OneStep(self.fake(rng), self.sigma_init)

    def fake(self, rng: torch.Generator) -> Denoiser:
        """A copy of the teacher; nothing is drawn."""
        copy = new_denoiser(rng)
        copy.load_state_dict(self.teacher.state_dict())
        return copy

    def discriminator(self, rng: torch.Generator) -> nn.Module:
        """Logit of data against student."""
        return NoiseNet(64, 1, (128, 128), rng, scale_in, fourier_embedding)

    def denoise(self, x: Float[Tensor, "R b d"], sigma: Float[Tensor, "R b 1"]) -> Float[Tensor, "R b d"]:
        """The teacher's, for all replicas at once."""
        R, b, d = x.shape
        return self.teacher(x.reshape(1, R * b, d), sigma.reshape(1, R * b, 1)).view(R, b, d)

    def real(self, n: int, rng: torch.Generator) -> Float[Tensor, "n d"]:
        """Images, with repetition."""
        at = torch.randint(len(self.images), (n,), generator=rng)
        return self.images[at.to(self.images.device)]

    @torch.no_grad()
    def embed(self, x: Float[Tensor, "n d"]) -> Float[Tensor, "n f"]:
        """The classifier's last hidden layer."""
        return nn.Sequential(*list(self.classifier)[:-1])(x)

    def measure(self, x: Float[Tensor, "n d"]) -> dict[str, float]:
        """recall and precision (k = 3) and the classifier-feature distance against all images."""
        made = self.embed(x)
        precision, recall = precision_recall(self.features, made, k=3)
        return {
            "recall": recall,
            "precision": precision,
            "feature_distance": feature_distance(self.features, made),
        }

    def shown(self, x: Float[Tensor, "n d"]) -> str:
        """Grey values 0 to 15 as hexadecimal digits, image by image."""
        values = ((x[:SHOWN].clamp(-1, 1) + 1) * 7.5).round().int().flatten().tolist()
        return "".join(f"{v:x}" for v in values)

    def teacher_samples(self, n: int, rng: torch.Generator, steps: int = 18) -> Float[Tensor, "n d"]:
        """What the teacher itself makes, by Heun's sampler: the level a student can hope for."""
        levels = karras_levels(steps, 0.02, 20.0)
        return heun_sample(self.teacher, 20.0 * torch.randn(1, n, 64, generator=rng), levels)[0]


@cache
def digits() -> tuple[Float[Tensor, "n 64"], Tensor]:
    """Pixels in [-1, 1] and labels of the 1797 images that come with scikit-learn."""
    from sklearn.datasets import load_digits

    held: Any = load_digits()
    return torch.from_numpy(held.data).float() / 8 - 1, torch.from_numpy(held.target).long()


def scale_in(sigma: Tensor) -> Tensor:
    """EDM's c_in for digits."""
    return edm_scales(sigma, SIGMA_DATA)[2]


def new_denoiser(rng: torch.Generator) -> Denoiser:
    """The shape of teacher, student and fake score."""
    return Denoiser(NoiseNet(64, 64, HIDDEN, rng, scale_in, fourier_embedding), SIGMA_DATA)


def new_classifier() -> MLP:
    """64-128-64-10, its second layer being the features."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        return MLP(64, [128, 64], 10, "relu")


def train_teacher(x: Float[Tensor, "n 64"], steps: int) -> dict[str, Tensor]:
    """EDM's training (log-normal noise levels, Adam 1e-3 falling to 0 as a cosine), one state of tensors."""
    from tqdm import tqdm

    rng = stream(0, "f_distill/teacher")
    net = new_denoiser(rng)
    adam = torch.optim.Adam(net.parameters(), lr=1e-3)
    fall = torch.optim.lr_scheduler.CosineAnnealingLR(adam, steps)
    for _ in tqdm(range(steps), desc="teacher", leave=False, disable=True if steps < 1000 else None):
        rows = x[torch.randint(len(x), (256,), generator=rng)][None]
        sigma = log_normal(torch.randn(1, 256, 1, generator=rng))
        loss = score_matching_loss(net, rows, sigma, torch.randn(rows.shape, generator=rng)).sum()
        adam.zero_grad()
        loss.backward()
        adam.step()
        fall.step()
    return dict(net.state_dict())


def train_classifier(x: Float[Tensor, "n 64"], y: Tensor, steps: int) -> dict[str, Tensor]:
    """Cross-entropy on all images, Adam 3e-3."""
    net = new_classifier()
    adam = torch.optim.Adam(net.parameters(), lr=3e-3)
    for _ in range(steps):
        adam.zero_grad()
        nn.functional.cross_entropy(net(x), y).backward()
        adam.step()
    return dict(net.state_dict())
