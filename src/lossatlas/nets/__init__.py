"""Networks that two or more papers use."""

from lossatlas.nets.conv import SmallConv
from lossatlas.nets.mlp import MLP
from lossatlas.nets.resnet import resnet18, resnet20, resnet34
from lossatlas.nets.shared_norm import SharedBatchNorm2d, share_batch_norms

__all__ = ["MLP", "SharedBatchNorm2d", "SmallConv", "resnet18", "resnet20", "resnet34", "share_batch_norms"]
