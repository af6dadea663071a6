"""Decode image files (JPEG, PNG, WebP, ...) to RGB tensors. No other module opens image files."""

from __future__ import annotations

import importlib
import io
import os
from collections.abc import Iterable, Sequence
from typing import Any, BinaryIO, Protocol

import numpy as np
import torch
from PIL import Image, UnidentifiedImageError
from torch import Tensor

from leanconv.core.errors import DataError
from leanconv.data.text import open_regular, read_bytes

# A file's signature selects the format. PIL also reads formats that start other programs (EPS); they are not listed here.
FORMATS = ("JPEG", "PNG", "WEBP", "BMP", "GIF", "TIFF", "PPM", "JPEG2000", "AVIF")
PLUGINS = {"WEBP": "WebP", "JPEG": "Jpeg", "PNG": "Png", "BMP": "Bmp", "GIF": "Gif", "TIFF": "Tiff", "PPM": "Ppm",
           "JPEG2000": "Jpeg2K", "AVIF": "Avif"}  # fmt: skip
SUFFIXES = (
    ".jpg", ".jpeg", ".jpe", ".jfif", ".png", ".webp", ".bmp", ".gif", ".tif", ".tiff", ".ppm", ".pgm", ".pbm", ".jp2",
    ".avif",
)  # fmt: skip
OTHER_SUFFIXES = (
    ".heic",
    ".heif",
    ".svg",
    ".psd",
    ".eps",
    ".tga",
    ".ico",
    ".raw",
    ".dng",
    ".cr2",
    ".nef",
    ".jxl",
    ".npy",
)
MAX_PIXELS = 178_956_970  # PIL's own limit against decompression bombs: 512 MiB as RGB
BYTES_PER_PIXEL = 8  # no image file needs more
ORIENTATION = 0x0112
TURNS = {
    2: Image.Transpose.FLIP_LEFT_RIGHT, 3: Image.Transpose.ROTATE_180, 4: Image.Transpose.FLIP_TOP_BOTTOM,
    5: Image.Transpose.TRANSPOSE, 6: Image.Transpose.ROTATE_270, 7: Image.Transpose.TRANSVERSE,
    8: Image.Transpose.ROTATE_90,
}  # fmt: skip


class TooManyPixels(DataError):
    """An image has more pixels than the limit, and was not decoded."""


class Encoded(Protocol):
    """A sequence of encoded images, in files or in memory."""

    def __len__(self) -> int: ...

    def name(self, index: int) -> str:
        """The name of image `index` in an error message."""

    def read(self, index: int) -> bytes:
        """The encoded bytes of image `index`."""


class Files:
    """Image files in a folder.

    Args:
        paths: the files.
        max_pixels: a file so large that it must have more pixels is not read.
    """

    def __init__(self, paths: Sequence[str], max_pixels: int = MAX_PIXELS) -> None:
        # One array, because a list of a million texts takes twice the memory, and again so much in each worker: counting
        # references writes to the memory that the processes share
        encoded = [os.fsencode(path) for path in paths]
        self.text = np.frombuffer(b"".join(encoded), dtype=np.uint8)
        self.ends = np.cumsum([len(path) for path in encoded], dtype=np.int64)
        self.max_pixels = max_pixels

    def __len__(self) -> int:
        return len(self.ends)

    def name(self, index: int) -> str:
        """The path of image `index`."""
        start = self.ends[index - 1] if index else 0
        return os.fsdecode(self.text[start : self.ends[index]].tobytes())

    def read(self, index: int) -> bytes:
        """The bytes of file `index`.

        Raises:
            DataError: the file cannot be read, or is too large for `max_pixels`.
        """
        most = max(BYTES_PER_PIXEL * self.max_pixels, 2**20)
        return read_bytes(self.name(index), "restore or drop this image", most)


def stored(encoded: Encoded, places: Iterable[int]) -> list[bytes]:
    """The encoded bytes of the images at `places`; empty for those that cannot be read."""
    found = []
    for place in places:
        try:
            found.append(encoded.read(place))
        except DataError:
            found.append(b"")
    return found


def decode(encoded: Encoded, index: int, max_pixels: int = MAX_PIXELS, *, upright: bool = True) -> Tensor:
    """Image `index` as uint8 RGB (3, H, W), rotated upright according to EXIF.

    Grey, palette, CMYK and 16-bit images are converted; 16-bit values are scaled, not clipped. Transparency is dropped. If an
    image has several frames, the first one is used.

    Args:
        max_pixels: an image with more pixels is refused before it is decoded.
        upright: False keeps the pixels as they are stored.

    Raises:
        DataError: the file is empty or truncated, is not an image, or has too many pixels.
    """
    return decode_bytes(encoded.read(index), encoded.name(index), max_pixels, upright=upright)


def decode_bytes(data: bytes, name: str, max_pixels: int = MAX_PIXELS, *, upright: bool = True) -> Tensor:
    """The same as `decode`, for the bytes of one file.

    >>> from PIL import Image
    >>> file = io.BytesIO()
    >>> Image.new("L", (4, 2), 255).save(file, "PNG")
    >>> decode_bytes(file.getvalue(), "white.png").shape
    torch.Size([3, 2, 4])

    Args:
        name: what an error calls the image.
        max_pixels, upright: see `decode`.
    """

    def pixels(image: Image.Image) -> np.ndarray:
        image.load()
        turn = TURNS.get(_orientation(image)) if upright else None
        return np.array(as_rgb(image if turn is None else image.transpose(turn)))

    return torch.from_numpy(_opened(io.BytesIO(data), name, max_pixels, pixels)).permute(2, 0, 1)


def decode_values(data: bytes, name: str, max_pixels: int = MAX_PIXELS) -> np.ndarray:
    """The stored values of an image that holds one integer for each pixel, such as an instance map: int64 (H, W).

    Raises:
        DataError: the image cannot be decoded, or has more than one channel.
    """
    values: np.ndarray[Any, Any] = _opened(io.BytesIO(data), name, max_pixels, np.array)
    if values.ndim != 2 or values.dtype.kind not in "iub":
        raise DataError(
            f"{name}: {values.dtype} {values.shape} is not one integer for each pixel; write the image again"
        )
    return values.astype(np.int64)


def size_of(path: str | os.PathLike[str], max_pixels: int = MAX_PIXELS) -> tuple[tuple[int, int], tuple[int, int]]:
    """The size of an image file from its header: ((height, width) as stored, (height, width) when rotated upright).

    Raises:
        DataError: the file is not an image, or has too many pixels.
    """

    def sizes(image: Image.Image) -> tuple[tuple[int, int], tuple[int, int]]:
        stored = image.height, image.width
        turned = _orientation(image) >= 5 and image.format != "TIFF"  # PIL rotates a TIFF image itself
        return stored, stored[::-1] if turned else stored

    most = max(BYTES_PER_PIXEL * max_pixels, 2**20)
    with open_regular(path, "restore or drop this image", most) as file:
        found: tuple[tuple[int, int], tuple[int, int]] = _opened(file, str(path), max_pixels, sizes)
    return found


def _opened(stream: BinaryIO, name: str, max_pixels: int, use: Any) -> Any:
    """Open the image and return ``use(image)``; every error that PIL raises on a broken file becomes a DataError."""
    try:
        with _open(stream) as image:
            if image.width * image.height > max_pixels:
                size = f"{image.width}x{image.height} pixels are more than {max_pixels:,}"
                raise TooManyPixels(f"{size}; raise --max-pixels (max_pixels=), or drop this image")
            return use(image)
    except MemoryError:
        raise
    except DataError as error:
        raise type(error)(f"{name}: {error}") from None
    except Exception as error:  # on broken files PIL raises OSError, SyntaxError, ValueError, struct.error and more
        cause = " ".join(str(error).split()) or type(error).__name__
        if isinstance(error, UnidentifiedImageError):
            cause = str(error) or "no known image format"
        raise DataError(f"{name}: {cause}; replace or drop this image") from error


def _open(stream: BinaryIO) -> Image.Image:
    """``PIL.Image.open`` for `FORMATS`, without PIL's pixel limit: PIL warns at half of the limit, and has only one limit for
    all images."""
    start = stream.read(16)
    if not start:
        raise UnidentifiedImageError("the file is empty")
    for kind in FORMATS:
        if kind not in Image.OPEN:
            importlib.import_module(f"PIL.{PLUGINS[kind]}ImagePlugin")
        if kind not in Image.OPEN:  # PIL was built without this format
            continue
        factory, accept = Image.OPEN[kind]
        fits = accept is None or accept(start)
        if fits and not isinstance(fits, str):  # a string means that PIL was built without this format
            stream.seek(0)
            return factory(stream, "")
    raise UnidentifiedImageError


def _orientation(image: Image.Image) -> int:
    """The EXIF orientation; 1 (upright) if EXIF is missing or cannot be read."""
    try:
        found = image.getexif().get(ORIENTATION, 1)
    except MemoryError:
        raise
    except Exception:  # struct.error, SyntaxError, ValueError and more, on broken tags
        return 1
    return found if isinstance(found, int) and 1 <= found <= 8 else 1


def as_rgb(image: Image.Image) -> Image.Image:
    """`image` in RGB with 8 bits a channel; grey values of 16 bits are scaled.

    Raises:
        DataError: its values have no known range.
    """
    if image.mode == "RGB":
        return image
    if image.mode.startswith("I"):  # 16-bit grey; convert("RGB") would clip it at 255
        values = np.asarray(image).astype(np.int64)
        if values.min() < 0 or values.max() > 0xFFFF:
            raise DataError(f"grey values {values.min()}..{values.max()} exceed 16 bits; save it as 8 or 16 bits")
        return Image.fromarray(((values + 128) // 257).astype(np.uint8)).convert("RGB")
    if image.mode == "F":
        raise DataError("an image of floats has no known range; save it as 8 or 16 bits")
    if image.mode == "P":  # through RGBA, because PIL warns about byte transparency otherwise
        image = image.convert("RGBA")
    return image.convert("RGB")


def is_image_name(name: str | os.PathLike[str]) -> bool:
    """Whether a file with this name is an image: it has an image suffix, and is not a hidden or temporary file.

    >>> is_image_name("cat.JPG"), is_image_name("._cat.jpg")
    (True, False)
    """
    base = os.path.basename(name)
    return not base.startswith((".", "~$")) and base.lower().endswith(SUFFIXES)
