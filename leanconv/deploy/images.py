"""Image files as a network's input."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from torch import Tensor

from leanconv.core.errors import DataError
from leanconv.core.task import Task
from leanconv.data.encoded import MAX_PIXELS, SUFFIXES, Files, decode
from leanconv.data.scan import images_below
from leanconv.data.transforms import eval_transform, normalise


def files_of(paths: Sequence[Path]) -> list[Path]:
    """These files, and the images below these folders.

    Raises:
        DataError: a path that is not there, or a folder without images.
    """
    found: list[Path] = []
    for path in paths:
        if not path.exists():
            raise DataError(f"no file or folder {path}")
        try:
            inside = sorted(map(Path, images_below(path))) if path.is_dir() else [path]
        except OSError as error:
            raise DataError(f"{error.filename or path}: {error.strerror}; check its permissions") from error
        if not inside:
            raise DataError(f"no image in {path}; known are {', '.join(SUFFIXES)}")
        found += inside
    return found


def image_tensor(path: Path, task: Task, max_pixels: int = MAX_PIXELS) -> Tensor:
    """One image as the network was tested on it: (1, C, H, W).

    An image of another size is scaled until its shorter side is 256 / 224 of the network's, and cut from the centre.

    Args:
        max_pixels: an image file of more cannot be read.

    Raises:
        DataError: it cannot be read, or the network takes neither grey nor RGB.
    """
    from torchvision.transforms.v2 import functional

    if task.channels not in (1, 3):
        raise DataError(f"the network takes {task.channels} channels; image files have 1 (grey) or 3 (RGB)")
    pixels = decode(Files([str(path)], max_pixels), 0, max_pixels)
    if task.channels == 1:
        pixels = functional.rgb_to_grayscale(pixels)
    pixels = eval_transform(task.image_size, resize=tuple(pixels.shape[1:]) != task.image_size)(pixels)
    return normalise(pixels[None], task.mean, task.std, channels_last=False)


def image_tensors(folder: Path, task: Task, most: int = 16) -> list[Tensor]:
    """The first images of a folder, each by itself."""
    return [image_tensor(path, task) for path in files_of([folder])[:most]]
