"""Numbers that no trained network holds."""

from __future__ import annotations

import warnings
from collections.abc import Mapping

import torch
from torch import Tensor

from leanconv.core.errors import LeanconvWarning


def bad_values(tensors: Mapping[str, Tensor]) -> str | None:
    """What is wrong with the first of these tensors that computes NaN; None where none does.

    NaN anywhere, a negative variance of a norm, and infinity but for buffers such as masks of attention.
    """
    for name, tensor in tensors.items():
        if not tensor.is_floating_point() or tensor.is_meta:
            continue
        variance = name.endswith("running_var")
        if not variance and bool(tensor.sum(dtype=torch.float32).isfinite()):
            continue  # one pass over healthy weights
        if tensor.isnan().any():
            return f"{name!r} holds NaN"
        if variance and (tensor < 0).any():
            return f"{name!r} holds a negative variance"
        mask = tensor.isinf()
        if mask.any() and (name.endswith(("weight", "bias", "running_mean", "running_var")) or mask.all()):
            return f"{name!r} holds infinity"
    return None


def warn_of_bad_values(tensors: Mapping[str, Tensor], file: str) -> None:
    """Warn where `bad_values` finds something in what was read from `file`."""
    with torch.no_grad():
        found = bad_values(tensors)
    if found is not None:
        warnings.warn(
            f"{file}: {found}; the network will answer NaN: take an earlier checkpoint", LeanconvWarning, stacklevel=3
        )
