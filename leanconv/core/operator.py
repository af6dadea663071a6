"""Modules that replace one convolution."""

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
from leanconv.core.filled import filled
from leanconv.core.sharing import borrowed, refuse_sharded
from leanconv.core.spec import ConvSpec, Pair
from leanconv.core.traits import SharedComponents

if TYPE_CHECKING:
    from leanconv.core.affine import Affine

FIXED = (
    "in_channels",
    "out_channels",
    "kernel_size",
    "stride",
    "padding",
    "dilation",
    "groups",
    "padding_mode",
    "spec",
)
Forms = dict[str, Callable[[], nn.Module]]  # name -> a function that builds a module for inference


@dataclass(frozen=True, slots=True)
class Signature:
    """Everything that decides an operator's speed, without the values: operators with equal signatures are equally fast.

    Args:
        kind: the operator's class.
        spec: the spec of the convolution that the operator replaces.
        settings: the operator's own settings. The name of the layer and the owner of shared weights do not belong to them.
    """

    kind: type[nn.Module]
    spec: ConvSpec
    settings: tuple[tuple[str, Any], ...] = ()

    def __str__(self) -> str:
        values = (*self.spec.kwargs().items(), *self.settings)
        return f"{self.kind.__qualname__}({', '.join(f'{name}={value!r}' for name, value in values)})"


class ConvOp(nn.Module):
    """A module that replaces one ``nn.Conv2d`` and has its attributes.

    Subclasses take ``nn.Conv2d``'s signature first and their own settings as keywords, and define `convolve`.

    An operator may override `inference_forms`, `compact_`, `shared_components` and `sums_left_out`, and may define
    `leanconv.core.release.Released.release_places`. Each has a default, so that no other package refers to an operator by
    name.

    Operators store their weights in any shape. If the operator has a parameter ``weight``, ``op.weight`` is this parameter,
    in the operator's own shape. Otherwise ``op.weight`` is a `WeightView`, the dense weight for code that reads it.
    ``op.bias`` is a tensor or None. `LinearOp.weight_dense` always is the dense weight.

    Shape:
        input: (N, I, H, W) -> (N, O, H', W'), or (I, H, W) -> (O, H', W'). H' and W' are as in nn.Conv2d.

    Raises:
        RunError: the input has another number of dimensions or channels.
    """

    transposed = False
    output_padding = (0, 0)
    straight_through: tuple[str, ...] = ()  # parameters whose gradient bypasses a choice or a rounding

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

    def __setattr__(self, name: str, value: Any) -> None:
        if name in FIXED and name in self.__dict__ and value != self.__dict__[name]:
            raise SettingError(
                f"{name}={value!r} cannot be set on a {type(self).__name__}, which was built for {self.__dict__[name]!r}; change "
                "the dense layer before convert"
            )
        super().__setattr__(name, value)

    @property
    def _reversed_padding_repeated_twice(self) -> tuple[int, int, int, int]:
        """The padding as in nn.Conv2d, for code that pads the input itself."""
        return self.spec.pads

    def _conv_forward(self, input: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
        """The convolution as in nn.Conv2d, for code that passes a changed dense weight."""
        return self.conv2d(input, weight, bias, self.groups)

    def forward(self, input: Tensor) -> Tensor:  # torch's name, by which a network may pass it
        if isinstance(input, Tensor):  # a proxy of FX is no tensor and has no rank: FX traces batches
            if input.dim() == 3:
                return self.forward(input.unsqueeze(0)).squeeze(0)
            # under torch.jit.trace sizes are tensors
            if input.dim() != 4 or not (_is_tracing() or input.shape[1] == self.in_channels):
                channels = self.in_channels
                raise RunError(
                    f"an input of shape {tuple(input.shape)} does not fit this {type(self).__name__}: it must be "
                    f"(N, {channels}, H, W), or ({channels}, H, W) for one image"
                )
        return self.convolve(input)

    def convolve(self, x: Tensor) -> Tensor:
        """The operator on a batch: (N, I, H, W) -> (N, O, H', W')."""
        raise NotImplementedError(f"{type(self).__name__} has neither convolve nor a forward of its own")

    def conv2d(self, x: Tensor, weight: Tensor, bias: Tensor | None, groups: int = 1) -> Tensor:
        """``F.conv2d`` with the stride, padding, padding mode and dilation of the convolution that this operator replaces."""
        refuse_sharded(weight, x)
        padding: Pair | str = self.padding
        if self.padding_mode != "zeros":
            x = F.pad(x, self.spec.pads, mode=self.padding_mode)
            padding = (0, 0)
        return F.conv2d(x, weight, bias, self.stride, padding, self.dilation, groups)

    def _replicate_for_data_parallel(self) -> nn.Module:
        """A copy for ``nn.DataParallel``, whose copies would all borrow weights from the first device.

        Raises:
            TieError: this operator borrows weights.
        """
        if any(True for _ in borrowed(self)):
            raise TieError("DataParallel copies layers without what they share; use DistributedDataParallel (torchrun)")
        return super()._replicate_for_data_parallel()

    def __prepare_scriptable__(self) -> nn.Module:
        """What torch.jit.script would compile.

        Raises:
            RunError: always; TorchScript compiles no operator of leanconv from its source.
        """
        raise RunError(
            f"torch.jit.script cannot compile {type(self).__name__}; trace it with torch.jit.trace(model, image), use "
            "torch.compile, or export the network with leanconv.export"
        )

    def settings(self) -> dict[str, Any]:
        """The operator's own settings that decide its shapes and its speed: numbers, flags, words, and tuples of these."""
        return {"shown": self.settings_repr()}

    def inference_forms(self, affine: Affine | None) -> Forms:
        """Modules that compute exactly the same in eval mode: for each form a name and a function that builds the module.

        `leanconv.optimize` measures the forms and takes the fastest form; without measurements it takes the first form.
        It adds the dense convolution of a `LinearOp` and the operator itself, so they are not needed here. A subclass that
        changes `convolve` or `weight_dense` does not inherit the forms of its parent.

        Args:
            affine: the norm after the operator, which each form takes in; None without a norm.
        """
        return {}

    def compact_(self) -> None:
        """Compute from now on without expanding or stacking weights, so that an exported file holds each weight once."""

    def rescale_(self, scale: Tensor) -> bool:
        """Multiply each output, without its bias, by `scale` (O) in place; False if this operator cannot do so.

        Where outputs share a filter, the filter takes the mean of their factors.
        """
        return False

    def shift_(self, shift: Tensor) -> bool:
        """Add `shift` (O) to the outputs, in the bias and in place; False if this operator has no bias of its own.

        Where outputs share a bias, the bias takes the mean of their shifts. Outputs without a bias stay as they are.
        """
        bias = self._parameters.get("bias")  # not the bias that several layers share
        if bias is None:
            return False
        bias.add_(shift.unflatten(0, (self.groups, -1, len(bias) // self.groups)).mean(1).flatten())
        return True

    def shared_components(self) -> SharedComponents | None:
        """The filters that this layer shares with others and its coefficients, for analyses; None without shared filters."""
        return None

    def sums_left_out(self, out: Tensor) -> int:
        """The additions of average pools that the paper's computation of `out` has and this module leaves out.

        The counts of papers include these additions.
        """
        return 0

    def signature(self) -> Signature:
        """The class, the spec and the settings of this operator, without its values."""
        return Signature(type(self), self.spec, tuple(self.settings().items()))

    def settings_repr(self) -> str:
        """The operator's own settings, for `repr`."""
        return ""

    def extra_repr(self) -> str:
        own = self.settings_repr()
        return f"{self.spec}, {own}" if own else str(self.spec)


class LinearOp(ConvOp):
    """An operator that equals one dense convolution and returns the dense weights."""

    @abstractmethod
    def weight_dense(self) -> Tensor:
        """The weight of the dense convolution that this operator equals: (O, I / groups, kh, kw).

        Raises:
            RunError: in training mode, if a norm between the factors uses the statistics of the batch.
        """

    @abstractmethod
    def bias_dense(self) -> Tensor | None:
        """The bias (O) of the dense convolution that this operator equals; None without a bias."""

    @torch.no_grad()
    def to_conv(self) -> nn.Conv2d:
        """The plain convolution that this operator equals.

        Raises:
            SettingError: the dense weight holds NaN or infinity, for example after a norm with a negative running variance.
        """
        weight, bias = self.weight_dense(), self.bias_dense()
        settings = {**self.spec.kwargs(), "bias": bias is not None}
        return filled(nn.Conv2d(**settings, device=weight.device, dtype=weight.dtype), self, weight, bias)
