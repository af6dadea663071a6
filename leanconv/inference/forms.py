"""The forms of an operator: equal ways to compute it in eval mode, its own forms and the forms that every operator has.

A form is an ordinary module for inference. It includes the normalisation layer after the operator, if there is one.
"""

from __future__ import annotations

from torch import nn

from leanconv.core.affine import Affine, conv_of, folded, with_affine
from leanconv.core.operator import ConvOp, Forms, LinearOp
from leanconv.core.sharing import borrowed


def forms_of(op: ConvOp, affine: Affine | None = None) -> Forms:
    """name -> the function that builds the form; the first form is the default if nothing is measured.

    Args:
        op: the operator, in eval mode.
        affine: the normalisation layer after it.
    """
    forms = op.inference_forms(affine) if _are_its_own(type(op)) else {}
    if isinstance(op, LinearOp):
        dense = op

        def plain() -> nn.Module:
            return conv_of(dense.spec, *folded(dense.weight_dense(), dense.bias_dense(), affine))

        forms.setdefault("dense", plain)
    if not any(True for _ in borrowed(op)):  # an operator that borrows its weight cannot be moved alone
        forms["module"] = lambda: with_affine(op, affine)
    return forms


def _are_its_own(kind: type[ConvOp]) -> bool:
    """Whether the forms come from the class that defines the computation, or from a subclass of this class."""
    order = kind.__mro__

    def depth(name: str) -> int:
        return next((place for place, base in enumerate(order) if name in vars(base)), len(order))

    return depth("inference_forms") <= min(map(depth, ("forward", "convolve", "weight_dense")))
