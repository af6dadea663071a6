"""What happens around the steps: records, checkpoints, stopping, and the choice of an epoch."""

from __future__ import annotations

import math
import time
from typing import Any

import lightning.pytorch as pl
from lightning.fabric.plugins import TorchCheckpointIO

from leanconv.core.atomic import replacing
from leanconv.core.errors import RunError
from leanconv.train.base import RunModule
from leanconv.train.folder import RunFolder, read_checkpoint
from leanconv.train.module import TrainModule

LOOK_EVERY = 20  # steps between two readings of values that are on a device


class Interrupted(BaseException):
    """The run was asked to stop, and its state is on disk."""


class Selection(pl.Callback):
    """Keeps the weights with the best validation accuracy, where the run asks for them.

    It comes before the callback that averages weights, which puts the unaveraged ones back in the same hook.
    """

    def __init__(self, folder: RunFolder) -> None:
        self.folder = folder

    def on_validation_epoch_end(self, trainer: pl.Trainer, module: pl.LightningModule) -> None:
        assert isinstance(module, TrainModule)
        top1_pct = module.take_validation().top1_pct
        before = (record["val_top1_pct"] for record in module.history)
        if module.config.select == "best" and trainer.is_global_zero and all(top1_pct > value for value in before):
            from safetensors.torch import save_model

            with replacing(self.folder.best) as temporary:
                save_model(module.model, str(temporary))


class Recorder(pl.Callback):
    """Times each epoch, appends its record to metrics.jsonl, and writes last.ckpt.

    It comes after the callback that averages weights, so that a checkpoint holds both as they are after a step.
    """

    def __init__(self, folder: RunFolder) -> None:
        self.folder = folder
        self.stop = False  # set from outside: write a checkpoint after the step under way, and stop
        self.mark = 0.0

    def on_train_start(self, trainer: pl.Trainer, module: pl.LightningModule) -> None:
        assert isinstance(module, RunModule)
        if trainer.is_global_zero:
            self.folder.write_records(module.history)
        self._lap()

    def on_train_epoch_start(self, trainer: pl.Trainer, module: pl.LightningModule) -> None:
        self._lap()

    def on_train_batch_end(
        self, trainer: pl.Trainer, module: pl.LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        assert isinstance(module, RunModule)
        last = batch_idx + 1 == trainer.num_training_batches
        if not (last or self.stop or batch_idx % LOOK_EVERY == 0):
            return
        bad = float(module.first_bad)
        if math.isfinite(bad):
            lr = trainer.optimizers[0].param_groups[0]["lr"]
            place = f"epoch {trainer.current_epoch + 1}, step {int(bad) + 1}, lr={lr:.4g}"
            raise RunError(f"the loss is not finite at {place}; lower lr, or add warmup_epochs")
        if last or self.stop:
            module.train_seconds += self._lap()
        if self.stop and not last:  # after the last step the epoch's end, which follows, saves
            self._save(trainer)
            raise Interrupted

    def on_train_epoch_end(self, trainer: pl.Trainer, module: pl.LightningModule) -> None:
        assert isinstance(module, RunModule)
        record = module.take_record()
        record["seconds"] = module.train_seconds + self._lap()  # with validation
        record["images_per_s"] = record.pop("images") / module.train_seconds
        module.history.append(record)
        module.train_seconds = 0.0
        if trainer.is_global_zero:
            self.folder.append_record(record)
        self._save(trainer)
        if self.stop:
            raise Interrupted

    def _save(self, trainer: pl.Trainer) -> None:
        trainer.save_checkpoint(self.folder.checkpoint)

    def _lap(self) -> float:
        now = time.perf_counter()
        seconds, self.mark = now - self.mark, now
        return seconds


class AtomicCheckpoints(TorchCheckpointIO):
    """Lightning's own goes through the folder for temporary files, from where a rename need not be atomic."""

    def save_checkpoint(self, checkpoint: dict[str, Any], path: Any, storage_options: Any = None) -> None:
        import torch

        with replacing(path) as temporary:
            torch.save(checkpoint, temporary)

    def load_checkpoint(self, path: Any, map_location: Any = None, weights_only: bool | None = None) -> dict[str, Any]:
        return read_checkpoint(path)
