"""ShardNet's residual networks, for small images and for ImageNet.

Source: "ShardNet", Tables 4 and 5, Fig. 6 and appendix A.3. Details that the text leaves open are inferred from the counts in
Tables 2, 7 and 8.
"""

from __future__ import annotations

from typing import Literal

import torch
from torch import Tensor, nn

from leanconv.core.errors import SettingError
from leanconv.core.settings import check_bool, check_choice
from leanconv.models.entry import ModelEntry
from leanconv.models.layers import at_least_one, init_convs_
from leanconv.models.shard_layers import BlendedNetwork, FilterSet, init_blend_

Stem = Literal["shared", "3x3", "7x7"]
STEMS = ("shared", "3x3", "7x7")
Pool = Literal["global", "3"]
POOLS = ("global", "3")
EXPANSION = 4


class ShardBlock(nn.Module):
    """A residual block: relu(convolutions(x) + x).

    Each convolution has its own normalisation layer, and a ReLU follows each except the last. A basic block has two 3x3
    convolutions. A bottleneck has a 1x1 from 4 w to w channels, a 3x3, and a 1x1 back to 4 w. The shape never changes, so there
    is no projection shortcut.

    Args:
        filters: makes the convolutions.
        width: w.
        bottleneck: a bottleneck in place of a basic block.

    Shape:
        x: (N, C, H, W) -> (N, C, H, W); C is w, or 4 w for a bottleneck.
    """

    def __init__(self, filters: FilterSet, width: int, bottleneck: bool) -> None:
        super().__init__()
        wide = EXPANSION * width
        shapes = [(wide, width, 1), (width, width, 3), (width, wide, 1)] if bottleneck else [(width, width, 3)] * 2
        for number, (in_channels, out_channels, kernel_size) in enumerate(shapes, 1):
            self.add_module(f"conv{number}", filters.conv(in_channels, out_channels, kernel_size))
            self.add_module(f"bn{number}", nn.BatchNorm2d(out_channels))
            self.add_module(f"relu{number}", nn.ReLU(inplace=True))
        self.depth = len(shapes)

    def forward(self, x: Tensor) -> Tensor:
        out = x
        for number in range(1, self.depth + 1):
            out = getattr(self, f"bn{number}")(getattr(self, f"conv{number}")(out))
            if number == self.depth:
                out = out + x
            out = getattr(self, f"relu{number}")(out)
        return out


class ShardResNet(BlendedNetwork):
    """A stem, then scales of residual blocks, with a 1x1 convolution and a max-pool between two scales.

    With `shared`, all blocks use one filter set (SLb-ResNet(n), SL-ResNet-34(n)); bottlenecks use one set for each of their three
    convolutions (SL-ResNet-50(n)). The width is then equal at every scale, and the 1x1 convolutions between the scales are the
    blending layers ``blend1``, ``blend2``, ... With bottlenecks, the 1x1 ``widen`` behind the stem is a blending layer too:
    appendix A.3 counts it among the linear layers, and Fig. 5 prunes it with them. Without `shared`, each convolution has its own
    weight, and the width doubles with each scale (Eb-ResNet(p), E-ResNet). All other convolutions have biases.

    Parameters of the convolutions: SLb 11 n**2 + 3 n; SL-34 12 n**2 + n and the stem; SL-50 69 n**2 + 6 n and the stem.
    SL-ResNet-34(512) has 22 times the MACs of ResNet-34.

    Args:
        num_classes, in_chans: outputs, and channels of the image.
        width: n with `shared`; p without.
        blocks: b, the blocks in each scale.
        scales: number of scales.
        shared: share the filter set.
        bottleneck: bottlenecks in place of basic blocks; a 1x1 without bias then widens the output of the stem.
        stem: "shared": the shared filter set, on an image with added zero channels. "3x3": a 3x3 with its own weight. "7x7": a
            7x7 of stride 2 and a max-pool (ImageNet). Without `shared`, "shared" means a 3x3.
        blend_bias: whether the 1x1 convolutions between scales have biases. (They do in the counts of the CIFAR networks.)
        pool: "global": the classifier reads the average of the whole map. "3": it reads the averages of 3x3 patches, as Table 5
            prints ("avgpool-3"): 2x2 of them on a map of 7x7, with four times the weights in `fc`. The printed 18.5 M of
            SL-ResNet-50 include a classifier on the global average, so "global" is the default.

    Shape:
        x: (N, in_chans, H, W) -> (N, num_classes).

    Raises:
        SettingError: a setting out of range; `pool` "3" with a shared stem, whose last map is 8x8 (Table 4: avgpool-8).
    """

    def __init__(
        self,
        num_classes: int = 10,
        in_chans: int = 3,
        width: int = 128,
        blocks: int = 3,
        scales: int = 3,
        shared: bool = True,
        bottleneck: bool = False,
        stem: Stem = "shared",
        blend_bias: bool = True,
        pool: Pool = "global",
    ) -> None:
        at_least_one(num_classes=num_classes, in_chans=in_chans, width=width, blocks=blocks, scales=scales)
        for name, value in (("shared", shared), ("bottleneck", bottleneck), ("blend_bias", blend_bias)):
            check_bool(name, value)
        check_choice("stem", stem, STEMS)
        check_choice("pool", pool, POOLS)
        if pool == "3" and stem == "shared":
            raise SettingError(
                "pool='3' is for the 7x7 maps of stem='3x3' or '7x7'; with stem='shared' use pool='global'"
            )
        side = {"shared": 32, "3x3": 56, "7x7": 224}[stem]
        super().__init__(num_classes, (in_chans, side, side))
        filters, factor = FilterSet(shared), EXPANSION if bottleneck else 1
        reduction = 4 if stem == "7x7" else 1
        if stem == "shared":
            self.conv1 = filters.image_conv(in_chans, width, 3)
        else:
            size, stride = (7, 2) if stem == "7x7" else (3, 1)
            self.conv1 = nn.Conv2d(in_chans, width, size, stride, size // 2)
        self.bn1 = nn.BatchNorm2d(width)
        self.relu = nn.ReLU(inplace=True)
        if bottleneck:
            self.widen = nn.Conv2d(width, factor * width, 1, bias=False)
            if shared:
                self.blends.append("widen")
        if stem == "7x7":
            self.maxpool = nn.MaxPool2d(2)
        for scale in range(1, scales + 1):
            layers = [ShardBlock(filters, width, bottleneck) for _ in range(blocks)]
            self.add_module(f"layer{scale}", nn.Sequential(*layers))
            module = {"num_chs": factor * width, "reduction": reduction, "module": f"layer{scale}"}
            self.feature_info.append(module)
            if scale < scales:
                wider = width if shared else 2 * width
                if shared:
                    self.blends.append(f"blend{scale}")
                self.add_module(f"blend{scale}", nn.Conv2d(factor * width, factor * wider, 1, bias=blend_bias))
                self.add_module(f"pool{scale}", nn.MaxPool2d(2))
                width, reduction = wider, 2 * reduction
        self.scales, self.widens, self.pools_stem = scales, bottleneck, stem == "7x7"
        patches = side // (4 if stem == "7x7" else 1) // 2 ** (scales - 1) // 3 if pool == "3" else 1
        self.avgpool: nn.Module = nn.AdaptiveAvgPool2d(1) if pool == "global" else nn.AvgPool2d(3)
        self.fc = nn.Linear(factor * width * patches**2, num_classes)
        init_convs_(self)
        for scale in range(1, scales if shared else 1):  # `widen` changes the width, so it cannot start as the identity
            init_blend_(self.get_submodule(f"blend{scale}"))

    def forward(self, x: Tensor) -> Tensor:
        x = self.relu(self.bn1(self.conv1(x)))
        if self.widens:
            x = self.widen(x)
        if self.pools_stem:
            x = self.maxpool(x)
        for scale in range(1, self.scales + 1):
            x = self.get_submodule(f"layer{scale}")(x)
            if scale < self.scales:
                x = self.get_submodule(f"pool{scale}")(self.get_submodule(f"blend{scale}")(x))
        return self.fc(torch.flatten(self.avgpool(x), 1))


TINY, IMAGENET = (3, 56, 56), (3, 224, 224)
_PAPER = "ShardNet, Tables 2 and 5"
_DEEP = {"blocks": 4, "scales": 4, "blend_bias": False}
_OWN = {"shared": False, "width": 64}
_WIDE = {"width": 512}
_50 = {"bottleneck": True}
_TINY = {"stem": "3x3", "num_classes": 200}
_LARGE = {"stem": "7x7", "num_classes": 1000}
ENTRIES: tuple[ModelEntry, ...] = (
    ModelEntry("shard_resnet", ShardResNet, {}, "ShardNet, Tables 4, 7 and 8: SLb-ResNet(n), b = 3"),
    ModelEntry("shard_resnet_e", ShardResNet, {"shared": False, "width": 16}, "ShardNet, Tables 4 and 7: Eb-ResNet(p), b = 3"),
    ModelEntry("shard_resnet34_tiny", ShardResNet, _DEEP | _WIDE | _TINY, f"{_PAPER}: SL-ResNet-34(n)", TINY),
    ModelEntry("shard_resnet50_tiny", ShardResNet, _DEEP | _WIDE | _TINY | _50, f"{_PAPER}: SL-ResNet-50(n)", TINY),
    ModelEntry("shard_resnet34_e_tiny", ShardResNet, _DEEP | _OWN | _TINY, f"{_PAPER}: E-ResNet-34", TINY),
    ModelEntry("shard_resnet50_e_tiny", ShardResNet, _DEEP | _OWN | _TINY | _50, f"{_PAPER}: E-ResNet-50", TINY),
    ModelEntry("shard_resnet34", ShardResNet, _DEEP | _WIDE | _LARGE, f"{_PAPER}: SL-ResNet-34(n)", IMAGENET),
    ModelEntry("shard_resnet50", ShardResNet, _DEEP | _WIDE | _LARGE | _50, f"{_PAPER}: SL-ResNet-50(n)", IMAGENET),
    ModelEntry("shard_resnet34_e", ShardResNet, _DEEP | _OWN | _LARGE, f"{_PAPER}: E-ResNet-34", IMAGENET),
    ModelEntry("shard_resnet50_e", ShardResNet, _DEEP | _OWN | _LARGE | _50, f"{_PAPER}: E-ResNet-50", IMAGENET),
)  # fmt: skip
