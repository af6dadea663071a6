"""What a user tells about the task of a network that leanconv did not train. Declared once, for flags and for Python."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Literal

from leanconv.core.config import Config, setting
from leanconv.core.errors import SettingError
from leanconv.core.reading import encoding_of


class TaskSettings(Config):
    """The class names, the normalisation and the image size of a network's training; None where nothing is told."""

    classes: tuple[str, ...] | None = setting(
        "Names of the outputs, in their order: cat,dog, or a file with one name on each line.", default=None
    )
    mean: tuple[float, ...] | None = setting(
        "Mean of each channel in training, for pixels from 0 to 1: 0.485,0.456,0.406.", default=None
    )
    std: tuple[float, ...] | None = setting(
        "Standard deviation of each channel in training: 0.229,0.224,0.225.", default=None, above=0
    )
    image_size: int | None = setting("Height and width of the network's input in pixels.", default=None, least=1)
    like: Literal["timm", "torchvision"] | None = setting(
        "Take mean, std and image size from the library's own settings for this network.", default=None
    )

    def _check_together(self) -> None:
        if (self.mean is None) != (self.std is None):
            raise SettingError("--mean and --std (mean=, std=) belong together; give both, or --like timm")
        if self.mean is not None and self.like is not None:
            raise SettingError("--like and --mean (like=, mean=) both give the normalisation; leave one out")
        if self.mean is not None and max(map(abs, self.mean), default=0) > 1:
            raise SettingError(f"mean={self.mean} must be for pixels from 0 to 1; divide mean and std by 255")

    @property
    def given(self) -> bool:
        """Whether anything is told."""
        return any(value is not None for value in vars(self).values())


def class_names(text: str) -> tuple[str, ...]:
    """Class names from ``cat,dog``, from a JSON list, or from a file with one name on each line or a JSON list.

    Raises:
        SettingError: the file cannot be read as text, or the JSON is no list of texts.

    >>> class_names("cat, dog")
    ('cat', 'dog')
    """
    path = Path(text).expanduser()
    try:
        if len(text) < 1000 and path.is_file():
            data = path.read_bytes()
            text = data.decode(encoding_of(data))
            if not text.lstrip().startswith("["):
                return tuple(line.strip() for line in text.splitlines() if line.strip())
        if text.lstrip().startswith("["):
            found = json.loads(text)
            if not isinstance(found, list) or not all(isinstance(name, str) for name in found):
                raise ValueError
            return tuple(found)
    except (OSError, ValueError):
        raise SettingError(
            f"--classes {text[:60]!r} must be names by comma, a JSON list of names, or a text file"
        ) from None
    return tuple(part.strip() for part in text.split(",") if part.strip())
