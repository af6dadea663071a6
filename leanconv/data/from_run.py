"""Images divided into a train and a test part as they were for a run."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

from leanconv.core.errors import DataError, SettingError
from leanconv.core.reading import parse_json
from leanconv.data.folder import NoTestPart
from leanconv.data.images import ImageData
from leanconv.data.sources import open_data

RUN_FILE = "run.json"


def open_as_in_run(
    name: str | Path, networks: Iterable[object], *, test_split: float | None = None, **options: Any
) -> ImageData:
    """`open_data`; data without a test part is divided as in the run of the first network that has one.

    Args:
        networks: those that are scored, trained further or teach. Folders that a network was trained in count; the rest does not.
        options: of `open_data`.

    Raises:
        DataError: as there; or the data is not what the run divided.
        SettingError: as there, or of `check_as_in_runs`.
    """
    runs = list(networks)
    try:
        images = open_data(name, test_split=test_split, **options)
    except NoTestPart:
        run, noted = next(_divided(runs), (None, None))
        if noted is None:
            raise
        images = open_data(name, test_split=noted["fraction"], **options)
        if images.held_out is not None and images.held_out.images != noted["images"]:
            raise DataError(
                f"{name}: its images are not those that the run in {run} held out {noted['fraction']} of for its test; "
                "give those, or --test-split (test_split=) for other ones"
            ) from None
    check_as_in_runs(images, runs)
    return images


def check_as_in_runs(images: ImageData, networks: Iterable[object]) -> None:
    """Raise SettingError if the run of a network held out another part of `images`: some would be tested on after training.

    Args:
        networks: as in `open_as_in_run`.
    """
    held = images.held_out
    for run, noted in _divided(networks):
        if held and held.images == noted["images"] and held.fraction != noted["fraction"]:
            raise SettingError(
                f"--test-split (test_split=) {held.fraction}: the run in {run} held out {noted['fraction']} of these images "
                f"and was trained on the others; test on those: --test-split {noted['fraction']}"
            )


def _divided(networks: Iterable[object]) -> Iterator[tuple[str | Path, dict[str, Any]]]:
    """The folders among `networks` whose run divided its images, and how."""
    for network in networks:
        if isinstance(network, str | Path) and (noted := held_out(network)) is not None:
            yield network, noted


def held_out(run: str | Path) -> dict[str, Any] | None:
    """How the run divided its images; None where they came divided, or it does not say."""
    path = Path(run).expanduser() / RUN_FILE
    if not path.is_file():
        return None
    try:
        found = parse_json(path.read_text(encoding="utf-8"))["data"]["held_out"]
        return {"fraction": float(found["fraction"]), "images": str(found["images"])}
    except (OSError, ValueError, KeyError, TypeError):
        return None
