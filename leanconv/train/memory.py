"""The memory that a run takes."""

from __future__ import annotations

import sys

import torch

NAMES = ("peak_ram_bytes", "peak_gpu_bytes")


def peaks(device: torch.device) -> dict[str, int]:
    """The largest memory until now, in bytes.

    `peak_ram_bytes` is the resident memory of this process since it started, without its workers. It is missing on Windows.
    `peak_gpu_bytes` is what torch allocated on a GPU since `restart`.

    Args:
        device: the device of the training.

    >>> found = peaks(torch.device("cpu"))
    """
    found = {}
    if sys.platform != "win32":
        import resource

        unit = 1 if sys.platform == "darwin" else 1024
        found["peak_ram_bytes"] = unit * resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    if device.type == "cuda":
        found["peak_gpu_bytes"] = torch.cuda.max_memory_allocated(device)
    return found


def restart(device: torch.device) -> None:
    """Let the peak of a GPU begin anew."""
    if device.type == "cuda":
        torch.cuda.reset_peak_memory_stats(device)
