"""A run from its first step, or from where it was stopped, to its last: the same for everything that is trained.

The loop is Lightning's Trainer: steps, validation, bfloat16, devices and processes, weight averaging, callbacks and
loggers. What stands beside it is what a Trainer does not do:

- `checkpoint`, `resume`: last.ckpt is written atomically with a SHA-256 of each entry, holds no pickled objects, and is
  checked entry by entry before a run goes on from it. Lightning loads whatever it finds.
- `base`, `feed`: a run that stops within an epoch goes on with the same images, random numbers, learning rate and sums, bit
  for bit. Lightning restores loops and optimisers; batches, seeds and half-counted means it does not. Its distributed
  sampler is off because our loaders share the images out themselves, in an order that depends on the seed and the epoch.
- `callbacks`: one record an epoch in metrics.jsonl, and an end with one line where a loss or a weight is not finite.
- `best`: the weights of the best epoch belong to the history in last.ckpt, however the run was killed.
- `placement`: torchrun and srun are read as they say; Lightning takes a batch job of Slurm for several processes.
- `progress`: one bar for the whole run, and lines where there is no terminal.
- `caller`, `failures`: `fit` gives the process back as it was, and what the machine does to a run is one line.

The model summary is off because `lc.summary` counts shared weights once, and Lightning's does not know MACs of lean layers.
"""

from __future__ import annotations

import contextlib
import signal
import threading
import warnings
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from types import FrameType
from typing import Any

import lightning.pytorch as pl
import torch
from lightning.pytorch.callbacks import ProgressBar
from lightning.pytorch.loggers import Logger
from lightning.pytorch.strategies import Strategy
from lightning.pytorch.utilities.exceptions import MisconfigurationException  # type: ignore[attr-defined]
from torch import nn
from torch.nn.modules.batchnorm import _BatchNorm

from leanconv.core.errors import SettingError, first_line
from leanconv.core.layout import to_channels_last
from leanconv.core.logs import only_errors
from leanconv.core.processes import leads
from leanconv.core.state import versioned
from leanconv.train.base import Record, RunModule
from leanconv.train.best import keep_best
from leanconv.train.callbacks import LOOK_EVERY, AtomicCheckpoints, Interrupted, LastCheckpoint, Recorder
from leanconv.train.checkpoint import weights_of
from leanconv.train.config import RunConfig
from leanconv.train.engine import check_same_callbacks
from leanconv.train.failures import failures
from leanconv.train.folder import RunFolder
from leanconv.train.gradients import GradientRecorder
from leanconv.train.loggers import open_loggers
from leanconv.train.placement import placement
from leanconv.train.progress import RunProgress
from leanconv.train.resume import check_network, check_resumable

PLAIN_NORMS = (nn.BatchNorm1d, nn.BatchNorm2d, nn.BatchNorm3d)


@dataclass(frozen=True)
class Work:
    """What is trained, and on what.

    Args:
        callbacks: those that come before the recorder, so that a checkpoint holds what they did after the step.
    """

    module: RunModule
    feed: pl.LightningDataModule
    callbacks: tuple[pl.Callback, ...] = ()


def train_loop(
    model: nn.Module,
    make: Callable[[], Work],
    config: RunConfig,
    folder: RunFolder,
    checkpoint: dict[str, Any] | None,
    *,
    progress: bool,
    accelerator: str,
    devices: int | str | None,
    callbacks: Sequence[pl.Callback] = (),
    loggers: Sequence[str | Logger] = (),
    strategy: str | Strategy = "auto",
) -> list[Record]:
    """The history of the run in `folder`, all of it, once it is done; `model` then holds its last weights.

    Args:
        make: called once there is something left to train.
        checkpoint: what ``folder.open`` gave.
        callbacks, loggers, strategy: as `leanconv.train.engine` and `leanconv.train.loggers` have checked them.

    Raises:
        FileError: the checkpoint belongs to another network, or holds what the run did not write.
        SettingError: sync_norms, and norms that torch would not replace rightly.
        RunError, KeyboardInterrupt: see `leanconv.train.fit`.
    """
    if config.sync_norms:
        _check_plain_norms(model)
    if checkpoint is not None:
        check_network(model, checkpoint, config, folder.checkpoint)
        if config.keeps_best and leads():
            keep_best(folder, checkpoint)
        if len(_history(checkpoint)) == config.epochs or checkpoint["progress"].get("ended"):
            return _read_back(model, checkpoint, folder)
    counts, environment = placement(devices)
    work = make()
    if checkpoint is not None:
        check_resumable(work.module, checkpoint, config, folder.checkpoint)
        check_same_callbacks(checkpoint.get("callbacks", {}), (*callbacks, *work.callbacks))
    torch.set_num_threads(config.threads or torch.get_num_threads())
    recorder = Recorder(folder)
    step = 0 if checkpoint is None else int(checkpoint["global_step"])
    with _quiet(), open_loggers(loggers, folder.root, step) as opened:
        ordered = [*callbacks, *work.callbacks, *_own_callbacks(recorder, config, callbacks, progress)]
        trainer = _trainer(
            config, folder, accelerator=accelerator, strategy=strategy, **counts, callbacks=ordered, logger=opened,
            plugins=[AtomicCheckpoints(folder, config.keeps_best), environment],
            enable_progress_bar=any(isinstance(callback, ProgressBar) for callback in ordered),
        )  # fmt: skip
        model.train()
        if config.channels_last:
            to_channels_last(model)
        with _interruptible(recorder, trainer.world_size), failures():
            resumed = folder.checkpoint if checkpoint is not None else None
            trainer.fit(work.module, datamodule=work.feed, ckpt_path=resumed)
    return work.module.history


def _own_callbacks(
    recorder: Recorder, config: RunConfig, users: Sequence[pl.Callback], progress: bool
) -> Iterator[pl.Callback]:
    yield recorder
    if config.record_gradients:
        yield GradientRecorder(recorder.folder)
    if progress and not any(isinstance(callback, ProgressBar) for callback in users):
        yield RunProgress()
    yield LastCheckpoint(recorder)


def _history(checkpoint: dict[str, Any]) -> list[Record]:
    found: list[Record] = checkpoint["progress"]["history"]
    return found


def _read_back(model: nn.Module, checkpoint: dict[str, Any], folder: RunFolder) -> list[Record]:
    """Give `model` the weights of a finished run; its history."""
    model.load_state_dict(versioned(model, weights_of(checkpoint)))
    if leads():
        folder.write_records(_history(checkpoint))
    return _history(checkpoint)


def _trainer(config: RunConfig, folder: RunFolder, **settings: Any) -> pl.Trainer:
    try:
        return pl.Trainer(
            **settings,
            min_epochs=1,  # a callback that stops at once would leave a run without a record
            max_epochs=config.epochs,
            precision="bf16-mixed" if config.precision == "bf16" else "32-true",
            default_root_dir=folder.root,
            log_every_n_steps=LOOK_EVERY,
            enable_model_summary=False,
            num_sanity_val_steps=0,
            limit_val_batches=None if config.validation else 0,
            use_distributed_sampler=False,
            sync_batchnorm=config.sync_norms,
        )
    except (MisconfigurationException, ValueError) as error:  # more GPUs than there are, say
        asked = f"devices={settings['devices']}, strategy={settings['strategy']}"
        raise SettingError(f"{first_line(error)} ({asked}); ask for what is there") from error


def _check_plain_norms(model: nn.Module) -> None:
    """torch replaces batch norms by synchronised ones, and what a subclass adds, an activation say, would be lost."""
    for name, module in model.named_modules():
        if isinstance(module, _BatchNorm) and type(module) not in PLAIN_NORMS:
            raise SettingError(f"sync_norms=True cannot replace {name!r}, a {type(module).__name__}; leave it out")


@contextlib.contextmanager
def _interruptible(recorder: Recorder, processes: int) -> Iterator[None]:
    """Ctrl-C, or a polite kill, stops the recorder after the step under way; a second Ctrl-C stops at once.

    Several processes would stop at different steps and wait for each other, so there the first one stops at once.
    """

    def ask(number: int, frame: FrameType | None) -> None:
        recorder.stop = True
        signal.signal(signal.SIGINT, signal.default_int_handler)

    in_main = threading.current_thread() is threading.main_thread()  # the only thread that may set a handler
    before = {number: signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)}
    if in_main and processes == 1:
        for number in before:
            signal.signal(number, ask)
    try:
        yield
    except Interrupted:
        raise KeyboardInterrupt from None
    except SystemExit as error:  # what Lightning makes of a KeyboardInterrupt
        if isinstance(error.__context__, KeyboardInterrupt):
            raise KeyboardInterrupt from None
        raise
    finally:
        if in_main:
            for number, handler in before.items():  # Lightning leaves SIGINT ignored
                signal.signal(number, handler)


@contextlib.contextmanager
def _quiet() -> Iterator[None]:
    """Without Lightning's notes on hardware, loaders and services; its errors stay."""
    with only_errors("lightning.pytorch", "lightning.fabric"), warnings.catch_warnings():
        warnings.filterwarnings("ignore", module=r"lightning\.")
        yield
