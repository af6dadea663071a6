"""Which form of a layer is fastest on this device: measured once, and remembered."""

from __future__ import annotations

from torch import Tensor, nn

from leanconv.core.operator import ConvOp, Forms, Signature
from leanconv.core.spec import ConvSpec
from leanconv.inference.merge import Branches
from leanconv.timing.modules import remembered
from leanconv.timing.store import TimeStore


def times_of(
    layer: nn.Module, forms: Forms, example: Tensor, runtime: str, threads: int, store: TimeStore
) -> dict[str, float]:
    """Milliseconds of each of `forms`, from `store` where they were measured before."""
    return remembered(f"{type(layer).__name__} {signature(layer)}", forms, example, runtime, threads, store)


def signature(layer: nn.Module) -> str:
    """What a layer computes with, without where it stands: layers with the same one take the same time."""
    if isinstance(layer, Branches):
        return " + ".join(signature(conv) for conv in layer.convs)
    if isinstance(layer, ConvOp):
        return str(layer.signature())
    return str(Signature(type(layer), ConvSpec.of(layer))) if isinstance(layer, nn.Conv2d) else layer.extra_repr()
