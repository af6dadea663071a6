"""VGG-16 for small images, with the classifiers (heads) of the papers.

Source: Simonyan & Zisserman 2015, configuration D, with batch norm: 3x3 convolutions in blocks of 2, 2, 3, 3, 3, and a max-pool
after each block. The head of SPConv is FC 512, batch norm, ReLU, FC. The head of ShardNet is FC, ReLU, dropout, twice, then FC.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Sequence

import torch
from torch import Tensor, nn

from leanconv.core.errors import SettingError
from leanconv.core.settings import check_choice
from leanconv.models.layers import ImageNetwork, at_least_one, init_convs_

DEPTHS = (2, 2, 3, 3, 3)
WIDTHS = (64, 128, 256, 512, 512)
HEADS = ("512bn", "512-512", "1024-1024", "linear")


class VGG16(ImageNetwork):
    """VGG-16: thirteen 3x3 convolutions, named block1.conv1 to block5.conv3, and a fully connected head.

    With the defaults it has 14,991,946 parameters (14,714,688 of them in convolutions) and 313.5 M MACs at 32x32 pixels. This is
    the correct baseline for SPConv's savings: the 16.62 M that SPConv prints include a parallel 1x1 at every convolution except
    the first.

    Args:
        num_classes, in_chans: outputs, and channels of the image.
        head: "512bn" (SPConv), "512-512" or "1024-1024" (ShardNet, CIFAR-10 and CIFAR-100), or "linear".
        conv_bias: whether the convolutions have biases; the counts of both papers include them.
        widths: channels of each of the five blocks; (n,) * 5 is ShardNet's E-VGGNet(n).
        dropout: probability after each hidden layer of the two ShardNet heads; the paper does not give it.

    Shape:
        x: (N, in_chans, H, W) -> (N, num_classes), for any H and W.
    """

    def __init__(
        self,
        num_classes: int = 10,
        in_chans: int = 3,
        head: str = "512bn",
        conv_bias: bool = True,
        widths: Sequence[int] = WIDTHS,
        dropout: float = 0.5,
    ) -> None:
        at_least_one(num_classes=num_classes, in_chans=in_chans)
        check_choice("head", head, HEADS)
        if not isinstance(widths, Sequence) or len(widths) != len(DEPTHS):
            raise SettingError(f"widths={widths!r} must hold {len(DEPTHS)} channel counts, one for each block")
        for width in widths:
            at_least_one(widths=width)
        if not isinstance(dropout, int | float) or not 0 <= dropout < 1:
            raise SettingError(f"dropout={dropout!r} must be a number of at least 0 and below 1")
        super().__init__(num_classes, (in_chans, 32, 32))
        channels = in_chans
        for index, (width, depth) in enumerate(zip(widths, DEPTHS, strict=True)):
            self.add_module(f"block{index + 1}", _block(channels, width, depth, conv_bias))
            module = {"num_chs": width, "reduction": 2 ** (index + 1), "module": f"block{index + 1}"}
            self.feature_info.append(module)
            channels = width
        # At 32x32 pixels this is the identity, because five pools leave one pixel
        self.avgpool = nn.AdaptiveAvgPool2d(1)
        self.head = _head(head, channels, num_classes, dropout)
        init_convs_(self)

    def forward(self, x: Tensor) -> Tensor:
        for index in range(len(DEPTHS)):
            x = getattr(self, f"block{index + 1}")(x)
        return self.head(torch.flatten(self.avgpool(x), 1))


def _block(in_channels: int, width: int, depth: int, bias: bool) -> nn.Sequential:
    layers: OrderedDict[str, nn.Module] = OrderedDict()
    for index in range(1, depth + 1):
        layers[f"conv{index}"] = nn.Conv2d(in_channels if index == 1 else width, width, 3, padding=1, bias=bias)
        layers[f"bn{index}"] = nn.BatchNorm2d(width)
        layers[f"relu{index}"] = nn.ReLU(inplace=True)
    # Rounding up keeps one pixel if an image is too small for five pools; for multiples of 32 it changes nothing
    layers["pool"] = nn.MaxPool2d(2, ceil_mode=True)
    return nn.Sequential(layers)


def _head(head: str, features: int, num_classes: int, dropout: float) -> nn.Sequential:
    if head == "linear":
        return nn.Sequential(OrderedDict(fc=nn.Linear(features, num_classes)))
    if head == "512bn":
        return nn.Sequential(
            OrderedDict(
                fc1=nn.Linear(features, 512),
                bn1=nn.BatchNorm1d(512),
                relu1=nn.ReLU(inplace=True),
                fc=nn.Linear(512, num_classes),
            )
        )
    hidden = int(head.partition("-")[0])
    return nn.Sequential(
        OrderedDict(
            fc1=nn.Linear(features, hidden),
            relu1=nn.ReLU(inplace=True),
            drop1=nn.Dropout(dropout),
            fc2=nn.Linear(hidden, hidden),
            relu2=nn.ReLU(inplace=True),
            drop2=nn.Dropout(dropout),
            fc=nn.Linear(hidden, num_classes),
        )
    )
