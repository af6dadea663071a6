"""The training step and the validation step of a classifier, over which Lightning loops."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from leanconv.data.transforms import mixes_of
from leanconv.train.base import Record, RunModule
from leanconv.train.config import TrainConfig
from leanconv.train.distill import Distillation
from leanconv.train.scoring import Scores, logits_of, tally


class TrainModule(RunModule):
    """loss = (1 - w) cross-entropy (label smoothing) + w distillation loss + penalty(model); w is 0 without a teacher.

    The learning rate and the seed of the step are set before.

    Args:
        model: the network.
        config: the settings of the run.
        classes: the number of outputs that the network must have.
        distillation: the loss against a teacher; None without a teacher.
    """

    config: TrainConfig

    def __init__(
        self, model: nn.Module, config: TrainConfig, classes: int, distillation: Distillation | None = None
    ) -> None:
        super().__init__(model, config, sums=4 if distillation is None else 5)
        self.classes, self.distillation = classes, distillation
        # A compiled function, not a compiled module, leaves the caller's model and its state dict unchanged
        self.call = torch.compile(_call) if config.compile else _call
        self.validation_sums = torch.zeros(4)
        self.mixes = mixes_of(config.mixup, config.cutmix, classes)

    def on_fit_start(self) -> None:
        super().on_fit_start()
        if self.distillation is not None:
            self.distillation.to(self.device)

    def parts(self, batch: tuple[Tensor, Tensor]) -> list[tuple[Tensor, Tensor]]:
        """The batch, mixed by Mixup or CutMix if they are set, in `accumulate` parts."""
        if self.mixes:
            # The step's own random stream draws, so that a resumed run mixes the same images
            chosen = int(torch.randint(len(self.mixes), ())) if len(self.mixes) > 1 else 0
            batch = self.mixes[chosen](*batch)
        images, labels = (value.tensor_split(self.config.accumulate) for value in batch)
        return [part for part in zip(images, labels, strict=True) if len(part[1])]

    def measure(self, part: tuple[Tensor, Tensor], extra: Tensor) -> tuple[Tensor, Tensor]:
        images, labels = part
        logits = logits_of(self.call(self.model, images), self.classes).float()
        loss = F.cross_entropy(logits, labels, label_smoothing=self.config.label_smoothing)
        distilled = []
        if self.distillation is not None:
            weight = self.config.distill_weight
            distilled = [self.distillation.loss(images, logits)]
            loss = (1 - weight) * loss + weight * distilled[0]
        with torch.no_grad():
            largest = labels if labels.ndim == 1 else labels.argmax(dim=1)
            hits = (logits.argmax(dim=1) == largest).float().mean()
            return loss, torch.stack([loss, extra, hits, torch.ones_like(loss), *distilled])

    def take_record(self) -> Record:
        """The record of this epoch, over all processes; the sums are then reset to zero."""
        loss, extra, hits, n, *distilled = self.take_sums()
        return {
            "epoch": self.trainer.current_epoch + 1,
            "lr": self.step_lr,
            "train_loss": loss / n,
            **({"distill_loss": distilled[0] / n} if distilled else {}),
            "penalty": extra / n,
            "train_top1_pct": 100 * hits / n,
            "images": n,
        }

    def on_validation_epoch_start(self) -> None:
        self.validation_sums = torch.zeros(4, device=self.device)

    def validation_step(self, batch: tuple[Tensor, Tensor], batch_idx: int) -> None:
        images, labels = batch
        self.validation_sums += tally(self.model(images), labels)

    def on_validation_epoch_end(self) -> None:
        scores = Scores.of(self.reduced(self.validation_sums))  # over all processes
        self.note({"val_loss": scores.loss, "val_top1_pct": scores.top1_pct, "val_top5_pct": scores.top5_pct})


def _call(model: nn.Module, images: Tensor) -> Any:
    return model(images)
