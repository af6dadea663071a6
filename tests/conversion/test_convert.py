from __future__ import annotations

import copy
from dataclasses import dataclass

import pytest
import torch
from torch import nn

import leanconv as lc
from leanconv.core.errors import SettingError


def test_a_root_convolution_and_children_of_a_sequential_convert():
    conv = nn.Conv2d(4, 8, 3)
    root = lc.convert(conv, lc.plan(conv, lc.TiedBlock()))
    assert isinstance(root, lc.TiedBlockConv2d) and lc.plan_of(root).groups[0].sites[0].name == ""
    assert isinstance(lc.to_dense(root), nn.Conv2d)
    sequence = nn.Sequential(nn.Conv2d(4, 8, 3), nn.ReLU(), nn.Sequential(nn.Conv2d(8, 8, 3)))
    lean = lc.convert(sequence, lc.plan(sequence, lc.TiedBlock()))
    assert isinstance(lean[0], lc.TiedBlockConv2d) and isinstance(lean[2][0], lc.TiedBlockConv2d)
    assert lean(torch.randn(1, 4, 9, 9)).shape == (1, 8, 5, 5)


def test_the_original_is_not_touched():
    model = lc.create_model("resnet8")
    before = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    lean = lc.convert(model, lc.plan(model, lc.DepthShared(), exclude="conv1"), init="fit")
    with torch.no_grad():
        for parameter in lean.parameters():
            parameter.add_(1)
    assert all(torch.equal(tensor, before[name]) for name, tensor in model.state_dict().items())
    assert lc.plan_of(model) is None


def test_a_convolution_under_two_names_stays_one_module():
    model = nn.Module()
    model.first = nn.Conv2d(4, 4, 3)
    model.second = model.first
    model.third = nn.Sequential(model.first)
    lean = lc.convert(model, lc.plan(model, lc.TiedBlock()))
    assert isinstance(lean.first, lc.TiedBlockConv2d) and lean.first is lean.second is lean.third[0]


@pytest.mark.parametrize("container", [list, tuple, lambda convs: {"all": convs}])
def test_a_convolution_that_also_stands_in_a_plain_container_is_replaced_there(container):
    class Both(nn.Module):
        def __init__(self):
            super().__init__()
            convs = [nn.Conv2d(4, 4, 3, padding=1) for _ in range(2)]
            for index, conv in enumerate(convs):
                self.add_module(f"conv{index}", conv)
            self.used = container(convs)
            self.direct = None
            self.__dict__["direct"] = convs[0]

        def forward(self, x):
            for conv in self.used["all"] if isinstance(self.used, dict) else self.used:
                x = conv(x)
            return self.direct(x)

    model = Both()
    lean = lc.convert(model, lc.plan(model, lc.TiedBlock(), input_size=(4, 6, 6)))
    used = lean.used["all"] if isinstance(lean.used, dict) else lean.used
    assert used[0] is lean.direct is lean.conv0
    assert isinstance(used[1], lc.TiedBlockConv2d)
    assert not isinstance(model.conv0, lc.TiedBlockConv2d)


def test_frozen_parameters_stay_frozen_one_by_one():
    model = nn.Sequential(*(nn.Conv2d(4, 4, 3) for _ in range(3)))
    model[0].weight.requires_grad_(False)
    lean = lc.convert(model, lc.plan(model, lc.TiedBlock()))
    assert [p.requires_grad for p in lean[0].parameters()] == [False, True]
    shared = lc.convert(model, lc.plan(model, lc.DepthShared()))
    assert all(p.requires_grad for p in shared.parameters())  # one of the users trains it
    for conv in model:
        conv.weight.requires_grad_(True)
        conv.bias.requires_grad_(False)
    bank = lc.convert(model, lc.plan(model, lc.DepthShared()))[0].bank
    assert (bank.weight.requires_grad, bank.bias.requires_grad) == (True, False)
    model.requires_grad_(False)
    frozen = lc.convert(model, lc.plan(model, lc.DepthShared()))
    assert not any(p.requires_grad for p in [*frozen.parameters(), *lc.to_dense(frozen).parameters()])


def test_channels_last_weights_stay_so():
    model = nn.Sequential(nn.Conv2d(4, 4, 3)).to(memory_format=torch.channels_last)
    lean = lc.convert(model, lc.plan(model, lc.TiedBlock()))
    assert lean[0].weight.is_contiguous(memory_format=torch.channels_last)


def test_device_dtype_training_flag_and_requires_grad_are_kept():
    model = nn.Sequential(nn.Conv2d(4, 4, 3), nn.Conv2d(4, 4, 3)).to(torch.float64)
    model[0].eval()
    model[1].requires_grad_(False)
    for method in (lc.TiedBlock(), lc.Split(ratio=0.5)):
        model = nn.Sequential(nn.Conv2d(4, 4, 3, padding=1), nn.Conv2d(4, 4, 3, padding=1)).double()
        model[0].eval()
        model[1].requires_grad_(False)
        lean = lc.convert(model, lc.plan(model, method))
        assert {t.dtype for t in lean.state_dict().values() if t.is_floating_point()} == {torch.float64}
        assert not lean[0].training and lean[1].training
        assert all(p.requires_grad for p in lean[0].parameters())
        assert not any(p.requires_grad for p in lean[1].parameters())


def test_timm_extras_are_kept():
    model = lc.create_model("timm/resnet18", features_only=True, out_indices=(1, 2))
    lean = lc.convert(model, lc.plan(model, lc.TiedBlock(), "layer*", input_size=(3, 64, 64)))
    assert lean.feature_info.channels() == model.feature_info.channels()
    assert [tuple(y.shape[1:]) for y in lean(torch.randn(1, 3, 64, 64))] == [(64, 16, 16), (128, 8, 8)]


@pytest.mark.filterwarnings("ignore:shared_basis costs more MACs")
def test_fit_of_nothing_to_save_reproduces_a_pretrained_style_network():
    torch.manual_seed(0)
    model = lc.create_model("resnet20")
    model.train()
    for _ in range(3):
        model(torch.randn(8, 3, 32, 32))  # statistics that are not the neutral ones
    model.eval()
    plan = lc.plan(model, lc.SharedBasis(shared=0, unique=16, growth=2), "layer*conv?")
    lean = lc.convert(model, plan, init="fit")
    x = torch.randn(4, 3, 32, 32)
    torch.testing.assert_close(lean(x), model(x), rtol=1e-4, atol=1e-4)


@pytest.mark.filterwarnings("ignore:shared_basis costs more MACs")
def test_calibration_keeps_eval_and_makes_training_start_there():
    torch.manual_seed(0)
    model = lc.create_model("resnet20").eval()
    lean = lc.convert(model, lc.plan(model, lc.SharedBasis(shared=0, unique=16), "layer*conv?"), init="fit")
    images = torch.randn(64, 3, 32, 32)
    wanted = lean(images)
    norms = [op.norm for op in lean.modules() if isinstance(op, lc.SharedBasisConv2d)]
    before = [norm.running_var.clone() for norm in norms]
    lc.calibrate_(lean, [images[:32], images[32:]])
    assert not lean.training
    assert all(not torch.allclose(norm.running_var, var) for norm, var in zip(norms, before, strict=True))
    torch.testing.assert_close(lean(images), wanted, rtol=1e-4, atol=1e-4)
    first = next(op for op in lean.modules() if isinstance(op, lc.SharedBasisConv2d))
    x = lean.relu(lean.bn1(lean.conv1(images))) if hasattr(lean, "relu") else torch.relu(lean.bn1(lean.conv1(images)))
    settled = first(x)
    torch.testing.assert_close(first.train()(x), settled, rtol=1e-3, atol=1e-3)


def test_shared_basis_fit_is_the_truncated_svd_where_one_exists():
    """Eckart-Young: the error of the best rank-r approximation is the sum of the left-out squared singular values."""
    torch.manual_seed(0)
    model = nn.Sequential(*(nn.Conv2d(8, 8, 3, padding=1, bias=False) for _ in range(3))).double()
    shared = lc.SharedBasis(shared=5, unique=0, norm=False)
    unique = lc.SharedBasis(shared=0, unique=5, norm=False)
    weights = [conv.weight.detach().flatten(1) for conv in model]

    def error(method):
        lean = lc.convert(model, lc.plan(model, method, input_size=(8, 8, 8)), init="fit")
        pairs = zip(lean, weights, strict=True)
        return sum((op.weight_dense().flatten(1) - w).square().sum().item() for op, w in pairs)

    tail = lambda matrix: torch.linalg.svdvals(matrix)[5:].square().sum().item()  # noqa: E731
    assert error(shared) == pytest.approx(tail(torch.cat(weights)))
    assert error(unique) == pytest.approx(sum(tail(w) for w in weights))
    both = [error(lc.SharedBasis(shared=s, unique=5 - s, norm=False)) for s in range(6)]
    assert both == sorted(both)  # more of its own, less error
    assert error(lc.SharedBasis(shared=5, unique=2, norm=False)) < error(shared)


def test_shared_basis_fit_finds_the_components_of_a_lean_network():
    torch.manual_seed(0)
    model = nn.Sequential(*(nn.Conv2d(8, 8, 3, padding=1, bias=False) for _ in range(3))).double()
    plan = lc.plan(model, lc.SharedBasis(shared=3, unique=2, norm=False), input_size=(8, 8, 8))
    lean = lc.convert(model, plan)
    again = lc.convert(lc.to_dense(lean), plan, init="fit")
    for ours, wanted in zip(again, lean, strict=True):
        torch.testing.assert_close(ours.weight_dense(), wanted.weight_dense(), rtol=1e-6, atol=1e-8)


@pytest.mark.parametrize("fusion", [True, False])
def test_split_fit_is_the_least_squares_solution_at_stride_1_and_2(fusion):
    """No small step of any branch's weights comes nearer to the dense weight, with the gate at 1/2."""
    torch.manual_seed(0)
    for stride in (1, 2):
        conv = nn.Conv2d(4, 4, 3, stride, 1).double()
        lean = lc.convert(conv, lc.plan(conv, lc.Split(ratio=0.5, fusion=fusion)), init="fit").eval()
        gate = 0.5 if fusion else 1.0
        torch.testing.assert_close(gate * (lean.norm3.bias + lean.norm1.bias), conv.bias)

        def effective(op=lean, stride=stride, gate=gate):
            """The 4x4 window of taps that both branches reach."""
            taps = torch.zeros(4, 4, 4, 4, dtype=torch.float64)
            grouped = torch.zeros(4, 2, 3, 3, dtype=torch.float64)
            grouped[:2, :1], grouped[2:, 1:] = op.grouped.weight[:2], op.grouped.weight[2:]
            taps[:, :2, :3, :3] += gate * grouped
            cheap = torch.cat([op.point.weight, op.redundant.weight], 1) * gate
            taps[:, :, 1 : 1 + stride, 1 : 1 + stride] += cheap / stride**2
            return taps

        wanted = torch.zeros(4, 4, 4, 4, dtype=torch.float64)
        wanted[:, :, :3, :3] = conv.weight
        with torch.no_grad():
            best = (effective() - wanted).square().sum().item()
            for parameter in (lean.grouped.weight, lean.point.weight, lean.redundant.weight):
                for _ in range(5):
                    kept = parameter.clone()
                    parameter.add_(1e-3 * torch.randn_like(parameter))
                    assert (effective() - wanted).square().sum().item() >= best - 1e-12
                    parameter.copy_(kept)


def test_to_dense_keeps_what_is_no_convolution_and_its_plan():
    model = lc.create_model("resnet8")
    rules = [("conv1", None), ("layer1*", lc.Split()), ("layer2*conv?", lc.TiedBlock()), ("*", None)]
    lean = lc.convert(model, lc.plan(model, rules)).eval()
    dense = lc.to_dense(lean)
    x = torch.randn(2, 3, 32, 32)
    torch.testing.assert_close(dense(x), lean(x), rtol=1e-4, atol=1e-5)
    assert {type(group.method) for group in lc.plan_of(dense).groups} == {lc.Split}
    lc.check(dense)


def test_to_dense_in_training_mode_folds_running_statistics_and_keeps_the_flag():
    model = lc.create_model("resnet8").train()
    lean = lc.convert(model, lc.plan(model, lc.SharedBasis(), exclude="conv1")).train()
    with pytest.raises(RuntimeError, match="call eval"):
        lean.layer1[0].conv1.weight_dense()
    assert lc.to_dense(lean).training and lean.training


@pytest.mark.parametrize(
    "method", [lc.TiedBlock(blocks=2), lc.DepthShared(), lc.LowRank(rank=1)], ids=lambda m: m.label()
)
def test_to_dense_keeps_frozen_biases_the_layout_and_attributes(method):
    model = nn.Sequential(*(nn.Conv2d(4, 4, 3) for _ in range(2))).to(memory_format=torch.channels_last)
    for index, conv in enumerate(model):
        conv.from_layer = index
        conv.bias.requires_grad_(False)
    dense = lc.to_dense(lc.convert(model, method))
    for index, conv in enumerate(dense):
        assert type(conv) is nn.Conv2d and conv.from_layer == index
        assert conv.weight.is_contiguous(memory_format=torch.channels_last) and not conv.weight.is_contiguous()
        assert (conv.weight.requires_grad, conv.bias.requires_grad) == (True, False)


@pytest.mark.parametrize(
    ("act", "message"),
    [
        (lambda m, p: lc.convert(lc.create_model("vgg16"), p), "which VGG16 does not have"),
        (
            lambda m, p: lc.convert(lc.create_model("resnet20", in_chans=1, width=32), p),
            "in_channels=32 here, 16 in the plan",
        ),
        (lambda m, p: lc.convert(lc.convert(m, p), p), "lean already"),
        (lambda m, p: lc.convert(m, p, init="copy"), "init='copy' must be 'fresh' or 'fit'"),
    ],
)
def test_bad_use_is_one_clear_error(act, message):
    model = lc.create_model("resnet20")
    with pytest.raises(SettingError, match=message):
        act(model, lc.plan(model, lc.TiedBlock(), "layer*"))


def test_resnet20_with_split_has_the_papers_count():
    """SPConv Table 1 and the issue: 272,474 parameters dense, 105,082 with every 3x3 but the first split."""
    model = lc.create_model("resnet20")
    lean = lc.convert(model, lc.plan(model, lc.Split(ratio=0.5), exclude="conv1"))
    assert (lc.count(model).params, lc.count(lean).params) == (272_474, 105_082)


@pytest.mark.parametrize(
    "method", [lc.TiedBlock(), lc.SharedBasis(), lc.DepthShared(), lc.Split()], ids=lambda method: method.name
)
def test_defaults_save_parameters_on_resnet20_and_macs_where_the_method_can(method):
    model = lc.create_model("resnet20")
    lean = lc.convert(model, lc.plan(model, method, exclude="conv1"))
    dense, found = lc.count(model), lc.count(lean)
    assert found.params < 0.6 * dense.params
    assert found.macs < dense.macs if not isinstance(method, lc.DepthShared) else found.macs == dense.macs


def by_linalg() -> lc.Method:
    @dataclass(frozen=True)
    class LowRows(lc.TiedBlock):
        """A fit by torch.linalg, which takes neither bfloat16 nor float16."""

        def fit_(self, modules, convs):
            for module, conv in zip(modules, convs, strict=True):
                torch.linalg.svd(conv.weight.flatten(1))
                assert next(module.parameters()).dtype == conv.weight.dtype == torch.float32
            super().fit_(modules, convs)

    return LowRows()


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
@pytest.mark.parametrize("include", [(), "linear"])
def test_networks_in_half_precision_are_fitted_in_float32(dtype, include):
    dense = nn.Sequential(nn.Conv2d(8, 16, 3), nn.Flatten(), nn.Linear(16, 8), nn.Linear(8, 2)).to(dtype)
    method = by_linalg()
    before = [parameter.clone() for parameter in dense.parameters()]
    lean = lc.convert(dense, method, "fit", include=include, input_size=(8, 3, 3))
    assert {parameter.dtype for parameter in lean.parameters()} == {dtype}
    assert all(torch.equal(a, b) for a, b in zip(before, dense.parameters(), strict=True))
    wanted = lc.convert(copy.deepcopy(dense).float(), method, "fit", include=include, input_size=(8, 3, 3))
    for a, b in zip(lean.parameters(), wanted.parameters(), strict=True):
        assert torch.equal(a, b.to(dtype))


@pytest.mark.parametrize(
    ("built", "said"),
    [
        (lambda modules: modules[0], "TiedBlockConv2d"),
        (lambda modules: [], "[]"),
        (lambda modules: modules * 2, "[TiedBlockConv2d, TiedBlockConv2d]"),
        (lambda modules: [None], "[NoneType]"),
    ],
)
def test_a_method_that_does_not_build_a_module_for_each_spec_is_told_so(built, said, monkeypatch):
    made = lc.TiedBlock.build
    monkeypatch.setattr(lc.TiedBlock, "build", lambda self, specs: built(made(self, specs)))
    with pytest.raises(SettingError) as error:
        lc.convert(nn.Sequential(nn.Conv2d(8, 8, 3)), lc.TiedBlock())
    assert str(error.value).startswith(
        f"build() of tied_block(blocks=2) returned {said} for 1 specs; it must return a list"
    )


def test_a_method_as_text_is_pointed_to_find_method():
    with pytest.raises(SettingError, match=r"no text, which .* leanconv\.find_method"):
        lc.plan(nn.Sequential(nn.Conv2d(8, 8, 3)), "tied_block(blocks=2)")  # type: ignore[arg-type]
