"""What papers on diffusion models share: noise levels, denoisers, exact scores of mixtures, sample quality.

Noise is added, never scaled: x_sigma = x + sigma e, so that the score is (D(x_sigma, sigma) - x_sigma) / sigma^2 with
D the denoiser. All functions take a leading axis R of replicas, (R, b, d), and sigma as (R, b, 1).
"""

from lossatlas.diffusion.denoisers import (
    Denoiser,
    edm_scales,
    fourier_embedding,
    heun_sample,
    plain_embedding,
    score_matching_loss,
)
from lossatlas.diffusion.levels import karras_levels, log_normal, log_uniform
from lossatlas.diffusion.mixtures import Mixture, grid, ring
from lossatlas.diffusion.nets import NoiseNet
from lossatlas.diffusion.quality import feature_distance, precision_recall

__all__ = [
    "Denoiser",
    "Mixture",
    "NoiseNet",
    "edm_scales",
    "feature_distance",
    "fourier_embedding",
    "grid",
    "heun_sample",
    "karras_levels",
    "log_normal",
    "log_uniform",
    "plain_embedding",
    "precision_recall",
    "ring",
    "score_matching_loss",
]
