"""What must not break sharing, and what must be noticed when it is broken."""

from __future__ import annotations

import copy
import pickle
import warnings

import pytest
import torch
from torch import nn
from torch.optim.swa_utils import AveragedModel, get_ema_multi_avg_fn

import leanconv as lc
from leanconv.core.errors import LeanconvWarning, RunError, TieError
from leanconv.core.sharing import refuse_sharded
from leanconv.train.freeze import frozen

METHODS = [lc.DepthShared(), lc.SharedBasis(shared=4, bases=2), lc.DepthShared(scope="stage", blend=True)]
each = pytest.mark.parametrize("method", METHODS, ids=lambda method: method.label())


def lean_resnet(method) -> nn.Module:
    torch.manual_seed(0)
    model = lc.create_model("resnet20")
    lean = lc.convert(model, lc.plan(model, method, exclude="conv1"))
    lc.check(lean)
    return lean


def borrowers(model):
    return [(n, m) for n, m in model.named_modules() if any(isinstance(v, nn.Module) for v in vars(m).values())]


def owners(model):
    return [(n, m) for n, m in model.named_modules() if isinstance(m, lc.ConvOp) and len(list(m.children())) > 0]


def still_shared(model) -> None:
    lc.check(model)
    registered = {id(p) for p in model.parameters()}
    for _, module in borrowers(model):
        for value in vars(module).values():
            if isinstance(value, nn.Module):
                assert {id(p) for p in value.parameters()} <= registered


@each
def test_state_dict_holds_each_tensor_once(method):
    lean = lean_resnet(method)
    state = lean.state_dict()
    assert len({tensor.data_ptr() for tensor in state.values() if tensor.numel()}) == len(state)
    assert (
        sum(p.numel() for p in lean.parameters())
        == lc.count(lean).stored
        < lc.count(lc.create_model("resnet20")).params
    )


@each
def test_survives_copying_pickling_and_moving(method):
    lean = lean_resnet(method).eval()
    x = torch.randn(2, 3, 32, 32)
    wanted = lean(x)
    for other in (copy.deepcopy(lean), pickle.loads(pickle.dumps(lean))):
        still_shared(other)
        assert torch.equal(other(x), wanted)
    empty = copy.deepcopy(lean).to("meta").to_empty(device="cpu")
    empty.load_state_dict(lean.state_dict(), assign=True)
    still_shared(empty)
    assert torch.equal(empty(x), wanted)
    still_shared(copy.deepcopy(lean).double().to(memory_format=torch.channels_last))


@each
def test_averaging_moves_a_shared_weight_once_a_step(method):
    lean = lean_resnet(method)
    average = AveragedModel(lean, multi_avg_fn=get_ema_multi_avg_fn(0.5))
    still_shared(average.module)
    average.update_parameters(lean)  # the first update copies
    before = {name: p.detach().clone() for name, p in average.module.named_parameters()}
    with torch.no_grad():
        for parameter in lean.parameters():
            parameter.add_(1.0)
    average.update_parameters(lean)
    still_shared(average.module)
    for name, parameter in average.module.named_parameters():
        torch.testing.assert_close(parameter, before[name] + 0.5)


@each
def test_check_raises_when_an_owner_is_dropped(method):
    lean = lean_resnet(method)
    name, owner = owners(lean)[0]
    parent, _, child = name.rpartition(".")
    setattr(lean.get_submodule(parent), child, nn.Conv2d(**owner.spec.kwargs()))
    with pytest.raises(TieError, match="owner is not in this model"):
        lc.check(lean)


@each
def test_check_raises_when_a_part_was_copied(method):
    lean = lean_resnet(method)
    last = borrowers(lean)[-1][0]
    parent, _, child = last.rpartition(".")
    setattr(lean.get_submodule(parent), child, copy.deepcopy(lean.get_submodule(last)))
    with pytest.raises(TieError, match="owner is not in this model"):
        lc.check(lean)


@each
def test_check_raises_when_a_tie_was_cut(method):
    lean = lean_resnet(method)
    _, user = borrowers(lean)[-1]
    key, bank = next((k, v) for k, v in vars(user).items() if isinstance(v, nn.Module))
    del user.__dict__[key]
    user.add_module(key, copy.deepcopy(bank))  # an own copy, properly registered: it runs, and is not shared
    lean(torch.randn(2, 3, 32, 32))
    with pytest.raises(TieError, match="a tie was cut"):
        lc.check(lean)


def test_check_raises_when_a_layer_is_another_of_the_same_size():
    model = nn.Sequential(nn.Conv2d(8, 8, 3, bias=False))
    lean = lc.convert(model, lc.plan(model, lc.TiedBlock()))
    lean[0] = nn.Conv2d(8, 8, 3, groups=4, bias=False)  # 144 parameters, as planned
    with pytest.raises(TieError, match="'0' should be the tied_block of its plan"):
        lc.check(lean)


def test_wrappers_are_looked_into(tmp_path):
    lean = lean_resnet(lc.DepthShared()).eval()
    for wrapped in (torch.compile(lean), AveragedModel(lean)):
        assert lc.plan_of(wrapped) == lc.plan_of(lean)
        lc.save(wrapped, tmp_path)
        x = torch.randn(1, 3, 32, 32)
        torch.testing.assert_close(lc.load(tmp_path)(x), lean(x))
    _, user = borrowers(wrapped)[-1]
    bank = user.__dict__.pop("bank")
    user.add_module("bank", copy.deepcopy(bank))
    with pytest.raises(TieError, match="a tie was cut"):
        lc.check(wrapped)


def test_check_raises_when_a_layer_is_gone():
    lean = lean_resnet(lc.DepthShared())
    del lean.layer3
    with pytest.raises(TieError, match=r"'layer3.* is not in the model any more"):
        lc.check(lean)


@each
def test_whole_network_compiles_and_exports_with_each_tensor_once(method):
    lean = lean_resnet(method).eval()
    x = torch.randn(2, 3, 32, 32)
    torch._dynamo.reset()
    compiled = copy.deepcopy(lean)
    compiled.compile(backend="aot_eager", fullgraph=True)
    torch.testing.assert_close(compiled(x), lean(x))
    assert compiled.state_dict().keys() == lean.state_dict().keys()
    exported = torch.export.export(lean, (x,))
    assert len(exported.state_dict) == len(lean.state_dict())
    torch.testing.assert_close(exported.module()(x), lean(x))


@pytest.mark.parametrize("name", ["basis_resnet32", "shard_resnet"])
@pytest.mark.filterwarnings("ignore:.*torch.jit.script.*")
def test_torchscript_is_refused_with_a_way_out(name):
    with pytest.raises(RunError, match=r"torch.jit.script cannot compile \w+; trace it with torch.jit.trace"):
        torch.jit.script(lc.create_model(name))


class DTensor(torch.Tensor):
    """A weight of another unit of FSDP2, which stays sharded: a tensor of torch's class of this name."""


def test_a_weight_that_another_unit_shards_is_refused():
    shard, whole = torch.zeros(2).as_subclass(DTensor), torch.zeros(2)
    with pytest.raises(TieError, match="Call fully_shard on a module that holds all layers that share the weight"):
        refuse_sharded(shard, whole)
    refuse_sharded(shard, shard)
    refuse_sharded(whole, whole)
    model = lc.create_model("basis_resnet32", shared=2)
    basis = model.layer1[1].conv1.basis
    basis.weight = torch.nn.Parameter(basis.weight.detach().as_subclass(DTensor))
    with pytest.raises(TieError, match="a shared weight is sharded where a layer uses it"):
        model.layer1[2].conv1(torch.zeros(1, 16, 4, 4))


def test_freezing_a_layer_that_borrows_its_weight_warns():
    model = lc.create_model("basis_resnet32", shared=2)
    owned = "layer1.1.conv1.basis.weight"
    told = pytest.warns(LeanconvWarning, match=f"matches 'layer1.2.conv1' and 1 more, but not .*{owned!r}")
    with told, frozen(model, ["layer1.2.*"]):
        assert model.layer1[1].conv1.basis.weight.requires_grad
        assert not model.layer1[2].conv1.unique.requires_grad
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        with frozen(model, ["layer1.2.*", owned]):
            assert not model.layer1[1].conv1.basis.weight.requires_grad
        with frozen(model, ["layer1.2.bn1.*"]):
            pass
