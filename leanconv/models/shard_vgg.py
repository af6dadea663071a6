"""ShardNet's VGG networks: all layers have the same width, so that one filter set can be used through the whole depth.

Source: "ShardNet", Table 3 and section 4. The paper counts weights and biases of convolutions, without normalisation layers and
the head.
"""

from __future__ import annotations

from collections import OrderedDict

import torch
from torch import Tensor, nn

from leanconv.core.errors import SettingError
from leanconv.core.settings import check_bool, check_choice
from leanconv.models.entry import ModelEntry
from leanconv.models.layers import at_least_one, init_convs_
from leanconv.models.shard_layers import BlendedNetwork, FilterSet, init_blend_

DEPTHS = (2, 2, 3, 3, 3)
HEADS = ("512-512", "1024-1024", "2048")


class ShardVGG(BlendedNetwork):
    """VGG-16's thirteen 3x3 convolutions in one width n, in five blocks named block1 to block5.

    - E-VGGNet(n) has thirteen filter sets: 108 n**2 + 40 n parameters.
    - S-VGGNet(n) has one filter set: 9 n**2 + n parameters.
    - SL-VGGNet(n) also has 1x1 blending layers without bias before the first four pools: 9 n**2 + n + 4 n**2 parameters.
    - SLl-VGGNet(n) is SL-VGGNet(n) with l convolutions in each block.

    Each convolution has a bias; its own normalisation layer and a ReLU follow. MACs do not fall with the parameters, and grow
    with n**2: S-VGGNet(512) has 13 times the MACs of VGG-16 (21 times if the zero channels of the image are multiplied too).

    Args:
        num_classes, in_chans: outputs, and channels of the image.
        width: n.
        shared: use one filter set for all convolutions; zero channels are added to the image, up to n.
        blend: add blending layers, named ``blend``, in blocks 1 to 4. They start as the identity; the paper gives no
            initialisation.
        uses: convolutions in each block; None means VGG-16's 2, 2, 3, 3, 3.
        head: hidden layers of the classifier: "512-512" (CIFAR-10), "1024-1024" (CIFAR-100) or "2048" (Tiny ImageNet with
            56 pixels: without the last pool, on 3 x 3 pixels).
        dropout: probability after each hidden layer of the head; the paper does not give it.

    Shape:
        x: (N, in_chans, H, W) -> (N, num_classes), for any H and W that leave at least one pixel.

    Raises:
        SettingError: a setting out of range.
    """

    def __init__(
        self,
        num_classes: int = 10,
        in_chans: int = 3,
        width: int = 128,
        shared: bool = True,
        blend: bool = True,
        uses: int | None = None,
        head: str = "512-512",
        dropout: float = 0.5,
    ) -> None:
        at_least_one(num_classes=num_classes, in_chans=in_chans, width=width)
        check_choice("head", head, HEADS)
        check_bool("shared", shared)
        check_bool("blend", blend)
        if uses is not None:
            at_least_one(uses=uses)
        if not isinstance(dropout, int | float) or not 0 <= dropout < 1:
            raise SettingError(f"dropout={dropout!r} must be a number of at least 0 and below 1")
        tiny = head == "2048"
        super().__init__(num_classes, (in_chans, 56, 56) if tiny else (in_chans, 32, 32))
        filters = FilterSet(shared)
        depths = DEPTHS if uses is None else (uses,) * len(DEPTHS)
        for index, depth in enumerate(depths, 1):
            last = index == len(depths)
            layers: OrderedDict[str, nn.Module] = OrderedDict()
            for number in range(1, depth + 1):
                first = index == number == 1
                conv = filters.image_conv(in_chans, width, 3) if first else filters.conv(width, width, 3)
                layers[f"conv{number}"] = conv
                layers[f"bn{number}"] = nn.BatchNorm2d(width)
                layers[f"relu{number}"] = nn.ReLU(inplace=True)
            if blend and not last:
                self.blends.append(f"block{index}.blend")
                layers["blend"] = nn.Conv2d(width, width, 1, bias=False)
            if not (tiny and last):
                # Rounding up keeps one pixel of a small image; for multiples of 32 it changes nothing
                layers["pool"] = nn.MaxPool2d(2, ceil_mode=not tiny)
            self.add_module(f"block{index}", nn.Sequential(layers))
            reduction = 2 ** min(index, 4 if tiny else 5)
            self.feature_info.append({"num_chs": width, "reduction": reduction, "module": f"block{index}"})
        side = 3 if tiny else 1  # the pools reduce 56 pixels to 3, and 32 pixels to 1
        self.avgpool = nn.AdaptiveAvgPool2d(side)
        self.head = _head(head, width * side * side, num_classes, dropout)
        init_convs_(self)
        for name in self.blends:
            init_blend_(self.get_submodule(name))

    def forward(self, x: Tensor) -> Tensor:
        for index in range(1, len(DEPTHS) + 1):
            x = getattr(self, f"block{index}")(x)
        return self.head(torch.flatten(self.avgpool(x), 1))


def _head(head: str, features: int, num_classes: int, dropout: float) -> nn.Sequential:
    layers: OrderedDict[str, nn.Module] = OrderedDict()
    for number, width in enumerate(map(int, head.split("-")), 1):
        layers[f"fc{number}"] = nn.Linear(features, width)
        layers[f"relu{number}"] = nn.ReLU(inplace=True)
        layers[f"drop{number}"] = nn.Dropout(dropout)
        features = width
    layers["fc"] = nn.Linear(features, num_classes)
    return nn.Sequential(layers)


_PAPER = "ShardNet, Tables 1, 3 and 6"
ENTRIES: tuple[ModelEntry, ...] = (
    ModelEntry("shard_vgg16", ShardVGG, {}, f"{_PAPER}: SL-VGGNet(n)"),
    ModelEntry("shard_vgg16_s", ShardVGG, {"blend": False}, f"{_PAPER}: S-VGGNet(n)"),
    ModelEntry("shard_vgg16_e", ShardVGG, {"shared": False, "blend": False}, f"{_PAPER}: E-VGGNet(n), the baseline"),
    ModelEntry("shard_vgg16_sl2", ShardVGG, {"uses": 2}, f"{_PAPER}: SL2-VGGNet(n)"),
    ModelEntry("shard_vgg16_sl3", ShardVGG, {"uses": 3}, f"{_PAPER}: SL3-VGGNet(n)"),
)
