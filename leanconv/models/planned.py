"""A paper's network as an ordinary network and a plan."""

from __future__ import annotations

import warnings
from collections.abc import Sequence

from torch import nn

from leanconv.conversion.apply import convert
from leanconv.conversion.plan import Rule, Where, plan
from leanconv.core.errors import LeanconvWarning
from leanconv.core.meta import InputSize
from leanconv.core.method import Method


def converted(
    dense: nn.Module,
    method: Method | Sequence[Rule],
    where: Where = "*",
    *,
    exclude: Where = (),
    input_size: InputSize | None = None,
) -> nn.Module:
    """`dense` with new weights in the convolutions that the rules name; it carries the plan.

    The arguments are those of `leanconv.plan`. What timm reads off a network (its features, its classifier, its
    configuration) is kept.
    """
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", LeanconvWarning)  # what a paper's network costs is in its docstring and counts
        return convert(dense, plan(dense, method, where, exclude=exclude, input_size=input_size))
