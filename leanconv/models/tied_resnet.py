"""Residual networks with tied convolutions in the bottleneck: TiedResNet, TiedResNeXt and TiedSENet.

Source: Wang & Yu 2021, "TBC/TGC in Bottleneck Modules", Fig. 4a and 4b. The release contains no network, and the text does not
define the bottleneck completely. The missing details were fitted to the parameters of Tables 1, 5 and 6 (see `TiedBottleneck`).
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import reduce
from typing import Any

import torch
from torch import Tensor, nn

from leanconv.core.errors import SettingError
from leanconv.core.settings import check_choice, check_int
from leanconv.models.layers import ImageNetwork, at_least_one, init_convs_
from leanconv.ops.attention import TiedSE
from leanconv.ops.tied_block import TiedBlockConv2d

POINTWISE_BLOCKS = 2  # B of the entry and of the shortcut: "we replace the entry one by TBC with B = 2"
PAPER_BLOCKS = (1, 2, 4, 8)  # of the four splits: "B is 1,2,4,8 separately for the four 3x3 TBC layers"

# For splits that (1, 2, 4, 8) does not divide, or that are not four: fitted to the parameters of Tables 1 and 5.
# The key is (splits, base_width, groups).
FITTED_BLOCKS: dict[tuple[int, int, int], tuple[int, ...]] = {
    (4, 18, 1): (1, 2, 2, 3),
    (2, 48, 1): (1, 2),
    (6, 24, 1): (1, 2, 2, 2, 2, 2),
    (8, 18, 1): (1, 1, 1, 1, 2, 2, 2, 2),
    (4, 72, 4): (1, 2, 3, 6),
    (4, 36, 2): (1, 2, 3, 6),  # the paper prints no figure to fit; taken from the wider network
}


def default_blocks(splits: int, base_width: int, groups: int = 1) -> tuple[int, ...]:
    """The number of blocks B of each split: fitted for the paper's own networks, else the paper's 1, 2, 4, 8.

    >>> default_blocks(4, 32), default_blocks(4, 18)
    ((1, 2, 4, 8), (1, 2, 2, 3))

    Args:
        splits, base_width, groups: see `TiedBottleneck`.

    Raises:
        SettingError: the values are not fitted, and 1, 2, 4, 8 do not divide the splits; pass blocks.
    """
    fitted = FITTED_BLOCKS.get((splits, base_width, groups))
    if fitted is not None:
        return fitted
    if splits == len(PAPER_BLOCKS) and base_width % (groups * PAPER_BLOCKS[-1]) == 0:
        return PAPER_BLOCKS
    channels = f"base_width={base_width}" + (f" / groups={groups}" if groups > 1 else "")
    raise SettingError(
        f"splits={splits} of {channels} have no known blocks; pass blocks=({', '.join(['1'] * splits)}), "
        f"one number for each split, each a divisor of {channels}"
    )


def _unit(conv: nn.Conv2d | TiedBlockConv2d) -> nn.Sequential:
    return nn.Sequential(conv, nn.BatchNorm2d(conv.out_channels), nn.ReLU(inplace=True))


def _point(in_channels: int, out_channels: int) -> nn.Sequential:
    return _unit(nn.Conv2d(in_channels, out_channels, 1, bias=False))


class Mixer(nn.Module):
    """Mixes the splits of a bottleneck. It fuses them, and appends the result to the splits or adds it to them.

    f is the element-wise sum of the splits, or their concatenation:

        output="append":  cat(splits, point2(point1(f)));    point2 has `extra` output channels
        output="add":     each split + k3(point1(f));        k3 is a 3x3; if f is a concatenation, k3 is TBC with B = 4

    A normalisation layer and a ReLU follow each convolution.

    Args:
        splits: number of splits.
        width: channels of each split.
        extra: channels to append.
        fusion: "sum" or "concatenate".
        output: "append" or "add".

    Shape:
        parts: `splits` maps of (N, width, H, W) -> (N, out_channels, H, W).

    Source: Wang & Yu 2021, "Mixer module in TiedBottleneck" and Table 6. The paper only names the two fusions. The rest is
    fitted: "append" to Tables 1, 5 and 6; "add" to the concatenation of Table 6, from which "append" differs by 3.5 %.
    """

    def __init__(self, splits: int, width: int, extra: int, fusion: str, output: str) -> None:
        super().__init__()
        self.fusion, self.output = fusion, output
        fused = width if fusion == "sum" else splits * width
        if output == "append":
            self.convs = nn.Sequential(_point(fused, fused), _point(fused, extra))
            self.out_channels = splits * width + extra
        else:
            blocks = 1 if fusion == "sum" else 4
            spatial = TiedBlockConv2d(fused, fused, 3, padding=1, bias=False, blocks=blocks)
            self.convs = nn.Sequential(_point(fused, fused), _unit(spatial))
            self.out_channels = splits * width

    def forward(self, parts: list[Tensor]) -> Tensor:
        fused = reduce(torch.add, parts) if self.fusion == "sum" else torch.cat(parts, 1)
        mixed = self.convs(fused)
        if self.output == "append":
            return torch.cat([*parts, mixed], 1)
        if self.fusion == "sum":
            return torch.cat([part + mixed for part in parts], 1)
        return fused + mixed

    def extra_repr(self) -> str:
        """The settings, as ``print(module)`` shows them."""
        return f"fusion={self.fusion!r}, output={self.output!r}"


class TiedBottleneck(nn.Module):
    """A bottleneck whose 3x3 convolution is split. Each split is a tied convolution with its own number of blocks.

        parts = split(entry(x));   y_i = k3_i(part_i);   out = relu(attention(norm(exit(mixer(y)))) + shortcut(x))

    Each of s splits has w = base_width * planes / 64 channels; D = s w.

    1. entry: 1x1 TBC with B = 2 from in_channels to D channels, normalisation, ReLU;
    2. k3_i: 3x3 TBC with B_i (TGC if groups > 1) and the stride, normalisation, ReLU;
    3. `Mixer`; without a mixer the splits are concatenated;
    4. exit: ordinary 1x1 to 4 * planes channels, normalisation, attention;
    5. shortcut, if the shape changes: 1x1 TBC with B = 2 and the stride, normalisation.

    Args:
        in_channels: of the input.
        planes: p; the block has 4 p output channels.
        stride: of the 3x3 and the shortcut.
        splits: s.
        base_width: each split has base_width * planes / 64 channels.
        blocks: B_i, one for each split; None takes `default_blocks`.
        groups: G of each split's 3x3, for TiedResNeXt.
        mixer: fusion of the splits: "sum" (the paper's choice), "concatenate", or None.
        mixer_output: "append" or "add", see `Mixer`.
        attention: None or "se", a squeeze-and-excitation block.
        reduction: of the attention.
        attention_blocks: B of the attention; 1 means not tied.

    Shape:
        x: (N, in_channels, H, W) -> (N, 4 planes, H', W'), divided by the stride.

    Raises:
        SettingError: `blocks` or `groups` do not divide a split, or the splits together have an odd number of channels.

    Source: Wang & Yu 2021, Fig. 4a and 4b. From the text: entry, exit, splits, B_i of 4 x 32, a mixer on the sum. Inferred from
    the counts: the tied shortcut and the position of the stride. Fitted: the inside of the mixer (`Mixer`), and B_i of the other
    splits. No structure that we tried reproduces every row of Tables 1, 5 and 6; this one comes closest.
    """

    expansion = 4

    def __init__(
        self,
        in_channels: int,
        planes: int,
        stride: int = 1,
        *,
        splits: int = 4,
        base_width: int = 32,
        blocks: Sequence[int] | None = None,
        groups: int = 1,
        mixer: str | None = "sum",
        mixer_output: str = "append",
        attention: str | None = None,
        reduction: int = 16,
        attention_blocks: int = 1,
    ) -> None:
        super().__init__()
        for name, value in (("splits", splits), ("base_width", base_width), ("groups", groups)):
            check_int(name, value)
        check_choice("mixer", mixer, ("sum", "concatenate", None))  # type: ignore[arg-type]  # None is an option here
        check_choice("mixer_output", mixer_output, ("append", "add"))
        check_choice("attention", attention, ("se", None))  # type: ignore[arg-type]
        blocks = default_blocks(splits, base_width, groups) if blocks is None else tuple(blocks)
        if len(blocks) != splits:
            raise SettingError(f"blocks={blocks} must hold one number for each of splits={splits}")
        if splits * base_width % POINTWISE_BLOCKS:
            raise SettingError(
                f"splits={splits} times base_width={base_width} must be even, since the entry has "
                f"{POINTWISE_BLOCKS} blocks; base_width={base_width + 1} would do"
            )
        self.width = width = base_width * planes // 64
        channels, out_channels = splits * width, self.expansion * planes
        self.entry = _unit(TiedBlockConv2d(in_channels, channels, 1, bias=False, blocks=POINTWISE_BLOCKS))
        self.parts = nn.ModuleList(
            _unit(TiedBlockConv2d(width, width, 3, stride, 1, groups=groups, bias=False, blocks=b)) for b in blocks
        )
        self.mixer = None if mixer is None else Mixer(splits, width, planes // 2, mixer, mixer_output)
        mixed = channels if self.mixer is None else self.mixer.out_channels
        self.exit = nn.Sequential(nn.Conv2d(mixed, out_channels, 1, bias=False), nn.BatchNorm2d(out_channels))
        self.attention = None if attention is None else TiedSE(out_channels, reduction, blocks=attention_blocks)
        self.shortcut: nn.Module = nn.Identity()
        if stride != 1 or in_channels != out_channels:
            tied = TiedBlockConv2d(in_channels, out_channels, 1, stride, bias=False, blocks=POINTWISE_BLOCKS)
            self.shortcut = nn.Sequential(tied, nn.BatchNorm2d(out_channels))
        self.relu = nn.ReLU(inplace=True)

    def forward(self, x: Tensor) -> Tensor:
        split = self.entry(x).split(self.width, 1)
        parts = [part(split[i]) for i, part in enumerate(self.parts)]
        out = self.exit(torch.cat(parts, 1) if self.mixer is None else self.mixer(parts))
        if self.attention is not None:
            out = self.attention(out)
        return self.relu(out + self.shortcut(x))


class TiedResNet(ImageNetwork):
    """The ImageNet residual network with `TiedBottleneck`: 7x7 stem, max-pool, stages layer1, layer2, ..., classifier.

    Each stage except the first halves the feature map; planes are 64, 128, 256, 512.

    Args:
        depths: blocks in each stage.
        num_classes, in_chans: outputs, and channels of the image.
        splits, base_width, blocks, groups, mixer, mixer_output, attention, reduction, attention_blocks: see
            `TiedBottleneck`.

    Shape:
        x: (N, in_chans, H, W) -> (N, num_classes).

    Raises:
        SettingError: `TiedBottleneck` refuses a setting.

    Source: Wang & Yu 2021, Table 1. The defaults give TiedResNet-50 with 4 splits of base width 32. Stem and classifier are those
    of ResNet (inferred from the counts).
    """

    def __init__(
        self,
        depths: Sequence[int] = (3, 4, 6, 3),
        num_classes: int = 1000,
        in_chans: int = 3,
        splits: int = 4,
        base_width: int = 32,
        blocks: Sequence[int] | None = None,
        groups: int = 1,
        mixer: str | None = "sum",
        mixer_output: str = "append",
        attention: str | None = None,
        reduction: int = 16,
        attention_blocks: int = 1,
    ) -> None:
        at_least_one(num_classes=num_classes, in_chans=in_chans)
        if not depths or not all(isinstance(depth, int) and depth >= 1 for depth in depths):
            raise SettingError(f"depths={depths!r} must be blocks for each stage, such as (3, 4, 6, 3)")
        super().__init__(num_classes, (in_chans, 224, 224))
        settings: dict[str, Any] = dict(
            splits=splits, base_width=base_width, blocks=blocks, groups=groups, mixer=mixer, mixer_output=mixer_output,
            attention=attention, reduction=reduction, attention_blocks=attention_blocks,
        )  # fmt: skip
        self.conv1 = nn.Conv2d(in_chans, 64, 7, stride=2, padding=3, bias=False)
        self.bn1 = nn.BatchNorm2d(64)
        self.relu = nn.ReLU(inplace=True)
        self.feature_info.append({"num_chs": 64, "reduction": 2, "module": "relu"})
        self.maxpool = nn.MaxPool2d(3, stride=2, padding=1)
        self.stages = tuple(f"layer{index + 1}" for index in range(len(depths)))
        channels = 64
        for index, (name, depth) in enumerate(zip(self.stages, depths, strict=True)):
            planes = 64 * 2**index
            first = TiedBottleneck(channels, planes, 1 if index == 0 else 2, **settings)
            channels = TiedBottleneck.expansion * planes
            rest = [TiedBottleneck(channels, planes, **settings) for _ in range(depth - 1)]
            self.add_module(name, nn.Sequential(first, *rest))
            self.feature_info.append({"num_chs": channels, "reduction": 4 * 2**index, "module": name})
        self.avgpool = nn.AdaptiveAvgPool2d(1)
        self.fc = nn.Linear(channels, num_classes)
        init_convs_(self)

    def forward(self, x: Tensor) -> Tensor:
        x = self.maxpool(self.relu(self.bn1(self.conv1(x))))
        for name in self.stages:
            x = getattr(self, name)(x)
        return self.fc(torch.flatten(self.avgpool(x), 1))
