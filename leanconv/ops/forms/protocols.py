"""What the forms read of the operators, whose own files import the forms."""

from __future__ import annotations

from typing import Protocol

from torch import Tensor, nn

from leanconv.core.spec import ConvSpec, Pair


class TiedBlocks(Protocol):
    """Of a `leanconv.TiedBlockConv2d`."""

    spec: ConvSpec
    in_channels: int
    out_channels: int
    stride: Pair
    groups: int
    blocks: int
    weight: nn.Parameter
    bias: nn.Parameter | None

    def weight_dense(self) -> Tensor: ...

    def bias_dense(self) -> Tensor | None: ...


class Factors(Protocol):
    """Of a `leanconv.SharedBasisConv2d`."""

    spec: ConvSpec
    out_channels: int
    norm: nn.BatchNorm2d | None
    coefficients: nn.Parameter
    bias: nn.Parameter | None

    def components(self) -> Tensor: ...


class Branches(Protocol):
    """Of a `leanconv.SplitConv2d`."""

    in_channels: int
    used: int
    fusion: bool
    chained: bool
    mergeable: bool
    pool: nn.Module | None
    grouped: nn.Conv2d
    point: nn.Conv2d | None
    redundant: nn.Conv2d | None
    norm3: nn.BatchNorm2d
    norm1: nn.BatchNorm2d | None

    def merged_weight(self) -> Tensor: ...
