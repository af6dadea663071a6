"""Freed memory stays in the process while a network trains on a CPU.

What glibc does depends on what a process has allocated before. So memory is measured in a new process.
"""

import ctypes
import multiprocessing
import resource
import sys
from concurrent.futures import ProcessPoolExecutor
from pathlib import Path

import pytest
import torch

from leanconv.train import allocator
from leanconv.train.allocator import kept_memory

CPU = torch.device("cpu")
MIB = 2**20
glibc = pytest.mark.skipif(
    not (sys.platform.startswith("linux") and hasattr(ctypes.CDLL(None), "mallopt")), reason="needs glibc"
)


def _in_new_process(measure):
    """What the function `measure` returns in a process that has only imported torch."""
    with ProcessPoolExecutor(1, mp_context=multiprocessing.get_context("spawn")) as pool:
        return pool.submit(measure).result()


def _faults() -> int:
    """Page faults of ten tensors of 40 MiB that are written and freed, each of which glibc takes from the system."""
    before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
    for _ in range(10):
        torch.empty(40 * MIB, dtype=torch.uint8).fill_(1)
    return resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before


def _resident() -> int:
    return int(Path("/proc/self/statm").read_text().split()[1]) * resource.getpagesize()


def _faults_within_and_after() -> tuple[int, int]:
    with kept_memory(CPU):
        _faults()  # the first tensor's pages come from the system
        inside = _faults()
    return inside, _faults()


def _resident_before_within_and_after() -> tuple[int, int, int]:
    before = _resident()
    with kept_memory(CPU):
        tensors = [torch.ones(MIB) for _ in range(64)]  # 4 MiB each
        del tensors
        inside = _resident()
    return before, inside, _resident()


@pytest.fixture(autouse=True)
def plain_environment(monkeypatch):
    for name in ("GLIBC_TUNABLES", "MALLOC_ARENA_MAX"):
        monkeypatch.delenv(name, raising=False)


@pytest.fixture
def settings(monkeypatch):
    """The settings that malloc is given, in order; malloc itself stays as it is."""
    given = []
    monkeypatch.setattr(allocator, "_set", lambda _, values: given.append(values))
    return given


@glibc
def test_memory_is_reused_within_the_block_only():
    inside, after = _in_new_process(_faults_within_and_after)
    assert inside < after / 20


@glibc
def test_memory_goes_back_at_the_end():
    before, inside, after = _in_new_process(_resident_before_within_and_after)
    assert inside > before + 200 * MIB
    assert after < before + 64 * MIB


@glibc
def test_the_end_comes_after_an_error_as_well(settings):
    with pytest.raises(ValueError, match="of the training"), kept_memory(CPU):
        raise ValueError("of the training")
    assert settings == [allocator.KEEP, allocator.USUAL]


@glibc
@pytest.mark.parametrize("name", ["GLIBC_TUNABLES", "MALLOC_ARENA_MAX"])
def test_the_user_configures_malloc(settings, monkeypatch, name):
    monkeypatch.setenv(name, "")
    with kept_memory(CPU):
        assert settings == []
    assert settings == []


@glibc
def test_another_device_changes_nothing(settings):
    with kept_memory(torch.device("cuda")):
        assert settings == []
    assert settings == []
