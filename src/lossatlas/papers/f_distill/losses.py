"""Eq. 1 as a loss, the weight's clipping and normalisation (eq. 3), the discriminator's loss and the GAN term."""

import math
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor, nn
from torch.nn.functional import one_hot, softplus

from lossatlas.losses import in_float32
from lossatlas.papers.f_distill.divergences import Divergence

NORMALISERS = ("mean", "update", "none")


@torch.no_grad()
def update_weight(
    divergence: Divergence,
    log_r: Float[Tensor, "R b"],
    clip: float = 6.0,
    normalise: str = "mean",
    size: Float[Tensor, "R b"] | None = None,
    bins: Tensor | None = None,
) -> tuple[Float[Tensor, "R b"], Float[Tensor, "R b"]]:
    """h(r) as it is, and as the generator's step uses it.

    Args:
        log_r: log of p / q of the noised densities at the noised points.
        clip: log r is cut to [-clip, clip], > 0.
        normalise: mean: h is divided by its batch mean; update: by E[h size] / E[size], so that all arms have
            equal mean updates; none.
        size: |w (score_p - score_q)|, for `update`.
        bins: (R, b) int64, bins of the noise level: means are taken within each; None: over the whole batch.

    Raises:
        ValueError: clip <= 0, an unknown normaliser.

    Example:
        >>> from lossatlas.papers.f_distill import ForwardKL
        >>> update_weight(ForwardKL(), torch.tensor([[0.0, 9.0]]), clip=1.0, normalise="none")[0]
        tensor([[1.0000, 2.7183]])
    """
    check_weight(clip, normalise)
    h = divergence.h(in_float32(log_r).clamp(-clip, clip))
    if normalise == "none":
        return h, h
    share = torch.ones_like(h) if normalise == "mean" or size is None else in_float32(size)
    if bins is None:
        return h, h / ((h * share).mean(dim=1) / share.mean(dim=1))[:, None]
    at = one_hot(bins).to(h)
    means = torch.einsum("rb,rbk->rk", h * share, at) / torch.einsum("rb,rbk->rk", share, at)
    return h, h / means.gather(1, bins)


def check_weight(clip: float, normalise: str) -> None:
    """Raises ValueError for a clip <= 0 or an unknown normaliser."""
    if not 0 < clip < math.inf:
        raise ValueError(f"needs clip > 0 of log r, got {clip}")
    if normalise not in NORMALISERS:
        raise ValueError(f"normalise is one of {', '.join(NORMALISERS)}, got {normalise!r}")


def check_settings(weighting: str, ratio: str, task: Any, data: Any = None) -> None:
    """Raises ValueError for a weighting or ratio that there is not, or data that the task cannot take."""
    if weighting not in ("sigma2", "dmd"):
        raise ValueError(f"weighting is sigma2 or dmd, got {weighting!r}")
    if ratio not in ("learned", "oracle"):
        raise ValueError(f"ratio is learned or oracle, got {ratio!r}")
    if data is not None and isinstance(task, nn.Module):
        raise ValueError(
            f"{type(task).__name__} brings its own data: leave data=none, or give a partial task"
        )
    if ratio == "oracle" and not hasattr(task, "log_density"):
        raise ValueError(f"ratio=oracle needs a teacher with a density, {type(task).__name__} has none")


def generator_loss(
    x: Float[Tensor, "*b d"], difference: Float[Tensor, "*b d"], h: Float[Tensor, "*b"]
) -> Float[Tensor, "*b"]:
    """A loss per sample whose gradient is eq. 1: -h w (score_p - score_q) . x with all but x detached.

    Args:
        x: student samples G(z), with their graph.
        difference: w (score_p - score_q) at the noised samples.
        h: weights.
    """
    h, difference, x = in_float32(h), in_float32(difference), in_float32(x)
    return -(h[..., None] * difference).detach().mul(x).sum(dim=-1)


def logistic_loss(real: Float[Tensor, "R b"], made: Float[Tensor, "R b"]) -> Float[Tensor, " R"]:
    """The discriminator's: at its minimum the logit is log p / q.

    Args:
        real, made: logits at noised teacher data and noised student samples.
    """
    return (softplus(-in_float32(real)) + softplus(in_float32(made))).mean(dim=1)


def saturation_free_loss(made: Float[Tensor, "*b"]) -> Float[Tensor, "*b"]:
    """The generator's GAN term, -log sigmoid of the logit at its noised samples."""
    return softplus(-in_float32(made))
