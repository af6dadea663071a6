"""Train a network, from the first step or from where a run was stopped."""

from __future__ import annotations

import contextlib
import os
import signal
import threading
import warnings
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from pathlib import Path
from types import FrameType
from typing import TYPE_CHECKING, Any

import torch
from torch import nn

from leanconv.core.atomic import write_json
from leanconv.core.errors import FileError
from leanconv.core.logs import only_errors
from leanconv.data import ImageData
from leanconv.train.config import TrainConfig
from leanconv.train.folder import RunFolder

if TYPE_CHECKING:
    from leanconv.train.callbacks import Recorder


@dataclass(frozen=True)
class FitResult:
    """How a run went.

    Args:
        epochs: how many it trained.
        train_seconds: wall time of all epochs with their validation.
        images_per_s: images trained on per second, validation left out; the median over the epochs.
        val_top1_pct: of the weights that were kept; None without a validation part.
        best_epoch: the (first) one with the highest validation accuracy; None without a validation part.
        history: one record an epoch, as in metrics.jsonl.
    """

    epochs: int
    train_seconds: float
    images_per_s: float
    val_top1_pct: float | None
    best_epoch: int | None
    history: list[dict[str, Any]]

    @classmethod
    def of(cls, history: list[dict[str, Any]], select: str) -> FitResult:
        seconds = sum(record["seconds"] for record in history)
        speeds = sorted(record["images_per_s"] for record in history)
        best = max(history, key=lambda record: record["val_top1_pct"]) if "val_top1_pct" in history[-1] else None
        kept = best if select == "best" else history[-1]
        return cls(
            epochs=len(history),
            train_seconds=seconds,
            images_per_s=speeds[len(speeds) // 2],
            val_top1_pct=kept["val_top1_pct"] if best and kept else None,
            best_epoch=best["epoch"] if best else None,
            history=history,
        )


def fit(
    model: nn.Module,
    data: ImageData,
    config: TrainConfig,
    out: str | os.PathLike[str],
    *,
    resume: bool = False,
    progress: bool = True,
    accelerator: str = "auto",
    devices: int | str = 1,
) -> FitResult:
    """Train `model` in place on the train part of `data`; the test part is never read.

    Afterwards `model` holds the weights of the last epoch, or of the best one for select="best", averaged if `ema` is
    set. The same seed gives the same weights on the same machine; on a GPU up to the order of its sums.

    Args:
        out: the run's folder: config.yaml, env.json, metrics.jsonl (one record an epoch), last.ckpt, summary.json.
        resume: continue the run in `out` exactly as it would have gone on; start one if there is none.
        progress: say how it goes, on standard error.
        accelerator, devices: as Lightning takes them; `torchrun` sets the number of processes.

    Raises:
        SettingError: `out` holds a run and `resume` is not set, or the run there has other settings.
        FileError: the checkpoint cannot be read or belongs to another network.
        RunError: the loss is not finite any more.
        KeyboardInterrupt: after Ctrl-C; last.ckpt then continues where it stopped.
    """
    folder = RunFolder(out)
    checkpoint = folder.open(config, data.name, resume)
    if checkpoint is not None:
        _check_fits(model, checkpoint, folder.checkpoint)
    if checkpoint is not None and len(checkpoint["progress"]["history"]) == config.epochs:
        model.load_state_dict(_weights(checkpoint))
        history = checkpoint["progress"]["history"]
    else:
        with _threads(config.threads), _quiet():
            history = _train(model, data, config, folder, checkpoint is not None, progress, accelerator, devices)
    if config.select == "best":
        from safetensors.torch import load_model

        load_model(model, folder.best)
    result = FitResult.of(history, config.select)
    if checkpoint is None or not folder.summary.exists():  # whoever tests a finished run may have added to it
        write_json(folder.summary, {name: value for name, value in asdict(result).items() if name != "history"})
    return result


def _train(
    model: nn.Module,
    data: ImageData,
    config: TrainConfig,
    folder: RunFolder,
    resume: bool,
    progress: bool,
    accelerator: str,
    devices: int | str,
) -> list[dict[str, Any]]:
    """The history of the run, all of it, once it is done."""
    import lightning.pytorch as pl
    from lightning.pytorch.callbacks import WeightAveraging
    from torch.optim.swa_utils import get_ema_multi_avg_fn

    from leanconv.train.callbacks import AtomicCheckpoints, Recorder, Selection
    from leanconv.train.feed import Feed
    from leanconv.train.gradients import GradientRecorder
    from leanconv.train.module import TrainModule
    from leanconv.train.progress import ProgressBar

    recorder = Recorder(folder)
    callbacks: list[pl.Callback] = [Selection(folder), recorder]  # their docstrings say why in this order
    if config.ema is not None:
        callbacks.insert(1, WeightAveraging(multi_avg_fn=get_ema_multi_avg_fn(config.ema)))
    if config.record_gradients:
        callbacks.append(GradientRecorder(folder))
    if progress:
        callbacks.append(ProgressBar())
    trainer = pl.Trainer(
        accelerator=accelerator,
        devices=devices,
        max_epochs=config.epochs,
        precision="bf16-mixed" if config.precision == "bf16" else "32-true",
        callbacks=callbacks,
        plugins=AtomicCheckpoints(),
        default_root_dir=folder.root,
        logger=False,
        enable_checkpointing=False,
        enable_progress_bar=False,
        enable_model_summary=False,
        num_sanity_val_steps=0,
        limit_val_batches=None if config.validation else 0,
        use_distributed_sampler=False,
    )
    model.train()
    if config.channels_last:
        model.to(memory_format=torch.channels_last)
    module = TrainModule(model, config, len(data.classes))
    with _interruptible(recorder, trainer.world_size):
        trainer.fit(module, datamodule=Feed(data, config), ckpt_path=folder.checkpoint if resume else None)
    return module.history


def _weights(checkpoint: dict[str, Any]) -> dict[str, torch.Tensor]:
    """The network's own state, averaged where the run averages."""
    return {name.removeprefix("model."): value for name, value in checkpoint["state_dict"].items()}


def _check_fits(model: nn.Module, checkpoint: dict[str, Any], path: Path) -> None:
    found = {name: tuple(value.shape) for name, value in _weights(checkpoint).items()}
    own = {name: tuple(value.shape) for name, value in model.state_dict().items()}
    for name in {**own, **found}:
        if own.get(name) != found.get(name):
            difference = f"{name} is {found.get(name, 'missing')} in it and {own.get(name, 'missing')} here"
            raise FileError(f"{path}: made with another network ({difference}); use that, or choose another folder")


@contextlib.contextmanager
def _interruptible(recorder: Recorder, processes: int) -> Iterator[None]:
    """Ctrl-C, or a polite kill, stops the recorder after the step under way; a second Ctrl-C stops at once.

    Several processes would stop at different steps and wait for each other, so there the first one stops at once.
    """
    from leanconv.train.callbacks import Interrupted

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
def _threads(count: int | None) -> Iterator[None]:
    before = torch.get_num_threads()
    torch.set_num_threads(count or before)
    try:
        yield
    finally:
        torch.set_num_threads(before)


@contextlib.contextmanager
def _quiet() -> Iterator[None]:
    """Without Lightning's notes on hardware, loaders and services; its errors stay."""
    import lightning.pytorch  # noqa: F401  # it sets its logger's level when it is first imported

    with only_errors("lightning.pytorch", "lightning.fabric"), warnings.catch_warnings():
        warnings.filterwarnings("ignore", module=r"lightning\.")
        yield
