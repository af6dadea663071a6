"""What ShardNet's networks are made of: one filter set, used by every layer that asks for it, and blending layers."""

from __future__ import annotations

from torch import nn

from leanconv.core.sharing import lend
from leanconv.core.traits import Blending
from leanconv.models.layers import ImageNetwork
from leanconv.ops.depth_shared import ConvBank, DepthSharedConv2d, PaddedDepthSharedConv2d


class FilterSet:
    """Gives convolutions, all with one weight and bias when `shared`, each with its own otherwise.

    The first convolution that is asked for owns the shared weight; the others refer to it.
    """

    def __init__(self, shared: bool) -> None:
        self.shared = shared
        self.banks: dict[tuple[int, int, int], tuple[ConvBank, nn.Module]] = {}

    def conv(self, in_channels: int, out_channels: int, kernel_size: int) -> nn.Module:
        """A convolution with bias that keeps the size of the map."""
        padding = kernel_size // 2
        if not self.shared:
            return nn.Conv2d(in_channels, out_channels, kernel_size, padding=padding)
        key = (in_channels, out_channels, kernel_size)
        if key in self.banks:
            bank, owner = self.banks[key]
            conv = DepthSharedConv2d(in_channels, out_channels, kernel_size, padding=padding, bank=bank)
            lend(bank, [owner, conv])
            return conv
        conv = DepthSharedConv2d(in_channels, out_channels, kernel_size, padding=padding)
        self.banks[key] = conv.bank, conv
        return conv

    def image_conv(self, in_channels: int, out_channels: int, kernel_size: int) -> nn.Module:
        """The convolution on the image: the shared one, whose input is padded with empty channels."""
        if not self.shared:
            return self.conv(in_channels, out_channels, kernel_size)
        bank = ConvBank((out_channels, out_channels, kernel_size, kernel_size), bias=True)
        conv = PaddedDepthSharedConv2d(in_channels, bank, padding=kernel_size // 2)
        self.banks[out_channels, out_channels, kernel_size] = bank, conv
        return conv


class BlendedNetwork(ImageNetwork, Blending):
    """A network that names its blending layers.

    Args:
        blends: their names, where the network has made them.
    """

    def __init__(self, num_classes: int, default_input_size: tuple[int, int, int]) -> None:
        super().__init__(num_classes, default_input_size)
        self.blends: list[str] = []

    def blending_weights(self) -> list[nn.Parameter]:
        plain = [name for name in self.blends if isinstance(self.get_submodule(name), nn.Conv2d)]  # not those converted
        return [self.get_parameter(f"{name}.weight") for name in plain]


def init_blend_(blend: nn.Module) -> None:
    """Start a blending layer as the identity, so that the network starts as the one without; the paper gives no start."""
    assert isinstance(blend, nn.Conv2d)
    nn.init.dirac_(blend.weight)
    if blend.bias is not None:
        nn.init.zeros_(blend.bias)
