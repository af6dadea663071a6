"""Open the images of a verb, and list the images that were left out."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path
from typing import TYPE_CHECKING

from leanconv.cli.output import say
from leanconv.core.processes import leads

if TYPE_CHECKING:
    from leanconv.data import ImageData
    from leanconv.data.problems import OnBad


def open_images(
    data: str, root: Path | None, download: bool, on_bad: OnBad = "refuse", max_pixels: int | None = None,
    test_split: float | None = None, *, networks: Iterable[object] = (),
) -> ImageData:  # fmt: skip
    """`open_as_in_run`, with a line for the images that were left out; `max_pixels=None` takes the default limit."""
    from leanconv.data.encoded import MAX_PIXELS
    from leanconv.data.from_run import open_as_in_run

    images = open_as_in_run(
        data, networks, root=root, download=download, on_bad=on_bad, test_split=test_split,
        max_pixels=MAX_PIXELS if max_pixels is None else max_pixels,
    )  # fmt: skip
    if leads():
        for line in images.problems.lines():
            say(f"leanconv: left out: {line}")
    return images
