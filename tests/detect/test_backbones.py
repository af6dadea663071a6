"""Networks of many families as backbones, dense and lean, trained for a step, saved and loaded."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn

import leanconv as lc
from leanconv.core.errors import SettingError
from leanconv.core.record import get_record, set_record
from leanconv.detect import create_detector, load_detector, save_detector
from leanconv.detect.backbone import PyramidBackbone, feature_layers
from leanconv.detect.detector import groups_of
from leanconv.models.create import create_model

SMALL: dict[str, Any] = {
    "pyramid_channels": 8, "anchor_sizes": (8, 16, 32, 64, 128), "min_size": 64, "max_size": 64, "classes": ("a", "b"),
}  # fmt: skip


def step(detector: nn.Module, photos: int = 1, size: int = 64) -> float:
    target = {"boxes": torch.tensor([[5.0, 5.0, 30.0, 30.0]]), "labels": torch.tensor([1])}
    losses = detector.train()([torch.rand(3, size, size)] * photos, [target] * photos)
    total = sum(losses.values())
    total.backward()
    assert all(torch.isfinite(p.grad).all() for p in detector.parameters() if p.grad is not None)
    return float(total.detach())


FAMILIES = {
    "timm/hrnet_w18_small": "incre_modules.3", "timm/vgg11_bn": "features.28", "torchvision/vgg16_bn": "features",
    "torchvision/mobilenet_v3_small": "features", "torchvision/resnet18": "layer4", "timm/resnet18": "layer4",
}  # fmt: skip


@pytest.mark.parametrize("name", FAMILIES)
@pytest.mark.parametrize("lean", [False, True])
def test_maps_of_strides_4_to_32_from_any_size(name: str, lean: bool) -> None:
    with torch.device("meta"):
        network = create_model(name)
        if lean:
            method = lc.Split(ratio=0.5)
            network = lc.convert(network, lc.plan(network, method, input_size=(3, 64, 64)))
        assert feature_layers(network)[-1] == FAMILIES[name]
        maps = PyramidBackbone(network, out_channels=8)(torch.empty(2, 3, 96, 160))
    assert [tuple(level.shape) for level in maps.values()] == [(2, 8, 96 // s, 160 // s) for s in (4, 8, 16, 32)]


@pytest.mark.slow
@pytest.mark.parametrize("lean", [False, True])
@pytest.mark.parametrize("name", ["timm/hrnet_w18_small", "timm/vgg11_bn", "torchvision/vgg11_bn"])
def test_hrnet_and_vgg_learn_and_come_back_from_disk(tmp_path: Path, name: str, lean: bool) -> None:
    torch.manual_seed(0)
    network = create_model(name)
    if lean:
        network = lc.convert(network, lc.plan(network, lc.TiedBlock(blocks=2), input_size=(3, 64, 64)))
    detector = create_detector("retinanet", network, **SMALL, score_thresh=0.0)
    step(detector, 2)
    photos = [torch.rand(3, 50, 70)]
    with torch.no_grad():
        before = detector.eval()(photos)[0]
        after = load_detector(save_detector(detector, tmp_path))(photos)[0]
    assert all(torch.equal(before[key], after[key]) for key in before) and len(before["boxes"])


REFUSED = {
    "timm/swin_tiny_patch4_window7_224": "with channels last, as Swin does",
    "timm/vit_tiny_patch16_224": r"does not run on an input of \(3, 256, 320\)",
    "torchvision/squeezenet1_0": "no module has maps of stride 4, 8, 16, 32",
    "timm/inception_v3": "each layer must halve the side of the maps of the layer before",
    "resnet20": "no module has maps of stride 8, 16, 32",
}


@pytest.mark.parametrize("name", REFUSED)
def test_networks_without_a_pyramid_say_why(name: str) -> None:
    with torch.device("meta"):
        network = create_model(name)
    with pytest.raises(SettingError, match=REFUSED[name]) as caught:
        PyramidBackbone(network)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("channels", [2, 6, 8, 16, 24, 32])
def test_norm_head_on_narrow_pyramids_and_one_small_photo(channels: int) -> None:
    torch.manual_seed(0)
    detector = create_detector(
        "retinanet", "torchvision/resnet18", **SMALL | {"pyramid_channels": channels}, norm_head=True
    )
    norms = [m for m in detector.head.modules() if isinstance(m, nn.GroupNorm)]
    assert norms and all(norm.num_groups < channels for norm in norms)
    step(detector)
    top = detector.backbone(torch.rand(1, 3, 64, 64))["p7"]
    assert top.shape[2:] == (1, 1)
    assert norms[0](torch.randn(1, channels, 1, 1)).abs().max() > 0  # one channel a group would leave nothing of it


def test_groups_of_wide_pyramids_stay_what_they_were() -> None:
    assert [groups_of(channels) for channels in (256, 128, 64, 96, 48, 40)] == [32, 32, 32, 32, 16, 8]
    with pytest.raises(SettingError, match="norm_head=True needs pyramid_channels=1 to be at least 2"):
        groups_of(1)


def test_a_detector_of_before_keeps_its_groups(tmp_path: Path) -> None:
    torch.manual_seed(0)
    detector = create_detector("retinanet", "torchvision/resnet18", **SMALL, norm_head=True, norm_groups=8)
    record = get_record(detector)
    assert record.detector is not None
    before = {name: value for name, value in record.detector.items() if name != "norm_groups"}
    set_record(detector, replace(record, detector=before))  # as it was written then
    loaded = load_detector(save_detector(detector, tmp_path))
    assert {m.num_groups for m in loaded.head.modules() if isinstance(m, nn.GroupNorm)} == {8}
    for groups, message in ((3, "norm_groups=3 must divide pyramid_channels=8"), (0, "norm_groups=0 must be a whole")):
        with pytest.raises(SettingError, match=message):
            create_detector("retinanet", "torchvision/resnet18", **SMALL, norm_head=True, norm_groups=groups)


def test_a_photo_too_small_for_batch_norm_is_said() -> None:
    detector = create_detector("faster_rcnn", "torchvision/resnet18", **SMALL | {"min_size": 32, "max_size": 32})
    with pytest.raises(SettingError, match="1 photo of 32x32 pixels gives a batch norm only one value per channel"):
        step(detector, 1, 32)
