"""Attention blocks with tied layers: squeeze-and-excitation and global context."""

from __future__ import annotations

from torch import Tensor, nn

from leanconv.core.errors import SettingError
from leanconv.core.release import NamedLayer, Place
from leanconv.ops.tied_block import TiedBlockConv2d
from leanconv.ops.tied_linear import TiedBlockLinear

__all__ = ["TiedGlobalContext", "TiedSE"]


def reduced(channels: int, reduction: int) -> int:
    """The width of an attention block's bottleneck: channels / reduction.

    Raises:
        SettingError: `reduction` does not divide `channels`.

    >>> reduced(64, 16)
    4
    """
    if reduction < 1 or channels % reduction:
        raise SettingError(f"reduction={reduction} must divide channels={channels}")
    return channels // reduction


class TiedSE(nn.Module):
    """Squeeze-and-excitation whose two fully connected layers are tied.

        y = x * sigmoid(expand(relu(squeeze(mean over H, W of x))))

    Parameters 2 C**2 / (reduction B**2), and (C / reduction + C) / B for the biases. With B = 1 the block is the ordinary SE
    block.

    Args:
        channels: C.
        reduction: the hidden width is channels / reduction.
        blocks: B; divides channels and the hidden width.

    Shape:
        x: (N, C, H, W) -> (N, C, H, W).

    Raises:
        SettingError: `blocks` or `reduction` does not divide a width. (The release rounds a smaller hidden width up to 2,
            which silently breaks the factor B**2.)

    Source: Wang & Yu 2021, Fig. 5a.

    >>> import torch
    >>> TiedSE(64, reduction=8)(torch.zeros(2, 64, 7, 7)).shape
    torch.Size([2, 64, 7, 7])
    """

    def __init__(self, channels: int, reduction: int = 16, *, blocks: int = 2) -> None:
        super().__init__()
        hidden = reduced(channels, reduction)
        self.squeeze = TiedBlockLinear(channels, hidden, blocks=blocks)
        self.activation = nn.ReLU(inplace=True)
        self.expand = TiedBlockLinear(hidden, channels, blocks=blocks)

    def forward(self, x: Tensor) -> Tensor:
        gate = self.expand(self.activation(self.squeeze(x.mean((2, 3))))).sigmoid()
        return x * gate[:, :, None, None]

    def release_places(self, layer: NamedLayer) -> list[Place]:
        return layer.renamed({"squeeze.": ("fc.0.",), "expand.": ("fc.2.",)})


class TiedGlobalContext(nn.Module):
    """Global context block whose two 1x1 convolutions are tied (TiedGCB).

        context = sum over positions of x * softmax(mask(x));   y = x + expand(relu(norm(squeeze(context))))

    The mask convolution (C -> 1) is not tied; norm is a LayerNorm over the hidden channels. Parameters
    2 C**2 / (reduction B**2) for the weights, (C / reduction + C) / B for the biases, C + 1 for the mask, and
    2 C / reduction for the norm.

    Args:
        channels: C.
        reduction: the hidden width is channels / reduction.
        blocks: B; divides channels and the hidden width.

    Shape:
        x: (N, C, H, W) -> (N, C, H, W).

    Raises:
        SettingError: `blocks` or `reduction` does not divide a width.

    Source: Wang & Yu 2021, Fig. 5b; the block is the block of GCNet (Cao et al. 2019) with reduction 4.

    >>> import torch
    >>> TiedGlobalContext(64)(torch.zeros(2, 64, 7, 7)).shape
    torch.Size([2, 64, 7, 7])
    """

    def __init__(self, channels: int, reduction: int = 4, *, blocks: int = 2) -> None:
        super().__init__()
        hidden = reduced(channels, reduction)
        self.mask = nn.Conv2d(channels, 1, 1)
        self.squeeze = TiedBlockConv2d(channels, hidden, 1, blocks=blocks)
        self.norm = nn.LayerNorm([hidden, 1, 1])
        self.activation = nn.ReLU(inplace=True)
        self.expand = TiedBlockConv2d(hidden, channels, 1, blocks=blocks)
        self.reset_parameters()

    def reset_parameters(self) -> None:
        """Set the last layer to zero, so that the block starts as the identity (GCNet)."""
        nn.init.kaiming_normal_(self.mask.weight)
        nn.init.zeros_(self.expand.weight)

    def forward(self, x: Tensor) -> Tensor:
        attention = self.mask(x).flatten(2).softmax(-1)  # (N, 1, positions)
        context = (x.flatten(2) @ attention.transpose(1, 2)).unsqueeze(-1)
        return x + self.expand(self.activation(self.norm(self.squeeze(context))))
