"""The work of planning, converting, saving and optimising grows with the number of layers, and not with its square."""

from __future__ import annotations

import cProfile
import pstats
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn

import leanconv as lc
from leanconv.analyse.converted import inspect


def chain(length: int) -> nn.Module:
    layers = [layer for _ in range(length) for layer in (nn.Conv2d(2, 2, 1), nn.BatchNorm2d(2))]
    return nn.Sequential(*layers).eval()


def steps(length: int, folder: Path) -> dict[str, Callable[[], Any]]:
    dense, size = chain(length), (2, 4, 4)
    plan = lc.plan(dense, lc.TiedBlock(2), input_size=size)
    lean = lc.convert(dense, plan)
    lc.save(lean, folder / f"saved{length}")
    return {
        "plan": lambda: lc.plan(dense, lc.TiedBlock(2), input_size=size),
        "convert": lambda: lc.convert(dense, plan),
        "inspect": lambda: inspect(dense, lc.TiedBlock(2), input_size=size, runtime="openvino"),
        "save": lambda: lc.save(lean, folder / f"net{length}"),
        "load": lambda: lc.load(folder / f"saved{length}", chain(length)),
        "optimize": lambda: lc.optimize(lean, torch.zeros(1, *size), measured=False),
    }


def calls(step: Callable[[], Any]) -> int:
    """The number of function calls, which does not depend on the load of the machine."""
    profile = cProfile.Profile()
    profile.runcall(step)
    return pstats.Stats(profile).total_calls  # type: ignore[attr-defined]


@pytest.mark.parametrize("name", ["plan", "convert", "inspect", "save", "load", "optimize"])
def test_calls_grow_with_the_number_of_layers(name: str, tmp_path: Path):
    few, more, most = ((lambda made: (made(), calls(made))[1])(steps(n, tmp_path)[name]) for n in (8, 24, 56))
    # 8 -> 24 -> 56 layers: a linear step adds twice as many calls the second time, a quadratic one five times as many
    assert (most - more) < 2.6 * (more - few), (few, more, most)
