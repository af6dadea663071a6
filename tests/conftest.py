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

import random
import socket
from collections.abc import Iterator

import numpy as np
import pytest
import torch

LOCAL = ("127.", "::1", "localhost")


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
    from leanconv.core import registry

    before = dict(registry._methods)
    yield
    for name, kind in list(registry._methods.items()):  # leanconv's own are imported once, perhaps first in this test
        if name not in before and not kind.__module__.startswith("leanconv."):
            del registry._methods[name]
    registry._methods.update(before)


@pytest.fixture(autouse=True)
def _no_network(monkeypatch: pytest.MonkeyPatch) -> None:
    """A connection that leaves the machine fails; those between processes of this machine do not."""
    connect = socket.socket.connect

    def connect_here(self: socket.socket, address: object) -> None:
        if isinstance(address, tuple) and not str(address[0]).startswith(LOCAL):
            raise OSError(f"tests have no network: {address}")
        connect(self, address)  # type: ignore[arg-type]

    monkeypatch.setattr(socket.socket, "connect", connect_here)
