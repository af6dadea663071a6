"""Whether other programs had the CPUs while something was measured: then its times say little."""

from __future__ import annotations

import os
import time
import warnings
from pathlib import Path

from leanconv.core.errors import LeanconvWarning

STAT = Path("/proc/stat")
LEAST_SECONDS = 0.25  # below, the kernel's counts of 10 ms are too coarse
BUSY = 0.1  # of the CPUs that this process may use


class Watch:
    """Counts, from when it is made, what this process and all others take of the CPUs that this one may run on.

    Other programs' time is the kernel's count of all that was not idle, time stolen by a hypervisor included, less this
    process's own, whatever the threads. Source: proc_stat(5).
    """

    def __init__(self) -> None:
        self.start = _counts()

    def others(self) -> float | None:
        """The part of the CPUs' time that others took, 0 to 1; None where the system does not say, or too little time went by."""
        end = _counts()
        if self.start is None or end is None:
            return None
        taken, total, own, seconds = (after - before for after, before in zip(end, self.start, strict=True))
        if seconds < LEAST_SECONDS or total <= 0:
            return None
        return round(min(1.0, max(0.0, (taken - own) / total)), 3)


def _counts() -> tuple[float, float, float, float] | None:
    """Seconds: taken by anybody, in all, by this process, and on the clock; of the CPUs that this process may use."""
    try:
        lines = STAT.read_text().splitlines()
        tick = os.sysconf("SC_CLK_TCK")
        mine = os.sched_getaffinity(0)
        rows = [line.split() for line in lines if line.startswith("cpu")]
        counts = [
            [int(value) for value in row[1:9]] for row in rows if row[0][3:].isdigit() and int(row[0][3:]) in mine
        ]
    except (OSError, ValueError, AttributeError):  # another system, or one that hides it
        return None
    if not counts:
        return None
    total = sum(sum(row) for row in counts) / tick
    idle = sum(sum(row[3:5]) for row in counts) / tick
    return total - idle, total, time.process_time(), time.monotonic()


def warn_if_busy(others: float | None) -> None:
    """One line where others took more than `BUSY` of the CPUs."""
    if others is not None and others > BUSY:
        warnings.warn(
            f"the machine was busy: other programs used {others:.0%} of its CPUs while this was measured; "
            "the times may not repeat: stop the others, and measure again",
            LeanconvWarning,
            stacklevel=3,
        )
