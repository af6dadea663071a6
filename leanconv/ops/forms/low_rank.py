"""Inference forms of a chain of thin convolutions, such as the factors of a low-rank convolution."""

from __future__ import annotations

from dataclasses import dataclass

import torch.nn.functional as F
from torch import Tensor, nn

from leanconv.core.affine import Affine, conv_of, folded
from leanconv.core.operator import Forms
from leanconv.core.spec import ConvSpec
from leanconv.ops.forms.kernels import MOST_COMPONENTS, BasisKernel, takes
from leanconv.ops.forms.protocols import Chain
from leanconv.ops.forms.shared_basis import LANES


@dataclass(frozen=True)
class _TwoFactors:
    """A k x k and a 1x1 factor under the names that the kernel reads."""

    spec: ConvSpec
    first: Tensor
    coefficients: Tensor
    bias: Tensor | None
    norm: nn.BatchNorm2d | None = None

    @property
    def out_channels(self) -> int:
        return self.spec.out_channels

    def components(self) -> Tensor:
        return self.first


def forms(op: Chain, affine: Affine | None) -> Forms:
    """The factors as plain convolutions; the same with empty filters up to whole vectors; on GPUs one kernel."""
    found: Forms = {"factors": lambda: _chain(op, affine, 1)}
    widths = [link.out_channels for link in op.links[:-1]]
    if op.spec.groups == 1 and any(width % LANES for width in widths):
        found["factors, padded"] = lambda: _chain(op, affine, LANES)
    first, last = op.links[0].weight, op.links[-1]
    if op.factors == "pointwise" and widths[0] <= MOST_COMPONENTS and takes(op.spec, first):
        found["kernel"] = lambda: BasisKernel(_TwoFactors(op.spec, first, last.weight, last.bias), affine)
    return found


def _chain(op: Chain, affine: Affine | None, lanes: int) -> nn.Module:
    """The factors one after the other, `affine` in the last one, their inner widths filled up to multiples of `lanes`."""
    convs, extra = [], 0
    for place, link in enumerate(op.links):
        final = place == len(op.links) - 1
        weight, bias = folded(link.weight, link.bias, affine if final else None)
        more = 0 if final else -link.out_channels % lanes
        weight = F.pad(weight, (0, 0, 0, 0, 0, extra, 0, more))
        convs.append(conv_of(ConvSpec.of(link), weight, bias))
        extra = more
    return nn.Sequential(*convs)
