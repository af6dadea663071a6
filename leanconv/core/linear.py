"""Modules that replace one linear layer."""

from __future__ import annotations

from abc import abstractmethod

import torch
from torch import Tensor, nn
from torch.jit import is_tracing as _is_tracing  # type: ignore[attr-defined]

from leanconv.core.errors import RunError
from leanconv.core.filled import filled
from leanconv.core.spec import ConvSpec


class LeanLinear(nn.Module):
    """A module that replaces one ``nn.Linear`` and has its attributes.

    Subclasses take ``nn.Linear``'s signature first, or a convolution operator that they wrap. As in `ConvOp`, ``weight`` and
    ``bias`` may have other shapes than in ``nn.Linear``; `weight_dense` always is the dense weight.

    Shape:
        input: (*, I) -> (*, O), any leading dimensions. The parameter of ``forward`` has this name, as in ``nn.Linear``.

    Raises:
        RunError: the last dimension of the input is not `in_features`.
    """

    def __init__(self, in_features: int, out_features: int, bias: bool) -> None:
        super().__init__()
        self.spec = ConvSpec(in_features, out_features, (1, 1), bias=bias)
        self.in_features = in_features
        self.out_features = out_features

    def check_input(self, x: Tensor) -> None:
        """Raise RunError if the last dimension of `x` is not `in_features`; the proxies of FX pass."""
        features = self.in_features
        # under torch.jit.trace sizes are tensors
        if isinstance(x, Tensor) and not (x.dim() and (_is_tracing() or x.shape[-1] == features)):
            raise RunError(
                f"an input of shape {tuple(x.shape)} does not fit this {type(self).__name__}: its last dimension must be "
                f"{features}, as in (*, {features})"
            )

    @property
    def equals_dense(self) -> bool:
        """Whether the module equals one ``nn.Linear``; False when it has a gate or an activation inside."""
        return True

    @abstractmethod
    def weight_dense(self) -> Tensor:
        """The weight (O, I) of the ``nn.Linear`` that this module equals.

        Raises:
            RunError: the module equals no ``nn.Linear``, or not in training mode.
        """

    @abstractmethod
    def bias_dense(self) -> Tensor | None:
        """The bias (O) of the ``nn.Linear`` that this module equals; None without a bias."""

    @torch.no_grad()
    def to_linear(self) -> nn.Linear:
        """The plain linear layer that this module equals.

        Raises:
            SettingError: the dense weight holds NaN or infinity.
            RunError: the module equals no ``nn.Linear``.
        """
        weight, bias = self.weight_dense(), self.bias_dense()
        out_features, in_features = weight.shape
        linear = nn.Linear(in_features, out_features, bias is not None, device=weight.device, dtype=weight.dtype)
        return filled(linear, self, weight, bias)

    def extra_repr(self) -> str:
        return f"in_features={self.in_features}, out_features={self.out_features}"


def pointwise(linear: nn.Linear) -> nn.Conv2d:
    """The 1x1 convolution that equals `linear` at each position; the weights are shared, not copied.

    >>> pointwise(nn.Linear(8, 16))
    Conv2d(8, 16, kernel_size=(1, 1), stride=(1, 1))
    """
    conv = nn.Conv2d(**ConvSpec.of_linear(linear).kwargs(), device="meta")
    conv.weight = nn.Parameter(linear.weight.detach()[:, :, None, None], requires_grad=False)
    conv.bias = None if linear.bias is None else nn.Parameter(linear.bias.detach(), requires_grad=False)
    return conv.train(linear.training)
