"""The networks that the four papers compare themselves with, each an ordinary network and a plan.

Their own papers: Ghost (Han et al. 2020), HetConv (Singh et al. 2019), LegoNet (Yang et al. 2019b), ShaResNet (Boulch 2018),
soft sharing (Savarese & Maire 2019), FSNet (Yang et al. 2019a), grouped convolution (Krizhevsky et al. 2012).
"""

from __future__ import annotations

from typing import Any

from torch import nn

from leanconv.conversion.plan import Rule
from leanconv.core.method import Method, Site
from leanconv.models import octave_resnet
from leanconv.models.entry import ModelEntry
from leanconv.models.planned import converted
from leanconv.models.resnet import resnet
from leanconv.models.spconv import ALL_BUT_THE_FIRST, imagenet_resnet
from leanconv.models.vgg import VGG16
from leanconv.models.wide_resnet import preact_resnet, wide_resnet
from leanconv.ops.depth_shared import DepthShared
from leanconv.ops.filter_summary import FilterSummary
from leanconv.ops.ghost import Ghost
from leanconv.ops.grouped import Grouped
from leanconv.ops.het import Het
from leanconv.ops.lego import Lego
from leanconv.ops.soft_shared import SoftShared

RESNET50 = (3, 4, 6, 3)


def _vgg16(method: Method, num_classes: int, in_chans: int, **settings: Any) -> nn.Module:
    where, exclude = ALL_BUT_THE_FIRST
    return converted(VGG16(num_classes, in_chans, **settings), method, where, exclude=exclude)


def _resnet50(num_classes: int, in_chans: int) -> nn.Module:
    return imagenet_resnet("Bottleneck", RESNET50, num_classes, in_chans)


def ghost_vgg16(num_classes: int = 10, in_chans: int = 3, expansion: int = 2, kernel_size: int = 3) -> nn.Module:
    """VGG-16 (head 512-512 with a norm) with Ghost modules in place of all convolutions but the first.

    Args:
        expansion: s, one primary filter for so many outputs; kernel_size: d, of the cheap depthwise convolutions.

    Raises:
        SettingError: a setting that `leanconv.Ghost` refuses.

    Source: Han et al. 2020, section 4.1; Table 1 of SPConv. The norms and ReLUs are the host's alone, which is inferred from
    the 158 M operations.
    """
    method = Ghost(expansion, kernel_size, norm=False, activation=False)
    return _vgg16(method, num_classes, in_chans, head="512bn", conv_bias=False)


def ghost_resnet50(num_classes: int = 1000, in_chans: int = 3, expansion: int = 2, kernel_size: int = 3) -> nn.Module:
    """ResNet-50 with Ghost modules in place of every convolution but the stem, shortcuts included.

    Args:
        expansion, kernel_size: s and d, see `ghost_vgg16`.

    Raises:
        SettingError: a setting that `leanconv.Ghost` refuses.

    Source: Han et al. 2020, section 4.2; Table 2 of SPConv, whose 2.20 G are met and whose 13.0 M are not: that the norms and
    ReLUs are the host's alone is inferred from the former.
    """
    method = Ghost(expansion, kernel_size, norm=False, activation=False)
    return converted(_resnet50(num_classes, in_chans), method, "layer*")


def het_vgg16(num_classes: int = 10, in_chans: int = 3, part: int = 4) -> nn.Module:
    """VGG-16 (head 512-512 with a norm) with heterogeneous kernels in all convolutions but the first.

    Args:
        part: P, one 3x3 kernel for so many channels of a filter.

    Raises:
        SettingError: part is no whole number; a layer whose channels it does not divide stays dense.

    Source: Singh et al. 2019, section 4; Table 1 of SPConv.
    """
    return _vgg16(Het(part), num_classes, in_chans, head="512bn")


def het_resnet50(num_classes: int = 1000, in_chans: int = 3, part: int = 4) -> nn.Module:
    """ResNet-50 with heterogeneous kernels in each bottleneck's 3x3.

    Args:
        part: P, see `het_vgg16`.

    Raises:
        SettingError: part is no whole number.

    Source: Singh et al. 2019, section 4; Table 2 of SPConv.
    """
    return converted(_resnet50(num_classes, in_chans), Het(part), "layer*.conv2")


def lego_vgg16(num_classes: int = 10, in_chans: int = 3, splits: int = 2, ratio: float = 0.5) -> nn.Module:
    """VGG-16 (one linear layer behind it) with LegoNet's filters in all convolutions but the first.

    Args:
        splits: o, parts of the input channels; ratio: m, lego filters for each output channel.

    Raises:
        SettingError: a setting that `leanconv.Lego` refuses.

    Source: Yang et al. 2019b, section 4; Table 1b of ShardNet.
    """
    return _vgg16(Lego(splits, ratio), num_classes, in_chans, head="linear", conv_bias=False)


def lego_resnet50(num_classes: int = 1000, in_chans: int = 3, splits: int = 2, ratio: float = 0.5) -> nn.Module:
    """ResNet-50 with LegoNet's filters in every convolution but the stem.

    Args:
        splits, ratio: o and m, see `lego_vgg16`.

    Raises:
        SettingError: a setting that `leanconv.Lego` refuses.

    Source: Yang et al. 2019b, section 4; Table 2 of ShardNet only quotes its size.
    """
    return converted(_resnet50(num_classes, in_chans), Lego(splits, ratio), "layer*")


def sha_resnet(
    num_classes: int = 1000, in_chans: int = 3, block: str = "Bottleneck", depths: tuple[int, ...] = RESNET50
) -> nn.Module:
    """ResNet whose 3x3 convolutions share one weight within each stage.

    In basic blocks the second convolution of every block shares; in bottlenecks the 3x3 of every block that keeps the map's
    size. Norms are not shared.

    Args:
        block: "BasicBlock" or "Bottleneck"; depths: blocks in each stage.

    Source: Boulch 2018; Table 2 of ShardNet. Inferred from the 13.6 and 20.5 M printed there, which are all parameters.
    """

    def keeps_size(site: Site) -> bool:
        return site.name.endswith(".conv2") and site.spec.stride == (1, 1)

    return converted(imagenet_resnet(block, depths, num_classes, in_chans), DepthShared("stage"), keeps_size)


def sha_resnet164(num_classes: int = 10, in_chans: int = 3, depth: int = 164) -> nn.Module:
    """Pre-activation bottleneck ResNet whose 3x3 convolutions share one weight within each stage, but for its first block's.

    Args:
        depth: 9n + 2 layers.

    Raises:
        SettingError: no n gives that depth.

    Source: Boulch 2018, the release's CIFAR networks; Table 8 of ShardNet quotes its 0.93 M.
    """
    return converted(preact_resnet(num_classes, in_chans, depth), DepthShared("stage"), _after_the_first)


def _after_the_first(site: Site) -> bool:
    """Whether it is a 3x3 convolution of a stage, in another block than the first."""
    stage, _, rest = site.name.partition(".")
    return stage.startswith("layer") and not rest.startswith("0.") and site.spec.kernel_size == (3, 3)


def soft_wide_resnet28_10(
    num_classes: int = 10, in_chans: int = 3, depth: int = 28, widen: int = 10, templates: int = 2
) -> nn.Module:
    """Wide ResNet whose 3x3 convolutions, but for the first block's, are mixed from the templates of their stage (SWRN).

    Args:
        depth, widen: see `leanconv.models.wide_resnet.wide_resnet`.
        templates: k, in the bank of each stage.

    Raises:
        SettingError: a depth that is not 6n + 4, or templates that are no whole number.

    Source: Savarese & Maire 2019, section 4.1 and its release.
    """
    return converted(wide_resnet(num_classes, in_chans, depth, widen), SoftShared(templates), _after_the_first)


def soft_wide_resnet50_2(num_classes: int = 1000, in_chans: int = 3) -> nn.Module:
    """The wide ImageNet ResNet-50 whose 3x3 convolutions, but for the first block's, are mixed from as many templates as
    there are of them in their stage (SWRN 50-2): no fewer parameters than before, and a few coefficients more.

    Source: Savarese & Maire 2019; Table 2 of ShardNet, whose 69 M are inferred to leave no template out.
    """
    dense = imagenet_resnet("Bottleneck", RESNET50, num_classes, in_chans, base_width=128)
    rules: list[Rule] = [
        (f"layer{index}.[!0]*.conv2", SoftShared(depth - 1)) for index, depth in enumerate(RESNET50, start=1)
    ]
    return converted(dense, rules)


def fs_resnet(
    num_classes: int = 10, in_chans: int = 3, depths: tuple[int, ...] = (2, 2, 2, 2), ratio: float = 1 / 14
) -> nn.Module:
    """CIFAR ResNet (widths 64 to 512) whose filters are windows of one vector a layer. Unverified.

    Args:
        depths: blocks in each stage; ratio: of the vector's length to the weights. Fitted on the quoted sizes.

    Raises:
        SettingError: a ratio that `leanconv.FilterSummary` refuses.

    Source: Yang et al. 2019a; Table 8 of ShardNet quotes its sizes.
    """
    return converted(resnet(depths, num_classes, in_chans, 64, "B"), FilterSummary(ratio), "layer*")


def fs_resnet50(num_classes: int = 1000, in_chans: int = 3, ratio: float = 0.1) -> nn.Module:
    """ResNet-50 whose filters, but for the stem's, are windows of one vector a layer. Unverified.

    Args:
        ratio: of the vector's length to the weights. Fitted on the quoted size.

    Raises:
        SettingError: a ratio that `leanconv.FilterSummary` refuses.

    Source: Yang et al. 2019a; Table 2 of ShardNet quotes its size.
    """
    return converted(_resnet50(num_classes, in_chans), FilterSummary(ratio), "layer*")


def grouped_resnet50(num_classes: int = 1000, in_chans: int = 3, groups: int = 2) -> nn.Module:
    """ResNet-50 with grouped convolutions where TiedResNet ties: each bottleneck's entry and its 3x3.

    Args:
        groups: G; 1 is the ordinary network.

    Raises:
        SettingError: groups is no whole number; a layer whose channels it does not divide stays dense.

    Source: the comparator of Wang & Yu 2021 (TBC), which names no network of its own for it.
    """
    return converted(_resnet50(num_classes, in_chans), Grouped(groups), ("layer*.conv1", "layer*.conv2"))


IMAGENET = (3, 224, 224)
UNVERIFIED = "Yang et al. 2019a (FSNet), quoted by ShardNet; unverified, fitted: the ratio"


def _sha(name: str, block: str, depths: tuple[int, ...]) -> ModelEntry:
    source = "Boulch 2018 (ShaResNet), a peer of ShardNet"
    return ModelEntry(name, sha_resnet, {"block": block, "depths": depths}, source, IMAGENET)


ENTRIES: tuple[ModelEntry, ...] = (
    ModelEntry("ghost_vgg16", ghost_vgg16, {}, "Han et al. 2020 (GhostNet), a peer in Table 1 of SPConv"),
    ModelEntry(
        "ghost_resnet50", ghost_resnet50, {}, "Han et al. 2020 (GhostNet), a peer in Table 2 of SPConv", IMAGENET
    ),
    ModelEntry("het_vgg16", het_vgg16, {}, "Singh et al. 2019 (HetConv), a peer in Table 1 of SPConv"),
    ModelEntry("het_resnet50", het_resnet50, {}, "Singh et al. 2019 (HetConv), a peer in Table 2 of SPConv", IMAGENET),
    ModelEntry("lego_vgg16", lego_vgg16, {}, "Yang et al. 2019b (LegoNet), a peer in Table 1b of ShardNet"),
    ModelEntry(
        "lego_resnet50", lego_resnet50, {}, "Yang et al. 2019b (LegoNet), a peer in Table 2 of ShardNet", IMAGENET
    ),
    _sha("sha_resnet34", "BasicBlock", (3, 4, 6, 3)),
    _sha("sha_resnet50", "Bottleneck", RESNET50),
    _sha("sha_resnet101", "Bottleneck", (3, 4, 23, 3)),
    _sha("sha_resnet152", "Bottleneck", (3, 8, 36, 3)),
    ModelEntry("sha_resnet164", sha_resnet164, {}, "Boulch 2018 (ShaResNet), a peer in Table 8 of ShardNet"),
    ModelEntry("wide_resnet28_10", wide_resnet, {}, "Zagoruyko & Komodakis 2016"),
    ModelEntry("preact_resnet164", preact_resnet, {}, "He et al. 2016b, Identity Mappings in Deep Residual Networks"),
    ModelEntry("soft_wide_resnet28_10", soft_wide_resnet28_10, {}, "Savarese & Maire 2019 (SWRN), a peer of ShardNet"),
    ModelEntry(
        "soft_wide_resnet50_2",
        soft_wide_resnet50_2,
        {},
        "Savarese & Maire 2019 (SWRN), a peer in Table 2 of ShardNet",
        IMAGENET,
    ),
    ModelEntry("fs_resnet18", fs_resnet, {}, UNVERIFIED),
    ModelEntry("fs_resnet34", fs_resnet, {"depths": (3, 4, 6, 3), "ratio": 0.078}, UNVERIFIED),
    ModelEntry("fs_resnet50", fs_resnet50, {}, UNVERIFIED, IMAGENET),
    ModelEntry("grouped_resnet50", grouped_resnet50, {}, "Krizhevsky et al. 2012, the comparator of TBC", IMAGENET),
    *octave_resnet.ENTRIES,
)
