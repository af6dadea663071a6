"""The blocks of a lean network that differ from the dense network."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _NormBase

from leanconv.core.modes import evaluating
from leanconv.core.sharing import parameters_in_use
from leanconv.train.matching import Seen, Shape, traced

CONTAINERS = (nn.Sequential, nn.ModuleList, nn.ModuleDict)


@dataclass(frozen=True)
class Block:
    """A part of a network that learns on its own.

    Args:
        parts: the names of its modules, which run one after the other: a residual block, or a layer and the norm behind it.
        inputs, output: the shapes of its input and its output for one image.
    """

    parts: tuple[str, ...]
    inputs: Shape
    output: Shape

    @property
    def name(self) -> str:
        return " + ".join(self.parts)

    def modules(self, model: nn.Module) -> list[nn.Module]:
        """Its modules in `model`."""
        return [model.get_submodule(part) for part in self.parts]

    def run(self, model: nn.Module, x: Tensor) -> Tensor:
        """The output of this block of `model`."""
        for module in self.modules(model):
            x = module(x)
        return x


@torch.no_grad()
def lean_blocks(student: nn.Module, teacher: nn.Module, images: Tensor) -> list[Block]:
    """The blocks of `student` that differ from those of `teacher`, in the order in which they finish.

    A layer differs if it has another class or other shapes of weights than the layer of this name in `teacher`. Its block is the
    innermost module around it that is no plain container: the residual block. Without one, the block is the layer itself,
    with the norm directly behind it. A block runs once in a forward pass, and has the same shapes of input and output in
    both networks; where it does not, the next larger module is the block. A layer without any such module is left out.

    Args:
        student, teacher: the networks.
        images: a few images.

    >>> nets = [nn.Sequential(nn.Conv2d(4, 4, 3, groups=g), nn.BatchNorm2d(4), nn.ReLU()) for g in (2, 1)]
    >>> [block.parts for block in lean_blocks(*nets, torch.zeros(2, 4, 8, 8))]
    [('0', '1')]
    """
    with evaluating(student), evaluating(teacher):
        own, other = traced(student, images), traced(teacher, images)
        norms = _norms_behind(student, images)
        same = _norms_behind(teacher, images)
    found: dict[str, Block] = {}
    for layer in _different(student, teacher):
        around = [name for name in _around(layer) if not isinstance(student.get_submodule(name), CONTAINERS)]
        for name in (*around[:1], layer, *around[1:]):
            if _fits(own.get(name), other.get(name)):
                norm = norms.get(name) if norms.get(name) == same.get(name) else None
                alone = name == layer and norm is not None and _fits(own.get(norm), other.get(norm))
                seen = own[name]
                assert seen.inputs is not None and seen.output is not None
                found[name] = Block((name, norm) if alone and norm else (name,), seen.inputs, seen.output)
                break
    outer = [name for name in found if not any(around in found for around in _around(name))]
    order = {name: place for place, name in enumerate(own)}
    return sorted((found[name] for name in outer), key=lambda block: order[block.parts[-1]])


def groups_of(student: nn.Module, blocks: Sequence[Block]) -> list[list[Block]]:
    """`blocks` in groups: two blocks that share a weight, directly or through others, are in the same group.

    Args:
        student: the lean network.
        blocks: some of its blocks.
    """
    groups: list[tuple[set[int], list[Block]]] = []
    for block in blocks:
        used = {id(parameter) for parameter in parameters_in_use(block.modules(student))}
        joined = [group for group in groups if group[0] & used]
        groups = [group for group in groups if not group[0] & used]
        members = [member for _, group in joined for member in group]
        groups.append((used.union(*(ids for ids, _ in joined)), [*members, block]))
    place = {block: number for number, block in enumerate(blocks)}
    return sorted((group for _, group in groups), key=lambda group: place[group[0]])


def _different(student: nn.Module, teacher: nn.Module) -> list[str]:
    """The layers of `student` with another class or other shapes than in `teacher`, without layers inside of them.

    Layers without parameters have nothing to learn, and are left out.
    """
    others = dict(teacher.named_modules())
    found: list[str] = []
    for name, module in student.named_modules():
        if not name or name not in others or any(around in found for around in _around(name)):
            continue
        if not parameters_in_use([module]):  # such as a residual block that was removed
            continue
        if type(module) is not type(others[name]) or _own_shapes(module) != _own_shapes(others[name]):
            found.append(name)
    return found


def _own_shapes(module: nn.Module) -> dict[str, Shape]:
    return {name: tuple(parameter.shape) for name, parameter in module.named_parameters(recurse=False)}


def _around(name: str) -> Iterator[str]:
    """The names of the modules around a module, the innermost first, without the network itself.

    >>> list(_around("layer1.0.conv1"))
    ['layer1.0', 'layer1']
    """
    while "." in name:
        name = name.rpartition(".")[0]
        yield name


def _fits(own: Seen | None, other: Seen | None) -> bool:
    if own is None or other is None or own.inputs is None or own.output is None:
        return False
    return own == other and own.calls == 1


def _norms_behind(model: nn.Module, images: Tensor) -> dict[str, str]:
    """The norm that takes the output of a layer as it is, by the layer's name."""
    names = {module: name for name, module in model.named_modules()}
    made: list[tuple[Tensor, int, str]] = []  # outputs, and how often they had been changed in place
    found: dict[str, str] = {}

    def note(module: nn.Module, args: tuple[Any, ...], output: Any) -> None:
        if isinstance(module, _NormBase | nn.GroupNorm):
            for tensor, version, name in made:
                if args and tensor is args[0] and tensor._version == version:
                    found[name] = names[module]
        elif isinstance(output, Tensor):
            made.append((output, output._version, names[module]))

    hooks = [module.register_forward_hook(note) for module in model.modules()]
    try:
        model(images)
    finally:
        for hook in hooks:
            hook.remove()
    return found
