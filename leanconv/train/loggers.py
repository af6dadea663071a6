"""Loggers of a run: TensorBoard, CSV or Weights & Biases by name, or `Logger` objects of Lightning."""

from __future__ import annotations

import contextlib
import os
import secrets
from collections.abc import Iterator, Sequence
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING

from leanconv.core.atomic import write_json
from leanconv.core.errors import SettingError
from leanconv.core.processes import leads
from leanconv.core.reading import parse_json

if TYPE_CHECKING:
    from lightning.pytorch.loggers import Logger

NEEDS = {
    "tensorboard": "tensorboard",
    "csv": None,
    "wandb": "wandb",
}  # logger -> its package; the extra has the logger's name
WANDB_FILE = "wandb.json"  # holds the run's id at Weights & Biases


def check_loggers(asked: str | Logger | Sequence[str | Logger] | None) -> tuple[str | Logger, ...]:
    """The loggers as a tuple, each once.

    Args:
        asked: a name, a Logger, several of them, or None.

    Raises:
        SettingError: a name is unknown, its package is missing, or an object is not a Logger of Lightning.

    >>> check_loggers(["csv", "csv"])
    ('csv',)
    """
    several = () if asked is None else (asked,) if isinstance(asked, str) or not isinstance(asked, Sequence) else asked
    for logger in several:
        if isinstance(logger, str):
            _check_name(logger)
        else:
            from lightning.pytorch.loggers import Logger

            if not isinstance(logger, Logger):
                raise SettingError(f"logger={logger!r} must be one of {', '.join(NEEDS)}, or a Logger of Lightning")
    return tuple(dict.fromkeys(several))


def _check_name(name: str) -> None:
    if name not in NEEDS:
        raise SettingError(f"logger {name!r} does not exist; there are {', '.join(NEEDS)}")
    package = NEEDS[name]
    if package is not None and find_spec(package) is None:
        raise SettingError(f"logger {name!r} needs the package {package}: pip install 'leanconv[{name}]'")


@contextlib.contextmanager
def open_loggers(asked: Sequence[str | Logger], root: Path, step: int) -> Iterator[list[Logger]]:
    """Open the loggers of the run in the folder `root`; loggers that are created here are closed after the block.

    - "tensorboard" writes to root/tensorboard. After a resume, TensorBoard hides what a killed process logged from `step` on.
    - "csv" writes to root/csv/from_step_N/metrics.csv, one file for each start, because Lightning's CSVLogger replaces an
      existing file.
    - "wandb" continues the same run, whose id is in root/wandb.json. The project is WANDB_PROJECT, or leanconv.

    Args:
        asked: the result of `check_loggers`.
        root: the run's folder.
        step: the step from which the run starts or continues.
    """
    made = [_make(logger, root, step) if isinstance(logger, str) else logger for logger in asked]
    try:
        yield made
    finally:
        if "wandb" in asked and leads():
            import wandb

            wandb.finish()  # otherwise the next run in this process would continue this run


def _make(name: str, root: Path, step: int) -> Logger:
    from lightning.pytorch.loggers import CSVLogger, TensorBoardLogger, WandbLogger

    if name == "tensorboard":
        return TensorBoardLogger(root, name="tensorboard", version="", purge_step=step)
    if name == "csv":
        return CSVLogger(root, name="csv", version=f"from_step_{step}")
    project = os.environ.get("WANDB_PROJECT", "leanconv")
    return WandbLogger(root.name, save_dir=root, id=_wandb_id(root, step) if leads() else None, project=project)


def _wandb_id(root: Path, step: int) -> str:
    """The id of the run in `root`; a new run gets a new id."""
    path = root / WANDB_FILE
    if step == 0 or not path.exists():
        write_json(path, {"id": secrets.token_hex(4)})
    return str(parse_json(path.read_text(encoding="utf-8"))["id"])
