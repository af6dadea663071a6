"""What ``leanconv analyse`` can draw: for each kind, arrays for --json, a figure, and a line for each row of a table."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from leanconv.core.errors import SettingError

if TYPE_CHECKING:
    import numpy as np
    from matplotlib.figure import Figure
    from torch import Tensor, nn

    from leanconv.analyse.redundancy import Redundancy
    from leanconv.analyse.similarity import FilterSimilarity
    from leanconv.core.task import Task
    from leanconv.data import ImageData


@dataclass
class Asked:
    """What the user asked to see.

    Args:
        networks: label -> network; labels are what was typed.
        layers: names; () chooses them.
        count: how many images.
        photos: a folder of images instead of the data.
    """

    networks: dict[str, nn.Module]
    layers: tuple[str, ...]
    data: ImageData | None
    photos: Path | None
    count: int
    classes: tuple[int, ...]
    seed: int

    def only(self) -> tuple[str, nn.Module]:
        """The network, for kinds that show one."""
        if len(self.networks) > 1:
            raise SettingError(f"this analysis shows one network, and {len(self.networks)} are given; run it for each")
        return next(iter(self.networks.items()))

    def task(self) -> Task:
        from leanconv.core.task import task_of
        from leanconv.train.prepared import task_on

        first = next(iter(self.networks.values()))
        return task_of(first) if self.data is None else task_on(first, self.data)

    def images(self) -> Tensor:
        """Photos, or images of the test part, as the networks take them."""
        import torch

        from leanconv.deploy.images import image_tensors
        from leanconv.train.prepared import some_batches

        task = self.task()
        if self.photos is not None:
            return torch.cat(image_tensors(self.photos, task, self.count))
        if self.data is None:
            raise SettingError("this analysis looks at images: give --data, or --photos with a folder")
        return next(some_batches(self.data.test, self.data, task, self.count, seed=self.seed))

    def pictures(self, images: Tensor) -> np.ndarray:
        """Images as a reader sees them: (N, H, W, 3) or (N, H, W) in [0, 1]."""
        import torch

        task = self.task()
        mean, std = (torch.tensor(v).view(1, -1, 1, 1) for v in (task.mean, task.std))
        shown = (images * std + mean).clamp(0, 1)
        return (shown[:, 0] if shown.shape[1] == 1 else shown.permute(0, 2, 3, 1)).numpy()

    def chosen(self, model: nn.Module, most: int) -> list[str]:
        """The layers that were named, or some of the network's convolutions, evenly spread."""
        from leanconv.analyse.layers import conv_layers, layer_of

        if self.layers:
            for name in self.layers:
                layer_of(model, name)
            return list(self.layers)
        names = [name for name in conv_layers(model) if "shortcut" not in name and "downsample" not in name]
        if len(names) <= most:
            return names
        return [names[round(i * (len(names) - 1) / (most - 1))] for i in range(most)]


def check_channels(model: nn.Module, data: ImageData) -> None:
    """Raise SettingError where the network does not take images of `data`."""
    from leanconv.core.task import task_of

    found = task_of(model).channels
    if found != data.channels:
        raise SettingError(
            f"the network takes {found} channels and {data.name} has {data.channels}; take the data it was trained on"
        )


@dataclass
class Drawn:
    """What came out: for --json, the figure, and a table."""

    found: dict[str, Any]
    figure: Figure
    heads: Sequence[str]
    rows: Sequence[Sequence[str]]


def _filters(asked: Asked) -> dict[str, list[FilterSimilarity]]:
    from leanconv.analyse.similarity import filter_similarity

    images = asked.images()
    return {
        label: [filter_similarity(model, images, name, seed=asked.seed) for name in asked.chosen(model, 4)]
        for label, model in asked.networks.items()
    }


def filters(asked: Asked) -> Drawn:
    from leanconv.analyse.similarity import plot_histograms

    found = _filters(asked)
    return _similarities(found, plot_histograms(found))


def weights(asked: Asked) -> Drawn:
    from leanconv.analyse.similarity import plot_histograms, weight_similarity

    found = {
        label: [weight_similarity(model, name) for name in asked.chosen(model, 4)]
        for label, model in asked.networks.items()
    }
    return _similarities(found, plot_histograms(found))


def _similarities(found: dict[str, Any], figure: Figure) -> Drawn:
    values = {label: [similarity.to_json() for similarity in layers] for label, layers in found.items()}
    rows = [
        [label, v["layer"], str(len(v["filters"])), *(_number(v[key]) for key in ("mean", "q25", "median", "q75"))]
        for label, layers in values.items()
        for v in layers
    ]
    return Drawn(values, figure, ("Network", "Layer", "Filters", "mean cosine", "q25", "median", "q75"), rows)


def _number(value: float | None) -> str:
    return "–" if value is None else f"{value:.3f}"


def matrices(asked: Asked) -> Drawn:
    from leanconv.analyse.figure import panels

    found = _filters(asked)
    figure, grid = panels(len(found), max(map(len, found.values())), 3.0, 2.7)
    for (label, layers), row in zip(found.items(), grid, strict=True):
        for similarity, axes in zip(layers, row, strict=False):
            similarity.plot(axes)
        row[0].set_ylabel(label)
    return _similarities(found, figure)


def bases(asked: Asked) -> Drawn:
    from leanconv.analyse.bases import basis_similarity, plot_bases

    found = {label: basis_similarity(model) for label, model in asked.networks.items()}
    values = {label: [group.to_json() for group in groups] for label, groups in found.items()}
    rows = [
        [label, str(i + 1), str(len(v["layers"])), str(v["shared"]), str(v["components"])]
        + [f"{v[f'mean_{what}']:.4f}" for what in ("shared", "components", "coefficients")]
        for label, groups in values.items()
        for i, v in enumerate(groups)
    ]
    heads = ("Network", "Group", "Layers", "Shared", "Components", "mean |cos|, shared", "all", "coefficients")
    return Drawn(values, plot_bases(found), heads, rows)


def blending(asked: Asked) -> Drawn:
    from leanconv.analyse.blending import blending_extremes, plot_extremes

    label, model = asked.only()
    found = blending_extremes(model)
    rows = [
        [e.layer, str(len(e.weights)), f"{(e.unused() > 0.5).mean():.0%}", f"{e.unused().max():.2f}"] for e in found
    ]
    heads = ("Layer", "Channels", "inputs that most outputs hardly use", "least used: share of outputs")
    return Drawn({label: [e.to_json() for e in found]}, plot_extremes(found), heads, rows)


def pruning(asked: Asked) -> Drawn:
    from leanconv.analyse.blending import pruning_curve
    from leanconv.train.prepared import scores_of

    label, model = asked.only()
    data, task = asked.data, asked.task()
    if data is None:
        raise SettingError("accuracy needs labelled images: give --data")
    curve = pruning_curve(model, lambda pruned: scores_of(pruned, data, task).top1_pct)
    rows = [
        [label, f"{p.fraction:.0%}", f"{p.blending:,}", f"{p.params:,}", f"{p.factor:.2f}", f"{p.top1_pct:.2f}"]
        for p in curve.points
    ]
    heads = ("Network", "Pruned", "Blending weights left", "Parameters left", "times fewer", "Top-1 %")
    return Drawn({label: curve.to_json()}, curve.plot().figure, heads, rows)  # type: ignore[arg-type]


def cam(asked: Asked) -> Drawn:
    from leanconv.analyse.cam import grad_cam, plot_cams

    images, task = asked.images(), asked.task()
    classes = asked.classes * len(images) if len(asked.classes) == 1 else asked.classes
    found = {
        label: grad_cam(model, images, asked.layers[0] if asked.layers else None, classes=classes or None)
        for label, model in asked.networks.items()
    }
    names = {label: [_class(task, index) for index in cam.classes] for label, cam in found.items()}
    rows = [[label, cam.layer, ", ".join(names[label])] for label, cam in found.items()]
    figure = plot_cams(asked.pictures(images), found, names)
    return Drawn({label: cam.to_json() for label, cam in found.items()}, figure, ("Network", "Layer", "Classes"), rows)


def _class(task: Task, index: int) -> str:
    return task.classes[index] if index < len(task.classes) else f"class {index}"


def maps(asked: Asked) -> Drawn:
    from leanconv.analyse.redundancy import redundancies, redundancy

    label, model = asked.only()
    images = asked.images()
    found = [redundancy(model, images, name) for name in asked.layers] or redundancies(model, images)
    shown = found[0] if asked.layers else max(found, key=lambda r: r.share)
    return Drawn({label: [r.to_json() for r in found]}, shown.plot(), MAPS, [maps_row(r) for r in found])


MAPS = ("Layer", "Maps it reads", "Representatives", "Near-duplicates", "Suggests")


def maps_row(found: Redundancy) -> list[str]:
    """A line of the table under `MAPS`."""
    made = [str(len(found.of)), str(len(found.representatives)), f"{found.share:.0%}", f"split(ratio={found.ratio:g})"]
    return [found.layer, *made]


def spectra(asked: Asked) -> Drawn:
    from leanconv.analyse.figure import panels
    from leanconv.analyse.spectrum import spectrum
    from leanconv.conversion.apply import plan_of

    label, model = asked.only()
    made = plan_of(model)
    groups: list[Any] = list(asked.layers)
    if not groups and made is not None:
        groups = [[site.name for site in group.sites] for group in made.groups if len(group.sites) > 1]
    found = [spectrum(model, layers) for layers in groups or asked.chosen(model, 8)]
    columns = min(4, len(found))
    figure, grid = panels(-(-len(found) // columns), columns, 3.2, 2.5)
    for one, axes in zip(found, grid.flat, strict=False):
        one.plot(axes)
    values = [one.to_json() for one in found]
    rows = [
        [v["label"], f"{v['shape'][0]} x {v['shape'][1]}"] + [str(v[f"rank_{e}"]) for e in (90, 95, 99)] for v in values
    ]
    return Drawn({label: values}, figure, ("Layers", "Filters x inputs", "rank for 90 %", "95 %", "99 %"), rows)


KINDS: dict[str, Callable[[Asked], Drawn]] = {
    "filters": filters,
    "matrices": matrices,
    "weights": weights,
    "bases": bases,
    "blending": blending,
    "pruning": pruning,
    "cam": cam,
    "maps": maps,
    "spectrum": spectra,
}
SEES_IMAGES = {"filters", "matrices", "pruning", "cam", "maps"}
