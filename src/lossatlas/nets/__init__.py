"""Networks that two or more papers use."""

from lossatlas.nets.conv import ConvNet, SmallConv
from lossatlas.nets.mlp import MLP
from lossatlas.nets.resnet import resnet18, resnet20, resnet34
from lossatlas.nets.shared_norm import SharedBatchNorm2d, share_batch_norms
from lossatlas.nets.transformer import Block, Decoder, ViT

__all__ = [
    "MLP",
    "Block",
    "ConvNet",
    "Decoder",
    "SharedBatchNorm2d",
    "SmallConv",
    "ViT",
    "resnet18",
    "resnet20",
    "resnet34",
    "share_batch_norms",
]
