"""torchvision's ResNets with the stem that is usual for images of 28 to 64 pixels."""

from torch import nn


def resnet18(channels: int, classes: int, small_images: bool = True) -> nn.Module:
    """ResNet-18; for small images a 3x3 stride-1 stem without max pooling (He et al. 2016, section 4.2).

    Args:
        channels: of the input, >= 1.
        classes: number of outputs.
        small_images: False keeps the ImageNet stem (for images from 96 pixels on).

    Shapes:
        (b, channels, H, W) float -> (b, classes) float.
    """
    from torchvision.models import resnet18 as build

    net = build(weights=None, num_classes=classes)
    if small_images:
        net.conv1 = nn.Conv2d(channels, 64, kernel_size=3, stride=1, padding=1, bias=False)
        net.maxpool = nn.Identity()  # type: ignore[assignment]
    elif channels != 3:
        net.conv1 = nn.Conv2d(channels, 64, kernel_size=7, stride=2, padding=3, bias=False)
    return net
