"""The regression loss of boxes with a beta of one's own, where torchvision's heads have a fixed one."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torchvision.models.detection.retinanet import RetinaNetRegressionHead
from torchvision.models.detection.roi_heads import RoIHeads, maskrcnn_loss

from leanconv.core.errors import SettingError

BETA = 1 / 9  # of torchvision's box heads

Sizes = list[tuple[int, int]]
Targets = list[dict[str, Tensor]]


def box_losses(
    scores: Tensor, boxes: Tensor, labels: Sequence[Tensor], wanted: Sequence[Tensor], beta: float = BETA
) -> tuple[Tensor, Tensor]:
    """The losses of a box head: of the classes, and of the boxes.

        classes: mean over the samples of the cross entropy
        boxes:   sum over the positive samples and the four numbers of smooth_l1(box - wanted) / number of samples
        smooth_l1(d) = d**2 / (2 beta) if abs(d) < beta, otherwise abs(d) - beta / 2

    With a beta of 1 / 9 these are the losses of torchvision's box heads. A beta of 0 is the L1 loss.

    Args:
        scores: (N, classes), with the background as class 0.
        boxes: (N, 4 * classes), or (N, 4) if all classes share a box.
        labels: the class of each sample, one tensor for each image.
        wanted: the regression targets (samples, 4), one tensor for each image.
        beta: where the loss turns from a square to a line, in the units of the targets.
    """
    of_each, targets = torch.cat(list(labels)), torch.cat(list(wanted))
    positive = torch.where(of_each > 0)[0]
    by_class = boxes.reshape(len(of_each), -1, 4)
    classes = of_each[positive] if by_class.shape[1] > 1 else torch.zeros_like(positive)
    loss = F.smooth_l1_loss(by_class[positive, classes], targets[positive], beta=beta, reduction="sum")
    return F.cross_entropy(scores, of_each), loss / of_each.numel()


def mask_loss(
    logits_of: Callable[[list[Tensor]], Tensor],
    proposals: Sequence[Tensor], matched: Sequence[Tensor], labels: Sequence[Tensor], targets: Targets,
) -> Tensor:  # fmt: skip
    """torchvision's loss of a mask head, on the positive samples.

    Args:
        logits_of: gives the mask logits of boxes, one tensor of boxes for each image.
        proposals, matched, labels: the samples, the numbers of their objects and their classes, for each image.
        targets: with "masks" and "labels" of the objects of each image.
    """
    positive = [torch.where(label > 0)[0] for label in labels]
    boxes = [proposal[index] for proposal, index in zip(proposals, positive, strict=True)]
    chosen = [match[index] for match, index in zip(matched, positive, strict=True)]
    masks, classes = [t["masks"] for t in targets], [t["labels"] for t in targets]
    loss: Tensor = maskrcnn_loss(logits_of(boxes), boxes, masks, classes, chosen)
    return loss


class SmoothRoIHeads(RoIHeads):
    """torchvision's RoIHeads with another beta in the loss of the boxes; with the same keys.

    Args:
        made: the heads whose modules and settings this module takes over.
        beta: see `box_losses`.
    """

    def __init__(self, made: RoIHeads, beta: float) -> None:
        matcher, sampler = made.proposal_matcher, made.fg_bg_sampler
        super().__init__(
            made.box_roi_pool, made.box_head, made.box_predictor, matcher.high_threshold, matcher.low_threshold,
            sampler.batch_size_per_image, sampler.positive_fraction, made.box_coder.weights, made.score_thresh,
            made.nms_thresh, made.detections_per_img, made.mask_roi_pool, made.mask_head, made.mask_predictor,
        )  # fmt: skip
        self.beta = beta

    def forward(
        self, features: dict[str, Tensor], proposals: list[Tensor], image_shapes: Sizes, targets: Targets | None = None
    ) -> tuple[Targets, dict[str, Tensor]]:
        """The same as torchvision's RoIHeads: losses in training, detections in evaluation."""
        if not self.training:
            found: tuple[Targets, dict[str, Tensor]] = super().forward(features, proposals, image_shapes, targets)
            return found
        if targets is None:
            raise SettingError("targets=None: training needs a box and a label for each object; give targets")
        samples, matched, labels, wanted = self.select_training_samples(list(proposals), targets)
        scores, boxes = self.box_predictor(self.box_head(self.box_roi_pool(features, samples, image_shapes)))
        of_classes, of_boxes = box_losses(scores, boxes, labels, wanted, self.beta)
        losses = {"loss_classifier": of_classes, "loss_box_reg": of_boxes}
        if self.has_mask():
            logits_of = partial(self._mask_logits, features, image_shapes)
            losses["loss_mask"] = mask_loss(logits_of, samples, matched, labels, targets)
        return [], losses

    def _mask_logits(self, features: dict[str, Tensor], image_shapes: Sizes, boxes: list[Tensor]) -> Tensor:
        logits: Tensor = self.mask_predictor(self.mask_head(self.mask_roi_pool(features, boxes, image_shapes)))
        return logits


class SmoothRegressionHead(RetinaNetRegressionHead):
    """RetinaNet's regression head with the smooth L1 loss, where torchvision's has the L1 loss; with the same keys.

    Args:
        in_channels, num_anchors, norm_layer: see torchvision's class.
        beta: see `box_losses`.
    """

    def __init__(
        self, in_channels: int, num_anchors: int, norm_layer: Callable[..., nn.Module] | None, beta: float
    ) -> None:
        super().__init__(in_channels, num_anchors, norm_layer)
        self.beta = beta

    def compute_loss(
        self, targets: Targets, head_outputs: dict[str, Any], anchors: list[Tensor], matched_idxs: list[Tensor]
    ) -> Tensor:
        """The mean over the images of the sum over the positive anchors, divided by their number."""
        losses = []
        for target, found, own, matched in zip(
            targets, head_outputs["bbox_regression"], anchors, matched_idxs, strict=True
        ):
            positive = torch.where(matched >= 0)[0]
            wanted = self.box_coder.encode_single(target["boxes"][matched[positive]], own[positive])
            loss = F.smooth_l1_loss(found[positive], wanted, beta=self.beta, reduction="sum")
            losses.append(loss / max(1, len(positive)))
        return torch.stack(losses).sum() / max(1, len(targets))
