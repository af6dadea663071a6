"""Moments of a layer's inputs, and least squares in the metric that they define."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor, nn

RIDGE = 1e-4  # in units of the mean variance of an input


@dataclass(frozen=True)
class Moments:
    """The first and second moments of the unfolded inputs of one convolution.

    The unfolded input u of one output position are the F = I / groups * kh * kw numbers of one group under the kernel, in the
    order of the weight: channel, row, column. Padding counts as input. So the output of the group is W u + b, with W (o, F).

    Args:
        second: E[u uᵀ], (groups, F, F).
        mean: E[u], (groups, F).
        count: the number of output positions that were averaged.

    A fit minimises E||(W - Ŵ) u + b - b̂||² + ridge ||W - Ŵ||². The ridge is `RIDGE` times the mean of E[u_i²]. It decides
    where the inputs do not: a channel that is always 0 keeps the weights that are nearest to the dense ones. Because of this
    form of the ridge, the exact minimum never has a larger E||...||² than the weights that are nearest to the dense ones, and
    weights that the operator can express are met exactly.

    >>> seen = Moments(torch.eye(4)[None], torch.zeros(1, 4), count=100)
    >>> float(seen.error(torch.ones(2, 4)))
    8.0
    """

    second: Tensor
    mean: Tensor
    count: int

    @property
    def ridge(self) -> Tensor:
        """The weight of ||W - Ŵ||² for each group: (groups). 1 for a group whose inputs are all 0."""
        size = self.second.diagonal(dim1=1, dim2=2).double().mean(1)
        return torch.where(size > 0, RIDGE * size, 1.0)

    def metric(self, bias: bool) -> Tensor:
        """M (groups, F, F) in float64, such that a fit with a free bias for each output minimises tr((W - Ŵ) M (W - Ŵ)ᵀ).

        Args:
            bias: whether the lean layer has a free bias for each output. The best bias repairs the mean of the output (see
                `repaired`), and the covariance of u remains. Without a bias M is E[u uᵀ].
        """
        found = self.second.double()
        if bias:
            mean = self.mean.double()
            found = found - mean[:, :, None] * mean[:, None, :]
        return found + torch.diag_embed(self.ridge[:, None].expand(self.mean.shape))

    def augmented(self, bias: bool) -> Tensor:
        """The metric of [W, b] in float64, for layers that share a bias: (groups, F + 1, F + 1), the moments of [u, 1].

        Without a bias it is `metric(False)`.
        """
        second = self.metric(False)
        if not bias:
            return second
        mean = self.mean.double()
        top = torch.cat([second, mean[:, :, None]], 2)
        one = torch.ones_like(mean[:, :1])
        return torch.cat([top, torch.cat([mean, one], 1)[:, None]], 1)

    def error(self, weight: Tensor, bias: Tensor | None = None) -> Tensor:
        """E||W u + b||², summed over the outputs: of a difference of two layers, the mean squared difference of their outputs.

        Args:
            weight: W, (O, I / groups, kh, kw) or (O, F).
            bias: b, (O).
        """
        groups = len(self.mean)
        rows = by_group(weight, groups)
        total = ((rows @ self.second.double()) * rows).sum()
        if bias is not None:
            shift = bias.double().unflatten(0, (groups, -1))
            total = total + (shift.square() + 2 * shift * (rows @ self.mean.double()[:, :, None])[:, :, 0]).sum()
        return total

    def repaired(self, conv: nn.Conv2d, fitted: Tensor) -> Tensor | None:
        """The bias (O) with which a layer of weight `fitted` has the mean output of `conv`; None if `conv` has no bias."""
        if conv.bias is None:
            return None
        return conv.bias + (self.mean_of(conv.weight) - self.mean_of(fitted)).to(conv.bias.dtype)

    def mean_of(self, weight: Tensor) -> Tensor:
        """E[W u] for each output, in float64: (O)."""
        return (by_group(weight, len(self.mean)) @ self.mean.double()[:, :, None]).flatten()


def by_group(weight: Tensor, groups: int) -> Tensor:
    """A weight (O, ...) as matrices in float64: (groups, O / groups, F)."""
    return weight.flatten(1).double().unflatten(0, (groups, -1))


def with_bias(conv: nn.Conv2d) -> Tensor:
    """[W, b] of `conv` in float64, or W without a bias: (groups, O / groups, F + 1) or (groups, O / groups, F)."""
    rows = by_group(conv.weight, conv.groups)
    return rows if conv.bias is None else torch.cat([rows, by_group(conv.bias[:, None], conv.groups)], 2)


def solved(right: Tensor, metric: Tensor) -> Tensor:
    """X with X metric = right; `metric` is symmetric and positive semidefinite. The smallest X if there are several.

    >>> solved(torch.tensor([[2.0, 8.0]]), torch.diag(torch.tensor([2.0, 4.0])))
    tensor([[1., 2.]])
    """
    factor, wrong = torch.linalg.cholesky_ex(metric)
    pivots = factor.diagonal(dim1=-2, dim2=-1).square()
    if wrong.any() or (pivots.amin(-1) <= pivots.amax(-1) * metric.shape[-1] * torch.finfo(metric.dtype).eps).any():
        return right @ torch.linalg.pinv(metric, hermitian=True)
    return torch.cholesky_solve(right.mT, factor).mT
