"""Forms that are one Triton kernel; if the kernel cannot run (another device, float64), they compute the same with torch."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from leanconv.core.affine import Affine, folded
from leanconv.core.spec import ConvSpec
from leanconv.ops.forms.protocols import Factors, TiedBlocks
from leanconv.ops.kernels import available

MOST_COMPONENTS = 128  # components of a pixel that fit in registers


def takes(spec: ConvSpec, tensor: Tensor) -> bool:
    """Whether the kernels support this convolution: one group, and zero padding that is equal on both sides."""
    left, right, top, bottom = spec.pads
    return available(tensor) and spec.groups == 1 and spec.padding_mode == "zeros" and left == right and top == bottom


def usable(x: Tensor) -> bool:
    """Whether a kernel supports the dtype and the device of `x`."""
    return x.dtype in (torch.float32, torch.float16, torch.bfloat16) and available(x)


def _fixed(value: Tensor) -> nn.Parameter:
    return nn.Parameter(value.detach().clone().contiguous(), requires_grad=False)


class TiedKernel(nn.Module):
    """A tied block convolution that reads the thin bank, with bias and norm in its epilogue."""

    def __init__(self, op: TiedBlocks, affine: Affine | None) -> None:
        super().__init__()
        spec, ones = op.spec, op.weight.new_ones(op.out_channels)
        self.blocks, self.stride, self.dilation = op.blocks, spec.stride, spec.dilation
        self.padding = (spec.pads[2], spec.pads[0])
        bias = op.bias_dense()
        self.bank = _fixed(op.weight.permute(2, 3, 1, 0))
        self.scale = _fixed(ones if affine is None else affine.scale)
        shift = torch.zeros_like(ones) if bias is None else bias
        self.shift = _fixed(shift if affine is None else affine.bias(bias))

    def forward(self, x: Tensor) -> Tensor:
        if usable(x):
            from leanconv.ops.kernels.tied_conv import tied_conv

            y: Tensor = tied_conv(
                x, self.bank, self.scale, self.shift, self.blocks, self.stride, self.padding, self.dilation
            )
            return y
        weight = torch.cat([self.bank.permute(3, 2, 0, 1)] * self.blocks) * self.scale.view(-1, 1, 1, 1)
        return F.conv2d(x, weight, self.shift, self.stride, self.padding, self.dilation, self.blocks)


class BasisKernel(nn.Module):
    """Components and coefficients in one kernel, which never writes the maps of the components to memory."""

    def __init__(self, op: Factors, affine: Affine | None) -> None:
        super().__init__()
        spec = op.spec
        components, inner = folded(op.components(), None, None if op.norm is None else Affine.of(op.norm))
        coefficients, shift = folded(op.coefficients, op.bias, affine)
        self.stride, self.dilation, self.padding = spec.stride, spec.dilation, (spec.pads[2], spec.pads[0])
        self.components = _fixed(components.permute(2, 3, 1, 0))
        self.inner = _fixed(components.new_zeros(len(components)) if inner is None else inner)
        self.coefficients = _fixed(coefficients.flatten(1).t())
        self.shift = _fixed(coefficients.new_zeros(op.out_channels) if shift is None else shift)

    def forward(self, x: Tensor) -> Tensor:
        if usable(x):
            from leanconv.ops.kernels.basis_conv import basis_conv

            y: Tensor = basis_conv(
                x, self.components, self.inner, self.coefficients, self.shift, self.stride, self.padding, self.dilation
            )
            return y
        mixed = F.conv2d(x, self.components.permute(3, 2, 0, 1), self.inner, self.stride, self.padding, self.dilation)
        return F.conv2d(mixed, self.coefficients.t()[:, :, None, None], self.shift)
