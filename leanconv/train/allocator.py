"""Keep freed memory in the process while a network trains on a CPU.

A step allocates and frees the same large tensors as the step before it. By default glibc returns each of them to the system,
which then clears every page anew.
"""

from __future__ import annotations

import contextlib
import ctypes
import os
import sys
from collections.abc import Iterator

import torch

MIB = 2**20
TRIM_THRESHOLD, TOP_PAD, MMAP_THRESHOLD, MMAP_MAX = -1, -2, -3, -4  # numbers of mallopt's parameters, from malloc.h
KEEP = {MMAP_MAX: 0, TRIM_THRESHOLD: 2**31 - 1, TOP_PAD: 64 * MIB}
# what glibc chooses itself in a process that has freed a large block; its first values cannot be set again
USUAL = {MMAP_MAX: 65536, TRIM_THRESHOLD: 64 * MIB, TOP_PAD: 128 * 1024, MMAP_THRESHOLD: 32 * MIB}


@contextlib.contextmanager
def kept_memory(device: torch.device) -> Iterator[None]:
    """Within the block, memory that is freed stays in the process; at its end the memory goes back to the system.

    Nothing changes on another device than a CPU, without glibc, or if the environment configures malloc (`GLIBC_TUNABLES`,
    `MALLOC_...`).

    Args:
        device: the device of the training.

    >>> with kept_memory(torch.device("cpu")):
    ...     _ = torch.rand(1000)
    """
    glibc = _glibc() if device.type == "cpu" else None
    if glibc is None:
        yield
        return
    _set(glibc, KEEP)
    try:
        yield
    finally:
        _set(glibc, USUAL)
        glibc.malloc_trim(0)


def _glibc() -> ctypes.CDLL | None:
    if not sys.platform.startswith("linux") or any(name.startswith(("GLIBC_", "MALLOC_")) for name in os.environ):
        return None
    process = ctypes.CDLL(None)
    return process if hasattr(process, "mallopt") and hasattr(process, "malloc_trim") else None


def _set(glibc: ctypes.CDLL, values: dict[int, int]) -> None:
    for parameter, value in values.items():
        glibc.mallopt(parameter, value)
