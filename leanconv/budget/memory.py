"""Peak memory of a call: the weights, and the feature maps that are alive at the same time."""

from __future__ import annotations

import weakref
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from leanconv.budget.walk import steps_of


@dataclass(frozen=True)
class Alive:
    """Bytes of the feature maps that are alive during a call, in eager PyTorch, where a map is freed after its last use.

    Args:
        peak: the most bytes at one step.
        at: the bytes while each layer is called, by name: its input, its output and all other maps that are used later.
    """

    peak: int
    at: dict[str, int]


@torch.no_grad()
def alive(model: nn.Module, images: Tensor, names: Sequence[str]) -> Alive | None:
    """The bytes of the feature maps of `model`; None if the network cannot be traced.

    Args:
        model: the network, in eval mode.
        images: the input of the call.
        names: the layers.

    >>> found = alive(nn.Sequential(nn.Conv2d(1, 2, 1), nn.Conv2d(2, 1, 1)).eval(), torch.zeros(1, 1, 2, 2), ["0", "1"])
    >>> found.peak, found.at
    (48, {'0': 48, '1': 48})
    """
    steps = steps_of(model, images)
    if steps is None:
        return None
    peak, at = 0, dict.fromkeys(names, 0)
    while steps.place < len(steps.nodes) - 1:
        called = [name for name in names if steps.calls(name)]
        before = [*steps.alive.values()]
        steps.step()
        held = _bytes([*before, *steps.alive.values()])
        peak = max(peak, held)
        for name in called:
            at[name] = max(at[name], held)
    return Alive(peak, at)


def _bytes(values: Iterable[Any]) -> int:
    """Bytes of the storages behind all tensors in `values`, each storage once."""
    tensors = [leaf for leaf in tree_leaves([*values]) if isinstance(leaf, Tensor)]
    return sum({_place(tensor): tensor.untyped_storage().nbytes() for tensor in tensors}.values())


def _place(tensor: Tensor) -> int:
    """The identity of a tensor's storage, also on the meta device, where no storage has an address."""
    return tensor.untyped_storage()._cdata


@torch.no_grad()
def inner_bytes(module: nn.Module, x: Tensor) -> int:
    """Peak bytes of the tensors that `module` makes during a call, without its output.

    >>> inner_bytes(nn.Conv2d(1, 1, 1), torch.zeros(1, 1, 4, 4))
    0
    >>> inner_bytes(nn.Sequential(nn.Conv2d(1, 3, 1), nn.Conv2d(3, 1, 1)), torch.zeros(1, 1, 4, 4))
    192
    """
    with _Held() as held:
        out = module(x)
    return max(0, held.peak - out.untyped_storage().nbytes())


class _Held(TorchDispatchMode):
    """Counts the bytes of the storages that are made inside the block and still in use."""

    def __init__(self) -> None:
        super().__init__()
        self.now = self.peak = 0
        self.known: set[int] = set()

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        given = {_place(t) for t in tree_leaves([args, kwargs]) if isinstance(t, Tensor)}
        out = func(*args, **(kwargs or {}))
        for tensor in tree_leaves(out):
            if isinstance(tensor, Tensor):
                self._note(tensor, given)
        return out

    def _note(self, tensor: Tensor, given: set[int]) -> None:
        place, size = _place(tensor), tensor.untyped_storage().nbytes()
        if place in given or place in self.known or not size:
            return
        self.known.add(place)
        self.now += size
        self.peak = max(self.peak, self.now)
        weakref.finalize(tensor, self._free, place, size)

    def _free(self, place: int, size: int) -> None:
        if place in self.known:  # a view of the storage may live longer; maps inside an operator are seldom views
            self.known.discard(place)
            self.now -= size
