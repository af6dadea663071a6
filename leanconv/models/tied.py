"""The networks of the TBC paper.

Source: Wang & Yu 2021, "Tied Block Convolution: Leaner and Better CNNs with Shared Thinner Filters". Its release contains only
operators. Every network here is rebuilt from the text, Figs. 4 and 5, and the printed counts.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from torch import nn

from leanconv.conversion.plan import Rule
from leanconv.core.settings import check_choice, check_int
from leanconv.models.entry import ModelEntry
from leanconv.models.planned import converted
from leanconv.models.tied_resnet import TiedResNet
from leanconv.ops.attention import TiedGlobalContext
from leanconv.ops.tied_block import TiedBlock, TiedBlockConv2d

TIED_IN_RESNEST: dict[str, tuple[str, ...]] = {
    "text": ("layer*.conv1", "layer*.conv2.conv"),
    "fitted": ("layer*.conv2.conv", "layer*.downsample.1", "layer*.conv2.fc1"),
}


def _timm(name: str, num_classes: int, in_chans: int, **settings: Any) -> nn.Module:
    import timm

    model: nn.Module = timm.create_model(name, num_classes=num_classes, in_chans=in_chans, **settings)
    model.default_input_size = (in_chans, 224, 224)  # type: ignore[assignment]
    return model


def _tied(dense: nn.Module, where: Sequence[str], blocks: int) -> nn.Module:
    """`dense` with TBC at the layers that match the globs. With one block, `dense` is returned unchanged."""
    check_int("blocks", blocks)
    rules: list[Rule] = [(glob, TiedBlock(blocks)) for glob in where]
    return dense if blocks == 1 else converted(dense, rules)


def tied_se_resnet50(num_classes: int = 1000, in_chans: int = 3, blocks: int = 8) -> nn.Module:
    """SE-ResNet-50 (reduction 16) whose squeeze and excitation layers are tied, with biases.

    Args:
        num_classes, in_chans: outputs, and channels of the image.
        blocks: B of both layers; 1 gives the ordinary network.

    Raises:
        SettingError: `blocks` is not an integer.

    Source: Wang & Yu 2021, Fig. 5a and Table 3. timm's SE layers are 1x1 convolutions, so TFC is TBC.
    """
    return _tied(_timm("seresnet50", num_classes, in_chans), ("*.se.fc?",), blocks)


def tied_se_efficientnet_b0(num_classes: int = 1000, in_chans: int = 3, blocks: int = 2) -> nn.Module:
    """EfficientNet-B0 whose squeeze and excitation layers are tied, with biases.

    A layer stays dense if `blocks` does not divide its squeeze width, and the plan says so. B = 4 does not divide the 6 and 10
    channels of four of the sixteen SE blocks.

    Args:
        num_classes, in_chans: outputs, and channels of the image.
        blocks: B of both layers; 1 gives the ordinary network.

    Raises:
        SettingError: `blocks` is not an integer.

    Source: Wang & Yu 2021, Fig. 5a and Table 3. The table prints B = 4 and does not say what happens at these widths.
    """
    return _tied(_timm("efficientnet_b0", num_classes, in_chans), ("*.se.conv_reduce", "*.se.conv_expand"), blocks)


def gc_resnet50(
    num_classes: int = 1000, in_chans: int = 3, reduction: int = 4, blocks: int = 1, groups: int = 1
) -> nn.Module:
    """ResNet-50 with a global context block in each of the 13 bottlenecks of c3 to c5.

    The block follows the last normalisation layer of the bottleneck, before the shortcut is added, as in GCNet. The mask
    convolution is never tied.

    Args:
        num_classes, in_chans: outputs, and channels of the image.
        reduction: the hidden width of the context block is its channels / reduction.
        blocks: B of its two 1x1 convolutions; 1 gives the ordinary block.
        groups: G of these two convolutions; above 1 they are TGC. Fitted: G = 2 with B = 2 has the 1.3 M that Table 4 prints
            for B = 4.

    Raises:
        SettingError: `blocks`, `groups` or `reduction` does not divide a width.

    Source: Wang & Yu 2021, Fig. 5b and Table 4; Cao et al. 2019.
    """
    check_int("groups", groups)
    model = _timm("resnet50", num_classes, in_chans)
    for stage in ("layer2", "layer3", "layer4"):
        for bottleneck in model.get_submodule(stage).children():
            channels = bottleneck.get_submodule("conv3").out_channels
            block = TiedGlobalContext(int(channels), reduction, blocks=blocks)  # type: ignore[arg-type]
            if groups > 1:
                hidden = block.squeeze.out_channels
                block.squeeze = TiedBlockConv2d(block.squeeze.in_channels, hidden, 1, groups=groups, blocks=blocks)
                block.expand = TiedBlockConv2d(hidden, block.expand.out_channels, 1, groups=groups, blocks=blocks)
                block.reset_parameters()
            bottleneck.se = block  # timm uses this attribute for every kind of attention
    return model


def tied_resnest50(
    num_classes: int = 1000, in_chans: int = 3, tied: str = "text", avd_first: bool = False, blocks: int = 2
) -> nn.Module:
    """ResNeSt-50 (radix 2, one cardinal of 64) with tied convolutions.

    Args:
        num_classes, in_chans: outputs, and channels of the image.
        tied: "text": the entry 1x1 and the split-attention 3x3 of every bottleneck, as the paper says. "fitted": the 3x3, the
            shortcut and the first layer of the attention; this choice comes closest to the printed parameters.
        avd_first: in a block that halves the feature map, pool before the 3x3, as ResNeSt-50-fast does, and not after it.
        blocks: B; 1 gives the ordinary network.

    Raises:
        SettingError: `tied` is unknown, or `blocks` is not an integer.

    Source: Wang & Yu 2021, Fig. 4c and Table 1. By default the network pools after the 3x3. This is fitted to the printed FLOPs:
    the table says "fast", but the FLOPs of the fast form are 18 % lower. The parameters do not depend on it.
    """
    check_choice("tied", tied, tuple(TIED_IN_RESNEST))
    dense = _timm("resnest50d", num_classes, in_chans, block_args={"radix": 2, "avd": True, "avd_first": avd_first})
    return _tied(dense, TIED_IN_RESNEST[tied], blocks)


IMAGENET = (3, 224, 224)
TBC = "Wang & Yu 2021"
DEEP = (3, 4, 23, 3)
MIXER = "fitted: the mixer"
BOTH = "fitted: the mixer and the splits' blocks"


def _resnet(name: str, where: str, fitted: str, **settings: Any) -> ModelEntry:
    return ModelEntry(name, TiedResNet, settings, f"{TBC}, {where}; {fitted}", IMAGENET)


def _aligned(printed: str, **settings: Any) -> ModelEntry:
    """A variant of a printed network with widths of whole vectors, 16 in the first stage; the paper does not have it."""
    return ModelEntry(
        f"{printed}_aligned", TiedResNet, settings, f"{TBC}, {printed} with widths of whole vectors", IMAGENET
    )


_SE = {"attention": "se", "reduction": 32}
_NEXT = "splits from the text, no counts printed; assumed: groups, blocks and no mixer, after the 101-S"

ENTRIES: tuple[ModelEntry, ...] = (
    _resnet("tied_resnet50", "Table 1", MIXER),
    _resnet("tied_resnet50_s", "Table 1", BOTH, base_width=18),
    _resnet("tied_resnet101", "Table 1", MIXER, depths=DEEP),
    _resnet("tied_resnet101_s", "Table 1", BOTH, depths=DEEP, base_width=18),
    _resnet("tied_resnet50_2s48w", "Table 5", BOTH, splits=2, base_width=48),
    _resnet("tied_resnet50_6s24w", "Table 5", BOTH, splits=6, base_width=24),
    _resnet("tied_resnet50_8s18w", "Table 5", BOTH, splits=8, base_width=18),
    _resnet("tied_resnet50_concat", "Table 6", MIXER, mixer="concatenate"),
    _resnet(
        "tied_resnet50_concat_added", "Table 6", "fitted: the mixer, on this table's row alone",
        mixer="concatenate", mixer_output="add",
    ),
    _resnet("tied_resnet50_unmixed", '"TBC/TGC in Bottleneck Modules"', "without the mixer, no counts printed", mixer=None),
    _resnet("tied_resnext50", "Fig. 4b", _NEXT, base_width=64, groups=4, mixer=None),
    _resnet("tied_resnext50_s", "Fig. 4b", _NEXT, base_width=36, groups=2, mixer=None),
    _resnet(
        "tied_resnext101", "Fig. 4b", "printed nowhere; assumed: twice the 50's width, as of ResNeXt-101-32x8d, the rest so too",
        depths=DEEP, base_width=128, groups=4, mixer=None,
    ),
    _resnet(
        "tied_resnext101_s", "Table 1", "fitted: width, groups, blocks and no mixer",
        depths=DEEP, base_width=72, groups=4, mixer=None,
    ),
    _resnet("tied_senet101", "Table 1", "fitted: the mixer and SE's reduction of 32", depths=DEEP, **_SE),
    _resnet(
        "tied_senet101_s", "Table 1", "fitted: the mixer, the splits' blocks and SE's reduction of 32",
        depths=DEEP, base_width=18, **_SE,
    ),
    _aligned("tied_resnet50_s", base_width=16, blocks=(1, 2, 2, 4)),
    _aligned("tied_resnet101_s", depths=DEEP, base_width=16, blocks=(1, 2, 2, 4)),
    _aligned("tied_resnet50_6s24w", splits=6, base_width=16, blocks=(1, 2, 2, 2, 2, 2)),
    _aligned("tied_resnet50_8s18w", splits=8, base_width=16, blocks=(1, 1, 1, 1, 2, 2, 2, 2)),
    _aligned("tied_resnext50_s", base_width=32, groups=2, mixer=None),
    _aligned("tied_resnext101_s", depths=DEEP, base_width=64, groups=4, mixer=None),
    _aligned("tied_senet101_s", depths=DEEP, base_width=16, blocks=(1, 2, 2, 4), **_SE),
    ModelEntry(
        "resnest50_fast", tied_resnest50, {"blocks": 1, "avd_first": True},
        f"Zhang et al. 2020, the baseline of {TBC}, Table 1", IMAGENET,
    ),
    ModelEntry("tied_resnest50_s", tied_resnest50, {}, f"{TBC}, Table 1; fitted: where it pools, on the FLOPs", IMAGENET),
    ModelEntry("tied_se_resnet50", tied_se_resnet50, {}, f"{TBC}, Table 3", IMAGENET),
    ModelEntry("tied_se_efficientnet_b0", tied_se_efficientnet_b0, {}, f"{TBC}, Table 3", IMAGENET, "getter"),
    ModelEntry("gc_resnet50", gc_resnet50, {}, f"Cao et al. 2019, the baseline of {TBC}, Table 4", IMAGENET),
    ModelEntry("tied_gc_resnet50", gc_resnet50, {"blocks": 2}, f"{TBC}, Table 4", IMAGENET),
)  # fmt: skip
