"""LegoNet: filters put together from a small set of pieces, each over a part of the channels."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from leanconv.core.errors import SettingError
from leanconv.core.method import Method
from leanconv.core.operator import LinearOp
from leanconv.core.settings import check_int
from leanconv.core.spec import ConvSpec, Pair, alternatives, divisors

__all__ = ["Lego", "LegoConv2d"]


def lego_error(splits: int, spec: ConvSpec) -> str | None:
    """Why the input channels of `spec` do not fall into `splits` parts; None when they do."""
    if spec.groups != 1:
        return f"this convolution has groups={spec.groups}; lego filters are put together over all input channels"
    if spec.in_channels % splits:
        options = alternatives(divisors(spec.in_channels))
        return f"splits={splits} must divide in_channels={spec.in_channels}; {options} would"
    return None


def legos(ratio: float, out_channels: int) -> int:
    """m * O lego filters, rounded, at least one."""
    return max(round(ratio * out_channels), 1)


class LegoConv2d(LinearOp):
    """A convolution whose filters are combinations of few lego filters, one for each part of the input channels.

        y[:, t] = sum over parts i of coefficients[t, i] * conv(x_i, weight[j]),   j = argmax of selector[t, i]

    x_i is the i-th of o equal parts of the channels. Each lego filter meets each part once; the outputs gather what they
    selected. In training the choice is a one-hot product through which gradients pass straight to the selector, as if it had
    not been rounded; so a lego that is not selected can become so.

    What is trained: `weight`, `coefficients` and `selector`, with o O (m O) elements. What has to ship: `weight`,
    `coefficients` and the index of each choice (`chosen`); the paper's tables count `weight` alone.

    Args:
        splits: o; divides in_channels.
        ratio: m, lego filters for each output channel.

    Shape:
        x: (N, I, H, W) -> (N, O, H', W'), H' and W' as in nn.Conv2d.
        weight: (m O, I / o, kh, kw); selector: (O, o, m O); coefficients: (O, o); bias: (O).

    Raises:
        SettingError: splits does not divide in_channels, or grouped convolutions.

    Source: Yang et al. 2019, "LegoNet: Efficient Convolutional Neural Networks with Lego Filters", section 3. The release keeps a
    coefficient for every lego, chosen or not, has no stride, and adds a loss that balances the choices; this has none.
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
    ) -> None:
        super().__init__(in_channels, out_channels, kernel_size, stride, padding, dilation, groups, bias, padding_mode)
        Lego(splits, ratio)  # checks its settings
        error = lego_error(splits, self.spec)
        if error:
            raise SettingError(error)
        self.splits, self.legos = splits, legos(ratio, out_channels)
        self.weight = nn.Parameter(torch.empty(self.legos, in_channels // splits, *self.kernel_size))
        self.selector = nn.Parameter(torch.empty(out_channels, splits, self.legos))
        self.coefficients = nn.Parameter(torch.empty(out_channels, splits))
        self.bias = nn.Parameter(torch.empty(out_channels)) if bias else None
        self.reset_parameters()

    def reset_parameters(self) -> None:
        """Filters with the variance of Kaiming's over the fan out, coefficients 1, a random choice; the bias starts at 0."""
        kh, kw = self.kernel_size
        nn.init.normal_(self.weight, std=(2 / (self.out_channels * kh * kw)) ** 0.5)
        nn.init.ones_(self.coefficients)
        nn.init.kaiming_normal_(self.selector)
        if self.bias is not None:
            nn.init.zeros_(self.bias)

    def settings(self) -> dict[str, Any]:
        return {"splits": self.splits, "legos": self.legos}

    def settings_repr(self) -> str:
        return f"splits={self.splits}, legos={self.legos}"

    def chosen(self) -> Tensor:
        """The lego filter of each output channel and part: (O, o), whole numbers."""
        return self.selector.argmax(2)

    def convolve(self, x: Tensor) -> Tensor:
        maps = self._maps(x)
        if self.training:
            return F.conv2d(maps, self._choice().flatten(1)[:, :, None, None], self.bias)
        parts = self.legos * torch.arange(self.splits, device=maps.device)
        selected = maps.index_select(1, (self.chosen() + parts).flatten())
        weight = self.coefficients[:, :, None, None]
        return F.conv2d(selected, weight, self.bias, groups=self.out_channels)

    def _maps(self, x: Tensor) -> Tensor:
        """Every lego filter over every part, the parts as further images of the batch: (N, o m O, H', W')."""
        n, _, h, w = x.shape
        y = self.conv2d(x.reshape(n * self.splits, self.in_channels // self.splits, h, w), self.weight, None)
        return y.reshape(n, self.splits * self.legos, y.shape[2], y.shape[3])

    def _choice(self) -> Tensor:
        """The coefficients at their chosen places, zero elsewhere: (O, o, m O). The gradient passes to the selector."""
        hard = F.one_hot(self.chosen(), self.legos).to(self.selector.dtype)
        return self.coefficients[:, :, None] * (hard + (self.selector - self.selector.detach()))

    def weight_dense(self) -> Tensor:
        return (self.coefficients[:, :, None, None, None] * self.weight[self.chosen()]).flatten(1, 2)

    def bias_dense(self) -> Tensor | None:
        return self.bias


@dataclass(frozen=True)
class Lego(Method):
    """LegoNet's filters.

    With k = kh kw and L = m O legos: parameters k L I / o of the legos + o O L of the selector + o O of coefficients + O of
    bias; MACs in eval k L I + o O for each output position (in training the selection is a product: k L I + o O L).

    Args:
        splits: o, parts of the input channels.
        ratio: m, lego filters for each output channel.

    Source: Yang et al. 2019, whose tables count the k L I / o of the legos.
    """

    splits: int = 2
    ratio: float = 0.5

    def __post_init__(self) -> None:
        check_int("splits", self.splits)
        if isinstance(self.ratio, bool) or not isinstance(self.ratio, int | float) or not 0 < self.ratio <= 1:
            raise SettingError(f"ratio={self.ratio!r} must be a number above 0 and at most 1")

    def reject(self, spec: ConvSpec) -> str | None:
        return lego_error(self.splits, spec)

    def build(self, specs: Sequence[ConvSpec]) -> list[nn.Module]:
        return [LegoConv2d(**spec.kwargs(), splits=self.splits, ratio=self.ratio) for spec in specs]

    def params(self, specs: Sequence[ConvSpec]) -> int:
        total = 0
        for spec in specs:
            count, out = legos(self.ratio, spec.out_channels), spec.out_channels
            total += count * spec.fan_in // self.splits + self.splits * out * (count + 1) + out * spec.bias
        return total

    def macs(self, specs: Sequence[ConvSpec], index: int, out_hw: Pair) -> int:
        spec = specs[index]
        each = legos(self.ratio, spec.out_channels) * spec.fan_in + self.splits * spec.out_channels
        return each * out_hw[0] * out_hw[1]

    def not_nearest(self) -> str | None:
        return "which line each part lies nearest to is a clustering, which has no closed form"

    def degenerate(self, spec: ConvSpec) -> Method | None:
        return Lego(splits=1, ratio=1.0)

    def fit_(self, modules: Sequence[nn.Module], convs: Sequence[nn.Conv2d]) -> None:
        """Lines through the origin near the dense filters' parts: see `nearest_lines`."""
        for module, conv in zip(modules, convs, strict=True):
            assert isinstance(module, LegoConv2d)
            rows = conv.weight.unflatten(1, (module.splits, -1)).flatten(0, 1).flatten(1).double()
            lines, chosen = nearest_lines(rows, module.legos)
            along = (rows * lines[chosen]).sum(1)
            # Legos as large as the parts they stand for, coefficients about 1
            squares = torch.zeros(len(lines), dtype=rows.dtype, device=rows.device).index_add_(
                0, chosen, along.square()
            )
            size = (squares / chosen.bincount(minlength=len(lines)).clamp(min=1)).sqrt()
            size = torch.where(size > 0, size, along.square().mean().sqrt().clamp(min=1e-12))
            module.weight.copy_((lines * size[:, None]).reshape_as(module.weight))
            module.coefficients.copy_((along / size[chosen]).reshape_as(module.coefficients))
            module.selector.copy_(F.one_hot(chosen, module.legos).reshape_as(module.selector))
            if module.bias is not None and conv.bias is not None:
                module.bias.copy_(conv.bias)


def nearest_lines(rows: Tensor, count: int, sweeps: int = 20, tolerance: float = 1e-6) -> tuple[Tensor, Tensor]:
    """`count` unit vectors with a small sum of squared distances from each row to the nearest of their lines.

    Greedy first: the row that is farthest from all lines so far gives the next one, so that rows which already lie on so
    few lines are met exactly. Then lines follow their rows and rows choose anew, in turn; the error never rises.

    Args:
        rows: (rows, F).

    Returns:
        lines (count, F) and the line that each row chose.
    """
    lines = torch.zeros(count, rows.shape[1], dtype=rows.dtype, device=rows.device)
    squares = rows.square().sum(1)
    left = squares
    for index in range(count):
        farthest = left.argmax()
        if left[farthest] <= 1e-14 * squares.max():  # all rows are met: what is left over may point anywhere
            generator = torch.Generator().manual_seed(0)
            spare = torch.randn(count - index, rows.shape[1], generator=generator, dtype=rows.dtype)
            lines[index:] = F.normalize(spare, dim=1).to(rows.device)
            break
        lines[index] = F.normalize(rows[farthest], dim=0)
        left = torch.minimum(left, squares - (rows @ lines[index]).square())
    met, chosen = (rows @ lines.T).square().max(1)
    for _ in range(sweeps):
        along = (rows * lines[chosen]).sum(1)
        # One power step towards the direction that a line's rows have in common
        moved = torch.zeros_like(lines).index_add_(0, chosen, rows * along[:, None])
        lines = torch.where(moved.any(1, keepdim=True), F.normalize(moved, dim=1), lines)
        before = met.sum()
        met, chosen = (rows @ lines.T).square().max(1)
        if met.sum() - before <= tolerance * squares.sum():
            break
    return lines, chosen
