"""Batch norm over all processes of a run, on any device (torch's SyncBatchNorm refuses the CPU)."""

from typing import TypeVar

import torch
import torch.distributed as dist
from jaxtyping import Float
from torch import Tensor, nn

Net = TypeVar("Net", bound=nn.Module)


class SharedBatchNorm2d(nn.BatchNorm2d):
    """BatchNorm2d whose mean and variance in training are those of all processes' rows, whatever number each has.

    Arguments, state and evaluation are nn.BatchNorm2d's (a numeric momentum); in one process it is nn.BatchNorm2d.

    Shapes:
        (n, C, H, W) -> the same; n may differ between processes.
    """

    def forward(self, input: Float[Tensor, "n C H W"]) -> Float[Tensor, "n C H W"]:
        if not self.training or not dist.is_initialized() or dist.get_world_size() == 1:
            return super().forward(input)
        from torch.distributed.nn.functional import all_reduce  # its gradient is summed as well

        size = input.new_full((1,), input.numel() / input.shape[1])
        dist.all_reduce(size)
        mean = all_reduce(input.sum((0, 2, 3))) / size
        centred = input - mean[:, None, None]  # centred first: a sum of squares alone cancels
        variance = all_reduce(centred.square().sum((0, 2, 3))) / size
        if self.track_running_stats and self.momentum is not None:
            with torch.no_grad():
                self.num_batches_tracked += 1  # type: ignore[operator]
                self.running_mean.lerp_(mean, self.momentum)  # type: ignore[union-attr]
                self.running_var.lerp_(variance * size / (size - 1), self.momentum)  # type: ignore[union-attr]
        scale = torch.rsqrt(variance + self.eps) * (1.0 if self.weight is None else self.weight)
        shift = 0.0 if self.bias is None else self.bias[:, None, None]
        return centred * scale[:, None, None] + shift


def share_batch_norms(net: Net) -> Net:
    """The net with every BatchNorm2d inside it replaced by a SharedBatchNorm2d of the same parameters and buffers.

    Example:
        >>> type(share_batch_norms(nn.Sequential(nn.BatchNorm2d(3)))[0]).__name__
        'SharedBatchNorm2d'
    """
    for parent in list(net.modules()):
        for name, child in parent.named_children():
            if type(child) is nn.BatchNorm2d:
                shared = SharedBatchNorm2d(child.num_features, child.eps, child.momentum, child.affine)
                shared.track_running_stats = child.track_running_stats
                shared._parameters, shared._buffers = child._parameters, child._buffers
                shared.training = child.training
                setattr(parent, name, shared)
    return net
