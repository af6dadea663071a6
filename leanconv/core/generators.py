"""The random number generators of torch, numpy and Python: blocks that leave them as they were."""

from __future__ import annotations

import random
from collections.abc import Iterator, Sequence
from contextlib import contextmanager

import numpy as np
import torch


@contextmanager
def random_kept(devices: Sequence[torch.device | int] | None = None) -> Iterator[None]:
    """A block that may draw random numbers; afterwards the generators of torch, numpy and Python are as before it.

    Args:
        devices: the GPUs whose generators are kept; None for all, if CUDA was started.

    >>> before = torch.get_rng_state()
    >>> with random_kept():
    ...     _ = torch.randn(2)
    >>> torch.equal(torch.get_rng_state(), before)
    True
    """
    python, numpy = random.getstate(), np.random.get_state()
    if devices is None:
        devices = range(torch.cuda.device_count()) if torch.cuda.is_initialized() else ()
    with torch.random.fork_rng(devices=devices):
        try:
            yield
        finally:
            random.setstate(python)
            np.random.set_state(numpy)


@contextmanager
def torch_seed(seed: int, devices: Sequence[torch.device] = ()) -> Iterator[None]:
    """In the block, torch's random numbers on the CPU and on some GPUs are those of `seed`; afterwards all is as before."""
    with torch.random.fork_rng(devices=devices):
        torch.default_generator.manual_seed(seed)
        for device in devices:
            with torch.cuda.device(device):
                torch.cuda.manual_seed(seed)
        yield


@contextmanager
def fixed_seed(seed: int = 0) -> Iterator[None]:
    """In the block, the random numbers of Python, numpy and torch (CPU) are those of `seed`; afterwards all is as before."""
    with random_kept(devices=()):
        torch.default_generator.manual_seed(seed)
        random.seed(seed)
        np.random.seed(seed % 2**32)
        yield
