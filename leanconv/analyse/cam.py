"""Grad-CAM: the regions of an image that raise the score of a class."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from leanconv.analyse.figure import panels
from leanconv.analyse.layers import block_layers, conv_layers, outputs_of, use_of
from leanconv.core.errors import SettingError
from leanconv.core.modes import evaluating
from leanconv.train.scoring import logits_of

if TYPE_CHECKING:
    from matplotlib.figure import Figure


@dataclass(frozen=True)
class GradCam:
    """Grad-CAM maps of some images.

    Args:
        layer: the layer whose feature maps were weighted.
        classes: for each image, the class whose score was explained.
        maps: (N, h, w), at the size of the feature maps, non-negative, in units of the score.
        heat: (N, H, W), at the size of the image, each scaled to 0 to 1.
    """

    layer: str
    classes: tuple[int, ...]
    maps: np.ndarray
    heat: np.ndarray

    def to_json(self) -> dict[str, Any]:
        """The layer, the classes and the maps, as plain values."""
        return {"layer": self.layer, "classes": list(self.classes), "maps": np.round(self.maps, 6).tolist()}

    def plot(self, images: np.ndarray) -> Figure:
        """Draw the images, (N, H, W, 3) in [0, 1], and below each image its heat map."""
        return plot_cams(images, {self.layer: self})


def last_layer(model: nn.Module) -> str:
    """The name of the last convolution with a kernel larger than 1x1, as is usual for Grad-CAM; else the last convolution."""
    layers = conv_layers(model)
    wide = [name for name, module in layers.items() if tuple(getattr(module, "kernel_size", (1, 1))) != (1, 1)]
    return (wide or list(layers))[-1]


def last_maps(model: nn.Module, images: Tensor) -> str:
    """The name of the last block, whose full output Grad-CAM looks at; without blocks, `last_layer`.

    A network without blocks in its ``feature_info``, or whose blocks return no feature maps, gives `last_layer`.
    """
    for name in block_layers(model)[-1:]:
        with evaluating(model), torch.no_grad(), outputs_of(model, name) as seen:
            model(images[:1])
        if seen and isinstance(seen[-1], Tensor) and seen[-1].ndim == 4:
            return name
    return last_layer(model)


def grad_cam(
    model: nn.Module, images: Tensor, layer: str | None = None, *, classes: Sequence[int] | None = None, use: int = -1
) -> GradCam:
    """Grad-CAM of each image.

        heat = relu(sum over channels of a_c A_c),   a_c = mean over positions of d score / d A_c

    A are the feature maps of the layer, and score is the output of the class before the softmax.

    Args:
        images: (N, C, H, W), as the network takes them.
        layer: any layer that returns feature maps (N, C, h, w); None takes `last_maps`, the output of the last block. It holds
            all splits of a tied bottleneck, so it compares with the output of a dense one.
        classes: the class for each image; None takes the likeliest.
        use: the number of the call, for a layer that runs several times; -1 is the last. A shared convolution of leanconv
            is a separate layer at each use, so its name is enough.

    Raises:
        SettingError: there is no such layer, use or class, or the network does not return one tensor (N, classes).

    Source: Selvaraju et al. 2017, eqs. 1 and 2; Wang & Yu 2021, Fig. 8.
    """
    layer = layer or last_maps(model, images)
    with evaluating(model), torch.enable_grad(), outputs_of(model, layer) as seen:
        # the image requires a gradient, so that the maps have one even if no parameter requires a gradient
        scores = logits_of(model(images.detach().clone().requires_grad_()))
        maps = use_of(seen, layer, use)
        asked = scores.argmax(1) if classes is None else torch.tensor(list(classes))
        if len(asked) != len(images) or not bool(((asked >= 0) & (asked < scores.shape[1])).all()):
            raise SettingError(
                f"classes={asked.tolist()} must be one of 0 to {scores.shape[1] - 1} for each of {len(images)} images"
            )
        chosen = scores.gather(1, asked[:, None].to(scores.device)).sum()
        gradient = torch.autograd.grad(chosen, maps)[0]
    weights = gradient.mean((2, 3), keepdim=True)
    cams = (weights * maps).sum(1).relu().detach()
    heat = F.interpolate(cams[:, None], images.shape[2:], mode="bilinear", align_corners=False)[:, 0]
    heat = heat / heat.amax((1, 2), keepdim=True).clamp(min=1e-12)
    return GradCam(layer, tuple(asked.tolist()), cams.cpu().numpy(), heat.cpu().numpy())


def plot_cams(
    images: np.ndarray | Mapping[str, np.ndarray],
    networks: Mapping[str, GradCam],
    titles: Mapping[str, Sequence[str]] | None = None,
) -> Figure:
    """Draw the images in the first row, and a row of heat maps for each network.

    Args:
        images: (N, H, W, 3) or (N, H, W), in [0, 1]; or those of each network, where they have other sizes.
        titles: for each network, a title for each image, such as the predicted class.
    """
    own = images if isinstance(images, Mapping) else dict.fromkeys(networks, images)
    first = next(iter(own.values()))
    figure, grid = panels(1 + len(networks), len(first), 1.6, 1.75)
    for image, axes in zip(first, grid[0], strict=True):
        axes.imshow(image, cmap="gray", vmin=0, vmax=1)
    for (label, cam), row in zip(networks.items(), grid[1:], strict=True):
        said = (titles or {}).get(label, [f"class {index}" for index in cam.classes])
        for image, heat, title, axes in zip(own[label], cam.heat, said, row, strict=True):
            axes.imshow(image, cmap="gray", vmin=0, vmax=1)
            axes.imshow(heat, cmap="inferno", alpha=0.5, vmin=0, vmax=1)
            axes.set_title(title, fontsize=8)
        row[0].set_ylabel(label, fontsize=8)
    for axes in grid.flat:
        axes.set_xticks([])
        axes.set_yticks([])
    return figure
