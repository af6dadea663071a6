"""Find the fastest form of a layer on this device: measure once, and remember the times."""

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
    """Milliseconds for one call of each of `forms`, from `store` if they were measured before.

    Args:
        layer: the layer, whose type and settings are part of the store's key.
        forms: name -> the function that builds the form.
        example: an input of the layer.
        runtime: one of `leanconv.timing.runtimes.RUNTIMES`.
        threads: CPU threads.
        store: earlier times; new times are added.
    """
    return remembered(f"{type(layer).__name__} {signature(layer)}", forms, example, runtime, threads, store)


def signature(layer: nn.Module) -> str:
    """The layer's type and settings as text, without its place in the network; equal texts mean equal times.

    >>> signature(nn.ReLU(inplace=True))
    'inplace=True'
    """
    if isinstance(layer, Branches):
        return " + ".join(signature(conv) for conv in layer.convs)
    if isinstance(layer, ConvOp):
        return str(layer.signature())
    return str(Signature(type(layer), ConvSpec.of(layer))) if isinstance(layer, nn.Conv2d) else layer.extra_repr()
