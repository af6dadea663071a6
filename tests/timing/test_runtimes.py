"""Runtimes that share one process."""

from __future__ import annotations

import importlib.util
import subprocess
import sys

import pytest

FREED_IN_ORDER = """
import signal

import torch

from leanconv.timing.runtimes import RUNTIMES

signal.signal(signal.SIGCHLD, lambda *_: None)  # as torch's DataLoader does for its workers
x = torch.randn(1, 3, 8, 8)
first, second = (RUNTIMES["openvino"](torch.nn.Conv2d(3, 4, 3), x, 1) for _ in range(2))
del first
del second
signal.raise_signal(signal.SIGCHLD)
print("alive")
"""


@pytest.mark.skipif(not importlib.util.find_spec("openvino"), reason="needs openvino")
def test_a_signal_after_two_networks_in_openvino_does_not_end_the_process() -> None:
    """Two of OpenVINO's Cores, freed in the order in which they were made, leave a freed stack for signals."""
    done = subprocess.run([sys.executable, "-c", FREED_IN_ORDER], capture_output=True, text=True)
    assert (done.returncode, done.stdout) == (0, "alive\n"), done.stderr[-500:]
