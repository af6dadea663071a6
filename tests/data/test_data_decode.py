"""Any common image file becomes the RGB picture it shows."""

from __future__ import annotations

import io
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

from leanconv.core.errors import DataError
from leanconv.data.encoded import decode


class Single:
    def __init__(self, image: Image.Image, kind: str, **options: Any) -> None:
        buffer = io.BytesIO()
        image.save(buffer, kind, **options)
        self.data = buffer.getvalue()

    def __len__(self) -> int:
        return 1

    def name(self, index: int) -> str:
        return "picture"

    def read(self, index: int) -> bytes:
        return self.data


GREY = np.array([[0, 10], [128, 255]], dtype=np.uint8)
RGB = np.random.default_rng(0).integers(0, 256, (2, 2, 3), dtype=np.uint8)


@pytest.mark.parametrize(
    ("image", "kind", "expected"),
    [
        (Image.fromarray(RGB), "PNG", RGB),
        (Image.fromarray(GREY), "PNG", GREY),
        (Image.fromarray(GREY.astype(np.uint16) * 257), "PNG", GREY),
        (Image.fromarray(GREY.astype(np.int32) * 257), "TIFF", GREY),
        (Image.fromarray(GREY > 100), "PNG", (GREY > 100) * 255),
        (Image.fromarray(RGB).quantize(4), "PNG", RGB),
        (Image.fromarray(np.dstack([RGB, GREY])), "PNG", RGB),
        (Image.fromarray(np.dstack([GREY, GREY])), "PNG", GREY),
        (Image.fromarray(255 - np.dstack([RGB, 255 - 0 * GREY]), "CMYK"), "TIFF", RGB),
    ],
    ids=["RGB", "grey", "16-bit", "32-bit", "black and white", "palette", "RGBA", "grey with alpha", "CMYK"],
)
def test_modes_become_rgb(image: Image.Image, kind: str, expected: np.ndarray) -> None:
    rgb = expected if expected.ndim == 3 else np.dstack([expected] * 3)
    decoded = decode(Single(image, kind), 0)
    assert decoded.dtype == torch.uint8 and decoded.shape == (3, 2, 2)
    assert decoded.permute(1, 2, 0).tolist() == rgb.tolist()


def test_palette_with_transparent_entries_does_not_warn() -> None:
    image = Image.fromarray(RGB).quantize(4)
    decoded = decode(Single(image, "PNG", transparency=bytes([0, 128, 255, 255])), 0)
    assert decoded.permute(1, 2, 0).tolist() == RGB.tolist()


@pytest.mark.parametrize("turn", range(1, 9))
def test_exif_turns_the_image_upright(turn: int) -> None:
    upright = np.arange(6, dtype=np.uint8).reshape(2, 3) * 40
    stored = {
        1: upright,
        2: upright[:, ::-1],
        3: upright[::-1, ::-1],
        4: upright[::-1],
        5: upright.T,
        6: np.rot90(upright, 1),
        7: upright[::-1, ::-1].T,
        8: np.rot90(upright, -1),
    }[turn]
    exif = Image.Exif()
    exif[0x0112] = turn
    decoded = decode(Single(Image.fromarray(np.ascontiguousarray(stored)), "PNG", exif=exif), 0)
    assert decoded[0].tolist() == upright.tolist()


@pytest.mark.parametrize(
    ("image", "message"),
    [
        (Image.fromarray(GREY.astype(np.float32)), r"picture: an image of floats has no known range; save it"),
        (Image.fromarray(GREY.astype(np.int32) * 1000), r"picture: grey values 0\.\.255000 exceed 16 bits; save it"),
        (Image.fromarray(GREY.astype(np.int32) - 1), r"picture: grey values -1\.\.254 exceed 16 bits; save it"),
    ],
)
def test_values_without_a_known_range_are_refused(image: Image.Image, message: str) -> None:
    with pytest.raises(DataError, match=message):
        decode(Single(image, "TIFF"), 0)
