"""Which weights of a dense layer a method's form cannot hold, by the positions of channels."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class ChannelForm:
    """A form that depends on which channels lie next to each other; `leanconv.choose_orders` finds their order.

    Args:
        blocks: the number of blocks of channels; blocks do not mix.
        tied: all blocks have the same weights.
        redundant_from: the input channels from this one on keep the central tap only; None if all keep their taps.
    """

    blocks: int = 1
    tied: bool = False
    redundant_from: int | None = None
