"""A run from its first step, or from where it was stopped, to its last: the same for everything that is trained."""

from __future__ import annotations

import contextlib
import signal
import threading
import warnings
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from types import FrameType
from typing import Any

import lightning.pytorch as pl
import torch
from lightning.pytorch.utilities.exceptions import MisconfigurationException
from torch import nn
from torch.nn.modules.batchnorm import _BatchNorm

from leanconv.core.errors import SettingError, first_line
from leanconv.core.layout import to_channels_last
from leanconv.core.logs import only_errors
from leanconv.core.processes import leads
from leanconv.core.state import versioned
from leanconv.train.base import Record, RunModule
from leanconv.train.best import keep_best
from leanconv.train.callbacks import AtomicCheckpoints, Interrupted, Recorder
from leanconv.train.checkpoint import weights_of
from leanconv.train.config import RunConfig
from leanconv.train.failures import failures
from leanconv.train.folder import RunFolder
from leanconv.train.gradients import GradientRecorder
from leanconv.train.placement import placement
from leanconv.train.progress import ProgressBar
from leanconv.train.resume import check_network, check_resumable

PLAIN_NORMS = (nn.BatchNorm1d, nn.BatchNorm2d, nn.BatchNorm3d)


@dataclass(frozen=True)
class Work:
    """What is trained, and on what.

    Args:
        callbacks: those that come before the recorder, whose docstrings say why.
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
    extra: tuple[pl.Callback, ...] = (),
) -> list[Record]:
    """The history of the run in `folder`, all of it, once it is done; `model` then holds its last weights.

    Args:
        make: called once there is something left to train.
        checkpoint: what ``folder.open`` gave.
        extra: callbacks of the caller's.

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
        history: list[Record] = checkpoint["progress"]["history"]
        if len(history) == config.epochs:
            model.load_state_dict(versioned(model, weights_of(checkpoint)))
            if leads():
                folder.write_records(history)
            return history
    counts, environment = placement(devices)
    work = make()
    if checkpoint is not None:
        check_resumable(work.module, checkpoint, config, folder.checkpoint)
    torch.set_num_threads(config.threads or torch.get_num_threads())
    with _quiet():
        recorder = Recorder(folder)
        callbacks = [*work.callbacks, recorder]
        if config.record_gradients:
            callbacks.append(GradientRecorder(folder))
        if progress:
            callbacks.append(ProgressBar())
        callbacks += extra
        trainer = _trainer(
            accelerator=accelerator,
            **counts,
            max_epochs=config.epochs,
            precision="bf16-mixed" if config.precision == "bf16" else "32-true",
            callbacks=callbacks,
            plugins=[AtomicCheckpoints(folder, config.keeps_best), environment],
            default_root_dir=folder.root,
            logger=False,
            enable_checkpointing=False,
            enable_progress_bar=False,
            enable_model_summary=False,
            num_sanity_val_steps=0,
            limit_val_batches=None if config.validation else 0,
            use_distributed_sampler=False,
            sync_batchnorm=config.sync_norms,
        )
        model.train()
        if config.channels_last:
            to_channels_last(model)
        with _interruptible(recorder, trainer.world_size), failures():
            resumed = folder.checkpoint if checkpoint is not None else None
            trainer.fit(work.module, datamodule=work.feed, ckpt_path=resumed)
    return work.module.history


def _trainer(**settings: Any) -> pl.Trainer:
    try:
        return pl.Trainer(**settings)
    except (MisconfigurationException, ValueError) as error:  # more GPUs than there are, say
        raise SettingError(f"{first_line(error)} (devices={settings['devices']}); ask for what is there") from error


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
