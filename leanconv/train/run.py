"""Train a network, from the first step or from the step where a run was stopped."""

from __future__ import annotations

import os
import warnings
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from functools import partial
from statistics import median
from typing import TYPE_CHECKING, Any

import torch
from torch import nn

from leanconv.core.atomic import write_json
from leanconv.core.errors import LeanconvWarning, SettingError
from leanconv.core.layout import best_layout
from leanconv.core.notes import get_task
from leanconv.core.processes import devices_of, leads, started
from leanconv.data import ImageData
from leanconv.train.caller import undisturbed
from leanconv.train.checkpoint import written
from leanconv.train.config import RunConfig, TrainConfig
from leanconv.train.folder import TEACHER, RunFolder
from leanconv.train.loggers import check_loggers
from leanconv.train.optimizers import check_parameters
from leanconv.train.prepared import image_size_of, note_training

if TYPE_CHECKING:
    from lightning.pytorch import Callback
    from lightning.pytorch.loggers import Logger
    from lightning.pytorch.strategies import Strategy

    from leanconv.train.distill import Distillation
    from leanconv.train.loop import Work


@dataclass(frozen=True)
class FitResult:
    """The result of a run.

    Args:
        epochs: the number of trained epochs.
        train_seconds: wall time of all epochs with their validation.
        images_per_s: training images in a second, without validation; the median over the epochs.
        val_top1_pct: validation accuracy of the kept weights, in percent; None without a validation part.
        best_epoch: the (first) epoch with the highest validation accuracy; None without a validation part.
        history: one record for each epoch, as in metrics.jsonl.
    """

    epochs: int
    train_seconds: float
    images_per_s: float
    val_top1_pct: float | None
    best_epoch: int | None
    history: list[dict[str, Any]]

    @classmethod
    def of(cls, history: list[dict[str, Any]], select: str) -> FitResult:
        """The result of a run with this history, whose weights are those of the "last" or the "best" epoch."""
        seconds = sum(record["seconds"] for record in history)
        best = max(history, key=lambda record: record["val_top1_pct"]) if "val_top1_pct" in history[-1] else None
        kept = best if select == "best" else history[-1]
        return cls(
            epochs=len(history),
            train_seconds=seconds,
            images_per_s=median(record["images_per_s"] for record in history),
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
    devices: int | str | None = None,
    callbacks: Sequence[Callback] = (),
    logger: str | Logger | Sequence[str | Logger] | None = None,
    strategy: str | Strategy | None = None,
    request: Mapping[str, Any] | None = None,
    teacher: nn.Module | None = None,
) -> FitResult:
    """Train `model` in place on the train part of `data`; the test part is never read.

    Afterwards `model` holds the weights of the last epoch, or of the best epoch for select="best"; they are averaged if `ema`
    is set. If a task is noted on it, this task then says how its images were prepared here. Random states and torch's switches
    are restored. The same seed gives the same weights on the same machine; on a GPU up to the order of its sums.

    Args:
        model: the network; it is changed.
        data: the data set.
        config: the settings of the run.
        out: the run's folder: config.yaml, env.json, metrics.jsonl (one record for each epoch), last.ckpt, summary.json.
        resume: continue the run in `out` exactly as if it had not stopped; start a run if there is none.
        progress: show the progress on standard error.
        accelerator, devices: as Lightning takes them. If torchrun or srun started several processes, these train together, and
            another number is refused; otherwise one process trains unless `devices` is larger.
        callbacks: your own Lightning callbacks. In each hook they run first, in their order, then the run's own callbacks.
            Only EarlyStopping and ModelCheckpoint run after the epoch's record. All run before last.ckpt is written, which
            holds their states for a resume. They may monitor every number of metrics.jsonl except the times. If a callback
            (EarlyStopping, Timer) ends the run, the run stops at the end of the epoch and is then finished.
        logger: "tensorboard", "csv", "wandb", a Lightning Logger, or several. They get each record of metrics.jsonl, and
            `train_loss_step` and `lr_step` every 20 steps, over the number of the step; see `open_loggers`.
        strategy: a name or an object of Lightning in which each process has all weights: "ddp",
            "ddp_find_unused_parameters_true" for a network with parts that get no gradient, DDPStrategy(...).
        request: further entries of config.yaml; see `RunFolder.open`.
        teacher: a trained network from which `model` learns, as the settings that begin with `distill` say; see
            `leanconv.train.distill`. It is not changed, and no file holds it; config.yaml holds a hash of its weights.

    Raises:
        SettingError: `out` holds a run and `resume` is not set, or this run has other settings or classes; `devices`
            contradicts the launcher; a setting names a parameter that does not exist; a run cannot have a callback, logger
            or strategy; `model` and `data`, or `teacher` and `data`, have classes of different names (classes in another
            order are accepted); `data` has one class and there is no teacher; or a setting is for a teacher, and there is none.
        FileError: the checkpoint cannot be read or belongs to another network.
        RunError: the loss or a weight is no longer finite, a file cannot be written, a process that decodes images was
            killed, or memory ran out; last.ckpt is then the last complete checkpoint.
        KeyboardInterrupt: after Ctrl-C; `resume` then continues from the step where the run stopped.
    """
    devices = check_execution(config, accelerator, devices)  # before the folder is created
    engine = checked_engine(callbacks, logger, strategy)
    check_parameters(model, config)
    if len(data.classes) == 1 and teacher is None:
        raise SettingError(
            f"{data.name} has one class, {data.classes[0]!r}, so there is nothing to learn; in a folder, the classes are the "
            "folders directly in train/"
        )
    task = get_task(model)
    if task is not None:
        data = data.for_classes(task.classes)
    with undisturbed(accelerator, alone=devices == 1 and started() is None):
        from leanconv.train.distill import distillation_for, watching
        from leanconv.train.loop import train_loop

        laid = _laid_out(config, [network for network in (model, teacher) if network is not None], data)
        distillation = distillation_for(teacher, model, data, laid)
        folder = RunFolder(out)
        taught = {} if distillation is None else {TEACHER: distillation.digest}
        checkpoint = folder.open(config, data.name, resume, data.names, request, taught)
        with watching(distillation, model):
            history = train_loop(
                model, partial(_work, model, data, laid, distillation, checkpoint is None), laid, folder, checkpoint,
                progress=progress, accelerator=accelerator, devices=devices, **engine,
            )  # fmt: skip
        if config.keeps_best:
            from leanconv.train.best import load_best

            load_best(model, folder, history)
        note_training(model, data, config)
        return concluded(folder, checkpoint, history, config.select)


def _laid_out(config: TrainConfig, networks: Sequence[nn.Module], data: ImageData) -> TrainConfig:
    """`config`, without channels_last if a network does not run in it."""
    if not config.channels_last:
        return config
    input_size = (data.channels, *image_size_of(data, config))
    if all(best_layout(network, input_size) == torch.channels_last for network in networks):
        return config
    warnings.warn(
        "the network does not run in channels_last, so it trains in the ordinary layout, which is slower; to flatten a "
        "feature map, x.flatten(1) runs in both, and x.view(...) does not",
        LeanconvWarning, stacklevel=3,
    )  # fmt: skip
    return config.replace(channels_last=False)


def check_execution(config: RunConfig, accelerator: str, devices: int | str | None) -> int | str:
    """The number of processes that train on this machine; checked before anything is written.

    Args:
        config: the settings of the run.
        accelerator, devices: as `fit` takes them.

    Raises:
        SettingError: the launcher started another number of processes, or `sync_norms` is set for processes on CPUs.
    """
    found, count = started(), devices_of(devices)
    several = found is not None or count not in (1, "1", "auto", -1, "-1")
    if config.sync_norms and several and not (accelerator != "cpu" and torch.cuda.is_available()):
        raise SettingError(
            "sync_norms=True takes statistics over several GPUs, and torch has no such norm on CPUs; leave it out"
        )
    return count


def checked_engine(callbacks: Sequence[Any], logger: Any, strategy: Any) -> dict[str, Any]:
    """The checked callbacks, loggers and strategy for `train_loop`; Lightning is imported only if one of them is given.

    Raises:
        SettingError: a run cannot have one of them.

    >>> checked_engine((), None, None)
    {'loggers': ()}
    """
    engine: dict[str, Any] = {"loggers": check_loggers(logger)}
    if callbacks or strategy is not None:
        from leanconv.train.engine import check_callbacks, check_strategy

        engine |= {"callbacks": check_callbacks(callbacks), "strategy": check_strategy(strategy)}
    return engine


def concluded(
    folder: RunFolder, checkpoint: dict[str, Any] | None, history: list[dict[str, Any]], select: str, **more: Any
) -> FitResult:
    """The result of the run in `folder`; it is written to summary.json with `more`, unless a finished run has this file.

    Args:
        folder: the run's folder.
        checkpoint: the checkpoint from which the run continued, or None.
        history: one record for each epoch.
        select: whether the kept weights are those of the "last" or the "best" epoch.
        more: further entries of summary.json.
    """
    result = FitResult.of(history, select)
    if leads() and (checkpoint is None or not folder.summary.exists()):
        said = {name: value for name, value in asdict(result).items() if name != "history"}
        with written(folder.summary):
            write_json(folder.summary, said | more)
    return result


def _work(
    model: nn.Module, data: ImageData, config: TrainConfig, distillation: Distillation | None, starts: bool
) -> Work:
    from lightning.pytorch.callbacks import WeightAveraging
    from torch.optim.swa_utils import get_ema_multi_avg_fn

    from leanconv.train.feed import Feed
    from leanconv.train.lookahead import Lookahead
    from leanconv.train.loop import Work
    from leanconv.train.module import TrainModule

    ema: Any = get_ema_multi_avg_fn  # Lightning's EMAWeightAveraging updates the parameters one by one
    averages: list[Callback] = [] if config.ema is None else [WeightAveraging(multi_avg_fn=ema(config.ema))]
    if config.lookahead is not None:
        averages.append(Lookahead(config.lookahead))
    feed = Feed(data, config)
    init = getattr(model, "init_from_images_", None)
    if init is not None and starts:  # a checkpoint holds what the images decided
        init(feed.first_images())
    return Work(TrainModule(model, config, len(data.classes), distillation), feed, tuple(averages))
