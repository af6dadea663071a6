from __future__ import annotations

import os
import subprocess
import sys

import pytest
import torch
from torch import nn
from torch.utils._python_dispatch import TorchDispatchMode

from leanconv.core.strided import safe_strides


class Strides(TorchDispatchMode):
    """Notes the stride of each convolution that torch computes."""

    def __init__(self):
        super().__init__()
        self.found: list[list[int]] = []

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        if "convolution" in str(func) and "backward" not in str(func):
            self.found.append(list(args[3]))
        return func(*args, **(kwargs or {}))


def computed(conv: nn.Conv2d, x: torch.Tensor) -> tuple[list[int], torch.Tensor, list[torch.Tensor]]:
    x = x.clone().requires_grad_()
    with Strides() as noted:
        y = conv(x)
    gradients = torch.autograd.grad(y.square().sum(), [x, *conv.parameters()])
    return noted.found[0], y, list(gradients)


@pytest.mark.parametrize("stride", [2, 3, (1, 2), (2, 1)])
@pytest.mark.parametrize("padding", [0, "valid"])
@pytest.mark.parametrize("side", [8, 9])
def test_the_same_result_with_stride_one(stride, padding, side):
    torch.manual_seed(0)
    conv = nn.Conv2d(4, 8, 1, stride=stride, padding=padding).double()
    x = torch.randn(2, 4, side, side, dtype=torch.float64)
    _, y, gradients = computed(conv, x)
    with safe_strides(conv):
        stride_now, same, found = computed(conv, x)
    assert stride_now == [1, 1]
    torch.testing.assert_close(same, y)
    for ours, theirs in zip(found, gradients, strict=True):
        torch.testing.assert_close(ours, theirs)


@pytest.mark.parametrize(
    "conv",
    [
        nn.Conv2d(16, 16, 1, stride=2),
        nn.Conv2d(8, 8, 3, stride=2),
        nn.Conv2d(8, 8, 1, stride=2, groups=2),
        nn.Conv2d(8, 8, 1, stride=2, padding=1),
    ],
)
def test_other_convolutions_are_left_alone(conv):
    x = torch.randn(2, conv.in_channels, 9, 9)
    with safe_strides(nn.Sequential(conv, nn.Conv2d(4, 4, 1))):
        stride, *_ = computed(conv, x)
    assert stride == [2, 2]


def test_a_network_without_such_weights_has_no_mode():
    with safe_strides(nn.Sequential(nn.Conv2d(3, 8, 3), nn.Conv2d(16, 8, 1))) as mode:
        assert mode is None


@pytest.mark.skipif(not torch.cpu._is_avx2_supported(), reason="the fault is of x86 processors")
def test_training_of_four_channels_does_not_spoil_memory():
    """Without `safe_strides` this ends with "corrupted double-linked list"."""
    code = (
        "import leanconv as lc\n"
        "lc.compare('resnet8(width=4)', methods=['dense'], latency=False, epochs=1, threads=1, progress=False, precision='fp32')"
    )
    env = {**os.environ, "ONEDNN_MAX_CPU_ISA": "AVX2", "OMP_NUM_THREADS": "1"}
    done = subprocess.run([sys.executable, "-c", code], env=env, capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stderr[-500:]
