"""The record goes wherever its module goes, as one."""

from __future__ import annotations

import copy
import io
import pickle
from collections.abc import Callable
from dataclasses import fields, replace

import pytest
import torch
from torch import nn
from torch.fx import symbolic_trace
from torch.optim.swa_utils import AveragedModel

import leanconv as lc
from leanconv.core.notes import get_base, set_base
from leanconv.core.record import Choice, Member, NotRewritten, Optimized, Record, get_record, set_record
from leanconv.core.spec import ConvSpec
from leanconv.core.wrappers import unwrapped
from leanconv.files.sparse import get_sparse, set_sparse

TASK = lc.Task((0.5,), (0.25,), (8, 8), ("cat", "dog"))
SITE = lc.Site("0", ConvSpec(1, 2, (3, 3)))
GROUP = lc.Group(lc.TiedBlock(), (SITE,))
FULL = Record(
    base={"name": "resnet8", "kwargs": {"num_classes": 2}},
    task=TASK,
    channels=(lc.ChannelPlan(removed=("layer1.0",)),),
    plan=lc.Plan((GROUP,), ()),
    member=Member(GROUP, 0),
    carried=("from_layer",),
    sparse=("0.weight",),
    optimized=Optimized((Choice("0", "loop", {"loop": 1.5}),), (NotRewritten("1", "it has control flow"),)),
    detector={"name": "retinanet", "settings": {"min_size": 64}},
)


def through_a_file(model: nn.Module) -> nn.Module:
    file = io.BytesIO()
    torch.save(model, file)
    file.seek(0)
    return torch.load(file, weights_only=False)


COPIES: dict[str, Callable[[nn.Module], nn.Module]] = {
    "copy": copy.copy,
    "deepcopy": copy.deepcopy,
    "pickle": lambda model: pickle.loads(pickle.dumps(model)),
    "torch.save": through_a_file,
    "averaged": AveragedModel,
    "data parallel": nn.DataParallel,
    "compiled": lambda model: torch.compile(model, backend="eager"),
    "replica": lambda model: model._replicate_for_data_parallel(),
}


def network(kind: str) -> nn.Module:
    model = nn.Sequential(nn.Conv2d(1, 2, 3), nn.ReLU())
    return symbolic_trace(model) if kind == "graph" else model


def test_the_example_holds_every_field():
    assert not [field.name for field in fields(Record) if getattr(FULL, field.name) == field.default]


@pytest.mark.parametrize("kind", ["module", "graph"])
@pytest.mark.parametrize("make", COPIES.values(), ids=COPIES)
def test_a_copy_has_the_whole_record_and_may_change_it_alone(make: Callable, kind: str):
    if kind == "graph" and make is COPIES["replica"]:
        pytest.skip("torch replicates no graph")
    model = network(kind)
    set_record(model, FULL)
    made = unwrapped(make(model))
    assert get_record(made) == FULL
    if made is not model:
        set_record(made, replace(get_record(made), task=None))
        assert get_record(model) == FULL and get_record(made) == replace(FULL, task=None)


def test_layers_of_one_group_still_share_it_in_a_copy():
    model = network("module")
    for index, layer in enumerate(model):
        set_record(layer, Record(member=Member(GROUP, index)))
    for made in (copy.deepcopy(model), pickle.loads(pickle.dumps(model))):
        first, second = (get_record(layer).member for layer in made)
        assert first.group is second.group and first.group is not GROUP and second.index == 1


def test_a_new_trace_starts_without_a_record():
    model = network("module")
    set_record(model, FULL)
    assert get_record(symbolic_trace(model)) == Record()


def test_each_note_leaves_the_others():
    model = network("module")
    set_base(model, "resnet8", {"num_classes": 2})
    lc.set_task(model, TASK)
    set_sparse(model, ("0.weight",))
    lc.set_task(model, None)
    assert get_base(model) == {"name": "resnet8", "kwargs": {"num_classes": 2}}
    assert get_sparse(model) == ("0.weight",) and lc.get_task(model) is None


def test_a_note_holds_no_state_and_no_weights():
    model = network("module")
    before = [*model.state_dict()]
    set_record(model, FULL)
    assert [*model.state_dict()] == before
    assert not [
        key for layer in model.modules() for key in vars(layer) if key.startswith("leanconv_") and layer is not model
    ]


def test_a_copy_of_an_optimised_network_still_is_one(tmp_path):
    fast = lc.optimize(lc.create_model("resnet8").eval(), torch.randn(1, 3, 16, 16), measured=False)
    made = copy.deepcopy(fast)
    assert get_record(made) == get_record(fast) and lc.forms_chosen(made) == lc.forms_chosen(fast)
    with pytest.raises(lc.LeanconvError, match="an optimised network is not saved"):
        lc.save(made, tmp_path)
