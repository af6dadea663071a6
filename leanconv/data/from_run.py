"""Images divided into a train and a test part as they were for a run."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from leanconv.core.errors import DataError, SettingError
from leanconv.core.reading import parse_json
from leanconv.data.folder import NoTestPart
from leanconv.data.images import ImageData
from leanconv.data.sources import open_data

RUN_FILE = "run.json"


def open_as_in_run(
    name: str | Path, run: str | Path | None, *, test_split: float | None = None, **options: Any
) -> ImageData:
    """`open_data`; data without a test part is divided as in the run.

    Args:
        run: a folder that a network was trained in, or None.
        options: of `open_data`.

    Raises:
        DataError: as there; or the data is not what the run divided.
        SettingError: as there; or `test_split` is not the run's, so that images it was trained on would be tested on.
    """
    noted = held_out(run)
    try:
        images = open_data(name, test_split=test_split, **options)
    except NoTestPart:
        if noted is None:
            raise
        images = open_data(name, test_split=noted["fraction"], **options)
        if images.held_out is not None and images.held_out.images != noted["images"]:
            raise DataError(
                f"{name}: its images are not those that the run in {run} held out {noted['fraction']} of for its test; "
                "give those, or --test-split (test_split=) for other ones"
            ) from None
    held = images.held_out
    if noted and held and held.images == noted["images"] and held.fraction != noted["fraction"]:
        raise SettingError(
            f"--test-split (test_split=) {held.fraction}: the run in {run} held out {noted['fraction']} of these images and was "
            "trained on the others; leave --test-split out"
        )
    return images


def held_out(run: str | Path | None) -> dict[str, Any] | None:
    """How the run divided its images; None where they came divided, or it does not say."""
    path = None if run is None else Path(run).expanduser() / RUN_FILE
    if path is None or not path.is_file():
        return None
    try:
        found = parse_json(path.read_text(encoding="utf-8"))["data"]["held_out"]
        return {"fraction": float(found["fraction"]), "images": str(found["images"])}
    except (OSError, ValueError, KeyError, TypeError):
        return None
