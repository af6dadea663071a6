"""LegoNet: filters that are combined from a small set of lego filters, each over a part of the channels."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace
from typing import Any, Literal

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from leanconv.core.errors import SettingError
from leanconv.core.method import Method
from leanconv.core.moments import Moments
from leanconv.core.operator import LinearOp
from leanconv.core.penalty import PenaltyTerm
from leanconv.core.settings import check_choice, check_int, check_share, check_weight
from leanconv.core.sharing import whole
from leanconv.core.spec import ConvSpec, Pair, aligned_share, alternatives, divisors
from leanconv.ops.least_squares import Stats, descended, each, fill_bias, metric_of

__all__ = ["Lego", "LegoConv2d"]

SWEEPS = 5
Coefficients = Literal["part", "lego"]
Rounding = Literal["nearest", "down"]
# If the lego filters and the selection need more than this part of the MACs of the dense convolution, training composes
# the dense weight. Forward and backward of 32 maps in float32 channels_last on an AVX2 core, composed and apart: 24 -> 64
# channels (0.8) 39 and 44 ms, 64 -> 256 (0.94) 90 and 97 ms, 64 -> 64 (0.61) 24 and 19 ms.
COMPOSE_ABOVE = 0.75


def lego_error(splits: int, spec: ConvSpec) -> str | None:
    """The reason why the input channels of `spec` cannot be divided into `splits` parts; None if they can."""
    if spec.groups != 1:
        return f"this convolution has groups={spec.groups}; lego filters are combined over all input channels"
    if spec.in_channels % splits:
        options = alternatives(divisors(spec.in_channels))
        return f"splits={splits} must divide in_channels={spec.in_channels}; {options} would"
    return None


def legos(ratio: float, out_channels: int, rounding: Rounding = "nearest") -> int:
    """The number of lego filters: m * O, rounded to the nearest whole number or down, at least 1.

    >>> legos(0.5, 64), legos(0.3, 16), legos(0.3, 16, "down")
    (32, 5, 4)
    """
    exact = ratio * out_channels
    return max(int(exact) if rounding == "down" else round(exact), 1)


class LegoConv2d(LinearOp):
    """A convolution whose filters are combinations of a few lego filters, one for each part of the input channels.

        y[:, t] = sum over parts i of coefficients[t, i] * conv(x_i, weight[j]),   j = argmax of selector[t, i]

    x_i is the i-th of o equal parts of the channels. Each lego filter is applied once to each part, and each output adds up
    the maps that it selected. In training, the selection is a one-hot product. Its gradient passes to the selector as if the
    selector had not been rounded, so training can change the selection.

    `weight`, `coefficients` and `selector` are trained; the selector has o O (m O) elements. Inference needs `weight`,
    `coefficients` and the indices of the selection (`chosen`). The tables of the paper count only `weight`.

    Args:
        splits: o; divides in_channels.
        ratio: m, the number of lego filters for each output channel; above 0 and at most 1.
        coefficients: "part": one for each part of a filter. "lego": one for each lego filter too, also if it is not selected.
        balance: weight of the loss that balances how often each lego filter is selected, see `penalty_terms`; 0 for none.
        rounding: how m O becomes a whole number, "nearest" or "down".

    Shape:
        x: (N, I, H, W) -> (N, O, H', W'), H' and W' as in nn.Conv2d.
        weight: (m O, I / o, kh, kw); selector: (O, o, m O); coefficients: (O, o) or (O, o, m O); bias: (O).

    Raises:
        SettingError: `splits` does not divide `in_channels`, or `groups` is not 1.

    Source: Yang et al. 2019, "LegoNet: Efficient Convolutional Neural Networks with Lego Filters", section 3. The release is
    ``coefficients="lego", balance=1e-4, rounding="down"``. It has no stride, it trains the selector in its first ten epochs only,
    and it adds the balance to the gradient of the selector.

    >>> layer = LegoConv2d(16, 32, 3, splits=2, ratio=0.5)
    >>> layer.weight.shape, layer.chosen().shape
    (torch.Size([16, 8, 3, 3]), torch.Size([32, 2]))
    """

    straight_through = ("selector",)

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
        splits: int = 2,
        ratio: float = 0.5,
        coefficients: Coefficients = "part",
        balance: float = 0.0,
        rounding: Rounding = "nearest",
    ) -> None:
        super().__init__(in_channels, out_channels, kernel_size, stride, padding, dilation, groups, bias, padding_mode)
        Lego(splits, ratio, coefficients, balance, rounding)  # checks its settings
        error = lego_error(splits, self.spec)
        if error:
            raise SettingError(error)
        self.splits, self.legos, self.balance = splits, legos(ratio, out_channels, rounding), balance
        self.weight = nn.Parameter(torch.empty(self.legos, in_channels // splits, *self.kernel_size))
        self.selector = nn.Parameter(torch.empty(out_channels, splits, self.legos))
        self.each = coefficients == "lego"
        self.coefficients = nn.Parameter(torch.empty((out_channels, splits, self.legos)[: 3 if self.each else 2]))
        self.bias = nn.Parameter(torch.empty(out_channels)) if bias else None
        self.reset_parameters()

    def reset_parameters(self) -> None:
        """Initialise the filters with the variance of Kaiming normal over the fan out, and the selection at random.

        The coefficients are 1, and the bias is 0.
        """
        kh, kw = self.kernel_size
        nn.init.normal_(self.weight, std=(2 / (self.out_channels * kh * kw)) ** 0.5)
        nn.init.ones_(self.coefficients)
        nn.init.kaiming_normal_(self.selector)
        if self.bias is not None:
            nn.init.zeros_(self.bias)

    def settings(self) -> dict[str, Any]:
        return {"splits": self.splits, "legos": self.legos} | ({"coefficients": "lego"} if self.each else {})

    def settings_repr(self) -> str:
        return f"splits={self.splits}, legos={self.legos}"

    def chosen(self) -> Tensor:
        """The index of the selected lego filter for each output channel and part: (O, o), whole numbers."""
        return self.selector.argmax(2)

    def convolve(self, x: Tensor) -> Tensor:
        if self.training:
            return self._trained(x)
        maps = self._maps(x)
        parts = self.legos * torch.arange(self.splits, device=maps.device)
        selected = maps.index_select(1, (self.chosen() + parts).flatten())
        weight = self._selected()[:, :, None, None]
        return F.conv2d(selected, weight, self.bias, groups=self.out_channels)

    def _trained(self, x: Tensor) -> Tensor:
        """The convolution in training, where the selection is a product; it never copies the maps, in any layout."""
        kernel = self.kernel_size[0] * self.kernel_size[1]
        apart = self.legos * (kernel * self.in_channels + self.splits * self.out_channels)
        if apart > COMPOSE_ABOVE * kernel * self.in_channels * self.out_channels:
            weight = torch.einsum("tpl,lihw->tpihw", self._choice(), self.weight).flatten(1, 2)
            return self.conv2d(x, weight, self.bias)
        maps = self.conv2d(x, torch.cat([self.weight] * self.splits), None, self.splits)
        return F.conv2d(maps, self._choice().flatten(1)[:, :, None, None], self.bias)

    def _maps(self, x: Tensor) -> Tensor:
        """The maps of all lego filters on all parts: (N, o m O, H', W'); the parts are computed as images of a batch."""
        n, _, h, w = x.shape
        y = self.conv2d(x.reshape(n * self.splits, self.in_channels // self.splits, h, w), self.weight, None)
        return y.reshape(n, self.splits * self.legos, y.shape[2], y.shape[3])

    def _choice(self) -> Tensor:
        """The coefficients at the selected positions, zero elsewhere: (O, o, m O). The gradient passes to the selector."""
        hard = F.one_hot(self.chosen(), self.legos).to(self.selector.dtype)
        coefficients = self.coefficients if self.each else self.coefficients[:, :, None]
        return coefficients * (hard + (self.selector - self.selector.detach()))

    def _selected(self) -> Tensor:
        """The coefficients of the selected lego filters: (O, o)."""
        if not self.each:
            return self.coefficients
        return self.coefficients.gather(2, self.chosen()[:, :, None])[:, :, 0]

    def penalty_terms(self) -> list[PenaltyTerm]:
        """With `balance` b: a loss whose gradient for the selector of lego filter j is b * excess_j, as in the release.

        excess_j says by how much j is selected too often, n_j - ceil(a) > 0, or too rarely, n_j - floor(a) < 0, where n_j counts
        how often j is selected and a = o O / (m O) is the mean. Each layer is a kind of its own, so layers add up.
        """
        if not self.balance:
            return []
        selector = whole(self.selector)
        counts = selector.argmax(2).flatten().bincount(minlength=self.legos).to(selector.dtype)
        mean = self.splits * self.out_channels / self.legos
        excess = (counts - math.ceil(mean)).clamp(min=0) + (counts - math.floor(mean)).clamp(max=0)
        return [PenaltyTerm(f"lego {id(self)}", self.balance, (selector * excess).sum(), 1)]

    def weight_dense(self) -> Tensor:
        return (self._selected()[:, :, None, None, None] * self.weight[self.chosen()]).flatten(1, 2)

    def bias_dense(self) -> Tensor | None:
        return self.bias

    def rescale_(self, scale: Tensor) -> bool:
        self.coefficients.mul_(scale.view(-1, *[1] * (self.coefficients.dim() - 1)))
        return True


@dataclass(frozen=True)
class Lego(Method):
    """Filters that are combined from lego filters (LegoNet).

    With k = kh kw and L = m O lego filters: parameters k L I / o for the lego filters, o O L for the selector, o O for the
    coefficients (o O L with one for each lego filter), and O for the bias. MACs in eval mode k L I + o O for each output
    position. (In training the selection is a product, with k L I + o O L MACs, or those of the dense convolution where that is
    faster.)

    Args:
        splits: o, the number of parts of the input channels.
        ratio: m, the number of lego filters for each output channel; above 0 and at most 1.
        coefficients, balance, rounding: see `LegoConv2d`; the release is "lego", 1e-4 and "down".

    Source: Yang et al. 2019. The tables of the paper count only the k L I / o parameters of the lego filters.
    """

    splits: int = 2
    ratio: float = 0.5
    coefficients: Coefficients = "part"
    balance: float = 0.0
    rounding: Rounding = "nearest"

    def __post_init__(self) -> None:
        check_int("splits", self.splits)
        check_share("ratio", self.ratio)
        check_choice("coefficients", self.coefficients, ("part", "lego"))
        check_weight("balance", self.balance)
        check_choice("rounding", self.rounding, ("nearest", "down"))

    def aligned(self, spec: ConvSpec, align: int) -> Method | str:
        whole = [n for n in divisors(spec.in_channels) if n <= self.splits and spec.in_channels // n % align == 0]
        filters = aligned_share(spec.out_channels + 1, self.ratio, align)  # all of them are allowed
        if not whole or filters is None:
            return f"align={align} does not fit in the widths of {spec}; a smaller align would"
        return replace(self, splits=whole[-1], ratio=filters / spec.out_channels, rounding="nearest")

    def reject(self, spec: ConvSpec) -> str | None:
        return lego_error(self.splits, spec)

    def build(self, specs: Sequence[ConvSpec]) -> list[nn.Module]:
        return [LegoConv2d(**spec.kwargs(), **asdict(self)) for spec in specs]

    def params(self, specs: Sequence[ConvSpec]) -> int:
        total = 0
        for spec in specs:
            count, out = legos(self.ratio, spec.out_channels, self.rounding), spec.out_channels
            beside = count + (count if self.coefficients == "lego" else 1)  # selector and coefficients of a part
            total += count * spec.fan_in // self.splits + self.splits * out * beside + out * spec.bias
        return total

    def macs(self, specs: Sequence[ConvSpec], index: int, out_hw: Pair) -> int:
        spec = specs[index]
        each = legos(self.ratio, spec.out_channels, self.rounding) * spec.fan_in + self.splits * spec.out_channels
        return each * out_hw[0] * out_hw[1]

    def not_nearest(self) -> str | None:
        return "the assignment of each part to its nearest line is a clustering, which has no closed form"

    def degenerate(self, spec: ConvSpec) -> Method | None:
        return Lego(splits=1, ratio=1.0)

    def fit_(self, modules: Sequence[nn.Module], convs: Sequence[nn.Conv2d], stats: Stats = None) -> None:
        """Set the lego filters to lines through the origin near the parts of the dense filters: see `nearest_lines`.

        With `stats`, the selection stays, and `SWEEPS` sweeps of alternating least squares improve the coefficients, exactly,
        and the lego filters, by conjugate gradients.
        """
        for module, conv, moments in zip(modules, convs, each(stats, convs), strict=True):
            assert isinstance(module, LegoConv2d)
            rows = conv.weight.unflatten(1, (module.splits, -1)).flatten(0, 1).flatten(1).double()
            lines, chosen = nearest_lines(rows, module.legos)
            along = (rows * lines[chosen]).sum(1)
            if moments is not None:
                along, lines = _in_turn(along, lines, chosen, conv, moments)
            # Lego filters as large as the parts that select them, and coefficients of about 1
            squares = torch.zeros(len(lines), dtype=rows.dtype, device=rows.device).index_add_(
                0, chosen, along.square()
            )
            size = (squares / chosen.bincount(minlength=len(lines)).clamp(min=1)).sqrt()
            size = torch.where(size > 0, size, along.square().mean().sqrt().clamp(min=1e-12))
            module.weight.copy_((lines * size[:, None]).reshape_as(module.weight))
            found = (along / size[chosen]).view(-1, module.splits)
            module.coefficients.copy_(found[:, :, None] if module.each else found)
            module.selector.copy_(F.one_hot(chosen, module.legos).reshape_as(module.selector))
            fill_bias(module, conv, module.weight_dense(), moments)


def _in_turn(along: Tensor, lines: Tensor, chosen: Tensor, conv: nn.Conv2d, moments: Moments) -> tuple[Tensor, Tensor]:
    """Coefficients (parts of all filters) and unit lines after alternating least squares, with the selection that is given."""
    (weight,), (metric,) = metric_of(conv, moments)
    width = lines.shape[1]
    splits = weight.shape[1] // width
    blocks = metric.unflatten(0, (splits, width)).unflatten(2, (splits, width))  # (o, F / o, o, F / o)
    wanted = (weight @ metric).unflatten(1, (splits, width))
    parts = chosen.view(-1, splits)

    def filters(lines: Tensor) -> Tensor:
        return (along[:, None] * lines[chosen]).view_as(weight)

    def seen(outputs: Tensor) -> Tensor:
        """What each line gets from the gradients of the filters that selected it."""
        return torch.zeros_like(lines).index_add_(0, chosen, along[:, None] * outputs.reshape(-1, width))

    for _ in range(SWEEPS):
        taken = lines[parts]  # (O, o, F / o)
        gram = torch.einsum("tia,iajb,tjb->tij", taken, blocks, taken)
        right = (taken * wanted).sum(2, keepdim=True)
        along = (torch.linalg.pinv(gram, hermitian=True) @ right).flatten()
        lines = descended(lines, lambda x: seen(filters(x) @ metric), seen(wanted), steps=20)
        size = lines.norm(dim=1, keepdim=True)
        lines, along = lines / size.clamp(min=1e-30), along * size[chosen, 0]
    return along, lines


def nearest_lines(rows: Tensor, count: int, sweeps: int = 20, tolerance: float = 1e-6) -> tuple[Tensor, Tensor]:
    """`count` unit vectors with a small sum of squared distances from each row to the nearest line through a unit vector.

    The start is greedy: the row that is farthest from all lines gives the next line. So rows that lie on `count` lines are
    met exactly. Then two steps alternate: each line moves towards its rows, and each row chooses its nearest line. The error
    never rises.

    Args:
        rows: (rows, F).
        sweeps: the largest number of alternations.
        tolerance: stop when the error falls by less than this part of the sum of squares of `rows`.

    Returns:
        the lines (count, F), and the index of the line for each row (rows).

    >>> lines, chosen = nearest_lines(torch.tensor([[2.0, 0.0], [0.0, 1.0], [3.0, 0.0]]), 2)
    >>> chosen
    tensor([0, 1, 0])
    """
    lines = torch.zeros(count, rows.shape[1], dtype=rows.dtype, device=rows.device)
    squares = rows.square().sum(1)
    left = squares
    for index in range(count):
        farthest = left.argmax()
        if left[farthest] <= 1e-14 * squares.max():  # all rows are met: the other lines may have any direction
            generator = torch.Generator().manual_seed(0)
            spare = torch.randn(count - index, rows.shape[1], generator=generator, dtype=rows.dtype)
            lines[index:] = F.normalize(spare, dim=1).to(rows.device)
            break
        lines[index] = F.normalize(rows[farthest], dim=0)
        left = torch.minimum(left, squares - (rows @ lines[index]).square())
    met, chosen = (rows @ lines.T).square().max(1)
    for _ in range(sweeps):
        along = (rows * lines[chosen]).sum(1)
        # One step of the power method towards the main direction of a line's rows
        moved = torch.zeros_like(lines).index_add_(0, chosen, rows * along[:, None])
        lines = torch.where(moved.any(1, keepdim=True), F.normalize(moved, dim=1), lines)
        before = met.sum()
        met, chosen = (rows @ lines.T).square().max(1)
        if met.sum() - before <= tolerance * squares.sum():
            break
    return lines, chosen
