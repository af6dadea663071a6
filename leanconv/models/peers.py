"""The networks that the four papers compare themselves with. Each one is an ordinary network and a plan.

Sources: Ghost (Han et al. 2020), HetConv (Singh et al. 2019), LegoNet (Yang et al. 2019b), ShaResNet (Boulch 2018),
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
from leanconv.ops.lego import Coefficients, Lego, Rounding
from leanconv.ops.soft_shared import SoftShared

RESNET50 = (3, 4, 6, 3)


def _vgg16(method: Method, num_classes: int, in_chans: int, **settings: Any) -> nn.Module:
    where, exclude = ALL_BUT_THE_FIRST
    return converted(VGG16(num_classes, in_chans, **settings), method, where, exclude=exclude)


def _resnet50(num_classes: int, in_chans: int) -> nn.Module:
    return imagenet_resnet("Bottleneck", RESNET50, num_classes, in_chans)


def ghost_vgg16(num_classes: int = 10, in_chans: int = 3, expansion: int = 2, kernel_size: int = 3) -> nn.Module:
    """VGG-16 (head 512-512 with a normalisation layer) with Ghost modules in place of all convolutions but the first.

    Args:
        num_classes, in_chans: outputs, and channels of the image.
        expansion: s; one primary filter makes s outputs.
        kernel_size: d, of the cheap depthwise convolutions.

    Raises:
        SettingError: `leanconv.Ghost` refuses a setting.

    Source: Han et al. 2020, section 4.1; Table 1 of SPConv. The Ghost modules have no normalisation layers and ReLUs of their
    own; this is inferred from the 158 M operations.
    """
    method = Ghost(expansion, kernel_size, norm=False, activation=False)
    return _vgg16(method, num_classes, in_chans, head="512bn", conv_bias=False)


def ghost_resnet50(num_classes: int = 1000, in_chans: int = 3, expansion: int = 2, kernel_size: int = 3) -> nn.Module:
    """ResNet-50 with Ghost modules in place of every convolution but the stem, shortcuts included.

    Args:
        num_classes, in_chans: outputs, and channels of the image.
        expansion, kernel_size: s and d, see `ghost_vgg16`.

    Raises:
        SettingError: `leanconv.Ghost` refuses a setting.

    Source: Han et al. 2020, section 4.2; Table 2 of SPConv. Our count equals its 2.20 G, but not its 13.0 M. The Ghost modules
    have no normalisation layers and ReLUs of their own; this is inferred from the 2.20 G.
    """
    method = Ghost(expansion, kernel_size, norm=False, activation=False)
    return converted(_resnet50(num_classes, in_chans), method, "layer*")


def het_vgg16(num_classes: int = 10, in_chans: int = 3, part: int = 4) -> nn.Module:
    """VGG-16 (head 512-512 with a normalisation layer) with heterogeneous kernels in all convolutions but the first.

    Args:
        num_classes, in_chans: outputs, and channels of the image.
        part: P; of P channels of a filter, one has a 3x3 kernel. A layer stays dense if P does not divide its channels.

    Raises:
        SettingError: `part` is not an integer.

    Source: Singh et al. 2019, section 4; Table 1 of SPConv.
    """
    return _vgg16(Het(part), num_classes, in_chans, head="512bn")


def het_resnet50(num_classes: int = 1000, in_chans: int = 3, part: int = 4) -> nn.Module:
    """ResNet-50 with heterogeneous kernels in each bottleneck's 3x3.

    Args:
        num_classes, in_chans: outputs, and channels of the image.
        part: P, see `het_vgg16`.

    Raises:
        SettingError: `part` is not an integer.

    Source: Singh et al. 2019, section 4; Table 2 of SPConv.
    """
    return converted(_resnet50(num_classes, in_chans), Het(part), "layer*.conv2")


def lego_vgg16(
    num_classes: int = 10, in_chans: int = 3, splits: int = 2, ratio: float = 0.5, coefficients: Coefficients = "part",
    balance: float = 0.0, rounding: Rounding = "nearest",
) -> nn.Module:  # fmt: skip
    """VGG-16 (with one linear layer as its head) with LegoNet's filters in all convolutions but the first.

    Args:
        num_classes, in_chans: outputs, and channels of the image.
        splits: o, parts of the input channels.
        ratio: m, lego filters for each output channel.
        coefficients, balance, rounding: see `leanconv.LegoConv2d`; the release is "lego", 1e-4 and "down".

    Raises:
        SettingError: `leanconv.Lego` refuses a setting.

    Source: Yang et al. 2019b, section 4; Table 1b of ShardNet.
    """
    method = Lego(splits, ratio, coefficients, balance, rounding)
    return _vgg16(method, num_classes, in_chans, head="linear", conv_bias=False)


def lego_resnet50(num_classes: int = 1000, in_chans: int = 3, splits: int = 2, ratio: float = 0.5) -> nn.Module:
    """ResNet-50 with LegoNet's filters in every convolution but the stem.

    Args:
        num_classes, in_chans: outputs, and channels of the image.
        splits, ratio: o and m, see `lego_vgg16`.

    Raises:
        SettingError: `leanconv.Lego` refuses a setting.

    Source: Yang et al. 2019b, section 4; Table 2 of ShardNet only quotes the size of this network.
    """
    return converted(_resnet50(num_classes, in_chans), Lego(splits, ratio), "layer*")


def sha_resnet(
    num_classes: int = 1000, in_chans: int = 3, block: str = "Bottleneck", depths: tuple[int, ...] = RESNET50
) -> nn.Module:
    """ResNet whose 3x3 convolutions share one weight within each stage.

    In basic blocks, the second convolution of every block shares. In bottlenecks, the 3x3 of every block of stride 1 shares.
    Normalisation layers are not shared.

    Args:
        num_classes, in_chans: outputs, and channels of the image.
        block: "BasicBlock" or "Bottleneck".
        depths: blocks in each stage.

    Source: Boulch 2018; Table 2 of ShardNet. The choice is inferred from the 13.6 M and 20.5 M that the table prints, which are
    all parameters.
    """

    def keeps_size(site: Site) -> bool:
        return site.name.endswith(".conv2") and site.spec.stride == (1, 1)

    return converted(imagenet_resnet(block, depths, num_classes, in_chans), DepthShared("stage"), keeps_size)


def sha_resnet164(num_classes: int = 10, in_chans: int = 3, depth: int = 164) -> nn.Module:
    """Pre-activation bottleneck ResNet whose 3x3 convolutions share one weight in each stage, except in the first block.

    Args:
        num_classes, in_chans: outputs, and channels of the image.
        depth: 9n + 2 layers.

    Raises:
        SettingError: `depth` is not 9n + 2.

    Source: Boulch 2018, the CIFAR networks of its release; Table 8 of ShardNet quotes the 0.93 M of this network.
    """
    return converted(preact_resnet(num_classes, in_chans, depth), DepthShared("stage"), _after_the_first)


def _after_the_first(site: Site) -> bool:
    """Whether the site is a 3x3 convolution of a stage, in any block except the first."""
    stage, _, rest = site.name.partition(".")
    return stage.startswith("layer") and not rest.startswith("0.") and site.spec.kernel_size == (3, 3)


def soft_wide_resnet28_10(
    num_classes: int = 10, in_chans: int = 3, depth: int = 28, widen: int = 10, templates: int = 2
) -> nn.Module:
    """Wide ResNet whose 3x3 convolutions, except in the first block, are mixtures of the templates of their stage (SWRN).

    Args:
        num_classes, in_chans: outputs, and channels of the image.
        depth, widen: see `leanconv.models.wide_resnet.wide_resnet`.
        templates: k, the number of templates of each stage.

    Raises:
        SettingError: `depth` is not 6n + 4, or `templates` is not an integer.

    Source: Savarese & Maire 2019, section 4.1 and its release.
    """
    return converted(wide_resnet(num_classes, in_chans, depth, widen), SoftShared(templates), _after_the_first)


def soft_wide_resnet50_2(num_classes: int = 1000, in_chans: int = 3) -> nn.Module:
    """The wide ImageNet ResNet-50 whose 3x3 convolutions, except in the first block, are mixtures of templates (SWRN 50-2).

    A stage has as many templates as it has such convolutions. So the network does not save parameters; it has a few coefficients
    more than the dense network.

    Source: Savarese & Maire 2019; Table 2 of ShardNet. The number of templates is inferred from the 69 M that the table prints.
    """
    dense = imagenet_resnet("Bottleneck", RESNET50, num_classes, in_chans, base_width=128)
    rules: list[Rule] = [
        (f"layer{index}.[!0]*.conv2", SoftShared(depth - 1)) for index, depth in enumerate(RESNET50, start=1)
    ]
    return converted(dense, rules)


def fs_resnet(
    num_classes: int = 10, in_chans: int = 3, depths: tuple[int, ...] = (2, 2, 2, 2), ratio: float = 1 / 14
) -> nn.Module:
    """CIFAR ResNet (widths 64 to 512) whose filters are windows of one vector in each layer. Unverified.

    Args:
        num_classes, in_chans: outputs, and channels of the image.
        depths: blocks in each stage.
        ratio: length of the vector, as a share of the layer's weights; fitted to the quoted sizes.

    Raises:
        SettingError: `leanconv.FilterSummary` refuses the ratio.

    Source: Yang et al. 2019a; Table 8 of ShardNet quotes the sizes of these networks.
    """
    return converted(resnet(depths, num_classes, in_chans, 64, "B"), FilterSummary(ratio), "layer*")


def fs_resnet50(num_classes: int = 1000, in_chans: int = 3, ratio: float = 0.1) -> nn.Module:
    """ResNet-50 whose filters, except those of the stem, are windows of one vector in each layer. Unverified.

    Args:
        num_classes, in_chans: outputs, and channels of the image.
        ratio: length of the vector, as a share of the layer's weights; fitted to the quoted size.

    Raises:
        SettingError: `leanconv.FilterSummary` refuses the ratio.

    Source: Yang et al. 2019a; Table 2 of ShardNet quotes the size of this network.
    """
    return converted(_resnet50(num_classes, in_chans), FilterSummary(ratio), "layer*")


def grouped_resnet50(num_classes: int = 1000, in_chans: int = 3, groups: int = 2) -> nn.Module:
    """ResNet-50 with grouped convolutions at the positions where TiedResNet has tied ones: the entry and the 3x3 of a bottleneck.

    Args:
        num_classes, in_chans: outputs, and channels of the image.
        groups: G; 1 gives the ordinary network. A layer stays dense if G does not divide its channels.

    Raises:
        SettingError: `groups` is not an integer.

    Source: Wang & Yu 2021 (TBC) compares with grouped convolution, but names no network for it.
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
