"""Guided back-propagation through any network: module or function, in place or not."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

from torch import Tensor
from torch.overrides import TorchFunctionMode

from leanconv.core.errors import SettingError

# Rectifiers and what stands for them: their gradient passes where it is positive
RECTIFIED = {
    "relu", "relu_", "relu6", "hardtanh", "leaky_relu", "leaky_relu_", "elu", "elu_", "celu", "selu", "gelu", "silu", "mish",
    "hardswish", "prelu",
}  # fmt: skip
CLAMPS = {"clamp", "clamp_", "clamp_min", "clamp_min_"}  # at 0 they are rectifiers
# For these the paper's rule has no meaning, and none is agreed on. Gates (sigmoid, softmax, tanh) keep their gradient.
REFUSED = {
    "rrelu", "glu", "softplus", "softshrink", "hardshrink", "tanhshrink", "threshold", "threshold_", "logsigmoid",
}  # fmt: skip


class Guided(TorchFunctionMode):
    """While it is active, activations pass only positive gradients back.

    With y = f(x): dx = f'(x) max(dy, 0), which for a ReLU is guided back-propagation as it was published; for smooth rectifiers
    it is the same rule with their own derivative.

    Raises:
        SettingError: an activation that has no such rule, by its name.

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
            # a hook, and no node of its own, so that in-place activations are served alike
            output.register_hook(lambda gradient: gradient.clamp(min=0))
        return output


def _at_zero(args: tuple[Any, ...], kwargs: dict[str, Any]) -> bool:
    low = kwargs.get("min", args[1] if len(args) > 1 else None)
    return isinstance(low, int | float) and low == 0
