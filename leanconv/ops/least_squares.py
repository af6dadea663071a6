"""Closed forms of the fits: nearest weights in the Frobenius norm, or nearest outputs on inputs with known moments.

All tensors are in float64 and have a leading dimension g, the groups of the convolution. W is (g, O, F): the filters of a
group as rows. A metric M is (g, F, F), and the error of a weight V is sum over g of tr((W - V) M (W - V)^T). With M = E[u u^T]
of the unfolded input u, this is the mean squared difference of the outputs. Without a metric it is the squared Frobenius norm.
"""

from __future__ import annotations

from typing import Protocol

import torch
from torch import Tensor, nn

RIDGE = 1e-6  # part of the mean of the metric's diagonal that is added to the diagonal


class InputMoments(Protocol):
    """The moments of the unfolded input u of a convolution, for each of its groups.

    Attributes:
        second: E[u u^T], (g, F, F).
        mean: E[u], (g, F).
    """

    @property
    def second(self) -> Tensor: ...

    @property
    def mean(self) -> Tensor: ...


def by_group(weight: Tensor, groups: int) -> Tensor:
    """The filters (O, ...) of a convolution in float64, as (g, O / g, F)."""
    return weight.double().flatten(1).unflatten(0, (groups, -1))


def metric_of(moments: InputMoments, *, centred: bool) -> Tensor:
    """The metric of a fit, in float64: the second moment of the input, or its covariance.

    The second moment suits a layer without a bias. With a bias that is free, the best bias is W (mean) + b - V (mean), and
    what remains is the error in the covariance; so the covariance gives the best weights. A small ridge is added, so that
    inputs that never vary are fitted to the dense weights themselves.
    """
    second = moments.second.double()
    if centred:
        mean = moments.mean.double()
        second = second - mean[:, :, None] * mean[:, None]
    diagonal = second.diagonal(dim1=1, dim2=2)
    size = diagonal.mean(1).clamp(min=torch.finfo(torch.float32).tiny)
    return second + torch.diag_embed((RIDGE * size)[:, None].expand_as(diagonal))


def layer_metric(moments: InputMoments | None, conv: nn.Conv2d) -> Tensor | None:
    """The metric for one layer with a bias of its own, or without a bias; None without moments."""
    return None if moments is None else metric_of(moments, centred=conv.bias is not None)


def repaired_bias(conv: nn.Conv2d, fitted: Tensor, moments: InputMoments | None) -> Tensor | None:
    """The bias with which the mean outputs of `fitted` (g, O, F) and of `conv` are equal: b + (W - V) E[u]."""
    if conv.bias is None or moments is None:
        return conv.bias
    missing = (by_group(conv.weight, conv.groups) - fitted) @ moments.mean.double()[:, :, None]
    return conv.bias + missing.flatten().to(conv.bias.dtype)


def energy(matrix: Tensor, metric: Tensor | None) -> Tensor:
    """W M W^T for each group: (g, O, O)."""
    return matrix @ matrix.mT if metric is None else matrix @ metric @ matrix.mT


def leading(gram: Tensor, rank: int) -> Tensor:
    """The eigenvectors of the `rank` largest eigenvalues of symmetric matrices: (g, O, O) -> (g, O, rank), largest first.

    >>> leading(torch.diag(torch.tensor([1.0, 3.0]))[None], 1).abs()
    tensor([[[0.],
             [1.]]])
    """
    return torch.linalg.eigh(gram).eigenvectors[..., -rank:].flip(-1)


def coefficients(target: Tensor, rows: Tensor, metric: Tensor | None) -> Tensor:
    """The coefficients C (g, O, R) with which C @ rows is nearest to `target`: W M R^T (R M R^T)^+.

    Args:
        target: W, (g, O, F).
        rows: R, (g, R, F).
        metric: M, (g, F, F).

    >>> coefficients(torch.tensor([[[2.0, 5.0]]]), torch.tensor([[[1.0, 0.0]]]), None)
    tensor([[[2.]]])
    """
    measured = rows if metric is None else rows @ metric
    return target @ measured.mT @ torch.linalg.pinv(measured @ rows.mT, hermitian=True)


def balanced(first: Tensor, last: Tensor) -> tuple[Tensor, Tensor]:
    """(first, last) with the same product `last @ first`, where row j of `first` is as long as column j of `last`.

    A component whose row or column is zero is not changed.

    Args:
        first: (g, R, F).
        last: (g, O, R).
    """
    rows, columns = first.norm(dim=2), last.norm(dim=1)
    scale = (columns / rows).sqrt()
    scale = torch.where((rows > 0) & (columns > 0), scale, torch.ones_like(scale))
    return first * scale[:, :, None], last / scale[:, None]
