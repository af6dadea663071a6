"""One training step of a detector, for Lightning to loop over."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn
from torchvision.models.detection import RetinaNet

from leanconv.core.penalty import penalty
from leanconv.detect.cascade import CascadeRoIHeads
from leanconv.detect.config import DetectConfig
from leanconv.detect.feed import Batch
from leanconv.train.base import Record, RunModule


class DetectModule(RunModule):
    """loss = the sum of the detector's losses + penalty(detector).

    Args:
        unread: what the run's photos that could not be read are called; a resumed run adds to them.
    """

    config: DetectConfig

    def __init__(self, detector: nn.Module, config: DetectConfig, unread: list[str]) -> None:
        self.names = loss_names(detector)
        super().__init__(detector, config, sums=len(self.names) + 2)
        self.unread = unread

    def training_step(self, batch: Batch, batch_idx: int) -> Tensor:
        images, targets = batch
        losses = self.model(images, targets)
        extra = penalty(self.model)
        total: Tensor = sum(losses.values()) + extra
        with torch.no_grad():
            values = [*(losses[name].detach().float() for name in self.names), extra.detach().float()]
            self.count(total, torch.stack([*values, torch.ones_like(values[0])]) * len(images))
        return total

    def on_before_optimizer_step(self, optimizer: Any) -> None:
        """Clip by hand: Lightning's gradient_clip_val refuses a fused SGD in bfloat16, though nothing is scaled there."""
        if self.config.clip is not None:
            nn.utils.clip_grad_norm_(self.model.parameters(), self.config.clip)

    def on_save_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        super().on_save_checkpoint(checkpoint)
        checkpoint["progress"]["unread"] = list(self.unread)

    def on_load_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        super().on_load_checkpoint(checkpoint)
        self.unread[:] = list(dict.fromkeys([*checkpoint["progress"]["unread"], *self.unread]))

    def take_record(self) -> Record:
        """What this epoch gave, over all processes; its sums start again."""
        *sums, n = self.take_sums()
        means = [value / n for value in sums]
        return {
            "epoch": self.trainer.current_epoch + 1,
            "lr": self.trainer.optimizers[0].param_groups[0]["lr"],
            "train_loss": sum(means[:-1]),
            "penalty": means[-1],
            **dict(zip(self.names, means, strict=False)),
            "images": n,
        }


def loss_names(detector: nn.Module) -> tuple[str, ...]:
    """The losses that `detector` gives in training."""
    if isinstance(detector, RetinaNet):
        return "classification", "bbox_regression"
    heads: Any = detector.roi_heads
    stages = [f"_{stage}" for stage in range(len(heads.stages))] if isinstance(heads, CascadeRoIHeads) else [""]
    boxes = [f"{name}{stage}" for stage in stages for name in ("loss_classifier", "loss_box_reg")]
    masks = ["loss_mask"] if heads.mask_head is not None else []
    return "loss_objectness", "loss_rpn_box_reg", *boxes, *masks
