"""One training step and one validation step, for Lightning to loop over."""

from __future__ import annotations

import random
from typing import Any

import lightning.pytorch as pl
import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from leanconv.core.penalty import penalty
from leanconv.data.seeds import mix
from leanconv.train.config import TrainConfig
from leanconv.train.schedules import learning_rate
from leanconv.train.scoring import Scores, logits_of, tally

Record = dict[str, Any]


class TrainModule(pl.LightningModule):
    """loss = cross-entropy (label smoothing) + penalty(model), after setting the learning rate and seeding the step.

    Sums are kept as tensors on the device and read once an epoch: reading them each step would make a GPU wait.

    Args:
        classes: outputs that the network must have.
    """

    def __init__(self, model: nn.Module, config: TrainConfig, classes: int) -> None:
        super().__init__()
        self.model, self.config, self.classes = model, config, classes
        # a compiled function, not a compiled module, leaves the caller's model and its state dict as they are
        self.call = torch.compile(_call) if config.compile else _call
        self.history: list[Record] = []
        self.scores: Scores | None = None
        self.train_seconds = 0.0  # of the epoch so far, validation left out
        # plain attributes: an average of the weights also averages the buffers
        self.sums = torch.zeros(4)
        self.validation_sums = torch.zeros(4)
        self.first_bad = torch.tensor(torch.inf)

    def configure_optimizers(self) -> torch.optim.Optimizer:
        config = self.config
        weights = [p for p in self.model.parameters() if p.requires_grad]
        free = [p for p in weights if config.no_decay_norm and p.ndim < 2]
        exempt = {id(p) for p in free}
        groups: list[dict[str, Any]] = [{"params": [p for p in weights if id(p) not in exempt]}]
        if free:
            groups.append({"params": free, "weight_decay": 0.0})
        return torch.optim.SGD(
            groups, config.lr, momentum=config.momentum, nesterov=config.nesterov,
            weight_decay=config.weight_decay, fused=self.device.type in ("cpu", "cuda"),
        )  # fmt: skip

    def on_fit_start(self) -> None:
        self.sums, self.first_bad = self.sums.to(self.device), self.first_bad.to(self.device)

    @property
    def lr(self) -> float:
        """The learning rate of the current step."""
        losses = [record["val_loss"] for record in self.history] if self.config.schedule == "plateau" else []
        return learning_rate(self.config, self.trainer.global_step, int(self.trainer.num_training_batches), losses)

    def on_train_batch_start(self, batch: Any, batch_idx: int) -> None:
        optimizer = self.trainer.optimizers[0]
        lr = self.lr
        for group in optimizer.param_groups:
            group["lr"] = lr
        # each step draws from its own stream, so that a resumed run continues with the same dropout, on any device
        seed_all(mix(self.config.seed, self.trainer.global_step, self.trainer.global_rank), self.device)

    def training_step(self, batch: tuple[Tensor, Tensor], batch_idx: int) -> Tensor:
        images, labels = batch
        logits = logits_of(self.call(self.model, images), self.classes).float()
        loss = F.cross_entropy(logits, labels, label_smoothing=self.config.label_smoothing)
        extra = penalty(self.model)
        total = loss + extra
        with torch.no_grad():
            hits = (logits.argmax(dim=1) == labels).float().mean()
            self.sums += torch.stack([loss, extra, hits, torch.ones_like(loss)]) * len(labels)
            step = torch.where(total.isfinite(), torch.inf, float(self.trainer.global_step))
            self.first_bad = torch.minimum(self.first_bad, step)
        return total

    def take_record(self) -> Record:
        """What this epoch gave, over all processes; its sums start again."""
        loss, extra, hits, n = self._reduced(self.sums).tolist()
        self.sums = torch.zeros_like(self.sums)
        record = {
            "epoch": self.trainer.current_epoch + 1,
            "lr": self.trainer.optimizers[0].param_groups[0]["lr"],
            "train_loss": loss / n,
            "penalty": extra / n,
            "train_top1_pct": 100 * hits / n,
            "images": n,
        }
        if self.scores is not None:
            record |= {
                "val_loss": self.scores.loss,
                "val_top1_pct": self.scores.top1_pct,
                "val_top5_pct": self.scores.top5_pct,
            }
        return record

    def on_validation_epoch_start(self) -> None:
        self.validation_sums = torch.zeros(4, device=self.device)

    def validation_step(self, batch: tuple[Tensor, Tensor], batch_idx: int) -> None:
        images, labels = batch
        self.validation_sums += tally(self.model(images), labels)

    def take_validation(self) -> Scores:
        """The scores of the validation that has just run, over all processes."""
        self.scores = Scores.of(self._reduced(self.validation_sums))
        return self.scores

    def on_save_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        checkpoint["progress"] = {
            "history": self.history,
            "train_seconds": self.train_seconds,
            "sums": self._reduced(self.sums),
        }

    def on_load_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        progress = checkpoint["progress"]
        self.history, self.train_seconds = progress["history"], progress["train_seconds"]
        if self.global_rank == 0:  # it holds the sums of all of them
            self.sums = progress["sums"].to(self.sums)

    def _reduced(self, sums: Tensor) -> Tensor:
        return self.trainer.strategy.reduce(sums.clone(), reduce_op="sum")


def seed_all(seed: int, device: torch.device) -> None:
    """Python, NumPy, and torch on the CPU and on `device`.

    torch.manual_seed would do, but takes milliseconds: it asks every kind of device, and keeps each call's traceback
    for those that are not there.
    """
    random.seed(seed)
    np.random.seed(seed % 2**32)
    torch.default_generator.manual_seed(seed)
    if device.type == "cuda":
        torch.cuda.default_generators[device.index].manual_seed(seed)


def _call(model: nn.Module, images: Tensor) -> Any:
    return model(images)
