"""Whether a network computes with other layers in training mode."""

from __future__ import annotations

from collections.abc import Hashable
from contextlib import suppress
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.modules.dropout import _DropoutNd
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from leanconv.conversion.labels import BATCH_NORMS


def training(twin: nn.Module) -> nn.Module:
    """`twin` in training mode, with its dropout layers in eval mode: they treat all channels alike."""
    twin.train()
    for module in twin.modules():
        if isinstance(module, _DropoutNd):
            module.eval()
    return twin


def twice(images: Tensor) -> Tensor:
    """The images twice, because statistics of a batch need several values."""
    return torch.cat([images, images])


def differs_in_training(twin: nn.Module, images: Tensor) -> bool:
    """Whether a copy of a network runs in training mode, with other operations or other parameters than in eval mode."""
    seen = []
    with suppress(Exception):  # the network does not run so, whatever it raises
        for mode in (nn.Module.eval, training):
            mode(twin)
            with _Steps(twin) as steps:
                twin(twice(images))
            seen.append(steps.seen)
    twin.eval()
    return len(seen) == 2 and seen[0] != seen[1]


class _Steps(TorchDispatchMode):
    """The operations of a forward pass, each with its parameters and its plain arguments."""

    def __init__(self, model: nn.Module) -> None:
        super().__init__()
        self.seen: list[Hashable] = []
        self._own = {id(tensor) for tensor in (*model.parameters(), *model.buffers())}

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        out = func(*args, **(kwargs or {}))
        leaves = tree_leaves((args, kwargs))
        tensors = [leaf for leaf in leaves if isinstance(leaf, Tensor)]
        own = tuple(id(tensor) for tensor in tensors if id(tensor) in self._own)
        name = func._schema.name.removeprefix("aten::")
        if name in BATCH_NORMS:
            name, leaves = "batch norm", []
        counts = len(tensors) == len(own) == 1 and not tensors[0].dim()  # batches that a norm has seen
        if not counts:
            self.seen.append((name, own, tuple(repr(leaf) for leaf in leaves if not isinstance(leaf, Tensor))))
        return out
