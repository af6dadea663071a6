"""The fits of a split convolution to the weights and to the outputs of a dense convolution."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn

from leanconv.core.moments import Moments
from leanconv.core.spec import ConvSpec
from leanconv.ops.least_squares import on_components

SplitConv2d = Any  # `leanconv.ops.split.SplitConv2d`, whose file imports this one


def fit_weights_(module: SplitConv2d, conv: nn.Conv2d) -> None:
    """Fit both branches to the dense weights, for a gate of 1/2; the norms become the identity in eval mode."""
    spec, used, groups = module.spec, module.used, module.grouped.groups
    gated = module.redundant is not None and bool(module.fusion)
    weight = conv.weight * (2 if gated else 1)
    module.grouped.weight.copy_(_diagonal_blocks(weight[:, :used], groups))
    if module.point is not None and module.chained:
        nn.init.dirac_(module.point.weight)
    elif module.point is not None:
        cheap = _pooled_tap(weight[:, :used], spec)
        for g in range(groups):  # the 1x1 is zero at the weights of the grouped convolution
            rows, columns = cheap.shape[0] // groups, cheap.shape[1] // groups
            cheap[g * rows : (g + 1) * rows, g * columns : (g + 1) * columns] = 0
        module.point.weight.copy_(cheap[:, :, None, None])
    if module.redundant is not None:
        module.redundant.weight.copy_(_pooled_tap(weight[:, used:], spec)[:, :, None, None])
        assert module.redundant.bias is not None
        module.redundant.bias.zero_()
    norms = [norm for norm in (module.norm3, module.norm1) if norm is not None]
    for norm in norms:
        norm.reset_parameters()
        norm.weight.fill_((1 + norm.eps) ** 0.5)  # in eval mode x / sqrt(1 + eps) * weight = x
        if conv.bias is not None:
            norm.bias.copy_(conv.bias if gated or len(norms) == 1 else conv.bias / 2)


def fit_branches_(module: SplitConv2d, conv: nn.Conv2d, moments: Moments) -> None:
    """Fit both branches together by least squares, for a gate of 1/2, and set the norms so that the gate is 1/2 on average.

    `module` has its fit to the dense weights. Each branch gets the mean of the dense output, so that the gate, a sigmoid of
    the difference of their averages, is near 1/2. Where the pooled pixels are not all under the kernel, `moments` do not
    describe the branches, and the fit to the weights stays.
    """
    taps = _pooled_taps(module)
    if taps is None:
        return
    weight, metric = conv.weight.flatten(1).double(), moments.metric(True)[0]
    kernel, used = module.kernel_size[0] * module.kernel_size[1], module.used
    gated = module.redundant is not None and bool(module.fusion)
    factor = 2 if gated else 1  # each branch counts half
    every = torch.eye(used * kernel, used * kernel, dtype=metric.dtype, device=metric.device)
    every = nn.functional.pad(every, (0, metric.shape[1] - used * kernel)).unflatten(0, (used, kernel))
    averages = _averages(module.in_channels, kernel, taps, metric)
    redundant = averages[used:] if module.redundant is not None else averages[:0]
    groups, beside = module.grouped.groups, module.point is not None and not module.chained
    size, rows = used // groups, module.out_channels // groups
    first, second = torch.zeros_like(weight), torch.zeros_like(weight)  # the dense weights of the two branches
    for g in range(groups):
        own = slice(g * size, (g + 1) * size)
        others = [c for c in range(used) if beside and not own.start <= c < own.stop]
        parts = [every[own].flatten(0, 1), averages[others], redundant]
        out = slice(g * rows, (g + 1) * rows)
        found = on_components(weight[out], metric, torch.cat(parts)).split([len(part) for part in parts], 1)
        module.grouped.weight[out].copy_(factor * found[0].view(rows, size, *module.kernel_size))
        if beside:
            assert module.point is not None
            module.point.weight[out][:, others] = factor * found[1].to(module.point.weight)[:, :, None, None]
        if module.redundant is not None:
            module.redundant.weight[out].copy_(factor * found[2][:, :, None, None])
        first[out] = factor * (found[0] @ parts[0] + found[1] @ parts[1])
        second[out] = factor * (found[2] @ redundant)
    if module.chained:
        first, second = _mix_(module, weight, metric, first, redundant, factor)
    wanted = moments.mean_of(conv.weight) + (0 if conv.bias is None else conv.bias.double())
    before, beside_it = moments.mean_of(first), moments.mean_of(second)
    module.norm3.bias.copy_(wanted - before if gated else wanted - before - beside_it)
    if gated and module.fusion == "static":  # which is read from the biases, so the means of the branches go elsewhere
        for norm, mean in ((module.norm3, before), (module.norm1, beside_it)):
            norm.running_mean.copy_(mean)
            norm.bias.copy_(wanted)
    elif module.norm1 is not None:
        module.norm1.bias.copy_(wanted - beside_it if gated else torch.zeros_like(wanted))


def _pooled_taps(module: SplitConv2d) -> list[int] | None:
    """The taps of the kernel under the pixels that the 1x1 convolutions average; None if some are not under the kernel."""
    rows, columns = _under(module.spec)
    whole = (len(rows), len(columns)) == module.spec.stride
    return [i * module.spec.kernel_size[1] + j for i in rows for j in columns] if whole else None


def _under(spec: ConvSpec) -> tuple[list[int], list[int]]:
    """The rows and the columns of the kernel that lie on the pixels (0..sh-1, 0..sw-1) of each stride."""
    left, _, top, _ = spec.pads
    (kh, kw), (dh, dw), (sh, sw) = spec.kernel_size, spec.dilation, spec.stride
    rows = [i for i in range(kh) if 0 <= i * dh - top < sh]
    columns = [j for j in range(kw) if 0 <= j * dw - left < sw]
    return rows, columns


def _averages(channels: int, kernel: int, taps: list[int], like: Tensor) -> Tensor:
    """The average over the pooled pixels of each channel, as rows on the unfolded input: (I, I k)."""
    one = torch.zeros(kernel, dtype=like.dtype, device=like.device)
    one[taps] = 1 / len(taps)
    return torch.kron(torch.eye(channels, dtype=like.dtype, device=like.device), one[None])


def _mix_(
    module: SplitConv2d, weight: Tensor, metric: Tensor, first: Tensor, redundant: Tensor, factor: int
) -> tuple[Tensor, Tensor]:
    """Fit the 1x1 convolution behind the grouped convolution, and the redundant one again; the weights of the branches."""
    assert module.point is not None
    found = on_components(weight, metric, torch.cat([first / factor, redundant]))
    mix, rest = found[:, : len(first)], found[:, len(first) :]
    module.point.weight.copy_(mix[:, :, None, None])
    if module.redundant is not None:
        module.redundant.weight.copy_(factor * rest[:, :, None, None])
    return mix @ first, factor * (rest @ redundant)


def _diagonal_blocks(weight: Tensor, groups: int) -> Tensor:
    """The diagonal blocks of a dense weight, which are the weight of a grouped convolution."""
    blocks = weight.unflatten(1, (groups, -1)).unflatten(0, (groups, -1))  # (g, o, g, i, kh, kw)
    return blocks.diagonal(dim1=0, dim2=2).movedim(-1, 0).flatten(0, 1)


def _pooled_tap(weight: Tensor, spec: ConvSpec) -> Tensor:
    """The 1x1 weight on the average over each stride's pixels that is nearest to a k x k convolution.

    The average has weight 1 / (sh sw) on the pixels (0..sh-1, 0..sw-1). The least-squares solution is the sum of the kernel's
    taps at these pixels.
    """
    rows, columns = _under(spec)
    return weight[:, :, rows][:, :, :, columns].sum((2, 3))
