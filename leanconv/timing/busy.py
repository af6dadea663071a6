"""Measure whether other programs used the CPUs during a measurement; the measured times are then unreliable."""

from __future__ import annotations

import os
import time
import warnings
from pathlib import Path

from leanconv.core.errors import LeanconvWarning

STAT = Path("/proc/stat")
LEAST_SECONDS = 0.25  # for a shorter time, the kernel's counts of 10 ms are too coarse
BUSY = 0.1  # the part of this process's CPUs above which other programs disturb a measurement


class Watch:
    """Measures, from its creation on, how much of this process's CPUs other programs use.

    The time of other programs is the kernel's count of all time that was not idle, with time stolen by a hypervisor, minus the
    time of this process in all its threads. Source: proc_stat(5).
    """

    def __init__(self) -> None:
        self.start = _counts()

    def others(self) -> float | None:
        """The part of the CPUs' time that others used, 0 to 1; None if the system does not show it, or after too short a time."""
        end = _counts()
        if self.start is None or end is None:
            return None
        taken, total, own, seconds = (after - before for after, before in zip(end, self.start, strict=True))
        if seconds < LEAST_SECONDS or total <= 0:
            return None
        return round(min(1.0, max(0.0, (taken - own) / total)), 3)


def _counts() -> tuple[float, float, float, float] | None:
    """Seconds on this process's CPUs: used by any program, in all, used by this process; and seconds on the clock."""
    try:
        lines = STAT.read_text().splitlines()
        tick = os.sysconf("SC_CLK_TCK")
        mine = os.sched_getaffinity(0)
        rows = [line.split() for line in lines if line.startswith("cpu")]
        counts = [
            [int(value) for value in row[1:9]] for row in rows if row[0][3:].isdigit() and int(row[0][3:]) in mine
        ]
    except (OSError, ValueError, AttributeError):  # not Linux, or a system that hides the file
        return None
    if not counts:
        return None
    total = sum(sum(row) for row in counts) / tick
    idle = sum(sum(row[3:5]) for row in counts) / tick
    return total - idle, total, time.process_time(), time.monotonic()


def warn_if_busy(others: float | None) -> None:
    """Warn, in one line, if others used more than `BUSY` of the CPUs.

    Args:
        others: the result of `Watch.others`.

    >>> warn_if_busy(0.01)
    """
    if others is not None and others > BUSY:
        warnings.warn(
            f"the machine was busy: other programs used {others:.0%} of its CPUs during the measurement; "
            "the times may not repeat: stop the others, and measure again",
            LeanconvWarning,
            stacklevel=3,
        )
