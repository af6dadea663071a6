"""Low-rank convolution: two or three thin convolutions in the place of one."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any, Literal

import torch
from torch import Tensor, nn

from leanconv.core.affine import Affine
from leanconv.core.errors import SettingError
from leanconv.core.method import Group, Method, Site, Skipped
from leanconv.core.moments import by_group
from leanconv.core.operator import Forms, LinearOp
from leanconv.core.settings import check_choice, check_int, check_share
from leanconv.core.spec import ConvSpec, Pair, pair
from leanconv.core.weight import WeightView
from leanconv.ops.forms.low_rank import forms
from leanconv.ops.least_squares import Stats, balanced, each, fill_bias, metric_of, on_components, principal
from leanconv.ops.spatial_fit import spatial_factors

__all__ = ["LowRank", "LowRankConv2d"]

Factors = Literal["pointwise", "spatial", "tucker"]
FACTORS = ("pointwise", "spatial", "tucker")
GRID: tuple[Factors, ...] = (
    "pointwise",
    "spatial",
)  # of the candidates under a budget; tucker loses more at equal MACs
SWEEPS = 20  # the most alternations of a Tucker fit
ENOUGH = 1e-7  # a sweep that gains less than this part of the weight ends the fit


def full_rank(factors: Factors, spec: ConvSpec) -> Pair:
    """The (inner, outer) ranks at which the factors can be any convolution of this spec; equal if there is a single rank."""
    out, width, kh, kw = spec.weight_shape
    out //= spec.groups
    if factors == "tucker":
        return width, out
    least = min(spec.fan_in, out) if factors == "pointwise" else min(width * kh, out * kw)
    return least, least


def links_of(factors: Factors, spec: ConvSpec, ranks: Pair) -> list[ConvSpec]:
    """The convolutions whose chain is the low-rank convolution, the first one first; all have the groups of `spec`."""
    inner, outer = (rank * spec.groups for rank in ranks)
    linear = replace(spec, bias=False)
    last = ConvSpec(outer, spec.out_channels, (1, 1), groups=spec.groups, bias=spec.bias)
    if factors == "pointwise":
        return [replace(linear, out_channels=outer), last]
    if factors == "tucker":
        first = ConvSpec(spec.in_channels, inner, (1, 1), groups=spec.groups, bias=False)
        return [first, replace(linear, in_channels=inner, out_channels=outer), last]
    (kh, kw), (dh, dw), along, across = spec.kernel_size, spec.dilation, spec, spec
    if spec.padding != "same":
        along, across = replace(spec, padding=(spec.padding[0], 0)), replace(spec, padding=(0, spec.padding[1]))
    rows = replace(along, out_channels=inner, kernel_size=(kh, 1), dilation=(dh, 1), bias=False)
    columns = replace(across, in_channels=inner, kernel_size=(1, kw), dilation=(1, dw))
    return [rows, columns]


def factors_error(factors: Factors, spec: ConvSpec) -> str | None:
    """The reason why `factors` cannot replace a convolution with this spec; None if they can."""
    if factors == "pointwise":
        return None
    if factors == "spatial" and min(spec.kernel_size) == 1:
        return f"kernel_size={spec.kernel_size} is a single row or column already; factors='pointwise' would do"
    if spec.pointwise:
        return "a 1x1 convolution has no core between two 1x1 convolutions; factors='pointwise' would do"
    if spec.stride != (1, 1):
        return f"stride={spec.stride} would leave the first factor on the larger map; factors='pointwise' would do"
    return None


class LowRankConv2d(LinearOp):
    """A convolution of low rank, as a chain of thin convolutions without activations between them.

        pointwise:  y = last * conv(x, first) + bias            first: k x k, I -> r;  last: 1x1, r -> O
        spatial:    y = conv(conv(x, rows), columns) + bias     rows: kh x 1, I -> r;  columns: 1 x kw, r -> O
        tucker:     y = last * conv(first * x, core) + bias     first: 1x1, I -> s;  core: k x k, s -> r;  last: 1x1, r -> O

    where * is a 1x1 convolution. The bias is in the last factor. A convolution with groups has these factors in each group.

    Args:
        rank: r for each group; for "tucker" (s, r), or one number for both.
        factors: "pointwise", "spatial" or "tucker". The last two need stride 1 and a kernel that they can take apart.

    Shape:
        x: (N, I, H, W) -> (N, O, H', W'), H' and W' as in nn.Conv2d.

    Raises:
        SettingError: the rank exceeds the full rank, or `factors` cannot take this convolution apart.

    Source: pointwise: Zhang et al. 2016, "Accelerating Very Deep Convolutional Networks for Classification and Detection",
    section 3.1; spatial: Jaderberg et al. 2014, "Speeding up Convolutional Neural Networks with Low Rank Expansions", scheme
    2; tucker: Kim et al. 2016, "Compression of Deep Convolutional Neural Networks for Fast and Low Power Mobile Applications".

    >>> layer = LowRankConv2d(16, 32, 3, padding=1, rank=4)
    >>> [tuple(link.weight.shape) for link in layer.links]
    [(4, 16, 3, 3), (32, 4, 1, 1)]
    """

    def __init__(
        self,
        in_channels: int,
        out_channels: int,
        kernel_size: int | Pair,
        stride: int | Pair = 1,
        padding: int | Pair | str = 0,
        dilation: int | Pair = 1,
        groups: int = 1,
        bias: bool = True,
        padding_mode: str = "zeros",
        *,
        rank: int | Pair = 4,
        factors: Factors = "pointwise",
    ) -> None:
        super().__init__(in_channels, out_channels, kernel_size, stride, padding, dilation, groups, bias, padding_mode)
        method = LowRank(rank=rank, factors=factors)  # checks its settings
        error = factors_error(factors, self.spec) or method.above_full_rank(self.spec)
        if error:
            raise SettingError(error)
        self.factors, self.rank = factors, method.ranks(self.spec)
        specs = links_of(factors, self.spec, self.rank)
        self.chain = nn.Sequential(*(nn.Conv2d(**spec.kwargs()) for spec in specs))
        self.reset_parameters()

    @property
    def links(self) -> list[nn.Conv2d]:
        """The thin convolutions, the first one first."""
        return list(self.chain)  # type: ignore[arg-type]

    def reset_parameters(self) -> None:
        """Initialise the weights: each factor keeps the variance, and the last is Kaiming normal for a ReLU. The bias is 0."""
        *linear, last = self.links
        for link in linear:
            nn.init.kaiming_normal_(link.weight, nonlinearity="linear")
        nn.init.kaiming_normal_(last.weight, nonlinearity="relu")
        if last.bias is not None:
            nn.init.zeros_(last.bias)

    def settings(self) -> dict[str, Any]:
        return {"rank": self.rank, "factors": self.factors}

    def settings_repr(self) -> str:
        return f"rank={self.rank if self.factors == 'tucker' else self.rank[0]}, factors={self.factors!r}"

    @property
    def weight(self) -> WeightView:
        """The dense weight, for code that reads it."""
        return WeightView(self, self.links[0].weight)

    @property
    def bias(self) -> Tensor | None:
        return self.links[-1].bias

    def convolve(self, x: Tensor) -> Tensor:
        y: Tensor = self.chain(x)
        return y

    def weight_dense(self) -> Tensor:
        first, *core, last = [link.weight.unflatten(0, (self.groups, -1)) for link in self.links]
        if self.factors == "spatial":
            dense = torch.einsum("gorb,gria->goiab", last.squeeze(3), first.squeeze(4))
        elif core:
            dense = torch.einsum("gor,grsab,gsi->goiab", last.flatten(2), core[0], first.flatten(2))
        else:
            dense = torch.einsum("gor,griab->goiab", last.flatten(2), first)
        return dense.flatten(0, 1)

    def bias_dense(self) -> Tensor | None:
        return self.bias

    def rescale_(self, scale: Tensor) -> bool:
        self.links[-1].weight.mul_(scale.view(-1, 1, 1, 1))
        return True

    def shift_(self, shift: Tensor) -> bool:
        if self.bias is None:
            return False
        self.bias.add_(shift)
        return True

    def inference_forms(self, affine: Affine | None) -> Forms:
        return forms(self, affine)


@dataclass(frozen=True)
class LowRank(Method):
    """Low-rank convolutions: a k x k convolution to few channels and a 1x1 convolution back, or other factors.

    With I / G inputs, O / G outputs, F = I kh kw / G and rank r in each of G groups, weights and MACs for each output position:
    pointwise G r F + r O; spatial r (I kh + O kw); tucker with ranks (s, r) s I + G s r kh kw + r O. The first 1x1 of tucker
    runs on the input map, and the first factor of spatial on a map as wide as the input.

    Args:
        ratio: the largest part of the dense MACs that a layer may keep; the rank is the highest one within this limit. By
            default 0.5, if no rank is given.
        rank: r for each group, in place of a ratio; for "tucker" also (s, r). A layer whose MACs would not fall stays dense.
        factors: "pointwise" (k x k, then 1x1), "spatial" (kh x 1, then 1 x kw) or "tucker" (1x1, k x k, 1x1).
        align: a rank from `ratio` is rounded down to a multiple of this number, for whole vectors; a rank below is not
            rounded.

    Source: see `LowRankConv2d`. The fit without moments: Eckart & Young 1936; with moments, the principal components of the
    outputs, as in Zhang et al. 2016, eq. 6.
    """

    ratio: float | None = None
    rank: int | Pair | None = None
    factors: Factors = "pointwise"
    align: int = 8

    def __post_init__(self) -> None:
        check_choice("factors", self.factors, FACTORS)
        check_int("align", self.align)
        if self.rank is None:
            object.__setattr__(self, "ratio", 0.5 if self.ratio is None else self.ratio)
            check_share("ratio", self.ratio)
            return
        if self.ratio is not None:
            raise SettingError(f"ratio={self.ratio} and rank={self.rank} both set the rank; give one of them")
        if isinstance(self.rank, tuple) and self.factors != "tucker":
            raise SettingError(f"rank={self.rank} must be one number; only factors='tucker' has two ranks")
        for rank in pair(self.rank, "rank"):
            check_int("rank", rank)

    @classmethod
    def grid(cls, specs: Sequence[ConvSpec], align: int) -> Sequence[Method]:
        """Pointwise and spatial factors with ranks in whole vectors, for about 0.25, 0.35, 0.5 and 0.65 of the dense MACs."""
        spec, found = specs[0], []
        for factors in GRID:
            if factors_error(factors, spec) is None:
                full = spec.macs((1, 1)) / cls(rank=1, factors=factors)._weights(spec, (1, 1))
                ranks = sorted({round(part * full / align) * align for part in (0.25, 0.35, 0.5, 0.65)} - {0})
                found += [cls(rank=rank, factors=factors) for rank in ranks]
        return found

    def aligned(self, spec: ConvSpec, align: int) -> Method | str:
        if factors_error(self.factors, spec):
            return self  # `reject` says why
        wanted, most = replace(self, align=1).ranks(spec), full_rank(self.factors, spec)
        inner, outer = (min(rank, limit) // align * align for rank, limit in zip(wanted, most, strict=True))
        if min(inner, outer) == 0:
            rank = min(min(wanted), min(most))
            return f"its rank {rank} is below align={align}; a higher rank or a smaller align would do"
        return replace(self, ratio=None, rank=(inner, outer) if self.factors == "tucker" else inner)

    def ranks(self, spec: ConvSpec) -> Pair:
        """The (inner, outer) ranks for one convolution; 0 where even rank 1 has more MACs than `ratio` allows."""
        if self.rank is not None:
            return pair(self.rank, "rank")
        assert self.ratio is not None
        most = full_rank(self.factors, spec)
        allowed = self.ratio * spec.macs((1, 1))
        if self.factors != "tucker":
            rank = min(int(allowed // self._weights(spec, (1, 1))), most[0])
            return (self._aligned(rank),) * 2
        # the same part t of all channels on both sides: a t + b t**2 = allowed
        a, b = sum(links_of("tucker", spec, most)[i].macs((1, 1)) for i in (0, 2)), spec.macs((1, 1))
        part = min((math.sqrt(a * a + 4 * b * allowed) - a) / (2 * b), 1.0)
        return self._aligned(int(part * most[0])), self._aligned(int(part * most[1]))

    def _aligned(self, rank: int) -> int:
        return rank if rank < self.align else rank // self.align * self.align

    def _weights(self, spec: ConvSpec, ranks: Pair) -> int:
        return sum(link.macs((1, 1)) for link in links_of(self.factors, spec, ranks))

    def above_full_rank(self, spec: ConvSpec) -> str | None:
        """The reason if the rank exceeds the full rank of this convolution; None otherwise."""
        most = full_rank(self.factors, spec)
        if any(rank > limit for rank, limit in zip(self.ranks(spec), most, strict=True)):
            limit = most if self.factors == "tucker" else most[0]
            return f"rank={self.rank} must not exceed the full rank {limit} of {spec}; lower the rank"
        return None

    def reject(self, spec: ConvSpec) -> str | None:
        error = factors_error(self.factors, spec) or self.above_full_rank(spec)
        if error:
            return error
        ranks, dense = self.ranks(spec), spec.macs((1, 1))
        if min(ranks) == 0:
            part = self._weights(spec, (1, 1)) / dense
            return (
                f"rank 1 has {part:.2f} of the MACs of {spec}, above ratio={self.ratio}; a higher ratio would allow it"
            )
        if self._weights(spec, ranks) >= dense:
            return (
                f"rank={self.rank} has {self._weights(spec, ranks) / dense:.2f} of the MACs of {spec}; lower the rank"
            )
        return None

    def group(self, sites: Sequence[Site]) -> tuple[list[Group], list[Skipped]]:
        accepted, kept = self.accept(sites)
        return [Group(LowRank(rank=self._rank(s.spec), factors=self.factors), (s,)) for s in accepted], kept

    def _rank(self, spec: ConvSpec) -> int | Pair:
        """The setting `rank` for one convolution."""
        ranks = self.ranks(spec)
        return ranks if self.factors == "tucker" else ranks[0]

    def build(self, specs: Sequence[ConvSpec]) -> list[nn.Module]:
        return [LowRankConv2d(**spec.kwargs(), rank=self._rank(spec), factors=self.factors) for spec in specs]

    def params(self, specs: Sequence[ConvSpec]) -> int:
        return sum(link.params() for spec in specs for link in links_of(self.factors, spec, self.ranks(spec)))

    def macs(self, specs: Sequence[ConvSpec], index: int, out_hw: Pair) -> int:
        spec = specs[index]
        links = links_of(self.factors, spec, self.ranks(spec))
        total = 0
        for link in reversed(links):
            total += link.macs(out_hw)
            if self.factors != "pointwise":  # stride 1, so that the size of the output gives the size of the input
                left, right, top, bottom = link.pads
                (kh, kw), (dh, dw) = link.kernel_size, link.dilation
                out_hw = (out_hw[0] + dh * (kh - 1) - top - bottom, out_hw[1] + dw * (kw - 1) - left - right)
        return total

    def not_nearest(self) -> str | None:
        return "the factors of a Tucker decomposition are fitted in turn" if self.factors == "tucker" else None

    def fit_(self, modules: Sequence[nn.Module], convs: Sequence[nn.Conv2d], stats: Stats = None) -> None:
        """Set the factors to the nearest weights, or with `stats` to the nearest outputs.

        Without `stats`: a truncated SVD of the weight as an (O, F) matrix (pointwise) or an (O kw, I kh) matrix (spatial); for
        tucker, alternating SVDs of both sides from the SVD of each (higher-order orthogonal iteration).
        With `stats`: pointwise U U^T W, where U are the leading eigenvectors of W S W^T; spatial: see `spatial_factors`. The
        first factor of tucker is the one without moments, and the other factors are the best ones behind it.
        """
        for module, conv, moments in zip(modules, convs, each(stats, convs), strict=True):
            assert isinstance(module, LowRankConv2d)
            fit = {"pointwise": _fit_pointwise, "spatial": _fit_spatial, "tucker": _fit_tucker}[module.factors]
            weight, metric = (by_group(conv.weight, conv.groups), None) if moments is None else metric_of(conv, moments)
            for link, factor in zip(module.links, fit(module, weight, metric), strict=True):
                link.weight.copy_(factor.reshape(link.weight.shape))
            fill_bias(module, conv, module.weight_dense(), moments)


def _fit_pointwise(module: LowRankConv2d, weight: Tensor, metric: Tensor | None) -> tuple[Tensor, ...]:
    u = principal(weight, metric, module.rank[1])
    return balanced(u.mT @ weight, u)


def _fit_spatial(module: LowRankConv2d, weight: Tensor, metric: Tensor | None) -> tuple[Tensor, ...]:
    return spatial_factors(weight, metric, module.spec.kernel_size, module.rank[1])


def _fit_tucker(module: LowRankConv2d, weight: Tensor, metric: Tensor | None) -> tuple[Tensor, ...]:
    (inner, outer), (_, width, kh, kw) = module.rank, module.spec.weight_shape
    k = kh * kw

    def by_input(matrix: Tensor) -> Tensor:
        """(g, rows, I k) as (g, I, rows k)."""
        return matrix.unflatten(2, (width, k)).transpose(1, 2).flatten(2)

    def narrow(matrix: Tensor, a: Tensor) -> Tensor:
        """The weight behind a 1x1 convolution `a`: (g, rows, I k) -> (g, rows, inner k)."""
        return torch.einsum("gsi,goik->gosk", a, matrix.unflatten(2, (width, k))).flatten(2)

    a = principal(by_input(weight), None, inner).mT
    kept = -math.inf
    for _ in range(SWEEPS):
        u = principal(narrow(weight, a), None, outer)
        projected = by_input(u.mT @ weight)
        a = principal(projected, None, inner).mT
        before, kept = kept, float((a @ projected).square().sum())
        if kept - before <= ENOUGH * float(weight.square().sum()):
            break
    narrowed, behind = narrow(weight, a), None
    if metric is not None:
        taps = torch.eye(k, dtype=weight.dtype, device=weight.device)
        rows = torch.einsum("gsi,kc->gskic", a, taps).flatten(3).flatten(1, 2)
        narrowed, behind = on_components(weight, metric, rows), rows @ metric @ rows.mT
    u = principal(narrowed, behind, outer)
    return a, u.mT @ narrowed, u
