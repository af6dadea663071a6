"""A busy machine is told from the kernel's own counts; where there are none, nothing is said."""

from __future__ import annotations

import os
import time
from pathlib import Path

import pytest

from leanconv.core.errors import LeanconvWarning
from leanconv.timing import busy
from leanconv.timing.latency import time_interleaved


class Machine:
    """Two CPUs of which this process may use both, and a third that is another's; all counts are made up."""

    def __init__(self, path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        self.path, self.clock, self.own = path, 0.0, 0.0
        self.taken, self.stolen, self.idle = [0.0, 0.0, 0.0], [0.0, 0.0, 0.0], [0.0, 0.0, 0.0]
        monkeypatch.setattr(busy, "STAT", path)
        monkeypatch.setattr(os, "sched_getaffinity", lambda pid: {0, 1}, raising=False)
        monkeypatch.setattr(os, "sysconf", lambda name: 100)
        monkeypatch.setattr(time, "process_time", lambda: self.own)
        monkeypatch.setattr(time, "monotonic", lambda: self.clock)
        self.write()

    def passes(self, seconds: float, own: float, others: tuple[float, ...], stolen: float = 0.0) -> None:
        """Time in which this process takes `own` CPU seconds of the first CPU, and others so much of each."""
        self.clock += seconds
        self.own += own
        for cpu, more in enumerate(others):
            mine = own if cpu == 0 else 0.0
            self.taken[cpu] += mine + more
            self.stolen[cpu] += stolen
            self.idle[cpu] += seconds - mine - more - stolen
        self.write()

    def write(self) -> None:
        lines = ["cpu  1 2 3 4 5 6 7 8 0 0"]
        for cpu in range(3):
            taken, stolen, idle = (round(100 * value[cpu]) for value in (self.taken, self.stolen, self.idle))
            lines.append(f"cpu{cpu} {taken} 0 0 {idle} 0 0 0 {stolen} 0 0")
        self.path.write_text("\n".join([*lines, "intr 1 2", "btime 1"]))


@pytest.fixture
def machine(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Machine:
    return Machine(tmp_path / "stat", monkeypatch)


def test_own_work_is_not_others(machine: Machine) -> None:
    watch = busy.Watch()
    machine.passes(2.0, own=2.0, others=(0.0, 0.0, 2.0))  # the third CPU is not ours to use
    assert watch.others() == 0


def test_what_others_take_is_said(machine: Machine) -> None:
    watch = busy.Watch()
    machine.passes(2.0, own=1.0, others=(0.5, 1.5, 0.0))
    assert watch.others() == 0.5
    with pytest.warns(LeanconvWarning, match="the machine was busy: other programs used 50% of its CPUs"):
        busy.warn_if_busy(watch.others())


def test_time_that_a_hypervisor_steals_counts(machine: Machine) -> None:
    watch = busy.Watch()
    machine.passes(2.0, own=1.0, others=(0.0, 0.0, 0.0), stolen=0.5)
    assert watch.others() == 0.25


def test_a_moment_says_nothing(machine: Machine) -> None:
    watch = busy.Watch()
    machine.passes(0.1, own=0.0, others=(0.1, 0.1, 0.0))
    assert watch.others() is None


@pytest.mark.parametrize("text", [None, "", "cpu 1 2\n", "cpu0 a b c d e f g h\n", "cpu7 1 2 3 4 5 6 7 8\n"])
def test_elsewhere_nothing_is_said(machine: Machine, text: str | None) -> None:
    watch = busy.Watch()
    if text is None:
        machine.path.unlink()
    else:
        machine.path.write_text(text)
    assert watch.others() is None and busy.Watch().others() is None


def test_a_measurement_carries_it(machine: Machine) -> None:
    def work() -> None:
        machine.passes(0.5, own=0.25, others=(0.25, 0.5, 0.0))

    (only,) = time_interleaved({"work": work}, min_rounds=1, seconds=0)
    assert only.busy == 0.75
