from __future__ import annotations

import json

import pytest
import torch
from torch import nn
from torch.nn.utils import prune

import leanconv as lc
from leanconv.core.errors import FileError, SettingError


@pytest.fixture
def resnet():
    return lc.create_model("resnet20")


def names(plan):
    return [site.name for group in plan.groups for site in group.sites]


def reasons(plan):
    return {kept.site.name: kept.reason for kept in plan.kept}


def test_every_convolution_is_planned_or_kept_with_a_reason(resnet):
    plan = lc.plan(resnet, lc.TiedBlock(4))
    convs = [name for name, module in resnet.named_modules() if isinstance(module, nn.Conv2d)]
    assert sorted(names(plan) + list(reasons(plan))) == sorted(convs)
    assert reasons(plan) == {"conv1": "blocks=4 must divide in_channels=3; 1 would"}


def test_a_glob_crosses_dots_and_several_may_be_given(resnet):
    assert names(lc.plan(resnet, lc.TiedBlock(), "layer1*conv2")) == [f"layer1.{i}.conv2" for i in range(3)]
    both = lc.plan(resnet, lc.TiedBlock(), ["layer1.0.conv1", "layer3.2.*"], exclude="*.conv2")
    assert names(both) == ["layer1.0.conv1", "layer3.2.conv1"]
    assert reasons(both)["layer3.2.conv2"] == "excluded" and reasons(both)["conv1"] == "no rule matches it"


def test_where_may_be_a_function_of_the_site(resnet):
    plan = lc.plan(resnet, lc.TiedBlock(), lambda site: site.spec.stride == (2, 2))
    assert names(plan) == ["layer2.0.conv1", "layer2.0.shortcut.0", "layer3.0.conv1", "layer3.0.shortcut.0"]


def test_the_first_rule_that_matches_decides_even_if_its_method_rejects(resnet):
    plan = lc.plan(
        resnet, [("conv1", lc.TiedBlock(2)), ("layer1.0*", None), ("layer1*", lc.Split()), ("*", lc.TiedBlock(8))]
    )
    assert reasons(plan)["conv1"].startswith("blocks=2 must divide in_channels=3")
    assert reasons(plan)["layer1.0.conv1"] == "a rule keeps it dense"
    methods = {site.name: group.method for group in plan.groups for site in group.sites}
    assert methods["layer1.1.conv1"] == lc.Split() and methods["layer2.0.conv1"] == lc.TiedBlock(8)


def test_a_rule_that_matches_nothing_is_an_error(resnet):
    with pytest.raises(SettingError, match=r"where='features\*' matches none of the 21 convolutions \('conv1'"):
        lc.plan(resnet, lc.TiedBlock(), "features*")


def test_stages_follow_the_output_size(resnet):
    plan = lc.plan(resnet, lc.TiedBlock())
    stages = {site.name: site.stage for site in plan.sites()}
    assert (stages["conv1"], stages["layer1.2.conv2"], stages["layer2.0.conv1"], stages["layer3.2.conv1"]) == (
        0,
        0,
        1,
        2,
    )
    moved = lc.plan(resnet, lc.TiedBlock(), stages={"layer3*": 7})
    assert {site.stage for site in moved.sites() if site.name.startswith("layer3")} == {7}


def test_ranks_grow_with_the_stage_and_are_written_out(resnet):
    plan = lc.plan(resnet, lc.SharedBasis(shared=8, unique=1), exclude=["conv1", "layer?.0.*"])
    assert [(g.method.shared, g.method.unique, g.method.growth, len(g.sites)) for g in plan.groups] == [
        (8, 1, 1, 4),
        (16, 2, 1, 4),
        (32, 4, 1, 4),
    ]
    later = lc.plan(
        resnet, lc.SharedBasis(shared=8), "layer3.[12]*"
    )  # the first stage that converts has the given rank
    assert [g.method.shared for g in later.groups] == [8]


def test_sharing_needs_stages_and_says_how_to_give_them():
    model = nn.Sequential(nn.Conv2d(4, 4, 3), nn.Conv2d(4, 4, 3))
    with pytest.raises(SettingError, match="the stage of '0' is unknown; pass plan"):
        lc.plan(model, lc.SharedBasis())
    assert len(lc.plan(model, lc.SharedBasis(shared=2), stages={"*": 0}).groups) == 1
    assert len(lc.plan(model, lc.SharedBasis(shared=1, growth=1), input_size=(4, 9, 9)).groups) == 2
    assert len(lc.plan(model, lc.TiedBlock()).groups) == 2  # a local method needs none


def test_equal_shapes_in_two_stages_are_not_one_group():
    vgg = lc.create_model("vgg16")
    last = [len(group.sites) for group in lc.plan(vgg, lc.DepthShared(scope="stage"), "*").groups]
    whole = [len(group.sites) for group in lc.plan(vgg, lc.DepthShared(scope="network"), "*").groups]
    assert sorted(whole) == [2, 5] and max(last) == 3


def test_depth_shared_resolves_blends_to_the_last_use_of_each_stage(resnet):
    plan = lc.plan(lc.create_model("vgg16"), lc.DepthShared(blend=True))
    five = next(group for group in plan.groups if len(group.sites) == 5)
    assert five.method.blend == (1, 4)
    single = reasons(lc.plan(resnet, lc.DepthShared(), exclude="conv1"))
    assert single["layer2.0.conv1"].startswith("nothing to share with")


def test_a_subclass_of_conv2d_stays_unless_opted_in():
    model = lc.create_model("timm/tf_efficientnet_b0")
    plan = lc.plan(model, lc.TiedBlock(), "blocks.*")
    assert reasons(plan)["conv_stem"] == "Conv2dSame is a subclass of Conv2d; opt in with subclasses="
    own = type("Own", (nn.Conv2d,), {})
    assert names(lc.plan(nn.Sequential(own(4, 4, 3)), lc.TiedBlock(), subclasses=[own])) == ["0"]


def test_hooks_and_uncalled_convolutions_stay():
    hooked = nn.Sequential(nn.Conv2d(4, 4, 1))
    hooked[0].register_forward_pre_hook(lambda *_: None)
    assert "forward hooks" in reasons(lc.plan(hooked, lc.TiedBlock()))["0"]

    class Auxiliary(nn.Module):
        def __init__(self):
            super().__init__()
            self.used, self.aux = nn.Conv2d(4, 4, 1), nn.Conv2d(4, 4, 1)

        def forward(self, x):
            return self.used(x)

    assert "never calls it" in reasons(lc.plan(Auxiliary(), lc.TiedBlock(), input_size=(4, 5, 5)))["aux"]


def test_convolutions_that_share_a_parameter_stay():
    model = nn.Sequential(nn.Conv2d(4, 4, 3), nn.Conv2d(4, 4, 3), nn.Conv2d(4, 4, 3))
    model[1].weight = model[0].weight
    plan = lc.plan(model, lc.TiedBlock())
    assert names(plan) == ["2"]
    assert reasons(plan)["0"] == "it shares a parameter with '1'; a conversion would end the sharing"


def test_a_network_that_looks_at_values_is_run_with_its_weights():
    class Values(nn.Module):
        default_input_size = (4, 6, 6)

        def __init__(self):
            super().__init__()
            self.convs = nn.ModuleList(nn.Conv2d(4, 4, 3, padding=1) for _ in range(2))

        def forward(self, x):
            for conv in self.convs:
                x = conv(x)
                if x.sum() > 0:
                    x = -x
            return x

    plan = lc.plan(Values(), lc.TiedBlock())
    assert [site.sizes for site in plan.sites()] == [((6, 6),), ((6, 6),)]
    assert len(lc.plan(Values(), lc.SharedBasis(shared=2)).groups) == 1


def test_a_network_that_does_not_run_can_be_planned_where_no_stage_is_needed():
    class Broken(nn.Sequential):
        default_input_size = (3, 6, 6)

    model = Broken(nn.Conv2d(4, 4, 3), nn.Conv2d(4, 4, 3))
    assert len(names(lc.plan(model, lc.TiedBlock()))) == 2
    with pytest.raises(SettingError, match="does not run on an input of"):
        lc.plan(model, lc.TiedBlock(), input_size=(3, 6, 6))
    with pytest.raises(SettingError, match="is unknown; pass plan"):
        lc.plan(model, lc.SharedBasis())


@pytest.mark.parametrize(
    ("model", "settings", "message"),
    [
        (nn.Conv2d(4, 4, 3), dict(method=lc.TiedBlock), "must be a method such as TiedBlock"),
        (nn.Conv2d(4, 4, 3), dict(method="split"), "must be a method such as TiedBlock"),
        (nn.Conv2d(4, 4, 3), dict(method=lc.Split(), input_size=(9, 9)), r"input_size=\(9, 9\) must be"),
        (nn.Conv2d(4, 4, 3), dict(method=lc.Split(), input_size=9), "input_size=9 must be"),
        (nn.Conv2d(4, 4, 3), dict(method=lc.Split(), input_size=(4, -9, 9)), "three whole numbers of at least 1"),
        (nn.Conv2d(4, 4, 3), dict(method=lc.Split(), stages=[1]), r"stages=\[1\] must be"),
        (nn.Conv2d(4, 4, 3), dict(method=lc.Split(), subclasses=nn.Conv1d), "must be subclasses of nn.Conv2d"),
        ("resnet20", dict(method=lc.Split()), "a network must be a torch.nn.Module, not str"),
        (nn.Conv2d(4, 4, 3), dict(method=lc.Split(), where=3), "must be a glob of the names of layers"),
        (nn.Conv2d(4, 4, 3), dict(method=lc.Split(), where=nn.ReLU()), "must be a glob of the names of layers"),
        (nn.LazyConv2d(4, 3), dict(method=lc.Split()), "is lazy and has no shape yet; run the model once"),
    ],
)
def test_bad_use_is_one_clear_error(model, settings, message):
    with pytest.raises(SettingError, match=message):
        lc.plan(model, **settings)


def test_reparametrised_weights_are_named():
    model = nn.Sequential(nn.Conv2d(4, 4, 3))
    prune.l1_unstructured(model[0], "weight", amount=0.5)
    plan = lc.plan(model, lc.DepthShared(), input_size=(4, 6, 6))
    assert "is computed from other tensors" in reasons(plan)["0"]


def test_plans_never_look_inside_operators(resnet):
    lean = lc.convert(resnet, lc.plan(resnet, lc.Split(), "layer1*conv?"))
    again = lc.plan(lean, lc.TiedBlock())
    assert not any(".grouped" in name or ".redundant" in name for name in names(again) + list(reasons(again)))


def test_a_convolution_called_twice_counts_twice():
    class Twice(nn.Module):
        def __init__(self):
            super().__init__()
            self.conv = nn.Conv2d(4, 4, 3, stride=2, padding=1)

        def forward(self, x):
            return self.conv(self.conv(x))

    plan = lc.plan(Twice(), lc.TiedBlock(), input_size=(4, 8, 8))
    assert plan.groups[0].sites[0].sizes == ((4, 4), (2, 2))
    lean = lc.convert(Twice(), plan)
    assert sum(plan.groups[0].macs()) == lc.count(lean, (4, 8, 8)).macs == 4 * 4 * 9 // 2 * 20


def test_frames_in_the_batch_count_each():
    class Frames(nn.Module):
        def __init__(self):
            super().__init__()
            self.conv = nn.Conv2d(4, 8, 3, padding=1)

        def forward(self, x):
            n, _, h, w = x.shape
            return self.conv(x.reshape(n * 4, 4, h, w)).reshape(n, 4, 8, h, w).mean(1)

    plan = lc.plan(Frames(), lc.TiedBlock(blocks=2), input_size=(16, 8, 6))
    (site,) = plan.sites()
    assert site.sizes == ((8, 6),) * 4 and site.stage == 0
    assert site.macs() == lc.count(Frames(), (16, 8, 6)).macs
    assert sum(plan.groups[0].macs()) == lc.count(lc.convert(Frames(), plan), (16, 8, 6)).macs


def test_works_on_the_meta_device():
    with torch.device("meta"):
        model = lc.create_model("timm/resnet50")
    plan = lc.plan(model, lc.TiedBlock(2))
    assert len(names(plan)) == 52
    lean = lc.convert(model, plan)
    assert {p.device.type for p in lean.parameters()} == {"meta"}
    assert lc.count(lean).params == plan.params() + sum(
        p.numel() for m in model.modules() if not isinstance(m, nn.Conv2d) for p in m.parameters(recurse=False)
    )


@pytest.mark.parametrize(
    "method", [lc.TiedBlock(4), lc.SharedBasis(bases=2), lc.DepthShared(blend=True), lc.Split(0.25)]
)
def test_goes_to_json_and_back(resnet, method):
    plan = lc.plan(resnet, method, exclude="conv1")
    text = json.dumps(plan.to_json())
    assert lc.Plan.from_json(json.loads(text)) == plan


@pytest.mark.parametrize(
    "spoil",
    [
        lambda value: value.pop("groups"),
        lambda value: value["groups"][0].update(method="prune"),
        lambda value: value["groups"][0]["settings"].update(blocks=0),
        lambda value: value["groups"][0]["settings"].update(extra=1),
        lambda value: value["groups"][0]["sites"][0].pop("conv"),
        lambda value: value["groups"][0]["sites"][0]["conv"].update(kernel_size="3"),
        lambda value: value.update(input_size="large"),
        lambda value: value.update(kept=3),
    ],
)
def test_a_spoilt_json_plan_is_one_clear_error(resnet, spoil):
    value = lc.plan(resnet, lc.TiedBlock(4)).to_json()
    spoil(value)
    with pytest.raises((FileError, SettingError)) as error:
        lc.Plan.from_json(value)
    assert "\n" not in str(error.value)


def test_kept_convolutions_come_in_the_order_of_the_network():
    model = lc.create_model("resnet8")
    made = lc.plan(model, lc.TiedBlock(2), exclude=["*conv2", "conv1"], input_size=(3, 32, 32))
    names = [name for name, _ in model.named_modules()]
    places = [names.index(item.site.name) for item in made.kept]
    assert len(places) > 2 and places == sorted(places)
