"""Show the progress of a run on standard error."""

from __future__ import annotations

import sys
import time
from typing import Any

import lightning.pytorch as pl
from lightning.pytorch.callbacks import ProgressBar
from rich.console import Console
from rich.progress import BarColumn, Progress, TextColumn

from leanconv.train.base import RunModule
from leanconv.train.callbacks import LOOK_EVERY

LINE_EVERY = 60.0  # seconds between two lines of a log inside an epoch


class RunProgress(ProgressBar):
    """One bar for the whole run on a terminal; elsewhere one line for each epoch, and one for each minute of a long epoch.

    Lightning's own bars show one epoch at a time, write no lines to a log file, and do not show the remaining time of the run.
    A `ProgressBar` among a user's callbacks replaces this bar.
    """

    def __init__(self) -> None:
        super().__init__()
        self.shown = True
        self.bar: Progress | None = None

    def disable(self) -> None:
        self.shown = False  # in all processes except the first

    def enable(self) -> None:
        self.shown = True

    def on_train_start(self, trainer: pl.Trainer, module: pl.LightningModule) -> None:
        self.began, self.first_step = time.perf_counter(), trainer.global_step
        self.last_epoch, self.last_line = "", self.began
        if sys.stderr.isatty() and self.shown:
            columns = (TextColumn("{task.description}"), BarColumn(), TextColumn("{task.fields[info]}"))
            self.bar = Progress(*columns, console=Console(stderr=True), auto_refresh=False, transient=True)
            self.bar.start()
            self.task = self.bar.add_task("", total=_steps(trainer), info="")

    def on_train_batch_end(
        self, trainer: pl.Trainer, module: pl.LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        if not self.shown or batch_idx % LOOK_EVERY:
            return
        assert isinstance(module, RunModule)
        now, total = time.perf_counter(), _steps(trainer)
        per_step = (now - self.began) / (trainer.global_step - self.first_step)
        speed = module.config.batch_size / per_step
        left = round((total - trainer.global_step) * per_step)
        epoch = f"epoch {trainer.current_epoch + 1}/{trainer.max_epochs}"
        info = f"{speed:,.0f} images/s, {left // 60}:{left % 60:02} left"
        if self.bar is not None:
            done, told = trainer.global_step, info + self.last_epoch
            self.bar.update(self.task, completed=done, description=epoch, info=told, refresh=True)
        elif now - self.last_line > LINE_EVERY:
            self._line(f"{epoch}, step {batch_idx + 1}/{trainer.num_training_batches}, {info}")

    def on_train_epoch_end(self, trainer: pl.Trainer, module: pl.LightningModule) -> None:
        assert isinstance(module, RunModule)
        if not self.shown:
            return
        record = module.history[-1]
        val = f", val {record['val_top1_pct']:.1f} %" if "val_top1_pct" in record else ""
        self.last_epoch = f", loss {record['train_loss']:.3f}{val}"
        if self.bar is None:
            epoch = f"epoch {record['epoch']}/{trainer.max_epochs}"
            self._line(f"{epoch}{self.last_epoch}, {record['images_per_s']:,.0f} images/s")

    def on_train_end(self, trainer: pl.Trainer, module: pl.LightningModule) -> None:
        self._close()

    def on_exception(self, trainer: pl.Trainer, module: pl.LightningModule, exception: BaseException) -> None:
        self._close()

    def _line(self, text: str) -> None:
        self.last_line = time.perf_counter()
        print(text, file=sys.stderr, flush=True)

    def _close(self) -> None:
        if self.bar is not None:
            self.bar.stop()
            self.bar = None


def _steps(trainer: pl.Trainer) -> int:
    return int(trainer.num_training_batches) * (trainer.max_epochs or 0)
