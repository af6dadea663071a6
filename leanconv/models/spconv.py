"""The networks of the SPConv paper, and its baselines.

Source: Zhang et al. 2020, "Split to Be Slim: An Overlooked Redundancy in Vanilla Convolution", section 4.
"""

from __future__ import annotations

from typing import Any

from torch import Tensor, nn

from leanconv.models.entry import ModelEntry
from leanconv.models.layers import at_least_one, init_convs_
from leanconv.models.planned import converted
from leanconv.models.resnet import resnet
from leanconv.models.vgg import VGG16
from leanconv.ops.split import Fusion, Representative, Split

ALL_BUT_THE_FIRST = "block*.conv*", "block1.conv1"  # VGG-16's convolutions: which convert, and which are excluded


def imagenet_resnet(
    block: str, depths: tuple[int, ...], num_classes: int = 1000, in_chans: int = 3, **settings: Any
) -> nn.Module:
    """timm's ResNet, without published weights.

    Args:
        block: "BasicBlock" or "Bottleneck", with the stride on the 3x3, as in torchvision.
        depths: blocks in each stage.
        num_classes: number of outputs; 0 leaves the classifier out.
        in_chans: channels of the image.
        settings: other settings of timm's ResNet.
    """
    from timm.models import resnet as timm_resnet

    settings = {"zero_init_last": False} | settings  # as in torchvision; the papers trained torchvision's networks
    kind = getattr(timm_resnet, block)
    model: nn.Module = timm_resnet.ResNet(kind, depths, num_classes=num_classes, in_chans=in_chans, **settings)
    model.default_input_size = (in_chans, 224, 224)  # type: ignore[assignment]
    return model


def spconv_resnet20(
    num_classes: int = 10,
    in_chans: int = 3,
    width: int = 16,
    shortcut: str = "B",
    ratio: float = 0.5,
    groups: int = 2,
    fusion: Fusion = True,
    representative: Representative = "sum",
    redundant: bool = True,
    shortcut_padding: str = "end",
) -> nn.Module:
    """ResNet-20 with a split convolution in place of every 3x3 but the first.

    Args:
        num_classes, in_chans, width, shortcut, shortcut_padding: of the dense network, see
            `leanconv.models.resnet.CifarResNet`.
        ratio, groups, fusion, representative, redundant: see `leanconv.Split`; the rows of Table 4 change the last three.

    Raises:
        SettingError: the dense network or the split refuses a setting.

    Source: section 4.1 and Table 4. The projection shortcuts (option B) are inferred from the printed FLOPs.
    """
    method = Split(ratio, groups, fusion, representative, redundant)
    return converted(
        resnet((3, 3, 3), num_classes, in_chans, width, shortcut, shortcut_padding), method, "layer*.conv*"
    )


def spconv_vgg16(
    num_classes: int = 10,
    in_chans: int = 3,
    ratio: float = 0.5,
    groups: int = 2,
    fusion: Fusion = True,
    representative: Representative = "sum",
    redundant: bool = True,
) -> nn.Module:
    """VGG-16 (head 512-512 with a normalisation layer) with a split convolution in place of all convolutions but the first.

    Args:
        num_classes, in_chans: outputs, and channels of the image.
        ratio, groups, fusion, representative, redundant: see `leanconv.Split`.

    Raises:
        SettingError: the split refuses a setting.

    Source: section 4.1, "VGG-15 with 2 fully-connected layers and batch normalization equipped after each layer".
    """
    where, exclude = ALL_BUT_THE_FIRST
    method = Split(ratio, groups, fusion, representative, redundant)
    return converted(VGG16(num_classes, in_chans, "512bn"), method, where, exclude=exclude)


class ParallelConv2d(nn.Module):
    """A 3x3 and a parallel 1x1 convolution, both on all channels and without bias: y = k3(x) + k1(x).

    It computes the function of one 3x3 convolution; the middle tap is stored twice.

    Args:
        in_channels, out_channels: of both convolutions.

    Shape:
        x: (N, in_channels, H, W) -> (N, out_channels, H, W).
    """

    def __init__(self, in_channels: int, out_channels: int) -> None:
        super().__init__()
        self.k3 = nn.Conv2d(in_channels, out_channels, 3, padding=1, bias=False)
        self.k1 = nn.Conv2d(in_channels, out_channels, 1, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        return self.k3(x) + self.k1(x)


def spconv_vgg16_printed_baseline(num_classes: int = 10, in_chans: int = 3) -> nn.Module:
    """The network that the SPConv paper counted as its VGG-16 baseline: a 1x1 is parallel to every 3x3 except the first.

    This is a mistake of the paper. The network exists here to reproduce the printed percentages. It has 16,622,090 parameters;
    the plain network ``vgg16`` has 14,991,946 and computes the same functions. The structure is inferred: of those we tried, it
    is the only one that has both the parameters and the FLOPs of Table 1 to their last digit. (It is a split convolution with
    ratio 1 and one group, without its normalisation layers.)
    """
    model = VGG16(num_classes, in_chans, "512bn")
    convs = [(name, module) for name, module in model.named_modules() if isinstance(module, nn.Conv2d)]
    for name, conv in convs[1:]:
        model.set_submodule(name, ParallelConv2d(conv.in_channels, conv.out_channels))
    init_convs_(model)
    return model


def spconv_resnet50(
    num_classes: int = 1000,
    in_chans: int = 3,
    ratio: float = 0.5,
    groups: int = 2,
    fusion: Fusion = True,
    representative: Representative = "sum",
    redundant: bool = True,
) -> nn.Module:
    """ResNet-50 with a split convolution in place of each bottleneck's 3x3.

    Args:
        num_classes, in_chans: outputs, and channels of the image.
        ratio, groups, fusion, representative, redundant: see `leanconv.Split`.

    Raises:
        SettingError: the split refuses a setting.

    Source: section 4.2. The dense network is torchvision's, with the stride on the 3x3.
    """
    method = Split(ratio, groups, fusion, representative, redundant)
    return converted(imagenet_resnet("Bottleneck", (3, 4, 6, 3), num_classes, in_chans), method, "layer*.conv2")


def resnet50_backbone(num_classes: int = 0, in_chans: int = 3) -> nn.Module:
    """ResNet-50 without pooling and classifier, for detectors. With `num_classes` it is the whole network.

    Args:
        num_classes: 0, or the number of outputs.
        in_chans: channels of the image.

    Shape:
        x: (N, in_chans, H, W) -> (N, 2048, H / 32, W / 32), rounded up; (N, num_classes) with a classifier.

    Source: section 4.3 and Table 3. timm's ``features_only=True`` returns the feature maps of all stages.
    """
    if num_classes != 0:
        at_least_one(num_classes=num_classes)
    pool = "avg" if num_classes else ""
    return imagenet_resnet("Bottleneck", (3, 4, 6, 3), num_classes, in_chans, global_pool=pool)


def spconv_resnet50_backbone(
    num_classes: int = 0,
    in_chans: int = 3,
    ratio: float = 0.5,
    groups: int = 2,
    fusion: Fusion = True,
    representative: Representative = "sum",
    redundant: bool = True,
) -> nn.Module:
    """`resnet50_backbone` with a split convolution in place of each bottleneck's 3x3.

    Its parameters have the names of those of `spconv_resnet50`, so the weights of a trained network can be loaded, except ``fc``.

    Args:
        num_classes, in_chans: see `resnet50_backbone`.
        ratio, groups, fusion, representative, redundant: see `leanconv.Split`.

    Raises:
        SettingError: the split refuses a setting.

    Source: section 4.3 and Table 3. The split of the release fails on feature maps of odd size, which occur in detectors; this
    one does not.
    """
    method = Split(ratio, groups, fusion, representative, redundant)
    return converted(resnet50_backbone(num_classes, in_chans), method, "layer*.conv2")


SPCONV = "Zhang et al. 2020 (SPConv)"
IMAGENET = (3, 224, 224)

ENTRIES: tuple[ModelEntry, ...] = (
    ModelEntry("spconv_resnet20", spconv_resnet20, {}, f"{SPCONV}, Tables 1 and 4"),
    ModelEntry("spconv_vgg16", spconv_vgg16, {}, f"{SPCONV}, Table 1"),
    ModelEntry(
        "spconv_vgg16_printed_baseline",
        spconv_vgg16_printed_baseline,
        {},
        f"{SPCONV}, Table 1; inferred from the counts",
    ),
    ModelEntry("spconv_resnet50", spconv_resnet50, {}, f"{SPCONV}, Table 2", IMAGENET),
    ModelEntry(
        "spconv_resnet50_static", spconv_resnet50, {"fusion": "static"},
        f"{SPCONV}, Table 2, with our static gate; no counts printed", IMAGENET,
    ),
    ModelEntry(
        "resnet50_backbone", resnet50_backbone, {"num_classes": 0}, f"{SPCONV}, Table 3, its baseline", IMAGENET
    ),
    ModelEntry(
        "spconv_resnet50_backbone", spconv_resnet50_backbone, {"num_classes": 0}, f"{SPCONV}, Table 3", IMAGENET
    ),
)  # fmt: skip
