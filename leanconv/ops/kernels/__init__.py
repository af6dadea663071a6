"""Triton kernels that read and write memory less often than several torch calls; `leanconv.optimize` uses the fast ones.

CUDA builds of torch include Triton; other builds do not need it. The tests run the kernels on a CPU with Triton's interpreter
(``TRITON_INTERPRET=1``).
"""

from __future__ import annotations

import importlib.util
import os

from torch import Tensor


def available(tensor: Tensor) -> bool:
    """Whether kernels can run on the device of `tensor`."""
    there = tensor.is_cuda or (tensor.device.type == "cpu" and os.environ.get("TRITON_INTERPRET") == "1")
    return there and importlib.util.find_spec("triton") is not None
