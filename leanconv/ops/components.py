"""Low-rank fits of the filters of several layers: shared components, and unique components of each layer."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor


def top_rows(matrix: Tensor, rank: int, beside: Tensor | None = None) -> Tensor:
    """The first `rank` right singular vectors of `matrix`, as rows: (rank, F).

    If the matrix has fewer rows than `rank`, random rows are added that are orthogonal to the singular vectors and to
    `beside`. Training can use these rows; a zero filter with zero coefficients would never get a gradient.

    Args:
        matrix: (rows, F).
        beside: orthonormal rows (n, F); None for no rows.

    >>> top_rows(torch.tensor([[3.0, 0.0], [0.0, 1.0]]), 1).abs()
    tensor([[1., 0.]])
    """
    _, _, vh = torch.linalg.svd(matrix, full_matrices=False)
    rows = vh[:rank]
    if len(rows) == rank:
        return rows
    taken = rows if beside is None else torch.cat([rows, beside])
    generator = torch.Generator().manual_seed(0)
    random = torch.randn(rank - len(rows), matrix.shape[1], generator=generator, dtype=matrix.dtype).to(matrix.device)
    for _ in range(2):  # twice, because of rounding
        random = random - random @ taken.T @ taken
    return torch.cat([rows, torch.linalg.qr(random.T).Q.T])


def fit_bases(
    dense: Sequence[Tensor], shared: int, unique: int, sweeps: int = 10, tolerance: float = 1e-7
) -> tuple[Tensor, list[Tensor]]:
    """Orthonormal components with a small sum over layers of ||A_i - A_i P_i||_F^2, P_i the projection to [unique_i, shared].

    With only shared or only unique components, the result is a truncated SVD, which is optimal (Eckart-Young). With both
    there is no closed form, and two steps alternate. The first step fits the shared components to the remainder of the unique
    components. The second step fits the unique components of each layer. Each step is optimal, so the error never rises.
    There are two starts, and the better result is returned. One start fits the shared components first. The other start takes
    the main directions of the best subspaces of all layers, which finds the components of a network that is already lean.

    Args:
        dense: A_i, one (out, in * kh * kw) matrix for each layer.
        shared, unique: the numbers of components.
        sweeps: the largest number of alternations.
        tolerance: stop when the error falls by less than this part of the sum of squares of `dense`.

    Returns:
        shared components (shared, F), and for each layer unique components (unique, F) orthogonal to the shared ones.

    >>> basis, uniques = fit_bases([torch.eye(4), torch.eye(4)], shared=1, unique=2)
    >>> basis.shape, uniques[0].shape
    (torch.Size([1, 4]), torch.Size([2, 4]))
    """
    f = dense[0].shape[1]
    if not shared:
        return dense[0].new_zeros(0, f), [top_rows(a, unique) for a in dense]
    greedy = top_rows(torch.cat(list(dense)), shared)
    if not unique:
        return greedy, [a.new_zeros(0, f) for a in dense]
    common = top_rows(torch.cat([top_rows(a, shared + unique) for a in dense]), shared)
    fits = [_alternate(dense, start, unique, sweeps, tolerance) for start in (greedy, common)]
    _, basis, uniques = min(fits, key=lambda fit: fit[0])
    return basis, uniques


def _alternate(
    dense: Sequence[Tensor], basis: Tensor, unique: int, sweeps: int, tolerance: float
) -> tuple[float, Tensor, list[Tensor]]:
    """(error, shared components, unique components) after alternating from the start `basis` of the shared components."""

    def off(rows: Tensor, components: Tensor) -> Tensor:
        return rows - rows @ components.T @ components

    uniques = [top_rows(off(a, basis), unique, basis) for a in dense]
    error = _error(dense, basis, uniques)
    enough = tolerance * sum(float(a.square().sum()) for a in dense)
    for _ in range(sweeps):
        new_basis = top_rows(torch.cat([off(a, u) for a, u in zip(dense, uniques, strict=True)]), len(basis))
        new_uniques = [top_rows(off(a, new_basis), unique, new_basis) for a in dense]
        new_error = _error(dense, new_basis, new_uniques)
        gain = error - new_error
        if gain > 0:
            error, basis, uniques = new_error, new_basis, new_uniques
        if gain <= enough:
            break
    return error, basis, uniques


def _error(dense: Sequence[Tensor], basis: Tensor, uniques: Sequence[Tensor]) -> float:
    total = 0.0
    for a, own in zip(dense, uniques, strict=True):
        components = torch.cat([own, basis])
        total += float((a - a @ components.T @ components).square().sum())
    return total
