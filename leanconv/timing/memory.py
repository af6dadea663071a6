"""Measure how much memory a process holds, and how much a call needs beyond it."""

from __future__ import annotations

import ctypes
import gc
from collections.abc import Callable
from pathlib import Path

import torch

STATUS, CLEAR = Path("/proc/self/status"), Path("/proc/self/clear_refs")


def held_bytes() -> int | None:
    """Resident memory of this process in bytes, after freed memory went back; None if the system does not show it."""
    gc.collect()
    trim = getattr(ctypes.CDLL(None), "malloc_trim", None)
    if trim is not None:  # memory that malloc kept would be reused and not be counted
        trim(0)
    try:
        return _resident("VmRSS")
    except OSError:
        return None


def peak_bytes(call: Callable[[], object], device: torch.device | str = "cpu") -> int | None:
    """Peak memory during `call` minus the memory before it, in bytes; None if the system does not show it.

    On CUDA this is the memory that torch allocates. On Linux it is the process's resident memory, so the scratch space of
    allocators and libraries counts; the kernel's peak is reset before the call. Call once before, to leave out one-time work.

    Args:
        call: the function to call.
        device: where it allocates.
    """
    device = torch.device(device)
    if device.type == "cuda":
        gc.collect()
        torch.cuda.synchronize(device)
        torch.cuda.reset_peak_memory_stats(device)
        allocated = torch.cuda.memory_allocated(device)
        call()
        torch.cuda.synchronize(device)
        return torch.cuda.max_memory_allocated(device) - allocated
    before = held_bytes()
    try:
        CLEAR.write_text("5")
    except OSError:
        return None
    if before is None:
        return None
    call()
    return max(0, _resident("VmHWM") - before)


def _resident(field: str) -> int:
    line = next(line for line in STATUS.read_text().splitlines() if line.startswith(f"{field}:"))
    return int(line.split()[1]) * 1024
