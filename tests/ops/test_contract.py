"""The contract that every method of METHODS fulfils on every convolution it accepts."""

from __future__ import annotations

import copy
import io
import pickle

import pytest
import torch
from torch import fx, nn

import leanconv as lc
from leanconv.core.count import count_macs
from leanconv.core.errors import LeanconvWarning
from leanconv.core.operator import ConvOp
from tests.ops.contract import (
    CASES,
    LAYERS,
    LINEAR,
    REJECTED,
    SIZES,
    SPECS,
    each_accepted,
    ids,
    image,
    lean_network,
    network,
    on_few,
    on_linear,
    on_some,
)


def has_closed_form(method) -> bool:
    """Whether the method's fit is the nearest lean network; with blends, or with both kinds of components, it is not."""
    if isinstance(method, lc.SharedBasis):
        return not (method.shared and method.unique)
    if isinstance(method, lc.DepthShared):
        return not method.blend
    return isinstance(method, lc.TiedBlock | lc.Grouped | lc.Het | lc.SoftShared | lc.FilterSummary)


def test_every_method_has_cases():
    assert {type(case.method) for case in CASES} == set(lc.METHODS)


@pytest.mark.parametrize(("method", "name"), REJECTED, ids=ids(REJECTED))
def test_rejects_with_a_reason_and_leaves_it_dense(method, name):
    spec = SPECS[name]
    reason = method.reject(spec)
    assert isinstance(reason, str) and "\n" not in reason
    model = network(spec)
    plan = lc.plan(model, method, input_size=(spec.in_channels, 8, 8))
    assert not plan.groups and [kept.reason for kept in plan.kept] == [reason] * LAYERS
    x = image(spec)
    with pytest.warns(LeanconvWarning, match="converts nothing"):
        lean = lc.convert(model, plan)
    assert all(torch.equal(a, b) for a, b in zip(model(x), lean(x), strict=True))


@each_accepted
def test_output_has_the_shape_of_conv2d(method, name):
    spec = SPECS[name]
    dense, lean = network(spec), lean_network(method, spec)
    assert all(isinstance(module, ConvOp) for module in lean.convs)
    for size in SIZES:
        x = image(spec, size)
        try:
            wanted = dense(x)
        except RuntimeError:  # nn.Conv2d refuses this map itself
            with pytest.raises(RuntimeError):
                lean(x)
            continue
        assert [y.shape for y in lean(x)] == [y.shape for y in wanted]
        assert torch.isfinite(torch.stack([y.sum() for y in lean(x)])).all()


@each_accepted
def test_counts_agree(method, name):
    spec = SPECS[name]
    model, lean = network(spec), lean_network(method, spec)
    size = (spec.in_channels, 9, 7)
    plan = lc.plan(model, method, input_size=size)
    found = lc.count(lean, size)
    assert found.params == plan.params() == found.stored
    assert found.macs == sum(sum(group.macs()) for group in plan.groups) == count_macs(lean, size)
    assert plan.params_dense() == lc.count(model, size).params == LAYERS * spec.params()


@on_linear
def test_equals_the_dense_convolution_it_names(method, name):
    spec = SPECS[name]
    lean = lean_network(method, spec)
    for module in lean.convs:
        assert module.weight_dense().shape == spec.weight_shape
    dense = lc.to_dense(lean)
    assert all(type(module) is nn.Conv2d for module in dense.convs)
    for size in SIZES[:2]:
        x = image(spec, size)
        for ours, plain in zip(lean(x), dense(x), strict=True):
            torch.testing.assert_close(ours, plain, rtol=1e-10, atol=1e-10)


@on_some
def test_gradients(method, name):
    spec = SPECS[name]
    lean = lean_network(method, spec)
    x = image(spec, (4, 5), n=2).requires_grad_()
    names, parameters = zip(*lean.named_parameters(), strict=True)
    # gradcheck takes a step, over which a choice does not change: what passes straight through has a test of its own
    smooth = [p.detach() if name.endswith("selector") else p for name, p in lean.named_parameters()]

    def run(x, *values):
        return torch.stack(
            [y.sum((2, 3)) for y in torch.func.functional_call(lean, dict(zip(names, values, strict=True)), (x,))]
        )

    assert torch.autograd.gradcheck(run, (x, *smooth), fast_mode=True)
    lean.train()
    for module in lean.modules():  # gradcheck needs a function: no running statistics that change
        if isinstance(module, nn.BatchNorm2d):
            module.momentum = 0.0
    assert torch.autograd.gradcheck(run, (x, *smooth), fast_mode=True)
    run(x, *parameters).square().sum().backward()
    silent = {n for n, p in zip(names, parameters, strict=True) if p.grad is None}
    assert not silent


@each_accepted
def test_fit_is_idempotent_and_beats_small_changes(method, name):
    """The nearest lean network to a network that already is lean is that network; and no small step improves a fit."""
    spec = SPECS[name]
    model = network(spec)
    plan = lc.plan(model, method, input_size=(spec.in_channels, 8, 8))
    lean = lc.convert(model, plan, init="fit")
    if (method, name) not in LINEAR:
        again = lc.convert(model, plan, init="fit")
        assert all(torch.equal(a, b) for a, b in zip(lean.parameters(), again.parameters(), strict=True))
        return
    dense = lc.to_dense(lean)  # may have gained a bias: a norm's shift
    twice = lc.convert(dense, lc.plan(dense, method, input_size=(spec.in_channels, 8, 8)), init="fit")
    x = image(spec)
    for once, second in zip(lean(x), twice(x), strict=True):
        torch.testing.assert_close(once, second, rtol=1e-6, atol=1e-6)
    if not has_closed_form(method):
        return

    def distance() -> float:
        pairs = zip(lean.convs, model.convs, strict=True)
        total = 0.0
        for ours, conv in pairs:
            total += (ours.weight_dense() - conv.weight).square().sum().item()
            if conv.bias is not None:
                total += (ours.bias_dense() - conv.bias).square().sum().item()
        return total

    best = distance()
    torch.manual_seed(3)
    with torch.no_grad():
        for parameter in lean.parameters():
            before = parameter.clone()
            for _ in range(3):
                parameter.copy_(before + 1e-3 * torch.randn_like(before))
                assert distance() >= best - 1e-9
            parameter.copy_(before)


@on_some
def test_copies_pickles_and_moves(method, name):
    spec = SPECS[name]
    lean = lean_network(method, spec)
    x = image(spec)
    wanted = lean(x)

    def same(other, rtol=1e-12):
        lc.check(other)
        for a, b in zip(other(x.to(next(other.parameters()).dtype)), wanted, strict=True):
            torch.testing.assert_close(a.double(), b, rtol=rtol, atol=rtol)

    copied = copy.deepcopy(lean)
    same(copied)
    assert not {id(p) for p in copied.parameters()} & {id(p) for p in lean.parameters()}
    same(pickle.loads(pickle.dumps(lean)))
    buffer = io.BytesIO()
    torch.save(lean.state_dict(), buffer)
    buffer.seek(0)
    state = torch.load(buffer, weights_only=True)
    assert len({tensor.data_ptr() for tensor in state.values()}) == len(state)
    fresh = lean_network(method, spec)
    fresh.load_state_dict({key: torch.zeros_like(value) for key, value in state.items()})
    fresh.load_state_dict(state, strict=True)
    same(fresh)
    empty = copy.deepcopy(lean).to("meta").to_empty(device="cpu")
    empty.load_state_dict(state, assign=True)
    same(empty)
    same(copy.deepcopy(lean).float(), rtol=1e-3)
    same(copy.deepcopy(lean).to(memory_format=torch.channels_last), rtol=1e-9)
    last = copy.deepcopy(lean).to(memory_format=torch.channels_last)(x.to(memory_format=torch.channels_last))
    for a, b in zip(last, wanted, strict=True):
        torch.testing.assert_close(a, b, rtol=1e-9, atol=1e-9)


@on_some
def test_saves_and_loads(method, name, tmp_path):
    spec = SPECS[name]
    lean = lean_network(method, spec)
    lc.save(lean, tmp_path)
    loaded = lc.load(tmp_path, model=network(spec))
    x = image(spec)
    assert all(torch.equal(a, b) for a, b in zip(loaded(x), lean(x), strict=True))
    assert lc.plan_of(loaded) == lc.plan_of(lean)


@on_few
def test_traces_compiles_and_exports(method, name):
    spec = SPECS[name]
    lean = lean_network(method, spec)
    x = image(spec)
    wanted = lean(x)

    def same(other, x=x, wanted=wanted):
        for a, b in zip(other(x), wanted, strict=True):
            torch.testing.assert_close(a, b, rtol=1e-9, atol=1e-9)

    traced = fx.symbolic_trace(lean)
    same(traced)
    other_size = image(spec, (7, 9), n=3)
    same(traced, other_size, lean(other_size))
    torch._dynamo.reset()
    same(torch.compile(lean, backend="aot_eager", fullgraph=True))
    exported = torch.export.export(lean, (x,))
    same(exported.module())
    assert len(exported.state_dict) == len(lean.state_dict())
    dynamic = {0: torch.export.Dim.AUTO, 2: torch.export.Dim.AUTO, 3: torch.export.Dim.AUTO}
    flexible = torch.export.export(lean, (x,), dynamic_shapes=(dynamic,)).module()
    same(flexible, other_size, lean(other_size))


DEGENERATE = {
    "one block": lc.TiedBlock(blocks=1),
    "all components, no norm": lc.SharedBasis(shared=0, unique=16, norm=False),
    "one use": None,
    "everything representative": lc.Split(ratio=1.0, groups=1),
    "one group": lc.Grouped(groups=1),
    "no cheap maps": lc.Ghost(expansion=1, norm=False, activation=False),
    "one part": lc.Het(part=1),
    "a lego for each filter": lc.Lego(splits=1, ratio=1.0),
    "a template for each layer": lc.SoftShared(templates=3),
    "more templates than layers": lc.SoftShared(templates=4),
    "windows side by side": lc.FilterSummary(ratio=1.0),
}


@pytest.mark.filterwarnings("ignore:shared_basis costs more MACs")  # the limit is where nothing is saved
@pytest.mark.parametrize("limit", DEGENERATE)
@pytest.mark.parametrize("name", ["3x3", "bias", "stride 2", "dilation 2", "same, even kernel"])
def test_degenerate_limit_is_conv2d(limit, name):
    """Where a method has nothing left to save, its fit is the dense convolution itself."""
    spec, method = SPECS[name], DEGENERATE[limit]
    model = network(spec)
    x = image(spec)
    if method is None:  # depth 1: a bank with a single user
        module = lc.DepthShared().build([spec])[0].double()
        with torch.no_grad():
            lc.DepthShared().fit_([module], [model.convs[0]])
        torch.testing.assert_close(module(x), model(x)[0], rtol=1e-12, atol=1e-12)
        return
    lean = lc.convert(model, lc.plan(model, method, input_size=(8, 8, 8)), init="fit")
    for ours, dense in zip(lean(x), model(x), strict=True):
        torch.testing.assert_close(ours, dense, rtol=1e-8, atol=1e-8)


@pytest.mark.slow
@on_some
def test_compiles_with_inductor(method, name):
    spec = SPECS[name]
    lean = lean_network(method, spec, dtype=torch.float32)
    x = image(spec, dtype=torch.float32)
    torch._dynamo.reset()
    for a, b in zip(torch.compile(lean)(x), lean(x), strict=True):
        torch.testing.assert_close(a, b, rtol=1e-4, atol=1e-4)
