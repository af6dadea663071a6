"""The layers of two networks that have the same name, and what goes in and comes out of them."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

Shape = tuple[int, ...]


@dataclass
class Seen:
    """What a forward pass showed of one module; shapes are those of one image, without the first dimension.

    Args:
        calls: how often the module ran.
        inputs: the shape of its input; None if the input is not one tensor alone with a row for each image.
        output: the shape of its output; None if the output is not a tensor of floating-point numbers with a row for each image.
    """

    calls: int
    inputs: Shape | None
    output: Shape | None


@torch.no_grad()
def traced(model: nn.Module, images: Tensor) -> dict[str, Seen]:
    """What one forward pass shows of each module of `model`, by name, in the order in which the modules finish.

    The network itself has the name "" and is the last.

    Args:
        model: the network; its mode decides how it runs.
        images: a batch that it takes.

    >>> traced(nn.Sequential(nn.Conv2d(1, 2, 3), nn.ReLU()), torch.zeros(1, 1, 5, 5))["1"]
    Seen(calls=1, inputs=(2, 3, 3), output=(2, 3, 3))
    """
    found: dict[str, Seen] = {}

    def note(name: str, args: tuple[Any, ...], more: dict[str, Any], output: Any) -> None:
        calls = found.pop(name).calls if name in found else 0
        alone = args[0] if len(args) == 1 and not more else None
        found[name] = Seen(calls + 1, _of_one(alone, len(images)), _of_one(output, len(images)))

    def hook(name: str) -> Callable[..., None]:
        return lambda module, args, more, output: note(name, args, more, output)

    hooks = [module.register_forward_hook(hook(name), with_kwargs=True) for name, module in model.named_modules()]
    try:
        model(images)
    finally:
        for handle in hooks:
            handle.remove()
    return found


def _of_one(value: Any, images: int) -> Shape | None:
    """The shape of `value` for one image; None if it is no tensor of floating-point numbers with a row for each image."""
    if not isinstance(value, Tensor) or not value.is_floating_point() or value.ndim < 2 or len(value) != images:
        return None
    return tuple(value.shape[1:])


def same_outputs(student: dict[str, Seen], teacher: dict[str, Seen]) -> dict[str, Shape]:
    """The layers that ran once in both networks, with outputs of the same shape: this shape by name, in the student's order.

    >>> layers = {"conv": Seen(1, None, (4, 8, 8)), "fc": Seen(1, None, (10,))}
    >>> same_outputs(layers, layers | {"fc": Seen(1, None, (5,))})
    {'conv': (4, 8, 8)}
    """
    return {
        name: seen.output
        for name, seen in student.items()
        if name and seen.output is not None and name in teacher and seen.calls == teacher[name].calls == 1
        if seen.output == teacher[name].output
    }


@contextmanager
def outputs_of(
    model: nn.Module, names: list[str], seen: dict[str, Tensor], *, with_gradient: bool = False
) -> Iterator[None]:
    """Within the block, each forward pass of `model` puts the outputs of the layers `names` in `seen`.

    Args:
        model: the network.
        names: its layers.
        seen: gets the output of each layer, by name.
        with_gradient: only of passes that compute gradients.
    """

    def hook(name: str) -> Callable[..., None]:
        def keep(module: nn.Module, args: Any, output: Tensor) -> None:
            if torch.is_grad_enabled() or not with_gradient:
                seen[name] = output

        return keep

    hooks = [model.get_submodule(name).register_forward_hook(hook(name)) for name in names]
    try:
        yield
    finally:
        for handle in hooks:
            handle.remove()
