"""Modules that stand in for one convolution."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.jit import is_tracing as _is_tracing  # type: ignore[attr-defined]

from leanconv.core.errors import RunError, SettingError, TieError
from leanconv.core.sharing import borrowed, parameters_in_use
from leanconv.core.spec import ConvSpec, Pair
from leanconv.core.traits import SharedComponents

if TYPE_CHECKING:
    from leanconv.core.affine import Affine

Forms = dict[str, Callable[[], nn.Module]]  # name -> what builds a module for inference


@dataclass(frozen=True, slots=True)
class Signature:
    """What an operator computes with, its values apart: two operators with the same one take the same time.

    Args:
        kind: its class.
        settings: its own, beside the convolution's; neither its name nor who owns what it shares.
    """

    kind: type[nn.Module]
    spec: ConvSpec
    settings: tuple[tuple[str, Any], ...] = ()

    def __str__(self) -> str:
        values = (*self.spec.kwargs().items(), *self.settings)
        return f"{self.kind.__qualname__}({', '.join(f'{name}={value!r}' for name, value in values)})"


class ConvOp(nn.Module):
    """A module that stands in for one ``nn.Conv2d`` and shows its attributes.

    Subclasses take ``nn.Conv2d``'s signature first and their own settings as keywords, and give `convolve`.

    What else an operator knows about itself it answers where it is asked: `inference_forms`, `compact_`,
    `shared_components`, `sums_left_out`, and, with a method of that name, `leanconv.core.release.Released.release_places`.
    Each has a default, so that no other package has to know an operator by name.

    They hold their weights in whatever shape they like. ``op.weight`` is a parameter of that name where the operator has one,
    in the operator's own shape, and otherwise a `WeightView`: the dense weight for code that reads it. ``op.bias`` is a tensor or
    None. What always is the dense weight is `LinearOp.weight_dense`.

    Shape:
        x: (N, I, H, W) -> (N, O, H', W'), or (I, H, W) -> (O, H', W'), H' and W' as in nn.Conv2d.

    Raises:
        RunError: an input of another rank or with other channels.
    """

    transposed = False
    output_padding = (0, 0)
    straight_through: tuple[str, ...] = ()  # parameters that gradients pass straight to, past a choice or a rounding

    def __init__(
        self,
        in_channels: int,
        out_channels: int,
        kernel_size: int | Pair,
        stride: int | Pair,
        padding: int | Pair | str,
        dilation: int | Pair,
        groups: int,
        bias: bool,
        padding_mode: str,
    ) -> None:
        super().__init__()
        self.spec = spec = ConvSpec(
            in_channels,
            out_channels,
            kernel_size,  # type: ignore[arg-type]  # normalised by ConvSpec
            stride,  # type: ignore[arg-type]
            padding,  # type: ignore[arg-type]
            dilation,  # type: ignore[arg-type]
            groups,
            bias,
            padding_mode,
        )
        self.in_channels = spec.in_channels
        self.out_channels = spec.out_channels
        self.kernel_size = spec.kernel_size
        self.stride = spec.stride
        self.padding = spec.padding
        self.dilation = spec.dilation
        self.groups = spec.groups
        self.padding_mode = spec.padding_mode

    @property
    def _reversed_padding_repeated_twice(self) -> tuple[int, int, int, int]:
        """As in nn.Conv2d: code that pads by hand reads it."""
        return self.spec.pads

    def _conv_forward(self, input: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
        """As in nn.Conv2d: code that changes the weight on its way calls it with a dense one."""
        return self.conv2d(input, weight, bias, self.groups)

    def forward(self, x: Tensor) -> Tensor:
        if isinstance(x, Tensor):  # what FX traces with is none, and has no rank: it traces batches
            if x.dim() == 3:
                return self.forward(x.unsqueeze(0)).squeeze(0)
            # under torch.jit.trace sizes are tensors
            if x.dim() != 4 or not (_is_tracing() or x.shape[1] == self.in_channels):
                channels = self.in_channels
                raise RunError(
                    f"an input of shape {tuple(x.shape)} does not fit this {type(self).__name__}: it must be "
                    f"(N, {channels}, H, W), or ({channels}, H, W) for one image"
                )
        return self.convolve(x)

    def convolve(self, x: Tensor) -> Tensor:
        """The operator on a batch: (N, I, H, W) -> (N, O, H', W')."""
        raise NotImplementedError(f"{type(self).__name__} has neither convolve nor a forward of its own")

    def conv2d(self, x: Tensor, weight: Tensor, bias: Tensor | None, groups: int = 1) -> Tensor:
        """``F.conv2d`` with the stride, padding, padding mode and dilation of the convolution this stands for."""
        padding: Pair | str = self.padding
        if self.padding_mode != "zeros":
            x = F.pad(x, self.spec.pads, mode=self.padding_mode)
            padding = (0, 0)
        return F.conv2d(x, weight, bias, self.stride, padding, self.dilation, groups)

    def _replicate_for_data_parallel(self) -> nn.Module:
        """What ``nn.DataParallel`` calls for its copies, which would all borrow from the first device.

        Raises:
            TieError: this operator borrows weights.
        """
        if any(True for _ in borrowed(self)):
            raise TieError("DataParallel copies layers without what they share; use DistributedDataParallel (torchrun)")
        return super()._replicate_for_data_parallel()

    def settings(self) -> dict[str, Any]:
        """Everything but the spec that decides what it computes and in which shapes: numbers, flags, words and tuples of them."""
        return {"shown": self.settings_repr()}

    def inference_forms(self, affine: Affine | None) -> Forms:
        """Exactly equal ways to compute in eval mode what this operator computes: a name, and what builds the module.

        `leanconv.optimize` measures them and takes the quickest; the first is taken where nothing is measured. It adds the
        dense convolution of a `LinearOp` and the operator itself, so that none is needed here. A subclass that changes
        `convolve` or `weight_dense` has the forms of its parent no more.

        Args:
            affine: the norm behind the operator, which every form takes in; None where there is none.
        """
        return {}

    def compact_(self) -> None:
        """Compute from now on without expanding or stacking weights, so that an exported file holds each of them once."""

    def shared_components(self) -> SharedComponents | None:
        """The filters that this layer shares with others and what it makes of them, for analyses; None where it has none."""
        return None

    def sums_left_out(self, out: Tensor) -> int:
        """What the paper's way of computing `out` adds up in average pools and this one does not; a paper's count has it."""
        return 0

    def signature(self) -> Signature:
        """What tells it from other operators, its values apart."""
        return Signature(type(self), self.spec, tuple(self.settings().items()))

    def settings_repr(self) -> str:
        """The operator's own settings, for `repr`."""
        return ""

    def extra_repr(self) -> str:
        own = self.settings_repr()
        return f"{self.spec}, {own}" if own else str(self.spec)


class LinearOp(ConvOp):
    """An operator that equals one dense convolution and can show it."""

    @abstractmethod
    def weight_dense(self) -> Tensor:
        """The dense weight this operator stands for, in the convolution's own shape (out, in / groups, kh, kw).

        Raises:
            RunError: in training mode, where a norm between the factors uses the statistics of its batch.
        """

    @abstractmethod
    def bias_dense(self) -> Tensor | None:
        """The dense bias, or None where there is none."""

    @torch.no_grad()
    def to_conv(self) -> nn.Conv2d:
        """The plain convolution this operator equals.

        Raises:
            SettingError: its weight holds NaN or infinity, as that of a norm with a negative variance does.
        """
        weight, bias = self.weight_dense(), self.bias_dense()
        if not weight.is_meta and not all(bool(part.isfinite().all()) for part in (weight, bias) if part is not None):
            raise SettingError(
                f"{type(self).__name__}({self.extra_repr()}) stands for a weight with NaN or infinity: one of its parameters "
                "holds it, or its norm has a negative running variance; load weights that are whole"
            )
        settings = {**self.spec.kwargs(), "bias": bias is not None}
        conv = nn.Conv2d(**settings, device=weight.device, dtype=weight.dtype)
        conv.weight.copy_(weight)
        if bias is not None:
            assert conv.bias is not None
            conv.bias.copy_(bias)
        conv.requires_grad_(any(parameter.requires_grad for parameter in parameters_in_use([self])))
        return conv.train(self.training)
