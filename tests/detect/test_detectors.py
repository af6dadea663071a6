"""Detectors on dense and lean backbones: their counts, their keys, their losses and their detections."""

from __future__ import annotations

import pytest
import torch
from torch import nn
from torchvision.models import detection
from torchvision.ops import boxes as box_ops

import leanconv as lc
from leanconv.core.errors import SettingError
from leanconv.detect import create_detector, feature_layers
from leanconv.detect.cascade import BOX_WEIGHTS, CascadeRoIHeads
from leanconv.detect.detector import describe_detector

# name: parameters of the published networks on ResNet-50 with 91 classes (torchvision's), in millions
PUBLISHED = {"retinanet": 34.01, "faster_rcnn": 41.76, "mask_rcnn": 44.40}
TORCHVISION = {
    "retinanet": detection.retinanet_resnet50_fpn,
    "faster_rcnn": detection.fasterrcnn_resnet50_fpn,
    "mask_rcnn": detection.maskrcnn_resnet50_fpn,
}


def millions(model: nn.Module, trainable: bool = False) -> float:
    return sum(p.numel() for p in model.parameters() if p.requires_grad or not trainable) / 1e6


@pytest.mark.parametrize("name", PUBLISHED)
def test_counts_and_keys_are_torchvisions(name: str):
    with torch.device("meta"):
        published = TORCHVISION[name](weights=None, weights_backbone=None)
    ours = create_detector(name)
    norms = sum(
        p.numel() for m in ours.backbone.body.modules() if isinstance(m, nn.BatchNorm2d) for p in m.parameters()
    )
    assert round(millions(ours) - norms / 1e6, 2) == PUBLISHED[name], "published without norms, which are frozen there"
    wanted = {key: tuple(value.shape) for key, value in published.state_dict().items()}
    assert {key: tuple(value.shape) for key, value in ours.state_dict().items()} == wanted


def test_cascade_counts_as_in_the_field():
    """69.2 M is the count of what trains, of 80 classes and the background, with stem and first stage frozen."""
    ours = create_detector("cascade_rcnn", num_classes=81, frozen=("conv1", "bn1", "layer1"))
    assert millions(ours, trainable=True) == pytest.approx(69.17, abs=0.006)
    assert not any(p.requires_grad for n, p in ours.backbone.body.named_parameters() if n.startswith("layer1"))


SMALL = {"min_size": 64, "max_size": 96, "anchor_sizes": (4, 8, 16, 32, 64)}


def small(name: str, backbone: nn.Module, **settings: object) -> nn.Module:
    torch.manual_seed(0)
    sizes = {"min_size": 64, "max_size": 96} if name == "retinanet" else SMALL
    return create_detector(name, backbone, 5, **sizes, **settings)


def network(method: lc.Method | None = None) -> nn.Module:
    torch.manual_seed(0)
    dense = lc.create_model("timm/resnet10t", zero_init_last=False)  # or gradients start at zero
    if method is None:
        return dense
    return lc.convert(dense, lc.plan(dense, method, where="layer*.conv?"))


def batch() -> tuple[list[torch.Tensor], list[dict[str, torch.Tensor]]]:
    """Odd sizes; an image without an object, and a box of one pixel."""
    images = [torch.rand(3, 63, 81), torch.rand(3, 50, 47)]
    boxes = torch.tensor([[5.0, 6, 40, 50], [20, 20, 60, 44], [30, 30, 31, 31]])
    masks = torch.zeros(3, 63, 81, dtype=torch.uint8)
    for mask, (x1, y1, x2, y2) in zip(masks, boxes.int().tolist(), strict=True):
        mask[y1:y2, x1:x2] = 1
    nothing = {
        "boxes": torch.zeros(0, 4),
        "labels": torch.zeros(0, dtype=torch.int64),
        "masks": torch.zeros(0, 50, 47, dtype=torch.uint8),
    }
    return images, [{"boxes": boxes, "labels": torch.tensor([1, 4, 2]), "masks": masks}, nothing]


METHODS = {"dense": None, "tied_block": lc.TiedBlock(2), "split": lc.Split(), "depth_shared": lc.DepthShared()}


@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize("name", ["retinanet", "faster_rcnn", "mask_rcnn", "cascade_rcnn", "cascade_mask_rcnn"])
def test_it_trains_and_detects(name: str, method: str):
    if method != "dense" and name in ("mask_rcnn", "cascade_rcnn"):
        pytest.skip("the others show it")
    detector = small(name, network(METHODS[method])).train()
    images, targets = batch()
    losses = detector(images, targets)
    sum(losses.values()).backward()
    assert all(torch.isfinite(loss) for loss in losses.values())
    without = [n for n, p in detector.named_parameters() if p.grad is None]
    assert not without
    if "cascade" in name:
        assert {f"loss_box_reg_{i}" for i in range(3)} < set(losses)
    with torch.no_grad():
        found = detector.eval()([*images, torch.rand(3, 33, 200)])
    assert len(found) == 3
    for one, image in zip(found, [*images, torch.rand(3, 33, 200)], strict=True):
        height, width = image.shape[1:]
        assert one["boxes"].shape == (len(one["labels"]), 4) and (one["labels"] > 0).all()
        assert (
            (one["boxes"] >= 0).all()
            and (one["boxes"][:, [0, 2]] <= width).all()
            and (one["boxes"][:, [1, 3]] <= height).all()
        )
        if "mask" in name:
            assert one["masks"].shape == (len(one["labels"]), 1, height, width)


def test_shared_weights_stay_shared_in_a_backbone():
    """A network with fewer tensors than uses keeps them so, and its gradient is the sum over the uses."""
    lean = network(lc.DepthShared())
    detector = small("faster_rcnn", lean)
    own = {name: p for name, p in lean.named_parameters() if name.endswith("bank.weight")}
    inside = {name: p for name, p in detector.backbone.body.named_parameters() if name.endswith("bank.weight")}
    assert own and own.keys() == inside.keys() and len(own) < 4
    detector.train()
    sum(detector(*batch()).values()).backward()
    assert all(p.grad.abs().sum() > 0 for p in inside.values())


def test_frozen_norms_stay_as_they_are():
    detector = small("faster_rcnn", network(), frozen_norms=True).train()
    before = {name: b.clone() for name, b in detector.backbone.body.named_buffers()}
    detector(*batch())
    assert all(torch.equal(b, before[name]) for name, b in detector.backbone.body.named_buffers())
    assert detector.training and not detector.backbone.body.bn1.training
    free = small("faster_rcnn", network()).train()
    before = {name: b.clone() for name, b in free.backbone.body.named_buffers()}
    free(*batch())
    assert any(not torch.equal(b, before[name]) for name, b in free.backbone.body.named_buffers())


def heads() -> CascadeRoIHeads:
    return small("cascade_rcnn", network()).eval().roi_heads


def test_cascade_is_its_definition():
    """Each stage refines the boxes of the one before; the classes are the mean of the stages' probabilities."""
    cascade = heads()
    torch.manual_seed(1)
    for stage in cascade.stages:
        nn.init.normal_(stage.box_predictor.cls_score.weight, std=0.3)
        nn.init.normal_(stage.box_predictor.bbox_pred.weight, std=0.05)
    features = {str(i): torch.randn(1, 256, 16 // 2**i, 24 // 2**i) for i in range(4)}
    proposals = [torch.tensor([[4.0, 4, 40, 44], [10, 12, 80, 60], [30, 5, 60, 33]])]
    shapes = [(64, 96)]
    with torch.no_grad():
        (found,), losses = cascade(features, proposals, shapes)
        boxes, probabilities = proposals[0], []
        for stage, weights in zip(cascade.stages, BOX_WEIGHTS, strict=True):
            pooled = stage.box_head(cascade.box_roi_pool(features, [boxes], shapes))
            probabilities.append(stage.box_predictor.cls_score(pooled).softmax(-1))
            dx, dy, dw, dh = (stage.box_predictor.bbox_pred(pooled) / torch.tensor(weights)).unbind(1)
            width, height = boxes[:, 2] - boxes[:, 0], boxes[:, 3] - boxes[:, 1]
            cx, cy = boxes[:, 0] + width / 2 + dx * width, boxes[:, 1] + height / 2 + dy * height
            width, height = width * dw.exp(), height * dh.exp()
            boxes = torch.stack([cx - width / 2, cy - height / 2, cx + width / 2, cy + height / 2], 1)
            boxes = box_ops.clip_boxes_to_image(boxes, shapes[0])
        mean = torch.stack(probabilities).mean(0)[:, 1:]
    assert losses == {}
    for box, score, label in zip(found["boxes"], found["scores"], found["labels"], strict=True):
        near = (boxes - box).abs().sum(1)
        assert near.min() < 1e-2
        assert mean[near.argmin(), label - 1] == pytest.approx(float(score), abs=1e-5)
    assert len(found["boxes"]) > 0


def test_no_proposal_is_no_detection():
    features = {str(i): torch.randn(1, 256, 16 // 2**i, 24 // 2**i) for i in range(4)}
    with torch.no_grad():
        (found,), _ = heads()(features, [torch.zeros(0, 4)], [(64, 96)])
    assert found["boxes"].shape == (0, 4)


def test_later_stages_ask_for_more_overlap():
    cascade = heads().train()
    assert [stage.proposal_matcher.high_threshold for stage in cascade.stages] == [0.5, 0.6, 0.7]
    target = torch.tensor([[10.0, 10, 30, 30]])
    half = torch.tensor([[10.0, 10, 30, 23]])  # overlaps it by 0.65
    labels = [
        int(stage.assign_targets_to_proposals([half], [target], [torch.tensor([3])])[1][0]) for stage in cascade.stages
    ]
    assert labels == [3, 3, 0]


def test_mistakes_name_the_way_out():
    with pytest.raises(SettingError, match="detector='yolo' must be one of retinanet"):
        create_detector("yolo")
    with pytest.raises(SettingError, match="size is not a setting of faster_rcnn; it has"):
        create_detector("faster_rcnn", network(), size=3)
    with pytest.raises(SettingError, match="does not say where its maps"):
        feature_layers(nn.Sequential(nn.Conv2d(3, 4, 3)))
    with pytest.raises(SettingError, match="box_fg_iou_thresh is not a setting of cascade_rcnn"):
        create_detector("cascade_rcnn", network(), box_fg_iou_thresh=0.9)
    with pytest.raises(SettingError, match="frozen='layr1' names no module"):
        create_detector("faster_rcnn", network(), frozen=("layr1",))
    with pytest.raises(SettingError, match="the first maps have stride 1, and a pyramid starts at 4 or more"):
        create_detector("faster_rcnn", lc.create_model("resnet18_cifar"))
    with pytest.raises(SettingError, match="num_classes=1 must be"):
        create_detector("faster_rcnn", network(), 1)


@pytest.mark.parametrize("name", ["timm/mobilenetv2_050", "spconv_resnet50", "tied_resnet50_s", "timm/regnetx_002"])
def test_backbones_of_all_kinds(name: str):
    detector = small("faster_rcnn", lc.create_model(name)).eval()
    with torch.no_grad():
        assert len(detector([torch.rand(3, 61, 90)])) == 1


def test_the_sixth_level_of_retinanet_reads_the_backbone_or_the_pyramid():
    """P6 is a 3x3 of stride 2: 9 c p + p parameters from the c channels of C5, and 9 p p + p from P5."""
    torch.manual_seed(0)
    width = 16
    made = {
        p6: create_detector("retinanet", "timm/resnet18", 3, pyramid_channels=width, p6=p6).eval()
        for p6 in ("p5", "c5")
    }
    counts = {p6: sum(p.numel() for p in detector.parameters()) for p6, detector in made.items()}
    assert counts["c5"] - counts["p5"] == 9 * width * (512 - width)
    seen = []
    made["c5"].backbone.fpn.extra_blocks.p6.register_forward_hook(lambda m, args, out: seen.append(args[0].shape))
    made["c5"]([torch.rand(3, 64, 64)])
    assert (
        seen[0][1] == 512 and describe_detector(made["c5"])["p6"] == "c5" and "p6" not in describe_detector(made["p5"])
    )
    with pytest.raises(SettingError, match="p6='c5' is for retinanet"):
        create_detector("faster_rcnn", "timm/resnet18", 3, p6="c5")
