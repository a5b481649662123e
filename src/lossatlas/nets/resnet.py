"""torchvision's ResNets with the stem that is usual for images of 28 to 64 pixels, and the narrow ones of CIFAR."""

from torch import nn


def _resnet(depth: int, channels: int, classes: int, small_images: bool) -> nn.Module:
    from torchvision import models

    net = getattr(models, f"resnet{depth}")(weights=None, num_classes=classes)
    if small_images:
        net.conv1 = nn.Conv2d(channels, 64, kernel_size=3, stride=1, padding=1, bias=False)
        net.maxpool = nn.Identity()
    elif channels != 3:
        net.conv1 = nn.Conv2d(channels, 64, kernel_size=7, stride=2, padding=3, bias=False)
    return net


def resnet18(channels: int, classes: int, small_images: bool = True) -> nn.Module:
    """ResNet-18; for small images a 3x3 stride-1 stem without max pooling (He et al. 2016, section 4.2).

    Args:
        channels: of the input, >= 1.
        classes: number of outputs.
        small_images: False keeps the ImageNet stem (for images from 96 pixels on).

    Shapes:
        (b, channels, H, W) float -> (b, classes) float.
    """
    return _resnet(18, channels, classes, small_images)


def resnet34(channels: int, classes: int, small_images: bool = True) -> nn.Module:
    """ResNet-34; arguments, shapes and stem as in `resnet18`."""
    return _resnet(34, channels, classes, small_images)


def resnet20(channels: int, classes: int) -> nn.Module:
    """ResNet-20 for CIFAR (He et al. 2016, section 4.2): three blocks each of 16, 32 and 64 channels.

    Differs: a 1x1 convolution where a block changes its width, not zero padding.

    Args:
        channels: of the input, >= 1.
        classes: number of outputs.

    Shapes:
        (b, channels, H, W) float -> (b, classes) float.
    """
    from torchvision.models.resnet import BasicBlock

    layers: list[nn.Module] = [
        nn.Conv2d(channels, 16, kernel_size=3, padding=1, bias=False),
        nn.BatchNorm2d(16),
        nn.ReLU(),
    ]
    for before, width in ((16, 16), (16, 32), (32, 64)):
        stride = width // before
        shortcut = None
        if stride > 1:
            shortcut = nn.Sequential(
                nn.Conv2d(before, width, 1, stride=stride, bias=False), nn.BatchNorm2d(width)
            )
        layers += [
            BasicBlock(before, width, stride, shortcut),
            BasicBlock(width, width),
            BasicBlock(width, width),
        ]
    return nn.Sequential(*layers, nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(64, classes))
