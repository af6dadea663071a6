"""Layers by name, and what flows through them."""

from __future__ import annotations

import difflib
from collections.abc import Iterator, Sequence
from contextlib import contextmanager

from torch import Tensor, nn

from leanconv.core.errors import SettingError
from leanconv.core.operator import ConvOp


def conv_layers(model: nn.Module) -> dict[str, nn.Module]:
    """The convolutions of `model` by name, dense and lean; what a lean one is made of does not count.

    Raises:
        SettingError: there is none.
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


def layer_of(model: nn.Module, name: str) -> nn.Module:
    """The module called `name`.

    Raises:
        SettingError: there is none; the message lists the layers nearest to it, or all convolutions.
    """
    modules = dict(model.named_modules())
    if name in modules:
        return modules[name]
    close = difflib.get_close_matches(name, modules, n=5) or list(conv_layers(model))
    raise SettingError(f"no layer {name!r}; valid are, among others, {', '.join(close)}")


def chosen(model: nn.Module, layers: Sequence[str], most: int) -> list[str]:
    """The named layers, or some of the network's convolutions, evenly spread.

    Raises:
        SettingError: there is no such layer, or no convolution.
    """
    if layers:
        for name in layers:
            layer_of(model, name)
        return list(layers)
    names = [name for name in conv_layers(model) if "shortcut" not in name and "downsample" not in name]
    if len(names) <= most:
        return names
    return [names[round(i * (len(names) - 1) / (most - 1))] for i in range(most)]


@contextmanager
def outputs_of(model: nn.Module, name: str, inputs: bool = False) -> Iterator[list[Tensor]]:
    """Collects what the layer `name` gives, or reads, once for each time that it is used, while the block runs."""
    seen: list[Tensor] = []

    def keep(module: nn.Module, args: tuple[Tensor, ...], output: Tensor) -> Tensor | None:
        seen.append(args[0].clone() if inputs else output)
        # the network goes on with a copy: an activation in place would change what was kept
        return output.clone() if not inputs and isinstance(output, Tensor) else None

    handle = layer_of(model, name).register_forward_hook(keep)
    try:
        yield seen
    finally:
        handle.remove()


def use_of(seen: list[Tensor], name: str, use: int) -> Tensor:
    """The output of one use of a layer.

    Raises:
        SettingError: the layer is not used as often, or gives no map.
    """
    if not -len(seen) <= use < len(seen):
        many = f"is used {len(seen)} times, so that use= goes from 0 to {len(seen) - 1}" if seen else "is not used"
        raise SettingError(f"use={use}: layer {name!r} {many}")
    output = seen[use]
    if not isinstance(output, Tensor) or output.ndim != 4:
        raise SettingError(f"layer {name!r} gives no maps (N, C, H, W); take a convolution")
    return output
