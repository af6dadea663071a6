"""Check the callbacks and the strategy that a user gives: a run must stay exactly resumable with them."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

from lightning.pytorch.callbacks import (
    BatchSizeFinder,
    Callback,
    GradientAccumulationScheduler,
    LearningRateFinder,
    ProgressBar,
    StochasticWeightAveraging,
    WeightAveraging,
)
from lightning.pytorch.strategies import DDPStrategy, SingleDeviceStrategy, Strategy

from leanconv.core.errors import LeanconvWarning, SettingError
from leanconv.train.checkpoint import object_in

# A setting of the run does the same as each of these callbacks, and is checked, saved and resumed exactly
SETTING_OF: dict[type[Callback], str] = {
    WeightAveraging: "ema",
    StochasticWeightAveraging: "ema",
    GradientAccumulationScheduler: "accumulate",
    BatchSizeFinder: "batch_size",
    LearningRateFinder: "lr",
}
DIVIDED = "for divided weights (FSDP2) write a loop of your own with leanconv.train.fsdp.shard_"
STRATEGIES = ("auto", "ddp", "ddp_find_unused_parameters_false", "ddp_find_unused_parameters_true")


def check_callbacks(callbacks: Iterable[Any]) -> tuple[Callback, ...]:
    """The callbacks, if a run can have them.

    Args:
        callbacks: callbacks of Lightning.

    Raises:
        SettingError: an entry is not a callback of Lightning, or does what a setting does; the states of two callbacks have
            the same name in last.ckpt; or a state holds more than tensors and plain values.

    >>> check_callbacks([])
    ()
    """
    found = tuple(callbacks)
    states: set[str] = set()
    for callback in found:
        if not isinstance(callback, Callback):
            raise SettingError(f"callbacks={callback!r}: must be a lightning.pytorch.Callback")
        name = type(callback).__name__
        for kind, setting in SETTING_OF.items():
            if isinstance(callback, kind):
                raise SettingError(
                    f"callbacks: {name} changes {setting}; leave it out, and set {setting} in the config"
                )
        state = callback.state_dict()
        if state and callback.state_key in states:
            raise SettingError(
                f"callbacks: two states have the name {callback.state_key!r}; give one {name} another state_key"
            )
        states.add(callback.state_key)
        refuse_objects({callback.state_key: state})
    if sum(isinstance(callback, ProgressBar) for callback in found) > 1:
        raise SettingError("callbacks: a run shows one progress bar; leave the others out")
    return found


def refuse_objects(states: Mapping[str, Any]) -> None:
    """Raise SettingError if a callback's state holds something that last.ckpt cannot hold.

    >>> refuse_objects({"Timer": {"seconds": 1.5}})
    """
    for name, state in states.items():
        found = object_in(state)
        if found is not None:
            raise SettingError(
                f"callbacks: the state of {name} holds a value of type {found}, and last.ckpt holds tensors and plain values "
                "only; return numbers, texts, lists and dicts from state_dict"
            )


def check_same_callbacks(states: Mapping[str, Any], callbacks: Iterable[Callback]) -> None:
    """Warn about states in a checkpoint that belong to no callback of this run."""
    import warnings

    lost = sorted(set(states) - {callback.state_key for callback in callbacks})
    if lost:
        text = f"last.ckpt holds the state of {', '.join(lost)}, but this run has no such callback; pass the same callbacks"
        warnings.warn(text, LeanconvWarning, stacklevel=3)


def check_strategy(strategy: str | Strategy | None) -> str | Strategy:
    """The strategy for Lightning; "auto" for None.

    Raises:
        SettingError: the strategy splits weights over processes, which breaks shared weights and cannot be saved in
            last.ckpt; or it starts processes that do not return the history.

    >>> check_strategy(None), check_strategy("ddp")
    ('auto', 'ddp')
    """
    if strategy is None:
        return "auto"
    names = ", ".join(STRATEGIES)
    if isinstance(strategy, str):
        if strategy not in STRATEGIES:
            why = f"each process needs all weights, and last.ckpt holds them whole; {DIVIDED}"
            raise SettingError(f"strategy={strategy!r} must be one of {names}: {why}")
    elif not isinstance(strategy, SingleDeviceStrategy | DDPStrategy):
        kind = type(strategy).__name__
        raise SettingError(
            f"strategy={kind}(...) must be a DDPStrategy or a SingleDeviceStrategy, or one of {names}; {DIVIDED}"
        )
    elif getattr(strategy, "_start_method", "popen") not in (None, "popen"):
        raise SettingError(
            "strategy: DDPStrategy must start processes by start_method='popen'; others lose the history"
        )
    return strategy
