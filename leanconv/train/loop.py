"""A run from its first step, or from the step where it was stopped, to its last; the same for everything that is trained.

The loop is Lightning's Trainer: steps, validation, bfloat16, devices and processes, weight averaging, callbacks and
loggers. These modules add what a Trainer does not do:

- `checkpoint`, `resume`: last.ckpt is written atomically with a SHA-256 of each entry, holds no pickled objects, and every
  entry is checked before a run continues from it. Lightning loads any file without checks.
- `base`, `feed`: a run that stops within an epoch continues with the same images, random numbers, learning rate and sums, bit
  for bit. Lightning restores loops and optimisers, but not batches, seeds and partial sums. Its distributed sampler is off,
  because our loaders share the images between processes, in an order that depends on the seed and the epoch.
- `callbacks`: one record for each epoch in metrics.jsonl; a loss or a weight that is not finite ends the run with one line.
- `best`: the weights of the best epoch belong to the history in last.ckpt, even if the run was killed.
- `allocator`: the memory of a step stays with the process, which saves the system's work for each tensor.
- `placement`: the variables of torchrun and srun are followed; Lightning mistakes a batch job of Slurm for several processes.
- `progress`: one bar for the whole run, and lines if there is no terminal.
- `caller`, `failures`: `fit` restores the state of the process, and a failure of the machine becomes one line.

The model summary is off because `lc.summary` counts shared weights once, and Lightning's summary does not know the MACs of
lean layers.
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
from leanconv.core.machine import precision_of
from leanconv.core.processes import leads
from leanconv.core.state import versioned
from leanconv.core.strided import safe_strides
from leanconv.train.allocator import kept_memory
from leanconv.train.base import Record, RunModule
from leanconv.train.best import keep_best
from leanconv.train.callbacks import LOOK_EVERY, AtomicCheckpoints, Interrupted, LastCheckpoint, Recorder
from leanconv.train.checkpoint import weights_of
from leanconv.train.config import RunConfig
from leanconv.train.engine import check_same_callbacks
from leanconv.train.failures import failures
from leanconv.train.folder import RunFolder
from leanconv.train.freeze import frozen
from leanconv.train.gradients import GradientRecorder
from leanconv.train.loggers import open_loggers
from leanconv.train.placement import placement
from leanconv.train.progress import RunProgress
from leanconv.train.recompute import recomputed
from leanconv.train.resume import check_network, check_resumable

PLAIN_NORMS = (nn.BatchNorm1d, nn.BatchNorm2d, nn.BatchNorm3d)


@dataclass(frozen=True)
class Work:
    """The module to train, its data, and its callbacks.

    Args:
        module: the network with its steps.
        feed: the data.
        callbacks: callbacks before the recorder, so that a checkpoint holds their effects after the step.
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
    """Train until the run in `folder` is done, and return its whole history; `model` then holds the last weights.

    Args:
        model: the network; it is changed.
        make: creates the work; called only if there is something left to train.
        config: the settings of the run.
        folder: the run's folder.
        checkpoint: the result of ``folder.open``.
        progress: show the progress on standard error.
        accelerator, devices: as Lightning takes them.
        callbacks, loggers, strategy: as `leanconv.train.engine` and `leanconv.train.loggers` have checked them.

    Raises:
        FileError: the checkpoint belongs to another network, or holds something that the run did not write.
        SettingError: `sync_norms` is set, and torch would replace some normalisation layers wrongly; or
            `grad_checkpointing` is set, and the network has no blocks.
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
    model.train()
    with frozen(model, config.freeze):
        work = make()
        if checkpoint is not None:
            check_resumable(work.module, checkpoint, config, folder.checkpoint)
            check_same_callbacks(checkpoint.get("callbacks", {}), (*callbacks, *work.callbacks))
        torch.set_num_threads(config.threads or torch.get_num_threads())
        recorder = Recorder(folder)
        step = 0 if checkpoint is None else int(checkpoint["global_step"])
        # the signal of an ended process may raise an error while the loggers close, so `failures` is outside of them too
        with failures(), _quiet(), open_loggers(loggers, folder.root, step) as opened:
            ordered = [*callbacks, *work.callbacks, *_own_callbacks(recorder, config, callbacks, progress)]
            trainer = _trainer(
                config, folder, accelerator=accelerator, strategy=strategy, **counts, callbacks=ordered, logger=opened,
                plugins=[AtomicCheckpoints(folder, config.keeps_best), environment],
                enable_progress_bar=any(isinstance(callback, ProgressBar) for callback in ordered),
            )  # fmt: skip
            if config.channels_last:
                to_channels_last(model)
            again = recomputed(work.module.recomputes, config.grad_checkpointing)
            kept = kept_memory(trainer.strategy.root_device)
            with _interruptible(recorder, trainer.world_size), failures(), safe_strides(model), again, kept:
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
    """Load the weights of a finished run into `model`; returns its history."""
    model.load_state_dict(versioned(model, weights_of(checkpoint)))
    if leads():
        folder.write_records(_history(checkpoint))
    return _history(checkpoint)


def _trainer(config: RunConfig, folder: RunFolder, **settings: Any) -> pl.Trainer:
    precision = precision_of(config.precision, settings["accelerator"])
    try:
        return pl.Trainer(
            **settings,
            min_epochs=1,  # otherwise a callback that stops at once would leave a run without a record
            max_epochs=config.epochs,
            precision="bf16-mixed" if precision == "bf16" else "32-true",
            default_root_dir=folder.root,
            log_every_n_steps=LOOK_EVERY,
            enable_model_summary=False,
            num_sanity_val_steps=0,
            limit_val_batches=None if config.validation else 0,
            use_distributed_sampler=False,
            sync_batchnorm=config.sync_norms,
            deterministic=config.deterministic or None,
        )
    except (MisconfigurationException, ValueError) as error:  # for example more GPUs than exist
        asked = f"devices={settings['devices']}, strategy={settings['strategy']}"
        raise SettingError(f"{first_line(error)} ({asked}); ask for existing devices") from error


def _check_plain_norms(model: nn.Module) -> None:
    """Raise SettingError for subclasses of batch normalisation: torch's synchronised layers would lose their additions."""
    for name, module in model.named_modules():
        if isinstance(module, _BatchNorm) and type(module) not in PLAIN_NORMS:
            raise SettingError(f"sync_norms=True cannot replace {name!r}, a {type(module).__name__}; leave it out")


@contextlib.contextmanager
def _interruptible(recorder: Recorder, processes: int) -> Iterator[None]:
    """Let Ctrl-C, or a SIGTERM, stop the run after the current step; a second Ctrl-C stops at once.

    Several processes would stop at different steps and wait for each other, so there the first Ctrl-C stops at once.
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
    except SystemExit as error:  # Lightning turns a KeyboardInterrupt into a SystemExit
        if isinstance(error.__context__, KeyboardInterrupt):
            raise KeyboardInterrupt from None
        raise
    finally:
        if in_main:
            for number, handler in before.items():  # Lightning leaves SIGINT ignored
                signal.signal(number, handler)


@contextlib.contextmanager
def _quiet() -> Iterator[None]:
    """Silence Lightning's notes on hardware, loaders and services inside the block; its errors stay."""
    with only_errors("lightning.pytorch", "lightning.fabric"), warnings.catch_warnings():
        warnings.filterwarnings("ignore", module=r"lightning\.")
        yield
