"""The network of the condensation papers, drawn anew again and again, and its training."""

import math
from collections.abc import Callable

import torch
from jaxtyping import Float
from torch import Tensor, nn
from torch.nn import functional

from lossatlas import nets
from lossatlas.metrics.classes import predicted
from lossatlas.seeding import stream


class ConvNet(nets.ConvNet):
    """Blocks of 3 x 3 convolution, instance norm, ReLU and average pooling by 2; linear scores of what is left.

    Args:
        channels: of the images, >= 1.
        classes: number of scores, >= 2.
        side: of the images, at least 2^depth.
        width: channels of the convolutions, >= 1 (128 in the paper).
        depth: blocks, >= 1 (3 in the paper).

    Shapes:
        x (n, channels, side, side) -> (n, classes).

    Raises:
        ValueError: a count out of range.
    """

    def __init__(self, channels: int, classes: int, side: int, width: int = 128, depth: int = 3) -> None:
        if min(channels, width, depth) < 1 or classes < 2 or side < 2**depth:
            raise ValueError(
                "ConvNet needs channels, width, depth >= 1, classes >= 2 and side >= 2^depth, got "
                f"{channels=}, {classes=}, {side=}, {width=}, {depth=}"
            )
        super().__init__(
            channels, classes, side, widths=[width] * depth, pool=2, norm="instance", head="flatten"
        )


def drawn(make: Callable[[], nn.Module], seed: int, purpose: str) -> nn.Module:
    """A network with the initial weights of (seed, purpose), whatever else draws numbers."""
    with torch.random.fork_rng():
        torch.manual_seed(stream(seed, purpose).initial_seed())
        return make()


def trained(
    net: nn.Module,
    x: Float[Tensor, "n ..."],
    y: Tensor,
    steps: int,
    seed: int,
    *,
    lr: float = 0.01,
    batch: int = 256,
    change: Callable[[Tensor], Tensor] | None = None,
) -> nn.Module:
    """Trains in place: SGD with momentum .9 and weight decay 5e-4, the rate divided by 10 at half of the steps.

    Args:
        x, y: images and labels; mini-batches are drawn from them where there are more than `batch`.
        steps: >= 1.
        seed: of the mini-batches.
        change: augmentation of a mini-batch.
    """
    optimizer = torch.optim.SGD(net.parameters(), lr=lr, momentum=0.9, weight_decay=5e-4)
    schedule = torch.optim.lr_scheduler.StepLR(optimizer, math.ceil(steps / 2))
    g = stream(seed, "dcc/batches")
    for _ in range(steps):
        rows = torch.randint(len(x), (batch,), generator=g).to(x.device) if len(x) > batch else slice(None)
        shown = x[rows] if change is None else change(x[rows])
        optimizer.zero_grad()
        functional.cross_entropy(net(shown), y[rows]).backward()
        optimizer.step()
        schedule.step()
    return net


@torch.no_grad()
def accuracy(net: nn.Module, x: Tensor, y: Tensor, batch: int = 2048) -> float:
    """Share of images (n, C, H, W) whose label has the largest score."""
    hits = [(predicted(net(a)) == b).sum() for a, b in zip(x.split(batch), y.split(batch), strict=True)]
    return float(torch.stack(hits).sum() / len(y))


def tangent_kernel(net: nn.Module, x: Float[Tensor, "n ..."]) -> Float[Tensor, "n n"]:
    """sum_k <grad f_k(x_i), grad f_k(x_j)>: the neural tangent kernel, summed over scores."""
    weights = {name: p.detach() for name, p in net.named_parameters()}

    def scores(w: dict[str, Tensor], image: Tensor) -> Tensor:
        return torch.func.functional_call(net, w, (image[None],))[0]

    J = torch.func.vmap(torch.func.jacrev(scores), in_dims=(None, 0))(weights, x)
    flat = torch.cat([j.flatten(2) for j in J.values()], dim=2).flatten(1)  # (n, K parameters)
    return flat @ flat.mT


def kernel_velocity(K: Tensor, later: Tensor, steps: int) -> float:
    """(1 - cosine of two kernels) / steps between them."""
    return (1 - float((K * later).sum() / (K.norm() * later.norm()))) / steps
