"""Callbacks of a run: records, checkpoints, stopping, and the best epoch."""

from __future__ import annotations

import math
import time
from pathlib import Path
from typing import Any, NoReturn

import lightning.pytorch as pl
from lightning.fabric.plugins import TorchCheckpointIO
from lightning.pytorch.callbacks import Checkpoint

from leanconv.core.errors import FileError, RunError
from leanconv.train import memory
from leanconv.train.base import RunModule
from leanconv.train.best import keep_best
from leanconv.train.checkpoint import read_checkpoint, write_checkpoint
from leanconv.train.engine import refuse_objects
from leanconv.train.folder import RunFolder

LOOK_EVERY = 20  # steps between two reads of values on a device


class Interrupted(BaseException):
    """The run was asked to stop, and its checkpoint is written."""


class Recorder(pl.Callback):
    """Times each epoch, appends its record to metrics.jsonl, and hands the record to the loggers.

    Loggers also get `train_loss_step` (of the first process), `lr_step` and the memory every `LOOK_EVERY` steps. Their x-axis
    is the number of the step, from 0 at the run's start, so that it continues after a resume.

    If a loss or a weight is not finite, this callback ends the run. Lightning's EarlyStopping(check_finite=True) would check
    the loss once in an epoch, and the bad epoch would be saved.

    Args:
        folder: the run's folder.
    """

    def __init__(self, folder: RunFolder) -> None:
        self.folder = folder
        self.stop = False  # set from outside: write a checkpoint after the current step, and stop
        self.mark = 0.0

    def on_train_start(self, trainer: pl.Trainer, module: pl.LightningModule) -> None:
        assert isinstance(module, RunModule)
        before, here = module.steps_before, int(trainer.num_training_batches)
        if before is not None and before != here:
            said = f"{before} steps an epoch in it, and {here} here"
            way_out = "use those, or choose another folder"
            raise FileError(f"{self.folder.checkpoint}: written with other images ({said}); {way_out}")
        if trainer.is_global_zero:
            self.folder.write_records(module.history)
        for logger in trainer.loggers:
            logger.log_hyperparams(module.config.to_json())
        self._lap()

    def on_train_epoch_start(self, trainer: pl.Trainer, module: pl.LightningModule) -> None:
        memory.restart(module.device)
        self._lap()

    def on_train_batch_end(
        self, trainer: pl.Trainer, module: pl.LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        assert isinstance(module, RunModule)
        last = batch_idx + 1 == trainer.num_training_batches
        if not (last or self.stop or batch_idx % LOOK_EVERY == 0):
            return
        bad = module.first_bad_step()
        if bad is not None:
            self._diverged(trainer, module, "the loss is", bad)
        if trainer.loggers:
            taken = {f"{name}_step": float(value) for name, value in memory.peaks(module.device).items()}
            _log(trainer, {"train_loss_step": float(outputs["loss"]), "lr_step": module.step_lr, **taken})
        if last or self.stop:
            module.train_seconds += self._lap()
        if self.stop and not last:  # after the last step, on_train_epoch_end checks the weights
            self._check_weights(trainer, module)

    def on_train_epoch_end(self, trainer: pl.Trainer, module: pl.LightningModule) -> None:
        assert isinstance(module, RunModule)
        record = module.record
        record["seconds"] = module.train_seconds + self._lap()  # with validation
        record["images_per_s"] = record.pop("images") / module.train_seconds
        record |= memory.peaks(module.device)
        for name, value in record.items():
            if not math.isfinite(value):  # JSON has no NaN and no infinity, and the next epoch would not be better
                self._diverged(trainer, module, f"{name} is")
        module.history.append(record)
        module.train_seconds = 0.0
        self._check_weights(trainer, module)
        if trainer.is_global_zero:
            self.folder.append_record(record)
        _log(trainer, record)
        for logger in trainer.loggers:
            logger.save()

    def _check_weights(self, trainer: pl.Trainer, module: RunModule) -> None:
        """A checkpoint with weights that are not finite must not be written."""
        spoilt = module.not_finite()
        if not trainer.strategy.reduce_boolean_decision(spoilt is None):
            self._diverged(trainer, module, f"{spoilt or 'a weight'} is")

    def _diverged(self, trainer: pl.Trainer, module: RunModule, what: str, step: int | None = None) -> NoReturn:
        number = (trainer.global_step - 1 if step is None else step) + 1
        place = f"epoch {trainer.current_epoch + 1}, step {number}, lr={module.step_lr:.4g}"
        raise RunError(f"{what} not finite at {place}; lower lr, or add warmup_epochs")

    def _lap(self) -> float:
        now = time.perf_counter()
        seconds, self.mark = now - self.mark, now
        return seconds


def _log(trainer: pl.Trainer, values: dict[str, float]) -> None:
    """Pass `values` to the loggers at once: Lightning would wait until the epoch's checkpoint, and a stop would lose them."""
    for logger in trainer.loggers:
        logger.log_metrics(values, step=trainer.global_step - 1)


class LastCheckpoint(Checkpoint):
    """Writes last.ckpt at the end of each epoch, and after the current step when the run is asked to stop.

    Lightning calls a `Checkpoint` after all other callbacks, so last.ckpt holds their states after the step. Lightning's
    ModelCheckpoint cannot save after the step that an interrupt chooses, and its OnExceptionCheckpoint saves within a step.

    If a callback (EarlyStopping, Timer) ends the run, the run continues to the end of the epoch, where the record and the
    checkpoint are complete. Such a run counts as finished.

    Args:
        recorder: the run's recorder, whose `stop` asks the run to stop.
    """

    def __init__(self, recorder: Recorder) -> None:
        self.recorder = recorder

    def on_train_batch_end(
        self, trainer: pl.Trainer, module: pl.LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        assert isinstance(module, RunModule)
        module.ending |= trainer.should_stop
        trainer.should_stop = False
        if self.recorder.stop and batch_idx + 1 < trainer.num_training_batches:
            self._save(trainer)

    def on_train_epoch_end(self, trainer: pl.Trainer, module: pl.LightningModule) -> None:
        assert isinstance(module, RunModule)
        module.ended = trainer.should_stop = trainer.should_stop or module.ending
        if module.ended and module.at_end is not None and not module.config.keeps_best:
            module.at_end()
        self._save(trainer)

    def _save(self, trainer: pl.Trainer) -> None:
        trainer.save_checkpoint(self.recorder.folder.checkpoint)
        if self.recorder.stop:
            raise Interrupted


class AtomicCheckpoints(TorchCheckpointIO):
    """Writes checkpoints atomically and with checksums, also for a user's ModelCheckpoint.

    Lightning's own class writes through the folder for temporary files, from which a rename may not be atomic, and writes no
    checksums.

    Args:
        folder: the run's folder.
        best: also keep the weights of the best epoch.
    """

    def __init__(self, folder: RunFolder, best: bool) -> None:
        super().__init__()
        self.folder, self.best = folder, best

    def save_checkpoint(self, checkpoint: dict[str, Any], path: Any, storage_options: Any = None) -> None:
        more = {name: value for name, value in checkpoint.items() if name not in ("callbacks", "state_dict")}
        refuse_objects(more | checkpoint["callbacks"])  # refuse now, because reading would fail
        write_checkpoint(checkpoint, Path(path))
        if self.best and Path(path) == self.folder.checkpoint:
            keep_best(self.folder, checkpoint)

    def load_checkpoint(self, path: Any, map_location: Any = None, weights_only: bool | None = None) -> dict[str, Any]:
        return read_checkpoint(path)
