"""A run leaves the process as it was: random states, switches, warnings, handlers, loggers, environment, however it ends."""

from __future__ import annotations

import contextlib
import logging
import os
import random
import signal
import sys
import threading
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import lightning.pytorch  # noqa: F401  (configures its loggers when it is imported first)
import numpy as np
import pytest
import torch
from torch import Tensor, nn

from leanconv.core.errors import RunError
from leanconv.data import ImageData
from leanconv.train import fit
from leanconv.train.caller import undisturbed
from tests.train.conftest import SMALL, Net
from tests.train.test_resume import CtrlC

LOGGERS = ("lightning", "lightning.pytorch", "lightning.fabric", "torch", "")


def snapshot() -> dict[str, Any]:
    return {
        "python": random.getstate(),
        "numpy": [part.tolist() if isinstance(part, np.ndarray) else part for part in np.random.get_state()],
        "torch": torch.get_rng_state().tolist(),
        "threads": torch.get_num_threads(),
        "precision": torch.get_float32_matmul_precision(),
        "deterministic": torch.are_deterministic_algorithms_enabled(),
        "cudnn": (torch.backends.cudnn.enabled, torch.backends.cudnn.benchmark, torch.backends.cudnn.deterministic),
        "dtype": torch.get_default_dtype(),
        "gradients": torch.is_grad_enabled(),
        "anomaly": torch.is_anomaly_enabled(),
        "filters": list(warnings.filters),
        "show": warnings.showwarning,
        "handlers": [signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM, signal.SIGUSR1)],
        "hook": sys.excepthook,
        "loggers": [(logging.getLogger(name).level, logging.getLogger(name).disabled) for name in LOGGERS],
        "environment": dict(os.environ),
        "alive": {thread.name for thread in threading.enumerate()},
        "folder": Path.cwd(),
    }


class Careless(nn.Module):
    """Sets whatever a network's code may set."""

    def forward(self, x: Tensor) -> Tensor:
        os.environ["LEFT_BEHIND"] = "1"
        torch.backends.cudnn.benchmark = True
        torch.set_float32_matmul_precision("medium")
        warnings.simplefilter("ignore")
        return x


class Broken(nn.Module):
    def forward(self, x: Tensor) -> Tensor:
        raise ValueError("mine")


WAYS: dict[str, tuple[list[Callable[[], nn.Module]], dict[str, Any], type[BaseException] | None]] = {
    "to its end": ([], {"ema": 0.5, "select": "best"}, None),
    "interrupted": ([lambda: CtrlC(2)], {}, KeyboardInterrupt),
    "diverged": ([], {"lr": 1e12, "schedule": "constant"}, RunError),
    "failed": ([Broken], {}, ValueError),
}


@pytest.mark.parametrize("way", WAYS)
def test_everything_is_as_before(way: str, data: ImageData, tmp_path: Path) -> None:
    modules, settings, error = WAYS[way]
    model = Net(Careless(), *(make() for make in modules))
    random.seed(1)
    np.random.seed(2)
    torch.manual_seed(3)
    before = snapshot()
    with contextlib.nullcontext() if error is None else pytest.raises(error):
        fit(model, data, SMALL.replace(threads=2, **settings), tmp_path, progress=False)
    after = snapshot()
    assert {name: value for name, value in after.items() if value != before[name]} == {}


def test_processes_that_lightning_started_are_not_forgotten(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("LOCAL_RANK", raising=False)
    with undisturbed("cpu", alone=False):
        monkeypatch.setenv("LOCAL_RANK", "0")
    assert os.environ["LOCAL_RANK"] == "0"


@pytest.mark.gpu
def test_random_states_of_gpus_come_back() -> None:
    torch.cuda.manual_seed_all(5)
    expected = torch.rand(3, device="cuda")
    torch.cuda.manual_seed_all(5)
    with undisturbed("auto", alone=True):
        torch.cuda.manual_seed_all(6)
    assert torch.equal(torch.rand(3, device="cuda"), expected)
