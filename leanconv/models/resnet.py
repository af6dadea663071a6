"""Residual networks for small images.

Source: He et al. 2016, "Deep Residual Learning for Image Recognition", section 4.2 (6n+2 layers, widths 16/32/64). The
filter-basis paper uses ResNet-18/34 in a CIFAR variant: a 3x3 stem of stride 1, and no max-pool.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from leanconv.core.settings import check_choice
from leanconv.models.layers import ImageNetwork, at_least_one, init_convs_

PADDINGS = ("end", "both")


class PadShortcut(nn.Module):
    """The shortcut of option A: it takes every `stride`-th pixel and adds channels of zeros. It has no parameters.

    The paper does not say on which side the zeros are added. The tensors of a checkpoint do not show it either. The state dict
    therefore stores `padding` in its metadata, and does not load into a network with another value.

    >>> PadShortcut(extra=16, stride=2)(torch.ones(1, 16, 32, 32)).shape
    torch.Size([1, 32, 16, 16])

    Args:
        extra: number of added channels.
        stride: of the subsampling.
        padding: "end" adds the zeros after the old channels (Torch's ResNet of 2016). "both" adds half of them on each side
            (the common PyTorch code for three stages, and the release of the filter bases).

    Shape:
        x: (N, C, H, W) -> (N, C + extra, ceil(H / stride), ceil(W / stride)), the output size of a padded 3x3 convolution.
    """

    def __init__(self, extra: int, stride: int, padding: str = "end") -> None:
        super().__init__()
        self.extra = extra
        self.stride = stride
        self.padding = padding

    def forward(self, x: Tensor) -> Tensor:
        before = self.extra // 2 if self.padding == "both" else 0
        return F.pad(x[:, :, :: self.stride, :: self.stride], (0, 0, 0, 0, before, self.extra - before))

    def extra_repr(self) -> str:
        """The settings, as ``print(module)`` shows them."""
        return f"extra={self.extra}, stride={self.stride}, padding={self.padding}"

    def _save_to_state_dict(self, destination: Any, prefix: str, keep_vars: bool) -> None:
        super()._save_to_state_dict(destination, prefix, keep_vars)
        noted = getattr(destination, "_metadata", {}).get(prefix[:-1])
        if noted is not None:
            noted["padding"] = self.padding

    def _load_from_state_dict(
        self,
        state_dict: Any,
        prefix: str,
        local_metadata: Any,
        strict: bool,
        missing: Any,
        unexpected: Any,
        errors: Any,
    ) -> None:
        super()._load_from_state_dict(state_dict, prefix, local_metadata, strict, missing, unexpected, errors)
        found = local_metadata.get("padding", self.padding)
        if found != self.padding:
            errors.append(
                f"{prefix[:-1]!r} pads at {found!r} in this state dict and at {self.padding!r} in this network; build the "
                f"network with shortcut_padding={found!r}"
            )


def pad_shortcuts(model: nn.Module) -> list[tuple[str, PadShortcut]]:
    """The option-A shortcuts of `model`, as (name, module)."""
    return [(name, module) for name, module in model.named_modules() if isinstance(module, PadShortcut)]


class BasicBlock(nn.Module):
    """A residual block of two 3x3 convolutions: relu(bn2(conv2(relu(bn1(conv1(x))))) + shortcut(x)).

    Args:
        in_channels, out_channels: of the block.
        stride: of the first convolution.
        shortcut, padding: see `CifarResNet`.

    Shape:
        x: (N, in_channels, H, W) -> (N, out_channels, H', W'), divided by the stride and rounded up.
    """

    def __init__(self, in_channels: int, out_channels: int, stride: int, shortcut: str, padding: str = "end") -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(in_channels, out_channels, 3, stride=stride, padding=1, bias=False)
        self.bn1 = nn.BatchNorm2d(out_channels)
        self.relu1 = nn.ReLU(inplace=True)
        self.conv2 = nn.Conv2d(out_channels, out_channels, 3, padding=1, bias=False)
        self.bn2 = nn.BatchNorm2d(out_channels)
        self.relu2 = nn.ReLU(inplace=True)
        self.shortcut = _shortcut(in_channels, out_channels, stride, shortcut, padding)

    def forward(self, x: Tensor) -> Tensor:
        out = self.relu1(self.bn1(self.conv1(x)))
        out = self.bn2(self.conv2(out))
        return self.relu2(out + self.shortcut(x))


def _shortcut(in_channels: int, out_channels: int, stride: int, option: str, padding: str) -> nn.Module:
    if stride == 1 and in_channels == out_channels:
        return nn.Identity()
    if option == "A":
        return PadShortcut(out_channels - in_channels, stride, padding)
    return nn.Sequential(
        nn.Conv2d(in_channels, out_channels, 1, stride=stride, bias=False), nn.BatchNorm2d(out_channels)
    )


class CifarResNet(ImageNetwork):
    """A residual network for small images: a 3x3 stem, then stages of basic blocks named layer1, layer2, ...

    Each stage except the first halves the feature map and doubles the width.

    Args:
        depths: blocks in each stage.
        num_classes, in_chans: outputs, and channels of the image.
        width: channels of the stem and the first stage.
        shortcut: where the shape changes: "A" (subsampling and zero padding) or "B" (1x1 convolution and normalisation).
        shortcut_padding: of option A: "end" or "both", see `PadShortcut`. Option B does not use it.

    Shape:
        x: (N, in_chans, H, W) -> (N, num_classes), for any H and W.
    """

    def __init__(
        self,
        depths: Sequence[int],
        num_classes: int = 10,
        in_chans: int = 3,
        width: int = 16,
        shortcut: str = "A",
        shortcut_padding: str = "end",
    ) -> None:
        at_least_one(num_classes=num_classes, in_chans=in_chans, width=width)
        check_choice("shortcut", shortcut, ("A", "B"))
        check_choice("shortcut_padding", shortcut_padding, PADDINGS)
        super().__init__(num_classes, (in_chans, 32, 32))
        self.conv1 = nn.Conv2d(in_chans, width, 3, padding=1, bias=False)
        self.bn1 = nn.BatchNorm2d(width)
        self.relu = nn.ReLU(inplace=True)
        self.stages = tuple(f"layer{index + 1}" for index in range(len(depths)))
        channels = width
        for index, (name, depth) in enumerate(zip(self.stages, depths, strict=True)):
            out_channels = width * 2**index
            first = BasicBlock(channels, out_channels, 1 if index == 0 else 2, shortcut, shortcut_padding)
            rest = [BasicBlock(out_channels, out_channels, 1, shortcut) for _ in range(depth - 1)]
            self.add_module(name, nn.Sequential(first, *rest))
            self.feature_info.append({"num_chs": out_channels, "reduction": 2**index, "module": name})
            channels = out_channels
        self.avgpool = nn.AdaptiveAvgPool2d(1)
        self.fc = nn.Linear(channels, num_classes)
        init_convs_(self)

    def forward(self, x: Tensor) -> Tensor:
        x = self.relu(self.bn1(self.conv1(x)))
        for name in self.stages:
            x = getattr(self, name)(x)
        return self.fc(torch.flatten(self.avgpool(x), 1))


def resnet(
    depths: Sequence[int],
    num_classes: int = 10,
    in_chans: int = 3,
    width: int = 16,
    shortcut: str = "A",
    shortcut_padding: str = "end",
) -> CifarResNet:
    """The CIFAR residual network with `depths` blocks in its stages; arguments as for `CifarResNet`.

    >>> sum(parameter.numel() for parameter in resnet((3, 3, 3)).parameters())  # ResNet-20
    269722
    """
    return CifarResNet(depths, num_classes, in_chans, width, shortcut, shortcut_padding)
