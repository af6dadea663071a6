"""Record the gradients of shared weights during training."""

from __future__ import annotations

import json
import math
from typing import Any

import lightning.pytorch as pl
import torch
from torch import nn
from torch.optim import Optimizer

from leanconv.core.sharing import borrowed
from leanconv.train.base import RunModule
from leanconv.train.checkpoint import written
from leanconv.train.folder import RunFolder


def shared_parameters(model: nn.Module) -> dict[str, nn.Parameter]:
    """The parameters that several layers use, by name.

    >>> shared_parameters(nn.Linear(2, 2))
    {}
    """
    banks = {id(bank) for module in model.modules() for bank in borrowed(module)}
    return {
        f"{name}.{own}" if name else own: parameter
        for name, module in model.named_modules()
        if id(module) in banks
        for own, parameter in module.named_parameters(recurse=False)
    }


class GradientRecorder(pl.Callback):
    """Appends the largest and the mean absolute gradient of each shared weight to gradients.jsonl.

    It reads them every `every` steps, as two numbers for each weight, so that training stays as fast.

    Args:
        folder: the run's folder.
        every: steps between two records.

    Source: "Learning Deeply Shared Filter Bases", section 4.1.2, Fig. 2.
    """

    def __init__(self, folder: RunFolder, every: int = 10) -> None:
        self.folder, self.every = folder, every
        self.shared: dict[str, nn.Parameter] = {}
        self.first = True  # a killed run may have left half a line

    def on_train_start(self, trainer: pl.Trainer, module: pl.LightningModule) -> None:
        assert isinstance(module, RunModule)
        self.shared = shared_parameters(module.model)

    def on_before_optimizer_step(
        self, trainer: pl.Trainer, module: pl.LightningModule, optimizer: Optimizer | Any
    ) -> None:
        step = trainer.global_step
        if step % self.every or not trainer.is_global_zero:
            return
        found = {name: parameter.grad for name, parameter in self.shared.items() if parameter.grad is not None}
        if not found:
            return
        sizes = [gradient.detach().abs() for gradient in found.values()]
        values = torch.stack(
            [torch.stack([size.max(), size.mean()]) for size in sizes]
        ).tolist()  # so that a GPU waits once
        if not all(math.isfinite(value) for pair in values for value in pair):
            return  # the loss will not be finite either, which ends the run
        record = {
            "step": step,
            "gradients": {name: {"max": v[0], "mean": v[1]} for name, v in zip(found, values, strict=True)},
        }
        with written(self.folder.gradients), open(self.folder.gradients, "a", encoding="utf-8") as file:
            file.write(("\n" if self.first and file.tell() else "") + json.dumps(record) + "\n")
        self.first = False
