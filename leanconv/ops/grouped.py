"""Plain grouped convolution, with which tied block convolution is compared."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from leanconv.core.affine import Affine
from leanconv.core.block_diagonal import block_diagonal
from leanconv.core.channel_form import ChannelForm
from leanconv.core.errors import SettingError
from leanconv.core.method import Method
from leanconv.core.moments import Moments
from leanconv.core.operator import Forms, LinearOp
from leanconv.core.settings import check_int
from leanconv.core.spec import ConvSpec, Pair, aligned_blocks, blocks_error, whole_blocks
from leanconv.ops.least_squares import Stats, each, fill_bias, metric_of, on_taps

__all__ = ["Grouped", "GroupedConv2d"]


class GroupedConv2d(LinearOp):
    """A convolution with more groups than the dense convolution that it replaces.

        y[:, g*O/G:(g+1)*O/G] = conv(x[:, g*I/G:(g+1)*I/G], weight[g*O/G:(g+1)*O/G])   for g in range(G)

    Parameters and MACs fall by the factor G.

    Args:
        own_groups: G; each group of the dense convolution is divided into G groups.

    Shape:
        x: (N, I, H, W) -> (N, O, H', W'), H' and W' as in nn.Conv2d.
        weight: (O, I / G, kh, kw).

    Raises:
        SettingError: `own_groups` does not divide a number of channels.

    Source: Krizhevsky et al. 2012; Wang & Yu 2021, eq. 2, compare with this convolution.

    >>> GroupedConv2d(16, 32, 3, own_groups=4).weight.shape
    torch.Size([32, 4, 3, 3])
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
        own_groups: int = 2,
    ) -> None:
        super().__init__(in_channels, out_channels, kernel_size, stride, padding, dilation, groups, bias, padding_mode)
        check_int("own_groups", own_groups)
        error = blocks_error(own_groups, in_channels, out_channels, groups, setting="own_groups")
        if error:
            raise SettingError(error)
        self.own_groups = own_groups
        self.weight = nn.Parameter(torch.empty(out_channels, in_channels // (groups * own_groups), *self.kernel_size))
        self.bias = nn.Parameter(torch.empty(out_channels)) if bias else None
        self.reset_parameters()

    def reset_parameters(self) -> None:
        """Initialise the weight: Kaiming normal over the fan out of a group. The bias is 0."""
        nn.init.kaiming_normal_(self.weight, mode="fan_out", nonlinearity="relu")
        if self.bias is not None:
            nn.init.zeros_(self.bias)

    def settings(self) -> dict[str, Any]:
        return {"own_groups": self.own_groups}

    def settings_repr(self) -> str:
        return f"own_groups={self.own_groups}"

    def convolve(self, x: Tensor) -> Tensor:
        return self.conv2d(x, self.weight, self.bias, self.groups * self.own_groups)

    def weight_dense(self) -> Tensor:
        rows = self.weight.unflatten(0, (self.groups, self.own_groups, -1))  # (host group, way, o, i, kh, kw)
        eye = torch.eye(self.own_groups, dtype=rows.dtype, device=rows.device)
        return torch.einsum("wv,gwoikl->gwovikl", eye, rows).flatten(3, 4).flatten(0, 2)

    def bias_dense(self) -> Tensor | None:
        return self.bias

    def rescale_(self, scale: Tensor) -> bool:
        self.weight.mul_(scale.view(-1, 1, 1, 1))
        return True

    def inference_forms(self, affine: Affine | None) -> Forms:
        """The grouped convolution, and grouped convolutions with merged neighbouring groups."""
        return block_diagonal(self.spec, self.own_groups, self.weight_dense(), self.bias_dense(), affine)


@dataclass(frozen=True)
class Grouped(Method):
    """Plain grouped convolution.

    Parameters kh kw I O / G, and O for the bias. MACs kh kw I O / G for each output position. A convolution that already has
    groups gets G times as many.

    Args:
        groups: G, the number of groups that replace one group.

    Source: Krizhevsky et al. 2012.
    """

    groups: int = 2

    def __post_init__(self) -> None:
        check_int("groups", self.groups)

    @classmethod
    def grid(cls, specs: Sequence[ConvSpec], align: int) -> Sequence[Method]:
        return [cls(groups) for groups in whole_blocks(specs[0], align)]

    def aligned(self, spec: ConvSpec, align: int) -> Method | str:
        groups = aligned_blocks(spec, align, self.groups, "groups")
        return groups if isinstance(groups, str) else Grouped(groups)

    def channel_form(self, spec: ConvSpec) -> ChannelForm | None:
        return ChannelForm(self.groups)

    def reject(self, spec: ConvSpec) -> str | None:
        return blocks_error(self.groups, spec.in_channels, spec.out_channels, spec.groups, setting="groups")

    def build(self, specs: Sequence[ConvSpec]) -> list[nn.Module]:
        return [GroupedConv2d(**spec.kwargs(), own_groups=self.groups) for spec in specs]

    def params(self, specs: Sequence[ConvSpec]) -> int:
        return sum(s.fan_in * s.out_channels // self.groups + s.out_channels * s.bias for s in specs)

    def macs(self, specs: Sequence[ConvSpec], index: int, out_hw: Pair) -> int:
        return specs[index].macs(out_hw) // self.groups

    def degenerate(self, spec: ConvSpec) -> Method | None:
        return Grouped(groups=1)

    def fit_(self, modules: Sequence[nn.Module], convs: Sequence[nn.Conv2d], stats: Stats = None) -> None:
        """Copy the diagonal blocks of the dense weight: the nearest in the Frobenius norm.

        With `stats`, the filters of a group are (W S)[:, own inputs] S[own inputs, own inputs]⁻¹.
        """
        for module, conv, moments in zip(modules, convs, each(stats, convs), strict=True):
            assert isinstance(module, GroupedConv2d)
            if moments is not None:
                module.weight.copy_(_on_own_inputs(conv, moments, module.own_groups).view_as(module.weight))
                fill_bias(module, conv, module.weight_dense(), moments)
                continue
            blocks = conv.weight.unflatten(1, (module.own_groups, -1)).unflatten(
                0, (module.groups, module.own_groups, -1)
            )
            module.weight.copy_(blocks.diagonal(dim1=1, dim2=3).movedim(-1, 1).flatten(0, 2))
            if module.bias is not None and conv.bias is not None:
                module.bias.copy_(conv.bias)


def _on_own_inputs(conv: nn.Conv2d, moments: Moments, own_groups: int) -> Tensor:
    """The filters of all groups in order, each on the inputs of its own group: (O, inputs of a group)."""
    size, fitted = moments.mean.shape[1] // own_groups, []
    for weight, metric in zip(*metric_of(conv, moments), strict=True):
        for index, rows in enumerate(weight.chunk(own_groups)):
            own = torch.arange(index * size, (index + 1) * size, device=metric.device)
            fitted.append(on_taps(rows, metric, own))
    return torch.cat(fitted)
