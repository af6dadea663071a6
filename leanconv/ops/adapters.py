"""The fit of one shared weight and a low-rank correction of it for each layer."""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from leanconv.core.moments import Moments, by_group, solved, with_bias
from leanconv.ops.least_squares import leading, principal, squared

SWEEPS = 50  # the most alternations
ENOUGH = 1e-7  # a sweep that gains less than this part of the weights' sum of squares ends the fit


def fit_adapters(dense: Sequence[Tensor], rank: int) -> tuple[Tensor, list[tuple[Tensor, Tensor]]]:
    """A shared matrix T and factors (A_i, B_i) of rank `rank`, with a small sum over layers of ||W_i - T - B_i A_i||_F^2.

    T and the corrections alternate, and each step is optimal, so the error never rises. T is solved for together with the
    A_i, for given column spaces of the B_i. There are two starts, and the better result is returned. One is the mean of
    the W_i. The other finds the column space of B_i as what W_i - W_j has in common for several j; it is exact if the
    layers are a shared matrix and corrections, and it is the optimum for two layers.

    Args:
        dense: W_i, one (g, O, F) for each layer.
        rank: 0 for the shared matrix alone, which is then the mean.

    Returns:
        T (g, O, F), and for each layer A (g, rank, F) and B (g, O, rank).

    >>> layers = [torch.diag(torch.tensor([3.0, 0, 0]))[None], torch.diag(torch.tensor([0, 5.0, 0]))[None]]
    >>> shared, (first, second) = fit_adapters(layers, 1)
    >>> torch.allclose(shared + first[1] @ first[0], layers[0], atol=1e-5)
    True
    """
    if rank == 0:
        return torch.stack(list(dense)).mean(0), []
    wide = dense[0].shape[2] > dense[0].shape[1] < 3 * rank
    layers = [w.mT for w in dense] if wide else list(dense)  # on the longer side, the spaces of three layers differ
    mean = torch.stack(layers).mean(0)
    starts = [[principal(w - mean, None, rank) for w in layers]]
    if len(layers) > 1:
        starts.append(_common_spaces(layers, rank))
    _, shared = min((_alternate(layers, spaces) for spaces in starts), key=lambda found: found[0])
    shared = shared.mT if wide else shared
    return shared, [_factors(w - shared, None, rank) for w in dense]


def _factors(missing: Tensor, metric: Tensor | None, rank: int) -> tuple[Tensor, Tensor]:
    """The factors (A, B) of the matrix of rank `rank` that is nearest to `missing`; B has orthonormal columns."""
    u = principal(missing, metric, rank)
    return u.mT @ missing, u


def _common_spaces(layers: Sequence[Tensor], rank: int) -> list[Tensor]:
    """For each layer, the directions (g, O, rank) that its differences from up to three other layers have in common."""
    n, most = len(layers), min(2 * rank, layers[0].shape[1])
    if n == 2:  # the one difference holds both spaces
        both = principal(layers[0] - layers[1], None, most)
        return [both[..., :rank], both[..., -rank:]]
    spaces = []
    for i, layer in enumerate(layers):
        others = [layers[(i + step) % n] for step in range(1, min(n, 4))]
        found = [principal(layer - other, None, most) for other in others]
        spaces.append(leading(torch.stack([u @ u.mT for u in found]).sum(0), rank))
    return spaces


def _alternate(layers: Sequence[Tensor], spaces: list[Tensor]) -> tuple[float, Tensor]:
    """(error, shared matrix) after alternating from the column spaces of the corrections."""
    total = sum(float(w.square().sum()) for w in layers)
    mean, rank = torch.stack(list(layers)).mean(0), spaces[0].shape[2]
    error, best = math.inf, mean
    for _ in range(SWEEPS):
        outside = [torch.eye(u.shape[1], dtype=u.dtype, device=u.device) - u @ u.mT for u in spaces]
        left = torch.stack(outside).sum(0)
        right = torch.stack([p @ (w - mean) for p, w in zip(outside, layers, strict=True)]).sum(0)
        # in directions that all corrections have, the shared matrix stays the mean
        shared = mean + torch.linalg.pinv(left, hermitian=True) @ right
        spaces = [principal(w - shared, None, rank) for w in layers]
        missing = [w - shared - u @ (u.mT @ (w - shared)) for w, u in zip(layers, spaces, strict=True)]
        found = sum(float(m.square().sum()) for m in missing)
        gain = error - found
        if gain > 0:
            error, best = found, shared
        if gain <= ENOUGH * total:
            break
    return error, best


class _Layer:
    """One layer of a weighted fit: its weight with the bias as the last column, and the moments of its inputs with a 1 behind."""

    def __init__(self, conv: nn.Conv2d, moments: Moments) -> None:
        bias = conv.bias is not None
        self.whole, self.wide = with_bias(conv), moments.augmented(bias)
        self.metric = moments.metric(False)
        self.inputs = self.metric.shape[2]
        self.slope = solved(moments.mean.double()[:, None], self.metric) if bias else None

    def correction(self, shared: Tensor, rank: int) -> tuple[Tensor, Tensor]:
        """The best factors (A, B) beside `shared`. They also make up for the bias, as far as the mean input allows."""
        missing = self.whole - shared
        weight = missing[..., : self.inputs]
        if self.slope is not None:
            weight = weight + missing[..., self.inputs :] @ self.slope
        return _factors(weight, self.metric, rank)

    def rest(self, factors: tuple[Tensor, Tensor]) -> Tensor:
        """What the shared weight and bias should be, in this layer, beside a correction."""
        a, b = factors
        return self.whole - F.pad(b @ a, (0, self.whole.shape[2] - self.inputs))


def fit_adapters_to_outputs(
    convs: Sequence[nn.Conv2d], stats: Sequence[Moments], rank: int
) -> tuple[Tensor, list[tuple[Tensor, Tensor]]]:
    """As `fit_adapters`, with a small sum over layers of the mean squared differences of the outputs.

        T = (sum over i of (W_i - B_i A_i) S_i) (sum over i of S_i)^-1

    and B_i A_i is U U^T (W_i - T), U the leading eigenvectors of (W_i - T) S_i (W_i - T)^T. The two alternate, from the
    corrections of `fit_adapters` and from none. With rank 0, the first equation is the optimum. A shared bias is one more
    column of T, for an input that is always 1.

    Args:
        convs: the layers, all with a bias or all without.
        stats: the moments of their inputs.

    Returns:
        T with the shared bias as its last column, (g, O, F + 1), or (g, O, F) without biases; and the factors (A, B) of each
        layer.
    """
    layers = [_Layer(conv, moments) for conv, moments in zip(convs, stats, strict=True)]
    wholes = [layer.whole for layer in layers]
    if rank == 0:
        return _solved(layers, wholes), []
    nearest = fit_adapters([by_group(conv.weight, conv.groups) for conv in convs], rank)[1]
    rests = [layer.rest(pair) for layer, pair in zip(layers, nearest, strict=True)]
    both = (_alternate_to_outputs(layers, start, rank) for start in (rests, wholes))
    _, shared, factors = min(both, key=lambda found: found[0])
    return shared, factors


def _solved(layers: Sequence[_Layer], rests: Sequence[Tensor]) -> Tensor:
    """The shared weight and bias with the least error, if `rests` are what they should be in each layer."""
    right = torch.stack([rest @ layer.wide for layer, rest in zip(layers, rests, strict=True)]).sum(0)
    return solved(right, torch.stack([layer.wide for layer in layers]).sum(0))


def _alternate_to_outputs(
    layers: Sequence[_Layer], rests: Sequence[Tensor], rank: int
) -> tuple[float, Tensor, list[tuple[Tensor, Tensor]]]:
    """(error, shared weight and bias, corrections) after alternating, with momentum (Nesterov) as long as the error falls."""
    ahead = before = _solved(layers, rests)
    best: tuple[float, Tensor, list[tuple[Tensor, Tensor]]] = (math.inf, ahead, [])
    steps = 0
    for _ in range(SWEEPS):
        factors = [layer.correction(ahead, rank) for layer in layers]
        rests = [layer.rest(pair) for layer, pair in zip(layers, factors, strict=True)]
        shared = _solved(layers, rests)
        error = sum(squared(rest - shared, layer.wide) for layer, rest in zip(layers, rests, strict=True))
        gain = best[0] - error
        if gain > 0:
            best = (error, shared, factors)
        if gain <= ENOUGH * error and (gain > 0 or steps == 0):
            break
        steps = steps + 1 if gain > 0 else 0  # after a rise, again from the best without momentum
        ahead = shared + (steps - 1) / (steps + 2) * (shared - before) if steps else best[1]
        before = shared if steps else best[1]
    return best
