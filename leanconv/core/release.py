"""Where a layer's tensors stand in the release of its paper, as the layer itself says it."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import Protocol, runtime_checkable

from torch import nn


@dataclass(frozen=True)
class Place:
    """Where one of a network's tensors stands in a checkpoint.

    Args:
        ours: its name in the network.
        theirs: the names it may have in the checkpoint, likeliest first.
        rows: (first, all) where the checkpoint holds a part of it, for one of the layers that share it.
        everywhere: the checkpoint may hold it under several of the names.
        unless: why it cannot be taken under another name than ours.
    """

    ours: str
    theirs: tuple[str, ...]
    rows: tuple[int, int] | None = None
    everywhere: bool = False
    unless: str | None = None


@dataclass(frozen=True)
class NamedLayer:
    """A layer and the names around it in its network.

    Args:
        name: its dotted name.
        block: the dotted name of what it stands in.
        keys: the full names of its tensors in the state dict.
        owners: the name of each module of the network, by ``id``.
        seen: how many layers of a block were numbered before.
    """

    name: str
    block: str
    keys: tuple[str, ...]
    owners: Mapping[int, str]
    seen: Counter[str] = field(default_factory=Counter)

    def number(self) -> int:
        """One more than the layers of this block that were numbered before; call it once for a layer."""
        self.seen[self.block] += 1
        return self.seen[self.block]

    def relative(self, key: str) -> str:
        """A full name, below the layer's own."""
        return key[len(self.name) + 1 :] if self.name else key

    def named(self, module: nn.Module) -> str:
        """The dotted name of another module of the network."""
        return self.owners[id(module)]

    def plain(self, keys: Iterable[str]) -> list[Place]:
        """Places of tensors that have the same name there."""
        return [Place(key, (key,)) for key in keys]

    def renamed(self, parts: Mapping[str, tuple[str, ...]], unless: str | None = None) -> list[Place]:
        """A place for every tensor, by ``{beginning of our name: the release's beginnings}`` below the layer's name.

        Args:
            unless: why tensors with the release's names cannot be taken.
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
    """A layer whose tensors have other names, or another layout, in its paper's release."""

    def release_places(self, layer: NamedLayer) -> list[Place]:
        """A place for every tensor of the layer, and for those that it borrows."""
