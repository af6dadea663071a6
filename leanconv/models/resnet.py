"""Residual networks for small images.

Source: He et al. 2016, "Deep Residual Learning for Image Recognition", section 4.2 (6n+2 layers, widths 16/32/64), and the
CIFAR form of ResNet-18/34 (3x3 stem of stride 1, no max-pool) that the filter-basis paper uses.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from leanconv.models.layers import ImageNetwork, at_least_one, init_convs_, one_of


class PadShortcut(nn.Module):
    """Option A: every `stride`-th pixel, and zeros for the channels that are new. No parameters.

    Shape:
        x: (N, C, H, W) -> (N, C + extra, ceil(H / stride), ceil(W / stride)), the size that a padded 3x3 gives.
    """

    def __init__(self, extra: int, stride: int) -> None:
        super().__init__()
        self.extra = extra
        self.stride = stride

    def forward(self, x: Tensor) -> Tensor:
        return F.pad(x[:, :, :: self.stride, :: self.stride], (0, 0, 0, 0, 0, self.extra))

    def extra_repr(self) -> str:
        return f"extra={self.extra}, stride={self.stride}"


class BasicBlock(nn.Module):
    """relu(bn2(conv2(relu(bn1(conv1(x))))) + shortcut(x)), both convolutions 3x3."""

    def __init__(self, in_channels: int, out_channels: int, stride: int, shortcut: str) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(in_channels, out_channels, 3, stride=stride, padding=1, bias=False)
        self.bn1 = nn.BatchNorm2d(out_channels)
        self.relu1 = nn.ReLU(inplace=True)
        self.conv2 = nn.Conv2d(out_channels, out_channels, 3, padding=1, bias=False)
        self.bn2 = nn.BatchNorm2d(out_channels)
        self.relu2 = nn.ReLU(inplace=True)
        self.shortcut = _shortcut(in_channels, out_channels, stride, shortcut)

    def forward(self, x: Tensor) -> Tensor:
        out = self.relu1(self.bn1(self.conv1(x)))
        out = self.bn2(self.conv2(out))
        return self.relu2(out + self.shortcut(x))


def _shortcut(in_channels: int, out_channels: int, stride: int, option: str) -> nn.Module:
    if stride == 1 and in_channels == out_channels:
        return nn.Identity()
    if option == "A":
        return PadShortcut(out_channels - in_channels, stride)
    return nn.Sequential(
        nn.Conv2d(in_channels, out_channels, 1, stride=stride, bias=False), nn.BatchNorm2d(out_channels)
    )


class CifarResNet(ImageNetwork):
    """A 3x3 stem, then stages of basic blocks named layer1, layer2, ...

    Each stage but the first halves the map and doubles the width.

    Args:
        depths: blocks in each stage.
        width: channels of the stem and the first stage.
        shortcut: where the shape changes, "A" (subsample and zero-pad) or "B" (1x1 convolution and norm).

    Shape:
        x: (N, in_chans, H, W) -> (N, num_classes), for any H and W.
    """

    def __init__(
        self, depths: Sequence[int], num_classes: int = 10, in_chans: int = 3, width: int = 16, shortcut: str = "A"
    ) -> None:
        at_least_one(num_classes=num_classes, in_chans=in_chans, width=width)
        one_of("shortcut", shortcut, ("A", "B"))
        super().__init__(num_classes, (in_chans, 32, 32))
        self.conv1 = nn.Conv2d(in_chans, width, 3, padding=1, bias=False)
        self.bn1 = nn.BatchNorm2d(width)
        self.relu = nn.ReLU(inplace=True)
        self.stages = tuple(f"layer{index + 1}" for index in range(len(depths)))
        channels = width
        for index, (name, depth) in enumerate(zip(self.stages, depths, strict=True)):
            out_channels = width * 2**index
            first = BasicBlock(channels, out_channels, 1 if index == 0 else 2, shortcut)
            rest = [BasicBlock(out_channels, out_channels, 1, shortcut) for _ in range(depth - 1)]
            self.add_module(name, nn.Sequential(first, *rest))
            self.feature_info.append({"num_chs": out_channels, "reduction": 2**index, "module": name})
            channels = out_channels
        self.avgpool = nn.AdaptiveAvgPool2d(1)
        self.fc = nn.Linear(channels, num_classes)
        init_convs_(self)

    def forward(self, x: Tensor) -> Tensor:
        x = self.relu(self.bn1(self.conv1(x)))
        for name in self.stages:
            x = getattr(self, name)(x)
        return self.fc(torch.flatten(self.avgpool(x), 1))


def resnet(
    depths: Sequence[int], num_classes: int = 10, in_chans: int = 3, width: int = 16, shortcut: str = "A"
) -> CifarResNet:
    """The CIFAR network with `depths` blocks a stage: 3, 3, 3 is ResNet-20."""
    return CifarResNet(depths, num_classes, in_chans, width, shortcut)
