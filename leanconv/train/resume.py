"""Check that a checkpoint belongs to the current run: every entry is checked before any entry is used."""

from __future__ import annotations

import math
from collections.abc import Container, Iterator, Mapping
from pathlib import Path
from typing import Any, TypeGuard

import torch
from torch import Tensor, nn

from leanconv.core.errors import FileError
from leanconv.train.base import RunModule
from leanconv.train.checkpoint import BATCHES
from leanconv.train.config import RunConfig
from leanconv.train.memory import NAMES as MEMORY
from leanconv.train.optimizers import LR_FACTOR, state_of

EXECUTION = (
    "lr",
    "foreach",
    "fused",
    "capturable",
)  # of a parameter group: set in each step, or only how it is computed
FILLED_IN = ("nesterov", "maximize", "foreach", "differentiable", "fused")  # torch's SGD adds these if they are missing
AVERAGED = ("current_model_state", "averaging_state")


class Unfit(Exception):
    """An entry of a checkpoint is not what the run needs."""


def check_network(model: nn.Module, checkpoint: Mapping[str, Any], config: RunConfig, path: Path) -> None:
    """Check what a finished run needs: the weights of `model`, and the records of its epochs.

    Args:
        model: the network.
        checkpoint: the content of last.ckpt.
        config: the settings of the run.
        path: the file, for the error.

    Raises:
        FileError: the weights belong to another network, or an entry is not what the run writes.
    """
    try:
        _weights(model, checkpoint.get("state_dict"), "state_dict")
        _history(checkpoint["progress"].get("history"), config)
        ended = checkpoint["progress"].get("ended", False)  # missing in files of earlier versions
        _need(isinstance(ended, bool), f"progress.ended is {ended!r} and no truth value")
    except Unfit as error:
        raise _refusal(path, error) from None


def check_weights(model: nn.Module, weights: Mapping[str, Tensor], path: Path) -> None:
    """Check that `weights` fit `model`: names, shapes, dtypes and finite values.

    Args:
        model: the network.
        weights: tensors by name.
        path: the file, for the error.

    Raises:
        FileError: the weights do not fit.
    """
    own = {name for name, value in model.state_dict().items() if isinstance(value, Tensor)}
    try:
        _weights(model, {f"model.{name}": value for name, value in weights.items()}, "weights", only=own)
    except Unfit as error:
        raise _refusal(path, error) from None


def check_resumable(module: RunModule, checkpoint: Mapping[str, Any], config: RunConfig, path: Path) -> None:
    """Check what the remaining steps need: optimiser, averaged weights, counts of steps and epochs, and sums.

    Args:
        module: the network with its steps.
        checkpoint: the content of last.ckpt.
        config: the settings of the run.
        path: the file, for the error.

    Raises:
        FileError: an entry is not what the run writes.
    """
    try:
        _counts(checkpoint)
        _optimizer(module, checkpoint)
        _averages(module.model, checkpoint, averaged=config.averages)
        _progress(module, checkpoint["progress"])
    except Unfit as error:
        raise _refusal(path, error) from None


def _refusal(path: Path, error: Unfit) -> FileError:
    return FileError(f"{path}: {error}; delete it to start again, restore a copy, or choose another folder")


def _need(fits: bool, text: str) -> None:
    if not fits:
        raise Unfit(text)


def _kind(value: Any) -> str:
    if isinstance(value, Tensor):
        return f"{tuple(value.shape)}" if value.dtype == torch.float32 else f"{tuple(value.shape)} of {value.dtype}"
    return "missing" if value is None else type(value).__name__


def _same_kind(found: Any, own: Tensor) -> bool:
    return isinstance(found, Tensor) and (found.shape, found.dtype, found.layout) == (own.shape, own.dtype, own.layout)


def _finite(value: Tensor) -> bool:
    return not value.is_floating_point() or bool(value.isfinite().all())


def _weights(model: nn.Module, found: Any, entry: str, only: Container[str] | None = None) -> None:
    _need(isinstance(found, dict) and all(isinstance(name, str) for name in found), f"{entry} holds no weights")
    state = model.state_dict().items()
    own = {f"model.{name}": value for name, value in state if only is None or name in only}
    for name in {**own, **found}:
        short, mine, there = name.removeprefix("model."), own.get(name), found.get(name)
        fits = _same_kind(there, mine) if isinstance(mine, Tensor) else name in own and name in found
        _need(fits, f"written with another network ({short} is {_kind(there)} in it and {_kind(mine)} here)")
        if isinstance(mine, Tensor):  # a buffer, such as a mask, may hold an infinity from the start
            _need(_finite(there) or not _finite(mine), f"{short} of its {entry} is not finite")


def _history(history: Any, config: RunConfig) -> None:
    _need(isinstance(history, list), "progress.history is no list")
    _need(len(history) <= config.epochs, f"it has {len(history)} epochs, and the run has {config.epochs}")
    needed = ["lr", "train_loss", "seconds", "images_per_s"]
    needed += ["val_loss", "val_top1_pct"] if config.validation else []
    for number, record in enumerate(history, 1):
        place = f"progress.history, epoch {number}"
        _need(isinstance(record, dict) and _is_count(record.get("epoch"), number, number), f"{place}: no such record")
        for name in {**dict.fromkeys(needed), **record}:
            _need(_is_number(record.get(name)), f"{place}: {name} is {record.get(name)!r} and no finite number")
        same = record.keys() - {*MEMORY} == history[0].keys() - {*MEMORY}  # earlier versions did not record the memory
        _need(same, f"{place}: it has other measures than the first")


def _is_number(value: Any) -> TypeGuard[float]:
    return isinstance(value, int | float) and not isinstance(value, bool) and math.isfinite(value)


def _is_count(value: Any, least: int, most: int) -> TypeGuard[int]:
    return isinstance(value, int) and not isinstance(value, bool) and least <= value <= most


def _counts(checkpoint: Mapping[str, Any]) -> None:
    """Check the counts: Lightning counts steps and epochs in many places, and all counts follow from the step and the history."""
    step, epochs = checkpoint.get("global_step"), len(checkpoint["progress"]["history"])
    _need(_is_count(step, 1, 2**53), f"global_step is {step!r} and no count of steps")
    assert isinstance(step, int)
    found = dict(_leaves(checkpoint.get("loops"), "loops")) | {"epoch": checkpoint.get("epoch")}
    batches = f"loops.fit_loop.{BATCHES}"
    ended, taken = found.get(f"{batches}.is_last_batch"), found.get(f"{batches}.current.ready")
    _need(isinstance(ended, bool), f"{batches}.is_last_batch is {ended!r} and no truth value")
    _need(_is_count(taken, 1, step), f"{batches}.current.ready is {taken!r}, of {step} steps")
    assert isinstance(taken, int)
    _need(
        _goes_with(step - taken, epochs - 1, taken, taken)
        if ended
        else _goes_with(step - taken, epochs, taken + 1, step),
        f"{batches}.current.ready is {taken}, which does not fit {step} steps and {epochs} epochs",
    )
    begun = epochs if ended else epochs + 1
    optimizer = "loops.fit_loop.epoch_loop.automatic_optimization.optim_progress.optimizer"
    rules = {
        "epoch": (begun - 1, begun - 1),
        "loops.fit_loop.epoch_loop.state_dict._batches_that_stepped": (step - 1, step),
    }
    for part, total, current, counters in (
        (batches, step, taken, ("ready", "started", "processed", "completed")),
        (f"{optimizer}.step", step, taken, ("ready", "completed")),
        (f"{optimizer}.zero_grad", step, taken, ("ready", "started", "completed")),
        ("loops.fit_loop.epoch_progress", begun, begun, ("ready", "started", "completed")),
    ):
        for name in counters:
            late = name == "completed"  # Lightning sets it after the hooks that write checkpoints
            rules[f"{part}.total.{name}"] = (total - late, total)
            rules[f"{part}.current.{name}"] = (current - late, current)
    rules[f"{optimizer}.step.total.completed"] = (step, step)  # is the step from which a run continues
    rules |= {f"loops.fit_loop.epoch_progress.{kind}.processed": (epochs, epochs) for kind in ("total", "current")}
    for name in {**rules, **found}:
        least, most = rules.get(name, (0, 2**53))
        value = found.get(name)
        right = f"{most}" if least == most else f"from {least} to {most}"
        _need(
            _is_count(value, least, most) or (isinstance(value, bool) and name not in rules),
            f"{name} is {value!r} and not {right}",
        )


def _goes_with(steps: int, epochs: int, least: int, most: int) -> bool:
    """Whether `steps` are `epochs` whole epochs of `least` to `most` steps each."""
    if epochs <= 0:
        return steps == 0
    return steps % epochs == 0 and least <= steps // epochs <= most


def _leaves(value: Any, prefix: str) -> Iterator[tuple[str, Any]]:
    if isinstance(value, dict):
        for name, inner in value.items():
            yield from _leaves(inner, f"{prefix}.{name}")
    else:
        yield prefix, value


def _optimizer(module: RunModule, checkpoint: Mapping[str, Any]) -> None:
    states, schedulers = checkpoint.get("optimizer_states"), checkpoint.get("lr_schedulers")
    _need(schedulers == [], f"lr_schedulers is {_kind(schedulers)}, and a run has none")
    _need(
        isinstance(states, list) and len(states) == 1 and isinstance(states[0], dict),
        "optimizer_states is not one state",
    )
    assert isinstance(states, list)
    own, found = module.configure_optimizers(), states[0]
    groups, state = found.get("param_groups"), found.get("state")
    _need(isinstance(groups, list) and all(isinstance(group, dict) for group in groups), "the optimizer has no groups")
    wanted = own.state_dict()["param_groups"]
    _need(
        len(groups) == len(wanted), f"the optimizer has {len(groups)} groups of parameters in it and {len(wanted)} here"
    )
    for number, (group, mine) in enumerate(zip(groups, wanted, strict=True)):
        for name, value in mine.items():
            here = f"{name} of the optimizer's group {number}"
            if name not in group and (name in FILLED_IN or (name == LR_FACTOR and value == 1)):
                continue
            there = group.get(name)
            if name == "lr":
                _need(_is_number(there) and there >= 0, f"{here} is {there!r} and no rate")
            elif name in EXECUTION:
                _need(there is None or isinstance(there, bool), f"{here} is {there!r} and no truth value")
            else:
                _need(type(there) is type(value) and there == value, f"{here} is {there!r} in it and {value!r} here")
    _buffers(state, own, checkpoint["global_step"], _names(module))


def _names(module: nn.Module) -> dict[int, str]:
    return {id(value): name.removeprefix("model.") for name, value in module.named_parameters()}


def _buffers(state: Any, own: torch.optim.Optimizer, steps: int, names: Mapping[int, str]) -> None:
    """Check what the optimizer keeps for each parameter; it keeps nothing for a parameter that never got a gradient."""
    parameters = [(parameter, group) for group in own.param_groups for parameter in group["params"]]
    _need(isinstance(state, dict), "the optimizer has no state")
    needed = any(group.get("momentum") != 0 for _, group in parameters)
    _need(bool(state) or not needed, "the optimizer's state is empty")
    for index, entry in state.items():
        _need(_is_count(index, 0, len(parameters) - 1), f"the optimizer's state {index!r} belongs to no parameter")
        parameter, group = parameters[index]
        name, kept = names.get(id(parameter), index), state_of(group)
        counted = {"step"} if "betas" in group else set()
        whole = f"the optimizer's {' and '.join(kept)} of {name}"
        _need(isinstance(entry, dict) and set(entry) <= {*kept, *counted}, f"{whole} is not all of its state")
        for kind in kept:
            place, buffer = f"the optimizer's {kind} of {name}", entry.get(kind)
            if buffer is None and group.get("momentum") == 0:
                continue
            wanted = parameter.detach()
            _need(_same_kind(buffer, wanted), f"{place} is {_kind(buffer)} and not {_kind(wanted)}")
            _need(_finite(buffer), f"{place} is not finite")
            _need(kind != "exp_avg_sq" or bool((buffer >= 0).all()), f"{place} has negative values")
        for kind in counted:
            found = entry.get(kind)
            fits = _same_kind(found, torch.zeros(())) and 1 <= found <= steps and float(found).is_integer()
            _need(fits, f"the optimizer's {kind} of {name} is {found!r} and no count of at most {steps} steps")


def _averages(model: nn.Module, checkpoint: Mapping[str, Any], averaged: bool) -> None:
    callbacks = checkpoint.get("callbacks")
    _need(isinstance(callbacks, dict), "callbacks is missing")
    assert isinstance(callbacks, dict)
    if not averaged:
        extra = [name for name in AVERAGED if name in checkpoint]
        _need(not extra, f"it has {' and '.join(extra)}, and the run averages no weights")
        return
    _weights(model, checkpoint.get("current_model_state"), "current_model_state")
    state = checkpoint.get("averaging_state")
    count = state.get("n_averaged") if isinstance(state, dict) and set(state) == {"n_averaged"} else None
    step = checkpoint["global_step"]
    assert isinstance(step, int)  # checked by _counts
    fits = isinstance(count, Tensor) and (count.shape, count.dtype) == ((), torch.int64) and 1 <= int(count) <= step
    _need(fits, f"averaging_state.n_averaged is {_kind(count)} and no count of at most {step} steps")
    latest = callbacks.get("WeightAveraging")
    latest = latest.get("latest_update_step") if isinstance(latest, dict) else None
    _need(_is_count(latest, 1, step), f"callbacks.WeightAveraging is at step {latest!r}, of {step} steps")


def _progress(module: RunModule, progress: Mapping[str, Any]) -> None:
    sums, seconds = progress.get("sums"), progress.get("train_seconds")
    _need(_same_kind(sums, module.sums.cpu()), f"progress.sums is {_kind(sums)} and not {_kind(module.sums)}")
    assert isinstance(sums, Tensor)
    _need(_finite(sums), "progress.sums is not finite")
    _need(_is_number(seconds) and seconds >= 0, f"progress.train_seconds is {seconds!r} and no time")
    unread = progress.get("unread", [])
    _need(
        isinstance(unread, list) and all(isinstance(line, str) for line in unread),
        "progress.unread is no list of lines",
    )
