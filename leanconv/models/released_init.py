"""The initial weights that the release of the filter bases uses, where they differ from ours."""

from __future__ import annotations

from typing import Literal

import torch
from torch import nn

from leanconv.ops.depth_shared import ConvBank
from leanconv.ops.filter_basis import FilterBasis
from leanconv.ops.shared_basis import SharedBasisConv2d

Init = Literal["default", "release"]
INITS: tuple[Init, ...] = ("default", "release")


def normal_of_bases_(model: nn.Module) -> nn.Module:
    """Draw unique components and coefficients as the release's ResNets do; returns `model`.

    Both are normal with variance 2 / fan_out: 2 / (u k k) for the u unique components of a layer, and 2 / O for the
    coefficients of O outputs. Our default has orthonormal unique components, and coefficients with variance 2 / fan_in. The
    shared components are orthonormal in both.
    """
    for module in model.modules():
        if isinstance(module, SharedBasisConv2d):
            nn.init.kaiming_normal_(module.coefficients, mode="fan_out", nonlinearity="relu")
            if module.unique is not None:
                nn.init.kaiming_normal_(module.unique, mode="fan_out", nonlinearity="relu")
    return model


def torch_default_(model: nn.Module) -> nn.Module:
    """Draw all convolutions, shared weights and bases as ``nn.Conv2d`` does; returns `model`.

    The release's MobileNetV2 and DenseNet set no initial weights, so each is uniform in +-1 / sqrt(fan_in). Our default has
    orthonormal shared weights.
    """
    with torch.no_grad():
        for module in model.modules():
            if isinstance(module, SharedBasisConv2d):
                _uniform_(module.coefficients)
                if module.unique is not None:
                    _uniform_(module.unique)
            elif isinstance(module, FilterBasis | ConvBank):
                _uniform_(module.weight)
            elif isinstance(module, nn.Conv2d):
                module.reset_parameters()
    return model


def _uniform_(weight: nn.Parameter) -> None:
    nn.init.kaiming_uniform_(weight, a=5**0.5)
