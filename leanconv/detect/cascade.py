"""Cascade R-CNN: three heads. Each head is trained on the boxes of the head before, at a higher overlap."""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial

import torch
from torch import Tensor, nn
from torchvision.models.detection.faster_rcnn import TwoMLPHead
from torchvision.models.detection.roi_heads import RoIHeads, maskrcnn_inference
from torchvision.ops import MultiScaleRoIAlign
from torchvision.ops import boxes as box_ops

from leanconv.core.errors import SettingError
from leanconv.detect.box_loss import BETA, Sizes, Targets, box_losses, mask_loss

OVERLAPS = (0.5, 0.6, 0.7)
BOX_WEIGHTS = ((10.0, 10.0, 5.0, 5.0), (20.0, 20.0, 10.0, 10.0), (30.0, 30.0, 15.0, 15.0))
LOSS_WEIGHTS = (1.0, 0.5, 0.25)


class AgnosticPredictor(nn.Module):
    """A linear layer for the class scores, and one for a box that all classes share.

    Args:
        in_channels: input features.
        num_classes: including the background.

    Shape:
        x: (N, in_channels) -> (N, num_classes), (N, 4).
    """

    def __init__(self, in_channels: int, num_classes: int) -> None:
        super().__init__()
        self.cls_score = nn.Linear(in_channels, num_classes)
        self.bbox_pred = nn.Linear(in_channels, 4)

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        return self.cls_score(x), self.bbox_pred(x)


class CascadeRoIHeads(nn.Module):
    """Replaces torchvision's RoIHeads in a detector: several box stages, and masks from the boxes of the last stage.

    In training, stage s samples from the boxes of stage s - 1. A box is positive if its overlap (IoU) with an object is at least
    ``overlaps[s]``. In evaluation each stage refines the boxes, and the class probabilities of all stages are averaged. The mask
    head is trained on the samples of the first stage. With `later_masks` each stage has a mask head, which is trained on its own
    samples with the loss weight of the stage, and in evaluation the mask probabilities of all heads are averaged.

    Args:
        box_roi_pool: the RoIAlign that all stages use.
        in_channels: channels of the pyramid levels.
        num_classes: number of classes including the background, class 0.
        overlaps, box_weights, loss_weights: one value for each stage.
        representation: width of the two fully connected layers of each stage.
        beta: of the smooth L1 loss of the boxes, see `leanconv.detect.box_loss.box_losses`.
        mask_roi_pool, mask_head, mask_predictor: give all three or none.
        later_masks: for each stage but the first, a mask head with its predictor; empty for one mask head.
        score_thresh, nms_thresh, detections_per_img, batch_size_per_image, positive_fraction: see torchvision's RoIHeads.

    Raises:
        SettingError: `overlaps`, `box_weights` and `loss_weights` have different lengths, or `later_masks` does not have one
            head less than them.

    Source: Cai & Vasconcelos 2018, "Cascade R-CNN: Delving into High Quality Object Detection", sections 4 and 5.
    """

    def __init__(
        self,
        box_roi_pool: MultiScaleRoIAlign,
        in_channels: int,
        num_classes: int,
        *,
        overlaps: Sequence[float] = OVERLAPS,
        box_weights: Sequence[tuple[float, float, float, float]] = BOX_WEIGHTS,
        loss_weights: Sequence[float] = LOSS_WEIGHTS,
        representation: int = 1024,
        batch_size_per_image: int = 512,
        positive_fraction: float = 0.25,
        score_thresh: float = 0.05,
        nms_thresh: float = 0.5,
        detections_per_img: int = 100,
        beta: float = BETA,
        mask_roi_pool: MultiScaleRoIAlign | None = None,
        mask_head: nn.Module | None = None,
        mask_predictor: nn.Module | None = None,
        later_masks: Sequence[nn.Module] = (),
    ) -> None:
        super().__init__()
        if not len(overlaps) == len(box_weights) == len(loss_weights):
            raise SettingError(f"overlaps={overlaps}, box_weights and loss_weights must have one value for each stage")
        if later_masks and (mask_head is None or len(later_masks) != len(overlaps) - 1):
            raise SettingError(
                f"later_masks has {len(later_masks)} heads and must have {len(overlaps) - 1}, beside a mask_head; or none"
            )
        pooled = in_channels * box_roi_pool.output_size[0] * box_roi_pool.output_size[1]
        self.loss_weights = tuple(loss_weights)
        # each torchvision head matches, samples and encodes for one stage; this module does the pooling for all
        self.stages = nn.ModuleList(
            RoIHeads(
                None, TwoMLPHead(pooled, representation), AgnosticPredictor(representation, num_classes), overlap, overlap,
                batch_size_per_image, positive_fraction, weights, score_thresh, nms_thresh, detections_per_img,
            )
            for overlap, weights in zip(overlaps, box_weights, strict=True)
        )  # fmt: skip
        self.box_roi_pool = box_roi_pool
        self.num_classes, self.beta = num_classes, beta
        self.mask_roi_pool, self.mask_head, self.mask_predictor = mask_roi_pool, mask_head, mask_predictor
        self.later_masks = nn.ModuleList(later_masks)

    def forward(
        self, features: dict[str, Tensor], proposals: list[Tensor], image_shapes: Sizes, targets: Targets | None = None
    ) -> tuple[Targets, dict[str, Tensor]]:
        """The same as torchvision's RoIHeads: losses in training, detections in evaluation."""
        if self.training:
            return [], self._losses(features, proposals, image_shapes, targets)
        return self._detections(features, proposals, image_shapes), {}

    def _losses(
        self, features: dict[str, Tensor], proposals: list[Tensor], image_shapes: Sizes, targets: Targets | None
    ) -> dict[str, Tensor]:
        if targets is None:
            raise SettingError("targets=None: training needs a box and a label for each object; give targets")
        losses: dict[str, Tensor] = {}
        for number, (stage, weight) in enumerate(zip(self.stages, self.loss_weights, strict=True)):
            assert isinstance(stage, RoIHeads)
            proposals, matched, labels, wanted = stage.select_training_samples(list(proposals), targets)
            scores, boxes = self._predict(stage, features, proposals, image_shapes)
            of_classes, of_boxes = box_losses(scores, boxes, labels, wanted, self.beta)
            losses |= {f"loss_classifier_{number}": weight * of_classes, f"loss_box_reg_{number}": weight * of_boxes}
            if number < self.mask_heads:
                name = f"loss_mask_{number}" if self.mask_heads > 1 else "loss_mask"
                logits_of = partial(self._mask_logits, features, image_shapes, number)
                losses[name] = weight * mask_loss(logits_of, proposals, matched, labels, targets)
            if number + 1 < len(self.stages):
                proposals = [_whole(boxes) for boxes in self._refined(stage, boxes.detach(), proposals, image_shapes)]
        return losses

    def _detections(self, features: dict[str, Tensor], proposals: list[Tensor], image_shapes: Sizes) -> Targets:
        total: Tensor | None = None
        for number, stage in enumerate(self.stages):
            assert isinstance(stage, RoIHeads)
            scores, boxes = self._predict(stage, features, proposals, image_shapes)
            total = scores.softmax(-1) if total is None else total + scores.softmax(-1)
            if number + 1 < len(self.stages):
                proposals = self._refined(stage, boxes, proposals, image_shapes)
        assert total is not None and isinstance(stage, RoIHeads)
        mean = (total / len(self.stages)).clamp(min=1e-12).log()  # softmax of these logits is the mean
        found = stage.postprocess_detections(mean, self._for_each_class(boxes), proposals, image_shapes)
        results = [dict(zip(("boxes", "scores", "labels"), one, strict=True)) for one in zip(*found, strict=True)]
        if self.mask_heads:
            where, classes = [result["boxes"] for result in results], [result["labels"] for result in results]
            of_heads = [
                maskrcnn_inference(self._mask_logits(features, image_shapes, number, where), classes)
                for number in range(self.mask_heads)
            ]
            for result, masks in zip(results, zip(*of_heads, strict=True), strict=True):
                result["masks"] = torch.stack(masks).mean(0)
        return results

    @property
    def mask_heads(self) -> int:
        """The number of mask heads."""
        return 0 if self.mask_head is None else 1 + len(self.later_masks)

    def _mask_logits(
        self, features: dict[str, Tensor], image_shapes: Sizes, number: int, boxes: list[Tensor]
    ) -> Tensor:
        assert self.mask_roi_pool is not None and self.mask_head is not None and self.mask_predictor is not None
        pooled = self.mask_roi_pool(features, boxes, image_shapes)
        logits: Tensor = (
            self.mask_predictor(self.mask_head(pooled)) if number == 0 else self.later_masks[number - 1](pooled)
        )
        return logits

    def _predict(
        self, stage: RoIHeads, features: dict[str, Tensor], proposals: list[Tensor], image_shapes: Sizes
    ) -> tuple[Tensor, Tensor]:
        pooled = self.box_roi_pool(features, proposals, image_shapes)
        scores, boxes = stage.box_predictor(stage.box_head(pooled))
        return scores, boxes

    def _for_each_class(self, boxes: Tensor) -> Tensor:
        """Repeat the boxes, because torchvision's post-processing needs a box for each class."""
        return boxes.repeat(1, self.num_classes)

    def _refined(self, stage: RoIHeads, boxes: Tensor, proposals: list[Tensor], image_shapes: Sizes) -> list[Tensor]:
        decoded = stage.box_coder.decode(boxes, proposals).reshape(-1, 4).split([len(p) for p in proposals])
        return [box_ops.clip_boxes_to_image(b, shape) for b, shape in zip(decoded, image_shapes, strict=True)]


def _whole(boxes: Tensor) -> Tensor:
    """The boxes that still have an area after clipping at the border."""
    return boxes[box_ops.remove_small_boxes(boxes, 1e-2)]
