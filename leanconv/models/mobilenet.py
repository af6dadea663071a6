"""MobileNetV2 in the form that the filter-basis paper counts.

Source: Sandler et al. 2018, with the differences of the release of "Learning Deeply Shared Filter Bases": every block has an
expanding 1x1 (the first block too, 32 -> 32), the stem and head convolutions have biases, blocks use ReLU in place of ReLU6,
and the network for small images has a projection shortcut around each block of stride 1 that changes the width.
"""

from __future__ import annotations

from typing import Literal

import torch
from torch import Tensor, nn

from leanconv.core.errors import SettingError
from leanconv.core.settings import check_bool, check_choice
from leanconv.models.layers import ImageNetwork, at_least_one, init_convs_

# expansion, channels, blocks, stride of the first block (on ImageNet)
STAGES = ((1, 16, 1, 1), (6, 24, 2, 2), (6, 32, 3, 2), (6, 64, 4, 2), (6, 96, 3, 1), (6, 160, 3, 2), (6, 320, 1, 1))
SMALL_STRIDES = (1, 2, 2, 2, 1, 1, 1)


class InvertedResidual(nn.Module):
    """An inverted residual block: project(depthwise(expand(x))) + shortcut(x).

    A normalisation layer follows each convolution, and a ReLU follows the first two. The shortcut is x if the stride is 1 and the
    width does not change. If the stride is 1 and the width changes, the shortcut is a 1x1 convolution of x with `projection`,
    and absent without. At stride 2 there is no shortcut.

    Args:
        in_channels, out_channels: of the block.
        expansion: the inner width is expansion * in_channels.
        stride: of the depthwise convolution.
        projection: see above.

    Shape:
        x: (N, in_channels, H, W) -> (N, out_channels, H', W'), divided by the stride and rounded up.
    """

    def __init__(self, in_channels: int, out_channels: int, expansion: int, stride: int, projection: bool) -> None:
        super().__init__()
        hidden = expansion * in_channels
        self.conv1 = nn.Conv2d(in_channels, hidden, 1, bias=False)
        self.bn1 = nn.BatchNorm2d(hidden)
        self.relu1 = nn.ReLU(inplace=True)
        self.conv2 = nn.Conv2d(hidden, hidden, 3, stride=stride, padding=1, groups=hidden, bias=False)
        self.bn2 = nn.BatchNorm2d(hidden)
        self.relu2 = nn.ReLU(inplace=True)
        self.conv3 = nn.Conv2d(hidden, out_channels, 1, bias=False)
        self.bn3 = nn.BatchNorm2d(out_channels)
        self.shortcut: nn.Module | None = None
        if stride == 1 and in_channels == out_channels:
            self.shortcut = nn.Identity()
        elif stride == 1 and projection:
            self.shortcut = nn.Sequential(
                nn.Conv2d(in_channels, out_channels, 1, bias=False), nn.BatchNorm2d(out_channels)
            )

    def forward(self, x: Tensor) -> Tensor:
        out = self.relu1(self.bn1(self.conv1(x)))
        out = self.relu2(self.bn2(self.conv2(out)))
        out = self.bn3(self.conv3(out))
        return out if self.shortcut is None else out + self.shortcut(x)


class MobileNetV2(ImageNetwork):
    """MobileNetV2: seven stages of `InvertedResidual` blocks, named layer1 to layer7.

    It has 2,428,004 parameters for small images and 100 classes, and 3,507,272 for ImageNet.

    Args:
        num_classes, in_chans: outputs, and channels of the image.
        images: "small" (32 pixels: a 1x1 stem that pads by one pixel, three halvings, projection shortcuts) or "imagenet"
            (224 pixels: a 3x3 stem of stride 2, five halvings).
        dropout: probability before the classifier; None takes the release's value: 0.2 on ImageNet, 0 on small images.
        attention: efficient channel attention (ECA, Wang et al. 2020) behind each stage of several blocks, layer2 to layer6.
            The release's network for MobileNetV2-Shared++ has 17 parameters of ECA. The versions of the release that we have
            do not show in which layers, so the place is fitted to this number: the kernels for 24, 32, 64, 96 and 160 channels
            have 3 + 3 + 3 + 3 + 5 weights.

    Shape:
        x: (N, in_chans, H, W) -> (N, num_classes).

    Raises:
        SettingError: a setting out of range.
    """

    def __init__(
        self,
        num_classes: int = 1000,
        in_chans: int = 3,
        images: Literal["small", "imagenet"] = "imagenet",
        dropout: float | None = None,
        attention: bool = False,
    ) -> None:
        at_least_one(num_classes=num_classes, in_chans=in_chans)
        check_choice("images", images, ("small", "imagenet"))
        check_bool("attention", attention)
        from timm.layers.eca import EcaModule

        small = images == "small"
        if dropout is None:
            dropout = 0.0 if small else 0.2
        if isinstance(dropout, bool) or not isinstance(dropout, int | float) or not 0 <= dropout < 1:
            raise SettingError(f"dropout={dropout!r} must be a number of at least 0 and below 1")
        side = 32 if small else 224
        super().__init__(num_classes, (in_chans, side, side))
        self.conv1 = nn.Conv2d(in_chans, 32, 1, padding=1) if small else nn.Conv2d(in_chans, 32, 3, 2, 1)
        self.bn1 = nn.BatchNorm2d(32)
        self.relu = nn.ReLU6(inplace=True)
        channels, reduction = 32, 1 if small else 2
        for index, (expansion, width, depth, stride) in enumerate(STAGES):
            first_stride = SMALL_STRIDES[index] if small else stride
            reduction *= first_stride
            blocks = [InvertedResidual(channels, width, expansion, first_stride, small)]
            blocks += [InvertedResidual(width, width, expansion, 1, small) for _ in range(depth - 1)]
            behind = [EcaModule(width)] if attention and depth > 1 else []
            self.add_module(f"layer{index + 1}", nn.Sequential(*blocks, *behind))
            self.feature_info.append({"num_chs": width, "reduction": reduction, "module": f"layer{index + 1}"})
            channels = width
        self.head_conv = nn.Conv2d(channels, 1280, 1)
        self.head_bn = nn.BatchNorm2d(1280)
        self.head_relu = nn.ReLU6(inplace=True)
        self.avgpool = nn.AdaptiveAvgPool2d(1)
        self.dropout = nn.Dropout(dropout)
        self.fc = nn.Linear(1280, num_classes)
        init_convs_(self)

    def forward(self, x: Tensor) -> Tensor:
        x = self.relu(self.bn1(self.conv1(x)))
        for index in range(len(STAGES)):
            x = self.get_submodule(f"layer{index + 1}")(x)
        x = self.head_relu(self.head_bn(self.head_conv(x)))
        return self.fc(torch.flatten(self.dropout(self.avgpool(x)), 1))
