"""Calibration: the norms inside fitted operators get the statistics of real activations."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import torch
from torch import Tensor, nn

from leanconv.core.operator import ConvOp


@torch.no_grad()
def calibrate_(lean: nn.Module, batches: Iterable[Tensor]) -> nn.Module:
    """Set the statistics of every BatchNorm2d inside leanconv's operators to the statistics of `batches`, in place.

    The norms compute the same in eval mode as before: with mean m and variance v of its input, a norm y = a x + b gets
    running_mean m, running_var v, weight a sqrt(v + eps) and bias b + a m. So a network that was converted with
    ``init="fit"`` computes the same in eval mode, and its output does not jump when training starts.

    Args:
        batches: inputs of the model, (N, C, H, W) each; a few hundred images are enough.

    Returns:
        `lean` itself.
    """
    norms = [
        part
        for module in lean.modules()
        if isinstance(module, ConvOp)
        for part in module.modules()
        if isinstance(part, nn.BatchNorm2d) and part.track_running_stats and part.affine
    ]
    sums: dict[int, list[Any]] = {}

    def measure(norm: nn.Module, args: tuple[Tensor, ...]) -> None:
        x = args[0].double().movedim(1, 0).flatten(1)
        entry = sums.setdefault(id(norm), [0, 0.0, 0.0])
        entry[0] += x.shape[1]
        entry[1] = entry[1] + x.sum(1)
        entry[2] = entry[2] + x.square().sum(1)

    hooks = [norm.register_forward_pre_hook(measure) for norm in norms]
    training = {module: module.training for module in lean.modules()}
    try:
        lean.eval()
        for batch in batches:
            lean(batch)
    finally:
        for hook in hooks:
            hook.remove()
        for module, flag in training.items():
            module.training = flag
    for norm in norms:
        if id(norm) not in sums:
            continue
        n, total, squares = sums[id(norm)]
        assert norm.running_mean is not None and norm.running_var is not None
        mean = total / n
        var = (squares / n - mean.square()).clamp(min=0)
        scale = norm.weight * torch.rsqrt(norm.running_var + norm.eps)
        shift = norm.bias - norm.running_mean * scale
        norm.running_mean.copy_(mean)
        norm.running_var.copy_(var)
        norm.weight.copy_(scale * torch.sqrt(norm.running_var + norm.eps))
        norm.bias.copy_(shift + scale * norm.running_mean)
    return lean
