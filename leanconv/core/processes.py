"""Several processes that share a run."""

from __future__ import annotations

import os


def leads() -> bool:
    """Whether this is the first of the processes that share a run, or the only one: it alone checks, locks, writes and prints."""
    return int(os.environ.get("RANK", os.environ.get("LOCAL_RANK", "0"))) == 0
