"""The progress of a search, reported as it happens."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from leanconv.experiment.events import Event

STAGES = ("measure", "fit", "score", "solve", "convert", "recover", "verify", "export")


@dataclass(frozen=True)
class Stage(Event):
    """A step of a stage is done.

    Args:
        stage: one of `STAGES`.
        text: what was done.
        done, total: the number of done steps, and of all steps; 0 and 0 for a stage of one step.
    """

    stage: str
    text: str
    done: int = 0
    total: int = 0

    def __str__(self) -> str:
        count = f" {self.done}/{self.total}" if self.total else ""
        return f"[{STAGES.index(self.stage) + 1}/{len(STAGES)}] {self.stage}{count}: {self.text}"


Say = Callable[[Stage], None]
