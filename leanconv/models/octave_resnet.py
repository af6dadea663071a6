"""ResNet with octave convolutions: feature maps between the stem and the last stage are pairs, a high map and a low map of half
the height and width.

Source: Chen et al. 2019b, "Drop an Octave: Reducing Spatial Redundancy in Convolutional Neural Networks with Octave
Convolution"; a peer in Table 2 of SPConv.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Literal

import torch
from torch import Tensor, nn

from leanconv.core.errors import SettingError
from leanconv.core.settings import check_choice
from leanconv.models.entry import ModelEntry
from leanconv.models.layers import ImageNetwork, at_least_one, init_convs_
from leanconv.ops.octave import OctaveConv2d, Pair, low_channels

PLANES = (64, 128, 256, 512)
EXPANSION = 4
Down = Literal["stride", "pool"]
DOWNS: tuple[Down, ...] = ("stride", "pool")


class OctaveDown(OctaveConv2d):
    """An octave convolution of stride 2, whose low input contributes to the high output without a stride.

    The low input already has the size of the high output. A stride there would only be undone by repeating pixels:

        high' = conv(high, W_hh, stride 2) + conv(low, W_lh)
        low'  = conv(pool(high), W_hl, stride 2) + conv(low, W_ll, stride 2)

    Args:
        in_channels, out_channels, kernel_size: see `leanconv.OctaveConv2d`.
        alpha_in, alpha_out: the share of the channels that is low.
        down: "pool": both maps are pooled first, and no convolution has a stride, as in the releases:
            high' = conv(pool(high), W_hh) + conv(low, W_lh) and low' = conv(pool(pool(high)), W_hl) + conv(pool(low), W_ll).
            "stride": as above. The tensors are equal in both cases, but the functions differ.

    Shape:
        (high, low) -> (high, low), each with half the height and width, rounded up.

    Source: the release of Chen et al. 2019b, which pools where "stride" uses a stride. Both cost more than the paper's formula:
    by the formula Oct-ResNet-50 at alpha 0.5 has 2.25 G MACs; here it has 2.37 G, and 2.40 G in SPConv's way of counting, which
    is the figure that SPConv prints.
    """

    def __init__(
        self,
        in_channels: int,
        out_channels: int,
        kernel_size: int,
        *,
        alpha_in: float = 0.5,
        alpha_out: float = 0.5,
        down: Down = "pool",
    ) -> None:
        super().__init__(
            in_channels,
            out_channels,
            kernel_size,
            2,
            kernel_size // 2,
            bias=False,
            alpha_in=alpha_in,
            alpha_out=alpha_out,
        )
        self.set_down(down)

    def set_down(self, down: Down) -> None:
        """Choose how the maps are halved: "stride" or "pool"."""
        self.down = down
        stride = (2, 2) if down == "stride" else (1, 1)
        for path in (self.high_to_high, self.high_to_low, self.low_to_low):
            if path is not None:
                path.stride = stride
        if self.low_to_high is not None:
            self.low_to_high.stride = (1, 1)

    def forward(self, x: Pair) -> Pair:
        high, low = x
        if self.down == "pool":
            high = self.pool(high)
        new_high = self.high_to_high(high)
        if self.low_to_high is not None:
            new_high = new_high + self.low_to_high(low)
        if self.high_to_low is None:
            return new_high, None
        new_low = self.high_to_low(self.pool(high))
        if self.low_to_low is None or low is None:
            return new_high, new_low
        return new_high, new_low + self.low_to_low(self.pool(low) if self.down == "pool" else low)


class OctaveUnit(nn.Module):
    """An octave convolution, and a normalisation layer for each of its two outputs.

    Args:
        in_channels, out_channels, kernel_size, stride: of the convolution, high and low channels together.
        alpha_in, alpha_out: the share of the channels that is low.
        relu: whether a ReLU follows.
        down: see `OctaveDown`; only used if the stride is 2.

    Shape:
        (high, low) -> (high, low). A low map is (N, alpha C, H / 2, W / 2), or None if its alpha is 0.
    """

    def __init__(
        self,
        in_channels: int,
        out_channels: int,
        kernel_size: int,
        stride: int = 1,
        *,
        alpha_in: float,
        alpha_out: float,
        relu: bool = True,
        down: Down = "pool",
    ) -> None:
        super().__init__()
        alphas: dict[str, Any] = {"alpha_in": alpha_in, "alpha_out": alpha_out}
        self.conv: OctaveConv2d
        if stride == 2:
            self.conv = OctaveDown(in_channels, out_channels, kernel_size, **alphas, down=down)
        else:
            self.conv = OctaveConv2d(
                in_channels, out_channels, kernel_size, padding=kernel_size // 2, bias=False, **alphas
            )
        low = low_channels(out_channels, alpha_out, "alpha_out")
        self.high = nn.BatchNorm2d(out_channels - low)
        self.low = nn.BatchNorm2d(low) if low else None
        self.relu = nn.ReLU(inplace=True) if relu else nn.Identity()

    def forward(self, x: Pair) -> Pair:
        high, low = self.conv(x)
        high = self.relu(self.high(high))
        return high, None if low is None or self.low is None else self.relu(self.low(low))


class OctaveBottleneck(nn.Module):
    """A bottleneck on pairs of maps: relu(exit(k3(entry(x))) + shortcut(x)).

    The 3x3 has the stride. The entry changes alpha_in to alpha_out; the later convolutions keep alpha_out.

    Args:
        in_channels: high and low channels together.
        planes: inner width; the block has 4 * planes output channels.
        stride: 1 or 2.
        alpha_in, alpha_out: the share of the channels that is low.
        down: see `OctaveDown`.

    Shape:
        (high, low) -> (high, low), together 4 * planes channels.
    """

    def __init__(
        self,
        in_channels: int,
        planes: int,
        stride: int = 1,
        *,
        alpha_in: float = 0.5,
        alpha_out: float = 0.5,
        down: Down = "pool",
    ) -> None:
        super().__init__()
        inner: dict[str, Any] = {"alpha_in": alpha_out, "alpha_out": alpha_out}
        out_channels = EXPANSION * planes
        self.entry = OctaveUnit(in_channels, planes, 1, alpha_in=alpha_in, alpha_out=alpha_out)
        self.k3 = OctaveUnit(planes, planes, 3, stride, **inner, down=down)
        self.exit = OctaveUnit(planes, out_channels, 1, relu=False, **inner)
        self.shortcut: nn.Module = nn.Identity()
        if stride != 1 or in_channels != out_channels or alpha_in != alpha_out:
            self.shortcut = OctaveUnit(
                in_channels, out_channels, 1, stride, alpha_in=alpha_in, alpha_out=alpha_out, relu=False, down=down
            )
        self.relu = nn.ReLU(inplace=True)

    def forward(self, x: Pair) -> Pair:
        high, low = self.exit(self.k3(self.entry(x)))
        other_high, other_low = self.shortcut(x)
        high = self.relu(high + other_high)
        return high, None if low is None or other_low is None else self.relu(low + other_low)


class AsPair(nn.Module):
    """Turn a feature map into a pair without a low map: x -> (x, None)."""

    def forward(self, x: Tensor) -> Pair:
        return x, None


class High(nn.Module):
    """Return the high map of a pair: (high, low) -> high."""

    def forward(self, x: Pair) -> Tensor:
        return x[0]


class OctaveResNet(ImageNetwork):
    """The ImageNet residual network with octave convolutions in layer1 to layer3.

    The number of weights equals that of the ordinary network; MACs fall with alpha. The entry and the shortcut of the first block
    make pairs of maps. Those of layer4 turn the pairs into single maps again.

    Args:
        num_classes, in_chans: outputs, and channels of the image.
        depths: blocks in each of the four stages; 3, 4, 6, 3 is ResNet-50.
        alpha: the share of the channels that is low.
        down: how maps are halved: "pool" as OctConv's release, or "stride", see `OctaveDown`. With "stride", alpha 0 is the
            ordinary network. Networks saved before "pool" became the default stay as they were.

    Shape:
        x: (N, in_chans, H, W) -> (N, num_classes).

    Raises:
        SettingError: `alpha` is not a number from 0 to below 1, or `depths` are not four integers.

    Source: Chen et al. 2019b, section 4.1: octave convolutions replace all convolutions but the first, with alpha 0 in the last
    stage. `feature_info` lists two maps, because only the maps before and after the paired stages are single.
    """

    layer1: nn.Module
    layer2: nn.Module
    layer3: nn.Module
    layer4: nn.Module

    def __init__(
        self,
        num_classes: int = 1000,
        in_chans: int = 3,
        depths: Sequence[int] = (3, 4, 6, 3),
        alpha: float = 0.5,
        down: Down = "pool",
    ) -> None:
        at_least_one(num_classes=num_classes, in_chans=in_chans)
        check_choice("down", down, DOWNS)
        if isinstance(alpha, bool) or not isinstance(alpha, int | float) or not 0 <= alpha < 1:
            raise SettingError(f"alpha={alpha!r} must be a number of at least 0 and below 1")
        if len(depths) != len(PLANES) or not all(isinstance(depth, int) and depth >= 1 for depth in depths):
            raise SettingError(f"depths={depths!r} must be four numbers of blocks, such as (3, 4, 6, 3)")
        super().__init__(num_classes, (in_chans, 224, 224))
        self.conv1 = nn.Conv2d(in_chans, 64, 7, stride=2, padding=3, bias=False)
        self.bn1 = nn.BatchNorm2d(64)
        self.relu = nn.ReLU(inplace=True)
        self.maxpool = nn.MaxPool2d(3, stride=2, padding=1)
        self.pair = AsPair()
        channels, alpha_in = 64, 0.0
        for index, (planes, depth) in enumerate(zip(PLANES, depths, strict=True)):
            alpha_out = 0.0 if index == len(PLANES) - 1 else alpha
            stride = 1 if index == 0 else 2
            first = OctaveBottleneck(channels, planes, stride, alpha_in=alpha_in, alpha_out=alpha_out, down=down)
            channels, alpha_in = EXPANSION * planes, alpha_out
            rest = [
                OctaveBottleneck(channels, planes, alpha_in=alpha_out, alpha_out=alpha_out) for _ in range(depth - 1)
            ]
            self.add_module(f"layer{index + 1}", nn.Sequential(first, *rest))
        self.high = High()
        self.avgpool = nn.AdaptiveAvgPool2d(1)
        self.fc = nn.Linear(channels, num_classes)
        self.feature_info = [
            {"num_chs": 64, "reduction": 2, "module": "relu"},
            {"num_chs": channels, "reduction": 32, "module": "high"},
        ]
        init_convs_(self)

    def forward(self, x: Tensor) -> Tensor:
        pair = self.pair(self.maxpool(self.relu(self.bn1(self.conv1(x)))))
        pair = self.layer4(self.layer3(self.layer2(self.layer1(pair))))
        return self.fc(torch.flatten(self.avgpool(self.high(pair)), 1))


ENTRIES: tuple[ModelEntry, ...] = (
    ModelEntry(
        "oct_resnet50",
        OctaveResNet,
        {},
        "Chen et al. 2019b (OctConv), a peer in Table 2 of SPConv",
        (3, 224, 224),
    ),
)
