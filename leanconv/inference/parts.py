"""Rewrite a network of which only parts can be traced: its largest traceable modules are rewritten, the rest is kept."""

from __future__ import annotations

import warnings
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor, nn

from leanconv.conversion.apply import swap
from leanconv.core.errors import LeanconvWarning, SettingError, first_line
from leanconv.core.layout import layout_of, with_layout
from leanconv.core.operator import ConvOp
from leanconv.core.record import NotRewritten
from leanconv.inference.graph import LAYERS, Call
from leanconv.inference.rewrite import Differs, Part, mismatch, rewrite

# pixels added to height and width: no multiple of strides, one, one side only, and none
LARGER = ((33, 17), (32, 32), (33, 0), (0, 0))


@dataclass(frozen=True)
class Twins:
    """A network in the dtype of inference and in float64, with the arguments of its call.

    Args:
        base, exact: the network in the dtype of inference, and in float64.
        call, exact_call: the arguments for each; `exact_call` is None if the network does not run in float64.
        output: the output of `base`.
        truth: the output of `exact`; None if the network does not run in float64.
        other: a call with another batch and image size, of `exact`, or of `base` without `exact_call`; None if it takes none.
    """

    base: nn.Module
    exact: nn.Module
    call: Call
    exact_call: Call | None
    output: object
    truth: object | None
    other: Call | None = None


def with_other(twins: Twins, example: Tensor) -> Twins:
    """`twins` with a call of another batch and image size, because the network's code may take another way there.

    Args:
        twins: the network.
        example: the images of the first call.
    """
    network = twins.base if twins.exact_call is None else twins.exact
    for shape in _other_shapes(example.shape):
        with suppress(Exception):  # the network's own code may raise anything
            call = Call((with_layout(_like(example, shape, twins.exact_call is not None), layout_of(network)),))
            call.on(network)
            return replace(twins, other=call)
    return twins


def _other_shapes(shape: Sequence[int]) -> Iterator[list[int]]:
    """Shapes that differ in all of batch, height and width, then in some of them; of other inputs in the last sizes."""
    if not shape:
        return
    batch = [2 if size == 1 else 1 for size in shape[:1]] + [*shape[1:]]
    for start in ([*shape], batch) if len(shape) == 3 else (batch, [*shape]):  # three may be one image without a batch
        for more in LARGER if len(shape) > 2 else LARGER[-1:]:
            made = [*start[:-2], *(side + extra for side, extra in zip(start[-2:], more[-len(shape) :], strict=True))]
            if made != [*shape]:
                yield made


def _like(example: Tensor, shape: Sequence[int], exact: bool) -> Tensor:
    """Random values of this shape in the dtype of `example`; whole numbers lie between its smallest and its largest."""
    random = torch.Generator().manual_seed(0)
    if example.is_floating_point():
        return torch.randn(shape, generator=random).to(example.double() if exact else example)
    low, high = (0, 1) if example.dtype == torch.bool else (int(example.min()), int(example.max()))
    return torch.randint(low, high + 1, shape, generator=random).to(example)


@torch.no_grad()
def rewrite_parts(twins: Twins, layout: torch.memory_format, every: bool) -> tuple[list[Part], list[NotRewritten]]:
    """The largest modules that can be rewritten with equal outputs, and the modules that cannot, with the reasons.

    Args:
        twins: the network.
        layout: the memory format of feature maps.
        every: whether to try every form of a layer, which measuring needs.
    """
    parts: list[Part] = []
    left: list[NotRewritten] = []
    pending = [""]
    while pending:
        calls = _calls(twins.base, pending, twins.call)
        exact_calls = {} if twins.exact_call is None else _calls(twins.exact, pending, twins.exact_call)
        tried = twins.base if twins.exact_call is None else twins.exact
        others = {} if twins.other is None else _calls(tried, pending, twins.other)
        following: list[str] = []
        for name in pending:
            module, call = twins.base.get_submodule(name), calls.get(name)
            try:
                if call is None:
                    raise SettingError("it is not called, or not in one way")
                exact = twins.exact.get_submodule(name)
                parts.append(rewrite(name, module, exact, call, exact_calls.get(name), others.get(name), layout, every))
            except Exception as error:  # after any error, the unchanged module is still right
                left.append(NotRewritten(name, first_line(error)))
                if not isinstance(error, SettingError):
                    _say(name, error)
                following += [f"{name}.{child}" if name else child for child in _worth(module)]
        pending = following
    return parts, left


def _worth(module: nn.Module) -> Iterable[str]:
    """The modules in `module` that contain something to rewrite."""
    for name, child in module.named_children():
        if isinstance(child, ConvOp) or (
            not isinstance(child, LAYERS) and any(isinstance(inside, LAYERS) for inside in child.modules())
        ):
            yield name


def _calls(network: nn.Module, names: list[str], call: Call) -> dict[str, Call]:
    """The arguments of these modules in a call of the network, without modules that are called in several ways."""
    found: dict[str, Call | None] = {}

    def note(name: str, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
        here = Call(args, kwargs)
        if name not in found:
            found[name] = here.copied()
        elif (first := found[name]) is not None and not here.same_pattern(first):
            found[name] = None

    handles = [
        network.get_submodule(name).register_forward_pre_hook(
            lambda _, args, kwargs, name=name: note(name, args, kwargs),
            with_kwargs=True,
        )
        for name in names
    ]
    try:
        call.on(network)
    finally:
        for handle in handles:
            handle.remove()
    return {name: own for name, own in found.items() if own is not None}


@torch.no_grad()
def assemble(
    network: nn.Module, parts: list[Part], twins: Twins, forms: Mapping[str, str] | None = None
) -> tuple[nn.Module, list[Part], list[NotRewritten]]:
    """`network` with its rewritten parts, without the parts that would change its outputs.

    Args:
        network: the network of `twins` or a copy; it is changed.
        parts: the rewritten modules.
        twins: the outputs to compare with.
        forms: forms of some layers, by the layers' names in the network, in place of the chosen forms.

    Returns:
        the network, the parts in it, and the modules that were put back, with the reasons.
    """
    made: dict[str, nn.Module] = {part.name: part.built(forms) for part in parts}
    if [*made] == [""]:
        reason = _reason(made[""], twins)
        return (made[""], parts, []) if reason is None else (network, [], [NotRewritten("", reason)])
    before = {part.name: network.get_submodule(part.name) for part in parts}
    # by id, because the network's own code may call a module from a plain list, where its name does not lead
    swap(network, {id(before[name]): module for name, module in made.items()})
    if not parts or _reason(network, twins) is None:
        return network, parts, []
    swap(network, {id(made[name]): module for name, module in before.items()})
    kept, left = [], []
    for part in parts:  # add the parts one by one, to find the wrong parts
        swap(network, {id(before[part.name]): made[part.name]})
        reason = _reason(network, twins)
        if reason is None:
            kept.append(part)
        else:
            swap(network, {id(made[part.name]): before[part.name]})
            left.append(NotRewritten(part.name, reason))
            _say(part.name, Differs(reason))
    return network, kept, left


def _reason(network: nn.Module, twins: Twins) -> str | None:
    """Why `network` differs from the network of `twins`; None if it gives equal outputs."""
    try:
        found = twins.call.on(network)
    except Exception as error:  # its own code may read an attribute that a rewritten module lacks
        return first_line(error)
    return mismatch(found, twins.output, twins.truth, twins.base)


def _say(name: str, error: Exception) -> None:
    what = f"the module {name!r}" if name else "the network"
    warnings.warn(
        f"{what} stays unchanged, because it gives other outputs after rewriting ({first_line(error)})",
        LeanconvWarning,
        stacklevel=2,
    )
