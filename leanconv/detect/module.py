"""One training step of a detector, for Lightning."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn
from torchvision.models.detection import RetinaNet

from leanconv.detect.cascade import CascadeRoIHeads
from leanconv.detect.config import DetectConfig
from leanconv.detect.distill import MapsDistillation
from leanconv.detect.feed import Batch
from leanconv.train.base import Record, RunModule


class DetectModule(RunModule):
    """The Lightning module of a detector: loss = (1 - w) sum of the detector's losses + w distillation loss + penalty(detector).

    w is 0 without a teacher.

    Args:
        detector: to train.
        config: of the run.
        unread: the photos of the run that could not be read; a resumed run keeps the earlier ones.
        distillation: the loss against a teacher; None without a teacher.
    """

    config: DetectConfig

    def __init__(
        self, detector: nn.Module, config: DetectConfig, unread: list[str], distillation: MapsDistillation | None = None
    ) -> None:
        self.names = loss_names(detector)
        super().__init__(detector, config, sums=len(self.names) + (2 if distillation is None else 3))
        self.unread, self.distillation = unread, distillation

    def on_fit_start(self) -> None:
        super().on_fit_start()
        if self.distillation is not None:
            self.distillation.to(self.device)

    @property
    def recomputes(self) -> nn.Module:
        """The backbone; the heads work on a few features only."""
        backbone: Any = self.model.backbone
        return backbone

    def parts(self, batch: Batch) -> list[Batch]:
        """The batch in `accumulate` parts."""
        images, targets = batch
        size = -(-len(images) // self.config.accumulate)
        return [(images[start : start + size], targets[start : start + size]) for start in range(0, len(images), size)]

    def measure(self, part: Batch, extra: Tensor) -> tuple[Tensor, Tensor]:
        """The loss, and the detector's losses one by one."""
        losses = self.model(*part)
        total: Tensor = sum(losses.values())
        distilled = []
        if self.distillation is not None:
            weight = self.config.distill_weight
            distilled = [self.distillation.loss()]
            # with 1, the heads must get no gradients: with gradients of 0, their weights would decay
            total = distilled[0] if weight == 1 else (1 - weight) * total + weight * distilled[0]
        with torch.no_grad():
            values = [*(losses[name] for name in self.names), *distilled, extra]
            values = [value.detach().float() for value in values]
            return total, torch.stack([*values, torch.ones_like(values[0])])

    def on_save_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """Store the list of unread photos in the checkpoint."""
        super().on_save_checkpoint(checkpoint)
        checkpoint["progress"]["unread"] = list(self.unread)

    def on_load_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """Restore the list of unread photos."""
        super().on_load_checkpoint(checkpoint)
        self.unread[:] = list(dict.fromkeys([*checkpoint["progress"]["unread"], *self.unread]))

    def take_record(self) -> Record:
        """The means of this epoch over all processes; the sums are reset."""
        *sums, n = self.take_sums()
        means = [value / n for value in sums]
        losses = dict(zip(self.names, means, strict=False))
        distilled = {} if self.distillation is None else {"distill_loss": means[-2]}
        return {
            "epoch": self.trainer.current_epoch + 1,
            "lr": self.step_lr,
            "train_loss": sum(losses.values()),
            **distilled,
            "penalty": means[-1],
            **losses,
            "images": n,
        }


def loss_names(detector: nn.Module) -> tuple[str, ...]:
    """The names of the losses that `detector` returns in training."""
    if isinstance(detector, RetinaNet):
        return "classification", "bbox_regression"
    heads: Any = detector.roi_heads
    cascade = isinstance(heads, CascadeRoIHeads)
    stages = [f"_{stage}" for stage in range(len(heads.stages))] if cascade else [""]
    boxes = [f"{name}{stage}" for stage in stages for name in ("loss_classifier", "loss_box_reg")]
    masks = ["loss_mask"] if heads.mask_head is not None else []
    if cascade and heads.mask_heads > 1:
        masks = [f"loss_mask{stage}" for stage in stages]
    return "loss_objectness", "loss_rpn_box_reg", *boxes, *masks
