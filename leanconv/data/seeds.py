"""Independent random streams from small numbers."""

from __future__ import annotations

import numpy as np
import torch


def mix(*key: int) -> int:
    """One well-mixed 63-bit seed for a tuple of numbers: (seed=0, epoch=1) and (seed=1, epoch=0) are unrelated."""
    return int(np.random.SeedSequence([k % 2**64 for k in key]).generate_state(1, np.uint64)[0] >> np.uint64(1))


def generator(*key: int) -> torch.Generator:
    """A CPU generator seeded with mix(*key)."""
    return torch.Generator().manual_seed(mix(*key))
