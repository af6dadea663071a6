"""The parts of a run around its steps, for everything that is trained.

Lightning could average over an epoch (`self.log`) and step a scheduler. But its checkpoints do not hold the partial sums of an
epoch, and a scheduler's state would be one more thing to check on resuming. So this module keeps the sums and sets the
learning rate; the numbers of an epoch are logged, so that callbacks can monitor them.
"""

from __future__ import annotations

import math
import random
from collections.abc import Callable
from typing import Any

import lightning.pytorch as pl
import numpy as np
import torch
from torch import Tensor, nn

from leanconv.core.penalty import penalty
from leanconv.data.seeds import mix
from leanconv.train.checkpoint import steps_per_epoch
from leanconv.train.config import RunConfig
from leanconv.train.optimizers import make_optimizer, set_lr
from leanconv.train.schedules import learning_rate

Record = dict[str, Any]


class RunModule(pl.LightningModule):
    """A network under its optimizer: the learning rate, the seed of each step, and sums that are read once in an epoch.

    Sums are tensors on the device and are read once in an epoch, because reading them in each step would make a GPU wait.
    A subclass adds `parts`, `measure` and `take_record`.

    Args:
        model: the network.
        config: the settings of the run.
        sums: the number of sums.
    """

    def __init__(self, model: nn.Module, config: RunConfig, sums: int) -> None:
        super().__init__()
        self.model, self.config = model, config
        self.history: list[Record] = []
        self.record: Record = {}  # of the current epoch, from its last step on
        self.ending = False  # a callback asked in this epoch to end the run
        self.ended = False  # a callback ended the run before the last epoch
        self.at_end: Callable[[], None] | None = None  # is called before the weights of a run that was ended are kept
        self.step_lr = 0.0  # the schedule's learning rate in the last step; a group may have a multiple of it
        self.train_seconds = 0.0  # of the current epoch, without validation
        # Plain attributes, because averaging the weights also averages the buffers
        self.sums = torch.zeros(sums)
        self.first_bad = torch.tensor(torch.inf)
        self.steps_before: int | None = None  # steps in an epoch of the run that is continued
        self.finite = [name for name, value in model.state_dict().items() if _is_finite(value)]

    def configure_optimizers(self) -> torch.optim.Optimizer:
        return make_optimizer(self.model, self.config, fused=self.device.type in ("cpu", "cuda"))

    def on_fit_start(self) -> None:
        self.sums, self.first_bad = self.sums.to(self.device), self.first_bad.to(self.device)

    @property
    def total_steps(self) -> int:
        """The optimiser steps of the whole run."""
        return self.config.epochs * int(self.trainer.num_training_batches)

    @property
    def lr(self) -> float:
        """The schedule's learning rate in the current step."""
        losses = [record["val_loss"] for record in self.history] if self.config.schedule == "plateau" else []
        return learning_rate(self.config, self.trainer.global_step, int(self.trainer.num_training_batches), losses)

    def on_train_batch_start(self, batch: Any, batch_idx: int) -> None:
        self.step_lr = self.lr
        set_lr(self.trainer.optimizers[0], self.step_lr)
        # Each step has its own random stream, so that a resumed run continues with the same dropout, on any device
        seed_all(mix(self.config.seed, self.trainer.global_step, self.trainer.global_rank), self.device)

    def training_step(self, batch: Any, batch_idx: int) -> Tensor:
        """The loss of one step: the mean over the images of the batch, and the penalty.

        With `accumulate`, the gradients of all parts but the last are computed here and added up in the weights; Lightning
        computes the gradient of the last part. Lightning's own accumulation would count parts as steps, and could be stopped
        between two parts, whose gradients no checkpoint holds. Several processes exchange gradients in the last part only.
        """
        parts = self.parts(batch)
        sizes = [len(part[0]) for part in parts]
        if self.config.accumulate > 1:
            self.trainer.optimizers[0].zero_grad()
        total = extra = penalty(self.model)
        for number, (part, size) in enumerate(zip(parts, sizes, strict=True), 1):
            loss, values = self.measure(part, extra.detach())
            loss = loss * (size / sum(sizes))
            self.sums += values * size
            if number < len(parts):
                with torch.autocast(self.device.type, enabled=False):
                    loss.backward()
                torch.clear_autocast_cache()
                loss = loss.detach()
            total = total + loss
        self.watch(total.detach())
        return total

    @property
    def recomputes(self) -> nn.Module:
        """The network in which `grad_checkpointing` looks for blocks."""
        return self.model

    def parts(self, batch: Any) -> list[Any]:
        """The batch in `accumulate` parts, each a tuple of (images, labels)."""
        raise NotImplementedError

    def measure(self, part: Any, extra: Tensor) -> tuple[Tensor, Tensor]:
        """The mean loss of a part, without the penalty, and the means that are added to the sums.

        Args:
            part: one of `parts`.
            extra: the value of the penalty.
        """
        raise NotImplementedError

    def optimizer_zero_grad(self, epoch: int, batch_idx: int, optimizer: torch.optim.Optimizer) -> None:
        if self.config.accumulate == 1:  # otherwise the gradients are set to zero before the first part
            optimizer.zero_grad()

    def on_before_optimizer_step(self, optimizer: Any) -> None:
        """Clip by hand: Lightning's gradient_clip_val refuses a fused SGD in bfloat16, though nothing is scaled there."""
        if self.config.clip is not None:
            nn.utils.clip_grad_norm_(self.model.parameters(), self.config.clip)

    def on_train_batch_end(self, outputs: Any, batch: Any, batch_idx: int) -> None:
        if batch_idx + 1 == self.trainer.num_training_batches:
            self.record = {}
            self.note(self.take_record())

    def note(self, values: Record) -> None:
        """Add `values` to the epoch's record, and let callbacks monitor them by these names."""
        self.record |= values
        monitored = {name: float(value) for name, value in values.items() if name not in ("epoch", "images")}
        self.log_dict(monitored, on_step=False, on_epoch=True, batch_size=1, logger=False)

    def watch(self, total: Tensor) -> None:
        """Note the first step whose loss `total` is not finite."""
        step = torch.where(total.isfinite(), torch.inf, float(self.trainer.global_step))
        self.first_bad = torch.minimum(self.first_bad, step)

    def first_bad_step(self) -> int | None:
        """The first step, from 0, whose loss was not finite in any process; all processes get the same answer."""
        first = float(self.trainer.strategy.reduce(self.first_bad.clone(), reduce_op="min"))
        return int(first) if math.isfinite(first) else None

    def not_finite(self) -> str | None:
        """The name of a weight or a buffer that was finite at the start and is not finite now; None if there is none."""
        state = self.model.state_dict()
        return next((name for name in self.finite if not _is_finite(state[name])), None)

    def take_sums(self) -> list[float]:
        """The sums of this epoch over all processes; the sums are then reset to zero."""
        taken: list[float] = self.reduced(self.sums).tolist()
        self.sums = torch.zeros_like(self.sums)
        return taken

    def take_record(self) -> Record:
        """The record of this epoch: epoch, lr, train_loss, images, ..."""
        raise NotImplementedError

    def on_save_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        checkpoint["progress"] = {
            "history": self.history,
            "train_seconds": self.train_seconds,
            "ended": self.ended,
            "sums": self.reduced(self.sums),
        }

    def on_load_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        self.steps_before = steps_per_epoch(checkpoint)
        progress = checkpoint["progress"]
        self.history, self.train_seconds = progress["history"], progress["train_seconds"]
        if self.global_rank == 0:  # the first process holds the sums of all processes
            self.sums = progress["sums"].to(self.sums)

    def reduced(self, sums: Tensor) -> Tensor:
        """The sums over all processes."""
        return self.trainer.strategy.reduce(sums.clone(), reduce_op="sum")


def _is_finite(value: Any) -> bool:
    return isinstance(value, Tensor) and (not value.is_floating_point() or bool(value.isfinite().all()))


def seed_all(seed: int, device: torch.device) -> None:
    """Seed Python, NumPy, and torch on the CPU and on `device`.

    torch.manual_seed takes milliseconds, because it asks every kind of device, and keeps the traceback of each call for
    the kinds that do not exist.

    Args:
        seed: the seed.
        device: a CPU or a CUDA device.

    >>> seed_all(0, torch.device("cpu"))
    >>> torch.initial_seed()
    0
    """
    random.seed(seed)
    np.random.seed(seed % 2**32)
    torch.default_generator.manual_seed(seed)
    if device.type == "cuda":
        torch.cuda.default_generators[device.index].manual_seed(seed)
