"""What holds for every test: one thread, fixed seeds, no network, no colours, no windows."""

from __future__ import annotations

import os

os.environ |= {  # before torch and matplotlib are imported, and for the processes that tests start
    "OMP_NUM_THREADS": "1",
    "MPLBACKEND": "Agg",
    "NO_COLOR": "1",
    "HF_HUB_OFFLINE": "1",
    "COLUMNS": "120",
}
os.environ.pop("FORCE_COLOR", None)

import gc
import random
import socket
from collections.abc import Iterator

import numpy as np
import pytest
import torch

LOCAL = ("127.", "::1", "localhost")
LONG = ("test_walk.py", "test_shown.py", "test_contributing.py", "test_notebooks.py", "test_outside.py", "test_kill.py")


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """The files with the longest tests come first: at the end of a run one of them would keep one worker waiting."""
    items.sort(key=lambda item: item.path.name not in LONG)


def pytest_collection_finish() -> None:
    """What is imported and collected lives to the end, so the garbage collector need not look at it in each test."""
    gc.collect()
    gc.freeze()


@pytest.fixture(autouse=True)
def _deterministic() -> Iterator[None]:
    torch.set_num_threads(1)
    random.seed(0)
    np.random.seed(0)
    torch.manual_seed(0)
    yield
    torch.set_grad_enabled(True)
    torch.set_default_dtype(torch.float32)


@pytest.fixture(autouse=True)
def _methods_of_this_test() -> Iterator[None]:
    """A method that a test defines is gone after it."""
    import leanconv.ops  # noqa: F401  registers leanconv's own, which stay
    from leanconv.core.method import registered

    before = dict(registered)
    yield
    registered.clear()
    registered.update(before)


@pytest.fixture(autouse=True, scope="session")
def _no_network() -> Iterator[None]:
    """A connection that leaves the machine fails; those between processes of this machine do not."""
    connect = socket.socket.connect

    def connect_here(self: socket.socket, address: object) -> None:
        if isinstance(address, tuple) and not str(address[0]).startswith(LOCAL):
            raise OSError(f"tests have no network: {address}")
        connect(self, address)  # type: ignore[arg-type]

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(socket.socket, "connect", connect_here)
        yield
