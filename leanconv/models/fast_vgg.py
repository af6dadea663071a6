"""A wide VGG-like network that trains quickly on CIFAR-10.

Source: Jordan 2024, "94% on CIFAR-10 in 3.29 Seconds on a Single GPU", after Page 2018 ("How to train your ResNet") and the
whitening layer of tysam-code (hlb-CIFAR10). Here the convolutions behind the stem have torch's initialisation and the identity
in their first filters, and the blocks are named as in our other networks.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Sequence

import torch
from torch import Tensor, nn

from leanconv.core.errors import SettingError
from leanconv.models.entry import ModelEntry
from leanconv.models.layers import ImageNetwork, at_least_one

PATCH = 2  # side of the whitened patches, in pixels
EIGENVALUE_FLOOR = 5e-4  # added to the eigenvalues, so that directions without signal are not blown up
LOGIT_SCALE = 1 / 9
JORDAN = "Jordan 2024, 94% on CIFAR-10 in 3.29 Seconds"


class FastVGG(ImageNetwork):
    """A fixed whitening stem, three blocks of 3x3 convolutions with max-pooling, and a scaled linear classifier.

    - Stem: a 2x2 convolution without padding whose 8 C filters (C: image channels) are the eigenvectors v_j of the covariance of
      2x2 patches, each divided by sqrt(eigenvalue + 5e-4), and their negatives. They are computed once from train images
      (`init_from_images_`) and never trained; the bias is.
    - Block: conv, max-pool 2, norm, GELU, then (depth - 1) times conv, norm, GELU. The norms have a bias and no weight.
    - Head: max-pool over what is left (3 pixels a side at 32), a linear layer without bias, times 1/9.

    Args:
        num_classes, in_chans: outputs, and channels of the image.
        widths: channels of each of the three blocks.
        width: factor on all widths, rounded to multiples of 8: the same network made narrower or wider.
        depth: convolutions in each block.

    Shape:
        x: (N, in_chans, H, W) -> (N, num_classes), for H and W of at least 9.

    >>> sum(parameter.numel() for parameter in FastVGG().parameters())
    1972792
    """

    def __init__(
        self,
        num_classes: int = 10,
        in_chans: int = 3,
        widths: Sequence[int] = (64, 256, 256),
        width: float = 1.0,
        depth: int = 2,
    ) -> None:
        at_least_one(num_classes=num_classes, in_chans=in_chans, depth=depth)
        if isinstance(widths, str) or not isinstance(widths, Sequence) or len(widths) != 3:
            raise SettingError(f"widths={widths!r} must hold three channel counts, one for each block")
        for channels in widths:
            at_least_one(widths=channels)
        if isinstance(width, bool) or not isinstance(width, int | float) or not 0 < width <= 16:
            raise SettingError(
                f"width={width!r} must be a number above 0 and at most 16; 1 is the network as published"
            )
        super().__init__(num_classes, (in_chans, 32, 32))
        stem = 2 * in_chans * PATCH**2
        self.whiten = nn.Conv2d(in_chans, stem, PATCH)
        self.whiten.weight.requires_grad_(False)
        nn.init.zeros_(self.whiten.bias)  # type: ignore[arg-type]
        self.whitened: Tensor
        self.register_buffer("whitened", torch.tensor(False))
        self.act = nn.GELU()
        inputs = stem
        for index, channels in enumerate(widths):
            own = channels if width == 1 else max(8, round(channels * width / 8) * 8)
            self.add_module(f"block{index + 1}", _block(inputs, own, depth))
            self.feature_info.append({"num_chs": own, "reduction": 2 ** (index + 1), "module": f"block{index + 1}"})
            inputs = own
        self.pool = nn.AdaptiveMaxPool2d(1)
        self.fc = nn.Linear(inputs, num_classes, bias=False)

    @torch.no_grad()
    def init_from_images_(self, images: Tensor) -> None:
        """Set the stem's filters from normalised train images, unless they are set already.

        Args:
            images: (N, in_chans, H, W).
        """
        if self.whitened or not isinstance(self.whiten, nn.Conv2d):  # a converted stem keeps its own filters
            return
        patches = images.float().unfold(2, PATCH, 1).unfold(3, PATCH, 1).permute(0, 2, 3, 1, 4, 5)
        rows = patches.reshape(-1, images.shape[1] * PATCH**2)
        values, vectors = torch.linalg.eigh(torch.cov(rows.double().T))
        filters = (vectors / (values + EIGENVALUE_FLOOR).sqrt()).T.flip(0).reshape(-1, images.shape[1], PATCH, PATCH)
        half = self.whiten.out_channels // 2  # a network made narrower keeps the directions of largest variance
        self.whiten.weight.copy_(torch.cat([filters[: self.whiten.out_channels - half], -filters[:half]]))
        self.whitened.fill_(True)

    def forward(self, x: Tensor) -> Tensor:
        x = self.act(self.whiten(x))
        for index in (1, 2, 3):
            x = getattr(self, f"block{index}")(x)
        return self.fc(torch.flatten(self.pool(x), 1)) * LOGIT_SCALE


def _block(in_channels: int, width: int, depth: int) -> nn.Sequential:
    layers: OrderedDict[str, nn.Module] = OrderedDict()
    for index in range(1, depth + 1):
        conv = nn.Conv2d(in_channels if index == 1 else width, width, 3, padding=1, bias=False)
        with torch.no_grad():
            nn.init.dirac_(conv.weight[: min(conv.in_channels, width)])  # the first filters pass their channel on
        layers[f"conv{index}"] = conv
        if index == 1:
            layers["pool"] = nn.MaxPool2d(2)
        norm = nn.BatchNorm2d(width, momentum=0.4)
        norm.weight.requires_grad_(False)
        layers[f"bn{index}"] = norm
        layers[f"act{index}"] = nn.GELU()
    return nn.Sequential(layers)


ENTRIES = (
    ModelEntry("fast_vgg", FastVGG, {}, f"{JORDAN}, section 3 (airbench94)"),
    ModelEntry("fast_vgg_wide", FastVGG, {"widths": (128, 384, 384)}, f"{JORDAN}, section 3 (airbench95)"),
)
