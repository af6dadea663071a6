"""One honest count: parameters, multiply-adds and bytes of any network."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

from torch import Tensor, nn
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves
from torch.utils.flop_counter import flop_registry

from leanconv.core.base import image_size, input_size_of
from leanconv.core.copying import refuse_lazy
from leanconv.core.counted_ops import adds_none, macs_of
from leanconv.core.meta import InputSize, dry_run


@dataclass(frozen=True, slots=True)
class Count:
    """What a network holds and does.

    Args:
        params: parameters, each tensor once.
        stored: parameters under every name of the state dict; more than `params` where one tensor has two names.
        macs: multiply-adds of convolutions and matrix products for one image (1 MAC = one multiply-add); norms,
            activations, pooling and interpolation add none. None when no input size is known.
        bytes: weights and buffers, each tensor once, in their present dtype.
        uncounted: operations of the network that may multiply and whose multiply-adds are not known, so that `macs`
            leaves them out: names such as ``aten::_fft_r2c``.
    """

    params: int
    stored: int
    macs: int | None
    bytes: int
    uncounted: tuple[str, ...] = ()

    def to_json(self) -> dict[str, Any]:
        """params, macs and weight_bytes, as tables and results files have them, and what the MACs leave out, if anything."""
        found = {"params": self.params, "macs": self.macs, "weight_bytes": self.bytes}
        return found | ({"uncounted": list(self.uncounted)} if self.uncounted else {})


def unique(tensors: Sequence[Tensor]) -> list[Tensor]:
    """`tensors` without repetitions of one object."""
    return list({id(tensor): tensor for tensor in tensors}.values())


class _Counter(TorchDispatchMode):
    """Adds up the multiply-adds of every operation, and names those it knows nothing of."""

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
    """Multiply-adds for one image, without those of the operations that `Count.uncounted` names.

    Raises:
        SettingError: the model does not run on such an input.
    """
    return _counted(model, input_size)[0]


def _counted(model: nn.Module, input_size: InputSize) -> tuple[int, tuple[str, ...]]:
    """Multiply-adds for one image, and the operations that they leave out.

    Raises:
        SettingError: the model does not run on such an input.
    """

    def run(twin: nn.Module, images: Tensor) -> tuple[int, tuple[str, ...]]:
        with _Counter() as counter:
            twin(images)
        return counter.macs // len(images), tuple(counter.unknown)

    return dry_run(model, input_size, run)


def count(model: nn.Module, input_size: InputSize | None = None) -> Count:
    """Parameters (unique and stored), MACs for one image and bytes of `model`.

    Args:
        input_size: (channels, height, width); default: the one the model was made for, where it says so.

    Raises:
        SettingError: the model does not run on such an input, or a layer is lazy.
    """
    known = input_size_of(model)
    refuse_lazy(model)
    parameters = [p for _, p in model.named_parameters(remove_duplicate=False)]
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
