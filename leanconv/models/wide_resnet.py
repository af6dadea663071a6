"""Pre-activation residual networks for small images: wide networks of basic blocks, and deep networks of bottlenecks.

Source: Zagoruyko & Komodakis 2016, "Wide Residual Networks" (6n + 4 layers, widths 16k/32k/64k); He et al. 2016b, "Identity
Mappings in Deep Residual Networks" (9n + 2 layers of bottlenecks).
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

from leanconv.core.errors import SettingError
from leanconv.models.layers import ImageNetwork, at_least_one, init_convs_


class PreActivationBlock(nn.Module):
    """A pre-activation block: x + conv(relu(norm(... conv(relu(norm(x)))))). Normalisation and ReLU come before each convolution.

    The block has two 3x3 convolutions, or it is a bottleneck of 1x1, 3x3, 1x1. The first convolution has the stride. If the shape
    changes, a 1x1 convolution of relu(norm(x)) replaces x.

    Args:
        in_channels, out_channels: of the block.
        stride: of the first convolution.
        reduction: 1 for two 3x3 convolutions; above 1 for a bottleneck with out_channels / reduction inner channels.

    Shape:
        x: (N, in_channels, H, W) -> (N, out_channels, H', W'), divided by the stride and rounded up.
    """

    def __init__(self, in_channels: int, out_channels: int, stride: int, reduction: int) -> None:
        super().__init__()
        kernels = (3, 3) if reduction == 1 else (1, 3, 1)
        self.depth = len(kernels)
        channels = in_channels
        for index, kernel in enumerate(kernels):
            last = index == self.depth - 1
            width = out_channels if last else out_channels // reduction
            step = stride if index == 0 else 1
            conv = nn.Conv2d(channels, width, kernel, step, padding=kernel // 2, bias=False)
            self.add_module(f"bn{index + 1}", nn.BatchNorm2d(channels))
            self.add_module(f"relu{index + 1}", nn.ReLU(inplace=True))
            self.add_module(f"conv{index + 1}", conv)
            channels = width
        self.shortcut: nn.Conv2d | None = None
        if stride != 1 or in_channels != out_channels:
            self.shortcut = nn.Conv2d(in_channels, out_channels, 1, stride, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        out = x
        for index in range(1, self.depth + 1):
            out = getattr(self, f"relu{index}")(getattr(self, f"bn{index}")(out))
            if index == 1 and self.shortcut is not None:
                x = self.shortcut(out)
            out = getattr(self, f"conv{index}")(out)
        return out + x


class PreActivationResNet(ImageNetwork):
    """A 3x3 stem of 16 channels, three stages of `PreActivationBlock` named layer1 to layer3, a last normalisation and ReLU.

    Args:
        blocks: blocks in each stage. Each stage except the first halves the feature map and doubles the width.
        width: output channels of the first stage.
        reduction: see `PreActivationBlock`.
        num_classes, in_chans: outputs, and channels of the image.

    Shape:
        x: (N, in_chans, H, W) -> (N, num_classes), for any H and W.
    """

    layer1: nn.Module
    layer2: nn.Module
    layer3: nn.Module

    def __init__(self, blocks: int, width: int, reduction: int, num_classes: int = 10, in_chans: int = 3) -> None:
        at_least_one(num_classes=num_classes, in_chans=in_chans)
        super().__init__(num_classes, (in_chans, 32, 32))
        self.conv1 = nn.Conv2d(in_chans, 16, 3, padding=1, bias=False)
        channels = 16
        for index in range(3):
            out_channels = width * 2**index
            first = PreActivationBlock(channels, out_channels, 1 if index == 0 else 2, reduction)
            rest = [PreActivationBlock(out_channels, out_channels, 1, reduction) for _ in range(blocks - 1)]
            self.add_module(f"layer{index + 1}", nn.Sequential(first, *rest))
            self.feature_info.append({"num_chs": out_channels, "reduction": 2**index, "module": f"layer{index + 1}"})
            channels = out_channels
        self.bn = nn.BatchNorm2d(channels)
        self.relu = nn.ReLU(inplace=True)
        self.avgpool = nn.AdaptiveAvgPool2d(1)
        self.fc = nn.Linear(channels, num_classes)
        init_convs_(self)

    def forward(self, x: Tensor) -> Tensor:
        x = self.layer3(self.layer2(self.layer1(self.conv1(x))))
        return self.fc(torch.flatten(self.avgpool(self.relu(self.bn(x))), 1))


def wide_resnet(num_classes: int = 10, in_chans: int = 3, depth: int = 28, widen: int = 10) -> PreActivationResNet:
    """Wide residual network of basic blocks.

    Args:
        num_classes, in_chans: outputs, and channels of the image.
        depth: 6n + 4 layers, with n blocks in each stage.
        widen: k; the stages have 16k, 32k and 64k channels.

    Raises:
        SettingError: `depth` is not 6n + 4.
    """
    at_least_one(widen=widen)
    return PreActivationResNet(_blocks(depth, 6, 4), 16 * widen, 1, num_classes, in_chans)


def preact_resnet(num_classes: int = 10, in_chans: int = 3, depth: int = 164) -> PreActivationResNet:
    """Residual network of pre-activation bottlenecks with 64, 128 and 256 channels; the inner width is a quarter.

    Args:
        num_classes, in_chans: outputs, and channels of the image.
        depth: 9n + 2 layers, with n blocks in each stage.

    Raises:
        SettingError: `depth` is not 9n + 2.
    """
    return PreActivationResNet(_blocks(depth, 9, 2), 64, 4, num_classes, in_chans)


def _blocks(depth: int, each: int, other: int) -> int:
    """The number of blocks in each stage, from depth = each * blocks + other."""
    at_least_one(depth=depth)
    blocks = (depth - other) // each
    if depth != each * blocks + other or blocks < 1:
        near = each * max(blocks, 1) + other
        raise SettingError(f"depth={depth} must be {each}n + {other}; {near} or {near + each} would do")
    return blocks
