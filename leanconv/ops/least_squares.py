"""Least squares in the metric of a layer's inputs: the steps that the fits of several operators share."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import torch
from torch import Tensor, nn

from leanconv.core.moments import Moments, by_group, solved

Stats = Sequence[Moments] | None


def each(stats: Stats, convs: Sequence[nn.Conv2d]) -> Sequence[Moments | None]:
    """The moments for each convolution; None for each if there are none."""
    return [None] * len(convs) if stats is None else stats


def on_taps(weight: Tensor, metric: Tensor, taps: Tensor) -> Tensor:
    """The filters V (o, taps) on some of the inputs with the least tr((W - Ŵ) M (W - Ŵ)ᵀ): V = (W M)[:, taps] M[taps, taps]⁻¹.

    Args:
        weight: W, (o, F).
        metric: M, (F, F).
        taps: the indices of the inputs that the filters have.

    >>> on_taps(torch.tensor([[1.0, 1.0]]), torch.tensor([[1.0, 0.5], [0.5, 1.0]]), torch.tensor([0]))
    tensor([[1.5000]])
    """
    return solved(weight @ metric[:, taps], metric[taps][:, taps])


def on_components(weight: Tensor, metric: Tensor, components: Tensor) -> Tensor:
    """The coefficients C (o, rank) with the least tr((W - C K) M (W - C K)ᵀ): C = W M Kᵀ (K M Kᵀ)⁻¹.

    Args:
        weight: W, (o, F).
        metric: M, (F, F).
        components: K, (rank, F).
    """
    seen = components @ metric
    return solved(weight @ seen.mT, seen @ components.mT)


def tap_indices(channels: Tensor, taps: Tensor, kernel: int) -> Tensor:
    """The places of some taps of some channels in a flattened filter (channel, tap), channel by channel.

    >>> tap_indices(torch.tensor([0, 2]), torch.tensor([4]), kernel=9)
    tensor([ 4, 22])
    """
    return (channels[:, None] * kernel + taps).flatten()


def principal(weight: Tensor, metric: Tensor, rank: int) -> Tensor:
    """The main directions of the outputs, orthonormal: the first `rank` eigenvectors of W M Wᵀ as columns (o, rank).

    U Uᵀ W with these columns U is the weight of this rank with the least tr((W - Ŵ) M (W - Ŵ)ᵀ) (Eckart & Young 1936).
    """
    _, vectors = torch.linalg.eigh(weight @ metric @ weight.mT)
    return vectors[:, -rank:].flip(1)


def descended(
    start: Tensor,
    normal: Callable[[Tensor], Tensor],
    right: Tensor,
    steps: int = 100,
    tolerance: float = 1e-10,
) -> Tensor:
    """An x near the solution of normal(x) = right, by conjugate gradients from `start`; no step increases the error.

    Args:
        start: the first x.
        normal: the matrix of the normal equations, symmetric and positive semidefinite, as a function.
        right: the right side.
        steps: the largest number of steps.
        tolerance: stop when the residual is less than this part of the right side.
    """
    x = start.clone()
    residual = right - normal(x)
    direction, size = residual.clone(), residual.square().sum()
    enough = tolerance**2 * right.square().sum()
    for _ in range(steps):
        if size <= enough:
            break
        image = normal(direction)
        curvature = (direction * image).sum()
        if curvature <= 0:
            break
        step = size / curvature
        x = x + step * direction
        residual = residual - step * image
        before, size = size, residual.square().sum()
        direction = residual + size / before * direction
    return x


def squared(difference: Tensor, metric: Tensor) -> float:
    """tr(D M Dᵀ), the error of a weight in the metric of its inputs."""
    return float(((difference @ metric) * difference).sum())


def fill_bias(module: nn.Module, conv: nn.Conv2d, fitted: Tensor, moments: Moments | None) -> None:
    """Set the bias of `module`, one for each output, to the dense bias; with moments, to the mean of the dense output."""
    bias = module.bias
    found = conv.bias if moments is None else moments.repaired(conv, fitted)
    if isinstance(bias, Tensor) and found is not None:
        bias.copy_(found)


def metric_of(conv: nn.Conv2d, moments: Moments) -> tuple[Tensor, Tensor]:
    """(W, M) of a layer without groups of its own, with or without a bias for each output: (groups, o, F), (groups, F, F)."""
    return by_group(conv.weight, conv.groups), moments.metric(conv.bias is not None)
