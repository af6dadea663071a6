"""Networks whose code does what one plain forward pass does not show: hooks, closures, training mode, objects as outputs."""

from __future__ import annotations

import copy
import dataclasses
import functools
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

import leanconv as lc
from leanconv.conversion.channel_plan import ChannelPlan, Selection, apply_channels_
from leanconv.conversion.channels import channel_graph
from leanconv.core.copying import copied
from leanconv.core.errors import LeanconvWarning, SettingError

SIZE = (3, 8, 8)
IMAGES = torch.randn(4, *SIZE, generator=torch.Generator().manual_seed(0))


class Base(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.c1, self.c2, self.c3 = nn.Conv2d(3, 8, 3, padding=1), nn.Conv2d(8, 8, 3, padding=1), nn.Conv2d(8, 4, 1)

    def middle(self, x: Tensor) -> Tensor:
        return self.c2(x)

    def forward(self, x: Tensor) -> Any:
        return self.c3(F.relu(self.middle(F.relu(self.c1(x)))))


def mixed(model: nn.Module) -> nn.Module:
    """`model`, with the channels of each set in the reverse order."""
    orders = {found.name: range(found.size)[::-1] for found in channel_graph(model, SIZE).sets}
    return lc.permute_channels_(model, orders, SIZE)


def test_a_function_that_captured_the_network_uses_the_copy() -> None:
    class Captures(Base):
        def __init__(self) -> None:
            super().__init__()
            layer = self.c2
            self.f = lambda x: self.c2(x)
            self.more = [functools.partial(lambda conv, x: conv(x) + layer(x), layer)]

        def middle(self, x: Tensor) -> Tensor:
            return self.f(x) + self.more[0](x)

    model = Captures().eval()
    copies = [copied(model), lc.prune(model, ratios={"c1": 0.5}, align=1, input_size=SIZE)]
    before = [twin(IMAGES) for twin in copies]
    torch.testing.assert_close(before[0], model(IMAGES))
    with torch.no_grad():
        model.c2.weight.zero_()
    for twin, wanted in zip(copies, before, strict=True):
        assert torch.equal(twin(IMAGES), wanted)


def test_a_function_that_captured_the_network_in_an_object_is_refused() -> None:
    class Holder:
        def __init__(self, layer: nn.Module) -> None:
            self.layer = layer

    model = Base()
    holder = Holder(model.c2)
    model.f = lambda x: holder.layer(x)
    with pytest.raises(SettingError, match=r"'f' is a function that captured .* make it a method"):
        copied(model)


def test_channels_that_a_hook_scales_stay_where_they_are() -> None:
    model, scale = Base().eval(), torch.arange(8.0).view(1, -1, 1, 1)
    model.c1.register_forward_hook(lambda module, args, out: out * scale)
    before = model(IMAGES)
    graph = channel_graph(model, SIZE)
    assert graph.fixed["c1"] and [found.name for found in graph.sets] == ["c2"]
    torch.testing.assert_close(mixed(model)(IMAGES), before)


def test_a_hook_that_pools_the_input_counts_and_the_lists_of_hooks_stay_as_they_are() -> None:
    model, seen = Base(), []
    plain = lc.count(model, SIZE).macs
    model.register_forward_pre_hook(lambda module, args: (F.avg_pool2d(args[0], 2),))
    model.c1.register_forward_hook(lambda module, args, out: seen.append(out))
    assert lc.count(model, SIZE).macs == plain // 4 and not seen


@dataclasses.dataclass
class Maps:
    early: Tensor


class Plain:
    def __init__(self, early: Tensor) -> None:
        self.early = early


@pytest.mark.parametrize("kind", [Maps, Plain])
def test_an_output_in_an_object_is_an_output(kind: Any) -> None:
    class Gives(Base):
        def forward(self, x: Tensor) -> Any:
            self.c3(F.relu(self.c2(early := self.c1(x))))
            return kind(early)

    graph = channel_graph(Gives(), SIZE)
    assert [found.name for found in graph.sets] == ["c2"] and graph.fixed["c1"] == "the network gives it out"


def test_an_output_without_a_tensor_is_refused() -> None:
    class Nothing(Base):
        def forward(self, x: Tensor) -> Any:
            return str(super().forward(x).shape)

    with pytest.raises(SettingError, match="in which no tensor is found"):
        channel_graph(Nothing(), SIZE)


class Auxiliary(Base):
    """A second head, and a penalty, only in training mode."""

    def __init__(self) -> None:
        super().__init__()
        self.aux, self.drop = nn.Conv2d(8, 2, 1), nn.Dropout(0.5)

    def forward(self, x: Tensor) -> Any:
        y = F.relu(self.c2(F.relu(self.c1(x))))
        if not self.training:
            return self.c3(y)
        return self.c3(y), self.aux(y), F.dropout(y, 0.0, self.training).sum()


def test_a_head_that_runs_only_in_training_mode_reads_the_channels_too() -> None:
    model = Auxiliary().train()
    before = model(IMAGES)
    assert {found.name for found in channel_graph(model, SIZE).sets} == {"c1", "c2"}
    torch.testing.assert_close(mixed(model)(IMAGES), before)


def test_a_weight_that_is_read_only_in_training_mode_keeps_its_layer() -> None:
    class Penalty(Base):
        def forward(self, x: Tensor) -> Any:
            y = super().forward(x)
            return (y, self.c2.weight.square().sum()) if self.training else y

    (kept,) = (item for item in lc.plan(Penalty(), lc.TiedBlock(2), input_size=SIZE).kept if item.site.name == "c2")
    assert "outside of the layer" in kept.reason


class Listed(Base):
    """Its blocks are in a plain list too, by which it calls them."""

    class Block(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.conv = nn.Conv2d(8, 8, 3, padding=1)

        def forward(self, x: Tensor) -> Tensor:
            return x + F.relu(self.conv(x))

    def __init__(self, kind: type = list) -> None:
        super().__init__()
        self.r1, self.r2 = self.Block(), self.Block()
        self.blocks = kind([self.r1, self.r2])

    def middle(self, x: Tensor) -> Tensor:
        for block in self.blocks:
            x = block(x)
        return x


def test_a_removed_block_does_not_run_from_a_list() -> None:
    model = Listed().eval()
    thin = apply_channels_(copy.deepcopy(model), ChannelPlan(removed=("r2",)))
    assert isinstance(thin.blocks[1], nn.Identity) and not torch.equal(thin(IMAGES), model(IMAGES))
    assert lc.count(thin, SIZE).macs < lc.count(model, SIZE).macs


def test_weights_that_are_tied_by_their_memory_stay_tied() -> None:
    model = nn.Sequential(*(nn.Conv2d(8, 8, 1, bias=False) for _ in range(2)), nn.Conv2d(8, 4, 1, bias=False))
    model = nn.Sequential(nn.Conv2d(3, 8, 1), *model).eval()
    model[2].weight.data = model[1].weight.data
    before = model(IMAGES)
    torch.testing.assert_close(mixed(model)(IMAGES), before)
    thin = lc.prune(model, 0.5, align=1, input_size=SIZE)
    assert thin[1].weight.data_ptr() == thin[2].weight.data_ptr() and len(thin[1].weight) < 8


def test_channels_of_a_view_of_another_weight_are_refused() -> None:
    model = nn.Sequential(nn.Conv2d(3, 8, 1, bias=False), nn.Conv2d(8, 8, 1, bias=False))
    graph = channel_graph(model, SIZE)
    model[0].weight.data = model[1].weight.data.flatten()[:24].view(8, 3, 1, 1)
    with pytest.raises(SettingError, match="are different views of one memory"):
        apply_channels_(model, ChannelPlan((Selection(graph.of("0"), tuple(range(4))),)))


def test_the_code_of_a_network_may_pick_channels_and_write_into_a_tensor() -> None:
    class Picks(Base):
        def middle(self, x: Tensor) -> Tensor:
            picked = torch.index_select(x, 1, torch.arange(7, -1, -1, device=x.device))
            return self.c2(torch.cat([picked], 1, out=x.new_empty(x.shape)))

    model = Picks().eval()
    graph = channel_graph(model, SIZE)
    assert graph.fixed["c1"] == "index_select is not followed"
    with torch.no_grad():
        before = model(IMAGES)
        torch.testing.assert_close(mixed(model)(IMAGES), before)


@pytest.mark.filterwarnings("ignore:.*torch.jit.*")
def test_a_scripted_layer_inside_is_fixed() -> None:
    model = Base().eval()
    model.c2 = torch.jit.script(model.c2)
    with torch.no_grad():
        before = model(IMAGES)
        graph = channel_graph(model, SIZE)
        assert graph.fixed == dict.fromkeys(("c2",), "it is scripted") | {
            "c1": "it is scripted",
            "c3": "the network gives it out",
        } or "c2" not in {found.name for found in graph.sets}
        torch.testing.assert_close(mixed(model)(IMAGES), before)
    assert [site.name for site in lc.plan(model, lc.TiedBlock(2), input_size=SIZE).sites()]


def test_frames_in_the_batch_share_the_computed_weight_of_a_call() -> None:
    class Frames(Base):
        def __init__(self) -> None:
            super().__init__()
            self.c4 = nn.Conv2d(8, 8, 3, padding=1)

        def forward(self, x: Tensor) -> Tensor:
            x = x[:, None].expand(-1, 3, -1, -1, -1).flatten(0, 1)
            return self.c3(self.c4(self.c2(self.c1(x))))

    model = Frames()
    plan = lc.plan(model, lc.DepthShared(adapter_rank=2), where=["c2", "c4"], input_size=SIZE)
    assert [(site.name, site.maps) for group in plan.groups for site in group.sites] == [("c2", (3,)), ("c4", (3,))]
    assert lc.Plan.from_json(plan.to_json()).groups == plan.groups
    found = lc.count(lc.convert(model, plan), SIZE).macs - lc.count(model, SIZE).macs
    dense = sum(site.macs() for group in plan.groups for site in group.sites)
    assert sum(sum(group.macs()) for group in plan.groups) - dense == found > 0


def test_dropout_in_eval_mode_does_not_shrink_a_sequential_fit() -> None:
    class Drops(Base):
        def middle(self, x: Tensor) -> Tensor:
            return self.c2(F.dropout(x, 0.5))

    model = Drops().eval()
    images = torch.randn(64, *SIZE)
    lean = lc.convert(model, lc.LowRank(rank=7), "fit", data=[images], sequential=True, where="c2", input_size=SIZE)
    assert lean.c2.weight_dense().norm() > 0.95 * model.c2.weight.norm()


def test_a_converted_layer_refuses_another_dilation() -> None:
    lean = lc.convert(Base(), lc.TiedBlock(2), where="c2")
    lean.c2.dilation = (1, 1)
    with pytest.raises(SettingError, match="change the dense layer before convert"):
        lean.c2.dilation = (2, 2)


def test_synchronised_norms_inside_operators_keep_their_function() -> None:
    lean = lc.convert(Base(), lc.SharedBasis(4, 1), "fit", where="c2", input_size=SIZE).eval()
    synchronised = nn.SyncBatchNorm.convert_sync_batchnorm(copy.deepcopy(lean)).eval()
    for model in (lean, synchronised):
        lc.reestimate_norms_(model, [IMAGES])
    torch.testing.assert_close(synchronised(IMAGES), lean(IMAGES))


def test_norms_that_are_not_estimated_again_are_named() -> None:
    model = nn.Sequential(nn.Conv2d(3, 4, 1), nn.InstanceNorm2d(4, track_running_stats=True), nn.BatchNorm2d(4))
    with pytest.warns(LeanconvWarning, match=r"'1' \(InstanceNorm2d\) stay as they are"):
        lc.reestimate_norms_(model, [IMAGES])


def test_inference_mode_is_refused_where_a_network_would_be_made() -> None:
    model = Base()
    with torch.inference_mode():
        assert [found.name for found in channel_graph(model, SIZE).sets] == ["c1", "c2"]
        for make in (lambda: lc.convert(model, lc.TiedBlock(2)), lambda: lc.prune(model, 0.5, input_size=SIZE)):
            with pytest.raises(SettingError, match=r"within torch\.inference_mode cannot be trained"):
                make()
