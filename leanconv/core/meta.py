"""A dry run of a network for its shapes: on the meta device if possible, otherwise on a copy with weights."""

from __future__ import annotations

import sys
import traceback
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager, nullcontext, suppress
from pathlib import Path
from typing import Any, TypeVar

import torch
from torch import Tensor, nn
from torch.overrides import TorchFunctionMode
from torch.utils._device import _device_constructors
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from leanconv.core.closures import detach_
from leanconv.core.copying import copied, refuse_lazy
from leanconv.core.errors import LeanconvError, SettingError, first_line
from leanconv.core.generators import random_kept
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
    refuse_lazy(model)
    return in_eval(copied(model, _to_meta))


def _twin(model: nn.Module, device: torch.device, hooks: bool) -> nn.Module:
    refuse_lazy(model)
    twin = copied(model, _to_meta if device.type == "meta" else _on(device))
    for module in twin.modules():  # a user's hook may count its calls, or need real values
        for own in (module._forward_hooks, module._forward_pre_hooks, module._backward_hooks):
            if hooks:
                detach_(own)
            else:
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

    Hooks are left out, because they may count their calls, unless the outputs or the operations are others with them. A network
    that runs in none of these ways is also tried with its hooks, which may bring its inputs into shape. What a hook adds to a
    list, a dict or a set that it captured, it adds to a copy.

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
    ways = [(torch.device("meta"), 1), (torch.device("cpu"), 1)]
    ways += [(own, 1)] * (own.type != "cpu") + [(own, 2)]
    attempts = [(*way, False) for way in ways]
    failures: dict[tuple[torch.device, int, bool], Exception] = {}
    with _as_it_was(own):
        found = [
            hook for m in model.modules() for held in (m._forward_hooks, m._forward_pre_hooks) for hook in held.values()
        ]
        if found:
            users = any(not type(hook).__module__.startswith("torch.nn.utils") for hook in found)  # no computed weights
            matter = users and _hooks_matter(model, input_size)
            attempts = [(*way, True) for way in ways] * matter + attempts + [(own, 1, True)] * (not matter)
        for device, batch, hooks in attempts:
            try:
                twin = _twin(model, device, hooks)
                with _Quick() if device.type == "meta" else nullcontext():
                    return run(twin, example_input(twin, input_size, batch, str(device)))
            except LeanconvError:
                raise
            except Exception as error:
                if _is_ours(error):
                    raise
                failures[device, batch, hooks] = error.with_traceback(None)  # the traceback would keep the copy alive
    failure = failures[own, 1, False]
    raise SettingError(
        f"{type(model).__name__} does not run on an input of {tuple(input_size)} ({first_line(failure)}); "
        f"{_way_out(failure)}"
    ) from failure


class _Operations(TorchDispatchMode):
    """The names of all operations, in their order."""

    def __init__(self) -> None:
        super().__init__()
        self.names: list[str] = []

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        self.names.append(str(func))
        return func(*args, **(kwargs or {}))


def _hooks_matter(model: nn.Module, input_size: InputSize) -> bool:
    """Whether the shapes of the outputs, or the operations, are others with the network's forward hooks."""
    for device in (torch.device("meta"), torch.device("cpu")):
        seen = []
        with suppress(Exception):  # it is no attempt, so its errors say nothing
            for hooks in (False, True):
                twin = _twin(model, device, hooks)
                with _Operations() as operations:
                    out = twin(example_input(twin, input_size, device=str(device)))
                shapes = [tuple(leaf.shape) for leaf in tree_leaves(out) if isinstance(leaf, Tensor)]
                seen.append((shapes, operations.names))
        if len(seen) == 2:
            return seen[0] != seen[1]
    return False


def _is_ours(error: Exception) -> bool:
    """Whether code of leanconv failed that looks at a network, and not the network."""
    here = Path(__file__).parent.parent
    frames = [(Path(frame.filename), frame.name) for frame in traceback.extract_tb(error.__traceback__)]
    ours = [
        path.is_relative_to(here) and path.relative_to(here).parts[0] in ("conversion", "search", "budget")
        for path, _ in frames
    ]
    modes = [index for index, (_, name) in enumerate(frames) if ours[index] and name.startswith("__torch_")]
    if modes:
        return any(ours[modes[-1] + 1 :])  # behind the call of the operation itself
    return ours[-1]


def refuse_inference(call: str) -> None:
    """Raise an error within ``torch.inference_mode``, whose tensors cannot be trained.

    Raises:
        SettingError: the mode is on.
    """
    if torch.is_inference_mode_enabled():
        raise SettingError(
            f"what {call} makes within torch.inference_mode cannot be trained; call it outside of the block, or take no_grad"
        )


def _way_out(error: Exception) -> str:
    if isinstance(error, TypeError) and "argument" in str(error):
        return "its forward must take one batch of images; wrap the network in a module whose forward passes the rest"
    return "it expects other (channels, height, width): pass them as input_size=, or take data with such images"


@contextmanager
def _as_it_was(device: torch.device) -> Iterator[None]:
    """A block without gradients, compiling and fused attention kernels; afterwards all generators are restored."""
    fast_path = torch.backends.mha.get_fastpath_enabled()
    devices = [device] if device.type == "cuda" else []
    with ExitStack() as stack:
        stack.enter_context(random_kept(devices))
        stack.enter_context(torch.inference_mode(False))  # its tensors could not be trained, and modes do not see them
        stack.enter_context(torch.no_grad())
        if "torch._dynamo" in sys.modules:  # nothing is compiled unless it is imported, and the import takes seconds
            stack.enter_context(torch.compiler.set_stance("force_eager"))
        try:
            torch.backends.mha.set_fastpath_enabled(False)
            yield
        finally:
            torch.backends.mha.set_fastpath_enabled(fast_path)


class _Quick(TorchDispatchMode):
    """A mode with short ways for what torch does on the meta device in many steps of Python, without another result.

    A batch norm with running statistics only gives the shapes of its outputs; the sizes of its statistics were compared with
    the channels before. An initialisation has no values to draw.
    """

    supports_higher_order_operators = True

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        if func in _DRAWS and args[0].is_meta:
            return args[0]
        if func is torch.ops.aten.native_batch_norm.default and not kwargs and args[0].is_meta and not args[5]:
            return torch.empty_like(args[0]), args[0].new_empty(0), args[0].new_empty(0)
        return func(*args, **kwargs or {})


_DRAWS = {torch.ops.aten.normal_.default, torch.ops.aten.uniform_.default, torch.ops.aten.erfinv_.default}


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
        with torch.device("meta"), _Quick():
            return build()
    except Exception as error:
        if (
            isinstance(error, LeanconvError) and error.__cause__ is None
        ):  # an error of leanconv does not depend on the device
            raise
    with _as_it_was(torch.device("cpu")), torch.enable_grad(), _LargeOnMeta():
        model = build()
    return copied(model, _to_meta)
