"""Exactly equal ways to compute what an operator computes in eval: its own, and those that every operator has.

A form is an ordinary module for inference. Each takes in the norm that stands behind the operator, if there is one.
"""

from __future__ import annotations

from torch import nn

from leanconv.core.affine import Affine, conv_of, folded, with_affine
from leanconv.core.operator import ConvOp, Forms, LinearOp
from leanconv.core.sharing import borrowed


def forms_of(op: ConvOp, affine: Affine | None = None) -> Forms:
    """name -> what builds the form; the first is the one to take where nothing was measured.

    Args:
        op: in eval mode.
        affine: the norm behind it.
    """
    forms = op.inference_forms(affine) if _are_its_own(type(op)) else {}
    if isinstance(op, LinearOp):
        dense = op

        def plain() -> nn.Module:
            return conv_of(dense.spec, *folded(dense.weight_dense(), dense.bias_dense(), affine))

        forms.setdefault("dense", plain)
    if not any(True for _ in borrowed(op)):  # what borrows its weight cannot be moved on its own
        forms["module"] = lambda: with_affine(op, affine)
    return forms


def _are_its_own(kind: type[ConvOp]) -> bool:
    """Whether the class that gave the forms also says what is computed, or a subclass of that one does."""
    order = kind.__mro__

    def depth(name: str) -> int:
        return next((place for place, base in enumerate(order) if name in vars(base)), len(order))

    return depth("inference_forms") <= min(map(depth, ("forward", "convolve", "weight_dense")))
