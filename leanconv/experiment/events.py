"""What happens in a run or a comparison, told as it happens."""

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
    """Something that happened; ``str(event)`` is a line to show."""


@dataclass(frozen=True)
class RunStarted(Event):
    """A run begins, or is read back because it was finished before.

    Args:
        number, total: which run of how many.
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
    """An epoch of a run is over; `record` is its line of metrics.jsonl."""

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
    """A run of a comparison failed; the others go on."""

    label: str
    seed: int
    reason: str

    def __str__(self) -> str:
        return f"{self.label}, seed {self.seed} failed: {self.reason}"


@dataclass(frozen=True)
class Waiting(Event):
    """Another process is at work on the run in this folder."""

    folder: Path

    def __str__(self) -> str:
        return f"{self.folder}: another process is at work on this run; waiting for it"


@dataclass(frozen=True)
class Measuring(Event):
    """The latency of the networks is measured now."""

    networks: int

    def __str__(self) -> str:
        return f"measuring the latency of {self.networks} networks"


@dataclass(frozen=True)
class LeftOut(Event):
    """Something of a network cannot be shown, and the rest goes on without it."""

    label: str
    what: str
    reason: str

    def __str__(self) -> str:
        return f"{self.label}: {self.what}: {self.reason}"


Tell = Callable[[Event], None]
Progress = bool | Tell


def teller(progress: Progress) -> Tell:
    """What is called with each event: True prints a line on standard error, False does nothing.

    Of several processes that share a run, the first one tells.
    """
    if progress is False or not leads():
        return lambda event: None
    return _print if progress is True else progress


def _print(event: Event) -> None:
    print(plain(str(event)), file=sys.stderr, flush=True)
