"""The networks of the filter-basis paper: ordinary networks whose convolutions share filter bases, or share whole weights.

The first block of every stage stays dense.

Source: "Learning Deeply Shared Filter Bases for Efficient ConvNets", sections 3.3, 4.1 and 4.2, Figs. 5 to 7, and the counts of
its release.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Sequence
from dataclasses import replace
from functools import partial
from typing import Any, Literal

import torch
from torch import Tensor, nn

from leanconv.core.errors import SettingError
from leanconv.core.release import NamedLayer, Place
from leanconv.core.settings import check_bool, check_choice, check_int
from leanconv.core.sharing import lend
from leanconv.models.entry import ModelEntry
from leanconv.models.mobilenet import MobileNetV2
from leanconv.models.planned import converted
from leanconv.models.released_init import INITS, Init, normal_of_bases_, torch_default_
from leanconv.models.resnet import resnet
from leanconv.models.spconv import imagenet_resnet
from leanconv.ops.depth_shared import ConvBank, DepthShared, DepthSharedConv2d
from leanconv.ops.shared_basis import SharedBasis

PENALTY = 10.0  # the weight in the paper's code, for the mean over Gram entries
FIRST_BLOCKS = "layer*.0.*"
RESNEXT = "ResNeXt-50 32x4d"
InnerNorm = Literal["on", "off", "release"]
INNER_NORMS: tuple[InnerNorm, ...] = ("on", "off", "release")


def basis_cifar_resnet(
    depths: Sequence[int],
    num_classes: int = 10,
    in_chans: int = 3,
    width: int = 16,
    shortcut: str = "A",
    shared: int = 16,
    unique: int = 1,
    bases: int = 1,
    penalty_weight: float = PENALTY,
    shortcut_padding: str = "end",
    penalty_unique: bool = False,
    init: Init = "default",
    inner_norm: InnerNorm = "on",
) -> nn.Module:
    """ResNetL-SsUu for small images.

    The 3x3 convolutions of a stage, except those of its first block, use `shared` common components, and each has `unique`
    components of its own. Both numbers double with each stage.

    Args:
        depths, num_classes, in_chans, width, shortcut, shortcut_padding: of the dense network, see
            `leanconv.models.resnet.CifarResNet`; the release pads option A on "both" sides.
        shared, unique: s and u, the numbers of components in the first stage.
        bases: 1; or 2, one basis for the first convolutions of the blocks and one for the second ones (the starred rows).
        penalty_weight: lambda of the orthogonality penalty; 0 turns it off (the rows with a dagger).
        penalty_unique: penalise the unique components too, as the release does on CIFAR-10 (``include_unique_basis``). The
            caption of Fig. 3 says that the penalty is applied to shared components only, which is the default.
        init: "default", or "release": see `leanconv.models.released_init.normal_of_bases_`.
        inner_norm: the switch of Fig. 2. "on": a norm between components and coefficients. "off": none. "release": none, and no
            first norm of the block; the lines that the release comments out drop both.

    Raises:
        SettingError: the dense network or the method refuses a setting.

    Source: sections 3.3 and 4.1, Fig. 5. ResNet56-S16U1 has 270,842 parameters with one basis a stage and 319,226 with two;
    ResNet-56 has 853,018. It has 116 % of the MACs of ResNet-56, because 17 components of 16 channels cost more than they save.
    """
    check_choice("init", init, INITS)
    check_choice("inner_norm", inner_norm, INNER_NORMS)
    dense = resnet(depths, num_classes, in_chans, width, shortcut, shortcut_padding)
    norm = inner_norm == "on"
    method = SharedBasis(shared, unique, bases, norm=norm, penalty_weight=penalty_weight, penalty_unique=penalty_unique)
    model = converted(dense, method, "layer*.conv?", exclude=FIRST_BLOCKS)
    if inner_norm == "release":
        for name in [n for n, _ in model.named_modules() if re.fullmatch(r"layer\d\.[1-9]\d*\.bn1", n)]:
            model.set_submodule(name, nn.Identity())
    return normal_of_bases_(model) if init == "release" else model


def basis_resnet34_imagenet(
    num_classes: int = 1000,
    in_chans: int = 3,
    shared: int = 48,
    unique: int = 1,
    bases: int = 2,
    penalty_weight: float = PENALTY,
) -> nn.Module:
    """ResNet34-SsUu for ImageNet. The default is the paper's S48U1 with two bases a stage: 11,786,968 parameters.

    Args:
        num_classes, in_chans: outputs, and channels of the image.
        shared, unique, bases, penalty_weight: see `basis_cifar_resnet`.

    Raises:
        SettingError: the method refuses a setting.

    Source: section 4.2. Its "54.0 % of the parameters" is this network; with one basis a stage it would be 43.3 %.
    """
    dense = imagenet_resnet("BasicBlock", (3, 4, 6, 3), num_classes, in_chans)
    method = SharedBasis(shared, unique, bases, penalty_weight=penalty_weight)
    return converted(dense, method, "layer*.conv?", exclude=FIRST_BLOCKS)


BOTTLENECK_PLACES = {"code": ("conv2", "conv3"), "text": ("conv1", "conv2"), "spatial": ("conv2",)}


def basis_bottleneck_resnet(
    depths: tuple[int, ...],
    num_classes: int = 1000,
    in_chans: int = 3,
    places: Literal["code", "text", "spatial"] = "code",
    penalty_weight: float = PENALTY,
) -> nn.Module:
    """ResNet50-Shared and ResNet101-Shared: convolutions at the same position in the bottleneck share one weight in a stage.

    Args:
        depths: blocks in each stage.
        num_classes, in_chans: outputs, and channels of the image.
        places: which positions share. "text" (and Fig. 6): the first 1x1 and the 3x3. "code": the 3x3 and the last 1x1. "text"
            and "code" have equal counts (18,262,056 parameters; ResNet-50 has 25,557,032), but compute different functions.
            "spatial": the 3x3 alone.
        penalty_weight: lambda of the orthogonality penalty. There is one mean over Gram entries for each position, and the
            means are added. A last 1x1 has more rows than columns, so its mean never reaches zero.

    Raises:
        SettingError: an unknown place.

    Source: section 4.2. The release has the forms "code" and "spatial".
    """
    check_choice("places", places, tuple(BOTTLENECK_PLACES))
    dense = imagenet_resnet("Bottleneck", depths, num_classes, in_chans)
    where = [f"layer*.{name}" for name in BOTTLENECK_PLACES[places]]
    return converted(dense, DepthShared("stage", penalty_weight=penalty_weight), where, exclude=FIRST_BLOCKS)


INVERTED_PLACES = {"expand": ("conv1",), "expand_project": ("conv1", "conv3"), "expand_depthwise": ("conv1", "conv2")}


def basis_mobilenetv2(
    num_classes: int = 1000,
    in_chans: int = 3,
    images: Literal["small", "imagenet"] = "imagenet",
    places: Literal["expand", "expand_project", "expand_depthwise"] = "expand_project",
    penalty_weight: float = PENALTY,
    init: Init = "default",
    attention: bool = False,
) -> nn.Module:
    """MobileNetV2-Shared: in the stages of 32, 64, 96 and 160 channels, convolutions of all blocks but the first share weights.

    Args:
        num_classes, in_chans: outputs, and channels of the image.
        images: "small" or "imagenet", see `leanconv.models.mobilenet.MobileNetV2`.
        places: which convolutions share. "expand": the expanding 1x1 (the row with a dagger). "expand_project": both 1x1 (the
            release; the paper prints its counts). "expand_depthwise": the expanding 1x1 and the depthwise 3x3, as the text
            says; this choice saves 12 % and not the printed 22 %.
        penalty_weight: lambda of the orthogonality penalty. There is one mean over Gram entries for each kind of
            convolution, and the means are added. A depthwise 3x3 has nine columns and many more rows, so its mean stays
            far from zero.
        init: "default", or "release": see `leanconv.models.released_init.torch_default_`.
        attention: see `leanconv.models.mobilenet.MobileNetV2`.

    Raises:
        SettingError: an unknown place or kind of images.

    Source: sections 4.1.2 and 4.2, Fig. 7. MobileNetV2-Shared++ of the README of 2021 is "expand_project" with `attention`.
    """
    check_choice("places", places, tuple(INVERTED_PLACES))
    check_choice("init", init, INITS)
    dense = MobileNetV2(num_classes, in_chans, images, attention=attention)
    where = [f"layer{stage}.{name}" for stage in ("3*", "4*", "5*", "6*") for name in INVERTED_PLACES[places]]
    model = converted(dense, DepthShared("stage", penalty_weight=penalty_weight), where, exclude=FIRST_BLOCKS)
    return torch_default_(model) if init == "release" else model


def resnext50_cifar(num_classes: int = 100, in_chans: int = 3) -> nn.Module:
    """ResNeXt-50 32x4d for small images: the stem is a 3x3 convolution of stride 1, and there is no max-pool."""
    model = imagenet_resnet("Bottleneck", (3, 4, 6, 3), num_classes, in_chans, cardinality=32, base_width=4)
    return _for_small_images(model, in_chans, "conv1", "maxpool")


def densenet121_cifar(num_classes: int = 100, in_chans: int = 3, transition_relu: bool = True) -> nn.Module:
    """DenseNet-121 (growth 32) for small images: the stem is a 3x3 convolution of stride 1, without normalisation and pool.

    Args:
        num_classes, in_chans: outputs, and channels of the image.
        transition_relu: whether a ReLU follows the normalisation layer between two dense blocks, as in Huang et al. 2017.
            The release of the filter bases has no ReLU there.
    """
    from timm.models.densenet import DenseNet

    check_bool("transition_relu", transition_relu)
    model = DenseNet(growth_rate=32, block_config=(6, 12, 24, 16), num_classes=num_classes, in_chans=in_chans)
    if not transition_relu:
        drop_transition_relus_(model)
    return _for_small_images(model, in_chans, "features.conv0", "features.norm0", "features.pool0")


def transitions(model: nn.Module) -> list[nn.Module]:
    """The normalisation layers between two dense blocks of a DenseNet."""
    return [module for name, module in model.named_modules() if re.search(r"(^|\.)transition\d\.norm$", name)]


def drop_transition_relus_(model: nn.Module) -> None:
    """Replace the ReLUs between dense blocks by the identity, in place.

    Raises:
        SettingError: the ReLU is not part of the normalisation layer before it. (In timm's networks it is.)
    """
    for norm in transitions(model):
        if not isinstance(getattr(norm, "act", None), nn.Module):
            raise SettingError(f"the ReLU behind a {type(norm).__name__} cannot be left out; take densenet121_cifar")
        norm.act = nn.Identity()


def _for_small_images(model: Any, in_chans: int, stem: str, *gone: str) -> nn.Module:
    old = model.get_submodule(stem)
    conv = nn.Conv2d(in_chans, old.out_channels, 3, padding=1, bias=False)
    nn.init.kaiming_normal_(conv.weight, mode="fan_out", nonlinearity="relu")
    model.set_submodule(stem, conv)
    for name in gone:
        model.set_submodule(name, nn.Identity())
    model.default_input_size = (in_chans, 32, 32)
    model.feature_info = [
        {**info, "reduction": info["reduction"] // 4} for info in model.feature_info if info["reduction"] >= 4
    ]
    return model


def basis_densenet121(
    num_classes: int = 100,
    in_chans: int = 3,
    shared: int = 16,
    unique: int = 1,
    bases: int = 1,
    penalty_weight: float = PENALTY,
    transition_relu: bool = True,
    init: Init = "default",
) -> nn.Module:
    """DenseNet121-SsUu for small images: one basis for all 3x3 convolutions of each dense block, with equal ranks.

    It has 5,084,504 parameters at S16U1. In the release, block 4 uses the basis of block 3; block 4's own basis is counted but
    never used. Here each block uses its own basis.

    Args:
        num_classes, in_chans: outputs, and channels of the image.
        shared, unique, bases, penalty_weight: see `basis_cifar_resnet`; the ranks do not grow with the block.
        transition_relu: see `densenet121_cifar`.
        init: "default", or "release": see `leanconv.models.released_init.torch_default_`.

    Raises:
        SettingError: the method refuses a setting.

    Source: section 4.1.2, there labelled "S64U4", which is the label of ResNeXt-50.
    """
    check_choice("init", init, INITS)
    dense = densenet121_cifar(num_classes, in_chans, transition_relu)
    method = SharedBasis(shared, unique, bases, growth=1, penalty_weight=penalty_weight)
    model = converted(dense, method, "features.denseblock*.conv2")
    return torch_default_(model) if init == "release" else model


class SharedGroupedConv2d(nn.Module):
    """Two parallel grouped 3x3 convolutions: one with its own weight, and one with the weight that a stage shares.

        y = cat[unique(x), shared(x)]

    Args:
        unique: the convolution with its own weight.
        shared: the convolution with the shared weight.

    Shape:
        x: (N, C, H, W) -> (N, unique + shared, H, W).
    """

    def __init__(self, unique: nn.Conv2d, shared: DepthSharedConv2d) -> None:
        super().__init__()
        self.unique = unique
        self.shared = shared
        self.out_channels = unique.out_channels + shared.out_channels

    def forward(self, x: Tensor) -> Tensor:
        return torch.cat([self.unique(x), self.shared(x)], 1)

    def release_places(self, layer: NamedLayer) -> list[Place]:
        inner = replace(layer, name=f"{layer.name}.shared", seen=Counter())  # the one shared weight of its block
        number = re.sub(r"\D", "", layer.name.rpartition(".")[2])
        ours = f"{layer.name}.unique.weight"
        return [*self.shared.release_places(inner), Place(ours, (ours, f"{layer.block}.basis_conv{number}.weight"))]


SHARED_GROUPS = 16


def basis_resnext50(
    num_classes: int = 100, in_chans: int = 3, shared: int = 64, unique: int = 4, penalty_weight: float = PENALTY
) -> nn.Module:
    """ResNeXt50-SsUu for small images.

    In every block except the first of a stage, the grouped 3x3 becomes a basis: `shared` filters of the stage (16 groups) and
    `unique` filters of the layer. Both numbers double with each stage. A normalisation layer and a ReLU follow. The last 1x1 of
    the block then holds the coefficients. S64U4 has 19,333,380 parameters.

    Args:
        num_classes, in_chans: outputs, and channels of the image.
        shared: a multiple of 16, the number of groups of the shared filters.
        unique: a multiple of 4; the unique filters have unique / 4 groups in the first stage.
        penalty_weight: lambda of the orthogonality penalty on the shared filters; 0 turns it off.

    Raises:
        SettingError: `unique` is not a multiple of 4, or `shared` is not a multiple of 16.

    Source: section 4.1.2 and the release. The release labels it S16U1, which cannot be built: it would have 1 / 4 groups.
    """
    check_int("unique", unique)
    check_int("shared", shared)
    for name, value, divisor in (("unique", unique, 4), ("shared", shared, SHARED_GROUPS)):
        if value % divisor:
            raise SettingError(
                f"{name}={value} must be a multiple of {divisor}; {value // divisor * divisor + divisor} is"
            )
    model: Any = resnext50_cifar(num_classes, in_chans)
    for stage, layer in enumerate((model.layer1, model.layer2, model.layer3, model.layer4)):
        bank: ConvBank | None = None
        users: list[nn.Module] = []
        for block in list(layer)[1:]:
            channels, out_channels = block.conv2.in_channels, block.conv3.out_channels
            common, own = shared * 2**stage, unique * 2**stage
            if bank is None:
                bank = ConvBank((common, channels // SHARED_GROUPS, 3, 3), False, penalty_weight)
            of_stage = DepthSharedConv2d(channels, common, 3, padding=1, groups=SHARED_GROUPS, bias=False, bank=bank)
            users.append(of_stage)
            of_layer = nn.Conv2d(channels, own, 3, padding=1, groups=own // 4, bias=False)
            coefficients = nn.Conv2d(own + common, out_channels, 1, bias=False)
            for conv in (of_layer, coefficients):
                nn.init.kaiming_normal_(conv.weight, mode="fan_out", nonlinearity="relu")
            block.conv2 = SharedGroupedConv2d(of_layer, of_stage)
            block.bn2 = nn.BatchNorm2d(own + common)
            block.conv3 = coefficients
        assert bank is not None
        lend(bank, users)
    return model


SMALL, IMAGENET = (3, 32, 32), (3, 224, 224)
PAPER = "Deeply shared filter bases"


def _small(name: str, depths: tuple[int, ...], **settings: Any) -> ModelEntry:
    return ModelEntry(name, partial(basis_cifar_resnet, depths), settings, f"{PAPER}, section 4.1", SMALL)


_R34: dict[str, Any] = {"num_classes": 100, "width": 64, "shortcut": "B"}
_PLAIN = {"transition_relu": False}
ENTRIES: tuple[ModelEntry, ...] = (
    _small("basis_resnet32", (5, 5, 5)),
    _small("basis_resnet56", (9, 9, 9)),
    _small("basis_resnet34", (3, 4, 6, 3), **_R34, shared=32),
    _small("basis_resnet34_unnormed", (3, 4, 6, 3), **_R34, shared=16, inner_norm="off"),
    _small("basis_resnet34_unnormed_release", (3, 4, 6, 3), **_R34, shared=16, inner_norm="release"),
    ModelEntry("basis_resnet34_imagenet", basis_resnet34_imagenet, {}, f"{PAPER}, section 4.2", IMAGENET),
    ModelEntry(
        "basis_resnet50_shared", partial(basis_bottleneck_resnet, (3, 4, 6, 3)), {}, f"{PAPER}, section 4.2", IMAGENET
    ),
    ModelEntry(
        "basis_resnet101_shared", partial(basis_bottleneck_resnet, (3, 4, 23, 3)), {"places": "spatial"},
        f"{PAPER}, its release", IMAGENET,
    ),
    ModelEntry("basis_resnext50", basis_resnext50, {}, f"{PAPER}, section 4.1", SMALL),
    ModelEntry("basis_densenet121", basis_densenet121, {}, f"{PAPER}, section 4.1", SMALL, "hook"),
    ModelEntry("basis_densenet121_release", basis_densenet121, _PLAIN, f"{PAPER}, its release", SMALL, "hook"),
    ModelEntry(
        "basis_mobilenetv2", basis_mobilenetv2, {"images": "small", "num_classes": 100}, f"{PAPER}, section 4.1", SMALL
    ),
    ModelEntry("basis_mobilenetv2_imagenet", basis_mobilenetv2, {}, f"{PAPER}, section 4.2", IMAGENET),
    ModelEntry(
        "basis_mobilenetv2_imagenet_eca", basis_mobilenetv2, {"attention": True},
        f"{PAPER}, its README of 2021; the place of the attention was fitted to its number of parameters", IMAGENET,
    ),
    ModelEntry("resnext50_cifar", resnext50_cifar, {}, f"{RESNEXT}, the baseline of {PAPER}", SMALL),
    ModelEntry("densenet121_cifar", densenet121_cifar, {}, f"DenseNet-121, the baseline of {PAPER}", SMALL, "hook"),
    ModelEntry("densenet121_cifar_release", densenet121_cifar, _PLAIN, f"the baseline in the release of {PAPER}", SMALL, "hook"),
    ModelEntry(
        "mobilenetv2_cifar", MobileNetV2, {"images": "small", "num_classes": 100}, f"MobileNetV2, the baseline of {PAPER}", SMALL
    ),
    ModelEntry("mobilenetv2_imagenet", MobileNetV2, {}, f"MobileNetV2, the baseline of {PAPER}", IMAGENET),
)  # fmt: skip
