"""What the forms read of the operators, whose own files import the forms."""

from __future__ import annotations

from typing import Literal, Protocol

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
    """Of a `leanconv.SharedBasisConv2d`, or of a `leanconv.LowRankConv2d` with a k x k and a 1x1 factor."""

    @property
    def spec(self) -> ConvSpec: ...

    @property
    def out_channels(self) -> int: ...

    @property
    def norm(self) -> nn.BatchNorm2d | None: ...

    @property
    def coefficients(self) -> Tensor: ...

    @property
    def bias(self) -> Tensor | None: ...

    def components(self) -> Tensor: ...


class Branches(Protocol):
    """Of a `leanconv.SplitConv2d`."""

    in_channels: int
    used: int
    chained: bool
    mergeable: bool
    pool: nn.Module | None
    grouped: nn.Conv2d
    point: nn.Conv2d | None
    redundant: nn.Conv2d | None
    norm3: nn.BatchNorm2d
    norm1: nn.BatchNorm2d | None

    @property
    def gated(self) -> bool: ...

    def shares(self) -> tuple[Tensor, Tensor]: ...

    def merged_weight(self) -> Tensor: ...


class Bank(Protocol):
    """Of the bank of a `leanconv.DepthSharedConv2d`."""

    weight: nn.Parameter
    bias: nn.Parameter | None


class Corrected(Protocol):
    """Of a `leanconv.DepthSharedConv2d`."""

    spec: ConvSpec
    out_channels: int
    groups: int
    blend: nn.Parameter | None
    inner: nn.Parameter | None
    outer: nn.Parameter | None

    @property
    def bank(self) -> Bank: ...

    def weight_dense(self) -> Tensor: ...

    def bias_dense(self) -> Tensor | None: ...


class Chain(Protocol):
    """Of a `leanconv.LowRankConv2d`."""

    spec: ConvSpec
    factors: Literal["pointwise", "spatial", "tucker"]

    @property
    def links(self) -> list[nn.Conv2d]: ...
