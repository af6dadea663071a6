"""The convolutions of a model: which may be replaced, and where each stands."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from torch import Tensor, nn

from leanconv.conversion.faults import fault, spec_of
from leanconv.conversion.globs import Names
from leanconv.conversion.readers import Reads, holders
from leanconv.core.copying import refuse_lazy
from leanconv.core.errors import SettingError
from leanconv.core.meta import InputSize, dry_run
from leanconv.core.method import OtherLayer, Site, Skipped
from leanconv.core.operator import ConvOp
from leanconv.core.spec import Pair


@dataclass(frozen=True, slots=True)
class Run:
    """What one forward pass shows.

    Args:
        sizes: the output's (height, width) of each convolution, once for each call, in the order of the first calls.
        read: the convolutions whose weight the network also uses outside of them.
    """

    sizes: dict[str, list[Pair]]
    read: set[str]


def find_sites(
    model: nn.Module,
    names: Names,
    input_size: InputSize | None,
    asked: bool,
    stages: Mapping[str, int],
    subclasses: tuple[type, ...],
) -> tuple[list[Site], list[Skipped]]:
    """The convolutions that may be replaced, in the order a forward pass first calls them, and those that may not.

    Parts of leanconv's own operators are neither.

    Args:
        asked: whether the caller named `input_size`; where it only is the model's default, a model that does not run
            on it is planned without sizes.
        stages: ``{glob: number}`` in place of the stages found.
        subclasses: subclasses of ``nn.Conv2d`` that may be replaced too.

    Raises:
        SettingError: the model has no 2-d convolution, a layer is lazy, or it does not run on `input_size`.
    """
    refuse_lazy(model)
    ours = parts_of_operators(model)
    convs, kept = {}, []
    for name, module in model.named_modules():
        if id(module) in ours:
            continue
        if isinstance(module, nn.Conv2d):
            convs[name] = module
        elif "Conv" in kind_of(module) and not list(module.children()):
            weights = sum(parameter.numel() for parameter in module.parameters())
            kept.append(Skipped(OtherLayer(name, kind_of(module), weights), "only nn.Conv2d converts"))
    if not convs:
        raise SettingError(_nothing(model, kept))
    run: Run | None = None
    if input_size is not None:
        try:
            run = _run(model, list(convs), input_size)
        except SettingError:
            if asked:
                raise
    sizes, read = (run.sizes, run.read) if run else ({}, set())
    areas = sorted({h * w for calls in sizes.values() for h, w in calls}, reverse=True)
    shared = holders(model)
    compiled = [f"{name}." for name, module in model.named_modules() if "_orig_mod" in module._modules]
    sites: list[Site] = []
    for name, conv in convs.items():
        spec = spec_of(conv)
        if isinstance(spec, str):
            weights = sum(parameter.numel() for parameter in conv.parameters(recurse=False))
            kept.append(Skipped(OtherLayer(name, kind_of(conv), weights), fault(conv) or spec))
            continue
        calls = sizes.get(name, [])
        stage = areas.index(calls[0][0] * calls[0][1]) if calls else None
        for glob, number in stages.items():
            if names.matches(name, glob):
                stage = number
        site = Site(name, spec, stage, tuple(calls))
        reason = fault(conv)
        others = sorted(shared.get(id(conv), ()))
        if reason is None and type(conv) is not nn.Conv2d and type(conv) not in subclasses:
            reason = f"{type(conv).__name__} is a subclass of Conv2d; opt in with subclasses="
        if reason is None and any(name.startswith(prefix) for prefix in compiled):
            reason = "it runs inside torch.compile; convert first, and compile afterwards"
        if reason is None and others:
            reason = f"it shares a parameter with {others[0]!r}; converting it would undo that"
        if reason is None and name in read:
            reason = "the network also computes with its weight or bias outside of it; converting it would undo that"
        if reason is None and run is not None and not calls:
            reason = "a forward pass in eval mode never calls it"
        if reason is None:
            sites.append(site)
        else:
            kept.append(Skipped(site, reason))
    if run:
        order = {name: position for position, name in enumerate(sizes)}
        sites.sort(key=lambda site: order[site.name])
    return sites, kept


def parts_of_operators(model: nn.Module) -> set[int]:
    """The ids of leanconv's own operators and of what they are made of."""
    return {id(part) for module in model.modules() if isinstance(module, ConvOp) for part in module.modules()}


def kind_of(module: nn.Module) -> str:
    """The class of a layer; of a scripted one, that of the layer it was scripted from."""
    return str(getattr(module, "original_name", "")) or type(module).__name__


def _nothing(model: nn.Module, others: list[Skipped]) -> str:
    """Why a model without a 2-d convolution cannot be planned."""
    said = f"{kind_of(model)} has no nn.Conv2d to convert"
    if any(isinstance(module, ConvOp) for module in model.modules()):
        return f"{said} beside leanconv's own operators; it is lean already"
    if any(hasattr(module, "original_name") for module in model.modules()):
        return f"{said}: it is scripted; convert the network first, and script it afterwards"
    if not others:
        return f"{said}, and no other convolution"
    found = ", ".join(f"{item.site.name!r} is a {item.site.spec}" for item in others[:3])
    return f"{said}: {found}{', ...' if len(others) > 3 else ''}; only 2-d convolutions convert"


def _run(model: nn.Module, names: list[str], input_size: InputSize) -> Run:
    """What a forward pass on one image shows of the named convolutions."""

    def run(twin: nn.Module, images: Tensor) -> Run:
        sizes: dict[str, list[Pair]] = {}
        convs = {name: twin.get_submodule(name) for name in names}
        reads = Reads(convs, {name: model.get_submodule(name) for name in names})
        for name, conv in convs.items():

            def record(module: nn.Module, args: Any, output: Tensor, name: str = name) -> None:
                sizes.setdefault(name, []).append((output.shape[-2], output.shape[-1]))

            conv.register_forward_hook(record)
        with reads:
            twin(images)
        return Run(sizes, reads.found)

    return dry_run(model, input_size, run)
