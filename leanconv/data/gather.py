"""Encoded images to memory where they fit, or decoded when asked for."""

from __future__ import annotations

import os
import sys
from collections.abc import Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor

import torch
from torch import Tensor

from leanconv.data.encoded import Encoded, decode
from leanconv.data.images import FileImages, LabelledImages, TensorImages

MEMORY_LIMIT = 2 * 1024**3  # bytes of one decoded part
CHUNK = 128


class SizesVary(Exception):
    pass


def gather(encoded: Encoded, labels: Tensor, title: str) -> LabelledImages:
    """TensorImages where all images have one size and take under 2 GiB decoded, else FileImages.

    Args:
        title: stands before the progress bar, which is shown on standard error where that is a terminal.

    Raises:
        DataError: an image that is needed now cannot be decoded.
    """
    shape = decode(encoded, 0).shape
    if len(encoded) * shape.numel() > MEMORY_LIMIT:
        return FileImages(encoded, labels)
    images = torch.empty((len(encoded), *shape), dtype=torch.uint8)

    def fill(rows: range) -> int:
        for row in rows:
            image = decode(encoded, row)
            if image.shape != shape:
                raise SizesVary
            images[row] = image
        return len(rows)

    chunks = [range(start, min(start + CHUNK, len(encoded))) for start in range(0, len(encoded), CHUNK)]
    with ThreadPoolExecutor(min(os.cpu_count() or 1, 8)) as pool:
        try:
            for _ in _progress(pool.map(fill, chunks), len(chunks), title):
                pass
        except SizesVary:
            return FileImages(encoded, labels)
        finally:
            pool.shutdown(cancel_futures=True)
    return TensorImages(images, labels)


def _progress(steps: Iterable[int], total: int, title: str) -> Iterator[int]:
    if not sys.stderr.isatty():
        yield from steps
        return
    from rich.console import Console
    from rich.progress import track

    yield from track(steps, title, total, console=Console(stderr=True), transient=True)
