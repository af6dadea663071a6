"""The flags that tell the task of a network that leanconv did not train: --classes, --mean, --std, --image-size, --like."""

from __future__ import annotations

from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

from leanconv.cli.train_flags import given_flags, with_flags
from leanconv.core.errors import SettingError
from leanconv.core.task_settings import TaskSettings, class_names

if TYPE_CHECKING:
    from torch import nn

with_task_flags = partial(with_flags, TaskSettings)


def given_task(settings: dict[str, Any]) -> dict[str, Any]:
    """The settings of `TaskSettings` among `settings` that were given, as values."""
    own = {name: value for name, value in settings.items() if name in TaskSettings.settings()}
    names = own.pop("classes", None)
    found = given_flags(TaskSettings, own)
    return found if names is None else {"classes": class_names(names), **found}


def check_trained(target: str, flags: str, *given: object) -> None:
    """Raise SettingError if the weights of `target` are random: a network by name, without a source of weights.

    Args:
        target: the network.
        flags: the flags that give weights, for the message.
        given: their values.

    >>> check_trained("resnet8", "--weights or ", Path("my.pth"))
    """
    from leanconv.files.target import is_saved, open_without_weights

    if is_saved(target) or any(given):
        return
    open_without_weights(target)  # a wrong name has an error of its own
    raise SettingError(f"{target} has random weights; give {flags}the folder of a trained network")


def opened(
    target: str, weights: Path | None, state: str | None, settings: dict[str, Any], *, pretrained: bool = False
) -> nn.Module:
    """The network of a verb with the weights of a checkpoint, and with the task that the flags tell."""
    from leanconv.files.weights import open_with_weights
    from leanconv.models.task import note_task

    model = open_with_weights(target, weights, state=state, pretrained=pretrained)
    told = given_task(settings)
    if told:
        note_task(model, **told)
    return model
