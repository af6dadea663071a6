"""What a new module would lose, and what contradicts itself, stays dense with the reason; what changed since is refused."""

from __future__ import annotations

import types

import pytest
import torch
from torch import nn
from torch.nn.utils import parametrizations, parametrize, prune

import leanconv as lc
from leanconv.core.errors import LeanconvWarning, SettingError

HOOKS = {
    "forward": lambda conv: conv.register_forward_hook(print),
    "forward with keywords": lambda conv: conv.register_forward_hook(print, with_kwargs=True),
    "forward pre": lambda conv: conv.register_forward_pre_hook(print),
    "backward": lambda conv: conv.register_full_backward_hook(print),
    "backward pre": lambda conv: conv.register_full_backward_pre_hook(print),
    "state dict": lambda conv: conv.register_state_dict_post_hook(lambda *_: None),
    "state dict pre": lambda conv: conv.register_state_dict_pre_hook(print),
    "load": lambda conv: conv.register_load_state_dict_post_hook(print),
    "load pre": lambda conv: conv.register_load_state_dict_pre_hook(print),
    "weight": lambda conv: conv.weight.register_hook(print),
    "bias": lambda conv: conv.bias.register_hook(print),
    "accumulated": lambda conv: conv.weight.register_post_accumulate_grad_hook(print),
}
LOSSES = {
    "parametrised": (
        lambda conv: parametrize.register_parametrization(conv, "weight", nn.Identity()),
        "is parametrised",
    ),
    "weight norm": (lambda conv: parametrizations.weight_norm(conv), "is parametrised"),
    "spectral norm": (lambda conv: torch.nn.utils.spectral_norm(conv), "computed from other tensors"),
    "pruned": (lambda conv: prune.l1_unstructured(conv, "weight", 0.5), "computed from other tensors"),
    "own forward": (lambda conv: setattr(conv, "forward", types.MethodType(lambda self, x: x, conv)), "was replaced"),
    "parameter": (lambda conv: conv.register_parameter("gain", nn.Parameter(torch.ones(1))), "'gain'"),
    "buffer": (lambda conv: conv.register_buffer("mask", torch.ones(1)), "'mask'"),
    "child": (lambda conv: conv.add_module("act", nn.ReLU()), "'act'"),
}
CONTRADICTIONS = {
    "weight": (lambda conv: setattr(conv, "weight", nn.Parameter(torch.ones(4, 4, 5, 5))), "shape (4, 4, 5, 5)"),
    "groups": (lambda conv: setattr(conv, "groups", 2), "say (4, 2, 3, 3)"),
    "groups that divide nothing": (lambda conv: setattr(conv, "groups", 3), "groups=3 must divide"),
    "in_channels": (lambda conv: setattr(conv, "in_channels", 8), "say (4, 8, 3, 3)"),
    "out_channels": (lambda conv: setattr(conv, "out_channels", 8), "say (8, 4, 3, 3)"),
    "kernel_size": (lambda conv: setattr(conv, "kernel_size", (1, 1)), "say (4, 4, 1, 1)"),
    "stride": (lambda conv: setattr(conv, "stride", "two"), "stride='two' must be"),
    "bias": (lambda conv: setattr(conv, "bias", nn.Parameter(torch.ones(1))), "its bias has shape (1,)"),
    "bias dtype": (lambda conv: setattr(conv, "bias", _double(4)), "bias float64"),
    "complex": (lambda conv: setattr(conv, "weight", nn.Parameter(conv.weight.data + 0j)), "complex64"),
    "padding": (lambda conv: _pad_later(conv), "uses the old padding"),
}


def _double(width):
    return nn.Parameter(torch.ones(width, dtype=torch.float64))


def _pad_later(conv):
    conv.__init__(4, 4, 3, padding=1, padding_mode="reflect")
    conv.padding = (2, 2)


def two(change=lambda conv: None):
    model = nn.Sequential(nn.Conv2d(4, 4, 3), nn.Conv2d(4, 4, 3))
    change(model[0])
    return model


def reason(model, name="0"):
    plan = lc.plan(model, lc.TiedBlock())
    assert [site.name for group in plan.groups for site in group.sites] == ["1"]
    return next(kept.reason for kept in plan.kept if kept.site.name == name)


@pytest.mark.parametrize("change", HOOKS.values(), ids=HOOKS)
def test_hooks_keep_a_convolution(change):
    assert "hooks, which a new" in reason(two(change))


@pytest.mark.parametrize("change", HOOKS.values(), ids=HOOKS)
def test_hooks_that_came_after_the_plan_are_refused(change):
    plan = lc.plan(two(), lc.TiedBlock())
    with pytest.raises(SettingError, match=r"the plan converts '0', but it.* hooks"):
        lc.convert(two(change), plan)


@pytest.mark.parametrize(("change", "said"), LOSSES.values(), ids=LOSSES)
@pytest.mark.filterwarnings("ignore:.*weight_norm.*:FutureWarning")
def test_what_a_new_module_would_lose_keeps_a_convolution(change, said):
    assert said in reason(two(change))


@pytest.mark.parametrize(("change", "said"), CONTRADICTIONS.values(), ids=CONTRADICTIONS)
def test_attributes_that_disagree_with_the_weight_keep_a_convolution(change, said):
    model = two(change)
    assert said in reason(model)
    plan = lc.plan(model, lc.TiedBlock())
    assert lc.Plan.from_json(plan.to_json()) == plan


@pytest.mark.parametrize(("change", "said"), CONTRADICTIONS.values(), ids=CONTRADICTIONS)
def test_attributes_that_changed_after_the_plan_are_refused(change, said):
    plan = lc.plan(two(), lc.TiedBlock())
    with pytest.raises(SettingError, match="'0'"):
        lc.convert(two(change), plan)


def test_what_agrees_in_another_spelling_converts():
    model = two()
    model[0].padding, model[0].stride, model[0].bias = 1, [1, 1], None
    lean = lc.convert(model, lc.TiedBlock())
    assert lean[0].padding == (1, 1) and lean[0].bias is None


def test_hooks_of_parents_and_gradient_hooks_of_other_layers_are_kept():
    model = nn.Sequential(nn.Sequential(nn.Conv2d(4, 4, 3)), nn.Conv2d(4, 4, 1), nn.BatchNorm2d(4))
    seen = []
    model[0].register_forward_hook(lambda *_: seen.append("forward"))
    model[2].weight.register_hook(lambda grad: grad * 0)
    model[2].bias.register_post_accumulate_grad_hook(lambda parameter: seen.append("accumulated"))
    lean = lc.convert(model, lc.TiedBlock(), where=["0.0", "1"])
    lean(torch.randn(2, 4, 8, 8)).square().sum().backward()
    assert seen == ["forward", "accumulated"]
    assert lean[2].weight.grad.abs().sum() == 0 and lean[2].bias.grad.abs().sum() > 0


def test_attributes_that_the_author_put_on_a_convolution_go_with_it():
    model = two(lambda conv: vars(conv).update(from_layer=-1, type="Conv"))
    lean = lc.convert(model, lc.TiedBlock())[0]
    assert (lean.from_layer, lean.type) == (-1, "Conv")  # type is also a method of nn.Module


@pytest.mark.parametrize(
    ("method", "name"), [(lc.TiedBlock(), "blocks"), (lc.DepthShared(), "bank"), (lc.LowRank(rank=1), "links")]
)
def test_an_attribute_whose_name_the_lean_layer_uses_is_refused(method, name):
    model = two(lambda conv: setattr(conv, name, 99))
    with pytest.raises(SettingError, match=rf"'0' has an attribute '{name}', .* with exclude='0'"):
        lc.convert(model, method)


def test_a_layer_that_was_tied_after_the_plan_is_refused():
    plan, model = lc.plan(two(lambda conv: None), lc.TiedBlock(), "0"), two(lambda conv: None)
    model[1].weight = model[0].weight
    with pytest.raises(SettingError, match=r"the plan converts '0', but it shares a parameter with '1'"):
        lc.convert(model, plan)


def test_one_weight_cannot_have_two_dtypes():
    model = two(lambda conv: conv.half())
    with pytest.raises(SettingError, match="'0' is float16 on cpu and '1' is float32 on cpu"):
        lc.plan(model, lc.DepthShared())
    plan = lc.plan(two(), lc.DepthShared())
    with pytest.raises(SettingError, match="one weight cannot be both"):
        lc.convert(model, plan)
    assert lc.convert(model, lc.TiedBlock())[0].weight.dtype == torch.float16


def _scripted():
    return torch.jit.script(two())


@pytest.mark.parametrize(
    ("make", "said"),
    [
        (lambda: nn.Sequential(nn.Conv1d(4, 8, 3)), "'0' is a Conv1d; only 2-d convolutions convert"),
        (lambda: nn.Sequential(nn.Conv3d(4, 8, 3)), "'0' is a Conv3d"),
        (lambda: nn.ConvTranspose2d(4, 8, 3), "'' is a ConvTranspose2d"),
        (_scripted, "it is scripted; convert the network first"),
        (lambda: nn.Linear(4, 4), "Linear has no nn.Conv2d to convert, and no other convolution"),
        (lambda: lc.TiedBlockConv2d(4, 4, 3, blocks=2), "it is lean already"),
    ],
)
@pytest.mark.filterwarnings("ignore:.*torch.jit.*")
def test_nothing_to_convert_is_said(make, said):
    with pytest.raises(SettingError) as error:
        lc.plan(make(), lc.TiedBlock())
    assert said in str(error.value)


def test_other_convolutions_of_a_network_are_named():
    model = nn.Sequential(nn.Conv2d(4, 4, 3), nn.ConvTranspose2d(4, 8, 3), nn.Flatten(2), nn.Conv1d(8, 2, 1))
    plan = lc.plan(model, lc.TiedBlock(), exclude="1")
    assert {k.site.name: (str(k.site.spec), k.reason, k.site.params()) for k in plan.kept} == {
        "1": ("ConvTranspose2d", "only nn.Conv2d converts", 4 * 8 * 9 + 8),
        "3": ("Conv1d", "only nn.Conv2d converts", 18),
    }
    assert str(plan).startswith("Plan: 1 of 3 convolutions convert")
    assert lc.Plan.from_json(plan.to_json()) == plan


def test_a_plan_that_converts_nothing_gives_no_silent_copy():
    model = nn.Sequential(nn.Conv2d(3, 4, 3))
    with pytest.warns(LeanconvWarning, match=r"converts nothing.*blocks=2 must divide in_channels=3"):
        lc.convert(model, lc.TiedBlock(2))


def test_convert_plans_by_itself():
    model = lc.create_model("resnet8")
    asked = dict(where="layer*", exclude="*shortcut*")
    assert lc.plan_of(lc.convert(model, lc.TiedBlock(4), **asked)) == lc.plan(model, lc.TiedBlock(4), **asked)
    rules = [("layer1*", lc.Split()), ("layer2*conv?", lc.TiedBlock())]
    assert lc.plan_of(lc.convert(model, rules, "fit", input_size=(3, 32, 32))) == lc.plan(
        model, rules, input_size=(3, 32, 32)
    )
    plan = lc.plan(model, lc.TiedBlock(4), **asked)
    with pytest.raises(SettingError, match="the plan is made already"):
        lc.convert(model, plan, where="layer1*")


@pytest.mark.parametrize(
    "call",
    [
        lambda: lc.load(lc.save(lc.convert(nn.Conv2d(4, 8, 3), lc.TiedBlock(blocks=2)), "net"), model=nn.Conv2d),
        lambda: lc.bench(nn.Conv2d),
        lambda: lc.reestimate_norms_(nn.Conv2d, [torch.zeros(1, 3, 8, 8)]),
        lambda: lc.repair_outputs_(nn.Conv2d, nn.Conv2d, [torch.zeros(1, 3, 8, 8)]),
    ],
)
def test_a_class_in_place_of_a_network_is_said(call, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(
        SettingError, match=r"a network must be a torch\.nn\.Module, not type; build it with create_model"
    ):
        call()
