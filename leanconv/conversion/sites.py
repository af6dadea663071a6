"""The convolutions of a model: which may be replaced, and where each stands."""

from __future__ import annotations

import fnmatch
from collections.abc import Mapping
from typing import Any

import torch
from torch import nn

from leanconv.core.errors import SettingError
from leanconv.core.meta import InputSize, example_input, on_meta, quiet_failure
from leanconv.core.method import Kept, Site
from leanconv.core.operator import ConvOp
from leanconv.core.spec import ConvSpec, Pair

Sizes = dict[str, list[Pair]]


def find_sites(
    model: nn.Module,
    input_size: InputSize | None,
    asked: bool,
    stages: Mapping[str, int],
    subclasses: tuple[type, ...],
) -> tuple[list[Site], list[Kept]]:
    """The convolutions that may be replaced, in the order a forward pass first calls them, and those that may not.

    Parts of leanconv's own operators are neither.

    Args:
        asked: whether the caller named `input_size`; where it only is the model's default, a model that does not run
            on it without weights is planned without sizes.
        stages: ``{glob: number}`` in place of the stages found.
        subclasses: subclasses of ``nn.Conv2d`` that may be replaced too.
    """
    ours = {id(part) for module in model.modules() if isinstance(module, ConvOp) for part in module.modules()}
    convs = {
        name: module
        for name, module in model.named_modules()
        if isinstance(module, nn.Conv2d) and id(module) not in ours
    }
    sizes: Sizes | None = None
    if input_size is not None and convs:
        try:
            sizes = _output_sizes(model, list(convs), input_size)
        except SettingError:
            if asked:
                raise
    areas = sorted({h * w for calls in (sizes or {}).values() for h, w in calls}, reverse=True)
    holders = _holders(model)
    sites: list[Site] = []
    kept: list[Kept] = []
    for name, conv in convs.items():
        if isinstance(conv, nn.modules.lazy.LazyModuleMixin):
            raise SettingError(f"{name!r} is lazy and has no shape yet; run the model once, then plan it")
        calls = (sizes or {}).get(name, [])
        stage = areas.index(calls[0][0] * calls[0][1]) if calls else None
        for glob, number in stages.items():
            if fnmatch.fnmatchcase(name, glob):
                stage = number
        site = Site(name, ConvSpec.of(conv), stage, tuple(calls))
        others = {other for p in conv.parameters(recurse=False) for other in holders[id(p)]} - {name}
        if type(conv) is not nn.Conv2d and type(conv) not in subclasses:
            kept.append(Kept(site, f"{type(conv).__name__} is a subclass of Conv2d; opt in with subclasses="))
        elif conv._forward_hooks or conv._forward_pre_hooks:
            kept.append(Kept(site, "it has forward hooks, which a new module would lose; remove them first"))
        elif others:
            kept.append(Kept(site, f"it shares a parameter with {min(others)!r}; converting it would undo that"))
        elif sizes is not None and not calls:
            kept.append(Kept(site, "a forward pass in eval mode never calls it"))
        else:
            sites.append(site)
    if sizes:
        order = {name: position for position, name in enumerate(sizes)}
        sites.sort(key=lambda site: order[site.name])
    return sites, kept


def _holders(model: nn.Module) -> dict[int, set[str]]:
    """The names of the modules that register each parameter, by its id."""
    holders: dict[int, set[str]] = {}
    for name, module in model.named_modules():
        for parameter in module.parameters(recurse=False):
            holders.setdefault(id(parameter), set()).add(name)
    return holders


def _output_sizes(model: nn.Module, names: list[str], input_size: InputSize) -> Sizes:
    """The output's (height, width) of each named convolution, one for each call of a forward pass without weights."""
    twin = on_meta(model)
    sizes: Sizes = {}
    for name in names:

        def record(module: nn.Module, args: Any, output: torch.Tensor, name: str = name) -> None:
            sizes.setdefault(name, []).append((output.shape[-2], output.shape[-1]))

        twin.get_submodule(name).register_forward_hook(record)
    with quiet_failure(model, input_size), torch.no_grad():
        twin(example_input(twin, input_size))
    return sizes
