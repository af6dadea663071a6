"""Lookahead: the weights return to a slow average of themselves every few steps."""

from __future__ import annotations

from functools import partial
from typing import Any

import lightning.pytorch as pl
import torch
from torch import Tensor, nn

from leanconv.core.errors import FileError
from leanconv.train.base import RunModule

DECAY = 0.95  # per step, at the end of the run


class Lookahead(pl.Callback):
    """Every k steps: slow = d slow + (1 - d) weights, then weights = slow, with d = 0.95^k (step / steps)^3.

    Early in a run d is near 0, so that training is free; late it averages. After the last step the weights are the slow
    average. Floating-point buffers (statistics of norms) are averaged too.

    Where a callback ends the run early, the last step of that epoch is the last. If it ends the run only after that step
    (EarlyStopping), the weights become the slow average after the epoch was validated; with select="best", they stay as they
    were validated.

    Args:
        every: k, the steps between two updates.

    Source: Zhang et al. 2019, "Lookahead Optimizer"; the growing d is that of Jordan 2024 (airbench94).
    """

    def __init__(self, every: int) -> None:
        self.every = every
        self.slow: dict[str, Tensor] = {}

    def on_train_start(self, trainer: pl.Trainer, module: pl.LightningModule) -> None:
        assert isinstance(module, RunModule)
        own = _floating(module.model)
        if self.slow and {name: value.shape for name, value in self.slow.items()} != {
            name: value.shape for name, value in own.items()
        }:
            raise FileError("last.ckpt holds slow weights of another network; choose another folder")
        self.slow = {name: self.slow.get(name, value).detach().to(value).clone() for name, value in own.items()}
        module.at_end = partial(self._step, module, decay=1.0)

    def on_train_batch_end(
        self, trainer: pl.Trainer, module: pl.LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        assert isinstance(module, RunModule)
        step, total = trainer.global_step, module.total_steps
        last = batch_idx + 1 == trainer.num_training_batches and (module.ending or trainer.should_stop)
        if step == total or last:
            self._step(module, decay=1.0)
        elif step % self.every == 0:
            self._step(module, decay=DECAY**self.every * (step / total) ** 3)

    def _step(self, module: RunModule, decay: float) -> None:
        own = _floating(module.model)
        slow = list(self.slow.values())
        torch._foreach_lerp_(slow, list(own.values()), 1 - decay)
        torch._foreach_copy_(list(own.values()), slow)

    def state_dict(self) -> dict[str, Any]:
        return {"slow": self.slow}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        self.slow = state_dict["slow"]


def _floating(model: nn.Module) -> dict[str, Tensor]:
    return {name: value for name, value in model.state_dict().items() if value.is_floating_point()}
