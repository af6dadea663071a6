"""Which tensors are the same numbers in memory, also where they are different objects, as after ``b.data = a.data``."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn


def memory_of(tensor: Tensor) -> tuple[Any, ...]:
    """The place of a tensor in memory: equal for two tensors that are the same numbers, in the same order.

    A tensor without memory of its own, such as a sparse one, is equal to itself only.

    >>> a = torch.zeros(4)
    >>> memory_of(a) == memory_of(a.view(4)), memory_of(a) == memory_of(a.view(2, 2)), memory_of(a) == memory_of(a.clone())
    (True, False, False)
    """
    try:
        held = tensor.untyped_storage()
        place = held.data_ptr() or held._cdata  # nothing is at address 0, such as on the meta device
        return tensor.device, tensor.dtype, place, tensor.storage_offset(), tuple(tensor.shape), tensor.stride()
    except (RuntimeError, NotImplementedError, ValueError):  # sparse, lazy and the like
        return (id(tensor),)


def tie_(model: nn.Module) -> None:
    """Make parameters of `model` that are the same numbers in memory one parameter, in place.

    Copies and conversions keep a parameter that has two names, and separate two parameters that share memory.
    """
    first: dict[tuple[Any, ...], nn.Parameter] = {}
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
