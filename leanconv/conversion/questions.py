"""Networks whose code asks for the class of a layer, and does something else with a lean layer."""

from __future__ import annotations

import types
import warnings
from collections import Counter
from collections.abc import Iterable, Iterator
from typing import Any

from torch import Tensor, nn
from torch.overrides import TorchFunctionMode

from leanconv.core.errors import LeanconvWarning, SettingError
from leanconv.core.meta import InputSize, dry_run

ASKING = {"isinstance", "issubclass", "type", "__class__"}


def warn_of_other_code(model: nn.Module, lean: nn.Module, names: Iterable[str], input_size: InputSize | None) -> None:
    """Warn if `lean` calls other functions outside of its lean layers than `model` does.

    Both run without computing, if a forward method of `model` asks for a class; other networks cost nothing.

    Args:
        model, lean: the dense network and the converted copy.
        names: the names of the converted layers.
        input_size: (channels, height, width); None if it is not known, and nothing is compared.

    Warns:
        LeanconvWarning: as above.
    """
    if input_size is None:
        return
    asks = next(_asking(model), None)
    if asks is None:
        return
    try:
        before, after = (_functions(network, [*names], input_size) for network in (model, lean))
    except SettingError:  # it does not run here
        return
    if before != after:
        said = ", ".join(
            f"{name} {before[name]} -> {after[name]} times" for name in before | after if before[name] != after[name]
        )
        warnings.warn(
            f"{asks} asks for the class of a layer, and the network then does something else with lean layers ({said}); ask for "
            "an attribute of the layer in place of its class",
            LeanconvWarning,
            stacklevel=3,
        )


def _asking(model: nn.Module) -> Iterator[str]:
    """The forward methods of the network's own classes that ask for a class."""
    kinds = {kind: None for module in model.modules() for kind in type(module).__mro__}
    for kind in kinds:
        if kind.__module__.partition(".")[0] in ("torch", "leanconv", "builtins"):
            continue
        for name, value in vars(kind).items():
            if "forward" in name and isinstance(value, types.FunctionType) and _asks(value.__code__):
                yield f"{kind.__name__}.{name}"


def _asks(code: types.CodeType) -> bool:
    inside = (part for part in code.co_consts if isinstance(part, types.CodeType))
    return not ASKING.isdisjoint(code.co_names) or any(_asks(part) for part in inside)


def _functions(network: nn.Module, names: list[str], input_size: InputSize) -> Counter[str]:
    """How often a forward pass calls each of torch's functions outside of the modules `names`."""

    def run(twin: nn.Module, images: Tensor) -> Counter[str]:
        with _Outside([twin.get_submodule(name) for name in names]) as outside:
            twin(images)
        return outside.found

    return dry_run(network, input_size, run)


class _Outside(TorchFunctionMode):
    """Counts the calls of torch's functions by name, without attributes and without calls inside of `layers`."""

    def __init__(self, layers: Iterable[nn.Module]) -> None:
        super().__init__()
        self.found: Counter[str] = Counter()
        self._inside = 0
        for layer in layers:
            layer.register_forward_pre_hook(lambda module, args: self._step(1))
            layer.register_forward_hook(lambda module, args, output: self._step(-1))

    def _step(self, change: int) -> None:
        self._inside += change

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        name = getattr(func, "__name__", "")
        if not self._inside and name != "__get__":
            self.found[name] += 1
        return func(*args, **(kwargs or {}))
