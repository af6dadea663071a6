"""Open a file that `leanconv.export` or `leanconv.quantize` wrote, as a network that can be tested and can predict."""

from __future__ import annotations

import json
from pathlib import Path

from torch import Tensor, nn

from leanconv.core.errors import FileError, SettingError, first_line
from leanconv.core.modes import in_eval
from leanconv.core.notes import set_task
from leanconv.core.task import Task
from leanconv.deploy.formats import FORMATS, Runner

SUFFIXES = {kind.files[0]: name for name, kind in FORMATS.items() if kind.read_task is not None}


class Called(nn.Module):
    """A runtime's call as a module, which `leanconv.evaluate` and `leanconv.deploy.predict` need; it has no weights.

    Args:
        run: the call.
    """

    def __init__(self, run: Runner) -> None:
        super().__init__()
        self.run = run

    def forward(self, x: Tensor) -> Tensor:
        return self.run(x)


def is_exported(target: str | Path) -> bool:
    """Whether `target` names a file of a format that holds a graph, such as net.onnx.

    >>> is_exported("net.int8.onnx"), is_exported("resnet20")
    (True, False)
    """
    return Path(target).suffix in SUFFIXES and not Path(target).expanduser().is_dir()


def open_exported(path: str | Path) -> nn.Module:
    """The network of an exported file, float32 or int8, with the task that its own metadata hold.

    Raises:
        FileError: there is no such file, or its runtime cannot read it.
        SettingError: the file has another format.
    """
    path = Path(path).expanduser()
    if path.suffix not in SUFFIXES:
        raise SettingError(f"{path} must end in {', '.join(SUFFIXES)}; `leanconv export` writes such files")
    if not path.is_file():
        raise FileError(f"{path}: there is no such file; `leanconv export` and `leanconv quantize` write one")
    kind = FORMATS[SUFFIXES[path.suffix]]
    try:
        model = Called(kind.run(path, nn.Identity()))
        text = None if kind.read_task is None else kind.read_task(path)
    except Exception as error:  # a runtime raises anything for a damaged file
        raise FileError(f"{path}: cannot be opened ({first_line(error)}); export it again") from error
    if text is not None:
        set_task(model, _task(text, path))
    return in_eval(model)


def _task(text: str, path: Path) -> Task:
    try:
        return Task.from_json(json.loads(text))
    except (ValueError, SettingError) as error:
        raise FileError(f"{path}: its metadata hold no task ({first_line(error)}); export it again") from error
