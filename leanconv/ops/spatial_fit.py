"""The fit of two thin convolutions, kh x 1 and then 1 x kw, to the outputs of one convolution."""

from __future__ import annotations

import torch
from torch import Tensor

from leanconv.core.spec import Pair
from leanconv.ops.least_squares import balanced, on_components, principal

SWEEPS = 2  # how often the rows are improved for the columns, and the columns for the rows
STEPS = 10  # of conjugate gradients in a sweep


def spatial_factors(weight: Tensor, metric: Tensor | None, kernel: Pair, rank: int) -> tuple[Tensor, Tensor]:
    """Rows R and columns C with a small tr((W - C o R) M (W - C o R)ᵀ), where (C o R)[o, i, a, b] = sum_r C[o, r, b] R[r, i, a].

    Without a metric it is a truncated SVD of W as an (O kw, I kh) matrix (Jaderberg et al. 2014, scheme 2). With a metric, the
    rows begin with the principal components of the columns' outputs, under the mean of the metrics of single columns. Then
    the columns that are best for the rows (least squares) alternate with better rows for the columns. These have I kh rank
    unknowns, too many for a direct solution, so that a few steps of conjugate gradients are taken.

    Args:
        weight: W, (groups, O, I kh kw).
        metric: M, (groups, I kh kw, I kh kw); None for the identity.
        kernel: (kh, kw).
        rank: of each group.

    Returns:
        the rows (groups, rank, I kh) and the columns (groups, O, rank, kw), of equal norms.
    """
    kh, kw = kernel
    width = weight.shape[2] // (kh * kw)
    matrix = weight.unflatten(2, (width, kh, kw)).permute(0, 1, 4, 2, 3).flatten(3).flatten(1, 2)  # (g, O kw, I kh)
    if metric is None:
        u = principal(matrix, None, rank)
        return _balanced(u.mT @ matrix, u.unflatten(1, (-1, kw)).transpose(2, 3))
    blocks = metric.unflatten(2, (-1, kw)).unflatten(1, (-1, kw))  # (g, I kh, kw, I kh, kw)
    rows = principal(matrix, blocks.diagonal(dim1=2, dim2=4).mean(-1), rank).mT @ matrix
    for _ in range(SWEEPS):
        columns = _best_columns(weight, metric, rows, kw)
        rows = _better_rows(weight, metric, rows, columns)
    return _balanced(rows, _best_columns(weight, metric, rows, kw))


def _best_columns(weight: Tensor, metric: Tensor, rows: Tensor, kw: int) -> Tensor:
    """The columns (g, O, rank, kw) with the least error for these rows."""
    taps = torch.eye(kw, dtype=weight.dtype, device=weight.device)
    placed = torch.einsum("grn,bc->grbnc", rows, taps)  # the rows in each column of the kernel
    return on_components(weight, metric, placed.flatten(3).flatten(1, 2)).unflatten(2, (-1, kw))


def _better_rows(weight: Tensor, metric: Tensor, rows: Tensor, columns: Tensor) -> Tensor:
    """Rows (g, rank, I kh) with a smaller error for orthonormal columns that span the same outputs as these columns."""
    kw = columns.shape[3]
    basis, mixing = torch.linalg.qr(columns.transpose(2, 3).flatten(1, 2))  # (g, O kw, rank)
    across = basis.unflatten(1, (-1, kw)).to(torch.float32)  # (g, O, kw, rank)
    exact = mixing @ rows
    weight, metric, found = (value.to(torch.float32) for value in (weight, metric, exact))

    def dense(r: Tensor) -> Tensor:
        return torch.einsum("gobr,grn->gonb", across, r).flatten(2)

    def seen(w: Tensor) -> Tensor:
        return torch.einsum("gobr,gonb->grn", across, (w @ metric).unflatten(2, (-1, kw)))

    left = seen(weight - dense(found))
    step, length = left, left.square().sum((1, 2), keepdim=True)
    for _ in range(STEPS):
        curved = seen(dense(step))
        size = length / (step * curved).sum((1, 2), keepdim=True).clamp(min=torch.finfo(torch.float32).tiny)
        found, left = found + size * step, left - size * curved
        before, length = length, left.square().sum((1, 2), keepdim=True)
        step = left + length / before.clamp(min=torch.finfo(torch.float32).tiny) * step
    return found.to(rows.dtype)


def _balanced(rows: Tensor, columns: Tensor) -> tuple[Tensor, Tensor]:
    rows, flat = balanced(rows, columns.transpose(2, 3).flatten(1, 2))
    return rows, flat.unflatten(1, (-1, columns.shape[3])).transpose(2, 3)
