"""The image sizes at which a network's code takes the way that an exported graph holds, and sizes beyond them."""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable, Sequence

import torch

from leanconv.core.errors import first_line

# From the shape of a batch to what the graph asks of it and it is not; None if it is all that
Guard = Callable[[Sequence[int]], str | None]
Pair = tuple[int, int]
SIDES = (1, *sorted(2**power + more for power in range(1, 18) for more in (0, 1)))
LARGEST = 2**24  # pixels of an image for which it is asked whether the graph covers it


def no_guard(shape: Sequence[int]) -> str | None:
    """The guard of a format without a graph."""
    return None


def guard_of(program: torch.export.ExportedProgram) -> Guard:
    """What the network's code asks of the shape of images where it takes the way that `program` holds.

    torch.export notes each comparison that the code makes with sizes; the loaded program checks them, and other formats do not.
    """
    check = getattr(program.module(), "_guards_fn", None)
    if check is None:
        return no_guard

    def guard(shape: Sequence[int]) -> str | None:
        try:
            check(torch.empty(tuple(shape), device="meta"))
        except Exception as error:  # a comparison that does not hold, or that cannot be computed
            return first_line(error)
        return None

    return guard


def beyond(guard: Guard, channels: int, own: Pair) -> list[list[Pair]]:
    """For each comparison of `guard`, the heights and widths at which it does not hold, nearest to `own` first.

    >>> beyond(lambda shape: "height < 40" if shape[2] >= 40 else None, 3, (32, 32))[0][:2]
    [(64, 32), (64, 33)]
    """
    sizes = [size for size in itertools.product(SIDES, SIDES) if math.prod(size) <= LARGEST]
    found: dict[str, list[Pair]] = {}
    for height, width in sorted(sizes, key=lambda size: _far(size, own)):
        asked = guard((2, channels, height, width))
        if asked is not None:
            found.setdefault(asked, []).append((height, width))
    return list(found.values())


def _far(size: Pair, own: Pair) -> float:
    return sum(math.log2(side / other) ** 2 for side, other in zip(size, own, strict=True))
