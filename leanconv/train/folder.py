"""The files of a run, and whether they belong together."""

from __future__ import annotations

import json
import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
import yaml

from leanconv.core.atomic import write_json, write_text
from leanconv.core.errors import FileError, SettingError
from leanconv.core.machine import describe_machine
from leanconv.core.reading import one_line, parse_yaml
from leanconv.train.config import EXECUTION, RunConfig


class RunFolder:
    """config.yaml, env.json, metrics.jsonl, last.ckpt, best.safetensors, summary.json; gradients.jsonl where recorded."""

    def __init__(self, root: str | os.PathLike[str]) -> None:
        self.root = Path(root)
        self.config = self.root / "config.yaml"
        self.env = self.root / "env.json"
        self.metrics = self.root / "metrics.jsonl"
        self.gradients = self.root / "gradients.jsonl"
        self.checkpoint = self.root / "last.ckpt"
        self.best = self.root / "best.safetensors"
        self.summary = self.root / "summary.json"

    def open(self, config: RunConfig, data_name: str, resume: bool) -> dict[str, Any] | None:
        """The checkpoint to continue from, or None and a fresh folder.

        Raises:
            SettingError: there is a run already and `resume` is not set, or it was made with other settings.
            FileError: its checkpoint or its settings cannot be read.
        """
        settings = {"data": data_name, **config.model_dump(mode="json")}
        if self.checkpoint.exists():
            if not resume:
                way_out = "add --resume (resume=True) to continue it, or choose another folder"
                raise SettingError(f"{self.root}: holds a run already; {way_out}")
            self._check_same(settings)
            return read_checkpoint(self.checkpoint)
        write_text(self.config, yaml.safe_dump(settings, sort_keys=False))
        write_json(self.env, describe_machine())
        for old in (self.best, self.summary, self.gradients):
            old.unlink(missing_ok=True)
        return None

    def write_records(self, records: Sequence[dict[str, Any]]) -> None:
        """All records of a run; what a killed run left behind after its last checkpoint goes."""
        write_text(self.metrics, "".join(map(_line, records)))

    def append_record(self, record: dict[str, Any]) -> None:
        with open(self.metrics, "a", encoding="utf-8") as file:
            file.write(_line(record))

    def _check_same(self, settings: dict[str, Any]) -> None:
        try:
            before = parse_yaml(self.config.read_text(encoding="utf-8"))
            assert isinstance(before, dict)
        except (OSError, ValueError, AssertionError) as error:
            raise FileError(f"{self.config}: cannot be read; start a new run in another folder") from error
        for name in {**settings, **before}:
            if name not in EXECUTION and settings.get(name) != before.get(name):
                found = f"{name}={settings.get(name)!r} differs from the run's {name}={before.get(name)!r}"
                raise SettingError(f"{self.root}: {one_line(found)}; use that, or choose another folder")


def read_checkpoint(path: Path) -> dict[str, Any]:
    """A checkpoint's tensors and plain values; a file that holds anything else is refused.

    Raises:
        FileError: it cannot be read.
    """
    try:
        checkpoint = torch.load(path, map_location="cpu", weights_only=True)
    except Exception as error:  # what unpickling a changed file raises is unbounded
        raise FileError(f"{path}: not a readable checkpoint; delete it to start again, or restore a copy") from error
    if not isinstance(checkpoint, dict) or "progress" not in checkpoint:
        raise FileError(f"{path}: not a checkpoint of leanconv's; delete it to start again, or choose another folder")
    return checkpoint


def _line(record: dict[str, Any]) -> str:
    return json.dumps(record, allow_nan=False) + "\n"
