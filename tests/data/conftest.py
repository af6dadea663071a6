"""Small data sets on disk, in each layout that open_data reads."""

from __future__ import annotations

import io
import json
from collections.abc import Sequence
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from PIL import Image


def pixels(seed: int, height: int = 8, width: int = 8) -> np.ndarray:
    return np.random.default_rng(seed).integers(0, 256, (height, width, 3), dtype=np.uint8)


def encode(array: np.ndarray, kind: str = "PNG", **options: Any) -> bytes:
    buffer = io.BytesIO()
    Image.fromarray(array).save(buffer, kind, **options)
    return buffer.getvalue()


def write_parquet(
    path: Path,
    labels: Sequence[int | None],
    images: Sequence[bytes | None] | None = None,
    names: Sequence[str] | None = None,
    metadata: dict[bytes, bytes] | None = None,
) -> Path:
    """One file of PNG images; image i of the default ones is pixels(i)."""
    images = [encode(pixels(i)) for i in range(len(labels))] if images is None else images
    kind = pa.struct([("bytes", pa.binary()), ("path", pa.string())])
    table = pa.table(
        {
            "image": pa.array([None if data is None else {"bytes": data, "path": "x.png"} for data in images], kind),
            "label": pa.array(labels, pa.int64()),
        }
    )
    if names is not None:
        features = {"image": {"_type": "Image"}, "label": {"names": list(names), "_type": "ClassLabel"}}
        metadata = {b"huggingface": json.dumps({"info": {"features": features}}).encode()}
    path.parent.mkdir(parents=True, exist_ok=True)
    pq.write_table(table.replace_schema_metadata(metadata), path)
    return path


def write_images(
    folder: Path, count: int, first: int = 0, height: int = 8, width: int = 8, suffix: str = ".png"
) -> Path:
    folder.mkdir(parents=True, exist_ok=True)
    kind = "JPEG" if suffix.lower() in (".jpeg", ".jpg") else "PNG"
    for i in range(first, first + count):
        (folder / f"{i:03}{suffix}").write_bytes(encode(pixels(i, height, width), kind))
    return folder


def parquet_set(folder: Path) -> Path:
    """Two training files and a test file of two classes, cat and dog."""
    for number, labels in enumerate(([0, 1, 0], [1, 1])):
        write_parquet(folder / f"train-{number:05}-of-00002.parquet", labels, names=["cat", "dog"])
    write_parquet(folder / "test-00000-of-00001.parquet", [1, 0], names=["cat", "dog"])
    return folder


def class_set(folder: Path, test: str = "test", **size: int) -> Path:
    """train/ and test/ with a folder for each of two classes."""
    for part, count in (("train", 3), (test, 2)):
        write_images(folder / part / "cat", count, **size)
        write_images(folder / part / "dog", count, first=10, **size)
    return folder


def tiny_set(folder: Path) -> Path:
    """Tiny ImageNet's own layout: two classes, wnids.txt not in alphabetical order."""
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "wnids.txt").write_text("n02\nn01\n")
    for number, wnid in enumerate(("n01", "n02")):
        write_images(folder / "train" / wnid / "images", 2, first=10 * number, suffix=".JPEG")
    write_images(folder / "val" / "images", 3, first=50, suffix=".JPEG")
    lines = [f"{50 + i:03}.JPEG\t{wnid}\t0\t0\t7\t7\n" for i, wnid in enumerate(("n01", "n02", "n02"))]
    (folder / "val" / "val_annotations.txt").write_text("".join(lines))
    write_images(folder / "test" / "images", 1, first=90, suffix=".JPEG")
    return folder


@pytest.fixture(scope="session")
def build() -> SimpleNamespace:
    """The functions of this file: a conftest cannot be imported in every import mode of pytest."""
    functions = (pixels, encode, write_parquet, write_images, parquet_set, class_set, tiny_set)
    return SimpleNamespace(**{function.__name__: function for function in functions})
