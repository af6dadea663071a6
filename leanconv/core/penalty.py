"""The regularisation losses of methods."""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor, nn

from leanconv.core.sharing import whole


class PenaltyTerm(NamedTuple):
    """The part of one module in the mean over all modules of the same kind; see `penalty`.

    Args:
        kind: the name of the kind.
        weight: the weight of the mean in the loss.
        total: the sum of this module's entries, a scalar.
        entries: the number of this module's entries.
    """

    kind: str
    weight: float
    total: Tensor
    entries: int


def gram_error(rows: Tensor) -> Tensor:
    """||R R^T - I||_F^2 of a matrix R (rows, F): 0 when the rows are orthonormal, and at least rows - rank.

    >>> gram_error(torch.eye(3))
    tensor(0.)
    """
    gram = gram_of(rows, rows)
    return (gram - torch.eye(len(rows), dtype=gram.dtype, device=gram.device)).square().sum()


def gram_of(rows: Tensor, others: Tensor) -> Tensor:
    """The inner products R Q^T of two matrices (rows, F) and (others, F), in float32 at least.

    >>> gram_of(torch.eye(2), torch.tensor([[3.0, 4.0]]))
    tensor([[3.],
            [4.]])
    """
    rows, others = whole(rows), whole(others)
    with torch.autocast(rows.device.type, enabled=False):  # in bf16, rounding is larger than the error of a penalty
        exact = torch.float64 if rows.dtype == others.dtype == torch.float64 else torch.float32
        return rows.to(exact) @ others.to(exact).T


def orthonormal(like: Tensor) -> Tensor:
    """A random tensor in the shape of `like` whose rows (first dimension) are orthonormal.

    If there are more rows than columns, the columns are orthonormal instead.
    """
    return nn.init.orthogonal_(torch.empty(like.shape, device=like.device, dtype=torch.float32))


def penalty(model: nn.Module) -> Tensor:
    """The regularisation loss of the modules that have a ``penalty_terms() -> list[PenaltyTerm]`` method.

        loss = sum over kinds of weight * (sum of totals / sum of entries)

    The loss is 0 for a model without such modules. A kind is one mean over the entries of **all** its modules, as in the
    release of the filter bases. (Eq. 8 of the paper prints the plain sum, which is orders of magnitude larger.) Modules with
    another weight are another kind.

    Returns:
        a scalar tensor with gradients.

    >>> import leanconv as lc
    >>> penalty(lc.create_model("resnet20"))
    tensor(0.)
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
