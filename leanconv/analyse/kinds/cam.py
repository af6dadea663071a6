"""Where in an image a network sees a class."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING

from leanconv.analyse.declare import analysis

if TYPE_CHECKING:
    from torch import nn

    from leanconv.analyse.analysis import Analysis
    from leanconv.analyse.images import Images


@analysis("Grad-CAM, the regions that raise the score of a class")
def cam(
    models: Mapping[str, nn.Module], images: Images, layers: tuple[str, ...] = (), classes: tuple[int, ...] = ()
) -> Analysis:
    """Grad-CAM over each image."""
    from leanconv.analyse.analysis import Analysis
    from leanconv.analyse.cam import grad_cam, plot_cams

    wanted = classes * len(images.tensor) if len(classes) == 1 else classes
    layer = layers[0] if layers else None
    found = {label: grad_cam(model, images.tensor, layer, classes=wanted or None) for label, model in models.items()}
    known = images.task.classes

    def name(index: int) -> str:
        return known[index] if index < len(known) else f"class {index}"

    names = {label: [name(index) for index in one.classes] for label, one in found.items()}
    cells = [[label, one.layer, ", ".join(names[label])] for label, one in found.items()]
    figure = plot_cams(images.pictures(), found, names)
    values = {label: one.to_json() for label, one in found.items()}
    return Analysis(values, figure, ("Network", "Layer", "Classes"), cells)
