"""Independent random generators from a few small numbers."""

from __future__ import annotations

import contextlib
import random
from collections.abc import Iterator

import numpy as np
import torch


def mix(*key: int) -> int:
    """A 63-bit seed for a tuple of integers. Different tuples give unrelated seeds, also (0, 1) and (1, 0).

    >>> mix(0, 1) == mix(1, 0)
    False
    """
    return int(np.random.SeedSequence([k % 2**64 for k in key]).generate_state(1, np.uint64)[0] >> np.uint64(1))


def generator(*key: int) -> torch.Generator:
    """A CPU generator with the seed ``mix(*key)``."""
    return torch.Generator().manual_seed(mix(*key))


@contextlib.contextmanager
def torch_seed(seed: int) -> Iterator[None]:
    """In the block, the random numbers of torch (CPU) are those of `seed`; afterwards all is as before."""
    with torch.random.fork_rng(devices=[]):
        torch.default_generator.manual_seed(seed)
        yield


@contextlib.contextmanager
def fixed_seed(seed: int = 0) -> Iterator[None]:
    """In the block, the random numbers of Python, numpy and torch (CPU) are those of `seed`; afterwards all is as before."""
    python, numpy = random.getstate(), np.random.get_state()
    with torch_seed(seed):
        random.seed(seed)
        np.random.seed(seed % 2**32)
        try:
            yield
        finally:
            random.setstate(python)
            np.random.set_state(numpy)
