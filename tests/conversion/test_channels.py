from __future__ import annotations

import json

import pytest
import timm
import torch
from torch import nn

import leanconv as lc
from leanconv.conversion.channel_plan import Selection
from leanconv.conversion.channels import Place, follow, ranges, unranged
from leanconv.conversion.narrowing import removable
from leanconv.core.errors import FileError, SettingError
from tests.conversion.permuted import permuted_error, unsettled

SIZE = (3, 16, 16)


def places(graph, name):
    return {(place.tensor, place.dim): place.index for place in graph.of(name).places}


class Residual(nn.Module):
    def __init__(self):
        super().__init__()
        self.stem = nn.Conv2d(3, 8, 1)
        self.inner = nn.Sequential(nn.Conv2d(8, 6, 3, padding=1), nn.ReLU(), nn.Conv2d(6, 8, 3, padding=1))
        self.head = nn.Conv2d(8, 5, 1)

    def forward(self, x):
        x = self.stem(x)
        return self.head(x + self.inner(x))


def test_a_residual_sum_couples_its_terms():
    graph = lc.channel_graph(Residual(), SIZE)
    assert [found.name for found in graph.sets] == ["stem", "inner.0"]
    assert set(places(graph, "stem")) == {
        ("stem.weight", 0),
        ("stem.bias", 0),
        ("inner.0.weight", 1),
        ("inner.2.weight", 0),
        ("inner.2.bias", 0),
        ("head.weight", 1),
    }
    assert graph.fixed == {"head": "the network gives it out"}


class Joined(nn.Module):
    def __init__(self):
        super().__init__()
        self.left, self.right = nn.Conv2d(3, 4, 1), nn.Conv2d(3, 6, 1)
        self.norm = nn.BatchNorm2d(10)
        self.fc = nn.Linear(10 * 4, 3)

    def forward(self, x):
        x = self.norm(torch.cat([self.left(x), self.right(x)], 1))
        return self.fc(nn.functional.adaptive_avg_pool2d(x, 2).flatten(1))


def test_a_concatenation_and_flattening_keep_their_offsets():
    graph = lc.channel_graph(Joined(), SIZE)
    right = places(graph, "right")
    assert right["norm.running_var", 0] == tuple(range(4, 10))
    assert right["fc.weight", 1] == tuple(range(16, 40))
    assert places(graph, "left")["fc.weight", 1] == tuple(range(16))


class Shuffled(nn.Module):
    """Channels of two groups, interleaved, as in ShuffleNet."""

    def __init__(self):
        super().__init__()
        self.first, self.last = nn.Conv2d(3, 6, 1), nn.Conv2d(6, 2, 1)

    def forward(self, x):
        x = self.first(x)
        n, c, h, w = x.shape
        return self.last(x.view(n, 2, c // 2, h, w).transpose(1, 2).reshape(n, c, h, w))


def test_a_shuffle_is_followed_and_no_channel_is_removed():
    found = lc.channel_graph(Shuffled(), SIZE).sets[0]
    assert dict(zip(found.places[0].index, found.places[-1].index, strict=True)) == {0: 0, 1: 2, 2: 4, 3: 1, 4: 3, 5: 5}
    assert found.whole == "the code divides it"
    assert permuted_error(unsettled(Shuffled()), SIZE)[0] < 1e-12


class Written(nn.Module):
    """The code states the number of channels: with fewer the view would mix images, and run."""

    def __init__(self):
        super().__init__()
        self.first, self.mid, self.last = nn.Conv2d(3, 8, 1), nn.Conv2d(8, 8, 1), nn.Linear(8, 2)

    def forward(self, x):
        x = self.mid(self.first(x)).mean((2, 3))
        return self.last(x.view(-1, 8))


def test_a_size_in_the_code_is_found_by_trying():
    model = Written()
    graph = removable(model, *follow(model, SIZE))
    assert {found.name: found.whole is None for found in graph.sets} == {"first": True, "mid": False}


class Gated(nn.Module):
    """Attention over positions: one channel gates all; it must not couple them with each other."""

    def __init__(self):
        super().__init__()
        self.first, self.gate, self.last = nn.Conv2d(3, 8, 1), nn.Conv2d(2, 1, 3, padding=1), nn.Conv2d(8, 2, 1)

    def forward(self, x):
        x = self.first(x)
        both = torch.cat([x.mean(1, keepdim=True), x.amax(1, keepdim=True)], 1)
        return self.last(x * torch.sigmoid(self.gate(both)))


def test_a_gate_of_one_channel_couples_nothing():
    graph = lc.channel_graph(Gated(), SIZE)
    assert [(found.name, found.size) for found in graph.sets] == [("first", 8)]
    assert permuted_error(unsettled(Gated()), SIZE)[0] < 1e-12


def test_a_kernel_over_channels_and_a_computed_weight_fix_what_they_read():
    eca = lc.channel_graph(timm.create_model("ecaresnet26t"), (3, 64, 64))
    assert "a kernel moves over its channels" in eca.fixed.values()

    class Standardized(nn.Module):
        def __init__(self):
            super().__init__()
            self.conv = nn.Conv2d(3, 8, 3)
            self.last = nn.Conv2d(8, 2, 1)

        def forward(self, x):
            weight = self.conv.weight
            return self.last(nn.functional.conv2d(x, weight / weight.square().sum()))

    assert lc.channel_graph(Standardized(), SIZE).sets == ()


def test_groups_are_cells():
    model = nn.Sequential(nn.Conv2d(3, 8, 1), nn.Conv2d(8, 12, 3, groups=4), nn.GroupNorm(2, 12), nn.Conv2d(12, 2, 1))
    graph = lc.channel_graph(model, SIZE)
    assert graph.of("0").cells == (0, 0, 1, 1, 2, 2, 3, 3)
    assert graph.of("1").cells == (0, 0, 0, 1, 1, 1, 2, 2, 2, 3, 3, 3)
    with pytest.raises(SettingError, match="keep equally many of each"):
        Selection(graph.of("0"), (0, 1, 2, 4, 6))
    with pytest.raises(SettingError, match="each in its cell"):
        Selection(graph.of("0"), (2, 1, 0, 3, 4, 5, 6, 7))
    assert permuted_error(unsettled(model), SIZE)[0] < 1e-12


NETWORKS = {
    "timm/mobilenetv3_small_050": {},
    "timm/ghostnet_050": {},
    "timm/convnext_atto": {},
    "timm/regnety_002": {},
    "timm/vit_tiny_patch16_224": {"img_size": 32, "depth": 2},
    "timm/densenet121": {"block_config": (2, 3), "growth_rate": 16},
    "torchvision/shufflenet_v2_x0_5": {},
    "resnet20": {},
}


@pytest.mark.parametrize("name", NETWORKS)
def test_another_order_of_channels_computes_the_same(name):
    torch.manual_seed(0)
    error, graph = permuted_error(unsettled(lc.create_model(name, **NETWORKS[name])), (3, 32, 32))
    assert error < 1e-11
    assert sum(found.size for found in graph.sets) > 200


def test_a_depthwise_convolution_gets_fewer_groups_and_a_layer_with_two_names_is_cut_once():
    shared = nn.Conv2d(8, 8, 1)
    model = nn.Sequential(
        nn.Conv2d(3, 8, 1), nn.Conv2d(8, 16, 3, groups=8), nn.Conv2d(16, 8, 1), shared, nn.ReLU(), shared
    )
    model = nn.Sequential(model, nn.Conv2d(8, 2, 1)).to(memory_format=torch.channels_last)
    graph = lc.channel_graph(model, SIZE)
    assert [(found.name, found.size) for found in graph.sets] == [("0.0", 8), ("0.2", 8)]
    plan = lc.ChannelPlan((Selection(graph.of("0.0"), (1, 4, 6)), Selection(graph.of("0.2"), (0, 7))))
    weight = model[0][1].weight.detach().clone()
    thin = lc.apply_channels_(model, plan)
    assert thin[0][1].groups == 3 and thin[0][1].out_channels == 6
    assert torch.equal(thin[0][1].weight, weight[[2, 3, 8, 9, 12, 13]])
    assert thin[0][3].weight.shape == (2, 2, 1, 1) and thin[0][5] is thin[0][3]
    assert thin(torch.randn(1, *SIZE)).shape == (1, 2, 14, 14)


def test_a_grouped_weight_picks_the_inputs_of_each_group():
    model = nn.Sequential(nn.Conv2d(3, 6, 1), nn.Conv2d(6, 4, 1, groups=2, bias=False), nn.Conv2d(4, 2, 1))
    graph = lc.channel_graph(model, SIZE)
    weight = model[1].weight.detach().clone()
    lc.apply_channels_(model, lc.ChannelPlan((Selection(graph.of("0"), (0, 2, 4, 5)),)))
    assert (model[1].in_channels, model[1].groups) == (4, 2)
    assert torch.equal(model[1].weight[:2], weight[:2][:, [0, 2]]) and torch.equal(
        model[1].weight[2:], weight[2:][:, [1, 2]]
    )


def test_a_grouped_weight_with_one_input_left_in_each_group_keeps_its_groups():
    model = nn.Sequential(nn.Conv2d(3, 8, 1), nn.Conv2d(8, 12, 1, groups=4), nn.Conv2d(12, 2, 1))
    graph = lc.channel_graph(model, SIZE)
    weight = model[1].weight.detach().clone()
    lc.apply_channels_(model, lc.ChannelPlan((Selection(graph.of("0"), (0, 3, 5, 6)),)))
    assert (model[1].in_channels, model[1].out_channels, model[1].groups) == (4, 12, 4)
    assert torch.equal(model[1].weight[6:9], weight[6:9, [1]])
    assert model(torch.randn(1, *SIZE)).shape[1] == 2


@pytest.mark.parametrize("groups", [1, 8])
def test_two_layers_that_hold_one_weight_say_the_same_sizes(groups):
    first, second = (nn.Conv2d(8, 8, 3, padding=1, groups=groups, bias=False) for _ in range(2))
    second.weight = first.weight
    model = nn.Sequential(nn.Conv2d(3, 8, 1), first, nn.ReLU(), second, nn.Conv2d(8, 2, 1))
    lc.apply_channels_(model, lc.ChannelPlan((Selection(lc.channel_graph(model, SIZE).of("0"), (0, 2, 4, 5)),)))
    assert second.weight is first.weight and second.in_channels == second.out_channels == 4
    assert second.groups == first.groups == min(groups, 4)
    assert model(torch.randn(1, *SIZE)).shape[1] == 2


def test_a_channel_plan_is_json_and_fits_its_network_alone():
    model = Residual()
    plan = lc.ChannelPlan((Selection(lc.channel_graph(model, SIZE).of("stem"), (0, 2, 3)),))
    again = lc.ChannelPlan.from_json(json.loads(json.dumps(plan.to_json())))
    assert again.to_json() == plan.to_json()
    lc.apply_channels_(model, again)
    assert model.head.in_channels == 3
    with pytest.raises(SettingError, match=r"'stem.weight' has 3 channels in dimension 0 here, and 8 in the plan"):
        lc.apply_channels_(model, again)
    with pytest.raises(SettingError, match="is not in this one"):
        lc.apply_channels_(nn.Conv2d(3, 8, 1), again)


def test_channel_plans_of_parts_come_with_their_names():
    part = Residual()
    lc.apply_channels_(part, lc.ChannelPlan((Selection(lc.channel_graph(part, SIZE).of("stem"), (0, 1)),)))
    plans = lc.channel_plans(nn.Sequential(nn.Identity(), part))
    assert [item.set.places[0].tensor for item in plans[0].selections] == ["1.stem.weight"]


@pytest.mark.parametrize(
    "change",
    [
        lambda v: v.pop("removed"),
        lambda v: v["selections"][0].update(index=[[0, 99]]),
        lambda v: v["selections"][0].update(index=[[5, 2]]),
        lambda v: v["selections"][0]["set"].update(size=-1),
        lambda v: v["selections"][0]["set"].update(cells=[0]),
        lambda v: v["selections"][0]["set"]["places"][0].update(index=[[0, 10**12]]),
        lambda v: v["selections"][0]["set"]["places"][0].update(size=1),
    ],
)
def test_a_broken_channel_plan_is_one_error(change):
    value = lc.ChannelPlan((Selection(lc.channel_graph(Residual(), SIZE).of("stem"), (0,)),)).to_json()
    change(value)
    with pytest.raises(FileError, match="not a channel plan"):
        lc.ChannelPlan.from_json(value)


def test_ranges_are_read_as_they_were_written():
    numbers = (3, 4, 5, 0, 9, 8)
    assert unranged(ranges(numbers)) == numbers
    place = Place("a.weight", 1, 10, numbers)
    assert Place.from_json(place.to_json()) == place and place.layer == "a"
