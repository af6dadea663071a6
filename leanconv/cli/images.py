"""The images that a verb was asked to look at, and what is said about them."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

from leanconv.cli.output import say
from leanconv.core.errors import DataError, LeanconvError, SettingError
from leanconv.core.processes import leads

if TYPE_CHECKING:
    from leanconv.data import ImageData
    from leanconv.data.problems import OnBad


def open_images(
    data: str, root: Path | None, download: bool, on_bad: OnBad = "refuse", max_pixels: int | None = None,
    test_split: float | None = None, *, run: str | None = None,
) -> ImageData:  # fmt: skip
    """`open_data`, saying once what was left out.

    Args:
        max_pixels: None takes the usual limit.
        run: a folder that the network was trained in: data without a test part is divided as it was there.

    Raises:
        DataError: as there; or the data is not what the run divided.
        SettingError: as there; or `test_split` is not the run's, so that images it was trained on would be tested on.
    """
    from leanconv.data import open_data
    from leanconv.data.encoded import MAX_PIXELS
    from leanconv.data.folder import NoTestPart

    limit = MAX_PIXELS if max_pixels is None else max_pixels

    def opened(fraction: float | None) -> ImageData:
        return open_data(data, root=root, download=download, on_bad=on_bad, max_pixels=limit, test_split=fraction)

    noted = _held_out(run)
    try:
        images = opened(test_split)
    except NoTestPart:
        if noted is None:
            raise
        images = opened(noted["fraction"])
        if images.held_out is not None and images.held_out.images != noted["images"]:
            raise DataError(
                f"{data}: its images are not those that the run in {run} held out {noted['fraction']} of for its test; "
                "give those, or --test-split for other ones"
            ) from None
    held = images.held_out
    if noted and held and held.images == noted["images"] and held.fraction != noted["fraction"]:
        raise SettingError(
            f"--test-split {held.fraction}: the run in {run} held out {noted['fraction']} of these images and was trained on "
            "the others; leave --test-split out"
        )
    if leads():
        for line in images.problems.lines():
            say(f"leanconv: left out: {line}")
    return images


def _held_out(run: str | None) -> dict[str, Any] | None:
    """How the run divided its images; None where they came divided, or it does not say."""
    from leanconv.train.once import RUN_FILE, read_json

    path = None if run is None else Path(run).expanduser() / RUN_FILE
    if path is None or not path.is_file():
        return None
    try:
        found = read_json(path)["data"]["held_out"]
        return {"fraction": float(found["fraction"]), "images": str(found["images"])}
    except (LeanconvError, ValueError, KeyError, TypeError):
        return None
