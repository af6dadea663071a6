"""How the papers counted. leanconv's own figures are plain MACs; each convention here is only for comparing with print.

Every function takes what `counted` gives and returns a number of parameters or operations for one image.
"""

from __future__ import annotations

import fnmatch
from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import nn

from leanconv.core.count import unique
from leanconv.core.notes import input_size_of
from leanconv.models.create import create_model
from leanconv.papers.tally import Tally, tally

NORMS = (nn.modules.batchnorm._BatchNorm, nn.LayerNorm, nn.GroupNorm)


@dataclass(frozen=True)
class Counted:
    """A network without weights, and what it does for one image."""

    model: nn.Module
    tally: Tally


Measure = Callable[[Counted], float]


def counted(name: str, settings: dict[str, object]) -> Counted:
    """Build a network by name on the meta device and count it at the image size it was made for."""
    with torch.device("meta"):
        model = create_model(name, **settings)  # type: ignore[arg-type]
    size = input_size_of(model)
    assert size is not None, name
    return Counted(model, tally(model, size))


def params(c: Counted) -> float:
    """All parameters, each tensor once."""
    return sum(p.numel() for p in c.model.parameters())


def conv_params(c: Counted) -> float:
    """|Wconv| of ShardNet: weights and biases of convolutions; no norms, no fully connected layers."""
    return params(c) - _of_modules(c.model, (*NORMS, nn.Linear))


def conv_and_fc_params(c: Counted) -> float:
    """As `conv_params`, with the fully connected layers: what one cell of ShardNet's Table 2 turns out to hold."""
    return params(c) - _of_modules(c.model, NORMS)


def _of_modules(model: nn.Module, kinds: tuple[type[nn.Module], ...]) -> int:
    found = [p for module in model.modules() if isinstance(module, kinds) for p in module.parameters(recurse=False)]
    return sum(p.numel() for p in unique(list(found)))


def params_of(glob: str) -> Measure:
    """Parameters under the dotted names that match, such as those of attention blocks."""

    def params_of_named(c: Counted) -> float:
        found = [p for name, p in c.model.named_parameters() if fnmatch.fnmatchcase(name, glob)]
        return sum(p.numel() for p in unique(list(found)))

    return params_of_named


def macs(c: Counted) -> float:
    """Multiply-adds of convolutions, fully connected layers and matrix products; what leanconv prints everywhere."""
    t = c.tally
    return t.conv_macs + t.linear_macs + t.matmul_macs


def macs_doubled(c: Counted) -> float:
    """Two operations for each multiply-add."""
    return 2 * macs(c)


def ptflops(c: Counted) -> float:
    """As ptflops counts: MACs, one for each bias, two for each norm's element, one for each ReLU's and pool's."""
    t = c.tally
    return macs(c) + t.conv_biases + t.linear_biases + 2 * t.norm_elements + t.relu_elements + t.pool_inputs


def ptflops_doubled(c: Counted) -> float:
    """Twice the ptflops figure: the "FLOPs" of the filter-basis paper."""
    return 2 * ptflops(c)


def ptflops_without_relu(c: Counted) -> float:
    """ptflops on a network whose ReLUs are function calls, which it does not see: the filter bases' release."""
    return ptflops(c) - c.tally.relu_elements


def ptflops_without_relu_doubled(c: Counted) -> float:
    """Twice the former."""
    return 2 * ptflops_without_relu(c)


def early_thop(c: Counted) -> float:
    """As thop counted in 2019 (SPConv): a MAC and a bias are one each, a norm's element four, a global average over K pixels
    K + 1, a k x k average k + 1, a fully connected output twice its inputs less one; ReLU, softmax and max-pools nothing."""
    t = c.tally
    linear = 2 * t.linear_macs - t.linear_outputs
    return t.conv_macs + t.conv_biases + t.matmul_macs + 4 * t.norm_elements + t.pool_sums + t.gate_sums + linear
