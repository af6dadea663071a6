"""Encoded images (JPEG, PNG, WebP, ...) and how they become RGB tensors."""

from __future__ import annotations

import io
from collections.abc import Sequence
from pathlib import Path
from typing import Protocol

import numpy as np
import torch
from PIL import Image, ImageOps, UnidentifiedImageError
from torch import Tensor

from leanconv.core.errors import DataError


class Encoded(Protocol):
    """Image files, wherever they lie."""

    def __len__(self) -> int: ...

    def name(self, index: int) -> str:
        """What an error message calls this image."""

    def read(self, index: int) -> bytes: ...


class Files:
    """Image files in a folder."""

    def __init__(self, paths: Sequence[str]) -> None:
        self.paths = paths

    def __len__(self) -> int:
        return len(self.paths)

    def name(self, index: int) -> str:
        return self.paths[index]

    def read(self, index: int) -> bytes:
        try:
            return Path(self.paths[index]).read_bytes()
        except OSError as error:
            raise DataError(f"{self.paths[index]}: {error.strerror}; restore or drop this image") from error


def decode(encoded: Encoded, index: int) -> Tensor:
    """Image `index` as uint8 RGB (3, H, W), turned upright as its EXIF says.

    Grey, palette, CMYK and 16-bit images are converted (16 bits are scaled, not clipped); transparency is dropped.

    Raises:
        DataError: the file is empty, truncated or no image.
    """
    data = encoded.read(index)
    try:
        with Image.open(io.BytesIO(data)) as image:
            return torch.from_numpy(np.array(_rgb(ImageOps.exif_transpose(image)))).permute(2, 0, 1)
    except MemoryError:
        raise
    except DataError as error:
        raise DataError(f"{encoded.name(index)}: {error}") from None
    except Exception as error:  # on broken files PIL raises OSError, SyntaxError, ValueError, struct.error and more
        cause = " ".join(str(error).split())
        if isinstance(error, UnidentifiedImageError):  # whose text shows a Python object
            cause = "no known image format" if data else "the file is empty"
        raise DataError(f"{encoded.name(index)}: {cause}; replace or drop this image") from error


def _rgb(image: Image.Image) -> Image.Image:
    if image.mode == "RGB":
        return image
    if image.mode.startswith("I"):  # 16-bit grey; convert("RGB") would clip it at 255
        values = np.asarray(image).astype(np.int64)
        if values.min() < 0 or values.max() > 0xFFFF:
            raise DataError(f"grey values {values.min()}..{values.max()} exceed 16 bits; save it as 8 or 16 bits")
        return Image.fromarray(((values + 128) // 257).astype(np.uint8)).convert("RGB")
    if image.mode == "F":
        raise DataError("an image of floats has no known range; save it as 8 or 16 bits")
    if image.mode == "P":  # by way of RGBA: PIL warns of byte transparency otherwise
        image = image.convert("RGBA")
    return image.convert("RGB")
