"""Block-diagonal weights: as many groups as there are blocks, or fewer and wider ones that hold zeros."""

from __future__ import annotations

import torch
from torch import Tensor

from leanconv.core.affine import Affine, conv_of, folded
from leanconv.core.operator import Forms
from leanconv.core.spec import ConvSpec, divisors


def block_diagonal(spec: ConvSpec, ways: int, dense: Tensor, bias: Tensor | None, affine: Affine | None) -> Forms:
    """Forms of a convolution whose weight has `ways` blocks on the diagonal of each host group.

    Vectors and matrix units want wide groups: below 16 channels a merged group takes no longer than its parts.

    Args:
        dense: the weight with its zeros, (O, I / G, kh, kw).
    """
    weight, shift = folded(dense, bias, affine)
    found: Forms = {}
    for parts in reversed(divisors(ways)):
        groups = spec.groups * parts
        name = "dense" if parts == 1 else "grouped" if parts == ways else f"grouped({groups})"
        found[name] = lambda groups=groups: conv_of(spec, diagonal(weight, spec.groups, groups), shift, groups)  # type: ignore[misc]
    return found


def diagonal(dense: Tensor, host_groups: int, groups: int) -> Tensor:
    """The part of a dense weight (O, I / G, kh, kw) that `groups` groups hold: (O, I / groups, kh, kw)."""
    parts = groups // host_groups
    width = dense.shape[1] // parts
    rows = dense.chunk(groups)
    return torch.cat([row[:, index % parts * width : (index % parts + 1) * width] for index, row in enumerate(rows)])
