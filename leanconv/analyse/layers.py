"""Layers by name, and their inputs and outputs."""

from __future__ import annotations

import difflib
from collections.abc import Iterator, Sequence
from contextlib import contextmanager

from torch import Tensor, nn

from leanconv.core.errors import SettingError
from leanconv.core.modes import input_of
from leanconv.core.operator import ConvOp


def conv_layers(model: nn.Module) -> dict[str, nn.Module]:
    """The dense and lean convolutions of `model` by name, without the convolutions inside a lean one.

    Raises:
        SettingError: the network has no convolution.

    >>> from leanconv import create_model
    >>> list(conv_layers(create_model("resnet8")))[:3]
    ['conv1', 'layer1.0.conv1', 'layer1.0.conv2']
    """
    inside = [f"{name}." for name, module in model.named_modules() if isinstance(module, ConvOp)]
    found: dict[str, nn.Module] = {
        name: module
        for name, module in model.named_modules()
        if isinstance(module, nn.Conv2d | ConvOp) and not any(name.startswith(prefix) for prefix in inside)
    }
    if not found:
        raise SettingError(f"{type(model).__name__} has no convolution to look at")
    return found


def block_layers(model: nn.Module) -> list[str]:
    """The blocks of the stages that `model` names in ``feature_info``, in order; [] if stages do not consist of blocks.

    The output of a block holds all its convolutions. A tied bottleneck has one 3x3 for each split; a block of it compares with
    a block of the dense network, and one split does not.

    >>> from leanconv import create_model
    >>> block_layers(create_model("resnet8"))
    ['layer1.0', 'layer2.0', 'layer3.0']
    """
    modules, found = dict(model.named_modules()), []
    for info in getattr(model, "feature_info", None) or ():
        stage = info.get("module", "") if isinstance(info, dict) else ""
        for name, child in modules[stage].named_children() if isinstance(modules.get(stage), nn.Sequential) else ():
            inside = [m for m in child.modules() if isinstance(m, nn.Conv2d | ConvOp)]
            if inside and inside[0] is not child:
                found.append(f"{stage}.{name}")
    return found


def layer_of(model: nn.Module, name: str) -> nn.Module:
    """The module with the name `name`.

    Raises:
        SettingError: there is no such module; the message lists similar names, or all convolutions.
    """
    modules = dict(model.named_modules())
    if name in modules:
        return modules[name]
    close = difflib.get_close_matches(name, modules, n=5) or list(conv_layers(model))
    raise SettingError(f"no layer {name!r}; valid are, among others, {', '.join(close)}")


def chosen(model: nn.Module, layers: Sequence[str], most: int, blocks: bool = False) -> list[str]:
    """The given layers; without any, at most `most` convolutions of the network, evenly spread.

    Args:
        blocks: choose among `block_layers`, where the network has blocks.

    Raises:
        SettingError: there is no such layer, or no convolution.
    """
    if layers:
        for name in layers:
            layer_of(model, name)
        return list(layers)
    convs = conv_layers(model)
    inner = [name for name in convs if "shortcut" not in name and "downsample" not in name]
    names = (block_layers(model) if blocks else []) or inner
    if len(names) <= most:
        return names
    return [names[round(i * (len(names) - 1) / (most - 1))] for i in range(most)]


@contextmanager
def outputs_of(model: nn.Module, name: str, inputs: bool = False) -> Iterator[list[Tensor]]:
    """A list of the outputs of the layer `name`, or of its inputs: one for each call while the block runs."""
    seen: list[Tensor] = []

    def keep(module: nn.Module, args: tuple[Tensor, ...], named: dict[str, Tensor], output: Tensor) -> Tensor | None:
        seen.append(input_of(args, named).clone() if inputs else output)
        # the network continues with a copy: an activation in place would change the kept tensor
        return output.clone() if not inputs and isinstance(output, Tensor) else None

    handle = layer_of(model, name).register_forward_hook(keep, with_kwargs=True)
    try:
        yield seen
    finally:
        handle.remove()


def use_of(seen: list[Tensor], name: str, use: int) -> Tensor:
    """The tensor that `outputs_of` kept for one use of a layer.

    Raises:
        SettingError: the layer has no such use, or the tensor is no feature map (N, C, H, W).
    """
    if not -len(seen) <= use < len(seen):
        many = f"is used {len(seen)} times, so that use= goes from 0 to {len(seen) - 1}" if seen else "is not used"
        raise SettingError(f"use={use}: layer {name!r} {many}")
    output = seen[use]
    if not isinstance(output, Tensor) or output.ndim != 4:
        raise SettingError(f"layer {name!r} returns no feature maps (N, C, H, W); name a convolution")
    return output
