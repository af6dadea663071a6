"""A network by name or by folder: ``resnet20``, ``basis_resnet56(bases=2)``, ``timm/resnet50``, ``runs/split``."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from torch import nn

from leanconv.core.calls import parse_call
from leanconv.core.errors import SettingError
from leanconv.core.meta import built_on_meta
from leanconv.files.load import load
from leanconv.models import create_model


def is_saved(target: str) -> bool:
    """Whether `target` is a folder rather than a name."""
    return Path(target).expanduser().is_dir()


def parse_target(target: str) -> tuple[str, dict[str, Any]]:
    """A network's name and settings, from ``basis_resnet56(bases=2)``; read as syntax and never evaluated.

    Raises:
        SettingError: not a name, or a name with keywords in brackets.
    """
    if "(" not in target:
        return target, {}
    example = "a name, or a name with its settings by keyword: basis_resnet56(shared=16, bases=2)"
    call = parse_call(target, "network", example)
    return call.name, call.settings


def open_target(
    target: str, *, pretrained: bool = False, num_classes: int | None = None, in_chans: int | None = None
) -> nn.Module:
    """A network by name, with settings in brackets or without, or the one saved in a folder.

    Raises:
        SettingError: an unknown name or setting, or a folder together with a setting that only building takes.
        FileError: the folder holds no network of leanconv's.
    """
    if not is_saved(target):
        name, settings = parse_target(target)
        given = {"num_classes": num_classes, "in_chans": in_chans}
        settings = {key: value for key, value in given.items() if value is not None} | settings
        return create_model(name, pretrained, **settings)
    if pretrained:
        raise SettingError(f"--pretrained is for networks by name; {target} is a folder and brings its weights")
    return load(Path(target).expanduser())


def open_without_weights(target: str) -> nn.Module:
    """The same on the meta device, where nothing is allocated or computed."""
    return open_target(target) if is_saved(target) else built_on_meta(lambda: open_target(target))
