"""Counts of any network: parameters, multiply-adds and bytes."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

from torch import Tensor, nn
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves
from torch.utils.flop_counter import flop_registry

from leanconv.core.copying import refuse_lazy
from leanconv.core.counted_ops import adds_none, macs_of
from leanconv.core.meta import InputSize, dry_run
from leanconv.core.notes import image_size, input_size_of
from leanconv.core.storage import memory_of


@dataclass(frozen=True, slots=True)
class Count:
    """The size and the work of a network.

    Args:
        params: parameters; each tensor counts once. The weights of quantised layers count too.
        stored: parameters under all names of the state dict; more than `params` if one tensor has two names.
        macs: multiply-adds of convolutions and matrix products for one image (1 MAC = one multiply-add); norms,
            activations, pooling and interpolation add none. None when no input size is known.
        bytes: weights and buffers in their present dtype; each tensor counts once.
        uncounted: operations whose multiply-adds are not known, such as ``aten::_fft_r2c``; `macs` leaves them out.
    """

    params: int
    stored: int
    macs: int | None
    bytes: int
    uncounted: tuple[str, ...] = ()

    def to_json(self) -> dict[str, Any]:
        """The values in the form of tables and results files: params, macs, weight_bytes, and uncounted unless it is empty."""
        found = {"params": self.params, "macs": self.macs, "weight_bytes": self.bytes}
        return found | ({"uncounted": list(self.uncounted)} if self.uncounted else {})


def unique(tensors: Sequence[Tensor]) -> list[Tensor]:
    """`tensors` with each once; two objects that are the same numbers in memory are one."""
    return list({memory_of(tensor): tensor for tensor in tensors}.values())


class _Counter(TorchDispatchMode):
    """Adds up the multiply-adds of all operations, and lists the operations without a known formula."""

    supports_higher_order_operators = True

    def __init__(self) -> None:
        super().__init__()
        self.macs = 0
        self.unknown: dict[str, None] = {}

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = kwargs or {}
        packet: Any = getattr(func, "_overloadpacket", func)
        if packet not in flop_registry and not adds_none(func) and macs_of(func) is None:
            with self:  # an operation that is made of others
                out = func.decompose(*args, **kwargs) if hasattr(func, "decompose") else NotImplemented
            if out is not NotImplemented:
                return out
        out = func(*args, **kwargs)
        own = macs_of(func)
        if own is not None:
            self.macs += own(args, next(leaf for leaf in tree_leaves(out) if isinstance(leaf, Tensor)))
        elif packet in flop_registry:
            formula: Callable[..., int] = flop_registry[packet]
            self.macs += formula(*args, **kwargs, out_val=out) // 2
        elif not adds_none(func):
            self.unknown[getattr(getattr(func, "_schema", None), "name", str(func))] = None
        return out


def count_macs(model: nn.Module, input_size: InputSize) -> int:
    """Multiply-adds of `model` for one image, without the operations in `Count.uncounted`.

    Args:
        input_size: (channels, height, width).

    Raises:
        SettingError: the model does not run on such an input.

    >>> count_macs(nn.Conv2d(3, 8, 3, padding=1), (3, 32, 32))
    221184
    """
    return _counted(model, input_size)[0]


def _counted(model: nn.Module, input_size: InputSize) -> tuple[int, tuple[str, ...]]:
    """Multiply-adds for one image, and the names of the operations that are not counted.

    Raises:
        SettingError: the model does not run on such an input.
    """

    def run(twin: nn.Module, images: Tensor) -> tuple[int, tuple[str, ...]]:
        with _Counter() as counter:
            twin(images)
        return counter.macs // len(images), tuple(counter.unknown)

    return dry_run(model, input_size, run)


def _packed(module: Any) -> list[Tensor]:
    """The weights and biases that torch's quantised layers hold, which are no parameters of these layers."""
    home = type(module).__module__
    if not (home.startswith("torch.ao.nn.") and ".quantized." in home):
        return [tensor for child in module.children() for tensor in _packed(child)]
    registered = {id(tensor) for tensor in (*module.parameters(), *module.buffers())}
    values: Any = module.state_dict(keep_vars=True)
    if hasattr(module, "get_weight"):  # recurrent layers, whose state dict hides the weights
        values = (module.get_weight(), module.get_bias())
    held = [leaf for leaf in tree_leaves(values) if isinstance(leaf, Tensor)]
    return [tensor for tensor in held if tensor.dim() and id(tensor) not in registered]


def count(model: nn.Module, input_size: InputSize | None = None) -> Count:
    """Parameters (unique and stored), MACs for one image and bytes of `model`.

    Args:
        input_size: (channels, height, width); default: the input size of the model, if the model states it.

    Raises:
        SettingError: the model does not run on such an input, or a layer is lazy.

    >>> count(nn.Conv2d(3, 8, 3, padding=1), (3, 32, 32))
    Count(params=224, stored=224, macs=221184, bytes=896, uncounted=())
    """
    known = input_size_of(model)
    refuse_lazy(model)
    parameters = [p for _, p in model.named_parameters(remove_duplicate=False)] + _packed(model)
    buffers = [b for _, b in model.named_buffers(remove_duplicate=False)]
    size = known if input_size is None else image_size(input_size)
    macs, uncounted = (None, ()) if size is None else _counted(model, size)
    return Count(
        params=sum(p.numel() for p in unique(parameters)),
        stored=sum(p.numel() for p in parameters),
        macs=macs,
        bytes=sum(t.numel() * t.element_size() for t in unique([*parameters, *buffers])),
        uncounted=uncounted,
    )
