"""`WeightView`: the attribute ``weight`` of an operator that has no tensor of this name."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from leanconv.core.errors import RunError

if TYPE_CHECKING:
    from leanconv.core.operator import ConvOp

# Attributes and methods of a tensor that do not need its values
_KIND = {
    "device", "dtype", "is_cpu", "is_cuda", "is_meta", "is_mps", "is_xpu", "is_quantized", "is_sparse", "layout",
    "element_size", "get_device", "is_complex", "is_floating_point", "new_empty", "new_full", "new_ones", "new_tensor",
    "new_zeros",
}  # fmt: skip
_WRITES = {"data", "grad_fn", "is_leaf", "backward", "register_hook", "retain_grad"}


class WeightView:
    """The dense weight of an operator, for code that reads ``conv.weight``.

    Dtype, device, shape and similar attributes cost nothing. In a computation, the view is `LinearOp.weight_dense()`,
    computed again each time, with gradients to the operator's parameters.

    Args:
        op: the operator.
        like: a parameter of the operator, for dtype and device.

    Raises:
        RunError: code computes with the view of an operator that equals no dense convolution (in this mode), or code
            changes the view.
    """

    def __init__(self, op: ConvOp, like: Tensor) -> None:
        self._op = op
        self._like = like

    @property
    def shape(self) -> torch.Size:
        """The shape of the dense weight."""
        return torch.Size(self._op.spec.weight_shape)

    @property
    def ndim(self) -> int:
        """The number of dimensions."""
        return 4

    @property
    def requires_grad(self) -> bool:
        """Whether the operator's parameters are trained."""
        return self._like.requires_grad

    @property
    def grad(self) -> None:
        """None: the operator's parameters have gradients, and this weight has none."""
        return None

    def is_contiguous(self, memory_format: torch.memory_format = torch.contiguous_format) -> bool:
        """Whether the dense weight has this layout; it is computed in the contiguous one."""
        return memory_format == torch.contiguous_format

    def dim(self) -> int:
        """The number of dimensions."""
        return 4

    def size(self, dim: int | None = None) -> Any:
        """The shape, or the size of one dimension."""
        return self.shape if dim is None else self.shape[dim]

    def numel(self) -> int:
        """The number of elements of the dense weight."""
        return self.shape.numel()

    def __len__(self) -> int:
        return self.shape[0]

    def __repr__(self) -> str:
        return f"WeightView(shape={tuple(self.shape)}, dtype={self._like.dtype}, device={self._like.device})"

    def dense(self) -> Tensor:
        """The dense weight as a tensor.

        Raises:
            RunError: the operator equals no dense convolution.
        """
        weight_dense: Callable[[], Tensor] | None = getattr(self._op, "weight_dense", None)
        if weight_dense is None:
            raise RunError(
                f"{type(self._op).__name__} has no single weight to compute with: it equals no dense convolution; call the "
                "layer itself, or keep this convolution dense with exclude="
            )
        return weight_dense()

    def _refuse(self, what: str) -> None:
        raise RunError(
            f"{what} would change the weight of {type(self._op).__name__}, which is computed from its parameters; "
            "set those, or call its reset_parameters()"
        )

    def __getattr__(self, name: str) -> Any:
        if name.startswith("__"):
            raise AttributeError(name)
        if name in _KIND:
            return getattr(self._like, name)
        if name in _WRITES or name.endswith("_"):  # in torch, the name of a method that changes a tensor ends in _
            self._refuse(name)
        return getattr(self.dense(), name)

    def __setattr__(self, name: str, value: Any) -> None:
        if name not in ("_op", "_like"):
            self._refuse(f"setting {name}")
        super().__setattr__(name, value)

    def __setitem__(self, index: Any, value: Any) -> None:
        self._refuse("an assignment")

    @classmethod
    def __torch_function__(
        cls, func: Callable[..., Any], types: Any, args: tuple[Any, ...] = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        if func in (Tensor.to, Tensor.type_as) and not isinstance(args[0], cls):  # x.to(weight): its dtype and device
            args = tuple(arg._like if isinstance(arg, cls) else arg for arg in args)
            return func(*args, **(kwargs or {}))
        name = getattr(func, "__name__", "")
        first = args[0] if args else (kwargs or {}).get("tensor", (kwargs or {}).get("input"))
        if isinstance(first, cls) and name.endswith("_") and not name.endswith("__"):
            first._refuse(name)
        kwargs = {name: _dense(value) for name, value in (kwargs or {}).items()}
        return func(*(_dense(arg) for arg in args), **kwargs)

    def __fx_create_arg__(self, tracer: Any) -> Any:
        return tracer.create_arg(self.dense())


def _dense(value: Any) -> Any:
    if isinstance(value, list | tuple):
        return type(value)(_dense(item) for item in value)
    return value.dense() if isinstance(value, WeightView) else value


def _forwarded(name: str) -> Callable[..., Any]:
    def method(self: WeightView, *args: Any) -> Any:
        return getattr(self.dense(), name)(*(_dense(arg) for arg in args))

    method.__name__ = name
    return method


for _name in (
    "add", "radd", "sub", "rsub", "mul", "rmul", "truediv", "rtruediv", "pow", "rpow", "matmul", "rmatmul", "neg", "abs",
    "getitem", "iter", "eq", "ne", "lt", "le", "gt", "ge", "float", "array",
):  # fmt: skip
    setattr(WeightView, f"__{_name}__", _forwarded(f"__{_name}__"))
WeightView.__hash__ = object.__hash__  # type: ignore[method-assign]
