from __future__ import annotations

import pytest
import torch
from torch import nn
from torchvision.ops import DeformConv2d as Deform

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


@pytest.mark.filterwarnings("ignore::DeprecationWarning", "ignore::UserWarning")
def test_the_weights_of_quantised_layers_count():
    dense = nn.Sequential(nn.Flatten(), nn.Linear(16, 8), nn.LSTM(8, 4))
    quantised = torch.ao.quantization.quantize_dynamic(dense, {nn.Linear, nn.LSTM})
    found = lc.count(quantised)
    assert found.params == lc.count(dense).params
    assert found.bytes < lc.count(dense).bytes / 2

    layers = nn.Sequential(torch.ao.quantization.QuantStub(), nn.Conv2d(4, 6, 3))
    layers.qconfig = torch.ao.quantization.get_default_qconfig()
    ready = torch.ao.quantization.prepare(layers.eval())
    ready(torch.randn(1, 4, 8, 8))
    assert lc.count(torch.ao.quantization.convert(ready)).params == 4 * 6 * 9 + 6


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


class Runs(nn.Module):
    """A function of modules and an image."""

    def __init__(self, function, *parts):
        super().__init__()
        self.function = function
        self.parts = nn.ModuleList(parts)

    def forward(self, x):
        return self.function(x, *self.parts)


def sequence(x):
    return x.flatten(2).transpose(1, 2)  # (N, H W, C)


@torch.library.custom_op("leanconv_tests::twice", mutates_args=())
def _twice(x: torch.Tensor) -> torch.Tensor:
    return 2 * x


@_twice.register_fake
def _(x):
    return torch.empty_like(x)


@pytest.mark.parametrize("real", [False, True], ids=["meta", "with weights"])
@pytest.mark.parametrize(
    ("function", "parts", "macs"),
    [
        # 8 x 8 positions of 4 channels; offsets by a 3x3 convolution into 18, then 3x3 into 8
        (lambda x, o, d: d(x, o(x)), lambda: (nn.Conv2d(4, 18, 3, padding=1), Deform(4, 8, 3, padding=1)), 59_904),
        (
            lambda x, o, d: d(x, o(x)),
            lambda: (nn.Conv2d(4, 18, 3, padding=1), Deform(4, 8, 3, padding=1, groups=2)),
            64 * 18 * 36 + 64 * 8 * 18,
        ),
        (lambda x, m: m(sequence(x))[0], lambda: (nn.LSTM(4, 5, batch_first=True),), 64 * (4 * 5 * 4 + 4 * 5 * 5)),
        (lambda x, m: m(sequence(x))[0], lambda: (nn.GRU(4, 5, batch_first=True),), 64 * (3 * 5 * 4 + 3 * 5 * 5)),
        (
            lambda x, m: m(sequence(x)),
            lambda: (nn.TransformerEncoderLayer(4, 2, 6, batch_first=True),),
            4 * 64 * 16 + 2 * 64 * 64 * 4 + 2 * 64 * 4 * 6,
        ),
        (lambda x, m: m(x), lambda: (nn.ConvTranspose2d(4, 3, 2, stride=2),), 64 * 4 * 3 * 4),
        (lambda x, m: m(x.flatten(2)), lambda: (nn.Conv1d(4, 3, 3, padding=1),), 64 * 36),
        (lambda x: torch.einsum("nij,nkj->nik", sequence(x), sequence(x)), tuple, 64 * 64 * 4),
        (lambda x: x.flatten().dot(x.flatten()), tuple, 256),
        (lambda x: nn.functional.interpolate(nn.functional.max_pool2d(x, 2).relu(), scale_factor=2.0), tuple, 0),
    ],
    ids=["deform", "deform grouped", "lstm", "gru", "encoder", "transposed", "1d", "einsum", "dot", "none"],
)
def test_macs_equal_the_formula(function, parts, macs, real):
    def forward(x, *modules):
        return function(x.to("cpu") if real else x, *modules)  # a copy to the CPU cannot be run on meta

    found = lc.count(Runs(forward, *parts()), (4, 8, 8))
    assert (found.macs, found.uncounted) == (macs, ())


@pytest.mark.parametrize(
    ("function", "names"),
    [
        (lambda x: _twice(x), ("leanconv_tests::twice",)),
        (lambda x: torch.fft.rfft2(x).abs(), ("aten::_fft_r2c",)),
        (lambda x: nn.functional.bilinear(x, x, torch.ones(2, 8, 8, device=x.device)), ("aten::_trilinear",)),
        (lambda x: torch.linalg.svdvals(x), ("aten::_linalg_svd",)),
    ],
    ids=["custom", "fft", "bilinear", "svd"],
)
def test_what_the_count_leaves_out_is_named(function, names):
    model = Runs(function)
    assert lc.count(model, (4, 8, 8)).uncounted == names
    table = str(lc.summary(model, input_size=(4, 8, 8), latency=False))
    assert f"MACs of Runs leave out {names[0]}" in table


def test_a_compiled_network_and_part_count_as_the_plain_one():
    plain = nn.Sequential(nn.Conv2d(3, 4, 3), nn.Sequential(nn.Conv2d(4, 4, 3)))
    wanted = lc.count(plain, (3, 8, 8)).macs
    assert wanted == 36 * 108 + 16 * 144
    assert lc.count(torch.compile(plain, backend="eager"), (3, 8, 8)).macs == wanted
    plain[1] = torch.compile(plain[1], backend="eager")
    assert lc.count(plain, (3, 8, 8)).macs == wanted


def test_a_parameter_that_is_handed_to_a_layer_does_not_stop_a_count():
    """torch's own counter fails here ("Expected gradient function to be set"), and so all of timm's CaiT."""

    class Token(nn.Module):
        def __init__(self):
            super().__init__()
            self.token = nn.Parameter(torch.zeros(1, 1, 4))
            self.layer = nn.Linear(4, 4)

        def forward(self, x):
            return self.layer(self.token.expand(len(x), -1, -1))

    assert lc.count(Token(), (3, 8, 8)).macs == 16
