"""Freed memory stays in the process while a network trains on a CPU."""

import ctypes
import resource
import sys
from pathlib import Path

import pytest
import torch

from leanconv.train.allocator import kept_memory

CPU = torch.device("cpu")
MIB = 2**20
glibc = pytest.mark.skipif(
    not (sys.platform.startswith("linux") and hasattr(ctypes.CDLL(None), "mallopt")), reason="needs glibc"
)


def _faults() -> int:
    """Page faults of ten tensors of 40 MiB that are written and freed, each of which glibc takes from the system."""
    before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
    for _ in range(10):
        torch.empty(40 * MIB, dtype=torch.uint8).fill_(1)
    return resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before


def _resident() -> int:
    return int(Path("/proc/self/statm").read_text().split()[1]) * resource.getpagesize()


@pytest.fixture(autouse=True)
def plain_environment(monkeypatch):
    for name in ("GLIBC_TUNABLES", "MALLOC_ARENA_MAX"):
        monkeypatch.delenv(name, raising=False)


@glibc
def test_memory_is_reused_within_the_block_only():
    with kept_memory(CPU):
        _faults()  # the first tensor's pages come from the system
        inside = _faults()
    outside = _faults()
    assert inside < outside / 20


@glibc
def test_memory_goes_back_at_the_end():
    before = _resident()
    with kept_memory(CPU):
        tensors = [torch.ones(MIB) for _ in range(64)]  # 4 MiB each
        del tensors
        inside = _resident()
    assert inside > before + 200 * MIB
    assert _resident() < before + 64 * MIB


@glibc
def test_the_end_comes_after_an_error_as_well():
    with pytest.raises(ValueError, match="of the training"), kept_memory(CPU):
        raise ValueError("of the training")
    with kept_memory(CPU):
        _faults()
        inside = _faults()
    assert inside < _faults() / 20


@glibc
@pytest.mark.parametrize("name", ["GLIBC_TUNABLES", "MALLOC_ARENA_MAX"])
def test_the_user_configures_malloc(monkeypatch, name):
    monkeypatch.setenv(name, "")
    with kept_memory(CPU):
        _faults()
        inside = _faults()
    assert inside > _faults() / 2


@glibc
def test_another_device_changes_nothing():
    with kept_memory(torch.device("cuda")):
        _faults()
        inside = _faults()
    assert inside > _faults() / 2
