from __future__ import annotations

import pytest
import torch
from torch import nn

import leanconv as lc
from leanconv.core.errors import SettingError
from leanconv.core.meta import on_meta


class Tied(nn.Module):
    """One weight under two names, an unused branch, a buffer, a matrix product."""

    def __init__(self):
        super().__init__()
        self.conv = nn.Conv2d(3, 4, 3, padding=1)
        self.again = self.conv
        self.head = nn.Linear(4, 5)
        self.tail = nn.Linear(4, 5)
        self.tail.weight = self.head.weight
        self.norm = nn.BatchNorm2d(4)

    def forward(self, x):
        return self.head(self.norm(self.conv(x)).mean((2, 3)))


def test_counts_each_tensor_once_and_says_what_is_stored():
    model = Tied()
    found = lc.count(model, (3, 6, 5))
    conv, linear, norm = 3 * 4 * 9 + 4, 4 * 5 + 5, 8
    assert found.params == conv + linear + 5 + norm
    assert found.stored == 2 * conv + 2 * linear + norm
    assert found.macs == 3 * 4 * 9 * 30 + 20
    buffers = 2 * 4 * 4 + 8
    assert found.bytes == 4 * found.params + buffers


def test_bytes_follow_the_dtype():
    model = nn.Conv2d(3, 4, 1, bias=False)
    assert lc.count(model).bytes == 48
    assert lc.count(model.half()).bytes == 24
    assert lc.count(model).macs is None


def test_counting_leaves_the_model_alone():
    model = Tied().train()
    calls = []
    model.conv.register_forward_hook(lambda *_: calls.append(1))
    before = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    lc.count(model, (3, 4, 4))
    assert model.training and not calls and next(model.parameters()).device.type == "cpu"
    assert all(torch.equal(before[name], tensor) for name, tensor in model.state_dict().items())


def test_a_failing_forward_is_one_line():
    with pytest.raises(SettingError, match="does not run on an input of") as error:
        lc.count(Tied(), (5, 4, 4))
    assert "\n" not in str(error.value)


def test_on_meta_copies_no_data_and_keeps_ties():
    twin = on_meta(Tied())
    assert {p.device.type for p in twin.parameters()} == {"meta"}
    assert twin.again is twin.conv and twin.tail.weight is twin.head.weight


def test_networks_of_timm_and_torchvision_equal_their_published_counts():
    found = lc.count(lc.create_model("timm/resnet50"))
    assert (found.params, found.macs) == (25_557_032, 4_089_184_256)
    assert lc.count(lc.create_model("torchvision/mobilenet_v2")).params == 3_504_872
