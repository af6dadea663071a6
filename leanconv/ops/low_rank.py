"""Low-rank fits of the filters of several layers: components that all share, and some of each layer's own."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor


def top_rows(matrix: Tensor, rank: int, beside: Tensor | None = None) -> Tensor:
    """The `rank` leading right singular vectors as rows.

    Where the matrix has fewer rows than that, random directions orthogonal to them and to the rows of `beside` fill up, so
    that training can use them: a zero filter with zero coefficients would never get a gradient.
    """
    _, _, vh = torch.linalg.svd(matrix, full_matrices=False)
    rows = vh[:rank]
    if len(rows) == rank:
        return rows
    taken = rows if beside is None else torch.cat([rows, beside])
    generator = torch.Generator().manual_seed(0)
    random = torch.randn(rank - len(rows), matrix.shape[1], generator=generator, dtype=matrix.dtype).to(matrix.device)
    for _ in range(2):  # once more, for what rounding left
        random = random - random @ taken.T @ taken
    return torch.cat([rows, torch.linalg.qr(random.T).Q.T])


def fit_bases(
    dense: Sequence[Tensor], shared: int, unique: int, sweeps: int = 10, tolerance: float = 1e-7
) -> tuple[Tensor, list[Tensor]]:
    """Orthonormal components with a small sum over layers of ||A_i - A_i P_i||_F^2, P_i onto [unique_i, shared].

    With only shared or only unique components this is a truncated SVD, and optimal (Eckart-Young). With both there is
    no closed form: two steps alternate, each optimal in what it sets, so that the error never rises: the shared
    components for what the unique ones leave, then each layer's unique ones. The better of two starts counts: the
    greedy one (shared components first), and the directions that most layers' own best subspaces have in common,
    which finds the components of a network that is lean already.

    Args:
        dense: A_i, one (out, in * kh * kw) matrix a layer.

    Returns:
        shared components (shared, F), and unique ones (unique, F) for each layer, orthogonal to the shared.
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
    """(error, shared, unique components) after alternating from a start for the shared ones."""

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
