"""The contract of every operator in the place of an nn.Conv2d: the inputs it takes and the attributes that code reads."""

from __future__ import annotations

import copy

import pytest
import torch
import torch.nn.functional as F
from torch import fx, nn
from torch.export import Dim

import leanconv as lc
from leanconv.core.errors import LeanconvError
from leanconv.core.operator import LinearOp
from tests.ops.contract import FEW, FIRST, SPECS, each_accepted, image, lean_network, network, on, on_linear, on_some

SIZES = [(8, 10), (7, 9), (5, 4), (6, 13)]


@each_accepted
def test_takes_one_image_without_a_batch(method, name):
    lean, dense = lean_network(method, SPECS[name]), network(SPECS[name])
    x = image(SPECS[name], (6, SPECS[name].in_channels))  # as wide as it has channels: a wrong dimension would fit
    for training in (False, True):
        for module in lean.train(training).modules():
            if isinstance(module, nn.BatchNorm2d):
                module.momentum = 0.0
        for one, whole, plain in zip(lean(x[0]), lean(x[:1]), dense(x[0]), strict=True):
            torch.testing.assert_close(one, whole[0])
            assert one.shape == plain.shape


@on_some
def test_takes_an_empty_batch(method, name):
    lean, dense = lean_network(method, SPECS[name]), network(SPECS[name])
    x = image(SPECS[name])[:0].requires_grad_()
    found = lean(x)
    assert [y.shape for y in found] == [y.shape for y in dense(x)]
    sum(y.sum() for y in found).backward()
    assert x.grad is not None and x.grad.shape == x.shape


@each_accepted
def test_refuses_other_channels_and_ranks_by_name(method, name):
    lean, channels = lean_network(method, SPECS[name]), SPECS[name].in_channels
    wrong = [(2, c, 8, 8) for c in (1, channels + 1, channels * 2, channels // 2)]
    for shape in (*wrong, (channels + 1, 8, 8), (channels, 8), (2, channels, 1, 8, 8)):
        with pytest.raises(LeanconvError, match=rf"\(N, {channels}, H, W\)") as caught:
            lean(torch.zeros(shape, dtype=torch.float64))
        assert "\n" not in str(caught.value) and str(shape[-3:])[1:-1] in str(caught.value)
        assert isinstance(caught.value, RuntimeError)  # as nn.Conv2d's


@on([(m, n) for m, n in FEW if n in ("stride 2", "stride (1, 2)", "same, circular")])
def test_exports_with_named_sizes(method, name):
    lean = lean_network(method, SPECS[name])
    sizes = {0: Dim("n", min=1, max=64), 2: Dim("h", min=4, max=512), 3: Dim("w", min=4, max=512)}
    exported = torch.export.export(lean, (image(SPECS[name]),), dynamic_shapes=(sizes,)).module()
    for size in SIZES:
        for n in (1, 3):
            x = image(SPECS[name], size, n)
            for ours, wanted in zip(exported(x), lean(x), strict=True):
                torch.testing.assert_close(ours, wanted, rtol=1e-9, atol=1e-9)


@each_accepted
def test_shows_the_attributes_of_conv2d(method, name):
    lean, dense = lean_network(method, SPECS[name]).float(), network(SPECS[name]).float()
    for ours, plain in zip(lean.convs, dense.convs, strict=True):
        for attribute in (
            *("in_channels", "out_channels", "kernel_size", "stride", "padding", "dilation", "groups"),
            *("padding_mode", "transposed", "output_padding"),
        ):
            assert getattr(ours, attribute) == getattr(plain, attribute), attribute
        assert tuple(ours._reversed_padding_repeated_twice) == tuple(plain._reversed_padding_repeated_twice)
        assert ours.weight.dtype == torch.float32 and ours.weight.device == plain.weight.device
        assert ours.weight.requires_grad and ours.weight.dim() == ours.weight.ndim == 4
        assert ours.bias is None or ours.bias.dtype == torch.float32
        x = image(SPECS[name], dtype=torch.float32)
        weight = torch.randn_like(plain.weight)
        assert torch.equal(ours._conv_forward(x, weight, None), plain._conv_forward(x, weight, None))
    assert all(op.weight.dtype == torch.float16 for op in lean.half().convs)


class Casts(nn.Module):
    """What reads a weight without its values."""

    def __init__(self, spec: lc.ConvSpec) -> None:
        super().__init__()
        self.convs = nn.ModuleList(nn.Conv2d(**spec.kwargs()) for _ in range(2))

    def forward(self, x):
        outputs = []
        for conv in self.convs:
            like = conv.weight
            y = x.to(device=like.device, dtype=like.dtype) + like.new_zeros(1)
            outputs.append(conv(y if conv.bias is None else y + 1))
        return tuple(outputs)


@on([(m, n) for m, n in FEW if n == "stride 2" and FIRST[type(m)] == m])
def test_a_network_that_reads_dtype_and_device_of_a_weight(method, name):
    spec = SPECS[name]
    model = Casts(spec).double().eval()
    lean = lc.convert(model, lc.plan(model, method, input_size=(spec.in_channels, 8, 8)))
    x = image(spec, dtype=torch.float32)
    moved = 0 if lean.convs[0].bias is None else 1
    wanted = [conv(x.double() + moved) for conv in lean.convs]
    torch._dynamo.reset()
    for run in (
        lean,
        fx.symbolic_trace(lean),
        torch.compile(lean, backend="aot_eager", fullgraph=True),
        torch.export.export(lean, (x,)).module(),
    ):
        for ours, plain in zip(run(x), wanted, strict=True):
            assert ours.dtype == torch.float64
            torch.testing.assert_close(ours, plain, rtol=1e-9, atol=1e-9)


class Standardised(nn.Module):
    """A weight that is computed with by the layer's owner, as weight standardisation does."""

    def __init__(self, *ops: nn.Module) -> None:
        super().__init__()
        self.ops = nn.ModuleList(ops)

    def forward(self, x):
        op = self.ops[-1]
        weight = (op.weight - op.weight.mean((1, 2, 3), keepdim=True)) * 2 + 0.5 * op.weight
        return F.conv2d(x, torch.cat([weight, op.weight]), None, op.stride, 1)


def seen_as_dense() -> list[nn.ModuleList]:
    """Operators that have no parameter of that name, or one with a blend behind it."""
    spec = SPECS["3x3 square"]
    methods = [
        lc.SharedBasis(shared=4, unique=2),
        lc.SharedBasis(shared=0, unique=3, norm=False),
        lc.SoftShared(),
        lc.FilterSummary(),
        lc.DepthShared(),
        lc.DepthShared(blend=True),
    ]
    return [nn.ModuleList(method.build([spec, spec])).double().eval() for method in methods]


@pytest.mark.parametrize("index", range(6))
def test_what_is_computed_with_the_weight_of_a_linear_operator_is_that_of_its_dense_weight(index):
    torch.manual_seed(0)
    ops = seen_as_dense()[index]
    op, dense = ops[-1], ops[-1].to_conv()
    for module in (op, dense):
        module.requires_grad_()
    x = image(SPECS["3x3 square"])
    ours, plain = Standardised(*ops), Standardised(dense)
    wanted = plain(x)
    torch._dynamo.reset()
    runs = [ours, fx.symbolic_trace(ours), torch.compile(ours, backend="aot_eager", fullgraph=True)]
    for run in (*runs, torch.export.export(ours, (x,)).module()):
        torch.testing.assert_close(run(x), wanted)
    wanted.square().sum().backward()
    ours.zero_grad()
    ours(x).square().sum().backward()
    parameters = list(lc.core.sharing.parameters_in_use([op]))
    found = [p.grad for p in parameters]
    through = torch.autograd.grad(op.weight_dense(), parameters, dense.weight.grad, materialize_grads=True)
    for got, expected in zip(found, through, strict=True):
        torch.testing.assert_close(torch.zeros_like(expected) if got is None else got, expected)


def test_a_traced_weight_follows_its_parameters():
    op = lc.FilterSummaryConv2d(8, 8, 3, padding=1)
    traced = fx.symbolic_trace(Standardised(op))
    x = torch.randn(2, 8, 4, 4)
    with torch.no_grad():
        op.summary.mul_(2)
    torch.testing.assert_close(traced(x), Standardised(op)(x))


@pytest.mark.parametrize("op", [lc.SplitConv2d(8, 8, 3, padding=1), lc.GhostConv2d(8, 8, 3, padding=1)])
def test_the_weight_of_an_operator_that_is_no_convolution_is_not_computed_with(op):
    with pytest.raises(LeanconvError, match="equals no dense convolution"):
        Standardised(op)(torch.randn(2, 8, 4, 4))
    for compute in (lambda w: w.sum(), lambda w: w[0], lambda w: 2 * w, lambda w: F.conv2d(torch.zeros(1, 8, 4, 4), w)):
        with pytest.raises(LeanconvError, match="equals no dense convolution"):
            compute(op.weight)
    x = torch.zeros(1, dtype=torch.float64)
    assert x.to(op.weight).dtype == x.type_as(op.weight).dtype == torch.float32
    assert op.weight.shape == (8, 8, 3, 3) and op.weight.size(1) == len(op.weight) == 8 and op.weight.numel() == 576


def test_a_basis_with_a_norm_has_no_weight_in_training():
    op = lc.SharedBasisConv2d(8, 8, 3, padding=1)
    assert op.weight.dtype == torch.float32
    with pytest.raises(LeanconvError, match="eval"):
        Standardised(op)(torch.randn(2, 8, 4, 4))


@pytest.mark.parametrize(
    "write",
    [
        nn.init.zeros_,
        nn.init.kaiming_uniform_,
        nn.init.xavier_normal_,
        lambda w: w.data.zero_(),
        lambda w: w.mul_(2),
        lambda w: w.__setitem__(0, 1.0),
        torch.relu_,
    ],
)
def test_a_computed_weight_is_not_written_to(write):
    """It would be lost without a word."""
    for op in (lc.SplitConv2d(8, 8, 3, padding=1), lc.FilterSummaryConv2d(8, 8, 3)):
        before = copy.deepcopy(op.state_dict())
        with torch.no_grad(), pytest.raises(LeanconvError, match="would change"):
            write(op.weight)
        assert all(torch.equal(a, b) for a, b in zip(before.values(), op.state_dict().values(), strict=True))


@on_linear
def test_the_view_shows_the_dense_weight(method, name):
    for op in lean_network(method, SPECS[name]).convs:
        assert isinstance(op, LinearOp)
        if not isinstance(op.weight, torch.Tensor):
            assert op.weight.shape == op.weight_dense().shape
            torch.testing.assert_close(op.weight + 0, op.weight_dense())
