"""Loggers of a run: TensorBoard, CSV, Weights & Biases by name, or Lightning's `Logger` objects as they are."""

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

NEEDS = {"tensorboard": "tensorboard", "csv": None, "wandb": "wandb"}  # the package of each; its extra has the name
WANDB_FILE = "wandb.json"  # the id under which Weights & Biases knows the run


def check_loggers(asked: str | Logger | Sequence[str | Logger] | None) -> tuple[str | Logger, ...]:
    """The loggers that were asked for, each once.

    Raises:
        SettingError: a name that does not exist, or whose package is missing.
    """
    several = () if asked is None else (asked,) if isinstance(asked, str) or not isinstance(asked, Sequence) else asked
    for logger in several:
        if isinstance(logger, str):
            _check_name(logger)
        else:
            from lightning.pytorch.loggers import Logger

            if not isinstance(logger, Logger):
                raise SettingError(f"logger={logger!r} must be one of {', '.join(NEEDS)}, or a Logger of Lightning's")
    return tuple(dict.fromkeys(several))


def _check_name(name: str) -> None:
    if name not in NEEDS:
        raise SettingError(f"logger {name!r} does not exist; there are {', '.join(NEEDS)}")
    package = NEEDS[name]
    if package is not None and find_spec(package) is None:
        raise SettingError(f"logger {name!r} needs the package {package}: pip install 'leanconv[{name}]'")


@contextlib.contextmanager
def open_loggers(asked: Sequence[str | Logger], root: Path, step: int) -> Iterator[list[Logger]]:
    """The loggers of the run in the folder `root`, which starts or goes on at `step`; those made here are closed again.

    - "tensorboard" writes to root/tensorboard. After a resume TensorBoard hides what a killed process had logged from
      `step` on.
    - "csv" writes to root/csv/from_step_N/metrics.csv, one file for each start: Lightning's CSVLogger replaces a file that
      it finds.
    - "wandb" goes on with the same run, whose id stands in root/wandb.json. The project is WANDB_PROJECT, or leanconv.
    """
    made = [_make(logger, root, step) if isinstance(logger, str) else logger for logger in asked]
    try:
        yield made
    finally:
        if "wandb" in asked and leads():
            import wandb

            wandb.finish()  # else the next run in this process would go on with this one


def _make(name: str, root: Path, step: int) -> Logger:
    from lightning.pytorch.loggers import CSVLogger, TensorBoardLogger, WandbLogger

    if name == "tensorboard":
        return TensorBoardLogger(root, name="tensorboard", version="", purge_step=step)
    if name == "csv":
        return CSVLogger(root, name="csv", version=f"from_step_{step}")
    project = os.environ.get("WANDB_PROJECT", "leanconv")
    return WandbLogger(root.name, save_dir=root, id=_wandb_id(root, step) if leads() else None, project=project)


def _wandb_id(root: Path, step: int) -> str:
    """The id of the run in `root`: a new one for a new run."""
    path = root / WANDB_FILE
    if step == 0 or not path.exists():
        write_json(path, {"id": secrets.token_hex(4)})
    return str(parse_json(path.read_text(encoding="utf-8"))["id"])
