"""The contract of every method in the place of an nn.Linear."""

from __future__ import annotations

import copy
import pickle
import warnings

import pytest
import torch
from torch import Tensor, fx, nn

import leanconv as lc
from leanconv.core.errors import RunError, SettingError
from leanconv.core.linear import pointwise
from tests.ops.contract import CASES

IN, OUT, LAYERS = 8, 16, 3
SPEC = lc.ConvSpec(IN, OUT, (1, 1))
# What computes with neighbours, or has nothing left to save at one position
REASONS = {lc.Split: "already is the cheap branch", lc.Het: "no other taps", lc.Ghost: "neighbours"}
REASONS |= {lc.PartialConv: "8 channels cannot pass unchanged as 16", lc.LowRank: "factors='pointwise' would do"}


def rejects(method: lc.Method) -> bool:
    return type(method) in REASONS and getattr(method, "factors", "") != "pointwise"


REJECTED = [(case.method, REASONS[type(case.method)]) for case in CASES if rejects(case.method)]
METHODS = [case.method for case in CASES if not rejects(case.method)]
METHODS += [lc.Ghost(kernel_size=1), lc.TiedBlock(blocks=8), lc.SharedBasis(shared=2, unique=1, bases=2)]
each = pytest.mark.parametrize("method", METHODS, ids=[method.label() for method in METHODS])
FIRST = {type(method): method for method in reversed(METHODS)}.values()  # what takes seconds each time
first_of_each = pytest.mark.parametrize("method", FIRST, ids=[method.label() for method in FIRST])
SHAPES = [(IN,), (3, IN), (2, 5, IN), (2, 3, 4, IN), (0, IN), (2, 0, IN)]


class Parallel(nn.Module):
    """Linear layers of one shape side by side on every position of an image, and a classifier."""

    def __init__(self, bias: bool = True) -> None:
        super().__init__()
        self.fcs = nn.ModuleList(nn.Linear(IN, OUT, bias) for _ in range(LAYERS))
        self.head = nn.Linear(OUT, 3)

    def forward(self, x: Tensor) -> Tensor:
        tokens = x.flatten(2).transpose(1, 2)
        y = self.fcs[0](tokens) + self.fcs[1](tokens).sin() + self.fcs[2](tokens).cos()
        return self.head(y.mean(1))


def network(bias: bool = True) -> Parallel:
    torch.manual_seed(0)
    return Parallel(bias).double().eval()


def lean_network(method: lc.Method, init: str = "fresh", bias: bool = True) -> nn.Module:
    model = network(bias)
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", "shared_basis")
        plan = lc.plan(model, method, include="linear", input_size=(IN, 3, 4))
    assert [site.name for group in plan.groups for site in group.sites] == [f"fcs.{i}" for i in range(LAYERS)]
    lean = lc.convert(model, plan, init=init)
    if init == "fresh":
        unsettle_(lean)
    return lean


def unsettle_(model: nn.Module) -> None:
    """Give norms and biases values that a forgotten term would show up with."""
    generator = torch.Generator().manual_seed(1)
    for module in model.modules():
        if isinstance(module, nn.BatchNorm2d):
            module.running_mean.copy_(torch.rand(module.running_mean.shape, generator=generator))
            module.running_var.copy_(torch.rand(module.running_var.shape, generator=generator) + 0.5)
    for name, parameter in model.named_parameters():
        if name.endswith("bias"):
            parameter.data.copy_(torch.rand(parameter.shape, generator=generator))


def image(n: int = 2) -> Tensor:
    torch.manual_seed(2)
    return torch.randn(n, IN, 3, 4, dtype=torch.float64)


@pytest.mark.parametrize(("method", "said"), REJECTED, ids=[method.label() for method, _ in REJECTED])
def test_methods_that_need_neighbours_say_so(method, said):
    assert said in method.reject_linear(SPEC)
    plan = lc.plan(network(), method, include="linear", input_size=(IN, 3, 4))
    assert not plan.groups and all(said in item.reason for item in plan.kept if item.site.name != "head")


@each
def test_takes_any_leading_dimensions_as_linear_does(method):
    lean, dense = lean_network(method), network()
    for shape in SHAPES:
        x = torch.randn(shape, dtype=torch.float64, requires_grad=True)
        for ours, plain in zip(lean.fcs, dense.fcs, strict=True):
            assert isinstance(ours, lc.LeanLinear)
            y = ours(x)
            assert y.shape == plain(x).shape and y.isfinite().all()
            rows = x.reshape(-1, IN)
            for index in range(len(rows)):  # every position is computed alone
                torch.testing.assert_close(y.reshape(-1, OUT)[index], ours(rows[index]), rtol=1e-10, atol=1e-10)
        y.sum().backward()
        assert x.grad.shape == x.shape


@each
def test_refuses_other_features_by_name(method):
    layer = lean_network(method).fcs[0]
    for shape in ((2, IN + 1), (IN, 2), (2, 5, 1)):
        with pytest.raises(RunError, match=rf"last dimension must be {IN}, as in \(\*, {IN}\)"):
            layer(torch.zeros(shape, dtype=torch.float64))


@each
@pytest.mark.parametrize("bias", [True, False])
def test_counts_agree(method, bias):
    model, lean = network(bias), lean_network(method, bias=bias)
    plan = lc.plan_of(lean)
    found, before = lc.count(lean, (IN, 3, 4)), lc.count(model, (IN, 3, 4))
    assert found.params == plan.params() == found.stored and before.params == plan.params_dense()
    head = plan.kept[0].site
    assert found.macs == sum(sum(group.macs()) for group in plan.groups) + head.macs()
    assert before.macs == sum(site.macs() for site in plan.sites()) == LAYERS * IN * OUT * 12 + head.macs()


@each
def test_equals_the_dense_linear_that_it_names(method):
    lean = lean_network(method)
    if not lean.fcs[0].equals_dense:
        assert isinstance(method, lc.Ghost)
        with pytest.raises(RunError, match="equals no dense layer"):
            lean.fcs[0].weight_dense()
        assert isinstance(lc.to_dense(lean).fcs[0], lc.PointwiseLinear)
        return
    dense = lc.to_dense(lean)
    assert all(type(layer) is nn.Linear for layer in dense.fcs) and lc.plan_of(dense) is None
    for ours, plain in zip(lean.fcs, dense.fcs, strict=True):
        assert ours.weight_dense().shape == (OUT, IN) and tuple(ours.weight.shape)[-1] <= IN
        x = torch.randn(2, 5, IN, dtype=torch.float64)
        torch.testing.assert_close(ours(x), plain(x), rtol=1e-10, atol=1e-10)
        assert (ours.in_features, ours.out_features) == (plain.in_features, plain.out_features)
    torch.testing.assert_close(lean(image()), dense(image()), rtol=1e-10, atol=1e-10)


@each
def test_gradients(method):
    lean = lean_network(method)
    names, parameters = zip(*lean.named_parameters(), strict=True)
    smooth = [p.detach() if name.endswith("selector") else p for name, p in lean.named_parameters()]

    def run(x, *values):
        return torch.func.functional_call(lean, dict(zip(names, values, strict=True)), (x,))

    x = image().requires_grad_()
    assert torch.autograd.gradcheck(run, (x, *smooth), fast_mode=True)
    lean.train()
    run(x, *parameters).square().sum().backward()
    assert not [name for name, p in zip(names, parameters, strict=True) if p.grad is None]


@each
def test_fit_of_what_is_lean_already_changes_nothing(method):
    lean = lean_network(method, init="fit")
    if not lean.fcs[0].equals_dense:
        return
    dense = lc.to_dense(lean)
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", "shared_basis")
        plan = lc.plan(dense, method, include="linear", input_size=(IN, 3, 4))
    twice = lc.convert(dense, plan, init="fit")
    torch.testing.assert_close(twice(image()), lean(image()), rtol=1e-6, atol=1e-6)


LIMITS = [
    lc.TiedBlock(blocks=1),
    lc.SharedBasis(shared=0, unique=IN, norm=False),
    lc.Grouped(groups=1),
    lc.Lego(splits=1, ratio=1.0),
    lc.SoftShared(templates=3),
    lc.FilterSummary(ratio=1.0),
    lc.Ghost(expansion=1, kernel_size=1, norm=False, activation=False),
]


@pytest.mark.parametrize("method", LIMITS, ids=[method.label() for method in LIMITS])
def test_where_nothing_is_left_to_save_the_fit_is_the_dense_linear(method):
    torch.testing.assert_close(lean_network(method, init="fit")(image()), network()(image()), rtol=1e-8, atol=1e-8)


def test_low_rank_fits_as_near_as_a_truncated_svd():
    lean, dense = lean_network(lc.SharedBasis(shared=0, unique=3), init="fit"), network()
    for ours, plain in zip(lean.fcs, dense.fcs, strict=True):
        best = torch.linalg.svdvals(plain.weight)[3:].square().sum()
        torch.testing.assert_close((ours.weight_dense() - plain.weight).square().sum(), best)


@each
def test_copies_pickles_and_moves(method):
    lean = lean_network(method)
    wanted = lean(image())

    def same(other, tolerance=1e-12):
        lc.check(other)
        x = image().to(next(other.parameters()).dtype)
        torch.testing.assert_close(other(x).double(), wanted, rtol=tolerance, atol=tolerance)

    copied = copy.deepcopy(lean)
    assert not {id(p) for p in copied.parameters()} & {id(p) for p in lean.parameters()}
    same(copied)
    same(pickle.loads(pickle.dumps(lean)))
    state = lean.state_dict()
    assert len({tensor.data_ptr() for tensor in state.values()}) == len(state)
    empty = copy.deepcopy(lean).to("meta").to_empty(device="cpu")
    empty.load_state_dict(state, assign=True)
    same(empty)
    same(copy.deepcopy(lean).float(), 1e-3)
    same(copy.deepcopy(lean).to(memory_format=torch.channels_last), 1e-9)


@each
def test_saves_and_loads(method, tmp_path):
    lean = lean_network(method)
    lc.save(lean, tmp_path)
    loaded = lc.load(tmp_path, model=network())
    assert torch.equal(loaded(image()), lean(image())) and lc.plan_of(loaded) == lc.plan_of(lean)


@first_of_each
def test_traces_compiles_and_exports_with_any_batch(method):
    lean = lean_network(method)
    x, more = image(), image(5)

    def same(other, x=x):
        torch.testing.assert_close(other(x), lean(x), rtol=1e-9, atol=1e-9)

    traced = fx.symbolic_trace(lean)
    same(traced)
    same(traced, more)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # torch.jit is deprecated, and exporters of others still use it
        same(torch.jit.trace(lean, (x,)), more)
    torch._dynamo.reset()
    same(torch.compile(lean, backend="aot_eager", fullgraph=True))
    exported = torch.export.export(lean, (x,), dynamic_shapes=({0: torch.export.Dim("n", min=1, max=64)},))
    assert len(exported.state_dict) == len(lean.state_dict())
    same(exported.module(), more)
    same(exported.module(), x[:1])


@each
def test_runs_in_bf16_and_under_autocast(method):
    lean = lean_network(method).float()
    x, wanted = image().float(), lean(image().float())
    with torch.autocast("cpu", dtype=torch.bfloat16):
        found = lean(x)
    assert found.dtype == torch.bfloat16
    torch.testing.assert_close(found.float(), wanted, rtol=0.1, atol=0.1)
    torch.testing.assert_close(copy.deepcopy(lean).bfloat16()(x.bfloat16()).float(), wanted, rtol=0.2, atol=0.2)


@each
def test_optimizes(method):
    lean = lean_network(method).float()
    x = image().float()
    fast = lc.optimize(lean, x, measured=False)
    torch.testing.assert_close(fast(x), lean(x), rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("method", [lc.TiedBlock(2), lc.SharedBasis(shared=2, unique=1), lc.Ghost(kernel_size=1)])
def test_onnx_takes_any_batch(method, tmp_path):
    onnxruntime = pytest.importorskip("onnxruntime")
    lean = lean_network(method).float()
    lc.export(lean, tmp_path / "m.onnx", example=image().float())
    session = onnxruntime.InferenceSession(str(tmp_path / "m.onnx"))
    for n in (1, 5):
        x = image(n).float()
        (found,) = session.run(None, {session.get_inputs()[0].name: x.numpy()})
        torch.testing.assert_close(torch.from_numpy(found), lean(x), rtol=1e-4, atol=1e-5)


def test_tied_block_on_a_linear_is_the_papers_tfc():
    """Wang & Yu 2021: a fully connected layer of C_in C_out weights keeps C_in C_out / B**2."""
    for blocks in (1, 2, 4):
        lean = lean_network(lc.TiedBlock(blocks), init="fit")
        for tied, dense in zip(lean.fcs, network().fcs, strict=True):
            assert type(tied) is lc.TiedBlockLinear and tied.blocks == blocks
            assert sum(p.numel() for p in tied.parameters()) == IN * OUT // blocks**2 + OUT // blocks
            by_hand = lc.TiedBlockLinear(IN, OUT, blocks=blocks).double().fit_(dense)
            assert torch.equal(tied.weight, by_hand.weight) and torch.equal(tied.bias, by_hand.bias)


def test_tied_block_on_the_linears_of_an_se_block_is_tied_se():
    class SE(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.squeeze, self.expand = nn.Linear(32, 8), nn.Linear(8, 32)

        def forward(self, x: Tensor) -> Tensor:
            return x * self.expand(self.squeeze(x.mean((2, 3))).relu()).sigmoid()[:, :, None, None]

    torch.manual_seed(0)
    rules = [("squeeze", lc.TiedBlock(4)), ("expand", lc.TiedBlock(4))]  # the last linear layer has to be named
    tied = lc.convert(SE(), rules, include="linear", input_size=(32, 4, 4))
    paper = lc.TiedSE(32, 4, blocks=4)
    assert {name: tuple(p.shape) for name, p in tied.named_parameters()} == {
        name: tuple(p.shape) for name, p in paper.named_parameters()
    }
    paper.load_state_dict(tied.state_dict())
    x = torch.randn(2, 32, 4, 4)
    assert torch.equal(paper(x), tied(x))


def test_weight_and_bias_read_as_those_of_a_linear():
    layer = lean_network(lc.SharedBasis(shared=2, unique=1)).fcs[1]
    assert layer.weight.shape == (OUT, IN) and layer.weight.ndim == layer.weight.dim() == 2
    assert layer.weight.dtype == torch.float64 and layer.weight.size(0) == OUT and layer.weight.requires_grad
    x = torch.randn(4, IN, dtype=torch.float64)
    torch.testing.assert_close(nn.functional.linear(x, layer.weight), x @ layer.weight_dense().T)
    with pytest.raises(RunError, match="would change the weight"):
        nn.init.zeros_(layer.weight)
    layer.reset_parameters()


def test_only_a_1x1_operator_is_a_linear_layer():
    with pytest.raises(SettingError, match="must be a 1x1 convolution"):
        lc.PointwiseLinear(lc.TiedBlockConv2d(8, 8, 3))
    with pytest.raises(SettingError, match="must be a 1x1 convolution"):
        lc.PointwiseLinear(lc.TiedBlockConv2d(8, 8, 1, stride=2))


def test_pointwise_shares_the_memory_of_the_linear():
    linear = nn.Linear(IN, OUT)
    conv = pointwise(linear)
    assert conv.weight.data_ptr() == linear.weight.data_ptr()
    x = torch.randn(3, IN)
    torch.testing.assert_close(conv(x[:, :, None, None]).flatten(1), linear(x))
