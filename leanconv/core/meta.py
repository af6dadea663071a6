"""A dry run of a network for its shapes: on the meta device if possible, otherwise on a copy with weights."""

from __future__ import annotations

import random
import sys
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from typing import Any, TypeVar

import numpy as np
import torch
from torch import Tensor, nn
from torch.overrides import TorchFunctionMode
from torch.utils._device import _device_constructors

from leanconv.core.copying import copied, refuse_lazy
from leanconv.core.errors import LeanconvError, SettingError, first_line
from leanconv.core.modes import in_eval
from leanconv.core.wrappers import unwrapped

InputSize = tuple[int, int, int]
T = TypeVar("T")
# Most elements of a tensor with real values while a network is built: widths and depths of stages, positions of a window
SMALL = 2**14


def on_meta(model: nn.Module) -> nn.Module:
    """A copy of `model` in eval mode with all tensors on the meta device; no values are moved or cloned.

    Sharing is kept: a tensor with two names is one tensor in the copy.

    Raises:
        SettingError: a module is lazy, or has an attribute that cannot be copied.

    >>> on_meta(nn.Conv2d(3, 8, 3)).weight.device
    device(type='meta')
    """
    return _twin(model, _to_meta)


def _twin(model: nn.Module, how: Callable[[Tensor], Tensor], hooks: bool = False) -> nn.Module:
    refuse_lazy(model)
    twin = copied(model, how)
    for module in twin.modules() if not hooks else ():  # a user's hook may count its calls, or need real values
        for own in (module._forward_hooks, module._forward_pre_hooks, module._backward_hooks):
            own.clear()
    return in_eval(twin)


def _to_meta(tensor: Tensor) -> Tensor:
    return tensor.detach().to("meta")


def _on(device: torch.device) -> Callable[[Tensor], Tensor]:
    """A function that copies a tensor to `device`; a tensor on the meta device becomes zeros."""

    def how(tensor: Tensor) -> Tensor:
        tensor = tensor.detach()
        return torch.zeros_like(tensor, device=device) if tensor.is_meta else tensor.to(device, copy=True)

    return how


def own_dtype(model: nn.Module, default: torch.dtype) -> torch.dtype:
    """The dtype of the network's first floating-point parameter; `default` if it has none.

    >>> own_dtype(nn.Linear(1, 1).double(), torch.float32), own_dtype(nn.ReLU(), torch.float32)
    (torch.float64, torch.float32)
    """
    return next((parameter.dtype for parameter in model.parameters() if parameter.is_floating_point()), default)


def example_input(model: nn.Module, input_size: InputSize, batch: int = 1, device: str = "meta") -> Tensor:
    """Images of zeros for `model`: (batch, *input_size), in the dtype of its first floating-point parameter."""
    return torch.zeros((batch, *input_size), device=device, dtype=own_dtype(model, torch.float32))


def dry_run(model: nn.Module, input_size: InputSize, run: Callable[[nn.Module, Tensor], T]) -> T:
    """Return ``run(twin, images)``, where `twin` is a copy of `model` in eval mode and `images` is one image of zeros.

    The first attempt is on the meta device, where nothing is computed or allocated. A network that creates tensors on the
    CPU or reads values does not run there. Such a network is copied with its weights to the CPU, then to its own device,
    and the copy is deleted after the run. A network that refuses a single image gets two images, so `run` divides by
    ``len(images)`` if it counts. The model, its flags and all random number generators are unchanged afterwards.

    Hooks are left out, because they may count their calls. Only a network that runs in none of these ways is tried with its
    hooks, which may bring its inputs into shape.

    Args:
        input_size: (channels, height, width).
        run: called with the copy and the images, (1, C, H, W) or (2, C, H, W).

    Raises:
        SettingError: the model does not run on such an input, cannot be copied, or is lazy.

    >>> dry_run(nn.Conv2d(3, 8, 3), (3, 32, 32), lambda twin, images: tuple(twin(images).shape))
    (1, 8, 30, 30)
    """
    model = unwrapped(model)
    parameter = next(model.parameters(), None)
    own = torch.device("cpu") if parameter is None or parameter.is_meta else parameter.device
    attempts = [(torch.device("meta"), 1, False), (torch.device("cpu"), 1, False)]
    attempts += [(own, 1, False)] * (own.type != "cpu") + [(own, 2, False)]
    attempts += [(own, 1, True)] * any(m._forward_hooks or m._forward_pre_hooks for m in model.modules())
    failures: dict[tuple[torch.device, int, bool], Exception] = {}
    with _as_it_was(own):
        for device, batch, hooks in attempts:
            try:
                twin = on_meta(model) if device.type == "meta" else _twin(model, _on(device), hooks)
                return run(twin, example_input(twin, input_size, batch, str(device)))
            except LeanconvError:
                raise
            except Exception as error:
                failures[device, batch, hooks] = error.with_traceback(None)  # the traceback would keep the copy alive
    failure = failures[own, 1, False]
    raise SettingError(
        f"{type(model).__name__} does not run on an input of {tuple(input_size)} ({first_line(failure)}); "
        f"{_way_out(failure)}"
    ) from failure


def _way_out(error: Exception) -> str:
    if isinstance(error, TypeError) and "argument" in str(error):
        return "its forward must take one batch of images; wrap the network in a module whose forward passes the rest"
    return "it expects other (channels, height, width): pass them as input_size=, or take data with such images"


@contextmanager
def _as_it_was(device: torch.device) -> Iterator[None]:
    """A block without gradients, compiling and fused attention kernels; afterwards all generators are restored."""
    python, numpy = random.getstate(), np.random.get_state()
    fast_path = torch.backends.mha.get_fastpath_enabled()
    devices = [device] if device.type == "cuda" else []
    with ExitStack() as stack:
        stack.enter_context(torch.random.fork_rng(devices=devices))
        stack.enter_context(torch.no_grad())
        if "torch._dynamo" in sys.modules:  # nothing is compiled unless it is imported, and the import takes seconds
            stack.enter_context(torch.compiler.set_stance("force_eager"))
        try:
            torch.backends.mha.set_fastpath_enabled(False)
            yield
        finally:
            torch.backends.mha.set_fastpath_enabled(fast_path)
            random.setstate(python)
            np.random.set_state(numpy)


class _LargeOnMeta(TorchFunctionMode):
    """A mode in which new tensors are on the meta device, except small tensors, with which a builder may compute."""

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = kwargs or {}
        if func in _device_constructors() and kwargs.get("device") is None:
            made = func(*args, **kwargs | {"device": "meta"})
            if made.numel() > SMALL:
                return made
        return func(*args, **kwargs)


def built_on_meta(build: Callable[[], nn.Module]) -> nn.Module:
    """The network that `build` makes, on the meta device.

    If `build` fails there because it computes with values, it is called again with real small tensors.

    Raises:
        Exception: the error of `build`, if both attempts fail.
    """
    try:
        with torch.device("meta"):
            return build()
    except Exception as error:
        if (
            isinstance(error, LeanconvError) and error.__cause__ is None
        ):  # an error of leanconv does not depend on the device
            raise
    with _as_it_was(torch.device("cpu")), torch.enable_grad(), _LargeOnMeta():
        model = build()
    return copied(model, _to_meta)
