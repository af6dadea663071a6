"""Inference forms of filter bases: components and coefficients as two convolutions, or as one kernel."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import nn

from leanconv.core.affine import Affine, conv_of, foldable, folded
from leanconv.core.modes import in_eval
from leanconv.core.operator import Forms
from leanconv.ops.forms.kernels import MOST_COMPONENTS, BasisKernel, takes
from leanconv.ops.forms.protocols import Factors

LANES = 16  # float32 elements in the widest vector


def forms(op: Factors, affine: Affine | None) -> Forms:
    """Two convolutions; the same with empty components up to whole vectors; on GPUs one kernel. `forms_of` adds the dense one.

    `forms_of` adds the dense convolution, which is fastest if the rank is above about 0.85 times the output channels.
    """
    if op.norm is not None and not foldable(op.norm):
        return {}
    rank = op.coefficients.shape[1]
    found: Forms = {"factors": lambda: _factors(op, affine, 0)}
    if rank % LANES:
        found["factors, padded"] = lambda: _factors(op, affine, -rank % LANES)
    if rank <= MOST_COMPONENTS and takes(op.spec, op.coefficients):
        found["kernel"] = lambda: BasisKernel(op, affine)
    return found


def _factors(op: Factors, affine: Affine | None, extra: int) -> nn.Module:
    inner = None if op.norm is None else Affine.of(op.norm)
    components, shift = folded(op.components(), None, inner)
    coefficients, bias = folded(op.coefficients, op.bias, affine)
    if extra:
        components = torch.cat([components, components.new_zeros(extra, *components.shape[1:])])
        shift = None if shift is None else F.pad(shift, (0, extra))
        coefficients = F.pad(coefficients, (0, 0, 0, 0, 0, extra))
    second = nn.Conv2d(coefficients.shape[1], op.out_channels, 1, bias=bias is not None, device="meta")
    second.weight = nn.Parameter(coefficients.detach().clone(), requires_grad=False)
    if bias is not None:
        second.bias = nn.Parameter(bias.detach().clone(), requires_grad=False)
    return nn.Sequential(conv_of(op.spec, components, shift), in_eval(second))
