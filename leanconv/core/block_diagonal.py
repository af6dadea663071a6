"""Block-diagonal weights: one group for each block, or fewer and wider groups that hold zeros."""

from __future__ import annotations

import torch
from torch import Tensor

from leanconv.core.affine import Affine, conv_of, folded
from leanconv.core.operator import Forms
from leanconv.core.spec import ConvSpec, divisors


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
    return found


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
