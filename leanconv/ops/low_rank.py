"""Low-rank fits of the filters of several layers: shared components, and unique components of each layer."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from leanconv.ops.least_squares import descended, on_components, principal, squared

Problem = tuple[Tensor, Tensor]  # the weight W (out, F) of a layer, and the metric M (F, F) of its inputs


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


def fit_bases_to_outputs(
    problems: Sequence[Problem], shared: int, unique: int, sweeps: int = 5, tolerance: float = 1e-4
) -> tuple[Tensor, list[Tensor]]:
    """Orthonormal components with a small sum over layers of tr((W_i - Ŵ_i) M_i (W_i - Ŵ_i)ᵀ), as `fit_bases` returns them.

    With only unique components, the result is optimal: Ŵ = U Uᵀ W with the first eigenvectors U of W M Wᵀ. Shared components
    start twice: from `fit_bases`, and from the main directions of the stacked weights in the mean metric of the layers (a
    whitened SVD). Then two steps alternate: the unique components of each layer, exactly, and the shared components, by
    conjugate gradients. The better result is returned. No step increases the error, so the result is never worse than
    `fit_bases` with the best coefficients.

    Args:
        problems: (W_i, M_i) for each layer.
        shared, unique: the numbers of components.
        sweeps: the largest number of alternations.
        tolerance: stop when the error falls by less than this part of itself.

    >>> metric = torch.diag(torch.tensor([1.0, 9.0]))  # the second input varies most
    >>> _, own = fit_bases_to_outputs([(torch.diag(torch.tensor([2.0, 1.0])), metric)], shared=0, unique=1)
    >>> own[0].abs()
    tensor([[0., 1.]])
    """
    width = problems[0][0].shape[1]
    if not shared:
        none = problems[0][0].new_zeros(0, width)
        return none, [_own_components(problem, none, unique) for problem in problems]
    stack, mean = torch.cat([weight for weight, _ in problems]), torch.stack([m for _, m in problems]).mean(0)
    whitened = principal(stack, mean, shared).mT @ stack
    starts = (fit_bases([weight for weight, _ in problems], shared, unique)[0], top_rows(whitened, shared))
    fits = [_alternate_for_outputs(problems, start, unique, sweeps, tolerance) for start in starts]
    _, basis, uniques = min(fits, key=lambda fit: fit[0])
    return basis, uniques


def _own_components(problem: Problem, basis: Tensor, unique: int) -> Tensor:
    """The best unique components of a layer beside the shared ones, orthonormal and orthogonal to these: (unique, F)."""
    weight, metric = problem
    if not unique:
        return basis[:0]
    left = weight - on_components(weight, metric, basis) @ basis if len(basis) else weight
    rows = principal(left, metric, unique).mT @ left
    return top_rows(rows - rows @ basis.mT @ basis, unique, basis)


def _alternate_for_outputs(
    problems: Sequence[Problem], basis: Tensor, unique: int, sweeps: int, tolerance: float
) -> tuple[float, Tensor, list[Tensor]]:
    """(error, shared components, unique components) after alternating from the start `basis` of the shared components."""

    def solution(basis: Tensor) -> tuple[float, list[Tensor], list[Tensor]]:
        """(error, unique components, coefficients of unique and shared components) with these shared components."""
        owns = [_own_components(problem, basis, unique) for problem in problems]
        both = [torch.cat([own, basis]) for own in owns]
        coefficients = [on_components(*problem, components) for problem, components in zip(problems, both, strict=True)]
        error = sum(
            squared(weight - own @ components, metric)
            for (weight, metric), own, components in zip(problems, coefficients, both, strict=True)
        )
        return error, owns, coefficients

    error, owns, coefficients = solution(basis)
    for _ in range(sweeps):
        shares = [found[:, unique:] for found in coefficients]

        def normal(basis: Tensor, shares: list[Tensor] = shares) -> Tensor:
            return sum_of([c.mT @ (c @ basis) @ m for c, (_, m) in zip(shares, problems, strict=True)])

        left = [w - c[:, :unique] @ own for (w, _), c, own in zip(problems, coefficients, owns, strict=True)]
        right = sum_of([c.mT @ rows @ m for c, rows, (_, m) in zip(shares, left, problems, strict=True)])
        moved = top_rows(descended(basis, normal, right, steps=20), len(basis))
        new_error, new_owns, new_coefficients = solution(moved)
        gain = error - new_error
        if gain > 0:
            error, basis, owns, coefficients = new_error, moved, new_owns, new_coefficients
        if gain <= tolerance * error:
            break
    return error, basis, owns


def sum_of(tensors: Sequence[Tensor]) -> Tensor:
    """The sum of tensors of one shape."""
    return torch.stack(list(tensors)).sum(0)
