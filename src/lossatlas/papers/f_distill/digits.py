"""The task of scikit-learn's 8 x 8 digits: an EDM teacher and a small classifier, each trained once and kept."""

import hashlib
from collections.abc import Callable, Sequence
from functools import cache
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor, nn

from lossatlas.data import Data
from lossatlas.diffusion import (
    Denoiser,
    NoiseNet,
    edm_scales,
    feature_distance,
    fourier_embedding,
    heun_sample,
    karras_levels,
    log_normal,
    precision_recall,
    score_matching_loss,
)
from lossatlas.kept import kept
from lossatlas.nets import MLP
from lossatlas.seeding import stream

SIGMA_DATA = 0.75  # of pixels in [-1, 1]
COMPARED = 5000  # images that samples are compared with, at most
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
        data: other images than scikit-learn's digits, flattened and standardised to deviation 1; their training rows.
        hidden: widths of teacher, student and fake score.
        teacher_steps: of the teacher's training, batch 256. classifier_steps: of the feature net's, all rows.
        sigma_init: the student's noise level, > 0.
        evaluated: student samples of a measurement, at most the number of images compared, 1797 (5000 with `data`).
        keep: false trains teacher and classifier anew each time and leaves no file.

    Raises:
        ValueError: sizes out of range. UserError: the cache cannot be written.
    """

    images: Tensor
    features: Tensor

    def __init__(
        self,
        data: Data | None = None,
        hidden: Sequence[int] = (256, 256),
        teacher_steps: int = 12000,
        classifier_steps: int = 300,
        sigma_init: float = 2.5,
        evaluated: int = 1797,
        keep: bool = True,
    ) -> None:
        super().__init__()
        x, y = digits() if data is None else pixels(data)
        most = min(len(x), COMPARED)
        if min(teacher_steps, classifier_steps) < 1 or not sigma_init > 0 or not 3 < evaluated <= most:
            raise ValueError(
                f"Digits needs steps >= 1, sigma_init > 0 and 3 < evaluated <= {most}, got {teacher_steps=}, "
                f"{classifier_steps=}, {sigma_init=}, {evaluated=}"
            )
        self.d = self.d_z = x.shape[1]
        self.hidden, self.sigma_data = tuple(hidden), SIGMA_DATA if data is None else 1.0
        self.sigma_init, self.evaluated = sigma_init, evaluated
        self.teacher = self.fresh(torch.Generator())
        self.classifier = new_classifier(self.d, int(y.max()) + 1)
        made = {
            "teacher": (self.teacher, lambda: train_teacher(self.fresh, x, teacher_steps), teacher_steps),
            "classifier": (
                self.classifier,
                lambda: train_classifier(x, y, classifier_steps),
                classifier_steps,
            ),
        }
        for name, (net, make, steps) in made.items():
            recipe = {"format": 1, "hidden": list(hidden), "sigma_data": self.sigma_data, "steps": steps}
            if data is not None:
                recipe["images"] = hashlib.sha256(x.numpy().tobytes()).hexdigest()
            what = f"{'digits' if data is None else 'images'}-{name}"
            net.load_state_dict(kept(what, recipe, make) if keep else make())
            net.requires_grad_(False)
        self.register_buffer("images", x, persistent=False)
        self.register_buffer("features", self.embed(x[:COMPARED]), persistent=False)

    def fresh(self, rng: torch.Generator) -> Denoiser:
        """The shape of teacher, student and fake score, with new weights."""
        return Denoiser(
            NoiseNet(self.d, self.d, self.hidden, rng, self.scale, fourier_embedding), self.sigma_data
        )

    def scale(self, sigma: Tensor) -> Tensor:
        """EDM's c_in."""
        return edm_scales(sigma, self.sigma_data)[2]

    def generator(self, rng: torch.Generator) -> nn.Module:
        """The teacher at one noise level."""
        return OneStep(self.fake(rng), self.sigma_init)

    def fake(self, rng: torch.Generator) -> Denoiser:
        """A copy of the teacher; nothing is drawn."""
        copy = self.fresh(rng)
        copy.load_state_dict(self.teacher.state_dict())
        return copy

    def discriminator(self, rng: torch.Generator) -> nn.Module:
        """Logit of data against student."""
        return NoiseNet(self.d, 1, (128, 128), rng, self.scale, fourier_embedding)

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
        """recall and precision (k = 3) and the classifier-feature distance against the images."""
        made = self.embed(x)
        precision, recall = precision_recall(self.features, made, k=3)
        return {
            "recall": recall,
            "precision": precision,
            "feature_distance": feature_distance(self.features, made),
        }

    def shown(self, x: Float[Tensor, "n d"]) -> str:
        """Grey values 0 to 15 as hexadecimal digits, image by image; nothing of larger images."""
        if self.d != 64:
            return ""
        values = ((x[:SHOWN].clamp(-1, 1) + 1) * 7.5).round().int().flatten().tolist()
        return "".join(f"{v:x}" for v in values)

    def teacher_samples(self, n: int, rng: torch.Generator, steps: int = 18) -> Float[Tensor, "n d"]:
        """What the teacher itself makes, by Heun's sampler: the level a student can hope for."""
        levels = karras_levels(steps, 0.02, 20.0)
        return heun_sample(self.teacher, 20.0 * torch.randn(1, n, self.d, generator=rng), levels)[0]


@cache
def digits() -> tuple[Float[Tensor, "n 64"], Tensor]:
    """Pixels in [-1, 1] and labels of the 1797 images that come with scikit-learn."""
    from sklearn.datasets import load_digits

    held: Any = load_digits()
    return torch.from_numpy(held.data).float() / 8 - 1, torch.from_numpy(held.target).long()


def pixels(data: Data) -> tuple[Float[Tensor, "n d"], Tensor]:
    """A data set's training images, flattened and divided by their deviation, and their clean labels."""
    x = data.batch(data.train, torch.arange(len(data.train)), train=False).x.flatten(1)
    return (x - x.mean()) / x.std().clamp(min=1e-6), data.train.y_clean


def new_classifier(d: int = 64, classes: int = 10) -> MLP:
    """d-128-64-classes, its second layer being the features."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        return MLP(d, [128, 64], classes, "relu")


def train_teacher(
    fresh: Callable[[torch.Generator], Denoiser], x: Float[Tensor, "n d"], steps: int
) -> dict[str, Tensor]:
    """EDM's training (log-normal noise levels, Adam 1e-3 falling to 0 as a cosine), one state of tensors."""
    from tqdm import tqdm

    rng = stream(0, "f_distill/teacher")
    net = fresh(rng)
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


def train_classifier(x: Float[Tensor, "n d"], y: Tensor, steps: int) -> dict[str, Tensor]:
    """Cross-entropy on all images, Adam 3e-3."""
    net = new_classifier(x.shape[1], int(y.max()) + 1)
    adam = torch.optim.Adam(net.parameters(), lr=3e-3)
    for _ in range(steps):
        adam.zero_grad()
        nn.functional.cross_entropy(net(x), y).backward()
        adam.step()
    return dict(net.state_dict())
