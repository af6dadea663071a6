"""Modules that stand in for one linear layer."""

from __future__ import annotations

from abc import abstractmethod

import torch
from torch import Tensor, nn
from torch.jit import is_tracing as _is_tracing  # type: ignore[attr-defined]

from leanconv.core.errors import RunError, SettingError
from leanconv.core.sharing import parameters_in_use
from leanconv.core.spec import ConvSpec


class LeanLinear(nn.Module):
    """A module that stands in for one ``nn.Linear`` and shows its attributes.

    Subclasses take ``nn.Linear``'s signature first, or a convolution operator that they wrap. As with `ConvOp`, ``weight`` and
    ``bias`` may have shapes of their own; what always is the dense weight is `weight_dense`.

    Shape:
        x: (*, I) -> (*, O), any leading dimensions.

    Raises:
        RunError: an input with other features.
    """

    def __init__(self, in_features: int, out_features: int, bias: bool) -> None:
        super().__init__()
        self.spec = ConvSpec(in_features, out_features, (1, 1), bias=bias)
        self.in_features = in_features
        self.out_features = out_features

    def check_input(self, x: Tensor) -> None:
        """Raise RunError where `x` has other features; what FX traces with is no tensor, and passes."""
        features = self.in_features
        # under torch.jit.trace sizes are tensors
        if isinstance(x, Tensor) and not (x.dim() and (_is_tracing() or x.shape[-1] == features)):
            raise RunError(
                f"an input of shape {tuple(x.shape)} does not fit this {type(self).__name__}: its last dimension must be "
                f"{features}, as in (*, {features})"
            )

    @property
    def equals_dense(self) -> bool:
        """Whether it equals one ``nn.Linear``; a gate or an activation inside says no."""
        return True

    @abstractmethod
    def weight_dense(self) -> Tensor:
        """The weight of the ``nn.Linear`` this equals: (O, I).

        Raises:
            RunError: it equals none, at all or in training mode.
        """

    @abstractmethod
    def bias_dense(self) -> Tensor | None:
        """Its bias, (O), or None where there is none."""

    @torch.no_grad()
    def to_linear(self) -> nn.Linear:
        """The plain linear layer this equals.

        Raises:
            SettingError: its weight holds NaN or infinity.
            RunError: it equals none.
        """
        weight, bias = self.weight_dense(), self.bias_dense()
        if not weight.is_meta and not all(bool(part.isfinite().all()) for part in (weight, bias) if part is not None):
            raise SettingError(
                f"{type(self).__name__}({self.extra_repr()}) stands for a weight with NaN or infinity: one of its parameters "
                "holds it, or its norm has a negative running variance; load weights that are whole"
            )
        out_features, in_features = weight.shape
        linear = nn.Linear(in_features, out_features, bias is not None, device=weight.device, dtype=weight.dtype)
        linear.weight.copy_(weight)
        if bias is not None:
            linear.bias.copy_(bias)
        linear.requires_grad_(any(parameter.requires_grad for parameter in parameters_in_use([self])))
        return linear.train(self.training)

    def extra_repr(self) -> str:
        return f"in_features={self.in_features}, out_features={self.out_features}"


def pointwise(linear: nn.Linear) -> nn.Conv2d:
    """The 1x1 convolution that `linear` is at each position, with the same weights, not copied."""
    conv = nn.Conv2d(**ConvSpec.of_linear(linear).kwargs(), device="meta")
    conv.weight = nn.Parameter(linear.weight.detach()[:, :, None, None], requires_grad=False)
    conv.bias = None if linear.bias is None else nn.Parameter(linear.bias.detach(), requires_grad=False)
    return conv.train(linear.training)
