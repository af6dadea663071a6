"""Turn image files into a network's input."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import torch
from torch import Tensor

from leanconv.core.errors import DataError
from leanconv.core.task import Task
from leanconv.data.encoded import MAX_PIXELS, SUFFIXES, Files, decode
from leanconv.data.scan import images_below
from leanconv.data.transforms import eval_transform, normalise

LUMA = (19595, 38470, 7471)  # the weights of red, green and blue in PIL's grey (ITU-R 601-2), of 65536


def files_of(paths: Sequence[Path]) -> list[Path]:
    """The files among `paths`, and the images in its folders and their subfolders.

    Raises:
        DataError: a path does not exist, or a folder holds no image.

    >>> Path("a.png").touch()
    >>> files_of([Path("a.png")])[0].name
    'a.png'
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
    """One image, prepared as the test images of the network: (1, C, H, W).

    An image of another size is scaled and cropped at the centre, see `leanconv.data.transforms.eval_transform`.

    Args:
        path: the image file.
        task: the network's image size, channels, mean and std.
        max_pixels: an image file with more pixels cannot be read.

    Raises:
        DataError: the file cannot be read, or the network takes neither grey nor RGB images.
    """
    if task.channels not in (1, 3):
        raise DataError(f"the network takes {task.channels} channels; image files have 1 (grey) or 3 (RGB)")
    pixels = decode(Files([str(path)], max_pixels), 0, max_pixels)
    if task.channels == 1:
        pixels = grey(pixels)
    pixels = eval_transform(task.image_size)(pixels)
    return normalise(pixels[None], task.mean, task.std, channels_last=False)


def grey(pixels: Tensor) -> Tensor:
    """RGB as grey, rounded as PIL rounds it: grey pixels keep their values, which torchvision lowers by one.

    Shape:
        pixels: uint8 (3, H, W) -> (1, H, W).

    >>> grey(torch.full((3, 1, 1), 200, dtype=torch.uint8)).item()
    200
    """
    weighted = pixels.int() * torch.tensor(LUMA)[:, None, None]
    return ((weighted.sum(0, keepdim=True, dtype=torch.int32) + 2**15) >> 16).to(torch.uint8)


def image_tensors(folder: Path, task: Task, most: int = 16) -> list[Tensor]:
    """The first `most` images of a folder, each as a batch of one.

    Args:
        folder: the folder.
        task: as for `image_tensor`.
        most: the largest number of images.

    Raises:
        DataError: as for `files_of` and `image_tensor`.
    """
    return [image_tensor(path, task) for path in files_of([folder])[:most]]
