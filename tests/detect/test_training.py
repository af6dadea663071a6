"""A detector is trained, stopped, resumed, saved, loaded, evaluated and drawn; by code and by the command line."""

from __future__ import annotations

import copy
import json
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from PIL import Image
from torch import nn

import leanconv as lc
from leanconv.core.errors import DataError, FileError, SettingError, TieError
from leanconv.core.modes import evaluating
from leanconv.detect import (
    DetectConfig,
    create_detector,
    evaluate_detector,
    fit_detector,
    load_detector,
    open_detection,
    save_detector,
)
from leanconv.detect.detector import set_settings
from leanconv.detect.feed import flipped, read_image, target_of
from leanconv.detect.module import loss_names
from leanconv.detect.pictures import draw, drawn_of, marked, truth_of

from .sample import change, write_coco

FEW = {"box_batch_size_per_image": 16, "rpn_post_nms_top_n_train": 50, "rpn_post_nms_top_n_test": 50}
CONFIG = DetectConfig(
    epochs=2,
    batch_size=2,
    lr=0.01,
    warmup_epochs=0,
    schedule="constant",
    min_size=(48,),
    max_size=64,
    clip=5.0,
    threads=1,
)


def detector(
    name: str = "faster_rcnn", method: lc.Method | None = None, classes: tuple[str, ...] = ("box", "disc")
) -> nn.Module:
    torch.manual_seed(0)
    network = lc.create_model("timm/resnet10t")
    if method is not None:
        network = lc.convert(network, lc.plan(network, method, where="layer*.conv[12]"))
    few = {} if name == "retinanet" else FEW
    return create_detector(name, network, classes=classes, pyramid_channels=16, anchor_sizes=(8, 16, 24, 32, 48), **few)


def states(model: nn.Module) -> dict[str, torch.Tensor]:
    return {name: value.clone() for name, value in model.state_dict().items()}


def same(a: dict[str, torch.Tensor], b: dict[str, torch.Tensor]) -> bool:
    return a.keys() == b.keys() and all(torch.equal(a[name], b[name]) for name in a)


@pytest.mark.parametrize("name", ["retinanet", "faster_rcnn", "mask_rcnn", "cascade_rcnn", "cascade_mask_rcnn"])
def test_the_losses_have_their_names(name: str, tmp_path: Path):
    photo = open_detection(write_coco(tmp_path / "d")).train[2]
    made = detector(name).train()
    assert set(made([read_image(photo)], [target_of(photo, "mask" in name)])) == set(loss_names(made))


def test_it_learns_and_resumes_exactly(tmp_path: Path):
    data = open_detection(write_coco(tmp_path / "d"))
    whole = detector(method=lc.TiedBlock(2))
    result = fit_detector(whole, data, CONFIG, tmp_path / "whole", progress=False)
    assert [record["epoch"] for record in result.history] == [1, 2]
    assert result.history[1]["train_loss"] < result.history[0]["train_loss"]
    parts = ("loss_objectness", "loss_rpn_box_reg", "loss_classifier", "loss_box_reg")
    assert result.history[0]["train_loss"] == pytest.approx(sum(result.history[0][name] for name in parts))

    class Stop(Exception):
        pass

    stopped = detector(method=lc.TiedBlock(2))
    calls = []
    forward = stopped.forward

    def until_third(*given: object) -> object:
        calls.append(1)
        if len(calls) == 4:
            raise Stop
        return forward(*given)

    stopped.forward = until_third
    with pytest.raises(Stop):
        fit_detector(stopped, data, CONFIG, tmp_path / "stopped", progress=False)
    again = detector(method=lc.TiedBlock(2))
    with pytest.raises(SettingError, match="holds a run already"):
        fit_detector(again, data, CONFIG, tmp_path / "stopped", progress=False)
    fit_detector(again, data, CONFIG, tmp_path / "stopped", resume=True, progress=False)
    assert same(states(again), states(whole))


def test_parts_rules_and_frozen_parameters(tmp_path: Path):
    """The settings of every run train detectors too: steps in parts, AdamW, rules and frozen parameters."""
    data = open_detection(write_coco(tmp_path / "d"))
    made = detector()
    made.transform.register_forward_pre_hook(lambda module, given: seen.append(len(given[0])))
    seen: list[int] = []
    before = states(made)
    config = CONFIG.replace(
        epochs=1, lr=0.001, accumulate=2, optimizer="adamw", lr_rules=["*.bias=2"], freeze=["backbone.body.*"]
    )
    history = fit_detector(made, data, config, tmp_path / "run", progress=False).history
    assert set(seen) == {1} and len(seen) > 2 and history[0]["train_loss"] > 0
    changed = {name for name, value in states(made).items() if not torch.equal(value, before[name])}
    assert changed and not any(name.startswith("backbone.body") for name in changed)


def test_bf16_tells_pixels_of_a_large_photo_apart():
    """A box of three pixels far to the right: its loss is that of float32, and boxes come in float32."""
    made = detector().train()
    made.transform.min_size, made.transform.max_size = (48,), 1300
    image = torch.rand(3, 48, 1300)
    target = {"boxes": torch.tensor([[1025.0, 20, 1028, 23]]), "labels": torch.tensor([1])}
    torch.manual_seed(0)
    exact = made([image], [target])
    torch.manual_seed(0)
    with torch.autocast("cpu", torch.bfloat16):
        rough = made([image], [target])
    for name, value in exact.items():
        assert rough[name].item() == pytest.approx(value.item(), rel=0.1, abs=0.02), name
    with torch.autocast("cpu", torch.bfloat16), torch.no_grad():
        found = made.eval()([image])[0]
    assert found["boxes"].dtype == found["scores"].dtype == torch.float32


@pytest.mark.parametrize("name", ["timm/efficientnet_b0", "timm/regnetx_002", "torchvision/resnet18"])
def test_norms_of_every_kind_freeze_and_train(name: str):
    """Also norms with an activation inside; and training after an evaluation is training."""
    image, target = torch.rand(3, 64, 64), {"boxes": torch.tensor([[5.0, 5, 40, 40]]), "labels": torch.tensor([1])}
    for frozen in (True, False):
        made = create_detector(
            "faster_rcnn", lc.create_model(name), 3, frozen_norms=frozen, pyramid_channels=16, min_size=64
        )
        made.train()
        with evaluating(made):
            made([image])
        before = {key: value.clone() for key, value in made.backbone.body.named_buffers() if "running" in key}
        made([image], [target])
        after = dict(made.backbone.body.named_buffers())
        changed = [key for key, value in before.items() if not torch.equal(value, after[key])]
        assert before and bool(changed) != frozen and len(changed) in (0, len(before))
    with pytest.raises(SettingError, match="has no batch norm"):
        create_detector("faster_rcnn", lc.create_model("timm/convnext_atto"), 3, frozen_norms=True)


def test_bf16(tmp_path: Path):
    data = open_detection(write_coco(tmp_path / "d"))
    made = detector("cascade_mask_rcnn", lc.Split())
    config = CONFIG.replace(precision="bf16", epochs=1)
    assert 0 < fit_detector(made, data, config, tmp_path / "run", progress=False).history[0]["train_loss"] < 10
    assert set(evaluate_detector(made, data.val, precision="bf16").metrics) == {"bbox", "segm"}


def test_a_bad_photo_is_left_out_and_the_run_goes_on(tmp_path: Path, capsys: pytest.CaptureFixture[str]):
    root = write_coco(tmp_path / "d")
    (root / "train" / "001.png").write_bytes(b"broken")
    data = open_detection(root)
    made = detector()
    result = fit_detector(made, data, CONFIG, tmp_path / "run")
    assert result.epochs == 2
    said = [line for line in capsys.readouterr().err.splitlines() if "left out" in line]
    assert len(said) == 1 and "001.png: no known image format" in said[0]
    assert len(json.loads((tmp_path / "run" / "summary.json").read_text())["unread"]) == 1
    (root / "val" / "100.png").write_bytes(b"")
    again = CONFIG.replace(batch_size=1, epochs=4)  # the bad one comes first in some epoch
    assert fit_detector(detector(), data, again, tmp_path / "again", progress=False).epochs == 4
    for photo in data.train:
        photo.path.unlink()
    with pytest.raises(DataError, match="none of the 4 photos can be read"):
        fit_detector(detector(), data, CONFIG, tmp_path / "none", progress=False)
    scores = evaluate_detector(made, data.val)
    assert scores.photos == 2 and len(scores.unread) == 1 and "the file is empty" in scores.unread[0]


def test_no_box_one_pixel_and_three_hundred(tmp_path: Path):
    root = write_coco(tmp_path / "d", train=3)
    pixel = {
        "bbox": [7, 7, 1, 1],
        "area": 1,
        "segmentation": [[7, 7, 8, 7, 8, 8, 7, 8]],
        "category_id": 3,
        "iscrowd": 0,
    }
    annotations = [pixel | {"id": 1000, "image_id": 0}]
    for k in range(300):
        x, y = k % 20 * 3, k // 20 * 3
        outline = [[x, y, x + 3, y, x + 3, y + 3, x, y + 3]]
        more = {"id": 2000 + k, "image_id": 1, "bbox": [x, y, 3, 3], "segmentation": outline, "area": 9}
        annotations.append(pixel | more)
    change(
        root, "train", annotations=annotations, images=[{"id": 9, "file_name": "009.png", "height": 33, "width": 51}]
    )
    Image.new("L", (51, 33)).save(root / "train" / "009.png")
    data = open_detection(root)
    assert [len(photo.objects) for photo in data.train] == [2, 302, 3, 0]
    made = detector("mask_rcnn")
    config = CONFIG.replace(epochs=1, keep_empty=True, flip=1.0)
    assert fit_detector(made, data, config, tmp_path / "run", progress=False).epochs == 1
    scores = evaluate_detector(made, data.train, by="masks")
    assert scores.objects == 307 and set(scores.metrics) == {"bbox", "segm"}


def test_the_backbones_penalty_and_gradients_count(tmp_path: Path):
    """Lean layers stay what they are inside a detector: their penalty is part of the loss, their sharing is recorded."""
    data = open_detection(write_coco(tmp_path / "d"))
    made = detector(method=lc.SharedBasis(4, penalty_weight=10.0))
    network = made.backbone.network
    assert lc.penalty(made).item() == pytest.approx(lc.penalty(network).item()) and lc.penalty(made).item() > 0
    config = CONFIG.replace(epochs=1, record_gradients=True)
    history = fit_detector(made, data, config, tmp_path / "run", progress=False).history
    assert history[0]["penalty"] > 0
    lines = (tmp_path / "run" / "gradients.jsonl").read_text().splitlines()
    assert len(lines) == 1 and json.loads(lines[0])["gradients"]


def test_mirrored_photos_have_mirrored_objects(tmp_path: Path):
    photo = open_detection(write_coco(tmp_path / "d")).train[2]
    image, target = read_image(photo), target_of(photo, masks=True)
    turned, changed = flipped(image, target)
    assert torch.equal(turned.flip(2), image)
    for box, mask in zip(changed["boxes"], changed["masks"], strict=True):
        columns = mask.any(0).nonzero().flatten()
        assert abs(columns[0] - box[0]) <= 2 and abs(columns[-1] + 1 - box[2]) <= 2
    back = flipped(turned, changed)[1]
    assert torch.equal(back["boxes"], target["boxes"]) and torch.equal(back["masks"], target["masks"])


def test_retinanet_with_norms_in_its_head(tmp_path: Path):
    made = create_detector(
        "retinanet", lc.create_model("timm/resnet10t"), 3, pyramid_channels=48, norm_head=True
    ).eval()
    norms = [module for module in made.head.modules() if isinstance(module, nn.GroupNorm)]
    assert len(norms) == 8 and norms[0].num_groups == 16
    save_detector(made, tmp_path / "d")
    assert same(states(made), states(load_detector(tmp_path / "d")))
    with pytest.raises(SettingError, match="norm_head=True is for retinanet"):
        create_detector("faster_rcnn", lc.create_model("timm/resnet10t"), 3, norm_head=True)


METHODS = {
    "dense": None,
    "tied_block": lc.TiedBlock(2),
    "depth_shared": lc.DepthShared(),
    "shared_basis": lc.SharedBasis(4),
}


@pytest.mark.parametrize("method", METHODS)
def test_saved_and_loaded_with_the_plan(method: str, tmp_path: Path):
    name = "cascade_mask_rcnn" if method == "tied_block" else "retinanet" if method == "dense" else "faster_rcnn"
    made = detector(name, METHODS[method]).eval()
    made.transform.min_size, made.transform.max_size = (48,), 64
    set_settings(made, min_size=[48], max_size=64)
    save_detector(made, tmp_path / "d")
    loaded = load_detector(tmp_path / "d")
    assert same(states(made), states(loaded)) and not loaded.training
    image = torch.rand(3, 50, 61)
    with torch.no_grad():
        one, other = made([image])[0], loaded([image])[0]
    assert one.keys() == other.keys() and all(torch.equal(one[key], other[key]) for key in one)
    tensors = sum(p.numel() * 4 for p in made.parameters())
    assert (tmp_path / "d" / "model.safetensors").stat().st_size < 1.15 * tensors + 200_000
    with pytest.raises(FileError, match="holds a detector; open it with"):
        lc.load(tmp_path / "d")


def test_what_cannot_be_saved_or_loaded_says_why(tmp_path: Path):
    lc.save(lc.create_model("resnet8"), tmp_path / "network")
    with pytest.raises(FileError, match=r"holds no detector; open a network with leanconv\.load"):
        load_detector(tmp_path / "network")
    with pytest.raises(SettingError, match="was not made by create_detector"):
        save_detector(nn.Linear(2, 2), tmp_path / "x")
    network = lc.create_model("timm/resnet18")
    network = lc.convert(network, lc.plan(network, lc.DepthShared(), where="layer*.conv2"))
    shared = create_detector("faster_rcnn", network, 3, pyramid_channels=16)
    borrower = next(module for module in shared.backbone.body.modules() if "bank" in vars(module))
    vars(borrower)["bank"] = copy.deepcopy(borrower.bank)
    with pytest.raises(TieError):
        save_detector(shared, tmp_path / "x")
    assert not (tmp_path / "x" / "model.safetensors").exists()


def test_data_of_other_classes_is_refused(tmp_path: Path):
    data = open_detection(write_coco(tmp_path / "d", masks=False))
    with pytest.raises(SettingError, match="different classes"):
        fit_detector(detector(classes=("cat", "disc")), data, CONFIG, tmp_path / "r")
    with pytest.raises(SettingError, match="objects without a mask"):
        fit_detector(detector("mask_rcnn"), data, CONFIG, tmp_path / "r")
    with pytest.raises(SettingError, match="min_size"):
        CONFIG.replace(min_size=(100,))
    assert not (tmp_path / "r").exists()


def test_pictures_mark_what_is_false(tmp_path: Path):
    photo = open_detection(write_coco(tmp_path / "d")).train[2]
    truth = truth_of(photo)
    boxes = torch.tensor([i.box for i in photo.objects])
    result = {
        "boxes": torch.cat([boxes, boxes[:1], torch.tensor([[0.0, 0, 5, 5]])]),
        "labels": torch.tensor([*(i.label for i in photo.objects), photo.objects[0].label, 2]),
        "scores": torch.tensor([0.9, 0.8, 0.7, 0.6, 0.55]),
    }
    found = marked(drawn_of(result, 0.5), photo)
    assert [one.mark for one in found] == ["found"] * 3 + ["false"] * 2, "an object counts once"
    assert len(drawn_of(result, 0.75)) == 2
    figure = draw(read_image(photo), {"truth": truth, "ours": found}, ("box", "disc"))
    assert [axes.get_title() for axes in figure.axes] == ["truth: 3", "ours: 5, 2 false"]
    texts = [text.get_text() for text in figure.axes[1].texts]
    assert sum(text.startswith("false: ") for text in texts) == 2 and "box 0.90" in texts
    with pytest.raises(SettingError, match="must lie in"):
        drawn_of(result, 2.0)
    crowd = replace(photo.objects[0], crowd=True)
    for order in (
        (crowd, photo.objects[0]),
        (photo.objects[0], crowd),
    ):  # the second one finds the object, whatever the order
        crowded = replace(photo, instances=order)
        twice = {
            name: torch.stack([value[0], value[0] if name != "scores" else value[1]]) for name, value in result.items()
        }
        assert [one.mark for one in marked(drawn_of(twice, 0.5), crowded)] == ["found", "found"]
