"""Independent random generators from a few small numbers."""

from __future__ import annotations

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
