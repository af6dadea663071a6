"""Find values that no trained network holds: NaN, infinity and negative variances."""

from __future__ import annotations

import warnings
from collections.abc import Mapping

import torch
from torch import Tensor

from leanconv.core.errors import LeanconvWarning

VARIANCE = "running_var"


def bad_values(tensors: Mapping[str, Tensor]) -> str | None:
    """What is wrong with the first tensor that makes the network output NaN; None if all are fine.

    NaN is always wrong, and so is a negative variance of a normalisation layer. Infinity is wrong, except in buffers such as
    attention masks.

    >>> bad_values({"fc.weight": torch.tensor([1.0, float("nan")])})
    "'fc.weight' holds NaN"
    """
    real = {name: t for name, t in tensors.items() if t.is_floating_point() and not t.is_meta and t.numel()}
    if not real or _healthy(real):
        return None
    for name, tensor in real.items():
        if tensor.isnan().any():
            return f"{name!r} holds NaN"
        if name.endswith(VARIANCE) and (tensor < 0).any():
            return f"{name!r} holds a negative variance"
        mask = tensor.isinf()
        if mask.any() and (name.endswith(("weight", "bias", "running_mean", VARIANCE)) or mask.all()):
            return f"{name!r} holds infinity"
    return None


def _healthy(tensors: Mapping[str, Tensor]) -> bool:
    """Whether all sums are finite and no variance is negative: one pass over the tensors, and one answer for all."""
    sums = [tensor.sum(dtype=torch.float32).cpu() for tensor in tensors.values()]
    least = [tensor.min().float().cpu() for name, tensor in tensors.items() if name.endswith(VARIANCE)]
    return bool(torch.stack(sums).isfinite().all()) and (not least or bool(torch.stack(least).min() >= 0))


def warn_of_bad_values(tensors: Mapping[str, Tensor], file: str) -> None:
    """Warn if `bad_values` finds something in the tensors that were read from `file`."""
    with torch.no_grad():
        found = bad_values(tensors)
    if found is not None:
        warnings.warn(
            f"{file}: {found}; the network will output NaN; take an earlier checkpoint", LeanconvWarning, stacklevel=3
        )
