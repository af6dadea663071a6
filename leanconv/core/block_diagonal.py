"""Block-diagonal weights: one group for each block, or fewer and wider groups that hold zeros."""

from __future__ import annotations

from dataclasses import replace

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from leanconv.core.affine import Affine, conv_of, folded
from leanconv.core.operator import Forms
from leanconv.core.spec import ConvSpec, divisors

VECTOR = 16  # float32 numbers of an AVX-512 vector


def block_diagonal(spec: ConvSpec, ways: int, dense: Tensor, bias: Tensor | None, affine: Affine | None) -> Forms:
    """Inference forms of a convolution whose weight has `ways` blocks on the diagonal of each host group.

    Processors compute wide groups faster: below 16 channels, a merged group takes no longer than its parts.

    Args:
        dense: the weight with its zeros, (O, I / G, kh, kw).
        bias: (O), or None.
        affine: the norm after the convolution, which each form takes in; None without a norm.
    """
    weight, shift = folded(dense, bias, affine)
    found: Forms = {}
    for parts in reversed(divisors(ways)):
        groups = spec.groups * parts
        name = "dense" if parts == 1 else "grouped" if parts == ways else f"grouped({groups})"
        found[name] = lambda groups=groups: conv_of(spec, diagonal(weight, spec.groups, groups), shift, groups)  # type: ignore[misc]
    ways *= spec.groups
    if ways > 1 and not_whole(spec, ways):
        found[f"padded({whole(spec.in_channels // ways)})"] = lambda: PaddedGroups(
            spec, ways, diagonal(weight, spec.groups, ways), shift
        )
    return found


def whole(width: int) -> int:
    """`width`, rounded up to whole vectors.

    >>> whole(18)
    32
    """
    return -(-width // VECTOR) * VECTOR


def not_whole(spec: ConvSpec, groups: int) -> bool:
    """Whether `groups` groups leave widths that are no whole vectors; depthwise convolutions have kernels of their own."""
    widths = (spec.in_channels // groups, spec.out_channels // groups)
    return widths[0] > 1 and any(width % VECTOR for width in widths)


class PaddedGroups(nn.Module):
    """A convolution with groups, whose inputs and outputs are filled up to whole vectors with zeros; the result is the same.

    It copies the feature map twice, so it pays only where a runtime is slow on the real width.

    Args:
        spec: the convolution.
        groups: all groups.
        weight: (O, I / groups, kh, kw).
        bias: (O), or None.
    """

    def __init__(self, spec: ConvSpec, groups: int, weight: Tensor, bias: Tensor | None) -> None:
        super().__init__()
        self.groups, (self.inputs, self.outputs) = groups, (weight.shape[1], len(weight) // groups)
        self.more = whole(self.inputs) - self.inputs
        rows = whole(self.outputs) - self.outputs
        wide = F.pad(weight.unflatten(0, (groups, -1)), (0, 0, 0, 0, 0, self.more, 0, rows)).flatten(0, 1)
        shift = None if bias is None else F.pad(bias.unflatten(0, (groups, -1)), (0, rows)).flatten()
        self.conv = conv_of(replace(spec, groups=1), wide, shift, groups)

    def forward(self, x: Tensor) -> Tensor:
        n, c, h, w = x.shape
        x = F.pad(x.reshape(n, self.groups, self.inputs, h, w), (0, 0, 0, 0, 0, self.more))
        y = self.conv(x.reshape(n, self.groups * (self.inputs + self.more), h, w))
        n, c, h, w = y.shape
        y = y.reshape(n, self.groups, c // self.groups, h, w)[:, :, : self.outputs]
        return y.reshape(n, self.groups * self.outputs, h, w)


def diagonal(dense: Tensor, host_groups: int, groups: int) -> Tensor:
    """The blocks on the diagonal of a dense weight (O, I / G, kh, kw), as the weight (O, I / groups, kh, kw).

    >>> diagonal(torch.eye(4)[:, :, None, None], 1, 2).flatten(1)
    tensor([[1., 0.],
            [0., 1.],
            [1., 0.],
            [0., 1.]])
    """
    parts = groups // host_groups
    width = dense.shape[1] // parts
    rows = dense.chunk(groups)
    return torch.cat([row[:, index % parts * width : (index % parts + 1) * width] for index, row in enumerate(rows)])
