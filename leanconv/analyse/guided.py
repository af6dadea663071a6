"""Guided back-propagation through any network; activations may be modules or functions, in place or not."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

from torch import Tensor
from torch.overrides import TorchFunctionMode

from leanconv.core.errors import SettingError

# Rectifiers and similar activations: only their positive gradients pass
RECTIFIED = {
    "relu", "relu_", "relu6", "hardtanh", "leaky_relu", "leaky_relu_", "elu", "elu_", "celu", "selu", "gelu", "silu", "mish",
    "hardswish", "prelu",
}  # fmt: skip
CLAMPS = {"clamp", "clamp_", "clamp_min", "clamp_min_"}  # with a minimum of 0 these are rectifiers
# The paper's rule has no meaning for these activations. Gates (sigmoid, softmax, tanh) keep their gradient.
REFUSED = {
    "rrelu", "glu", "softplus", "softshrink", "hardshrink", "tanhshrink", "threshold", "threshold_", "logsigmoid",
}  # fmt: skip


class Guided(TorchFunctionMode):
    """A context in which activations pass only positive gradients back.

    For y = f(x): dx = f'(x) max(dy, 0). For a ReLU this is the published guided back-propagation. Smooth rectifiers follow the
    same rule with their own derivative.

    Raises:
        SettingError: the network has an activation without a rule; the error names the activation.

    Source: Springenberg et al. 2014, "Striving for Simplicity", section 3.4.
    """

    def __torch_function__(
        self, func: Callable[..., Any], types: Sequence[type], args: tuple[Any, ...] = (), kwargs: Any = None
    ) -> Any:
        kwargs = kwargs or {}
        name = getattr(func, "__name__", "")
        if name in REFUSED:
            raise SettingError(
                f"guided back-propagation has no rule for {name}; use networks with ReLU-like activations"
            )
        output = func(*args, **kwargs)
        if not (name in RECTIFIED or (name in CLAMPS and _at_zero(args, kwargs))) or not isinstance(output, Tensor):
            return output
        if output.requires_grad:
            # a hook works for in-place activations too; an autograd function would not
            output.register_hook(lambda gradient: gradient.clamp(min=0))
        return output


def _at_zero(args: tuple[Any, ...], kwargs: dict[str, Any]) -> bool:
    low = kwargs.get("min", args[1] if len(args) > 1 else None)
    return isinstance(low, int | float) and low == 0
