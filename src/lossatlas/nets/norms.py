"""What test-time adaptation does with normalisation: affine parameters, running statistics, entropy, undoing."""

from collections.abc import Iterable

import torch
from jaxtyping import Float
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm


def batch_norms(net: nn.Module) -> list[_BatchNorm]:
    """Every batch norm inside the net, shared ones too."""
    return [m for m in net.modules() if isinstance(m, _BatchNorm)]


def affine(net: nn.Module) -> list[nn.Parameter]:
    """Scale and shift of every batch norm inside the net, what TENT trains (Wang et al., ICLR 2021).

    Raises:
        ValueError: there are none.

    Example:
        >>> net = nn.Sequential(nn.Linear(2, 3), nn.BatchNorm1d(3), nn.LayerNorm(3))
        >>> [tuple(p.shape) for p in affine(net)]
        [(3,), (3,)]
    """
    found = [p for m in batch_norms(net) for p in (m.weight, m.bias) if p is not None]
    if not found:
        raise ValueError(f"{type(net).__name__} has no batch norm with scale and shift to adapt")
    return found


@torch.no_grad()
def refresh(net: nn.Module, batches: Iterable[Tensor], momentum: float | None = None) -> None:
    """Moves the running statistics of the batch norms by forward passes, in place; parameters and modes stay.

    Args:
        net: its other layers are in evaluation meanwhile (dropout off).
        batches: inputs of the net.
        momentum: None starts anew and takes the plain mean over batches, as torch's `swa_utils.update_bn`;
            a number in (0, 1] goes on from the statistics that are there, with this weight of each batch.

    Raises:
        ValueError: no batch norm with running statistics, no batch, or a momentum out of range.

    Example:
        >>> norm = nn.BatchNorm1d(1)
        >>> refresh(norm, [torch.tensor([[1.0], [3.0]]), torch.tensor([[5.0], [7.0]])])
        >>> norm.running_mean, norm.running_var
        (tensor([4.]), tensor([2.]))
    """
    norms = [m for m in batch_norms(net) if m.track_running_stats]
    if not norms or not (momentum is None or 0 < momentum <= 1):
        raise ValueError(
            f"refresh needs batch norms with running statistics and momentum in (0, 1], got {momentum}"
        )
    modes = {m: m.training for m in net.modules()}
    momenta = [m.momentum for m in norms]
    count = 0
    try:
        net.eval()
        for m in norms:
            m.train()
            m.momentum = momentum
        for x in batches:
            if count == 0 and momentum is None:
                for m in norms:
                    m.reset_running_stats()
            net(x)
            count += 1
    finally:
        for m, training in modes.items():
            m.training = training
        for m, old in zip(norms, momenta, strict=True):
            m.momentum = old
    if count == 0:
        raise ValueError("refresh got no batch, so that the statistics are what they were")


def snapshot(net: nn.Module) -> dict[str, Tensor]:
    """Copies of all parameters and buffers, those that state_dict leaves out as well."""
    return {name: t.detach().clone() for name, t in [*net.named_parameters(), *net.named_buffers()]}


@torch.no_grad()
def restore(net: nn.Module, state: dict[str, Tensor]) -> None:
    """Puts a snapshot back bitwise and in place, so that optimisers and tied weights still hold.

    Raises:
        ValueError: other names than the net's.

    Example:
        >>> norm = nn.BatchNorm1d(1)
        >>> before = snapshot(norm)
        >>> _ = norm(torch.tensor([[1.0], [3.0]]))
        >>> restore(norm, before)
        >>> norm.running_mean
        tensor([0.])
    """
    held = dict([*net.named_parameters(), *net.named_buffers()])
    if held.keys() != state.keys():
        raise ValueError(f"the snapshot is of another net: {sorted(held.keys() ^ state.keys())[:3]} differ")
    for name, t in held.items():
        t.copy_(state[name])


def entropy(scores: Float[Tensor, "n K *s"]) -> Float[Tensor, " n *s"]:
    """H(softmax(scores)) = - sum_k p_k log p_k of every row (or pixel), in [0, log K]; half precision in float32.

    Example:
        >>> entropy(torch.zeros(1, 2)).exp()
        tensor([2.])
    """
    log_p = scores.float().log_softmax(1) if scores.dtype.itemsize < 4 else scores.log_softmax(1)
    return -(log_p.exp() * log_p).sum(1)


def entropy_step(net: nn.Module, optimizer: torch.optim.Optimizer, x: Tensor) -> Tensor:
    """One step on the mean entropy of the net's predictions of x; returns the scores that gave it, detached.

    The optimiser holds what is trained (`affine(net)`); gradients of no other parameter are formed. Whether batch norms
    take the batch's statistics is the net's mode, the caller's choice.

    Example:
        >>> net = nn.Sequential(nn.Linear(2, 3), nn.BatchNorm1d(3))
        >>> scores = entropy_step(net, torch.optim.SGD(affine(net), lr=0.1), torch.randn(4, 2))
        >>> scores.shape, net[0].weight.grad
        (torch.Size([4, 3]), None)
    """
    trained = [p for group in optimizer.param_groups for p in group["params"]]
    scores = net(x)
    grads = torch.autograd.grad(entropy(scores).mean(), trained)
    for p, g in zip(trained, grads, strict=True):
        p.grad = g
    optimizer.step()
    return scores.detach()
