"""The layers of a model: which layers may be replaced, and their output sizes."""

from __future__ import annotations

from collections.abc import Collection, Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils.hooks import RemovableHandle

from leanconv.conversion.faults import Layer, fault, spec_of
from leanconv.conversion.globs import Names
from leanconv.conversion.readers import Reads, holders
from leanconv.conversion.training import training, twice
from leanconv.core.copying import refuse_lazy
from leanconv.core.errors import SettingError
from leanconv.core.linear import LeanLinear
from leanconv.core.meta import InputSize, dry_run
from leanconv.core.method import Kind, OtherLayer, Site, Skipped
from leanconv.core.operator import ConvOp
from leanconv.core.spec import Pair

# Classes that read the weights of their linear layers and do not call the layers: class -> attribute names of the layers
READERS: dict[type[nn.Module], tuple[str, ...]] = {
    nn.MultiheadAttention: ("out_proj",),
    nn.TransformerEncoderLayer: ("linear1", "linear2"),  # on the fast path, which a plan does not run
}


@dataclass(frozen=True, slots=True)
class Run:
    """The result of one forward pass.

    Args:
        sizes: (height, width) of each layer's output maps of one image, over all calls; the layers are in the order of their
            first calls.
        read: the layers whose weight the network also uses outside of the layer.
        last: the name of the last called module that has parameters itself.
        maps: how many maps of one image each call of a layer has, such as frames in the batch.
    """

    sizes: dict[str, list[Pair]]
    read: set[str]
    last: str | None
    maps: dict[str, list[int]]


@dataclass(frozen=True, slots=True)
class Found:
    """The layers of a model.

    Args:
        sites: the layers that may be replaced, in the order of their first calls.
        kept: the layers that may not be replaced, with the reasons.
        classifier: the name of the linear layer that computes the network's output; None without such a layer.
    """

    sites: list[Site]
    kept: list[Skipped]
    classifier: str | None


def find_sites(
    model: nn.Module,
    names: Names,
    input_size: InputSize | None,
    asked: bool,
    stages: Mapping[str, int],
    subclasses: tuple[type, ...],
    kinds: Collection[Kind],
) -> Found:
    """The layers of `model` that may be replaced, and the layers that may not be replaced.

    Parts of leanconv's own operators are left out.

    Args:
        names: the names of the modules of `model`.
        input_size: (channels, height, width); None for no forward pass.
        asked: whether the caller gave `input_size`. If it is only the model's default and the model does not run on it, the
            sites have no sizes.
        stages: ``{glob: number}`` in place of the stages that a forward pass finds.
        subclasses: subclasses of ``nn.Conv2d`` and ``nn.Linear`` that may be replaced too.
        kinds: the kinds of layers: convolutions, linear layers or both.

    Raises:
        SettingError: the model has no such layer, a layer is lazy, or the model does not run on `input_size`.
    """
    refuse_lazy(model)
    layers, kept = _layers(model, kinds)
    if not layers:
        raise SettingError(_nothing(model, kept))
    run = _try_run(model, list(layers), input_size, asked)
    reasons = Reasons(model, run, subclasses)
    areas = _areas(layers, run)
    sites: list[Site] = []
    for name, layer in layers.items():
        spec = spec_of(layer)
        if isinstance(spec, str):
            kept.append(Skipped(_other(name, layer), fault(layer) or spec))
            continue
        calls, kind = run.sizes.get(name, []) if run else [], _kind(layer)
        stage = areas[kind].index(calls[0][0] * calls[0][1]) if calls else None
        for glob, number in stages.items():
            if names.matches(name, glob):
                stage = number
        maps = run.maps.get(name, []) if run else []
        several = tuple(maps) if any(count > 1 for count in maps) else ()
        site, reason = Site(name, spec, stage, tuple(calls), kind, several), reasons.of(name, layer)
        if reason is None:
            sites.append(site)
        else:
            kept.append(Skipped(site, reason))
    if run:
        order = {name: position for position, name in enumerate(run.sizes)}
        sites.sort(key=lambda site: order[site.name])
    last = run.last if run else _last(model)
    return Found(sites, kept, last if isinstance(layers.get(last or ""), nn.Linear) else None)


def _layers(model: nn.Module, kinds: Collection[Kind]) -> tuple[dict[str, Layer], list[Skipped]]:
    """The layers of these kinds by name, and similar layers of other classes, which cannot be replaced."""
    ours = parts_of_operators(model)
    layers: dict[str, Layer] = {}
    kept: list[Skipped] = []
    for name, module in model.named_modules():
        if id(module) in ours:
            continue
        if isinstance(module, Layer):
            if _kind(module) in kinds:
                layers[name] = module
            continue
        if "linear" in kinds and isinstance(module, nn.MultiheadAttention):
            kept.append(Skipped(_other(name, module), "its projections are parameters and no nn.Linear layers"))
        leaf = not list(module.children()) or type(module).__module__.startswith("torch.ao.nn.quantized")
        words = {"conv": "Conv", "linear": "Linear"}
        kind = next((kind for kind in kinds if words[kind] in kind_of(module)), None)
        if kind is not None and leaf:
            only = "only nn.Conv2d converts" if kind == "conv" else "only nn.Linear converts"
            kept.append(Skipped(_other(name, module), only))
            ours.update(id(part) for part in module.modules())  # a quantised layer keeps its weight in a submodule
    return layers, kept


def _other(name: str, module: nn.Module) -> OtherLayer:
    """The layer `module` as a layer without a spec."""
    return OtherLayer(name, kind_of(module), sum(parameter.numel() for parameter in module.parameters(recurse=False)))


def _kind(layer: nn.Module) -> Kind:
    return "linear" if isinstance(layer, nn.Linear) else "conv"


def _areas(layers: Mapping[str, Layer], run: Run | None) -> dict[Kind, list[int]]:
    """The output sizes of each kind of layer, the largest first; a stage is an index in this list."""
    found: dict[Kind, set[int]] = {"conv": set(), "linear": set()}
    for name, calls in (run.sizes if run else {}).items():
        found[_kind(layers[name])].update(h * w for h, w in calls)
    return {kind: sorted(areas, reverse=True) for kind, areas in found.items()}


class Reasons:
    """The reasons why a layer must stay dense with any method.

    Args:
        run: the result of a forward pass; None without a forward pass.
        subclasses: subclasses of ``nn.Conv2d`` and ``nn.Linear`` that may be replaced too; None for all.
    """

    def __init__(self, model: nn.Module, run: Run | None = None, subclasses: tuple[type, ...] | None = None) -> None:
        self.run = run
        self.subclasses = subclasses
        self.shared = holders(model)
        self.compiled = [f"{name}." for name, module in model.named_modules() if "_orig_mod" in module._modules]
        self.readers = dict(_read_directly(model))

    def of(self, name: str, layer: Layer) -> str | None:
        """The reason why this layer must stay dense; None if it may be replaced."""
        if id(layer) in self.readers:
            return f"nn.{self.readers[id(layer)]} computes with its weight in place of calling it"
        reason = fault(layer)
        if reason is not None:
            return reason
        base = nn.Linear if isinstance(layer, nn.Linear) else nn.Conv2d
        if self.subclasses is not None and type(layer) is not base and type(layer) not in self.subclasses:
            return f"{type(layer).__name__} is a subclass of {base.__name__}; opt in with subclasses="
        if any(name.startswith(prefix) for prefix in self.compiled):
            return "it runs inside torch.compile; convert first, and compile afterwards"
        others = sorted(self.shared.get(id(layer), ()))
        if others:
            return f"it shares a parameter with {others[0]!r}; a conversion would end the sharing"
        if self.run and name in self.run.read:
            return "the network also computes with its weight or bias outside of the layer; a conversion would not reach that use"
        if self.run and name not in self.run.sizes:
            return "a forward pass in eval mode never calls it"
        return None


def _read_directly(model: nn.Module) -> Iterator[tuple[int, str]]:
    """The ids of the layers whose weights a class of `READERS` reads, each with the name of the class."""
    for module in model.modules():
        for kind, names in READERS.items():
            if isinstance(module, kind):
                yield from ((id(getattr(module, name)), kind.__name__) for name in names)


def parts_of_operators(model: nn.Module) -> set[int]:
    """The ids of leanconv's own operators and of their submodules."""
    ours = (module for module in model.modules() if isinstance(module, ConvOp | LeanLinear))
    return {id(part) for module in ours for part in module.modules()}


def kind_of(module: nn.Module) -> str:
    """The class name of a layer; for a scripted layer, the class name of the original layer."""
    return str(getattr(module, "original_name", "")) or type(module).__name__


def _nothing(model: nn.Module, others: list[Skipped]) -> str:
    """The error text for a model without a layer that can be converted."""
    said = f"{kind_of(model)} has no nn.Conv2d to convert"
    if any(isinstance(module, ConvOp | LeanLinear) for module in model.modules()):
        return f"{said} beside leanconv's own operators; it is lean already"
    if any(hasattr(module, "original_name") for module in model.modules()):
        return f"{said}: it is scripted; convert the network first, and script it afterwards"
    linear = any(type(module) is nn.Linear for module in model.modules())
    more = '; include="linear" would convert its linear layers' if linear else ""
    if not others:
        return f"{said}, and no other convolution{more}"
    found = ", ".join(f"{item.site.name!r} is a {item.site.spec}" for item in others[:3])
    return f"{said}: {found}{', ...' if len(others) > 3 else ''}; only 2-d convolutions convert{more}"


def _last(model: nn.Module) -> str | None:
    """The name of the last registered module that has parameters itself."""
    return next((name for name, module in reversed([*model.named_modules()]) if _has_parameters(module)), None)


def _has_parameters(module: nn.Module) -> bool:
    return any(parameter is not None for parameter in module._parameters.values())


def _try_run(model: nn.Module, names: list[str], input_size: InputSize | None, asked: bool) -> Run | None:
    """The result of a forward pass; None if the size is unknown, or if the model does not run on its default size."""
    if input_size is None:
        return None
    try:
        return run_of(model, names, input_size)
    except SettingError:
        if asked:
            raise
        return None


def run_of(model: nn.Module, names: Sequence[str], input_size: InputSize) -> Run:
    """The result of a forward pass on one image, for the layers `names`; `read` also has what training mode reads."""

    def run(twin: nn.Module, images: Tensor) -> Run:
        sizes: dict[str, list[Pair]] = {}
        maps: dict[str, list[int]] = {}
        called: list[str] = []
        handles: list[RemovableHandle] = []
        layers = {name: twin.get_submodule(name) for name in names}
        reads = Reads(layers, {name: model.get_submodule(name) for name in names})
        for name, layer in layers.items():

            def record(module: nn.Module, args: Any, output: Tensor, name: str = name) -> None:
                found = _sizes(module, output, len(images))
                sizes.setdefault(name, []).extend(found)
                maps.setdefault(name, []).append(len(found))

            handles.append(layer.register_forward_hook(record))
        for name, module in twin.named_modules():
            if not isinstance(module, torch.jit.ScriptModule) and _has_parameters(module):
                handles.append(module.register_forward_pre_hook(lambda module, args, name=name: called.append(name)))
        with reads:
            twin(images)
        for handle in handles:
            handle.remove()
        with reads, suppress(Exception):  # a network need not run so, and it may raise anything
            training(twin)(twice(images))
        return Run(sizes, reads.found, called[-1] if called else None, maps)

    return dry_run(model, input_size, run)


def _sizes(layer: nn.Module, output: Tensor, images: int) -> list[Pair]:
    """(height, width) of each output map of one image, where frames may be in the batch; for a linear layer (1, positions)."""
    if isinstance(layer, nn.Linear):
        return [(1, max(1, output.numel() // (layer.out_features * images)))]
    maps = output.shape[0] // images if output.dim() == 4 else 1
    return [(output.shape[-2], output.shape[-1])] * max(1, maps)
