"""Inference forms of tied blocks: expanded into groups, folded into the batch, or matrix products for 1x1 kernels."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from leanconv.core.affine import Affine, ChannelAffine, conv_of, with_affine
from leanconv.core.block_diagonal import block_diagonal
from leanconv.core.operator import Forms
from leanconv.core.spec import ConvSpec
from leanconv.ops.forms.kernels import TiedKernel, takes
from leanconv.ops.forms.protocols import TiedBlocks


def forms(op: TiedBlocks, affine: Affine | None) -> Forms:
    """Grouped with an expanded weight (and wider groups), "batch", on GPUs "kernel", and for 1x1 kernels "rows" and "product"."""
    found = block_diagonal(op.spec, op.blocks, op.weight_dense(), op.bias_dense(), affine)
    if op.groups > 1:
        return found
    if takes(op.spec, op.weight):
        found["kernel"] = lambda: TiedKernel(op, affine)
    found["batch"] = lambda: with_affine(BlocksInBatch(op), affine)
    if op.spec.pointwise and not any(op.spec.pads):
        found["rows"] = lambda: BlockRows(op, affine)
        found["product"] = lambda: BlockProduct(op, affine)
    return found


class BlocksInBatch(nn.Module):
    """The blocks as images of the batch: the weight is not repeated, but a channels_last map is copied."""

    def __init__(self, op: TiedBlocks) -> None:
        super().__init__()
        self.blocks = op.blocks
        settings = op.spec.kwargs()
        settings |= {"in_channels": op.in_channels // op.blocks, "out_channels": op.out_channels // op.blocks}
        self.conv = conv_of(ConvSpec(**settings), op.weight, op.bias)

    def forward(self, x: Tensor) -> Tensor:
        n, c, h, w = x.shape
        y = self.conv(x.reshape(n * self.blocks, c // self.blocks, h, w))
        return y.reshape(n, y.shape[1] * self.blocks, y.shape[2], y.shape[3])


class BlockRows(nn.Module):
    """A tied 1x1 convolution as one product over the blocks of all pixels; a channels_last map is not copied."""

    def __init__(self, op: TiedBlocks, affine: Affine | None) -> None:
        super().__init__()
        self.blocks, self.stride = op.blocks, op.stride
        self.weight = nn.Parameter(op.weight.detach().flatten(1).clone(), requires_grad=False)
        self.bias = None if op.bias is None else nn.Parameter(op.bias.detach().clone(), requires_grad=False)
        self.affine = None if affine is None else ChannelAffine(affine)

    def forward(self, x: Tensor) -> Tensor:
        x = _strided(x, self.stride).permute(0, 2, 3, 1)
        n, h, w, c = x.shape
        y = F.linear(x.reshape(n, h, w, self.blocks, c // self.blocks), self.weight, self.bias)
        y = y.reshape(n, h, w, self.blocks * y.shape[4]).permute(0, 3, 1, 2)
        return y if self.affine is None else self.affine(y)


class BlockProduct(nn.Module):
    """A tied 1x1 convolution as a batch of products, one for each block; a contiguous map is not copied."""

    def __init__(self, op: TiedBlocks, affine: Affine | None) -> None:
        super().__init__()
        self.blocks, self.stride = op.blocks, op.stride
        blocks = op.weight.detach().flatten(1).repeat(1, op.blocks, 1, 1).squeeze(0)  # (B, O / B, I / B)
        bias = op.bias_dense()
        if affine is not None:
            blocks, bias = affine.weight(blocks.flatten(0, 1)).unflatten(0, (op.blocks, -1)), affine.bias(bias)
        self.weight = nn.Parameter(blocks.clone(), requires_grad=False)
        self.bias = None if bias is None else nn.Parameter(bias.view(1, -1, 1).detach().clone(), requires_grad=False)

    def forward(self, x: Tensor) -> Tensor:
        x = _strided(x, self.stride)
        n, c, h, w = x.shape
        y = torch.matmul(self.weight, x.reshape(n, self.blocks, c // self.blocks, h * w))
        y = y.reshape(n, self.blocks * y.shape[2], h * w)
        if self.bias is not None:
            y = y + self.bias
        return y.reshape(n, y.shape[1], h, w)


def _strided(x: Tensor, stride: tuple[int, int]) -> Tensor:
    return x if stride == (1, 1) else x[:, :, :: stride[0], :: stride[1]]
