"""Exactly equal ways to compute what an operator computes in eval, one file for each operator that has its own.

A form is an ordinary module for inference. Each takes in the norm that stands behind the operator, if there is one.
"""

from __future__ import annotations

from leanconv.core.operator import ConvOp, LinearOp
from leanconv.core.sharing import borrowed
from leanconv.inference.affine import Affine, conv_of, folded, with_affine
from leanconv.inference.forms import grouped, shared_basis, split, tied_block
from leanconv.inference.forms.types import Forms, OwnForms
from leanconv.ops.grouped import GroupedConv2d
from leanconv.ops.shared_basis import SharedBasisConv2d
from leanconv.ops.split import SplitConv2d
from leanconv.ops.tied_block import TiedBlockConv2d

OWN: dict[type[ConvOp], OwnForms] = {
    TiedBlockConv2d: tied_block.forms,
    GroupedConv2d: grouped.forms,
    SharedBasisConv2d: shared_basis.forms,
    SplitConv2d: split.forms,
}


def forms_of(op: ConvOp, affine: Affine | None = None) -> Forms:
    """name -> what builds the form; the first is the one to take where nothing was measured.

    Args:
        op: in eval mode.
        affine: the norm behind it.
    """
    own = OWN.get(type(op))
    forms: Forms = {} if own is None else own(op, affine)
    if isinstance(op, LinearOp):
        dense = op

        def plain() -> object:
            return conv_of(dense.spec, *folded(dense.weight_dense(), dense.bias_dense(), affine))

        forms.setdefault("dense", plain)  # type: ignore[arg-type]
    if not any(True for _ in borrowed(op)):  # what borrows its weight cannot be moved on its own
        forms["module"] = lambda: with_affine(op, affine)
    return forms
