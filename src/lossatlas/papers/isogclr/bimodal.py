"""iSogCLR between two modalities: image against texts and text against images, each with states of its own."""

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor, nn

from lossatlas.losses import check_index
from lossatlas.papers.isogclr.losses import with_gradient_of
from lossatlas.papers.isogclr.pairs import log_mean_exp, unit_pairs, weighted_mean
from lossatlas.papers.isogclr.states import MovingMean, Temperatures, check_gamma, check_size


class Direction(nn.Module):
    """Eqs. 2 and 3 of one modality's anchors; see BimodalISogCLR."""

    def __init__(self, average: MovingMean, temperature: Temperatures) -> None:
        super().__init__()
        self.average, self.temperature = average, temperature

    def forward(
        self, h: Float[Tensor, "b b"], own: Bool[Tensor, "b b"], index: Int[Tensor, " b"]
    ) -> Float[Tensor, " b"]:
        tau = self.temperature.of(index).to(h.dtype)
        log_s = self.average.mixed(index, log_mean_exp(h.detach(), own, tau)[None])
        surrogate = weighted_mean(h, own, tau, log_s[0])
        estimate = log_s[0] + self.temperature.rho
        if self.training:
            self.average.store(index, log_s)
            self.temperature.descend(index, estimate - surrogate.detach() / tau)
        return with_gradient_of(surrogate, tau * estimate)


class BimodalISogCLR(nn.Module):
    """The sum of both directions' losses; an image's negatives are the other samples' texts, and the other way round.

    The reference keeps b_i, the running maximum of h / tau, and s_i relative to exp(b_i); log s_i, kept here, is
    b_i + log of that, so it needs no rescaling.

    Args:
        rho_image, rho_text: radius of the KL ball of each direction, >= 0, in nats.
        tau_init, tau_min, tau_max, gamma, beta, eta, clip: as in `ISogCLR`; no study is run with this loss here, so
            its defaults are those of the unimodal one but for the clip, the reference's 5.
        n: training pairs to allocate for, >= 2; None leaves it to `allocate`.

    Shapes:
        image, text (b, d) unit embeddings, index (b,) positions of the pairs in the data set -> (b,).

    Attributes:
        image, text: the two directions, `.temperature.tau` and `.average.log_s` (n,) each.

    Raises:
        ValueError: an argument out of range; a batch of one pair; an index out of range or repeated.

    Example:
        >>> loss = BimodalISogCLR(n=4)
        >>> value = loss(torch.eye(2), torch.eye(2), torch.tensor([3, 1]))
        >>> loss.image.temperature.tau
        tensor([0.1000, 0.0940, 0.1000, 0.0940])
    """

    indexed = True

    def __init__(
        self,
        rho_image: float = 0.4,
        rho_text: float = 0.4,
        tau_init: float = 0.1,
        tau_min: float = 0.05,
        tau_max: float = 1.0,
        gamma: float = 0.8,
        beta: float = 0.5,
        eta: float = 0.03,
        clip: float = 5.0,
        n: int | None = None,
    ) -> None:
        super().__init__()
        check_gamma(gamma, "BimodalISogCLR")
        made = [
            Direction(MovingMean(gamma), Temperatures(tau_init, tau_min, tau_max, rho, beta, eta, clip))
            for rho in (rho_image, rho_text)
        ]
        self.image, self.text = made
        if n is not None:
            self.allocate(n)

    def allocate(self, n: int) -> None:
        """Forget all; n pairs not yet seen, at tau_init."""
        check_size(n, "BimodalISogCLR")
        for direction in (self.image, self.text):
            direction.average.allocate(n)
            direction.temperature.allocate(n)

    def forward(
        self, image: Float[Tensor, "b d"], text: Float[Tensor, "b d"], index: Int[Tensor, " b"]
    ) -> Float[Tensor, " b"]:
        image, text = unit_pairs(image, text, "BimodalISogCLR")
        check_index(index, len(image), len(self.image.average.log_s), "BimodalISogCLR", once=True)
        similarity = image @ text.T
        positive = similarity.diagonal()[:, None]
        own = torch.eye(len(image), dtype=torch.bool, device=image.device)
        return self.image(similarity - positive, own, index) + self.text(similarity.T - positive, own, index)
