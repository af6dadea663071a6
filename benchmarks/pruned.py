"""Structured pruning with Torch-Pruning, the usual alternative to lean operators (``pip install torch-pruning``)."""

from __future__ import annotations

import torch
from torch import nn

import leanconv as lc

STEPS = 12


def pruned(name: str, macs: int, size: tuple[int, int, int]) -> nn.Module:
    """The network `name`, pruned to about `macs`: the smallest filters by magnitude, with the same ratio in all layers.

    Widths are rounded to 8 channels, as Torch-Pruning recommends for speed. The ratio is found by bisection.
    """
    low, high = 0.0, 0.9
    best = _prune(name, low, size)
    for _ in range(STEPS):
        ratio = (low + high) / 2
        model = _prune(name, ratio, size)
        found = lc.count(model, size).macs
        assert found is not None
        if found > macs:
            low = ratio
        else:
            high, best = ratio, model
    return best


def _prune(name: str, ratio: float, size: tuple[int, int, int]) -> nn.Module:
    import torch_pruning as tp

    torch.manual_seed(0)
    model = lc.create_model(name).eval()
    last = [module for module in model.modules() if isinstance(module, nn.Linear)][-1:]
    pruner = tp.pruner.MagnitudePruner(
        model,
        torch.randn(1, *size),
        importance=tp.importance.MagnitudeImportance(p=2),
        pruning_ratio=ratio,
        ignored_layers=last,
        round_to=8,
    )
    pruner.step()
    return model
