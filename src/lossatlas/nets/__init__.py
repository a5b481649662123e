"""Networks that two or more papers use."""

from lossatlas.nets.conv import SmallConv
from lossatlas.nets.mlp import MLP
from lossatlas.nets.resnet import resnet18, resnet20, resnet34

__all__ = ["MLP", "SmallConv", "resnet18", "resnet20", "resnet34"]
