"""What the toolbox of TBC has otherwise than torchvision: the beta of the box loss, and a mask head for each stage."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from torch import nn
from torchvision.models.detection.roi_heads import RoIHeads, fastrcnn_loss, maskrcnn_inference

from leanconv.core.errors import SettingError
from leanconv.detect import create_detector, load_detector, save_detector
from leanconv.detect.box_loss import SmoothRegressionHead, box_losses
from leanconv.detect.detector import describe_detector
from leanconv.detect.module import loss_names
from tests.detect.test_detectors import batch, network, small


def smooth(d: torch.Tensor, beta: float) -> torch.Tensor:
    return torch.where(d.abs() < beta, d**2 / (2 * beta), d.abs() - beta / 2)


@pytest.mark.parametrize("beta", [1 / 9, 1.0])
def test_the_loss_of_boxes_is_its_definition(beta: float) -> None:
    torch.manual_seed(0)
    labels = [torch.tensor([0, 3, 1]), torch.tensor([2, 0])]
    wanted = [torch.randn(3, 4), torch.randn(2, 4)]
    scores, by_class = torch.randn(5, 4), torch.randn(5, 16)
    classes, boxes = box_losses(scores, by_class, labels, wanted, beta)
    positive = [(1, 3), (2, 1), (3, 2)]
    own = torch.stack([by_class[row, 4 * label : 4 * label + 4] for row, label in positive])
    targets = torch.cat(wanted)[[row for row, _ in positive]]
    assert torch.allclose(boxes, smooth(own - targets, beta).sum() / 5)
    assert torch.allclose(classes, nn.functional.cross_entropy(scores, torch.cat(labels)))
    shared = box_losses(scores, by_class[:, :4], labels, wanted, beta)[1]
    assert torch.allclose(shared, smooth(by_class[[1, 2, 3], :4] - targets, beta).sum() / 5)
    if beta != 1:
        assert torch.equal(boxes, fastrcnn_loss(scores, by_class, labels, wanted)[1])


def losses_of(detector: nn.Module) -> dict[str, torch.Tensor]:
    torch.manual_seed(1)  # of the samples
    images, targets = batch()
    found: dict[str, torch.Tensor] = detector.train()(images, targets)
    return found


def test_the_heads_differ_from_torchvisions_in_the_beta_only() -> None:
    """With torchvision's beta every loss is torchvision's; with another beta only the loss of the boxes changes."""
    plain = small("mask_rcnn", network())
    assert type(plain.roi_heads) is RoIHeads
    same, other = (small("mask_rcnn", network(), box_beta=beta) for beta in (1 / 9, 1.0))
    for made in (same, other):
        made.load_state_dict(plain.state_dict())
    usual, at_ninth, at_one = losses_of(plain), losses_of(same), losses_of(other)
    assert all(torch.allclose(loss, at_ninth[name], rtol=1e-6) for name, loss in usual.items())
    assert {name for name, loss in usual.items() if not torch.allclose(loss, at_one[name])} == {"loss_box_reg"}
    assert describe_detector(other)["box_beta"] == 1 and "box_beta" not in describe_detector(plain)
    images, _ = batch()
    with torch.no_grad():
        first, second = (made.eval()(images)[0]["boxes"] for made in (plain, other))
    assert torch.equal(first, second)


def test_the_beta_of_retinanet() -> None:
    """With a beta of 0 the loss is torchvision's L1 loss; d**2 / (2 beta) is smaller where d is."""
    plain = small("retinanet", network())
    found = {}
    for beta in (0, 0.11):
        made = small("retinanet", network(), box_beta=beta)
        assert isinstance(made.head.regression_head, SmoothRegressionHead)
        made.load_state_dict(plain.state_dict())
        found[beta] = losses_of(made)["bbox_regression"]
    usual = losses_of(plain)["bbox_regression"]
    assert torch.allclose(found[0], usual) and usual > 0
    least = usual - 4 * 0.11 / 2  # abs(d) - beta / 2, for each of four numbers and each image with an object
    assert least - 1e-6 <= found[0.11] < usual


def test_a_mask_head_for_each_stage(tmp_path: Path) -> None:
    one, three = (small("cascade_mask_rcnn", network(), mask_heads=heads) for heads in (1, 3))
    more = sum(p.numel() for p in three.parameters()) - sum(p.numel() for p in one.parameters())
    assert more == 2 * (4 * (9 * 256 + 1) * 256 + (4 * 256 + 1) * 256 + 257 * 5)
    losses = losses_of(three)
    assert set(losses) == set(loss_names(three)) > {"loss_mask_0", "loss_mask_1", "loss_mask_2"}
    assert set(losses_of(one)) == set(loss_names(one)) > {"loss_mask"}
    sum(losses.values()).backward()
    assert all(p.grad is not None for p in three.roi_heads.later_masks.parameters())
    seen: list[torch.Tensor] = []
    for module in (three.roi_heads.mask_predictor, *(later.mask_predictor for later in three.roi_heads.later_masks)):
        module.register_forward_hook(lambda m, args, out: seen.append(out))
    features = {str(i): torch.randn(1, 256, 16 // 2**i, 24 // 2**i) for i in range(4)}
    with torch.no_grad():
        (found,), _ = three.eval().roi_heads(features, [torch.tensor([[4.0, 4, 40, 44]])], [(64, 96)])
        (wanted,) = zip(*(maskrcnn_inference(logits, [found["labels"]]) for logits in seen), strict=True)
    assert len(seen) == 3 and len(found["masks"]) > 0
    assert torch.allclose(found["masks"], torch.stack(wanted).mean(0))
    save_detector(three, tmp_path)
    again = load_detector(tmp_path)
    assert all(torch.equal(value, again.state_dict()[key]) for key, value in three.state_dict().items())


@pytest.mark.slow
def test_counts_of_the_documentation() -> None:
    """The parameters that docs/detection.md prints, on ResNet-50 with 91 classes."""

    def millions(name: str, **settings: object) -> float:
        with torch.device("meta"):
            return sum(p.numel() for p in create_detector(name, **settings).parameters()) / 1e6

    assert millions("cascade_mask_rcnn", mask_heads=3) - millions("cascade_mask_rcnn") == pytest.approx(5.292, abs=5e-4)
    assert millions("retinanet", p6="c5") - millions("retinanet") == pytest.approx(4.129, abs=5e-4)


def test_mistakes_name_the_way_out() -> None:
    with pytest.raises(SettingError, match="mask_heads=2 must be 1 or 3"):
        small("cascade_mask_rcnn", network(), mask_heads=2)
    with pytest.raises(SettingError, match="mask_heads=3 is for cascade_mask_rcnn; mask_rcnn has no"):
        small("mask_rcnn", network(), mask_heads=3)
    with pytest.raises(SettingError, match="box_beta=-1 must be a number of at least 0"):
        small("faster_rcnn", network(), box_beta=-1)
