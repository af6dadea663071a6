"""Restore what a run changes in the process: random states, torch's switches, warnings and the environment."""

from __future__ import annotations

import contextlib
import os
import random
import warnings
from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
import torch


def _switch(owner: Any, name: str) -> tuple[Callable[[], Any], Callable[[Any], None]]:
    return lambda: getattr(owner, name), lambda value: setattr(owner, name, value)


# (read, set): values that Lightning, or a network's own code, may set for the whole process
SWITCHES: tuple[tuple[Callable[[], Any], Callable[[Any], Any]], ...] = (
    (torch.get_num_threads, torch.set_num_threads),
    (torch.get_default_dtype, torch.set_default_dtype),
    (torch.get_float32_matmul_precision, torch.set_float32_matmul_precision),
    (torch.get_deterministic_debug_mode, torch.set_deterministic_debug_mode),
    (torch.is_grad_enabled, torch.set_grad_enabled),
    (torch.is_anomaly_enabled, torch.autograd.set_detect_anomaly),
    *(_switch(torch.backends.cudnn, name) for name in ("enabled", "benchmark", "deterministic")),
)


@contextlib.contextmanager
def undisturbed(accelerator: str, *, alone: bool) -> Iterator[None]:
    """Restore the process's random states, switches and warnings after the block, however the block ends.

    Args:
        accelerator: the accelerator of the run; random states of GPUs are restored unless it is "cpu".
        alone: no other process shares the run; then the environment is restored too. Otherwise it stays: Lightning notes in
            it that the other processes are started, and a second run would start them again.

    >>> before = torch.get_rng_state()
    >>> with undisturbed("cpu", alone=True):
    ...     _ = torch.rand(1)
    >>> torch.equal(torch.get_rng_state(), before)
    True
    """
    generators: tuple[torch.Generator, ...] = ()
    if accelerator != "cpu" and torch.cuda.is_available():
        torch.cuda.current_device()  # starts CUDA, which has no generators before its start
        generators = torch.cuda.default_generators
    python, numpy, own = random.getstate(), np.random.get_state(), torch.get_rng_state()
    of_gpus = [generator.get_state() for generator in generators]
    switches = [read() for read, _ in SWITCHES]
    environment = dict(os.environ)
    try:
        with warnings.catch_warnings():  # Lightning's import adds filters
            yield
    finally:
        random.setstate(python)
        np.random.set_state(numpy)
        torch.set_rng_state(own)
        for generator, state in zip(generators, of_gpus, strict=True):
            generator.set_state(state)
        for before, (read, back) in zip(switches, SWITCHES, strict=True):
            if read() != before:
                back(before)
        if alone:
            for name in os.environ.keys() - environment.keys():
                del os.environ[name]
            os.environ.update({name: value for name, value in environment.items() if os.environ.get(name) != value})
