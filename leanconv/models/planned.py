"""Build a paper's network from an ordinary network and a plan."""

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
    """Plan and convert `dense` in one step, with fresh weights in the converted convolutions.

    The arguments are those of `leanconv.plan`. The attributes that timm reads (features, classifier, configuration) are kept.
    """
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", LeanconvWarning)  # the docstring and the counts state the cost of the network
        return convert(dense, plan(dense, method, where, exclude=exclude, input_size=input_size))
