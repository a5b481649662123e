"""Distances between the gradients of synthetic and real images, class by class (DC) and of all classes at once (DCC).

The gradients of real images are constants; those of synthetic ones keep their graph, so that the distance can be
differentiated once more, with respect to the images.
"""

from collections.abc import Sequence

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn
from torch.nn import functional

from lossatlas.losses import checked, in_float32

EPS = 1e-6  # in the denominator of the cosine, as in the authors' code


def row_distance(
    G: Float[Tensor, "*B o n"], H: Float[Tensor, "*B o n"], eps: float = EPS
) -> Float[Tensor, "*B"]:
    """sum_o 1 - cos(G_o, H_o), the rows being the weights of output neurons.

    With eps > 0 the rows' product of norms grows by it: rows much smaller than sqrt(eps) cost 1 each even where they
    are equal. With eps = 0 the value depends on directions alone and rows must not be zero.

    Args:
        eps: >= 0.

    Example:
        >>> row_distance(torch.eye(2), -torch.eye(2), eps=0.0)
        tensor(4.)
    """
    G, H = (
        in_float32(G),
        in_float32(H),
    )  # in half precision eps rounds to 0, and so do products of small norms
    norms = torch.linalg.vector_norm(G, dim=-1) * torch.linalg.vector_norm(H, dim=-1)
    return (1 - (G * H).sum(-1) / (norms + eps)).sum(-1)


def gradient_distance(G: Sequence[Tensor], H: Sequence[Tensor], eps: float = EPS) -> Float[Tensor, ""]:
    """D(G, H): `row_distance` summed over layers, each weight flattened per output channel.

    Args:
        G, H: gradients, tensor by tensor; those of one dimension (biases, norms) are left out.
        eps: of `row_distance`.

    Raises:
        ValueError: lists of other shapes, or nothing but one-dimensional tensors.
    """
    if [g.shape for g in G] != [h.shape for h in H]:
        raise ValueError("the gradients to be compared must have equal shapes: they come from one network")
    rows = [row_distance(g.flatten(1), h.flatten(1), eps) for g, h in zip(G, H, strict=True) if g.ndim > 1]
    if not rows:
        raise ValueError("no gradient has an output dimension: the network needs a weight matrix or kernel")
    return torch.stack(rows).sum()


def weights_of(net: nn.Module) -> list[nn.Parameter]:
    """The parameters that are matched: those of two dimensions and more."""
    return [p for p in net.parameters() if p.ndim > 1]


def gradients(net: nn.Module, x: Tensor, y: Tensor, keep: bool) -> tuple[Tensor, ...]:
    """Gradient of the mean cross-entropy with respect to `weights_of(net)`; with its graph if `keep`."""
    f = checked(net(x), y)
    return torch.autograd.grad(functional.cross_entropy(f, y), weights_of(net), create_graph=keep)


def class_gradients(net: nn.Module, x: Float[Tensor, "C b *shape"], keep: bool) -> list[tuple[Tensor, ...]]:
    """`gradients` of each class's images, the first axis being the class.

    A loop: on a CPU it is faster than one vmap over the classes (scripts/bench_dcc.py has both).
    """
    return [
        gradients(net, images, torch.full((len(images),), c, device=x.device), keep)
        for c, images in enumerate(x)
    ]


def mean_gradient(net: nn.Module, x: Float[Tensor, "C b *shape"], keep: bool) -> tuple[Tensor, ...]:
    """grad (1/C) sum_c l(X_c): with as many images of each class, that of the mean over all."""
    return gradients(net, x.flatten(0, 1), labels_of(x), keep)


def labels_of(x: Float[Tensor, "C n *shape"]) -> Int[Tensor, " m"]:
    """(C n,) labels of images that lie class by class, for the flattened images."""
    return torch.arange(len(x), device=x.device).repeat_interleave(x.shape[1])


def classwise_distance(
    net: nn.Module, S: Float[Tensor, "C ipc *shape"], T: Float[Tensor, "C b *shape"], eps: float = EPS
) -> Float[Tensor, ""]:
    """Eq. (2), DC: sum_c D( grad l(S_c), grad l(T_c) ), to be differentiated with respect to S.

    Args:
        net: its weights stay as they are.
        S, T: synthetic and real images, class by class.
    """
    pairs = zip(class_gradients(net, S, keep=True), class_gradients(net, T, keep=False), strict=True)
    return torch.stack([gradient_distance(G, H, eps) for G, H in pairs]).sum()


def contrastive_distance(
    net: nn.Module, S: Float[Tensor, "C ipc *shape"], T: Float[Tensor, "C b *shape"], eps: float = EPS
) -> Float[Tensor, ""]:
    """Eq. (3), DCC: D( grad (1/C) sum_c l(S_c), grad (1/C) sum_c l(T_c) ); arguments as in `classwise_distance`."""
    return gradient_distance(mean_gradient(net, S, keep=True), mean_gradient(net, T, keep=False), eps)
