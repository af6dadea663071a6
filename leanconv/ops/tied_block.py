"""Tied block convolution: one thin filter bank is applied to all blocks of channels."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Literal

import torch
from torch import Tensor, nn

from leanconv.core.affine import Affine
from leanconv.core.channel_form import ChannelForm
from leanconv.core.errors import SettingError
from leanconv.core.method import Method
from leanconv.core.moments import Moments, solved, with_bias
from leanconv.core.operator import Forms, LinearOp
from leanconv.core.release import NamedLayer, Place
from leanconv.core.settings import check_int
from leanconv.core.spec import ConvSpec, Pair, aligned_blocks, blocks_error, whole_blocks
from leanconv.ops.forms.tied_block import forms
from leanconv.ops.least_squares import Stats, each
from leanconv.ops.tied_linear import TiedBlockLinear

__all__ = ["TiedBlock", "TiedBlockConv2d"]


class TiedBlockConv2d(LinearOp):
    """A convolution that applies one thin filter bank to all blocks of input channels.

        y[:, b*O/B:(b+1)*O/B] = conv(x[:, b*I/B:(b+1)*I/B], weight)   for b in range(B)

    The module equals a convolution with ``groups=blocks`` whose groups have the same weights. Parameters fall by the factor
    B**2 (the bias by B), and MACs by B. Blocks do not mix, so the network needs a 1x1 convolution before or after. With
    ``groups`` G the module is the paper's TGC: each group has its own bank, and channels are ordered by group, then by block.

    Args:
        blocks: B; divides in_channels / groups and out_channels / groups.

    Shape:
        x: (N, I, H, W) -> (N, O, H', W'), H' and W' as in nn.Conv2d.
        weight: (O / B, I / (B G), kh, kw); bias: (O / B).

    Raises:
        SettingError: `blocks` does not divide a number of channels.

    Source: Wang & Yu 2021, "TBC Formulation", eqs. 3 and 4. The release copies the input and drops channels_last. With groups,
    the release orders channels by block first; this module follows the paper.

    >>> layer = TiedBlockConv2d(16, 32, 3, padding=1, blocks=4)
    >>> layer.weight.shape, layer(torch.zeros(1, 16, 8, 8)).shape
    (torch.Size([8, 4, 3, 3]), torch.Size([1, 32, 8, 8]))
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
        blocks: int = 2,
    ) -> None:
        super().__init__(in_channels, out_channels, kernel_size, stride, padding, dilation, groups, bias, padding_mode)
        check_int("blocks", blocks)
        error = blocks_error(blocks, in_channels, out_channels, groups)
        if error:
            raise SettingError(error)
        self.blocks = blocks
        # "fold" is for devices with slow grouped convolutions. On AVX-512 cores in channels_last, forward and backward,
        # "grouped" was faster at all widths (B = 2, 512 channels at 7x7: 52 and 56 ms; 128 channels at 28x28: 58 and 84 ms).
        self.form: Literal["grouped", "fold"] = "grouped"
        self.weight = nn.Parameter(
            torch.empty(out_channels // blocks, in_channels // (blocks * groups), *self.kernel_size)
        )
        self.bias = nn.Parameter(torch.empty(out_channels // blocks)) if bias else None
        self.reset_parameters()

    def reset_parameters(self) -> None:
        """Initialise the weight: Kaiming normal over the fan out of one block, as in ResNet. The bias is 0."""
        nn.init.kaiming_normal_(self.weight, mode="fan_out", nonlinearity="relu")
        if self.bias is not None:
            nn.init.zeros_(self.bias)

    def settings(self) -> dict[str, Any]:
        return {"blocks": self.blocks, "form": self.form}

    def settings_repr(self) -> str:
        return f"blocks={self.blocks}, form={self.form}"

    def convolve(self, x: Tensor) -> Tensor:
        if self.form == "fold":
            return self._fold(x)
        bias = None if self.bias is None else self._over_blocks(self.bias)
        return self.conv2d(x, self._over_blocks(self.weight), bias, self.groups * self.blocks)

    def _over_blocks(self, bank: Tensor) -> Tensor:
        """The bank of each group, repeated for each block; the rows are ordered by group, block and filter."""
        if self.groups == 1:
            return torch.cat([bank] * self.blocks)
        rows = bank.unflatten(0, (self.groups, -1))
        return torch.stack([rows] * self.blocks, 1).flatten(0, 2)

    def _fold(self, x: Tensor) -> Tensor:
        """The convolution with the blocks as images of the batch; it copies a channels_last input, but not the weight."""
        n, _, h, w = x.shape
        g, b = self.groups, self.blocks
        i, o = self.in_channels // b, self.out_channels // b
        if g > 1:
            x = x.reshape(n, g, b, i // g, h, w).transpose(1, 2)
        x = x.reshape(n * b, i, h, w)
        y = self.conv2d(x, self.weight, self.bias, g)
        h, w = y.shape[2], y.shape[3]
        if g > 1:
            y = y.reshape(n, b, g, o // g, h, w).transpose(1, 2)
        return y.reshape(n, self.out_channels, h, w)

    def weight_dense(self) -> Tensor:
        g, b = self.groups, self.blocks
        rows = self.weight.unflatten(0, (g, -1))
        eye = torch.eye(b, dtype=rows.dtype, device=rows.device)
        return torch.einsum("bc,goikl->gbocikl", eye, rows).flatten(3, 4).flatten(0, 2)

    def bias_dense(self) -> Tensor | None:
        return None if self.bias is None else self._over_blocks(self.bias)

    def rescale_(self, scale: Tensor) -> bool:
        self.weight.mul_(scale.unflatten(0, (self.groups, self.blocks, -1)).mean(1).view(-1, 1, 1, 1))
        return True

    def inference_forms(self, affine: Affine | None) -> Forms:
        return forms(self, affine)

    def compact_(self) -> None:
        """Compute with the blocks folded into the batch, so that a file holds the bank once, not B times."""
        self.form = "fold"

    def release_places(self, layer: NamedLayer) -> list[Place]:
        other_order = None
        if self.groups > 1 and self.blocks > 1:
            other_order = (
                f"has weights for {layer.name!r} of groups={self.groups}: the release orders its channels by block first, the "
                "paper and leanconv by group first, so that its weights compute something else here"
            )
        return layer.renamed({"": ("conv.",)}, unless=other_order)


@dataclass(frozen=True)
class TiedBlock(Method):
    """Tied block convolution (TBC; with groups TGC; for linear layers TFC, see `TiedBlockLinear`).

    Parameters kh kw I O / (B**2 G), and O / B for the bias. MACs kh kw I O / (B G) for each output position.

    Args:
        blocks: B, the number of channel blocks that share one bank.

    Source: Wang & Yu 2021.
    """

    blocks: int = 2

    def __post_init__(self) -> None:
        check_int("blocks", self.blocks)

    @classmethod
    def grid(cls, specs: Sequence[ConvSpec], align: int) -> Sequence[Method]:
        return [cls(blocks) for blocks in whole_blocks(specs[0], align)]

    def aligned(self, spec: ConvSpec, align: int) -> Method | str:
        blocks = aligned_blocks(spec, align, self.blocks)
        return blocks if isinstance(blocks, str) else TiedBlock(blocks)

    def channel_form(self, spec: ConvSpec) -> ChannelForm | None:
        return ChannelForm(self.blocks, tied=True)

    def reject(self, spec: ConvSpec) -> str | None:
        return blocks_error(self.blocks, spec.in_channels, spec.out_channels, spec.groups)

    def build(self, specs: Sequence[ConvSpec]) -> list[nn.Module]:
        return [TiedBlockConv2d(**spec.kwargs(), blocks=self.blocks) for spec in specs]

    def reject_linear(self, spec: ConvSpec) -> str | None:
        return blocks_error(self.blocks, spec.in_channels, spec.out_channels, unit="features")

    def build_linear(self, specs: Sequence[ConvSpec]) -> list[nn.Module]:
        return [TiedBlockLinear(s.in_channels, s.out_channels, s.bias, blocks=self.blocks) for s in specs]

    def params(self, specs: Sequence[ConvSpec]) -> int:
        b = self.blocks
        return sum(s.fan_in * s.out_channels // b**2 + s.out_channels // b * s.bias for s in specs)

    def macs(self, specs: Sequence[ConvSpec], index: int, out_hw: Pair) -> int:
        return specs[index].macs(out_hw) // self.blocks

    def degenerate(self, spec: ConvSpec) -> Method | None:
        return TiedBlock(blocks=1)

    def fit_(self, modules: Sequence[nn.Module], convs: Sequence[nn.Conv2d], stats: Stats = None) -> None:
        """Set the bank to the mean of the dense weight's diagonal blocks: the nearest in the Frobenius norm.

        With `stats`, the bank of each group is T = (sum over b of [W S]_bb) (sum over b of S_bb)⁻¹.
        """
        for module, conv, moments in zip(modules, convs, each(stats, convs), strict=True):
            weight, bias, g, b = module.weight, module.bias, conv.groups, self.blocks
            assert isinstance(weight, Tensor)
            if moments is not None:
                bank = _shared_bank(conv, moments, b).flatten(0, 1)
                weight.copy_(bank[:, : weight[0].numel()].reshape_as(weight))
                if isinstance(bias, Tensor):
                    bias.copy_(bank[:, -1])
                continue
            blocks = conv.weight.unflatten(1, (b, -1)).unflatten(0, (g, b, -1))  # (G, B, o, B, i, kh, kw)
            weight.copy_(blocks.diagonal(dim1=1, dim2=3).mean(-1).flatten(0, 1).view_as(weight))
            if isinstance(bias, Tensor) and conv.bias is not None:
                bias.copy_(conv.bias.unflatten(0, (g, b, -1)).mean(1).flatten())


def _shared_bank(conv: nn.Conv2d, moments: Moments, blocks: int) -> Tensor:
    """The bank of each group with the least mean squared difference of the outputs: (groups, O / blocks, inputs of a block).

    If `conv` has a bias, a last column is the shared bias, the weight of an input that is always 1.
    """
    weight, metric = with_bias(conv), moments.augmented(conv.bias is not None)
    size, rows = moments.mean.shape[1] // blocks, weight.shape[1] // blocks
    constant = list(range(blocks * size, metric.shape[1]))  # the column of the bias, if there is one
    own = [[*range(b * size, (b + 1) * size), *constant] for b in range(blocks)]
    right = [weight[:, b * rows : (b + 1) * rows] @ metric[:, :, places] for b, places in enumerate(own)]
    gram = [metric[:, places][:, :, places] for places in own]
    return solved(torch.stack(right).sum(0), torch.stack(gram).sum(0))
