"""Runs and comparisons: what `leanconv.fit`, `leanconv.evaluate` and `leanconv.compare` do."""

from __future__ import annotations

from typing import TYPE_CHECKING

from leanconv.core.lazy import lazy

if TYPE_CHECKING:
    from leanconv.experiment.events import (
        EpochEnded,
        Event,
        LeftOut,
        Measuring,
        RunFailed,
        RunStarted,
        Waiting,
    )
    from leanconv.experiment.job import Job
    from leanconv.experiment.result import Comparison
    from leanconv.experiment.run import Run

__all__ = [
    "Comparison",
    "EpochEnded",
    "Event",
    "Job",
    "LeftOut",
    "Measuring",
    "Run",
    "RunFailed",
    "RunStarted",
    "Waiting",
]

_HOME = {
    "Comparison": "result",
    "EpochEnded": "events",
    "Event": "events",
    "Job": "job",
    "LeftOut": "events",
    "Measuring": "events",
    "Run": "run",
    "RunFailed": "events",
    "RunStarted": "events",
    "Waiting": "events",
}
__getattr__, __dir__ = lazy(__name__, _HOME)
