"""One call for every analysis."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, cast

from torch import Tensor, nn

from leanconv.analyse.analysis import Analysis
from leanconv.analyse.images import Images, check_channels, images_for
from leanconv.analyse.kinds import KINDS
from leanconv.core.errors import SettingError
from leanconv.data import ImageData

FOLDERS = ("folders", "one folder")
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
    command: str = "",
) -> Analysis:
    """Look into networks: a table, a figure, and arrays.

        found = lc.analyse.look("filters", {"dense": dense, "tied": lean}, data)
        found.figure                     # of matplotlib
        found.to_json()                  # the arrays

    Args:
        what: one of `leanconv.analyse.KINDS`, where each says what it shows.
        models: a network, or several by name. The kinds "gradients" and "tradeoff" read folders instead.
        images: a data set, whose test part is looked at; a folder of photos; or a tensor (N, C, H, W) as the networks take it.
        layers: names; () lets the analysis choose some.
        classes: for "cam": one for all images or one each; () takes the likeliest.
        count: how many images.
        seed: of what is drawn.
        command: what the page says that it was made by.

    Raises:
        SettingError: an unknown analysis, or one that needs images, one network or folders, and got something else.
    """
    if what not in KINDS:
        raise SettingError(f"--what {what} (what) must be one of {', '.join(KINDS)}")
    kind = KINDS[what]
    networks = {} if kind.of in FOLDERS else _networks(models)
    subjects = _folders(models) if kind.of in FOLDERS else networks
    if kind.of.startswith("one") and len(subjects) > 1:
        noun = kind.of.removeprefix("one ")
        raise SettingError(f"{what} shows one {noun}, and {len(subjects)} are given; run it for each")
    given: dict[str, Any] = {"layers": tuple(layers), "classes": tuple(classes), "seed": seed}
    if "images" in kind.takes:
        given["images"] = _images(what, networks, images, count, seed)
    if "data" in kind.takes:
        if not isinstance(images, ImageData):
            raise SettingError(f"{what} needs labelled images: give --data, without --photos (images: a data set)")
        given["data"] = images
    found = kind.function(subjects, **{name: value for name, value in given.items() if name in kind.takes})
    settings = {"images": count, "seed": seed}
    return replace(found, what=what, names=list(subjects), settings=settings, command=command)


def _networks(models: Subjects) -> Mapping[str, nn.Module]:
    found = {type(models).__name__: models} if isinstance(models, nn.Module) else models
    if not isinstance(found, Mapping) or not all(isinstance(model, nn.Module) for model in found.values()):
        raise SettingError("models must be a network, or a mapping of names to networks")
    return cast(Mapping[str, nn.Module], found)


def _folders(folders: Subjects) -> Mapping[str, Path]:
    if isinstance(folders, Mapping):
        return {name: Path(folder) for name, folder in folders.items()}
    if isinstance(folders, nn.Module):
        raise SettingError("this analysis reads what a run wrote; give its folder, and not a network")
    several = [folders] if isinstance(folders, str | os.PathLike) else list(folders)
    return dict(zip(labels_of([os.fspath(folder) for folder in several]), map(Path, several), strict=True))


def _images(
    what: str, networks: Mapping[str, nn.Module], source: ImageData | Tensor | str | os.PathLike[str] | None, count: int,
    seed: int,
) -> Images:  # fmt: skip
    if source is None:
        raise SettingError(f"{what} looks at images: give --data, or --photos with a folder of them (images)")
    if isinstance(source, ImageData):
        for model in networks.values():
            check_channels(model, source)
    first = next(iter(networks.values()))
    return images_for(first, source if isinstance(source, ImageData | Tensor) else Path(source), count, seed)


def labels_of(targets: Sequence[str]) -> list[str]:
    """What tells networks and folders apart: of folders, the parts of their paths that differ.

    Raises:
        SettingError: one is given twice.
    """
    if len(set(targets)) < len(targets):
        raise SettingError(f"a network is given twice among {', '.join(targets)}; leave one out")
    parts = [Path(target).parts if Path(target).is_dir() else (target,) for target in targets]
    if len(parts) == 1:
        return [parts[0][-1]]
    shortest = min(map(len, parts))
    front = next((i for i in range(shortest) if len({p[i] for p in parts}) > 1), 0)
    back = next((i for i in range(shortest) if len({p[-1 - i] for p in parts}) > 1), 0)
    return ["/".join(p[front : len(p) - back] or p) for p in parts]
