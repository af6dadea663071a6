"""Build detectors by name on any backbone, from torchvision's parts and leanconv's Cascade R-CNN."""

from __future__ import annotations

import inspect
import math
from collections import OrderedDict
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from functools import partial
from typing import Any, cast

from torch import Tensor, nn
from torchvision.models.detection import FasterRCNN, MaskRCNN, RetinaNet
from torchvision.models.detection.anchor_utils import AnchorGenerator
from torchvision.models.detection.faster_rcnn import FastRCNNPredictor
from torchvision.models.detection.mask_rcnn import MaskRCNNHeads, MaskRCNNPredictor
from torchvision.models.detection.retinanet import RetinaNetHead
from torchvision.models.detection.roi_heads import RoIHeads
from torchvision.ops import MultiScaleRoIAlign
from torchvision.ops.feature_pyramid_network import LastLevelMaxPool, LastLevelP6P7

from leanconv.core.errors import SettingError
from leanconv.core.record import get_record, set_record
from leanconv.core.settings import check_choice, check_int, check_names, check_weight
from leanconv.core.wrappers import unwrapped
from leanconv.data.classes import class_names
from leanconv.detect.backbone import PyramidBackbone
from leanconv.detect.box_loss import SmoothRegressionHead, SmoothRoIHeads
from leanconv.detect.cascade import CascadeRoIHeads
from leanconv.models.create import create_model

LEVELS = ["0", "1", "2", "3"]
P6 = ("p5", "c5")


def create_detector(
    name: str,
    backbone: str | nn.Module = "torchvision/resnet50",
    num_classes: int = 91,
    *,
    pretrained_backbone: bool = False,
    layers: Sequence[str] | None = None,
    frozen_norms: bool = False,
    frozen: Sequence[str] = (),
    pyramid_channels: int = 256,
    anchor_sizes: Sequence[int] | None = None,
    norm_head: bool = False,
    norm_groups: int | None = None,
    box_beta: float | None = None,
    mask_heads: int = 1,
    p6: str = "p5",
    classes: Sequence[str] = (),
    **settings: Any,
) -> nn.Module:
    """Build a detector, with torchvision's interface.

    The detector takes a list of images (3, H, W) in [0, 1] of any sizes, and in training their targets. In training it returns a
    dict of losses. In evaluation it returns boxes, labels and scores for each image, and masks if it has a mask head. With
    torchvision's ResNet-50 the state dict has torchvision's keys, so torchvision's checkpoints load.

    Args:
        name: one of `DETECTORS`.
        backbone: the name of a network, or any dense or lean network.
        num_classes: number of classes including the background, class 0; COCO's ids go up to 90. Unused if `classes` is given.
        pretrained_backbone: load the published weights of the backbone.
        layers, frozen_norms, frozen: see `leanconv.detect.backbone.PyramidBackbone`.
        pyramid_channels: channels of each level of the feature pyramid, and input channels of the heads.
        anchor_sizes: the side of the anchors on each of the five levels, in pixels, instead of 32 to 512. Small photos need
            smaller anchors.
        norm_head: add group norms to RetinaNet's head, as in torchvision's second version. Without group norms RetinaNet
            learns little from scratch.
        norm_groups: number of groups of these group norms; None takes `groups_of`.
        box_beta: of the smooth L1 loss of the boxes in the heads, see `leanconv.detect.box_loss.box_losses`. None takes
            torchvision's: 1 / 9, and 0, the L1 loss, in RetinaNet. The toolbox of TBC has 1, and 0.11 in RetinaNet. The region
            proposals have 1 / 9 in both.
        mask_heads: of cascade_mask_rcnn: 1, which is trained on the samples of the first stage; or 3 as in the toolbox of TBC,
            one for each stage. With 91 classes, 3 heads have 5.29 M more parameters: 2 (4 (9 * 256 + 1) 256 + (4 * 256 + 1) 256
            + 257 * 91).
        p6: for RetinaNet, what its sixth level is computed from: "p5", the last level of the pyramid, as torchvision does; or
            "c5", the last map of the backbone, as the toolbox of TBC does. On ResNet-50, "c5" has 4.13 M more parameters:
            9 * 256 * (2048 - 256).
        classes: names of the classes, without the background.
        settings: of torchvision's detector: min_size, max_size, box_score_thresh, ...

    Raises:
        SettingError: the name or a setting is unknown, or the feature maps of the backbone cannot be found.
    """
    if name not in DETECTORS:
        raise SettingError(f"detector={name!r} must be one of {', '.join(DETECTORS)}")
    check_names("layers", layers or ())
    classes = class_names(classes, "the detector", error=SettingError)
    num_classes = len(classes) + 1 if classes else num_classes
    check_int("num_classes", num_classes, 2)
    network = create_model(backbone, pretrained_backbone) if isinstance(backbone, str) else backbone
    _check_settings(name, settings)
    note: dict[str, Any] = {
        "name": name,
        "num_classes": num_classes,
        "classes": list(classes),
        "anchor_sizes": anchor_sizes,
    }
    note["norm_head"] = norm_head
    check_int("pyramid_channels", pyramid_channels, 1)
    groups = _groups_of_head(name, norm_head, norm_groups, pyramid_channels)
    if groups is not None:
        note["norm_groups"] = groups
    asked = _as_in_the_toolbox(name, box_beta, mask_heads, p6)
    note |= asked
    common: dict[str, Any] = {"layers": layers, "frozen_norms": frozen_norms, "frozen": frozen}
    note |= common | {"pyramid_channels": pyramid_channels, "settings": dict(settings)}
    common |= {"out_channels": pyramid_channels}
    if anchor_sizes is not None:
        generator = "anchor_generator" if name == "retinanet" else "rpn_anchor_generator"
        settings = {generator: _anchors(name, anchor_sizes)} | settings
    if "cascade" in name:
        settings = settings | asked  # its heads take them
    detector = DETECTORS[name](network, num_classes, common, settings)
    if p6 == "c5":
        _read_backbone_(cast(PyramidBackbone, detector.backbone))
    if name == "retinanet":
        _set_head_(detector, pyramid_channels, num_classes, groups, box_beta)
    elif box_beta is not None and "cascade" not in name:
        detector.roi_heads = SmoothRoIHeads(cast(RoIHeads, detector.roi_heads), box_beta)
    set_record(detector, replace(get_record(detector), detector=note))
    for module_name, module in detector.named_modules():
        if module_name in ("rpn.head", "head") or module_name.endswith(("box_predictor", "mask_predictor")):
            module.register_forward_hook(_in_float32)
    return detector


def _as_in_the_toolbox(name: str, box_beta: float | None, mask_heads: int, p6: str) -> dict[str, Any]:
    """The settings that the toolbox of TBC has otherwise than torchvision, without those that are torchvision's.

    Raises:
        SettingError: a setting is out of its range, or is for another detector.
    """
    found: dict[str, Any] = {}
    if box_beta is not None:
        check_weight("box_beta", box_beta)
        found["box_beta"] = box_beta
    if mask_heads not in (1, 3):
        raise SettingError(f"mask_heads={mask_heads!r} must be 1 or 3, one for each stage")
    if mask_heads > 1:
        if name != "cascade_mask_rcnn":
            raise SettingError(
                f"mask_heads={mask_heads} is for cascade_mask_rcnn; {name} has no three stages with masks"
            )
        found["mask_heads"] = mask_heads
    check_choice("p6", p6, P6)
    if p6 != "p5":
        if name != "retinanet":
            raise SettingError(f"p6={p6!r} is for retinanet; {name} has no such level")
        found["p6"] = p6
    return found


def _set_head_(detector: nn.Module, channels: int, num_classes: int, groups: int | None, beta: float | None) -> None:
    """Give a RetinaNet a head with group norms, and with another beta, where they are asked for."""
    each = cast(AnchorGenerator, detector.anchor_generator).num_anchors_per_location()[0]
    norm = None if groups is None else partial(nn.GroupNorm, groups)
    if norm is not None:
        detector.head = RetinaNetHead(channels, each, num_classes, norm_layer=norm)
    if beta is not None:
        cast(RetinaNetHead, detector.head).regression_head = SmoothRegressionHead(channels, each, norm, beta)


def _read_backbone_(backbone: PyramidBackbone) -> None:
    """Compute the sixth level from the last map of the backbone, and not from the last level of the pyramid."""
    fpn = backbone.fpn
    last = cast(nn.Conv2d, cast(nn.Sequential, fpn.inner_blocks[-1])[0]).in_channels
    fpn.extra_blocks = LastLevelP6P7(last, backbone.out_channels)
    fpn.extra_blocks.use_P5 = False  # torchvision would take P5 where both have as many channels


def _check_settings(name: str, settings: Mapping[str, Any]) -> None:
    """Raise SettingError for a setting that torchvision's detector does not have."""
    known = {*inspect.signature(BASES[name]).parameters, "size_divisible", "fixed_size"} - {
        "backbone",
        "num_classes",
        "kwargs",
    }
    if "cascade" in name:  # its heads have their own
        known -= {
            "box_head",
            "box_predictor",
            "box_roi_pool",
            "box_fg_iou_thresh",
            "box_bg_iou_thresh",
            "bbox_reg_weights",
        }
    unknown = sorted(set(settings) - known)
    if unknown:
        raise SettingError(f"{unknown[0]} is not a setting of {name}; it has {', '.join(sorted(known))}")


def _groups_of_head(name: str, norm_head: bool, norm_groups: int | None, channels: int) -> int | None:
    """How many groups the norms of RetinaNet's head have; None where it has no norms."""
    if not norm_head:
        if norm_groups is not None:
            raise SettingError(f"norm_groups={norm_groups} is for norm_head=True; leave it out")
        return None
    if name != "retinanet":
        raise SettingError(f"norm_head=True is for retinanet; {name} has no such head")
    groups = groups_of(channels) if norm_groups is None else norm_groups
    check_int("norm_groups", groups)
    if channels % groups:
        raise SettingError(f"norm_groups={groups} must divide pyramid_channels={channels}")
    return groups


def groups_of(channels: int) -> int:
    """The number of groups of a group norm: 32 if 32 divides the channels; fewer if a group would have only one channel.

    On the top level of the pyramid a small photo has one pixel, so a group of one channel has one value. Normalising one value
    always gives 0: torch refuses this for one photo, and with several photos nothing is learnt there.

    >>> groups_of(256), groups_of(32)
    (32, 4)

    Raises:
        SettingError: there is only one channel.
    """
    if channels < 2:
        raise SettingError(f"norm_head=True needs pyramid_channels={channels} to be at least 2; 256 is usual")
    groups = math.gcd(32, channels)
    return groups if groups < channels else max(1, channels // 8)


def _in_float32(module: nn.Module, inputs: Any, output: Any) -> Any:
    """Convert the output of a head to float32, because bfloat16 cannot distinguish the pixels of a large photo."""
    if isinstance(output, Tensor):
        return output.float()
    if isinstance(output, dict):
        return {name: _in_float32(module, inputs, value) for name, value in output.items()}
    return type(output)(_in_float32(module, inputs, value) for value in output)


def describe_detector(detector: nn.Module) -> Mapping[str, Any]:
    """The settings that `create_detector` built `detector` with, without the network of the backbone.

    Raises:
        SettingError: `create_detector` did not build this detector.
    """
    note = get_record(unwrapped(detector)).detector
    if note is None:
        raise SettingError(f"{type(detector).__name__} was not made by create_detector; build it with create_detector")
    return note


def described_detector(note: Mapping[str, Any], network: nn.Module) -> nn.Module:
    """The detector that `describe_detector` described, with `network` in its backbone and with new weights."""
    given = dict(note)
    settings = given.pop("settings", {})
    return create_detector(given.pop("name", ""), network, **given, **settings)


def set_settings(detector: nn.Module, **settings: Any) -> None:
    """Note other settings of torchvision's detector than those it was made with."""
    made = describe_detector(detector)
    detector = unwrapped(detector)
    changed = {**made, "settings": {**made["settings"], **settings}}
    set_record(detector, replace(get_record(detector), detector=changed))


def _retinanet(network: nn.Module, num_classes: int, common: dict[str, Any], settings: dict[str, Any]) -> nn.Module:
    channels = common["out_channels"]
    # without the finest level, which has too many anchors
    return RetinaNet(
        PyramidBackbone(network, first=1, extra=LastLevelP6P7(channels, channels), **common), num_classes, **settings
    )


def _faster_rcnn(network: nn.Module, num_classes: int, common: dict[str, Any], settings: dict[str, Any]) -> nn.Module:
    return FasterRCNN(PyramidBackbone(network, extra=LastLevelMaxPool(), **common), num_classes, **settings)


def _mask_rcnn(network: nn.Module, num_classes: int, common: dict[str, Any], settings: dict[str, Any]) -> nn.Module:
    return MaskRCNN(PyramidBackbone(network, extra=LastLevelMaxPool(), **common), num_classes, **settings)


def _cascade_rcnn(
    network: nn.Module, num_classes: int, common: dict[str, Any], settings: dict[str, Any], masks: bool = False
) -> nn.Module:
    own = {
        f"box_{name}": settings.pop(f"box_{name}")
        for name in (
            "score_thresh",
            "nms_thresh",
            "detections_per_img",
            "batch_size_per_image",
            "positive_fraction",
            "beta",
        )
        if f"box_{name}" in settings
    }
    later = settings.pop("mask_heads", 1) - 1
    backbone = PyramidBackbone(network, extra=LastLevelMaxPool(), **common)
    # these heads are replaced below, so the smallest possible ones are built
    detector = FasterRCNN(backbone, box_head=nn.Identity(), box_predictor=FastRCNNPredictor(1, 2), **settings)
    channels = backbone.out_channels
    parts: dict[str, Any] = {}
    if masks:
        parts = {"mask_roi_pool": MultiScaleRoIAlign(LEVELS, output_size=14, sampling_ratio=2)}
        parts |= _mask_head(channels, num_classes)
        parts["later_masks"] = [nn.Sequential(_mask_head(channels, num_classes)) for _ in range(later)]
    pool = MultiScaleRoIAlign(LEVELS, output_size=7, sampling_ratio=2)
    named = {name.removeprefix("box_"): value for name, value in own.items()}
    detector.roi_heads = CascadeRoIHeads(pool, channels, num_classes, **named, **parts)
    return detector


def _mask_head(channels: int, num_classes: int) -> OrderedDict[str, nn.Module]:
    """Mask R-CNN's mask head on a pyramid, and the layers behind it that give a mask for each class."""
    head, predictor = MaskRCNNHeads(channels, (256, 256, 256, 256), 1), MaskRCNNPredictor(256, 256, num_classes)
    return OrderedDict(mask_head=head, mask_predictor=predictor)


def _cascade_mask_rcnn(
    network: nn.Module, num_classes: int, common: dict[str, Any], settings: dict[str, Any]
) -> nn.Module:
    return _cascade_rcnn(network, num_classes, common, settings, masks=True)


DETECTORS: dict[str, Callable[[nn.Module, int, dict[str, Any], dict[str, Any]], nn.Module]] = {
    "retinanet": _retinanet,
    "faster_rcnn": _faster_rcnn,
    "mask_rcnn": _mask_rcnn,
    "cascade_rcnn": _cascade_rcnn,
    "cascade_mask_rcnn": _cascade_mask_rcnn,
}
BASES: dict[str, type[nn.Module]] = {  # torchvision's classes, whose settings the detectors accept
    "retinanet": RetinaNet, "faster_rcnn": FasterRCNN, "mask_rcnn": MaskRCNN, "cascade_rcnn": FasterRCNN,
    "cascade_mask_rcnn": FasterRCNN,
}  # fmt: skip


def _anchors(name: str, sizes: Sequence[int]) -> AnchorGenerator:
    """torchvision's anchors with other sizes: one size for each level (RetinaNet: three), each in three aspect ratios."""
    if len(sizes) != 5 or list(sizes) != sorted(set(sizes)) or min(sizes) < 1:
        raise SettingError(
            f"anchor_sizes={tuple(sizes)} must be five rising numbers of pixels, one a level: 8,16,32,64,128"
        )
    scales = 3 if name == "retinanet" else 1
    of_levels = tuple(tuple(int(size * 2 ** (scale / 3)) for scale in range(scales)) for size in sizes)
    return AnchorGenerator(of_levels, ((0.5, 1.0, 2.0),) * len(of_levels))
