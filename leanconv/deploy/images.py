"""Images of a folder as inputs for a network."""

from __future__ import annotations

from pathlib import Path

import torch
from PIL import Image
from torch import Tensor
from torchvision.transforms import v2

from leanconv.core.errors import DataError
from leanconv.core.meta import InputSize

SUFFIXES = {".jpg", ".jpeg", ".png", ".bmp", ".webp", ".tif", ".tiff", ".ppm"}
MEAN, STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)  # of ImageNet


def files_of(folder: Path) -> list[Path]:
    """The images in `folder`, or `folder` itself where it is one.

    Raises:
        DataError: there is none.
    """
    found = [folder] if folder.is_file() else sorted(p for p in folder.rglob("*") if p.suffix.lower() in SUFFIXES)
    if not found:
        raise DataError(f"no image in {folder}; known are {', '.join(sorted(SUFFIXES))}")
    return found


def tensor_of(path: Path, size: InputSize) -> Tensor:
    """One image, resized and normalised as for ImageNet: (1, C, H, W).

    Raises:
        DataError: it cannot be read.
    """
    channels, height, width = size
    try:
        with Image.open(path) as image:
            pixels = v2.functional.pil_to_tensor(image.convert("L" if channels == 1 else "RGB"))
    except (OSError, ValueError, SyntaxError, Image.DecompressionBombError) as error:
        raise DataError(f"{path.name} cannot be read as an image ({error}); remove it or save it again") from error
    pixels = v2.functional.resize(pixels, [height, width], antialias=True).float() / 255
    if channels == 3:
        pixels = (pixels - torch.tensor(MEAN).view(3, 1, 1)) / torch.tensor(STD).view(3, 1, 1)
    return pixels[None]


def tensors_of(folder: Path, size: InputSize, most: int = 16) -> list[Tensor]:
    """The first images of a folder, each by itself."""
    return [tensor_of(path, size) for path in files_of(folder)[:most]]
