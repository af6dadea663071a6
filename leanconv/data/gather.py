"""Decode images into memory if they fit, or keep them encoded and decode each one when it is needed."""

from __future__ import annotations

import os
import sys
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor

import torch
from torch import Tensor

from leanconv.core.errors import DataError
from leanconv.data.encoded import MAX_PIXELS, Encoded, decode
from leanconv.data.images import FileImages, LabelledImages, TensorImages
from leanconv.data.problems import Problems

MEMORY_LIMIT = 2 * 1024**3  # bytes of one decoded part
CHUNK = 128
CHECKED = 5000  # up to this many images are always decoded once, which takes some seconds


class SizesVary(Exception):
    """The images of a part have different sizes."""


def gather(
    encoded: Encoded, labels: Tensor, title: str, problems: Problems | None = None, max_pixels: int = MAX_PIXELS
) -> LabelledImages:
    """`TensorImages` if all images have one size and take less than 2 GiB decoded, else `FileImages`.

    Images that cannot be decoded are left out and noted in `problems`. Every image is decoded once to find them. Exception: if
    the images stay in their files, are more than 5,000, and bad images are refused, then nothing is decoded in advance, and
    reading a bad image raises the error.

    Args:
        encoded: the images.
        labels: integers (N,), one for each image.
        title: the text beside the progress bar, which is shown if standard error is a terminal.
        problems: collects the images that cannot be decoded; None raises an error at the end.
        max_pixels: an image with more pixels cannot be decoded.

    Raises:
        DataError: no image can be decoded.
    """
    noted = Problems("refuse") if problems is None else problems
    bad: dict[int, DataError] = {}

    def read(row: int) -> Tensor | None:
        try:
            return decode(encoded, row, max_pixels)
        except DataError as error:
            bad[row] = error
            return None

    first = next((image for row in range(len(encoded)) if (image := read(row)) is not None), None)
    rows = torch.arange(len(encoded))
    images: LabelledImages | None = None
    if first is not None and len(encoded) * first.numel() <= MEMORY_LIMIT:
        images = _in_memory(encoded, labels, read, first.shape, title)
    if first is not None and images is None and (len(encoded) <= CHECKED or noted.on_bad == "skip"):
        _each(len(encoded), lambda row: read(row) is None, title)
    for error in (bad[row] for row in sorted(bad)):
        place = str(error).rsplit("; ", 1)[0]
        noted.add("image that cannot be read", place, str(error))
    if problems is None or first is None:
        Problems("refuse", noted.counts, noted.places, noted.said).settle()
    if images is None:
        images = FileImages(encoded, labels, rows, max_pixels)
    if not bad:
        return images
    return images.subset(torch.tensor([row for row in rows.tolist() if row not in bad], dtype=torch.int64))


def _in_memory(
    encoded: Encoded, labels: Tensor, read: Callable[[int], Tensor | None], shape: torch.Size, title: str
) -> TensorImages | None:
    """All images decoded, with zeros for those that cannot be decoded; None if their sizes vary."""
    images = torch.zeros((len(encoded), *shape), dtype=torch.uint8)

    def fill(row: int) -> None:
        image = read(row)
        if image is None:
            return
        if image.shape != shape:
            raise SizesVary
        images[row] = image

    try:
        _each(len(encoded), fill, title)
    except SizesVary:
        return None
    return TensorImages(images, labels)


def _each(count: int, work: Callable[[int], object], title: str) -> None:
    """Call `work` for every row, in threads."""

    def some(rows: range) -> int:
        for row in rows:
            work(row)
        return len(rows)

    chunks = [range(start, min(start + CHUNK, count)) for start in range(0, count, CHUNK)]
    with ThreadPoolExecutor(min(os.cpu_count() or 1, 8)) as pool:
        try:
            for _ in _progress(pool.map(some, chunks), len(chunks), title):
                pass
        finally:
            pool.shutdown(cancel_futures=True)


def _progress(steps: Iterable[int], total: int, title: str) -> Iterator[int]:
    if not sys.stderr.isatty():
        yield from steps
        return
    from rich.console import Console
    from rich.progress import track

    yield from track(steps, title, total, console=Console(stderr=True), transient=True)
