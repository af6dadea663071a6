"""`look`: one function for every analysis."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, cast

import torch
from torch import Tensor, nn

from leanconv.analyse.analysis import Analysis
from leanconv.analyse.declare import Kind
from leanconv.analyse.images import Images, images_for
from leanconv.analyse.kinds import KINDS
from leanconv.core.copying import copied
from leanconv.core.errors import SettingError
from leanconv.core.meta import own_dtype
from leanconv.core.settings import check_int
from leanconv.data import ImageData

HALF = (torch.float16, torch.bfloat16)
FOLDERS = ("folders", "one folder")
FLAGS: dict[str, tuple[str, Any]] = {  # their flags, and their values where they are not given
    "layers": ("--layer", ()), "classes": ("--class", ()), "average": ("--average", "patterns"),
}  # fmt: skip
Subjects = nn.Module | str | os.PathLike[str] | Sequence[str | os.PathLike[str]] | Mapping[str, Any]


def look(
    what: str,
    models: Subjects,
    images: ImageData | Tensor | str | os.PathLike[str] | None = None,
    *,
    layers: Sequence[str] = (),
    classes: Sequence[int] = (),
    count: int = 8,
    seed: int = 0,
    average: str = "patterns",
    command: str = "",
) -> Analysis:
    """Run an analysis of networks; the result has a table, a figure, and arrays.

        found = lc.analyse.look("filters", {"dense": dense, "tied": lean}, data)
        found.figure                     # a figure of matplotlib
        found.to_json()                  # the arrays

    Args:
        what: a name in `leanconv.analyse.KINDS`, which describes each analysis.
        models: a network, or several networks by name. The analyses "gradients" and "tradeoff" take folders.
        images: a data set, of which the test part is used; a folder of photos; or a tensor (N, C, H, W) as the networks take it.
            Each network gets the same images, at its own size and with its own normalisation.
        layers: the names of layers; () lets the analysis choose some.
        classes: for "cam", one class for all images or one for each; () takes the likeliest.
        count: the number of images.
        seed: the seed of random choices.
        average: for "filters" and "matrices", what is averaged over the images, see `leanconv.analyse.filter_similarity`.
        command: the command line that the page shows.

    Raises:
        SettingError: the analysis is unknown, it needs images, one network or folders that were not given, it does not take
            `layers`, `classes` or `average`, a class is no number, or the images are no (N, C, H, W) in floating point.

    >>> import leanconv as lc
    >>> found = look("spectrum", lc.create_model("resnet8"), layers=["layer1.0.conv1"])
    >>> len(found.rows)
    1
    """
    if what not in KINDS:
        raise SettingError(f"--what {what} (what) must be one of {', '.join(KINDS)}")
    kind = KINDS[what]
    networks = {} if kind.of in FOLDERS else _networks(models)
    readable = {label: _readable(model) for label, model in networks.items()}
    subjects: Mapping[str, Any] = _folders(models) if kind.of in FOLDERS else readable
    if kind.of.startswith("one") and len(subjects) > 1:
        noun = kind.of.removeprefix("one ")
        raise SettingError(f"{what} shows one {noun}, and {len(subjects)} are given; run it for each")
    for number in classes:
        check_int("--class (classes)", number, least=0)
    given: dict[str, Any] = {"layers": tuple(layers), "classes": tuple(classes), "seed": seed, "average": average}
    _check_taken(kind, given)
    if "images" in kind.takes:
        given["images"] = shown = _images(what, networks, images, count, seed)
        subjects = {label: _in_dtype(model, shown[label].tensor.dtype) for label, model in networks.items()}
    if "data" in kind.takes:
        if not isinstance(images, ImageData):
            raise SettingError(f"{what} needs labelled images: give --data, without --photos (images: a data set)")
        given["data"] = images
    found = kind.function(subjects, **{name: value for name, value in given.items() if name in kind.takes})
    settings = {"images": count, "seed": seed} | ({"average": average} if "average" in kind.takes else {})
    return replace(found, what=what, names=list(subjects), settings=settings, command=command)


def _check_taken(kind: Kind, given: Mapping[str, Any]) -> None:
    """Raise SettingError for an argument that has no effect on this analysis."""
    for name, (flag, unset) in FLAGS.items():
        if given[name] != unset and name not in kind.takes:
            takers = ", ".join(other.name for other in KINDS.values() if name in other.takes)
            raise SettingError(f"{flag} ({name}) has no effect on {kind.name}; leave it out, it is for {takers}")


def _networks(models: Subjects) -> Mapping[str, nn.Module]:
    found = {type(models).__name__: models} if isinstance(models, nn.Module) else models
    if not isinstance(found, Mapping) or not all(isinstance(model, nn.Module) for model in found.values()):
        raise SettingError("models must be a network, or a mapping of names to networks")
    return cast(Mapping[str, nn.Module], found)


def _in_dtype(model: nn.Module, dtype: torch.dtype) -> nn.Module:
    """`model`, or a copy in `dtype` if its weights have another: NumPy and the figures have no bfloat16."""
    return model if own_dtype(model, dtype) == dtype else copied(model).to(dtype)


def _readable(model: nn.Module) -> nn.Module:
    """`model`, or a copy in float32 if it has numbers that NumPy and the figures do not have or round."""
    return copied(model).float() if any(value.dtype in HALF for value in model.state_dict().values()) else model


def _folders(folders: Subjects) -> Mapping[str, Path]:
    if isinstance(folders, Mapping):
        return {name: Path(folder).expanduser() for name, folder in folders.items()}
    if isinstance(folders, nn.Module):
        raise SettingError("this analysis reads the files of a run; give the folder of the run, and not a network")
    several = [folders] if isinstance(folders, str | os.PathLike) else list(folders)
    return dict(zip(labels_of([os.fspath(folder) for folder in several]), map(Path, several), strict=True))


def _images(
    what: str, networks: Mapping[str, nn.Module], source: ImageData | Tensor | str | os.PathLike[str] | None, count: int,
    seed: int,
) -> dict[str, Images]:  # fmt: skip
    """The same images for each network, as it takes them."""
    if source is None:
        raise SettingError(f"{what} looks at images: give --data, or --photos with a folder of them (images)")
    given = source if isinstance(source, ImageData | Tensor) else Path(source).expanduser()
    return {label: images_for(model, given, count, seed) for label, model in networks.items()}


def labels_of(targets: Sequence[str]) -> list[str]:
    """Short distinct labels of networks and folders: for folders, the parts of their paths that differ.

    If two of them were equal, or one the name of another network, the labels are the targets as they are.

    Raises:
        SettingError: a network is given twice.

    >>> labels_of(["resnet20", "resnet56"])
    ['resnet20', 'resnet56']
    """
    if len(set(targets)) < len(targets):
        raise SettingError(f"a network is given twice among {', '.join(targets)}; leave one out")
    parts = [Path(target).parts if Path(target).is_dir() else (target,) for target in targets]
    if len(parts) == 1:
        return [parts[0][-1]]
    shortest = min(map(len, parts))
    front = next((i for i in range(shortest) if len({p[i] for p in parts}) > 1), 0)
    back = next((i for i in range(shortest) if len({p[-1 - i] for p in parts}) > 1), 0)
    short = ["/".join(p[front : len(p) - back] or p) for p in parts]
    clear = len({*short}) == len(short) and all(s == t or s not in targets for s, t in zip(short, targets, strict=True))
    return short if clear else list(targets)
