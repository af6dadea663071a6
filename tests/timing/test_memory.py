"""The memory a call takes."""

from __future__ import annotations

import sys

import pytest
import torch

from leanconv.timing.memory import peak_bytes

MIB = 2**20


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="resident memory is read from /proc")
def test_a_call_that_takes_64_mib():
    held = torch.ones(8 * MIB)  # what is there before does not count
    found = peak_bytes(lambda: torch.ones(16 * MIB).sum())  # float32
    assert found is not None and 60 * MIB < found < 80 * MIB
    assert held.sum() > 0
    small = peak_bytes(lambda: torch.ones(MIB // 4).sum())
    assert small is not None and small < 8 * MIB


def test_none_where_the_system_does_not_say(monkeypatch, tmp_path):
    monkeypatch.setattr("leanconv.timing.memory.CLEAR", tmp_path / "none" / "clear_refs")
    assert peak_bytes(lambda: None) is None
