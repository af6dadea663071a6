"""Plans travel with the layers: whatever was made of a lean network keeps its plan, or is not saved."""

from __future__ import annotations

import copy
import io
import pickle

import pytest
import timm
import torch
from torch import nn
from torch.fx import symbolic_trace
from torch.optim.swa_utils import AveragedModel
from torchvision.models._utils import IntermediateLayerGetter
from torchvision.models.feature_extraction import create_feature_extractor

import leanconv as lc
from leanconv.core.copying import copied
from leanconv.core.errors import LeanconvError, SettingError, TieError

METHODS = [lc.TiedBlock(), lc.DepthShared(), lc.SharedBasis(shared=2), lc.Split()]


class Net(nn.Module):
    def __init__(self):
        super().__init__()
        self.stem = nn.Conv2d(3, 8, 3, padding=1)
        self.body = nn.Sequential(*(nn.Conv2d(8, 8, 3, padding=1) for _ in range(3)))
        self.norm = nn.BatchNorm2d(8)
        self.fc = nn.Linear(8, 5)

    def forward(self, x):
        return self.fc(self.norm(self.body(self.stem(x))).mean((2, 3)))


def lean(method):
    return lc.convert(Net(), method, where="body.*", input_size=(3, 8, 8)).eval()


def through_a_file(model):
    file = io.BytesIO()
    torch.save(model, file)
    file.seek(0)
    return torch.load(file, weights_only=False)


def normalised(model):
    return nn.Sequential(nn.Identity(), model)


def maps(model):
    return IntermediateLayerGetter(model, {"body": "out"})


# How a copy is made, and how the dense network is handed to `load`
COPIES = {
    "copy": (copy.copy, lambda net: net),
    "deepcopy": (copy.deepcopy, lambda net: net),
    "pickle": (lambda model: pickle.loads(pickle.dumps(model)), lambda net: net),
    "torch.save": (through_a_file, lambda net: net),
    "part of another": (normalised, normalised),
    "copy of part of another": (lambda model: copy.deepcopy(normalised(model)), normalised),
    "children": (lambda model: nn.Sequential(*model.children())[:2], lambda net: nn.Sequential(*net.children())[:2]),
    "layer getter": (maps, maps),
    "averaged": (AveragedModel, lambda net: net),
    "timm EMA": (timm.utils.ModelEmaV3, lambda net: net),
    "data parallel": (nn.DataParallel, lambda net: net),
    "compiled": (lambda model: torch.compile(model, backend="eager"), lambda net: net),
    "both": (lambda model: nn.DataParallel(torch.compile(model, backend="eager")), lambda net: net),
}


def outputs(model, x):
    found = model(x)
    return list(found.values()) if isinstance(found, dict) else [found]


@pytest.mark.parametrize("method", METHODS, ids=lambda method: method.name)
@pytest.mark.parametrize(("make", "dense"), COPIES.values(), ids=COPIES)
def test_a_copy_keeps_its_plan_and_what_is_saved_loads(make, dense, method, tmp_path):
    made = make(lean(method)).eval()
    assert len([site for group in lc.plan_of(made).groups for site in group.sites]) == 3
    lc.save(made, tmp_path)
    back = lc.load(tmp_path, model=dense(Net()))
    assert [g.method for g in lc.plan_of(back).groups] == [g.method for g in lc.plan_of(made).groups]
    x = torch.randn(2, 3, 8, 8)
    for a, b in zip(outputs(back, x), outputs(made, x), strict=True):
        assert torch.equal(a, b)


def script(model):
    return torch.jit.trace(model, torch.randn(1, 3, 8, 8), check_trace=False)


LOST = {
    "fx": symbolic_trace,
    "copy of fx": lambda model: copy.deepcopy(symbolic_trace(model)),
    "pickle of fx": lambda model: pickle.loads(pickle.dumps(symbolic_trace(model))),
    "feature extractor": lambda model: create_feature_extractor(model, ["body"]),
    "part of another": lambda model: nn.Sequential(nn.Identity(), symbolic_trace(model)),
    "export": lambda model: torch.export.export(model, (torch.randn(1, 3, 8, 8),)).module(),
    "trace": script,
}


@pytest.mark.parametrize("method", METHODS, ids=lambda method: method.name)
@pytest.mark.parametrize("make", LOST.values(), ids=LOST)
@pytest.mark.filterwarnings("ignore:.*torch.jit.*")
@pytest.mark.filterwarnings("ignore:The nodes obtained by tracing")
def test_a_graph_that_has_lost_its_plan_is_not_saved(make, method, tmp_path):
    with pytest.raises(SettingError, match="a traced or scripted graph"):
        lc.save(make(lean(method)), tmp_path)
    assert not list(tmp_path.iterdir())


def test_a_traced_network_that_was_converted_is_saved(tmp_path):
    made = lc.convert(symbolic_trace(Net()), lc.TiedBlock(), where="body.*")
    lc.save(made, tmp_path)
    x = torch.randn(2, 3, 8, 8)
    assert torch.equal(lc.load(tmp_path, model=symbolic_trace(Net()))(x), made.eval()(x))


def test_a_part_of_a_group_is_not_saved(tmp_path):
    model = lean(lc.DepthShared())
    part = nn.Sequential(model.stem, model.body[:2])
    assert lc.plan_of(part) is None
    with pytest.raises(TieError, match=r"'1.0' is one of the 3 layers that depth_shared.* made together"):
        lc.save(part, tmp_path)


def test_several_lean_networks_in_one_keep_their_groups_apart(tmp_path):
    one = lean(lc.DepthShared())
    both = nn.ModuleList([one, copy.deepcopy(one)])
    names = [[site.name for site in group.sites] for group in lc.plan_of(both).groups]
    assert names == [[f"{number}.body.{index}" for index in range(3)] for number in range(2)]
    lc.save(both, tmp_path)
    back = lc.load(tmp_path, model=nn.ModuleList([Net(), Net()]))
    x = torch.randn(1, 3, 8, 8)
    assert torch.equal(back[1](x), one(x))


def test_a_lean_network_in_a_lean_one_is_in_its_plan():
    model = lean(lc.TiedBlock())
    model.norm = lean(lc.TiedBlock()).body
    assert len(lc.plan_of(model).groups) == 6
    lc.check(model)


def test_what_is_made_dense_has_no_plan_anywhere():
    model = normalised(lean(lc.TiedBlock()))
    dense = lc.to_dense(model)
    assert lc.plan_of(dense) is None and lc.plan_of(dense[1]) is None
    x = torch.randn(1, 3, 8, 8)
    torch.testing.assert_close(dense(x), model(x))


def test_a_compiled_part_is_not_saved(tmp_path):
    model = lean(lc.TiedBlock())
    model.body = torch.compile(model.body, backend="eager")
    with pytest.raises(SettingError, match=r"'body' runs inside torch.compile"):
        lc.save(model, tmp_path)


@pytest.mark.parametrize("wrap", [nn.DataParallel, AveragedModel, lambda m: torch.compile(m, backend="eager")])
def test_a_wrapper_is_planned_and_converted_by_the_names_inside(wrap, tmp_path):
    wrapped = wrap(Net())
    plan = lc.plan(wrapped, lc.TiedBlock(), where="body.*", input_size=(3, 8, 8))
    made = lc.convert(wrapped, plan)
    assert isinstance(made, Net) and lc.plan_of(made) == plan
    lc.save(made, tmp_path)
    x = torch.randn(1, 3, 8, 8)
    assert torch.equal(lc.load(tmp_path, model=Net())(x), made.eval()(x))
    with pytest.raises(SettingError, match="lean already"):
        lc.convert(wrap(made), plan)


def test_leanconvs_own_networks_without_a_plan_are_saved(tmp_path):
    class Own(nn.Sequential):
        def __init__(self):
            super().__init__(lc.TiedBlockConv2d(4, 4, 3, blocks=2))

    model = Own().eval()
    assert lc.plan_of(model) is None
    lc.save(model, tmp_path)
    x = torch.randn(1, 4, 5, 5)
    assert torch.equal(lc.load(tmp_path, model=Own())(x), model(x))


@pytest.mark.filterwarnings("ignore")  # torch says of many of its functions that they will go
def test_a_quantised_network_is_not_saved(tmp_path):
    model = torch.ao.quantization.quantize_dynamic(Net().eval(), {nn.Linear})
    with pytest.raises(LeanconvError, match="as a quantised layer does"):
        lc.save(model, tmp_path)


def test_tensors_that_share_memory_do_so_in_the_copy():
    class Tied(Net):
        def __init__(self):
            super().__init__()
            self.one, self.two = nn.Linear(4, 4), nn.Linear(4, 4)
            self.two.weight.data = self.one.weight.data
            self.register_buffer("whole", torch.zeros(8))
            self.register_buffer("start", self.whole[:4])

    model = Tied()
    for made in (lc.convert(model, lc.TiedBlock()), copied(model)):
        made.whole.fill_(1)
        assert made.start.tolist() == [1] * 4 and model.start.tolist() == [0] * 4
        assert made.one.weight.data_ptr() == made.two.weight.data_ptr() != model.one.weight.data_ptr()
        assert made.one.weight is not made.two.weight and torch.equal(made.one.weight, model.one.weight)
        assert isinstance(made.two.weight, nn.Parameter)
