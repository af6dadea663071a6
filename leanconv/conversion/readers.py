"""Modules that use the weight of another layer: after a conversion, such a module would still use the old weight."""

from __future__ import annotations

import dataclasses
import functools
import types
import weakref
from collections import deque
from collections.abc import Iterable, Iterator, Mapping
from contextlib import suppress
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.overrides import TorchFunctionMode

DEPTH = 8  # nested containers, closures and objects in an attribute
MOST = 100_000  # objects in an attribute; a hook may refer to a logger or a data set
SKIPPED = ("_parameters", "_buffers", "_modules", "_compiled_call_impl")
# The network does not compute with tensors of these objects
SILENT = (torch.optim.Optimizer, torch.optim.lr_scheduler.LRScheduler, types.ModuleType, type)
# Attributes of a weight that do not depend on its values. The shape is not here, because an operator's weight has another one.
QUESTIONS = {
    "dtype", "device", "layout", "requires_grad", "is_leaf", "grad_fn", "grad", "itemsize", "element_size",
    "get_device", "data_ptr", "is_cuda", "is_cpu", "is_meta", "is_mps", "is_xpu", "is_sparse", "is_quantized",
    "is_nested", "is_mkldnn", "is_floating_point", "is_complex", "is_signed", "is_conj", "is_neg", "is_inference",
    "is_contiguous", "new_empty", "new_zeros", "new_ones", "new_full", "new_tensor",
}  # fmt: skip


def holders(model: nn.Module) -> dict[int, dict[str, str]]:
    """For the id of each module, the names of the other modules and attributes that refer to one of its tensors.

    Two tensors are the same if they overlap in memory. This function visits the registered tensors of all modules, and the
    objects in their attributes: containers, closures of functions, other objects, and modules that are not registered. A
    function that captured a convolution or a module around it refers to the weight too, because a copy of the network does
    not copy functions.
    """
    found: dict[Any, list[tuple[int, int, int, str]]] = {}
    registered = {id(module) for module in model.modules()}
    for name, module in model.named_modules():
        for tensor in (*module._parameters.values(), *module._buffers.values()):
            if tensor is not None:
                _note(found, tensor, id(module), name or "the model")
        for key, value in module.__dict__.items():
            if key not in SKIPPED:
                where = f"{name}.{key}" if name else key
                walk = _Walk(registered, hook=key.endswith("_hooks"))
                for tensor in walk.tensors(value):
                    _note(found, tensor, id(module), where)
        for kind in type(module).__mro__:
            if kind.__module__.partition(".")[0] not in ("torch", "builtins"):
                for key, value in vars(kind).items():
                    if isinstance(value, Tensor | dict | list | tuple):
                        for tensor in _Walk(registered, hook=False).tensors(value, through="object"):
                            _note(found, tensor, id(kind), f"{kind.__name__}.{key}")
    shared: dict[int, dict[str, str]] = {}
    for places in found.values():
        places.sort(key=lambda place: place[:2])
        for number, (_, stop, owner, where) in enumerate(places):
            for start, _, other, there in places[number + 1 :]:
                if start >= stop:
                    break
                if owner != other:
                    shared.setdefault(owner, {})[there] = there
                    shared.setdefault(other, {})[where] = where
                elif where != there:  # a second reference in a plain attribute of the same module
                    shared.setdefault(owner, {})[max(where, there, key=len)] = there
    return shared


def _note(found: dict[Any, list[tuple[int, int, int, str]]], tensor: Tensor, owner: int, where: str) -> None:
    storage: Any
    try:
        storage, start = str(tensor.device), tensor.data_ptr()
        if not start:  # no memory, as on the meta device
            storage = tensor.untyped_storage()._cdata
            start = int(tensor.storage_offset()) * tensor.element_size()
        steps = zip(tensor.shape, tensor.stride(), strict=True)
        extent = 1 + sum((int(size) - 1) * int(stride) for size, stride in steps)
    except (RuntimeError, NotImplementedError, ValueError):  # sparse, lazy and the like
        storage, start, extent = id(tensor), 0, 1
    if tensor.numel():
        found.setdefault(storage, []).append((start, start + extent * tensor.element_size(), owner, where))


class _Walk:
    """A search for all tensors that the value of an attribute refers to.

    Args:
        registered: ids of the modules of the network.
        hook: whether the attribute holds hooks, which often refer to the network and seldom compute with its weights.
    """

    def __init__(self, registered: set[int], hook: bool) -> None:
        self.registered = registered
        self.hook = hook
        self.seen: set[int] = set()

    def tensors(self, value: Any, depth: int = DEPTH, through: str = "") -> Iterator[Tensor]:
        """The tensors that `value` refers to.

        Args:
            depth: the number of levels that may still follow.
            through: what is between the attribute and `value`: "" for containers in which a conversion replaces modules,
                "object" for others, such as a named tuple or the keys of a dict, or "function".
        """
        if isinstance(value, weakref.ReferenceType):
            value, through = value(), through or "object"
        if isinstance(value, Tensor):
            yield value
            return
        if isinstance(value, np.ndarray):
            with suppress(TypeError, ValueError):  # an array of objects, or one with negative steps
                yield torch.as_tensor(value)
            return
        if depth == 0 or id(value) in self.seen or len(self.seen) > MOST or isinstance(value, SILENT):
            return
        if id(value) in self.registered:  # a conversion replaces modules only where `through` is empty
            if through:
                yield from value.parameters(recurse=through == "function" and not self.hook)
            return
        self.seen.add(id(value))
        if isinstance(value, types.FunctionType):
            through = "function"
        elif type(value) not in (list, tuple) and not isinstance(value, dict) and not through:
            through = "object"
        if isinstance(value, dict):
            for key in value:
                yield from self.tensors(key, depth - 1, through or "object")
        for part in _parts(value):
            yield from self.tensors(part, depth - 1, through)


def _parts(value: Any) -> Iterable[Any]:
    if isinstance(value, nn.Module):
        return [tensor for module in value.modules() for tensor in (*module.parameters(False), *module.buffers(False))]
    if isinstance(value, dict):
        return value.values()
    if isinstance(value, list | tuple | set | frozenset | deque):
        return value
    if isinstance(value, types.FunctionType):
        cells = []
        for cell in value.__closure__ or ():
            try:
                cells.append(cell.cell_contents)
            except ValueError:  # not filled yet
                continue
        return [*cells, *(value.__defaults__ or ()), *(value.__kwdefaults__ or {}).values()]
    if isinstance(value, types.MethodType):
        return [value.__self__, value.__func__]
    if isinstance(value, functools.partial):
        return [value.func, *value.args, *value.keywords.values()]
    if dataclasses.is_dataclass(value) or type(value).__module__.partition(".")[0] not in ("torch", "lightning"):
        slots: list[str] = []
        for kind in type(value).__mro__:
            own = vars(kind).get("__slots__", ())
            slots += [own] if isinstance(own, str) else list(own)
        return [*getattr(value, "__dict__", {}).values(), *(getattr(value, slot, None) for slot in slots)]
    return ()


class Reads(TorchFunctionMode):
    """A mode that finds the layers whose weights are used outside of the layer's own call.

    Args:
        convs: the layers of the network that runs, by name.
        originals: the original layers, of which `convs` are copies; a function may refer to the originals.
    """

    def __init__(self, convs: Mapping[str, nn.Module], originals: Mapping[str, nn.Module]) -> None:
        super().__init__()
        self.found: set[str] = set()
        self._running: list[nn.Module] = []
        self._owners: dict[int, list[tuple[str, nn.Module]]] = {}
        for name, conv in convs.items():
            for tensor in (*conv.parameters(recurse=False), *originals[name].parameters(recurse=False)):
                self._owners.setdefault(id(tensor), []).append((name, conv))
            conv.register_forward_pre_hook(lambda module, args: self._running.append(module))
            conv.register_forward_hook(lambda module, args, output: self._done(module))

    def _done(self, module: nn.Module) -> None:
        while self._running and self._running.pop() is not module:
            continue

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = kwargs or {}
        name = getattr(func, "__name__", "")
        if name == "__get__":
            name = getattr(getattr(func, "__self__", None), "__name__", "")
        if name not in QUESTIONS:
            for argument in (*args, *kwargs.values()):
                for item in argument if isinstance(argument, list | tuple) else (argument,):
                    if id(item) in self._owners:
                        self.found.update(n for n, conv in self._owners[id(item)] if conv not in self._running)
        return func(*args, **kwargs)
