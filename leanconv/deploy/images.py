"""Image files as a network's input."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from torch import Tensor

from leanconv.core.errors import DataError
from leanconv.core.task import Task
from leanconv.data.encoded import Files, decode
from leanconv.data.transforms import eval_transform, normalise

SUFFIXES = {".jpg", ".jpeg", ".png", ".bmp", ".webp", ".tif", ".tiff", ".ppm", ".pgm", ".gif"}


def files_of(paths: Sequence[Path]) -> list[Path]:
    """These files, and the images below these folders.

    Raises:
        DataError: a path that is not there, or a folder without images.
    """
    found: list[Path] = []
    for path in paths:
        if not path.exists():
            raise DataError(f"no file or folder {path}")
        inside = sorted(p for p in path.rglob("*") if p.suffix.lower() in SUFFIXES) if path.is_dir() else [path]
        if not inside:
            raise DataError(f"no image in {path}; known are {', '.join(sorted(SUFFIXES))}")
        found += inside
    return found


def image_tensor(path: Path, task: Task) -> Tensor:
    """One image as the network was tested on it: (1, C, H, W).

    An image of another size is scaled until its shorter side is 256 / 224 of the network's, and cut from the centre.

    Raises:
        DataError: it cannot be read, or the network takes neither grey nor RGB.
    """
    from torchvision.transforms.v2 import functional

    if task.channels not in (1, 3):
        raise DataError(f"the network takes {task.channels} channels; image files have 1 (grey) or 3 (RGB)")
    pixels = decode(Files([str(path)]), 0)
    if task.channels == 1:
        pixels = functional.rgb_to_grayscale(pixels)
    pixels = eval_transform(task.image_size, resize=tuple(pixels.shape[1:]) != task.image_size)(pixels)
    return normalise(pixels[None], task.mean, task.std, channels_last=False)


def image_tensors(folder: Path, task: Task, most: int = 16) -> list[Tensor]:
    """The first images of a folder, each by itself."""
    return [image_tensor(path, task) for path in files_of([folder])[:most]]
