"""The events of a run or a comparison, which are reported as they happen."""

from __future__ import annotations

import sys
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from leanconv.core.processes import leads
from leanconv.core.shown import plain


@dataclass(frozen=True)
class Event:
    """The base class of all events; ``str(event)`` is a line for a reader."""


@dataclass(frozen=True)
class RunStarted(Event):
    """A run begins, or a run that was finished before is read.

    Args:
        label, seed: the name and the seed of the run.
        number, total: the number of this run, and the number of all runs.
        finished_before: whether the run is read from its folder.
    """

    label: str
    seed: int
    number: int = 1
    total: int = 1
    finished_before: bool = False

    def __str__(self) -> str:
        known = ": finished before" if self.finished_before else ""
        return f"[{self.number}/{self.total}] {self.label}, seed {self.seed}{known}"


@dataclass(frozen=True)
class EpochEnded(Event):
    """An epoch of a run ended; `record` is the line of the epoch in metrics.jsonl."""

    label: str
    seed: int
    epoch: int
    epochs: int
    record: Mapping[str, Any]

    def __str__(self) -> str:
        val = f", val {self.record['val_top1_pct']:.1f} %" if "val_top1_pct" in self.record else ""
        return f"{self.label}, seed {self.seed}: epoch {self.epoch}/{self.epochs}, loss {self.record['train_loss']:.3f}{val}"


@dataclass(frozen=True)
class RunFailed(Event):
    """A run of a comparison failed; the other runs continue."""

    label: str
    seed: int
    reason: str

    def __str__(self) -> str:
        return f"{self.label}, seed {self.seed} failed: {self.reason}"


@dataclass(frozen=True)
class Waiting(Event):
    """Another process works on the run in this folder, and this process waits."""

    folder: Path

    def __str__(self) -> str:
        return f"{self.folder}: another process works on this run; waiting for that process"


@dataclass(frozen=True)
class Measuring(Event):
    """The latency of the networks is measured now."""

    networks: int

    def __str__(self) -> str:
        return f"measuring the latency of {self.networks} networks"


@dataclass(frozen=True)
class LeftOut(Event):
    """A part of the results of a network is left out, and the comparison continues."""

    label: str
    what: str
    reason: str

    def __str__(self) -> str:
        return f"{self.label}: {self.what}: {self.reason}"


Tell = Callable[[Event], None]
Progress = bool | Tell


def teller(progress: Progress) -> Tell:
    """The function that is called with each event: True prints a line on standard error, False does nothing.

    If several processes share a run, only the first process reports events.
    """
    if progress is False or not leads():
        return lambda event: None
    return _print if progress is True else progress


def _print(event: Event) -> None:
    print(plain(str(event)), file=sys.stderr, flush=True)
