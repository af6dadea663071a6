"""`leanconv.convert` with images: fits to outputs, one after another, and norms that are estimated again."""

from __future__ import annotations

import copy
from dataclasses import dataclass

import pytest
import torch
from torch import Tensor, nn

import leanconv as lc
from leanconv.conversion.targets import in_order
from leanconv.core.errors import DataError, LeanconvWarning, SettingError

METHODS = [lc.TiedBlock(), lc.SharedBasis(shared=4, unique=2), lc.Grouped(), lc.Split()]


def images(n: int = 24) -> Tensor:
    generator = torch.Generator().manual_seed(0)
    return nn.functional.avg_pool2d(torch.randn(n, 3, 18, 18, generator=generator), 3, 1) * 2


def network(width: int = 8) -> nn.Module:
    """A small network whose batch norms have the statistics of `images`."""
    torch.manual_seed(0)
    model = lc.create_model("resnet8", width=width).eval()
    return lc.reestimate_norms_(model, [images()])


def logits_error(lean: nn.Module, model: nn.Module) -> float:
    with torch.no_grad():
        return float((lean(images()) - model(images())).square().sum() / model(images()).square().sum())


@pytest.mark.parametrize("method", METHODS, ids=lambda method: method.name)
def test_images_bring_the_output_nearer_and_a_sequential_fit_brings_it_nearer_still(method):
    model = network()
    plan = lc.plan(model, method, exclude="conv1")
    near, seen, in_turn = (
        logits_error(lc.convert(model, plan, "fit", **more), model)
        for more in ({}, {"data": [images()]}, {"data": [images()], "sequential": True})
    )
    assert seen < near and in_turn < near
    if not isinstance(method, lc.Split):  # its gate is not linear
        assert in_turn < seen


def test_norms_are_estimated_again_behind_each_group_of_a_sequential_fit(monkeypatch: pytest.MonkeyPatch):
    model, more = network(), {"data": [images()], "sequential": True}
    plan = lc.plan(model, lc.Grouped(), exclude="conv1")
    lean = lc.convert(model, plan, "fit", **more)
    again = lc.reestimate_norms_(copy.deepcopy(lean), [images()])
    for name, value in again.state_dict().items():
        torch.testing.assert_close(lean.state_dict()[name], value)
    monkeypatch.setattr("leanconv.conversion.targets.reestimate_norms_", lambda *_: None)
    assert logits_error(lean, model) < 0.9 * logits_error(lc.convert(model, plan, "fit", **more), model)


@dataclass(frozen=True)
class Unchanged(lc.Grouped):
    """Grouped with one group: the dense layer."""

    groups: int = 1


@pytest.mark.parametrize("sequential", [False, True])
def test_operators_that_lose_nothing_keep_the_network(sequential):
    model = network()
    lean = lc.convert(model, Unchanged(), "fit", data=images(), sequential=sequential)
    assert logits_error(lean, model) < 1e-8


def test_a_sequential_fit_is_the_least_squares_solution_for_the_dense_outputs():
    torch.manual_seed(0)
    model = nn.Sequential(nn.Conv2d(4, 4, 3), nn.Conv2d(4, 6, 3), nn.Flatten()).double().eval()
    x = torch.randn(8, 4, 9, 9, dtype=torch.float64) + 0.3
    plan = lc.plan(model, lc.Grouped(2), input_size=(4, 9, 9))
    lean = lc.convert(model, plan, "fit", data=[x[:4], x[4:]], sequential=True)
    with torch.no_grad():
        inputs, wanted = lean[0](x), model[1](model[0](x))
        for half in range(2):
            u = nn.functional.unfold(inputs[:, 2 * half : 2 * half + 2], 3).movedim(1, 2).flatten(0, 1)
            u = torch.cat([u, torch.ones_like(u[:, :1])], 1)
            y = wanted[:, 3 * half : 3 * half + 3].flatten(2).movedim(1, 2).flatten(0, 1)
            best = torch.linalg.lstsq(u, y).solution
            ours = torch.cat([lean[1].weight.flatten(1), lean[1].bias[:, None]], 1)[3 * half : 3 * half + 3]
            torch.testing.assert_close(ours, best.T, rtol=1e-2, atol=2e-3)


def test_groups_are_fitted_in_the_order_of_their_calls():
    class Backwards(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.last, self.first = nn.Conv2d(4, 4, 3), nn.Conv2d(4, 4, 3)

        def forward(self, x: Tensor) -> Tensor:
            return self.last(self.first(x))

    model = Backwards()
    plan = lc.plan(model, lc.Grouped(2), input_size=(4, 9, 9))
    names = [
        group.sites[0].name
        for group, _ in in_order(model, copy.deepcopy(model), plan.groups, [torch.randn(2, 4, 9, 9)])
    ]
    assert names == ["first", "last"]


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float64])
@pytest.mark.parametrize("sequential", [False, True])
def test_linear_layers_and_other_precisions_are_fitted_to_outputs(dtype, sequential):
    torch.manual_seed(0)
    dense = nn.Sequential(nn.Conv2d(8, 16, 3), nn.ReLU(), nn.Flatten(), nn.Linear(16, 8), nn.Linear(8, 2)).to(dtype)
    x = (torch.randn(64, 8, 3, 3) + 0.3).to(dtype)
    plan = lc.plan(dense, lc.TiedBlock(2), include="linear", input_size=(8, 3, 3))
    near, lean = lc.convert(dense, plan, "fit"), lc.convert(dense, plan, "fit", data=x, sequential=sequential)
    assert {parameter.dtype for parameter in lean.parameters()} == {dtype}
    with torch.no_grad():
        wanted = dense(x).double()
        assert (lean(x).double() - wanted).norm() < (near(x).double() - wanted).norm()


def test_a_method_without_such_a_fit_and_a_layer_without_a_call_are_named():
    @dataclass(frozen=True)
    class OfOld(lc.Grouped):
        """A method of another package, whose fit takes no moments."""

        def fit_(self, modules, convs):
            super().fit_(modules, convs)

    model, x = nn.Sequential(nn.Conv2d(4, 4, 3)), torch.randn(2, 4, 5, 5)
    for sequential in (False, True):
        with pytest.warns(
            LeanconvWarning, match=r"of_old\(groups=2\) keeps its fit to the weights: its fit_ takes no stats"
        ):
            lean = lc.convert(model, OfOld(), "fit", data=[x], sequential=sequential)
        assert torch.equal(lean[0].weight, lc.convert(model, OfOld(), "fit")[0].weight)
    with pytest.warns(LeanconvWarning, match="cheap 3x3 filters see inputs beside the kernel"):
        lc.convert(model, lc.Ghost(), "fit", data=[x])

    class Half(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.used, self.unused = nn.Conv2d(4, 4, 3), nn.Conv2d(4, 4, 3)

        def forward(self, x: Tensor) -> Tensor:
            return self.used(x) if len(x) else self.unused(x)

    half = Half()
    for sequential in (False, True):
        with pytest.warns(LeanconvWarning, match="'unused' was not called with the images of data"):
            lean = lc.convert(half, lc.Grouped(2), "fit", data=[x], sequential=sequential)
        torch.testing.assert_close(lean.unused.weight[:2], half.unused.weight[:2, :2])


def test_arguments_that_do_not_go_together_are_refused():
    model, x = nn.Sequential(nn.Conv2d(4, 4, 3)), torch.randn(2, 4, 5, 5)
    with pytest.raises(SettingError, match=r"data is for a fit, and init='fresh'"):
        lc.convert(model, lc.Grouped(), data=[x])
    with pytest.raises(SettingError, match=r"sequential=True and teacher fit to outputs; give images"):
        lc.convert(model, lc.Grouped(), "fit", sequential=True)
    for sequential in (False, True):
        with pytest.raises(DataError, match="no batch"):
            lc.convert(model, lc.Grouped(), "fit", data=[], sequential=sequential)


def test_progress_counts_the_groups():
    model, told = network(), []
    lc.convert(
        model, lc.Grouped(), "fit", data=iter([images(4)]), exclude="conv1", progress=lambda *at: told.append(at)
    )
    assert told == [(n, len(told)) for n in range(1, len(told) + 1)] and len(told) > 3


def test_norms_are_estimated_over_all_batches_together():
    torch.manual_seed(0)
    x = torch.randn(12, 3, 5, 5) * torch.tensor([1.0, 2.0, 3.0]).view(3, 1, 1) + 1
    x[4:] += 3
    model = nn.Sequential(nn.BatchNorm2d(3), nn.Dropout(), nn.Flatten(), nn.BatchNorm1d(75, track_running_stats=False))
    model.train()
    assert lc.reestimate_norms_(model, [(x[:4], None), (x[4:], None)]) is model
    rows = x.movedim(1, 0).flatten(1)
    torch.testing.assert_close(model[0].running_mean, rows.mean(1))
    torch.testing.assert_close(model[0].running_var, rows.var(1, correction=0))
    assert model.training and model[0].momentum == 0.1 and int(model[0].num_batches_tracked) == 0


def test_norms_behind_norms_are_exact_where_one_batch_holds_all_images():
    model = network()
    for module in model.modules():
        if isinstance(module, nn.BatchNorm2d):
            module.running_mean.add_(1.0)
            module.running_var.mul_(3.0)
    lc.reestimate_norms_(model, [images()])
    seen = {}
    for name, module in model.named_modules():
        if isinstance(module, nn.BatchNorm2d):
            module.register_forward_hook(lambda norm, args, out, name=name: seen.update({name: (norm, args[0])}))
    with torch.no_grad():
        model.eval()(images())
    assert len(seen) > 5
    for norm, x in seen.values():
        torch.testing.assert_close(norm.running_mean, x.mean((0, 2, 3)), rtol=1e-3, atol=1e-4)
        torch.testing.assert_close(norm.running_var, x.var((0, 2, 3), correction=0), rtol=1e-3, atol=1e-4)


def test_norms_inside_operators_keep_the_fit_until_they_are_trained():
    model = network()
    lean = lc.convert(model, lc.SharedBasis(shared=4, unique=2), "fit", data=[images()], exclude="conv1")
    layer = next(module for module in lean.modules() if isinstance(module, lc.SharedBasisConv2d))
    before = layer.weight_dense().detach()
    lc.reestimate_norms_(lean, [images()])
    torch.testing.assert_close(layer.weight_dense(), before, rtol=1e-4, atol=1e-5)
    assert not torch.allclose(layer.norm.running_var, torch.ones(6))
    layer.train()(torch.randn(4, layer.in_channels, 8, 8))  # a step of training
    lean.eval()
    layer.norm.running_var.mul_(4)
    lc.reestimate_norms_(lean, [images()])
    assert not torch.allclose(layer.weight_dense(), before / 2, rtol=1e-2)


def test_norms_without_images_are_refused():
    for function in (lc.reestimate_norms_, lc.calibrate_):
        with pytest.raises(DataError, match="no batch"):
            function(network(), [])
    with pytest.raises(DataError, match="NaN"):
        lc.reestimate_norms_(network(), [torch.full((2, 3, 8, 8), float("nan"))])
    single = nn.Sequential(nn.AdaptiveAvgPool2d(1), nn.BatchNorm2d(3))
    with pytest.raises(
        DataError, match=r"shape \(1, 3, 1, 1\), one value for each channel.* larger batches.*drop_last=True"
    ):
        lc.reestimate_norms_(single, [torch.ones(2, 3, 8, 8), torch.ones(1, 3, 8, 8)])


def test_norms_that_synchronise_processes_are_estimated_again():
    torch.manual_seed(0)
    plain = nn.Sequential(nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4), nn.ReLU(), nn.Conv2d(4, 4, 3), nn.BatchNorm2d(4))
    several, images = nn.SyncBatchNorm.convert_sync_batchnorm(copy.deepcopy(plain)), torch.randn(8, 3, 8, 8)
    lc.reestimate_norms_(plain, [images])
    lc.reestimate_norms_(several, [images])
    assert all(torch.equal(a, b) for a, b in zip(plain.buffers(), several.buffers(), strict=True))
    assert int(several[1].num_batches_tracked) == 0
