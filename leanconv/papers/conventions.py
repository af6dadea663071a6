"""The ways in which the papers count. leanconv's own figures are plain MACs; these conventions only serve the comparison.

Every function takes the result of `counted`, and returns a number of parameters, or of operations for one image.
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
from leanconv.search.pruning import prune

NORMS = (nn.modules.batchnorm._BatchNorm, nn.LayerNorm, nn.GroupNorm)


@dataclass(frozen=True)
class Counted:
    """A network without weights, and its counts for one image.

    Args:
        model: on the meta device.
        tally: the counts of one forward pass.
    """

    model: nn.Module
    tally: Tally


Measure = Callable[[Counted], float]


def counted(name: str, settings: dict[str, object], kept_macs: float | None = None) -> Counted:
    """Build a network by name on the meta device, and count it at the image size that it was designed for.

    >>> c = counted("resnet20", {})
    >>> params(c), macs(c)
    (272474, 40813184)

    Args:
        name, settings: for `leanconv.create_model`.
        kept_macs: prune it to this share of its MACs first, with the same share of channels in every layer; the counts do not
            depend on the weights.
    """
    with torch.device("meta" if kept_macs is None else "cpu"):  # pruning compares weights
        model = create_model(name, **settings)  # type: ignore[arg-type]
    if kept_macs is not None:
        model = prune(model, kept_macs, align=1).to("meta")
    size = input_size_of(model)
    assert size is not None, name
    return Counted(model, tally(model, size))


def params(c: Counted) -> float:
    """All parameters; each shared tensor counts once."""
    return sum(p.numel() for p in c.model.parameters())


def conv_params(c: Counted) -> float:
    """|Wconv| of ShardNet: weights and biases of convolutions, without normalisation and fully connected layers."""
    return params(c) - _of_modules(c.model, (*NORMS, nn.Linear))


def conv_and_fc_params(c: Counted) -> float:
    """`conv_params` and the fully connected layers. One cell of ShardNet's Table 2 is counted in this way."""
    return params(c) - _of_modules(c.model, NORMS)


def _of_modules(model: nn.Module, kinds: tuple[type[nn.Module], ...]) -> int:
    found = [p for module in model.modules() if isinstance(module, kinds) for p in module.parameters(recurse=False)]
    return sum(p.numel() for p in unique(list(found)))


def params_of(glob: str) -> Measure:
    """A measure that counts the parameters whose dotted name matches a glob.

    >>> params_of("fc.*")(counted("resnet20", {}))
    650
    """

    def params_of_named(c: Counted) -> float:
        found = [p for name, p in c.model.named_parameters() if fnmatch.fnmatchcase(name, glob)]
        return sum(p.numel() for p in unique(list(found)))

    return params_of_named


def macs(c: Counted) -> float:
    """Multiply-adds of convolutions, fully connected layers and matrix products. leanconv prints this measure everywhere."""
    t = c.tally
    return t.conv_macs + t.linear_macs + t.matmul_macs


def macs_doubled(c: Counted) -> float:
    """Two operations for each multiply-add."""
    return 2 * macs(c)


def ptflops(c: Counted) -> float:
    """The count of ptflops: MACs, plus 1 for each bias, 2 for each output element of a normalisation layer, 1 for each output
    element of a ReLU, and 1 for each input element of a pool."""
    t = c.tally
    return macs(c) + t.conv_biases + t.linear_biases + 2 * t.norm_elements + t.relu_elements + t.pool_inputs


def ptflops_doubled(c: Counted) -> float:
    """Twice the ptflops figure: the "FLOPs" of the filter-basis paper."""
    return 2 * ptflops(c)


def ptflops_without_relu(c: Counted) -> float:
    """The count of ptflops without ReLUs. The release of the filter bases calls ReLUs as functions, which ptflops does not see."""
    return ptflops(c) - c.tally.relu_elements


def ptflops_without_relu_doubled(c: Counted) -> float:
    """Twice `ptflops_without_relu`."""
    return 2 * ptflops_without_relu(c)


def early_thop(c: Counted) -> float:
    """The count of thop in 2019 (SPConv).

    A MAC and a bias count 1 each, and an output element of a normalisation layer counts 4. A global average over K pixels counts
    K + 1, and a k x k average counts k + 1. An output of a fully connected layer with n inputs counts 2 n - 1. ReLU, softmax and
    max-pools count nothing.
    """
    t = c.tally
    linear = 2 * t.linear_macs - t.linear_outputs
    return t.conv_macs + t.conv_biases + t.matmul_macs + 4 * t.norm_elements + t.pool_sums + t.gate_sums + linear
