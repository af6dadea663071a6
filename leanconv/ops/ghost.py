"""Ghost modules: a few full filters, and cheap depthwise filters that compute the other feature maps from the first maps."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from leanconv.core.errors import SettingError
from leanconv.core.method import Method
from leanconv.core.moments import Moments
from leanconv.core.operator import ConvOp
from leanconv.core.settings import check_bool, check_int
from leanconv.core.spec import ConvSpec, Pair
from leanconv.core.weight import WeightView
from leanconv.ops.least_squares import Stats, each

__all__ = ["Ghost", "GhostConv2d"]


def ghost_error(spec: ConvSpec) -> str | None:
    """The reason why a ghost module cannot replace a convolution with this spec; None if it can."""
    if spec.groups != 1:
        return (
            f"this convolution has groups={spec.groups}; the primary filters of a ghost module see all input channels"
        )
    return None


class GhostConv2d(ConvOp):
    """A convolution that computes only O / s maps in full; a depthwise convolution computes the other maps from these.

        p = relu(norm(primary(x)))                   the first m = ceil(O / s) maps
        c = relu(norm(cheap(p)))                     s - 1 further maps from each, by d x d filters
        y = concat(p, c)[:, :O]

    Map m + i (s - 1) + r is computed from map i. The primary convolution has the stride, padding, padding mode and dilation
    of the dense convolution. The cheap convolution pads with zeros and keeps the size. With norms, the bias is the shift of
    the norms. Without norms, both convolutions have a bias.

    Args:
        expansion: s, the number of maps for each primary map, itself included; with 1 there is only the primary convolution.
        cheap_kernel_size: d, odd.
        norm: whether a BatchNorm2d follows each of the two convolutions.
        activation: whether a ReLU follows each convolution, after its norm.

    Shape:
        x: (N, I, H, W) -> (N, O, H', W'), H' and W' as in nn.Conv2d.

    Raises:
        SettingError: `groups` is not 1, or `cheap_kernel_size` is even.

    Source: Han et al. 2020, "GhostNet: More Features from Cheap Operations", section 3.1. Norms and ReLUs are as in the
    release. With ReLUs, the module equals no dense convolution. If s does not divide O, some cheap maps are computed and
    dropped, as in the release.

    >>> GhostConv2d(16, 32, 3, padding=1)(torch.zeros(1, 16, 8, 8)).shape
    torch.Size([1, 32, 8, 8])
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
        expansion: int = 2,
        cheap_kernel_size: int = 3,
        norm: bool = True,
        activation: bool = True,
    ) -> None:
        super().__init__(in_channels, out_channels, kernel_size, stride, padding, dilation, groups, bias, padding_mode)
        Ghost(expansion, cheap_kernel_size, norm, activation)  # checks its settings
        error = ghost_error(self.spec)
        if error:
            raise SettingError(error)
        self.expansion, self.cheap_kernel_size = expansion, cheap_kernel_size
        self.norm, self.activation = norm, activation
        primary, cheap = _widths(out_channels, expansion)
        biased = bias and not norm
        conv = nn.Conv2d(
            in_channels,
            primary,
            self.kernel_size,
            self.stride,
            self.padding,
            self.dilation,
            bias=biased,
            padding_mode=padding_mode,  # type: ignore[arg-type]
        )
        self.primary = _branch(conv, norm, activation)
        self.cheap: nn.Sequential | None = None
        if cheap:
            size = cheap_kernel_size
            conv = nn.Conv2d(primary, cheap, size, padding=size // 2, groups=primary, bias=biased)
            self.cheap = _branch(conv, norm, activation)
        self.reset_parameters()

    def reset_parameters(self) -> None:
        """Initialise the weights: Kaiming normal over the fan out of one input channel, as in ResNet. Biases are 0."""
        for branch in (self.primary, self.cheap):
            for part in branch or ():
                if isinstance(part, nn.Conv2d):
                    # torch's fan out counts all filters, but an input channel reaches only the filters of its own group
                    nn.init.kaiming_normal_(part.weight, mode="fan_out", nonlinearity="relu")
                    with torch.no_grad():
                        part.weight.mul_(part.groups**0.5)
                    if part.bias is not None:
                        nn.init.zeros_(part.bias)
                elif isinstance(part, nn.BatchNorm2d):
                    part.reset_parameters()

    def settings(self) -> dict[str, Any]:
        return {
            "expansion": self.expansion,
            "cheap_kernel_size": self.cheap_kernel_size,
            "norm": self.norm,
            "activation": self.activation,
        }

    def settings_repr(self) -> str:
        return f"{_widths(self.out_channels, self.expansion)[0]} of {self.out_channels} maps primary"

    @property
    def weight(self) -> WeightView:
        """The dense weight, for code that reads it."""
        conv = self.primary.conv
        assert isinstance(conv, nn.Conv2d)
        return WeightView(self, conv.weight)

    @property
    def bias(self) -> None:
        """None: the branches have biases of their own before their ReLUs."""
        return None

    @property
    def has_shift(self) -> bool:
        """Whether each branch adds a constant to its maps, by a norm or a bias."""
        return self.norm or self.spec.bias

    def convolve(self, x: Tensor) -> Tensor:
        primary = self.primary(x)
        if self.cheap is None:
            return primary
        y = torch.cat([primary, self.cheap(primary)], 1)
        return y if self.out_channels % self.expansion == 0 else y[:, : self.out_channels]


def _branch(conv: nn.Conv2d, norm: bool, activation: bool) -> nn.Sequential:
    layers: OrderedDict[str, nn.Module] = OrderedDict(conv=conv)
    if norm:
        layers["norm"] = nn.BatchNorm2d(conv.out_channels)
    if activation:
        layers["relu"] = nn.ReLU(inplace=True)
    return nn.Sequential(layers)


def _widths(out_channels: int, expansion: int) -> tuple[int, int]:
    """The numbers of filters of the primary and of the cheap convolution."""
    primary = -(-out_channels // expansion)
    return primary, primary * (expansion - 1)


@dataclass(frozen=True)
class Ghost(Method):
    """Ghost module.

    With k = kh kw, m = ceil(O / s) primary maps and c = m (s - 1) cheap maps: parameters k I m + d**2 c, and 2 (m + c) for the
    norms, or m + c for the biases without norms. MACs k I m + d**2 c for each output position.

    Args:
        expansion: s, the number of maps for each primary map, itself included.
        kernel_size: d of the cheap filters; odd.
        norm: whether a BatchNorm2d follows each of the two convolutions. The norm after the dense convolution stays in the
            network. A count with one norm for each dense convolution (Table 1 of SPConv) needs norm=False.
        activation: whether a ReLU follows each of the two convolutions.

    Source: Han et al. 2020. Counted: Ghost-VGG-16 has 7,652,074 parameters with norm=False and 7,660,394 with norm=True;
    Ghost-ResNet-50 has 13,953,512 with norm=False and 14,006,504 with norm=True.
    """

    expansion: int = 2
    kernel_size: int = 3
    norm: bool = True
    activation: bool = True

    def __post_init__(self) -> None:
        check_int("expansion", self.expansion)
        check_int("kernel_size", self.kernel_size)
        if self.kernel_size % 2 == 0:
            d = self.kernel_size
            raise SettingError(
                f"kernel_size={d} must be odd, so that the cheap maps keep the size; {d - 1} or {d + 1} would"
            )
        check_bool("norm", self.norm)
        check_bool("activation", self.activation)

    @classmethod
    def grid(cls, specs: Sequence[ConvSpec], align: int) -> Sequence[Method]:
        """Without norms and activations inside, because a trained layer has none there."""
        return [cls(expansion=2, norm=False, activation=False)]

    def aligned(self, spec: ConvSpec, align: int) -> Method | str:
        """The largest expansion up to this one at which the primary maps are whole vectors."""
        for expansion in range(self.expansion, 1, -1):
            if _widths(spec.out_channels, expansion)[0] % align == 0:
                return replace(self, expansion=expansion)
        if self.expansion == 1:
            return self
        return f"no expansion from 2 to {self.expansion} leaves multiples of align={align} primary maps in {spec}"

    def reject(self, spec: ConvSpec) -> str | None:
        return ghost_error(spec)

    def reject_linear(self, spec: ConvSpec) -> str | None:
        if self.kernel_size > 1:
            d = self.kernel_size
            return f"cheap filters of {d}x{d} look at neighbours, which a linear layer does not have; kernel_size=1 would do"
        return self.reject(spec)

    def build(self, specs: Sequence[ConvSpec]) -> list[nn.Module]:
        return [
            GhostConv2d(
                **spec.kwargs(),
                expansion=self.expansion,
                cheap_kernel_size=self.kernel_size,
                norm=self.norm,
                activation=self.activation,
            )
            for spec in specs
        ]

    def _weights(self, spec: ConvSpec) -> int:
        primary, cheap = _widths(spec.out_channels, self.expansion)
        return primary * spec.fan_in + cheap * self.kernel_size**2

    def params(self, specs: Sequence[ConvSpec]) -> int:
        total = 0
        for spec in specs:
            maps = sum(_widths(spec.out_channels, self.expansion))
            total += self._weights(spec) + maps * (2 if self.norm else int(spec.bias))
        return total

    def macs(self, specs: Sequence[ConvSpec], index: int, out_hw: Pair) -> int:
        return self._weights(specs[index]) * out_hw[0] * out_hw[1]

    def degenerate(self, spec: ConvSpec) -> Method | None:
        return Ghost(expansion=1, norm=False, activation=False)

    def ignores_inputs(self) -> str | None:
        if self.kernel_size > 1:
            d = self.kernel_size
            return f"its cheap {d}x{d} filters see inputs beside the kernel, which the moments do not hold"
        return None

    def fit_(self, modules: Sequence[nn.Module], convs: Sequence[nn.Conv2d], stats: Stats = None) -> None:
        """Copy the first dense filters to the primary convolution, and fit the cheap filters to the others by least squares.

        The norms become the identity in eval mode. The fit ignores the ReLUs and the borders of the map. With `stats`, the
        1x1 cheap filters are fitted to the dense outputs; larger ones see inputs that the moments do not hold.
        """
        for module, conv, moments in zip(modules, convs, each(stats, convs), strict=True):
            assert isinstance(module, GhostConv2d)
            _fit(module, conv, moments if self.kernel_size == 1 else None)


def _fit(module: GhostConv2d, conv: nn.Conv2d, moments: Moments | None) -> None:
    primary, cheap = _widths(module.out_channels, module.expansion)
    weight, bias = conv.weight, conv.bias if conv.bias is not None else conv.weight.new_zeros(len(conv.weight))
    _set(module.primary, weight[:primary], bias[:primary])
    if module.cheap is None:
        return
    unused = primary + cheap - module.out_channels  # outputs that are dropped; their values do not matter
    each = module.expansion - 1
    rest = F.pad(weight[primary:], (0, 0, 0, 0, 0, 0, 0, unused)).unflatten(0, (primary, each))
    shift = F.pad(bias[primary:], (0, unused))
    if moments is None:
        taps = _nearest_taps(weight[:primary], rest, module.spec, module.cheap_kernel_size)
    else:
        taps = _nearest_factors(weight[:primary], rest, moments.metric(module.has_shift)[0]).to(weight)
        if module.has_shift:  # the bias repairs the mean of the output
            made = (taps[..., 0] * weight[:primary].flatten(1)[:, None]).flatten(0, 1)
            shift = shift + moments.mean_of(rest.flatten(2).flatten(0, 1) - made).to(shift)
    # a cheap filter also sees the bias of its primary map
    shift = shift - (taps.sum((2, 3)) * bias[:primary, None]).flatten()
    _set(module.cheap, taps.flatten(0, 1)[:, None], shift)


def _set(branch: Any, weight: Tensor, bias: Tensor) -> None:
    """Make a branch compute conv(x, weight) + bias in eval mode, followed by its ReLU if it has one."""
    branch.conv.weight.copy_(weight)
    if branch.conv.bias is not None:
        branch.conv.bias.copy_(bias)
    for part in branch:
        if isinstance(part, nn.BatchNorm2d):
            part.reset_parameters()
            part.weight.fill_((1 + part.eps) ** 0.5)
            part.bias.copy_(bias)


def _nearest_taps(sources: Tensor, targets: Tensor, spec: ConvSpec, size: int) -> Tensor:
    """The cheap filters whose maps are nearest to the targets' maps: (m, s - 1, size, size).

    One tap of a cheap filter shifts the source filter by the stride on the input. The result is the least-squares solution
    over the shifted filters.

    Args:
        sources: (m, I, kh, kw); targets: (m, s - 1, I, kh, kw).
    """
    (kh, kw), (dh, dw), (sh, sw), half = spec.kernel_size, spec.dilation, spec.stride, size // 2
    height, width = dh * (kh - 1) + 1 + 2 * half * sh, dw * (kw - 1) + 1 + 2 * half * sw

    def placed(filters: Tensor, row: int, column: int) -> Tensor:
        """The filters on a canvas of input pixels, with their first tap at (row, column): (..., I height width)."""
        canvas = filters.new_zeros(*filters.shape[:-2], height, width)
        canvas[..., row : row + dh * (kh - 1) + 1 : dh, column : column + dw * (kw - 1) + 1 : dw] = filters
        return canvas.flatten(-3)

    moved = torch.stack([placed(sources, r * sh, c * sw) for r in range(size) for c in range(size)], 1).double()
    wanted = placed(targets, half * sh, half * sw).double()
    gram, right = moved @ moved.mT, moved @ wanted.mT  # (m, taps, taps), (m, taps, s - 1)
    taps = torch.linalg.pinv(gram, hermitian=True) @ right
    return taps.mT.unflatten(-1, (size, size)).to(sources.dtype)


def _nearest_factors(sources: Tensor, targets: Tensor, metric: Tensor) -> Tensor:
    """The 1x1 cheap filters whose maps are nearest to the targets' maps on the dense layer's inputs: (m, s - 1, 1, 1).

    Args:
        sources: (m, I, kh, kw); targets: (m, s - 1, I, kh, kw).
        metric: of the unfolded input, (F, F).
    """
    seen = sources.flatten(1).double() @ metric
    size = (seen * sources.flatten(1)).sum(1)[:, None]
    found = (targets.flatten(2).double() @ seen[:, :, None])[:, :, 0] / size.clamp(min=1e-300)
    return found[:, :, None, None]
