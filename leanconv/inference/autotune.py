"""Find the fastest form of a layer on this device: measure once, and remember the times."""

from __future__ import annotations

from torch import Tensor, nn

from leanconv.core.operator import ConvOp, Forms, Signature
from leanconv.core.spec import ConvSpec
from leanconv.inference.merge import Branches
from leanconv.timing.modules import remembered
from leanconv.timing.store import TimeStore


def times_of(
    layer: nn.Module, forms: Forms, example: Tensor, runtime: str, threads: int, store: TimeStore, normed: bool = False
) -> dict[str, float]:
    """Milliseconds for one call of each of `forms`, from `store` if they were measured before.

    Args:
        layer: the layer, whose type and settings are part of the store's key.
        forms: name -> the function that builds the form.
        example: an input of the layer.
        runtime: one of `leanconv.timing.runtimes.RUNTIMES`.
        threads: CPU threads.
        store: earlier times; new times are added.
        normed: whether the forms hold a normalisation layer that follows the layer, which is part of the key too.
    """
    return remembered(f"{type(layer).__name__} {signature(layer, normed)}", forms, example, runtime, threads, store)


def signature(layer: nn.Module, normed: bool = False) -> str:
    """The layer's type and settings as text, without its place in the network; equal texts mean equal times.

    Args:
        layer: the layer.
        normed: whether a normalisation layer behind it belongs to it. Branches have their own.

    >>> signature(nn.ReLU(inplace=True)), signature(nn.ReLU(inplace=True), normed=True)
    ('inplace=True', 'inplace=True, normed')
    """
    if isinstance(layer, Branches):
        pairs = zip(layer.convs, layer.norms, strict=True)
        return " + ".join(signature(conv, len(norms) > 0) for conv, norms in pairs)  # type: ignore[arg-type]
    return _settings(layer) + (", normed" if normed else "")


def _settings(layer: nn.Module) -> str:
    if isinstance(layer, ConvOp):
        return str(layer.signature())
    return str(Signature(type(layer), ConvSpec.of(layer))) if isinstance(layer, nn.Conv2d) else layer.extra_repr()
