"""Linear layers in plans: which convert when asked, and why each other one stays."""

from __future__ import annotations

import json
import warnings

import pytest
import torch
from torch import Tensor, nn
from torch.nn.utils import parametrizations

import leanconv as lc
from leanconv.conversion.plan import CLASSIFIER
from leanconv.core.errors import FileError, SettingError, TieError
from leanconv.core.meta import built_on_meta


def names(plan: lc.Plan) -> list[str]:
    return [site.name for group in plan.groups for site in group.sites]


def reasons(plan: lc.Plan) -> dict[str, str]:
    return {kept.site.name: kept.reason for kept in plan.kept}


class Small(nn.Module):
    """A convolution, an MLP on its positions, channels last, and a classifier."""

    default_input_size = (3, 8, 8)

    def __init__(self) -> None:
        super().__init__()
        self.stem = nn.Conv2d(3, 8, 4, 4)
        self.fc1, self.fc2 = nn.Linear(8, 16), nn.Linear(16, 8)
        self.norm = nn.LayerNorm(8)
        self.head = nn.Linear(8, 4)

    def features(self, x: Tensor) -> Tensor:
        y = self.stem(x).permute(0, 2, 3, 1)
        return self.norm(y + self.fc2(self.fc1(y).relu())).mean((1, 2))

    def forward(self, x: Tensor) -> Tensor:
        return self.head(self.features(x)).log_softmax(1)


def test_linear_layers_are_no_part_of_a_plan_unless_asked_for():
    model = Small()
    assert [site.name for site in lc.plan(model, lc.TiedBlock(2)).sites()] == ["stem"]
    plan = lc.plan(model, lc.TiedBlock(2), include="linear", exclude="stem")
    assert names(plan) == ["fc1", "fc2"] and reasons(plan) == {"stem": "excluded", "head": CLASSIFIER}
    assert plan == lc.plan(model, lc.TiedBlock(2), include=["linear"], exclude="stem")
    assert str(plan).startswith("Plan: 2 of 4 layers convert")
    site = plan.groups[0].sites[0]
    assert (site.kind, site.layer, site.sizes, site.stage) == ("linear", "linear 8->16", ((1, 4),), 0)
    assert site.macs() == 4 * 8 * 16 and site.params() == 8 * 16 + 16
    for wrong in ("linears", 3, ["conv"], "classifier"):
        with pytest.raises(SettingError, match='must be "linear"'):
            lc.plan(model, lc.TiedBlock(2), include=wrong)


def test_the_classifier_converts_where_a_rule_gives_its_name():
    model = Small()
    assert reasons(lc.plan(model, lc.Grouped(2), "he*", include="linear"))["head"] == CLASSIFIER
    assert names(lc.plan(model, lc.Grouped(2), "head", include="linear")) == ["head"]
    rules = [("stem", None), ("*", lc.TiedBlock(2)), ("head", lc.Grouped(4))]
    plan = lc.plan(model, rules, include="linear")
    assert {group.sites[0].name: group.method for group in plan.groups}["head"] == lc.Grouped(4)
    kept = lc.plan(model, [("head", None), ("*", lc.TiedBlock(1))], include="linear")
    assert reasons(kept) == {"head": "a rule keeps it dense"}
    excluded = lc.plan(model, lc.TiedBlock(1), ["*", "head"], include="linear", exclude="head")
    assert reasons(excluded) == {"head": "excluded"}
    by_function = lc.plan(model, lc.TiedBlock(1), lambda site: site.kind == "linear", include="linear")
    assert names(by_function) == ["fc1", "fc2"] and reasons(by_function)["stem"] == "no rule matches it"


def test_a_network_that_ends_in_another_layer_has_no_classifier():
    features = type("Features", (Small,), {"forward": Small.features})()
    features.head = nn.Identity()  # the norm is the last layer with parameters
    assert names(lc.plan(features, lc.TiedBlock(2), include="linear", exclude="stem")) == ["fc1", "fc2"]


def test_without_an_input_size_the_last_registered_layer_is_the_classifier():
    mlp = nn.Sequential(nn.Linear(8, 8), nn.ReLU(), nn.Linear(8, 8), nn.ReLU(), nn.Linear(8, 4))
    plan = lc.plan(mlp, lc.TiedBlock(2), include="linear")
    assert names(plan) == ["0", "2"] and reasons(plan) == {"4": CLASSIFIER}
    lean = lc.convert(mlp, plan)
    assert lean(torch.randn(3, 8)).shape == (3, 4) and lean(torch.randn(8)).shape == (4,)
    alone = lc.convert(nn.Linear(4, 4), lc.Grouped(2), where="", include="linear")
    assert isinstance(alone, lc.PointwiseLinear) and alone(torch.randn(2, 7, 4)).shape == (2, 7, 4)


def test_naming_a_linear_layer_without_including_them_says_how():
    with pytest.raises(SettingError, match="but the linear layer 'fc1'; include=\"linear\" converts those too"):
        lc.plan(Small(), lc.TiedBlock(2), "fc*")
    with pytest.raises(SettingError, match=r'no nn.Conv2d to convert.*include="linear" would convert'):
        lc.plan(nn.Sequential(nn.Linear(4, 4)), lc.TiedBlock(2))
    with pytest.raises(SettingError, match="where='x' matches none of the 4 layers"):
        lc.plan(Small(), lc.TiedBlock(2), "x", include="linear")


class Odd(nn.Module):
    """One linear layer of each kind that a new module cannot replace."""

    default_input_size = (8, 2, 2)

    def __init__(self) -> None:
        super().__init__()
        self.plain = nn.Linear(8, 8)
        self.hooked = nn.Linear(8, 8)
        self.hooked.register_forward_hook(lambda *_: None)
        self.parametrised = parametrizations.orthogonal(nn.Linear(8, 8))
        self.subclass = type("Own", (nn.Linear,), {})(8, 8)
        self.uncalled = nn.Linear(8, 8)
        self.read = nn.Linear(8, 8)
        self.tied = nn.Linear(8, 5, bias=False)
        self.embedding = nn.Embedding(5, 8)
        self.embedding.weight = self.tied.weight
        self.attention = nn.MultiheadAttention(8, 2, batch_first=True)
        self.encoder = nn.TransformerEncoderLayer(8, 2, 16, batch_first=True)
        self.bilinear = nn.Bilinear(8, 8, 8)
        self.wrong = nn.Linear(8, 8)
        self.wrong.out_features = 9
        self.head = nn.Linear(8, 2)

    def forward(self, x: Tensor) -> Tensor:
        x = x.flatten(2).transpose(1, 2)
        for layer in (self.plain, self.hooked, self.parametrised, self.subclass, self.wrong):
            x = x + layer(x)
        x = nn.functional.linear(x, self.read.weight) + self.read(x)
        x = x + self.embedding(self.tied(x).argmax(-1))
        x = self.encoder(x + self.attention(x, x, x)[0])
        return self.head(self.bilinear(x, x).mean(1))


def test_each_linear_layer_that_stays_says_why():
    plan = lc.plan(Odd(), lc.TiedBlock(2), include="linear")
    assert names(plan) == ["plain"]
    said = {
        "hooked": "it has forward hooks",
        "parametrised": "it is parametrised",
        "subclass": "Own is a subclass of Linear; opt in with subclasses=",
        "uncalled": "a forward pass in eval mode never calls it",
        "read": "the network also computes with its weight or bias outside of the layer",
        "tied": "it shares a parameter with 'embedding'",
        "attention": "its projections are parameters and no nn.Linear layers",
        "attention.out_proj": "nn.MultiheadAttention computes with its weight in place of calling it",
        "encoder.self_attn": "its projections are parameters",
        "encoder.self_attn.out_proj": "nn.MultiheadAttention computes with its weight",
        "encoder.linear1": "nn.TransformerEncoderLayer computes with its weight in place of calling it",
        "encoder.linear2": "nn.TransformerEncoderLayer computes with its weight",
        "bilinear": "only nn.Linear converts",
        "wrong": r"its weight has shape (8, 8) and its attributes say (9, 8)",
        "head": CLASSIFIER,
    }
    found = reasons(plan)
    assert found.keys() - said.keys() <= {"parametrised.parametrizations.weight.0.base"}
    assert {name: reason for name, reason in found.items() if name in said and not reason.startswith(said[name])} == {}
    assert next(item for item in plan.kept if item.site.name == "attention").site.params() == 3 * 8 * 8 + 3 * 8
    model = Odd()
    lean = lc.convert(model, lc.plan(model, lc.TiedBlock(1), include="linear"), init="fit")
    x = torch.randn(2, 8, 2, 2)
    torch.testing.assert_close(lean.eval()(x), model.eval()(x))


def test_a_subclass_of_linear_converts_when_opted_in():
    own = type("Own", (nn.Linear,), {})
    model = nn.Sequential(own(8, 8), nn.Linear(8, 2))
    assert names(lc.plan(model, lc.TiedBlock(2), include="linear", subclasses=[own])) == ["0"]


def test_other_convolutions_and_quantised_layers_are_named():
    model = nn.Sequential(nn.Conv2d(4, 4, 1), nn.Linear(4, 4))
    for kind in (nn.Conv1d, nn.Conv3d, nn.ConvTranspose1d, nn.ConvTranspose2d, nn.ConvTranspose3d):
        model.append(kind(4, 4, 3))
    lazy = nn.LazyConvTranspose2d(4, 3)
    lazy(torch.zeros(1, 4, 5, 5))
    model.append(lazy)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # torch.ao is on its way out, and its layers are still about
        model.append(torch.ao.nn.quantized.Conv2d(4, 4, 1))
        model.append(torch.ao.nn.quantized.dynamic.Linear(4, 4))
    kinds = {kept.site.layer: kept.reason for kept in lc.plan(model, lc.TiedBlock(2), include="linear").kept}
    convs = ("Conv1d", "Conv3d", "ConvTranspose1d", "ConvTranspose2d", "ConvTranspose3d", "Conv2d")
    assert {kind: kinds.pop(kind) for kind in convs} == dict.fromkeys(convs, "only nn.Conv2d converts")
    assert kinds == {"Linear": "only nn.Linear converts"}
    model.append(nn.LazyConv1d(4, 3))
    with pytest.raises(SettingError, match="'10' is lazy and has no shape yet"):
        lc.plan(model, lc.TiedBlock(2))


def test_a_plan_with_linear_layers_survives_json():
    plan = lc.plan(Small(), lc.TiedBlock(2), "fc*", include="linear")
    written = json.loads(json.dumps(plan.to_json()))
    assert lc.Plan.from_json(written) == plan
    assert "kind" not in written["kept"][0]["site"]  # a convolution: as in files of before
    written["groups"][0]["sites"][0]["kind"] = "attention"
    with pytest.raises(FileError, match="'attention' is no kind of layer"):
        lc.Plan.from_json(written)


@pytest.mark.parametrize("method", [lc.DepthShared(), lc.SharedBasis(shared=2), lc.SoftShared(), lc.FilterSummary()])
def test_convolutions_and_linear_layers_never_share(method):
    class Mixed(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.convs = nn.Sequential(nn.Conv2d(8, 8, 1), nn.Conv2d(8, 8, 1))
            self.fcs = nn.Sequential(nn.Linear(8, 8), nn.Linear(8, 8), nn.Linear(8, 8))

        def forward(self, x: Tensor) -> Tensor:
            return self.fcs(self.convs(x).mean((2, 3)))

    plan = lc.plan(Mixed(), method, include="linear", input_size=(8, 4, 4))
    assert plan.groups and all(len({site.kind for site in group.sites}) == 1 for group in plan.groups)
    assert {"fcs.0", "fcs.1"} <= set(names(plan))
    lean = lc.convert(Mixed(), plan)
    lc.check(lean)
    with pytest.raises(SettingError, match="holds convolutions and linear layers"):
        lc.Group(method, (lc.Site("a", lc.ConvSpec(8, 8, 1)), lc.Site("b", lc.ConvSpec(8, 8, 1), kind="linear")))


def test_stages_of_convolutions_do_not_move_when_linear_layers_join():
    model = Small()
    alone, joined = lc.plan(model, lc.TiedBlock(1)), lc.plan(model, lc.TiedBlock(1), include="linear")
    assert joined.groups[0].sites[0] == alone.groups[0].sites[0]


def test_a_linear_layer_carries_flags_device_and_names_over():
    model = Small().bfloat16().eval()
    model.fc1.requires_grad_(False)
    model.twice = model.fc1
    model.fc1.note = "mine"
    lean = lc.convert(model, lc.TiedBlock(2), where="fc*", include="linear")
    assert lean.twice is lean.fc1 and lean.fc1.note == "mine"
    assert not lean.fc1.training and {p.dtype for p in lean.parameters()} == {torch.bfloat16}
    assert not any(p.requires_grad for p in lean.fc1.parameters()) and lean.fc2.weight.requires_grad


def test_a_plan_for_another_model_is_refused_by_kind_and_shape():
    plan = lc.plan(Small(), lc.TiedBlock(2), "fc*", include="linear")
    other = Small()
    other.fc1 = nn.Conv2d(8, 16, 1)
    with pytest.raises(SettingError, match="'fc1', a Conv2d in this model, not a Linear"):
        lc.convert(other, plan)
    other.fc1 = nn.Linear(8, 32)
    with pytest.raises(SettingError, match="out_channels=32 here, 16 in the plan"):
        lc.convert(other, plan)
    lean = lc.convert(Small(), plan)
    lean.fc1 = lc.TiedBlockConv2d(8, 16, 1, blocks=2)
    with pytest.raises(TieError, match="'fc1' should be the tied_block of its plan"):
        lc.check(lean)


def test_a_part_of_a_lean_network_keeps_its_plan_and_is_not_planned_again():
    lean = lc.convert(Small(), lc.SharedBasis(shared=2), where="fc*", include="linear")
    around = nn.Sequential(lean)
    assert names(lc.plan_of(around)) == ["0.fc1", "0.fc2"]
    with pytest.raises(SettingError, match="lean already"):
        lc.convert(around, lc.TiedBlock(2), include="linear")
    again = lc.plan(lean, lc.TiedBlock(2), include="linear")
    assert {site.name for site in again.sites()} == {"stem", "head"}


def test_nothing_is_fitted_to_nan_in_a_linear_layer():
    model = Small()
    with torch.no_grad():
        model.fc2.weight[0, 0] = torch.nan
    with pytest.raises(SettingError, match=r"'fc2.weight' are NaN"):
        lc.convert(model, lc.TiedBlock(2), init="fit", where="fc*", include="linear")


NETWORKS = {
    "timm/convnext_atto": ({"conv_mlp": False, "num_classes": 5}, 32, "head.fc", 24),
    "timm/vit_tiny_patch16_224": ({"img_size": 32, "num_classes": 5, "depth": 2}, 32, "head", 8),
    "timm/mixer_s16_224": ({"img_size": 32, "num_classes": 5}, 32, "head", 32),
    "timm/swin_tiny_patch4_window7_224": ({"img_size": 56, "num_classes": 5}, 56, "head.fc", 51),
    "resnet20": ({}, 32, "fc", 0),
}


@pytest.mark.parametrize("name", NETWORKS)
@pytest.mark.parametrize("method", [lc.TiedBlock(2), lc.SharedBasis(shared=2, unique=1), lc.DepthShared()])
def test_networks_with_linear_layers(name, method):
    kwargs, side, classifier, linears = NETWORKS[name]
    model = built_on_meta(lambda: lc.create_model(name, **kwargs))
    size = (3, side, side)
    plan = lc.plan(model, method, include="linear", input_size=size)
    assert reasons(plan)[classifier] == CLASSIFIER
    sites = [site for site in plan.sites() if site.kind == "linear"]
    assert len(sites) == linears + 1 and all(site.sizes and site.stage is not None for site in sites)
    lean, dense = lc.convert(model, plan), lc.count(model, size)
    found = lc.count(lean, size)
    assert found.params == dense.params - plan.params_dense() + plan.params()
    before = sum(site.macs() for group in plan.groups for site in group.sites)
    assert found.macs == dense.macs - before + sum(sum(group.macs()) for group in plan.groups)


@pytest.mark.parametrize(
    ("name", "method"),
    [("timm/vit_tiny_patch16_224", lc.SharedBasis(shared=4)), ("timm/mixer_s16_224", lc.DepthShared())],
)
def test_a_network_with_lean_linear_layers_saves_and_loads(name, method, tmp_path):
    kwargs, side, _, _ = NETWORKS[name]
    model = lc.create_model(name, **kwargs).eval()
    plan = lc.plan(model, method, include="linear", input_size=(3, side, side))
    lean = lc.convert(model, plan, init="fit")
    lc.save(lean, tmp_path)
    loaded = lc.load(tmp_path)
    x = torch.randn(2, 3, side, side)
    with torch.no_grad():
        assert torch.equal(loaded(x), lean(x)) and lc.plan_of(loaded) == plan
        torch.testing.assert_close(lc.to_dense(loaded)(x), lean(x), rtol=1e-3, atol=1e-4)


def test_an_encoder_layer_of_torch_computes_the_same_on_its_fast_path():
    model = nn.Sequential(
        nn.Linear(8, 8), nn.TransformerEncoderLayer(8, 2, 16, batch_first=True), nn.Linear(8, 2)
    ).eval()
    lean = lc.convert(model, lc.TiedBlock(1), init="fit", include="linear")
    with torch.no_grad():
        x = torch.randn(2, 5, 8)
        torch.testing.assert_close(lean(x), model(x), rtol=1e-4, atol=1e-5)
