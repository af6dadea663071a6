"""Which tensors are the same numbers in memory, also where they are different objects, as after ``b.data = a.data``."""

from __future__ import annotations

from typing import Any, NamedTuple

import torch
from torch import Tensor, nn


class Memory(NamedTuple):
    """A place in memory; `storage` names the whole that views have in common."""

    device: torch.device
    dtype: torch.dtype
    storage: int
    offset: int | torch.SymInt
    shape: tuple[int, ...]
    stride: tuple[int, ...]


def memory_of(tensor: Tensor) -> Memory:
    """The place of a tensor in memory: equal for two tensors that are the same numbers, in the same order.

    A tensor without memory of its own, such as a sparse one, is equal to itself only.

    >>> a = torch.zeros(4)
    >>> memory_of(a) == memory_of(a.view(4)), memory_of(a) == memory_of(a.view(2, 2)), memory_of(a) == memory_of(a.clone())
    (True, False, False)
    """
    shape = tuple(tensor.shape)
    try:
        held = tensor.untyped_storage()
        storage = held.data_ptr() or held._cdata  # nothing is at address 0, such as on the meta device
        return Memory(tensor.device, tensor.dtype, storage, tensor.storage_offset(), shape, tensor.stride())
    except (RuntimeError, NotImplementedError, ValueError):  # sparse, lazy and the like
        return Memory(tensor.device, tensor.dtype, -id(tensor), 0, shape, ())


def tie_(model: nn.Module) -> None:
    """Make parameters of `model` that are the same numbers in memory one parameter, in place.

    Copies and conversions keep a parameter that has two names, and separate two parameters that share memory.
    """
    first: dict[Memory, nn.Parameter] = {}
    for module in model.modules():
        for name, parameter in module._parameters.items():
            if type(parameter) is nn.Parameter:
                module._parameters[name] = first.setdefault(memory_of(parameter), parameter)


class Converted:
    """Conversions to another dtype; tensors that share memory still share it afterwards."""

    def __init__(self) -> None:
        self._wholes: dict[tuple[Any, ...], Tensor] = {}
        self._held: list[Tensor] = []  # no other tensor may get the memory of one that was converted

    def to(self, tensor: Tensor, dtype: torch.dtype) -> Tensor:
        """`tensor` in `dtype`, without its gradient; the tensor itself if it has this dtype."""
        tensor = tensor.detach()
        if tensor.dtype == dtype:
            return tensor
        held = tensor.untyped_storage()
        key = held.data_ptr() or held._cdata, tensor.dtype, dtype
        if key not in self._wholes:
            self._held.append(tensor)
            size = held.nbytes() // tensor.element_size()
            self._wholes[key] = tensor.as_strided((size,), (1,), 0).to(dtype)
        return self._wholes[key].as_strided(tensor.shape, tensor.stride(), tensor.storage_offset())
