"""Triton kernels for what several torch calls would read and write more than once; forms among others, taken where they win.

Triton comes with torch's CUDA builds and is not needed without one. Its interpreter (``TRITON_INTERPRET=1``) runs them on a
CPU, which is how they are tested.
"""

from __future__ import annotations

import importlib.util
import os

from torch import Tensor


def available(tensor: Tensor) -> bool:
    """Whether kernels can run where `tensor` lies."""
    there = tensor.is_cuda or (tensor.device.type == "cpu" and os.environ.get("TRITON_INTERPRET") == "1")
    return there and importlib.util.find_spec("triton") is not None
