"""The parts of ShardNet's networks: one filter set that many layers use, and blending layers."""

from __future__ import annotations

from torch import nn

from leanconv.core.sharing import lend
from leanconv.core.traits import Blending
from leanconv.models.layers import ImageNetwork
from leanconv.ops.depth_shared import ConvBank, DepthSharedConv2d
from leanconv.ops.padded_depth_shared import PaddedDepthSharedConv2d


class FilterSet:
    """Makes convolutions. With `shared`, all convolutions of one shape have the same weight and bias.

    The first convolution owns the shared weight; the later ones hold a reference to its owner.

    Args:
        shared: share the weights; without it, each convolution has its own.
    """

    def __init__(self, shared: bool) -> None:
        self.shared = shared
        self.banks: dict[tuple[int, int, int], tuple[ConvBank, nn.Module]] = {}

    def conv(self, in_channels: int, out_channels: int, kernel_size: int) -> nn.Module:
        """A convolution with a bias that keeps the size of the feature map."""
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
        """The first convolution, which reads the image. With `shared`, zero channels are added to the image."""
        if not self.shared:
            return self.conv(in_channels, out_channels, kernel_size)
        bank = ConvBank((out_channels, out_channels, kernel_size, kernel_size), bias=True)
        conv = PaddedDepthSharedConv2d(in_channels, bank, padding=kernel_size // 2)
        self.banks[out_channels, out_channels, kernel_size] = bank, conv
        return conv


class BlendedNetwork(ImageNetwork, Blending):
    """A network with blending layers. A subclass adds their names to `blends`.

    Args:
        num_classes: number of outputs.
        default_input_size: (channels, height, width) of an image.
    """

    def __init__(self, num_classes: int, default_input_size: tuple[int, int, int]) -> None:
        super().__init__(num_classes, default_input_size)
        self.blends: list[str] = []

    def blending_weights(self) -> list[nn.Parameter]:
        """The weights of the blending layers, without those that were converted to another operator."""
        plain = [name for name in self.blends if isinstance(self.get_submodule(name), nn.Conv2d)]
        return [self.get_parameter(f"{name}.weight") for name in plain]


def init_blend_(blend: nn.Module) -> None:
    """Initialise a blending layer as the identity. So the network initially equals the network without blending layers.

    The paper does not give an initialisation.
    """
    assert isinstance(blend, nn.Conv2d)
    nn.init.dirac_(blend.weight)
    if blend.bias is not None:
        nn.init.zeros_(blend.bias)
