"""A detector becomes lean: its backbone and its pyramid, within a budget, stopped and continued, saved and evaluated."""

from __future__ import annotations

import json
from collections.abc import Iterator
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

import leanconv as lc
from leanconv.core.errors import SettingError
from leanconv.detect import DetectConfig, create_detector, fit_detector, load_detector, open_detection, save_detector
from leanconv.detect.budget.photos import calibration_photos, input_size_of
from leanconv.detect.budget.recovery import recover
from leanconv.detect.distill import MapsDistillation, maps_loss
from leanconv.detect.maps import maps_of, with_maps
from tests.budget.conftest import Stop

from .sample import write_coco

FEW = {
    "box_batch_size_per_image": 8,
    "rpn_post_nms_top_n_train": 20,
    "rpn_post_nms_top_n_test": 20,
    "box_detections_per_img": 10,
}
CONFIG = DetectConfig(
    epochs=1, batch_size=2, lr=0.002, warmup_epochs=0, schedule="constant", min_size=(48,), max_size=64, clip=5.0, threads=1,
    flip=0.5,
)  # fmt: skip
QUICK: dict[str, Any] = {
    "methods": ("tied_block", "low_rank"), "align": 4, "images": 2, "points": 3, "recovery_epochs": 0, "controls": (),
    "threads": 1, "progress": False, "cache": None, "device": "cpu", "narrowed": 0,
}  # fmt: skip


class Tiny(nn.Module):
    """Maps of strides 4 to 32 in a few layers, with a residual block."""

    def __init__(self) -> None:
        super().__init__()
        self.conv1 = _layer(3, 8, 4)
        self.layer1 = Residual(8)
        self.layer2, self.layer3, self.layer4 = _layer(8, 12), _layer(12, 12), _layer(12, 16)
        self.fc = nn.Linear(16, 5)

    def forward(self, x: Tensor) -> Tensor:
        return self.fc(self.layer4(self.layer3(self.layer2(self.layer1(self.conv1(x))))).mean((2, 3)))


def _layer(into: int, out: int, stride: int = 2) -> nn.Sequential:
    return nn.Sequential(nn.Conv2d(into, out, 3, stride, 1, bias=False), nn.BatchNorm2d(out), nn.ReLU())


class Residual(nn.Module):
    def __init__(self, channels: int) -> None:
        super().__init__()
        self.inner = nn.Sequential(
            *_layer(channels, channels, 1), nn.Conv2d(channels, channels, 3, padding=1, bias=False)
        )
        self.bn = nn.BatchNorm2d(channels)

    def forward(self, x: Tensor) -> Tensor:
        return torch.relu(self.bn(self.inner(x)) + x)


def detector(name: str = "faster_rcnn", **settings: Any) -> nn.Module:
    torch.manual_seed(0)
    few = {} if name == "retinanet" else FEW
    sizes = {"min_size": (48,), "max_size": 64, "anchor_sizes": (8, 16, 24, 32, 48), "pyramid_channels": 8}
    return create_detector(name, Tiny(), classes=("box", "disc"), **sizes, **few, **settings).eval()


@pytest.fixture(scope="module", autouse=True)
def _quick() -> Iterator[None]:
    """Let the timing of networks take no time."""
    with pytest.MonkeyPatch.context() as patch:
        for name in ("budget.flow.FINAL_SECONDS", "budget.times.SECONDS", "detect.budget.setup.SECONDS"):
            patch.setattr(f"leanconv.{name}", 0.02)
        patch.setattr("leanconv.timing.latency.WARM_UP_SECONDS", 0.0)
        yield


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_coco(tmp_path_factory.mktemp("photos") / "d")


def states(model: nn.Module) -> dict[str, Tensor]:
    return {name: value.clone() for name, value in model.state_dict().items()}


def same(a: dict[str, Tensor], b: dict[str, Tensor]) -> bool:
    return a.keys() == b.keys() and all(torch.equal(a[name], b[name]) for name in a)


@pytest.mark.parametrize(("name", "pyramid"), [("faster_rcnn", False), ("retinanet", True)])
def test_maps_become_lean_and_a_detector_again(name: str, pyramid: bool, tmp_path: Path):
    dense = detector(name, frozen=("layer1",))
    maps, x = maps_of(dense, pyramid), torch.randn(2, 3, 64, 96)
    wanted = dense.backbone(x) if pyramid else dense.backbone.body(x)
    assert all(torch.equal(level, maps(x)[key]) for key, level in wanted.items())
    rules: list[Any] = [("layer[13]*", lc.TiedBlock(2)), *([("fpn.*", lc.LowRank(rank=4))] if pyramid else [])]
    lean = lc.convert(maps, lc.plan(maps, rules, input_size=(3, 64, 96)), "fit")
    made = with_maps(dense, lean)
    found = made.backbone(x) if pyramid else made.backbone.body(x)
    assert all(torch.equal(level, lean(x)[key]) for key, level in found.items())
    assert lc.plan_of(maps_of(made, pyramid)) is not None
    assert all(
        parameter.requires_grad for parameter in made.get_submodule("backbone.body.layer1.inner.0").parameters()
    )  # frozen, and now lean
    heads = {key: value for key, value in states(dense).items() if not key.startswith("backbone.")}
    assert all(torch.equal(value, made.state_dict()[key]) for key, value in heads.items())
    save_detector(made, tmp_path)
    assert same(states(load_detector(tmp_path, Tiny())), states(made))


def test_a_narrower_backbone_is_a_detector_that_saves_and_loads(tmp_path: Path):
    dense, x = detector(), torch.randn(1, 3, 64, 64)
    narrow = lc.prune(maps_of(dense), ratios={"layer1.inner*": 0.5}, align=4, input_size=(3, 64, 64))
    made = with_maps(dense, narrow)
    assert all(torch.equal(level, made.backbone.body(x)[key]) for key, level in narrow(x).items())
    save_detector(made, tmp_path)
    assert same(states(load_detector(tmp_path, Tiny())), states(made))
    with pytest.raises(SettingError, match="channels of a pyramid cannot be removed"):
        with_maps(dense, lc.prune(maps_of(dense, True), ratios={"layer1.inner*": 0.5}, align=4, input_size=(3, 64, 64)))


def test_photos_come_as_the_detector_resizes_them(folder: Path):
    dense, photos = detector(), open_detection(folder).train
    assert input_size_of(dense, photos) == (3, 64, 64)  # 48 x 64, padded to a multiple of 32
    images = calibration_photos(dense, photos, 3, (64, 80), seed=0)
    assert images.shape == (3, 3, 64, 80) and not images[:, :, 48:].any() and not images[:, :, :, 64:].any()
    assert torch.equal(images, calibration_photos(dense, photos, 3, (64, 80), seed=0))
    assert len(calibration_photos(dense, photos, 99, (64, 64), seed=0)) == 4


def test_the_distillation_compares_the_maps_of_the_same_photos(folder: Path):
    teacher, photo = detector(), open_detection(folder).train[0]
    twin = detector()
    distillation = MapsDistillation(teacher, twin, pyramid=True)
    from leanconv.detect.feed import read_image, target_of

    batch = [read_image(photo)], [target_of(photo, False)]
    with distillation.watching(twin):
        twin.train().backbone.body.eval()
        twin(*batch)
        assert float(distillation.loss().detach()) < 1e-10
        with torch.no_grad():
            twin.get_submodule("backbone.body.layer4.0").weight.mul_(1.5)
            twin.get_submodule("backbone.body.layer4.1").weight.mul_(1.5)
        twin(*batch)
        loss = distillation.loss()
        loss.backward()
    body, wanted = twin.backbone.body(distillation.photos), teacher.backbone.body(distillation.photos)
    assert float(maps_loss(body, wanted).detach()) > 0 and float(loss.detach()) > 0
    assert twin.get_submodule("backbone.body.layer4.0").weight.grad.abs().sum() > 0
    assert not twin.backbone._forward_pre_hooks and not twin.backbone.body._forward_hooks
    with pytest.raises(SettingError, match=r"feature maps of .* channels, and the teacher of"):
        MapsDistillation(teacher, create_detector("faster_rcnn", Tiny(), 3, pyramid_channels=4))


def test_features_alone_leave_the_heads_alone(folder: Path, tmp_path: Path):
    data, dense = open_detection(folder), detector()
    student = with_maps(
        dense, lc.convert(maps_of(dense), lc.TiedBlock(2), "fit", where="layer*", input_size=(3, 64, 64))
    )
    before = states(student)
    history = fit_detector(
        student,
        data,
        CONFIG.replace(distill_weight=1),
        tmp_path / "a",
        progress=False,
        accelerator="cpu",
        teacher=dense,
    ).history
    changed = {name for name, value in states(student).items() if not torch.equal(value, before[name])}
    assert changed and all(name.startswith("backbone.body.") for name in changed)
    assert history[0]["distill_loss"] > 0
    with pytest.raises(SettingError, match="distill_weight=1 needs a teacher"):
        fit_detector(student, data, CONFIG.replace(distill_weight=1), tmp_path / "b", progress=False)


def search(dense: Any, data: Any, out: Path | None, budget: Any = "macs=0.7", **more: Any) -> Any:
    return lc.detect.lean(dense, data, budget, out, more.pop("config", CONFIG), **QUICK | more)


SHORT = {"recovery_epochs": 1, "recover": partial(recover, block_steps=2), "controls": ("uniform",), "pyramid": True}


@pytest.fixture(scope="module")
def whole(folder: Path, tmp_path_factory: pytest.TempPathFactory) -> Any:
    out = tmp_path_factory.mktemp("whole") / "search"
    return search(detector(), folder, out, **SHORT), out


def test_a_detector_meets_its_budget_with_its_pyramid(whole: Any, folder: Path):
    found, out = whole
    rows = {row["network"]: row for row in found.rows}
    assert [*rows] == ["dense", "lean", "uniform"]
    for name in ("lean", "uniform"):
        assert rows[name]["macs"] <= 0.7 * rows["dense"]["macs"]
        assert rows[name]["predicted"]["params"] == rows[name]["params"]
        assert rows[name]["before"]["metrics"].keys() == {"bbox"}
        assert rows[name]["counts"]["params"] < rows["dense"]["counts"]["params"]
        assert rows[name]["detector_ms"] > 0 and len(rows[name]["val"]["slices"]) == 17
    assert any(group.sites[0].name.startswith("fpn.") for group in found.plan.groups)
    assert {row["layer"] for row in found.layers} >= {"layer1.inner.0", "fpn.inner_blocks.0.0"}
    loaded = load_detector(out, Tiny())
    assert same(states(loaded), states(found.network))
    again = lc.detect.evaluate({"lean": loaded}, folder, by="masks")
    assert again.rows[0]["val"]["metrics"] == rows["lean"]["val"]["metrics"]
    text = str(found)
    assert "of the backbone and pyramid" in text and "Under occlusion" in text and "AP of boxes" in text
    page = (out / "report.html").read_text()
    assert "Under occlusion" in page and "relative squared error" in page
    summary = json.loads((out / "summary.json").read_text())
    assert summary["kind"] == "lean_detector" and summary["settings"]["data"]["input_size"] == [3, 64, 64]
    assert summary["settings"]["data"]["images_digest"], (
        "a search on a folder of the same name with other photos is another one"
    )
    assert (out / "networks" / "lean" / "recovery" / "blocks" / "blocks.json").exists()


@pytest.mark.parametrize(("stage", "number"), [("score", 3), ("recover", 1)])
def test_a_search_that_is_stopped_continues_to_the_same_detector(
    stage: str, number: int, whole: Any, folder: Path, tmp_path: Path
):
    asked = SHORT | {"progress": Stop(stage, number)}
    with pytest.raises(KeyboardInterrupt):
        search(detector(), folder, tmp_path, **asked)
    found = search(detector(), folder, tmp_path, resume=True, **SHORT)
    assert same(states(found.network), states(whole[0].network))
    assert [row["val"] for row in found.rows] == [row["val"] for row in whole[0].rows]


def test_a_recovery_that_is_stopped_within_an_epoch_continues_exactly(folder: Path, tmp_path: Path):
    data, dense = open_detection(folder), detector()
    maps = lc.convert(maps_of(dense), lc.TiedBlock(2), "fit", where="layer*", input_size=(3, 64, 64))
    images = calibration_photos(dense, data.train, 4, (64, 64), seed=0)
    work = partial(
        recover, teacher=dense, data=data, config=CONFIG, images=images, device="cpu", progress=False, block_steps=2
    )
    straight = with_maps(dense, maps)
    work(straight, folder=tmp_path / "a")
    stopped, calls = with_maps(dense, maps), []
    forward = stopped.forward

    def until_second(*given: object) -> object:
        calls.append(1)
        if len(calls) == 2:
            raise KeyboardInterrupt
        return forward(*given)

    stopped.forward = until_second
    with pytest.raises(KeyboardInterrupt):
        work(stopped, folder=tmp_path / "b")
    again = with_maps(dense, maps)
    work(again, folder=tmp_path / "b")
    assert same(states(again), states(straight))


def test_a_drop_in_points_of_ap_decides_how_lean_it_becomes(folder: Path):
    def metric(model: nn.Module) -> float:
        return float(lc.detect.job.counts(model)["backbone_params"])  # it falls with each saving

    dense = detector()
    params = metric(dense)
    found = search(dense, folder, None, f"max_drop={0.5 * params}", metric=metric, minimise="params")
    rows = {row["network"]: row for row in found.rows}
    assert 0.5 * params <= rows["lean"]["quality"] < params and "Metric" in str(found)


@pytest.mark.parametrize(
    ("asked", "said"),
    [
        (
            {"runtime": "openvino"},
            "runtime='openvino' is for classifiers: leanconv neither compiles nor exports detectors",
        ),
        ({"validation": 0.2}, "validation=0.2 is for classifiers"),
        ({"controls": ["narrower"]}, "controls='narrower' is for classifiers"),
        ({"controls": ["pruned"], "pyramid": True}, "those of a pyramid cannot be removed"),
        ({"budget": "macs=0.001"}, "the nearest that can be met is macs="),
        ({"dense": Tiny()}, "was not made by create_detector"),
        ({"config": "coco_9x"}, "'coco_9x' does not exist"),
    ],
    ids=str,
)
def test_wrong_input_says_the_way_out(asked: dict[str, Any], said: str, folder: Path):
    with pytest.raises(SettingError, match=said):
        search(asked.pop("dense", None) or detector(), folder, None, **asked)


def test_a_lean_detector_is_refused(folder: Path):
    dense = detector()
    lean = with_maps(dense, lc.convert(maps_of(dense), lc.TiedBlock(2), where="layer*", input_size=(3, 64, 64)))
    with pytest.raises(SettingError, match="is lean already; give the trained dense detector"):
        search(lean, folder, None)
