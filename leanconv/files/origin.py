"""How the network of a checkpoint computes, where its tensors do not show it and their names do."""

from __future__ import annotations

import re
from collections.abc import Collection, Mapping
from typing import Any

from torch import nn

from leanconv.core.errors import FileError, SettingError
from leanconv.core.notes import get_base, set_base
from leanconv.files.releases import FILTER_BASES
from leanconv.models.bases import drop_transition_relus_, transitions
from leanconv.models.octave_resnet import OctaveDown
from leanconv.models.resnet import PADDINGS, pad_shortcuts

OCTAVE = re.compile(r"\.conv_[hl]2[hl]\.")
DENSE = re.compile(r"(^|\.)transition_layer_\d\.")
# The widespread code for three stages (Idelbayev's) has this name for the classifier, and no tensors in its shortcuts
THREE_STAGES = re.compile(r"^linear\.")


def hidden_settings(model: nn.Module) -> dict[str, Any]:
    """The settings of `model` that its tensors do not show, such as the padding of shortcuts; its file holds them too.

    >>> import leanconv as lc
    >>> hidden_settings(lc.create_model("resnet32"))
    {'shortcut_padding': 'end'}
    """
    found: dict[str, Any] = {}
    paddings = {shortcut.padding for _, shortcut in pad_shortcuts(model)}
    downs = {module.down for module in model.modules() if isinstance(module, OctaveDown)}
    relus = {not isinstance(getattr(norm, "act", None), nn.Identity) for norm in transitions(model)}
    for setting, values in (("shortcut_padding", paddings), ("down", downs), ("transition_relu", relus)):
        if values:
            found[setting] = next(iter(values)) if len(values) == 1 else sorted(map(str, values))
    return found


def check_padding(model: nn.Module, asked: str | None) -> None:
    """Raise SettingError if `asked` is no padding of option-A shortcuts, or if the network has no such shortcut."""
    if asked is not None and asked not in PADDINGS:
        raise SettingError(f"shortcut_padding={asked!r} must be 'end' or 'both'")
    if asked is not None and not pad_shortcuts(model):
        raise SettingError(f"shortcut_padding={asked!r}: this network has no option-A shortcut; leave it out")


def origin_of(
    model: nn.Module, names: Collection[str], noted: Mapping[str, Any], file: str, asked: str | None = None
) -> dict[str, Any]:
    """The settings with which `model` computes what the network of a checkpoint with these `names` computed.

    Args:
        model: the network to be filled.
        names: the names of the checkpoint's tensors.
        noted: PyTorch's notes on each module of the checkpoint; leanconv's own state dicts note the padding of shortcuts.
        file: the name of the file, for errors.
        asked: the padding of option-A shortcuts that the caller gives.

    Raises:
        FileError: nothing shows how shortcuts pad, or two things contradict each other.
    """
    found: dict[str, Any] = {}
    if pad_shortcuts(model):
        found["shortcut_padding"] = _padding(model, names, noted, file, asked)
    if any(OCTAVE.search(name) for name in names) and any(isinstance(m, OctaveDown) for m in model.modules()):
        found["down"] = "pool"
    if any(DENSE.search(name) for name in names) and transitions(model):
        found["transition_relu"] = False
    return found


def set_origin_(model: nn.Module, settings: Mapping[str, Any]) -> None:
    """Apply the settings that `origin_of` found to `model`, and to the record of how it is built, if it was built by name."""
    for _, shortcut in pad_shortcuts(model):
        shortcut.padding = settings["shortcut_padding"]
    if "down" in settings:
        for module in model.modules():
            if isinstance(module, OctaveDown):
                module.set_down(settings["down"])
    if not settings.get("transition_relu", True):
        drop_transition_relus_(model)
    base = get_base(model)
    if base is not None and settings:
        set_base(model, base["name"], base["kwargs"] | dict(settings))


def _padding(model: nn.Module, names: Collection[str], noted: Mapping[str, Any], file: str, asked: str | None) -> str:
    base = get_base(model)
    built = None if base is None else base["kwargs"].get("shortcut_padding")
    told = _told(model, names, noted)
    if asked is None and built is not None and told is not None and built != told:
        raise FileError(
            f"{file} was trained with shortcuts that pad at {told!r}, as its names show, and this network was built with "
            f"shortcut_padding={built!r}; leave that out, or give shortcut_padding to the load"
        )
    padding = asked or told or built
    if padding is None:
        raise FileError(
            f"{file} does not tell how its option-A shortcuts pad new channels, and the two ways differ: "
            "'both' is half of them on each side (the widespread CIFAR code, the filter bases' release), 'end' all behind "
            "(He et al.'s, leanconv's own); give shortcut_padding='both' or 'end', in the network's settings or to the load"
        )
    return str(padding)


def _told(model: nn.Module, names: Collection[str], noted: Mapping[str, Any]) -> str | None:
    """How the checkpoint's shortcuts pad, from leanconv's own notes or from the names of a release; None if unknown."""
    notes = {noted.get(name, {}).get("padding") for name, _ in pad_shortcuts(model)}
    if len(notes) == 1 and notes <= set(PADDINGS):
        return str(notes.pop())
    if set(noted) == {name for name, _ in model.named_modules()}:
        return "end"  # leanconv's own classes, module by module, from before they noted the padding
    released = any(FILTER_BASES.search(name) for name in names) or any(THREE_STAGES.search(name) for name in names)
    return "both" if released else None
