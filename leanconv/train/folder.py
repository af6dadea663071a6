"""The files of a run, and the check that they belong to the same run."""

from __future__ import annotations

import json
import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import yaml

from leanconv.core.atomic import remove_leftovers, write_json, write_text
from leanconv.core.errors import FileError, SettingError
from leanconv.core.machine import describe_machine
from leanconv.core.processes import leads
from leanconv.core.reading import one_line, parse_yaml
from leanconv.train.checkpoint import read_checkpoint, written
from leanconv.train.config import EXECUTION, RunConfig

CLASSES = "classes"
TEACHER = "teacher_digest"  # the hash of the teacher's weights, for a run with a teacher
REQUEST = "request"  # the other arguments of `leanconv train`, to repeat the run


class RunFolder:
    """The paths of a run: config.yaml, env.json, metrics.jsonl, last.ckpt, best.safetensors, summary.json, gradients.jsonl.

    Args:
        root: the run's folder.

    >>> RunFolder("runs/a").checkpoint.name
    'last.ckpt'
    """

    def __init__(self, root: str | os.PathLike[str]) -> None:
        self.root = Path(root).expanduser()
        self.config = self.root / "config.yaml"
        self.env = self.root / "env.json"
        self.metrics = self.root / "metrics.jsonl"
        self.gradients = self.root / "gradients.jsonl"
        self.checkpoint = self.root / "last.ckpt"
        self.best = self.root / "best.safetensors"
        self.summary = self.root / "summary.json"

    def open(
        self,
        config: RunConfig,
        data_name: str,
        resume: bool,
        classes: Sequence[str] = (),
        request: Mapping[str, Any] | None = None,
        more: Mapping[str, Any] | None = None,
    ) -> dict[str, Any] | None:
        """The checkpoint from which the run continues, or None for a new run.

        Args:
            config: the settings of the run.
            data_name: the name of the data set.
            resume: continue a run in this folder; otherwise a folder with a run is refused.
            classes: their names in the order of the network's outputs, which must not change; () if it has none.
            request: further entries of config.yaml, with which `leanconv train --config config.yaml` repeats the run.
            more: what else decides the run's result and must not change: the hash of its teacher.

        Raises:
            SettingError: the folder holds a run and `resume` is not set, or the run has other settings.
            FileError: the checkpoint or the settings cannot be read.
        """
        if leads():
            remove_leftovers(self.root, [path.name for path in vars(self).values() if path != self.root])
        settings = {"data": data_name, CLASSES: list(classes), **config.to_json(), **(more or {})}
        if self.checkpoint.exists():
            if not resume:
                way_out = "add --resume (resume=True) to continue it, or choose another folder"
                raise SettingError(f"{self.root}: holds a run already; {way_out}")
            self._check_same(settings, config)
            return read_checkpoint(self.checkpoint)
        if not leads():
            return None
        try:
            noted = settings | ({} if request is None else {REQUEST: dict(request)})
            write_text(self.config, yaml.safe_dump(noted, sort_keys=False))
            write_json(self.env, describe_machine())
            for old in (self.best, self.summary, self.gradients):
                old.unlink(missing_ok=True)
        except OSError as error:
            raise SettingError(f"{self.root}: cannot hold a run ({error.strerror}); choose another folder") from error
        return None

    def write_records(self, records: Sequence[dict[str, Any]]) -> None:
        """Write all records of a run; this removes records that a killed run wrote after its last checkpoint."""
        with written(self.metrics):
            write_text(self.metrics, "".join(map(_line, records)))

    def append_record(self, record: dict[str, Any]) -> None:
        """Append the record of one epoch to metrics.jsonl."""
        with written(self.metrics), open(self.metrics, "a", encoding="utf-8") as file:
            file.write(_line(record))

    def _check_same(self, settings: dict[str, Any], config: RunConfig) -> None:
        try:
            before = parse_yaml(self.config.read_text(encoding="utf-8"))
            assert isinstance(before, dict)
        except (OSError, ValueError, AssertionError) as error:
            raise FileError(f"{self.config}: cannot be read; start a new run in another folder") from error
        before = config.added() | before
        for name in {**before, **settings}:
            if name == CLASSES and name not in before:  # an older run, which did not store the classes
                continue
            if name not in (*EXECUTION, REQUEST) and settings.get(name) != before.get(name):
                found = f"{name}={settings.get(name)!r} differs from the run's {name}={before.get(name)!r}"
                raise SettingError(f"{self.root}: {one_line(found)}; use that, or choose another folder")


def _line(record: dict[str, Any]) -> str:
    return json.dumps(record, allow_nan=False) + "\n"
