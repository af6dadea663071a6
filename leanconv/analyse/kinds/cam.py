"""Where in an image a network sees a class."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

from leanconv.analyse.declare import analysis
from leanconv.core.errors import SettingError

if TYPE_CHECKING:
    from torch import nn

    from leanconv.analyse.analysis import Analysis
    from leanconv.analyse.cam import GradCam
    from leanconv.analyse.images import Images


@analysis("Grad-CAM, the regions that raise the score of a class")
def cam(
    models: Mapping[str, nn.Module],
    images: Mapping[str, Images],
    layers: tuple[str, ...] = (),
    classes: tuple[int, ...] = (),
) -> Analysis:
    """Grad-CAM over each image."""
    from leanconv.analyse.analysis import Analysis
    from leanconv.analyse.cam import grad_cam, plot_cams

    if len(layers) > 1:
        raise SettingError(f"cam shows one layer, and {len(layers)} are given (--layer, layers); run it for each")
    layer = layers[0] if layers else None

    def of(label: str) -> GradCam:
        seen = images[label].tensor
        wanted = classes * len(seen) if len(classes) == 1 else classes
        return grad_cam(models[label], seen, layer, classes=wanted or None)

    def name(index: int, known: Sequence[str]) -> str:
        return known[index] if index < len(known) else f"class {index}"

    found = {label: of(label) for label in models}
    names = {label: [name(i, images[label].task.classes) for i in one.classes] for label, one in found.items()}
    cells = [[label, one.layer, ", ".join(names[label])] for label, one in found.items()]
    figure = plot_cams({label: images[label].pictures() for label in found}, found, names)
    values = {label: one.to_json() for label, one in found.items()}
    return Analysis(values, figure, ("Network", "Layer", "Classes"), cells)
