"""A network run once for its shapes: without weights where it can, and on a copy of them where it cannot."""

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
from leanconv.core.wrappers import unwrapped

InputSize = tuple[int, int, int]
T = TypeVar("T")
# Elements of a tensor that a builder may compute with: widths and depths of stages, positions of a window
SMALL = 2**14


def on_meta(model: nn.Module) -> nn.Module:
    """A copy of `model` in eval mode whose tensors are on the meta device; nothing is moved or cloned.

    Sharing is kept: a tensor that stands under two names is one tensor in the copy.

    Raises:
        SettingError: a module holds something that cannot be copied, or is lazy.
    """
    return _twin(model, _to_meta)


def _twin(model: nn.Module, how: Callable[[Tensor], Tensor]) -> nn.Module:
    refuse_lazy(model)
    twin = copied(model, how)
    for module in twin.modules():  # a hook of the user's may count its calls, or want real values
        for hooks in (module._forward_hooks, module._forward_pre_hooks, module._backward_hooks):
            hooks.clear()
    return twin.eval()


def _to_meta(tensor: Tensor) -> Tensor:
    return tensor.detach().to("meta")


def _on(device: torch.device) -> Callable[[Tensor], Tensor]:
    """How to copy a tensor to `device`; one without values becomes zeros there."""

    def how(tensor: Tensor) -> Tensor:
        tensor = tensor.detach()
        return torch.zeros_like(tensor, device=device) if tensor.is_meta else tensor.to(device, copy=True)

    return how


def example_input(model: nn.Module, input_size: InputSize, batch: int = 1, device: str = "meta") -> Tensor:
    """Empty images for `model`, in the dtype of its first parameter."""
    parameter = next(model.parameters(), None)
    dtype = parameter.dtype if parameter is not None and parameter.is_floating_point() else torch.float32
    return torch.zeros((batch, *input_size), device=device, dtype=dtype)


def dry_run(model: nn.Module, input_size: InputSize, run: Callable[[nn.Module, Tensor], T]) -> T:
    """What ``run(twin, images)`` gives, for a copy of `model` in eval mode and one empty image.

    First on the meta device, where nothing is computed or allocated. A network that does not run there (it makes tensors
    on the CPU, or looks at values) is copied with its weights for the time of the run: to the CPU, then to its own
    device. A network that takes no single image gets two, so `run` divides by ``len(images)`` where that matters. The
    model, its flags and the state of every random number generator stay as they are.

    Raises:
        SettingError: it does not run on such an input, cannot be copied, or is lazy.
    """
    model = unwrapped(model)
    parameter = next(model.parameters(), None)
    own = torch.device("cpu") if parameter is None or parameter.is_meta else parameter.device
    attempts = [(torch.device("meta"), 1), (torch.device("cpu"), 1)]
    attempts += [(own, 1)] * (own.type != "cpu") + [(own, 2)]
    failures: dict[tuple[torch.device, int], Exception] = {}
    with _as_it_was(own):
        for device, batch in attempts:
            try:
                twin = on_meta(model) if device.type == "meta" else _twin(model, _on(device))
                return run(twin, example_input(twin, input_size, batch, str(device)))
            except LeanconvError:
                raise
            except Exception as error:
                failures[device, batch] = error.with_traceback(None)  # it would hold the copy
    failure = failures[own, 1]
    raise SettingError(
        f"{type(model).__name__} does not run on an input of {tuple(input_size)} ({first_line(failure)}); "
        f"{_way_out(failure)}"
    ) from failure


def _way_out(error: Exception) -> str:
    if isinstance(error, TypeError) and "argument" in str(error):
        return "its forward must take one batch of images; wrap the network in a module whose forward passes the rest"
    return "pass the input_size=(channels, height, width) it expects"


@contextmanager
def _as_it_was(device: torch.device) -> Iterator[None]:
    """No gradients, no compiling, no kernel that hides what it computes; afterwards all generators as before."""
    python, numpy = random.getstate(), np.random.get_state()
    fast_path = torch.backends.mha.get_fastpath_enabled()
    devices = [device] if device.type == "cuda" else []
    with ExitStack() as stack:
        stack.enter_context(torch.random.fork_rng(devices=devices))
        stack.enter_context(torch.no_grad())
        if "torch._dynamo" in sys.modules:  # nothing is compiled without it, and importing it takes seconds
            stack.enter_context(torch.compiler.set_stance("force_eager"))
        try:
            torch.backends.mha.set_fastpath_enabled(False)
            yield
        finally:
            torch.backends.mha.set_fastpath_enabled(fast_path)
            random.setstate(python)
            np.random.set_state(numpy)


class _LargeOnMeta(TorchFunctionMode):
    """New tensors are on the meta device, but for small ones, which a builder may compute with."""

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = kwargs or {}
        if func in _device_constructors() and kwargs.get("device") is None:
            made = func(*args, **kwargs | {"device": "meta"})
            if made.numel() > SMALL:
                return made
        return func(*args, **kwargs)


def built_on_meta(build: Callable[[], nn.Module]) -> nn.Module:
    """What `build` makes, on the meta device; a builder that computes with real numbers gets small tensors, and no large ones.

    Raises:
        Exception: whatever `build` raises both ways.
    """
    try:
        with torch.device("meta"):
            return build()
    except Exception as error:
        if isinstance(error, LeanconvError) and error.__cause__ is None:  # ours: no device will make it valid
            raise
    with _as_it_was(torch.device("cpu")), torch.enable_grad(), _LargeOnMeta():
        model = build()
    return copied(model, _to_meta)
