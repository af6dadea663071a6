"""The names and the layout of a layer's tensors in its paper's release; the layer itself provides them."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import Protocol, runtime_checkable

from torch import nn


@dataclass(frozen=True)
class Place:
    """The place of one tensor of a network in a checkpoint.

    Args:
        ours: the name of the tensor in the network.
        theirs: possible names of the tensor in the checkpoint, the most likely name first.
        rows: (first, all) if the checkpoint holds only some rows of the tensor, for one of the layers that share it.
        everywhere: whether the checkpoint may hold the tensor under several of the names.
        unless: the reason why the tensor can only be loaded under the name `ours`; None without such a reason.
    """

    ours: str
    theirs: tuple[str, ...]
    rows: tuple[int, int] | None = None
    everywhere: bool = False
    unless: str | None = None


@dataclass(frozen=True)
class NamedLayer:
    """A layer with its names in the network.

    Args:
        name: the dotted name of the layer.
        block: the dotted name of the module that contains the layer.
        keys: the full names of the layer's tensors in the state dict.
        owners: the name of each module of the network, by ``id``.
        seen: the number of layers that already have a number, for each block.
    """

    name: str
    block: str
    keys: tuple[str, ...]
    owners: Mapping[int, str]
    seen: Counter[str] = field(default_factory=Counter)

    def number(self) -> int:
        """The number of this layer in its block, counted from 1; call this method once for each layer."""
        self.seen[self.block] += 1
        return self.seen[self.block]

    def relative(self, key: str) -> str:
        """The full name `key` without the layer's own name."""
        return key[len(self.name) + 1 :] if self.name else key

    def named(self, module: nn.Module) -> str:
        """The dotted name of another module of the network."""
        return self.owners[id(module)]

    def plain(self, keys: Iterable[str]) -> list[Place]:
        """Places of tensors that have the same name in the checkpoint."""
        return [Place(key, (key,)) for key in keys]

    def renamed(self, parts: Mapping[str, tuple[str, ...]], unless: str | None = None) -> list[Place]:
        """The places of all tensors of the layer, from ``{prefix of our name: prefixes in the release}``.

        The prefixes are relative to the layer's name.

        Args:
            parts: the prefixes.
            unless: the reason why tensors with the release's names cannot be loaded.
        """
        found = []
        for key in self.keys:
            relative = self.relative(key)
            ours, theirs = next((o, t) for o, t in parts.items() if relative.startswith(o))
            released = (f"{self.name}.{part}{relative[len(ours) :]}".strip(".") for part in theirs)
            found.append(Place(key, (key, *released), unless=unless))
        return found


@runtime_checkable
class Released(Protocol):
    """A layer whose tensors have other names or another layout in its paper's release."""

    def release_places(self, layer: NamedLayer) -> list[Place]:
        """The places of all tensors that the layer owns or borrows."""
