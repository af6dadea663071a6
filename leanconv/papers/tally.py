"""Count the operations of one forward pass by kind. Every paper's way of counting is a sum of these counts."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from leanconv.core.meta import InputSize, dry_run
from leanconv.core.operator import ConvOp

aten = torch.ops.aten


@dataclass
class Tally:
    """The counts of one forward pass of one image.

    Args:
        conv_macs: multiply-adds of convolutions.
        conv_biases: output elements of convolutions that have a bias.
        linear_macs: multiply-adds of fully connected layers.
        linear_outputs: output elements of fully connected layers.
        linear_biases: output elements of fully connected layers that have a bias.
        matmul_macs: multiply-adds of matrix products without weights (attention).
        norm_elements: output elements of batch and layer norms.
        relu_elements: output elements of ReLUs.
        pool_inputs: input elements of max and average pools, global pools included.
        pool_sums: thop's count of average pools: output elements times (window + 1). The window of a global pool is the number
            of pixels. The window of a k x k pool is k (thop took the product of the single number k).
        gate_sums: thop's count of the second average in the gate of a split convolution. The paper averages both branches;
            leanconv averages their difference once, which gives the same result.
    """

    conv_macs: int = 0
    conv_biases: int = 0
    linear_macs: int = 0
    linear_outputs: int = 0
    linear_biases: int = 0
    matmul_macs: int = 0
    norm_elements: int = 0
    relu_elements: int = 0
    pool_inputs: int = 0
    pool_sums: int = 0
    gate_sums: int = 0


def tally(model: nn.Module, input_size: InputSize) -> Tally:
    """Count one forward pass of `model`, on a copy without weights.

    >>> import leanconv as lc
    >>> tally(lc.create_model("resnet20"), (3, 32, 32)).conv_macs
    40812544

    Args:
        model: any network.
        input_size: (channels, height, width) of the image.

    Raises:
        SettingError: the model does not run on an image of this size.
    """

    def run(twin: nn.Module, images: Tensor) -> Tally:
        counted = Tally()

        def count_gate(module: nn.Module, args: Any, out: Tensor) -> None:
            counted.gate_sums += module.sums_left_out(out)  # type: ignore[operator]

        for module in twin.modules():
            if isinstance(module, ConvOp):
                module.register_forward_hook(count_gate)
        with _Counter(counted):
            twin(images)
        return counted

    return dry_run(model, input_size, run)


class _Counter(TorchDispatchMode):
    """Counts every operation, from modules and from function calls."""

    def __init__(self, counted: Tally) -> None:
        super().__init__()
        self.counted = counted

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        out = func(*args, **(kwargs or {}))
        count = _COUNTS.get(func.overloadpacket)
        if count is not None:
            count(self.counted, args, next(leaf for leaf in tree_leaves(out) if isinstance(leaf, Tensor)))
        return out


def _convolution(t: Tally, args: Any, out: Tensor) -> None:
    weight, bias = args[1], args[2]
    t.conv_macs += out.numel() * weight[0].numel()
    t.conv_biases += out.numel() if bias is not None else 0


def _linear(t: Tally, out: Tensor, features: int, bias: bool) -> None:
    t.linear_macs += out.numel() * features
    t.linear_outputs += out.numel()
    t.linear_biases += out.numel() if bias else 0


def _addmm(t: Tally, args: Any, out: Tensor) -> None:
    _linear(t, out, args[1].shape[-1], True)


def _mm(t: Tally, args: Any, out: Tensor) -> None:
    _linear(t, out, args[0].shape[-1], False)


def _bmm(t: Tally, args: Any, out: Tensor) -> None:
    t.matmul_macs += out.numel() * args[0].shape[-1]


def _norm(t: Tally, args: Any, out: Tensor) -> None:
    t.norm_elements += out.numel()


def _relu(t: Tally, args: Any, out: Tensor) -> None:
    t.relu_elements += out.numel()


def _max_pool(t: Tally, args: Any, out: Tensor) -> None:
    t.pool_inputs += args[0].numel()


def _average_pool(t: Tally, args: Any, out: Tensor) -> None:
    t.pool_inputs += args[0].numel()
    t.pool_sums += out.numel() * (args[1][0] + 1)


def _adaptive_average_pool(t: Tally, args: Any, out: Tensor) -> None:
    window = args[0].numel() // out.numel()
    t.pool_inputs += args[0].numel()
    t.pool_sums += out.numel() * (window + 1)


def _mean(t: Tally, args: Any, out: Tensor) -> None:
    if args[0].dim() == 4:  # the global average of a feature map
        _adaptive_average_pool(t, args, out)


_COUNTS: dict[Any, Callable[[Tally, Any, Tensor], None]] = {
    aten.convolution: _convolution,
    aten.addmm: _addmm,
    aten.mm: _mm,
    aten.bmm: _bmm,
    aten.native_batch_norm: _norm,
    aten._native_batch_norm_legit_no_training: _norm,
    aten._native_batch_norm_legit: _norm,
    aten.cudnn_batch_norm: _norm,
    aten.native_layer_norm: _norm,
    aten.relu: _relu,
    aten.relu_: _relu,
    aten.max_pool2d_with_indices: _max_pool,
    aten.avg_pool2d: _average_pool,
    aten._adaptive_avg_pool2d: _adaptive_average_pool,
    aten.mean: _mean,
}
