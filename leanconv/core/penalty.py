"""The regularisers that methods bring along."""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor, nn


class PenaltyTerm(NamedTuple):
    """One owner's part in a mean over all owners of the same kind."""

    kind: str
    weight: float
    total: Tensor
    entries: int


def gram_error(rows: Tensor) -> Tensor:
    """||R R^T - I||_F^2 of the rows of a matrix: 0 when they are orthonormal, never below rows - rank."""
    with torch.autocast(rows.device.type, enabled=False):  # a Gram matrix in bf16 is off by more than its error
        rows = rows if rows.dtype == torch.float64 else rows.float()
        gram = rows @ rows.T
        return (gram - torch.eye(len(rows), dtype=gram.dtype, device=gram.device)).square().sum()


def orthonormal(like: Tensor) -> Tensor:
    """A random tensor of this shape whose rows (first dimension) are orthonormal, as far as they fit."""
    return nn.init.orthogonal_(torch.empty(like.shape, device=like.device, dtype=torch.float32))


def penalty(model: nn.Module) -> Tensor:
    """The regularisation loss of the modules that have a ``penalty_terms() -> list[PenaltyTerm]`` method.

    It is the sum over kinds of weight * (sum of totals / sum of entries); zero where there are none.

    A kind is one mean over the entries of **all** its owners, as the filter bases release computes it (the paper's
    eq. 8 prints the plain sum, which is orders of magnitude stronger). Owners with another weight are another kind.
    """
    kinds: dict[tuple[str, float], tuple[Tensor, int]] = {}
    for module in model.modules():
        terms_of = getattr(module, "penalty_terms", None)
        for kind, weight, total, entries in terms_of() if callable(terms_of) else ():
            if (kind, weight) in kinds:
                total_so_far, entries_so_far = kinds[kind, weight]
                total, entries = total_so_far + total, entries_so_far + entries
            kinds[kind, weight] = (total, entries)
    if not kinds:
        parameter = next(model.parameters(), None)
        return torch.zeros((), device=None if parameter is None else parameter.device)
    return torch.stack([weight * total / entries for (_, weight), (total, entries) in kinds.items()]).sum()
