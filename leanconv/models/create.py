"""Build networks by name: leanconv's own, timm's and torchvision's."""

from __future__ import annotations

import difflib
import inspect
import os
from collections.abc import Callable, Mapping
from functools import partial
from typing import Any

from torch import nn

from leanconv.conversion.channel_plan import apply_channels_, channel_plans
from leanconv.core.calls import parse_call
from leanconv.core.errors import FileError, LeanconvError, SettingError
from leanconv.core.meta import built_on_meta
from leanconv.core.notes import get_base, set_base
from leanconv.models import bases, fast_vgg, peers, shard_resnet, shard_vgg, spconv, tied
from leanconv.models.entry import ModelEntry
from leanconv.models.layers import at_least_one
from leanconv.models.resnet import resnet
from leanconv.models.task import note_published
from leanconv.models.vgg import VGG16

HE = "He et al. 2016"
BASES = "Learning Deeply Shared Filter Bases for Efficient ConvNets"


def _resnet(name: str, depths: tuple[int, ...], source: str, **settings: Any) -> ModelEntry:
    return ModelEntry(name, partial(resnet, depths), settings, source)


MODELS: tuple[ModelEntry, ...] = (
    _resnet("resnet8", (1, 1, 1), f"{HE}, one block a stage: for quick trials", shortcut="B"),
    # SPConv counts ResNet-20 with projections; He et al. and the filter bases use option A throughout
    _resnet("resnet20", (3, 3, 3), f"{HE}; option B as in SPConv", shortcut="B"),
    _resnet("resnet32", (5, 5, 5), HE, shortcut="A"),
    _resnet("resnet44", (7, 7, 7), HE, shortcut="A"),
    _resnet("resnet56", (9, 9, 9), HE, shortcut="A"),
    _resnet("resnet110", (18, 18, 18), HE, shortcut="A"),
    _resnet("resnet18_cifar", (2, 2, 2, 2), BASES, width=64, shortcut="B"),
    _resnet("resnet34_cifar", (3, 4, 6, 3), BASES, width=64, shortcut="B"),
    ModelEntry("vgg16", VGG16, {"head": "512bn"}, "Simonyan & Zisserman 2015; heads of SPConv and ShardNet"),
    *fast_vgg.ENTRIES,
    *tied.ENTRIES,
    *bases.ENTRIES,
    *shard_vgg.ENTRIES,
    *shard_resnet.ENTRIES,
    *spconv.ENTRIES,
    *peers.ENTRIES,
)
COUNTS = ("num_classes", "in_chans")  # None: the network's own
RENAMED = {"form": "places"}  # settings whose name changed; older files and command lines have the old name
_BY_NAME = {entry.name: entry for entry in MODELS}


def list_models() -> list[ModelEntry]:
    """leanconv's own networks. (`create_model` also builds ``timm/<name>`` and ``torchvision/<name>``.)

    >>> [entry.name for entry in list_models()][:3]
    ['resnet8', 'resnet20', 'resnet32']
    """
    return list(MODELS)


def parse_target(target: str) -> tuple[str, dict[str, Any]]:
    """A network's name and settings, from ``basis_resnet56(bases=2)``; the text is parsed and never evaluated.

    Raises:
        SettingError: the text is not a name, or not a name with keywords in brackets.

    >>> parse_target("basis_resnet56(bases=2)")
    ('basis_resnet56', {'bases': 2})
    """
    example = "a name, or a name with its settings by keyword: basis_resnet56(shared=16, bases=2)"
    if not isinstance(target, str):
        raise SettingError(f"a network's name is a {type(target).__name__}; write {example}")
    if "(" not in target:
        return target, {}
    call = parse_call(target, "network", example)
    return call.name, call.settings


def create_model(
    name: str, pretrained: bool = False, num_classes: int | None = None, in_chans: int | None = None, **settings: Any
) -> nn.Module:
    """Build a network by name.

    The network remembers its name and settings (`leanconv.core.notes.get_base`), so that leanconv can build it again. With
    published weights, it also notes the mean, std and image size of their training (`leanconv.get_task`).

    >>> model = create_model("resnet20", num_classes=100)
    >>> sum(parameter.numel() for parameter in model.parameters())
    278324

    Args:
        name: one of `list_models`, ``timm/<name>`` or ``torchvision/<name>``, alone or with settings as on the command line:
            ``"basis_resnet56(bases=2)"``.
        pretrained: load the published weights (timm and torchvision only). They are downloaded if they are not cached.
        num_classes: number of outputs; None keeps the network's default. With torchvision's pretrained weights, the network
            is built with their number of outputs first, and then the last linear layer is replaced.
        in_chans: channels of the image; None means 3.
        settings: passed to the builder.

    Raises:
        SettingError: the name or a setting is unknown, a setting is given twice, or the builder refuses it.
        FileError: the pretrained weights could not be loaded.
    """
    name, kwargs = _with_brackets(name, {"num_classes": num_classes, "in_chans": in_chans} | settings)
    source, slash, short = name.partition("/")
    counts = {key: kwargs[key] for key in COUNTS if key in kwargs}
    if source == "timm" and counts.get("num_classes") == 0:
        del counts["num_classes"]  # in timm, 0 means: features without a classifier
    at_least_one(**counts)
    if slash and source == "timm":
        return _timm(name, short, pretrained, kwargs)
    if slash and source == "torchvision":
        return _torchvision(name, short, pretrained, kwargs)
    if name not in _BY_NAME:
        import timm

        prefixed = [f"timm/{name}"] if timm.is_model(name) else []  # the most common mistake is a missing prefix
        raise _unknown(name, list(_BY_NAME), prefixed)
    if pretrained:
        raise SettingError(
            f"{name} has no pretrained weights; leave pretrained out, or take a timm/ or torchvision/ network"
        )
    entry = _BY_NAME[name]
    valid = tuple(inspect.signature(entry.builder).parameters)
    kwargs = {RENAMED[key] if key not in valid and RENAMED.get(key) in valid else key: kwargs[key] for key in kwargs}
    for key in kwargs:
        if key not in valid:
            raise SettingError(f"{key} is not a setting of {name}; it has {', '.join(valid)}")
    model = _build(name, False, partial(entry.builder, **(entry.settings | kwargs)))
    set_base(model, name, kwargs)
    return model


def _with_brackets(text: str, given: Mapping[str, Any]) -> tuple[str, dict[str, Any]]:
    """The name in `text`, and the settings in its brackets with those that are `given`, without counts that are None."""
    name, settings = parse_target(text)
    if "pretrained" in settings:
        raise SettingError(
            f"pretrained in {text!r} is not a setting of the network; give pretrained=True or --pretrained"
        )
    if twice := sorted(key for key in settings if given.get(key) is not None):
        raise SettingError(f"{', '.join(twice)} is given twice: in {text!r} and as an argument; give it once")
    return name, {key: value for key, value in {**given, **settings}.items() if value is not None or key not in COUNTS}


def rebuild_base(lean: nn.Module) -> nn.Module | None:
    """The dense network that `lean` was converted from, on the meta device; None if it was not built by name.

    >>> from leanconv.models.create import create_model
    >>> next(rebuild_base(create_model("resnet20")).parameters()).device
    device(type='meta')
    """
    base = get_base(lean)
    if base is None:
        return None
    model = built_on_meta(lambda: create_model(base["name"], **base["kwargs"]))
    for plan in channel_plans(lean):
        apply_channels_(model, plan)
    return model


def _timm(name: str, short: str, pretrained: bool, kwargs: dict[str, Any]) -> nn.Module:
    import timm

    if not timm.is_model(short):
        raise _unknown(name, [f"timm/{known}" for known in timm.list_models()])
    model = _build(name, pretrained, partial(timm.create_model, short, pretrained=pretrained, **kwargs))
    set_base(model, name, kwargs)
    if pretrained:
        note_published(model, "timm")
    return model


def _torchvision(name: str, short: str, pretrained: bool, kwargs: dict[str, Any]) -> nn.Module:
    from torchvision import models

    known = models.list_models(module=models)
    if short not in known:
        raise _unknown(name, [f"torchvision/{entry}" for entry in known])
    kwargs = dict(kwargs)
    if kwargs.pop("in_chans", 3) != 3:
        raise SettingError(
            f"{name} takes in_chans=3 only; use timm/{short}, which takes any, or grey images repeated to RGB"
        )
    if "weights" in kwargs:
        raise SettingError(f"weights={kwargs['weights']!r} is not a setting of {name}; use pretrained=True")
    build_kwargs = dict(kwargs)
    num_classes = build_kwargs.pop("num_classes", None) if pretrained else None
    weights = "DEFAULT" if pretrained else None
    model = _build(name, pretrained, partial(models.get_model, short, weights=weights, **build_kwargs))
    if num_classes is not None:
        _replace_last_linear_(model, name, num_classes)
    # torchvision derives these settings from the weights; without them, a network built again would differ
    derived = {
        key: getattr(model, key) for key in ("transform_input", "aux_logits", "image_size") if hasattr(model, key)
    }
    set_base(model, name, derived | kwargs)
    if pretrained:
        note_published(model, "torchvision")
    return model


def _build(name: str, pretrained: bool, builder: Callable[[], nn.Module]) -> nn.Module:
    """Run a builder; an error that it raises becomes a LeanconvError with one line."""
    try:
        return builder()
    except LeanconvError:
        raise
    except (TypeError, ValueError, AssertionError) as error:
        raise SettingError(f"{name} refuses these settings: {_one_line(error)}") from error
    except Exception as error:  # download errors have no common base class: urllib, requests and httpx differ
        if pretrained:
            raise FileError(
                f"the pretrained weights of {name} could not be loaded: {_one_line(error)}; try again online, or pretrained=False"
            ) from error
        raise SettingError(f"{name} cannot be built: {_one_line(error)}") from error


def _replace_last_linear_(model: nn.Module, name: str, num_classes: int) -> None:
    weighted = [(path, layer) for path, layer in model.named_modules() if isinstance(layer, nn.Linear | nn.Conv2d)]
    path, last = weighted[-1]
    if not isinstance(last, nn.Linear):
        raise SettingError(
            f"{name} has no linear layer at its end; with pretrained=True leave num_classes={num_classes} out"
        )
    fresh = nn.Linear(last.in_features, num_classes, bias=last.bias is not None)
    model.set_submodule(path, fresh)


def _unknown(name: str, known: list[str], first: list[str] | None = None) -> SettingError:
    if os.path.isfile(name):
        return SettingError(f"{name} is a file; give its folder")
    elsewhere = "/" in name and not name.startswith(("timm/", "torchvision/"))
    close = first or ([] if elsewhere else difflib.get_close_matches(name, known, n=4))
    hint = f"did you mean {', '.join(close)}?" if close else "try timm/<name> or torchvision/<name>."
    what = f"no folder {name}, and no network of this name" if elsewhere else f"unknown network {name!r}"
    return SettingError(f"{what}; {hint} `leanconv models` lists them")


def _one_line(error: BaseException) -> str:
    return " ".join(str(error).split()) or type(error).__name__
