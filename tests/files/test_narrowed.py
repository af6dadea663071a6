"""Networks with fewer channels and blocks are saved and loaded, alone and with lean operators."""

from __future__ import annotations

import json

import pytest
import torch
from torch import nn

import leanconv as lc
from leanconv.conversion.channel_plan import Selection
from leanconv.core.errors import FileError, SettingError
from leanconv.files.save import METADATA_KEY, description


@pytest.fixture(scope="module")
def thin():
    torch.manual_seed(0)
    return lc.prune(lc.shallower(lc.create_model("resnet20", width=8), 0.8), 0.6, align=2).eval()


def test_a_pruned_network_loads_by_name(thin, tmp_path):
    again = lc.load(lc.save(thin, tmp_path))
    x = torch.randn(1, 3, 32, 32)
    assert torch.equal(again(x), thin(x)) and lc.count(again) == lc.count(thin)
    assert len(lc.channel_plans(again)) == 2 and description(again) == description(thin)


def test_it_becomes_lean_and_both_plans_are_in_one_file(thin, tmp_path):
    lean = lc.convert(thin, lc.Split(0.5), "fit", where="layer3*").eval()
    assert lc.convert(thin, lc.plan_of(lean)) is not lean
    again = lc.load(lc.save(lean, tmp_path))
    x = torch.randn(1, 3, 32, 32)
    assert torch.equal(again(x), lean(x)) and lc.plan_of(again) == lc.plan_of(lean)
    found = lc.inspect(again).to_json()
    assert found["before"]["params"] == lc.count(thin).params > found["after"]["params"]


def test_a_network_without_a_name_is_handed_in_dense(tmp_path):
    def build():
        return nn.Sequential(nn.Conv2d(3, 8, 3), nn.BatchNorm2d(8), nn.ReLU(), nn.Conv2d(8, 4, 1)).eval()

    graph = lc.channel_graph(build(), (3, 8, 8))
    model = lc.apply_channels_(build(), lc.ChannelPlan((Selection(graph.of("0"), (1, 5, 6)),)))
    lc.save(model, tmp_path)
    dense = build()
    again = lc.load(tmp_path, model=dense)
    x = torch.randn(1, 3, 8, 8)
    assert torch.equal(again(x), model(x)) and dense[0].out_channels == 8
    assert torch.equal(lc.load(tmp_path, model=again)(x), model(x))
    with pytest.raises(FileError, match="does not say how to build"):
        lc.load(tmp_path)


def test_a_part_that_is_narrower_is_saved_in_the_whole(thin, tmp_path):
    class Whole(nn.Module):
        def __init__(self, part):
            super().__init__()
            self.part = part

        def forward(self, x):
            return self.part(x)

    lc.save(Whole(thin).eval(), tmp_path)
    again = lc.load(tmp_path, model=Whole(lc.create_model("resnet20", width=8)))
    x = torch.randn(1, 3, 32, 32)
    assert torch.equal(again(x), thin(x))


def test_a_file_cannot_ask_for_another_network(thin, tmp_path):
    from safetensors import safe_open
    from safetensors.torch import save_file

    file = lc.save(thin, tmp_path) / "model.safetensors"
    with safe_open(file, "pt") as opened:
        info = json.loads(opened.metadata()[METADATA_KEY])
        tensors = {name: opened.get_tensor(name) for name in opened.keys()}  # noqa: SIM118
    for change, said in [
        (lambda i: i["channels"].pop(), "belongs to another network"),
        (lambda i: i.update(channels=3), "no list of plans"),
        (lambda i: i["channels"][0].update(removed=["nowhere"]), "'nowhere', which CifarResNet does not have"),
        (lambda i: i["channels"][1]["selections"].clear(), "belongs to another network"),
    ]:
        changed = json.loads(json.dumps(info))
        change(changed)
        save_file(tensors, file, metadata={METADATA_KEY: json.dumps(changed)})
        with pytest.raises((FileError, SettingError), match=said):
            lc.load(tmp_path)


def test_files_of_the_format_before_load(tmp_path):
    from safetensors import safe_open
    from safetensors.torch import save_file

    model = lc.create_model("resnet20", width=8).eval()
    file = lc.save(model, tmp_path) / "model.safetensors"
    with safe_open(file, "pt") as opened:
        info = json.loads(opened.metadata()[METADATA_KEY])
        tensors = {name: opened.get_tensor(name) for name in opened.keys()}  # noqa: SIM118
    del info["channels"]
    save_file(tensors, file, metadata={METADATA_KEY: json.dumps(info | {"version": 2})})
    x = torch.randn(1, 3, 32, 32)
    assert torch.equal(lc.load(tmp_path)(x), model(x))
