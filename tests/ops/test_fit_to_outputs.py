"""Fits with moments of the inputs, against least squares by brute force in float64."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor, nn

import leanconv as lc
from leanconv.conversion.moments import collect
from leanconv.core import moments as core_moments
from leanconv.core.moments import Moments
from leanconv.ops.least_squares import descended, on_components, on_taps, principal
from leanconv.ops.low_rank import fit_bases_to_outputs


@pytest.fixture(autouse=True)
def almost_no_ridge(monkeypatch):
    monkeypatch.setattr(core_moments, "RIDGE", 1e-11)


def images(channels: int, size: int = 7, n: int = 6) -> Tensor:
    """Images whose channels and pixels are alike and have means, as behind a ReLU."""
    generator = torch.Generator().manual_seed(0)
    x = torch.randn(n, channels, size + 2, size + 2, generator=generator, dtype=torch.float64)
    x = nn.functional.avg_pool2d(x, 3, 1)
    return (x + x.mean(1, keepdim=True) + 0.2).relu()


def layers(count: int, *args: object, **kwargs: object) -> list[nn.Conv2d]:
    torch.manual_seed(1)
    return [nn.Conv2d(*args, **kwargs).double() for _ in range(count)]  # type: ignore[arg-type]


def fitted(method: lc.Method, convs: list[nn.Conv2d], inputs: list[Tensor]) -> list[nn.Module]:
    """The modules of `method` after a fit to the outputs of `convs`, each on its own inputs."""
    stats = [collect(conv, [""], [x], positions=None)[""] for conv, x in zip(convs, inputs, strict=True)]
    modules = [module.double().eval() for module in method.build([lc.ConvSpec.of(conv) for conv in convs])]
    with torch.no_grad():
        method.fit_(modules, convs, stats)
    return modules


def difference(modules: list[nn.Module], convs: list[nn.Conv2d], inputs: list[Tensor]) -> Tensor:
    """What the modules compute, less what the convolutions compute, as one vector."""
    pairs = zip(modules, convs, inputs, strict=True)
    return torch.cat([(module(x) - conv(x)).flatten() for module, conv, x in pairs])


@torch.no_grad()
def by_brute_force(
    modules: list[nn.Module], convs: list[nn.Conv2d], inputs: list[Tensor], free: list[nn.Parameter]
) -> float:
    """The least squared difference over all values of the parameters `free`, in which the outputs are linear."""
    for parameter in free:
        parameter.zero_()
    constant = difference(modules, convs, inputs)
    columns = []
    for parameter in free:
        flat = parameter.view(-1)
        for index in range(len(flat)):
            flat[index] = 1
            columns.append(difference(modules, convs, inputs) - constant)
            flat[index] = 0
    matrix = torch.stack(columns, 1)
    best = torch.linalg.lstsq(matrix, -constant, driver="gelsd").solution
    return float((matrix @ best + constant).square().sum())


LINEAR = {
    "tied": (lc.TiedBlock(blocks=2), 1, (4, 6, 3), {"padding": 1}),
    "tied, no bias": (lc.TiedBlock(blocks=2), 1, (4, 6, 3), {"padding": 1, "bias": False}),
    "tied, groups": (lc.TiedBlock(blocks=2), 1, (8, 8, 3), {"padding": 1, "groups": 2, "stride": 2}),
    "grouped": (lc.Grouped(groups=2), 1, (4, 6, 3), {"padding": 1, "padding_mode": "reflect"}),
    "grouped, groups": (lc.Grouped(groups=2), 1, (8, 4, (3, 1)), {"groups": 2, "dilation": 2, "bias": False}),
    "het": (lc.Het(part=2), 1, (4, 4, 3), {"padding": 1}),
    "het, groups": (lc.Het(part=2), 1, (8, 4, 3), {"padding": 1, "groups": 2, "bias": False}),
    "depth shared": (lc.DepthShared(), 3, (3, 4, 3), {"padding": 1}),
    "depth shared, groups": (lc.DepthShared(), 2, (4, 4, 3), {"groups": 2, "bias": False}),
    "filter summary": (lc.FilterSummary(ratio=0.4), 1, (3, 4, 3), {"padding": 1}),
    "filter summary, groups": (lc.FilterSummary(ratio=0.6), 1, (4, 4, 3), {"groups": 2, "bias": False}),
    "split": (lc.Split(fusion=False), 1, (4, 4, 3), {"padding": 1}),
    "split, stride 2": (lc.Split(fusion=False), 1, (4, 4, 3), {"padding": 1, "stride": 2, "bias": False}),
    "split, full": (lc.Split(ratio=0.3, fusion=False, representative="full"), 1, (6, 4, 3), {"padding": 1}),
    "split, one branch": (lc.Split(ratio=0.5, redundant=False), 1, (4, 4, 3), {"padding": 1}),
}


@pytest.mark.parametrize("name", LINEAR)
def test_the_fit_has_the_least_squared_difference_of_the_outputs(name):
    method, count, shape, settings = LINEAR[name]
    convs = layers(count, *shape, **settings)
    inputs = [images(shape[0], size=8) * (1 + index) for index in range(count)]
    modules = fitted(method, convs, inputs)
    with torch.no_grad():
        found = float(difference(modules, convs, inputs).square().sum())
        dense = sum(float(conv(x).square().sum()) for conv, x in zip(convs, inputs, strict=True))
    frozen = ("norm3.weight", "norm1.weight", "norm1.bias")
    parameters = {id(p): p for module in modules for key, p in module.named_parameters() if key not in frozen}
    parameters |= {
        id(p): p for module in modules for p in vars(module).get("bank", module).parameters() if "bank" in vars(module)
    }
    best = by_brute_force(modules, convs, inputs, [p.requires_grad_(False) for p in parameters.values()])
    assert found == pytest.approx(best, rel=1e-5)
    assert 1e-3 * dense < best < 0.9 * dense  # a case in which the fit matters


@pytest.mark.parametrize("bias", [True, False])
def test_the_cheap_filters_of_a_ghost_module_have_the_least_difference(bias):
    (conv,), x = layers(1, 4, 6, 3, padding=1, bias=bias), images(4)
    method = lc.Ghost(kernel_size=1, norm=False, activation=False)
    modules = fitted(method, [conv], [x])
    with torch.no_grad():
        found = float(difference(modules, [conv], [x]).square().sum())
    cheap = modules[0].cheap.conv  # type: ignore[union-attr]
    best = by_brute_force(modules, [conv], [x], [p.requires_grad_(False) for p in cheap.parameters()])
    assert found == pytest.approx(best, rel=1e-6)


def test_a_low_rank_fit_is_the_truncated_svd_of_the_whitened_weight():
    (conv,), x = layers(1, 4, 6, 3, bias=False), images(4)
    (module,) = fitted(lc.SharedBasis(shared=0, unique=2, norm=False), [conv], [x])
    second = collect(conv, [""], [x], positions=None)[""].second[0]
    values, vectors = torch.linalg.eigh(second)
    root = vectors * values.clamp(min=0).sqrt()
    left_out = torch.linalg.svdvals(conv.weight.detach().flatten(1) @ root)[2:].square().sum()
    with torch.no_grad():
        found = (module(x) - conv(x)).square().sum(1).mean()
    assert float(found) == pytest.approx(float(left_out), rel=1e-6)


@pytest.mark.parametrize(
    "method",
    [
        lc.SharedBasis(shared=2, unique=0, norm=False),
        lc.SharedBasis(shared=2, unique=1, norm=False),
        lc.SharedBasis(shared=2, unique=1, bases=2),
        lc.SoftShared(templates=2),
        lc.Lego(splits=2, ratio=0.5),
    ],
    ids=lambda method: method.label(),
)
def test_alternating_fits_are_better_than_the_nearest_weights_and_a_descent_gains_little(method):
    convs = layers(3, 4, 6, 3, padding=1)
    inputs = [images(4) * scale for scale in (1.0, 2.0, 3.0)]
    with torch.no_grad():
        near = [module.double().eval() for module in method.build([lc.ConvSpec.of(conv) for conv in convs])]
        method.fit_(near, convs)
        before = float(difference(near, convs, inputs).square().sum())
    modules = fitted(method, convs, inputs)
    found = float(difference(modules, convs, inputs).square().sum().detach())
    assert found < 0.8 * before
    free = list({id(p): p for module in modules for p in [*module.parameters(), *_borrowed(module)]}.values())
    descent = torch.optim.LBFGS(free, max_iter=60, line_search_fn="strong_wolfe")

    def closure() -> float:
        descent.zero_grad()
        error = difference(modules, convs, inputs).square().sum()
        error.backward()
        return float(error.detach())

    descent.step(closure)
    assert float(difference(modules, convs, inputs).square().sum().detach()) > 0.7 * found


def _borrowed(module: nn.Module) -> list[nn.Parameter]:
    held = [value for value in vars(module).values() if isinstance(value, nn.Module)]
    return [parameter for bank in held for parameter in bank.parameters()]


def test_both_branches_of_a_gated_split_have_the_mean_of_the_dense_output():
    (conv,), x = layers(1, 4, 4, 3, padding=1), images(4)
    gated, summed = (fitted(lc.Split(fusion=fusion), [conv], [x])[0] for fusion in (True, False))
    for name in ("grouped", "point", "redundant"):
        ours, theirs = getattr(gated, name).weight, getattr(summed, name).weight
        torch.testing.assert_close(ours, 2 * theirs)
    seen = {}
    for name in ("norm3", "norm1"):
        getattr(gated, name).register_forward_hook(
            lambda _, args, out, name=name: seen.update({name: out.mean((0, 2, 3))})
        )
    with torch.no_grad():
        gated(x)
        wanted = conv(x).mean((0, 2, 3))
    torch.testing.assert_close(seen["norm3"], wanted)
    torch.testing.assert_close(seen["norm1"], wanted)


def test_a_chained_split_is_better_than_without_its_1x1_convolution():
    (conv,), x = layers(1, 4, 4, 3, padding=1), images(4)
    (module,) = fitted(lc.Split(fusion=False, representative="chain"), [conv], [x])
    with torch.no_grad():
        found = float((module(x) - conv(x)).square().sum())
        nn.init.dirac_(module.point.weight)  # type: ignore[union-attr, arg-type]
        assert found < 0.99 * float((module(x) - conv(x)).square().sum())


def test_pooled_pixels_that_are_not_under_the_kernel_leave_the_fit_to_the_weights():
    (conv,), x = layers(1, 4, 4, 3, padding=2, dilation=2, stride=2), images(4, size=8)
    method = lc.Split()
    (module,) = fitted(method, [conv], [x])
    again = method.build([lc.ConvSpec.of(conv)])[0].double()
    with torch.no_grad():
        method.fit_([again], [conv])
    assert all(torch.equal(a, b) for a, b in zip(module.parameters(), again.parameters(), strict=True))


def test_inputs_that_are_all_zero_leave_the_nearest_weights():
    (conv,) = layers(1, 4, 6, 3, padding=1)
    for method in (lc.TiedBlock(2), lc.Grouped(2), lc.Het(2), lc.DepthShared()):
        (module,) = fitted(method, [conv], [torch.zeros(2, 4, 6, 6, dtype=torch.float64)])
        (near,) = [module.double() for module in method.build([lc.ConvSpec.of(conv)])]
        with torch.no_grad():
            method.fit_([near], [conv])
        torch.testing.assert_close(module.weight_dense(), near.weight_dense())  # type: ignore[operator]


def test_a_channel_that_is_always_zero_keeps_its_nearest_weights(monkeypatch):
    monkeypatch.setattr(core_moments, "RIDGE", 1e-4)
    (conv,), x = layers(1, 4, 6, 3, padding=1), images(4)
    x[:, 1] = 0
    (module,) = fitted(lc.Grouped(2), [conv], [x])
    torch.testing.assert_close(module.weight[:3, 1], conv.weight[:3, 1].detach())  # type: ignore[index]


def test_moments_give_the_mean_squared_output():
    (conv,), x = layers(1, 4, 6, 3, groups=2), images(4)
    seen = collect(conv, [""], [x], positions=None)[""]
    with torch.no_grad():
        y = conv(x)
        torch.testing.assert_close(seen.error(conv.weight, conv.bias), y.square().sum(1).mean())
        torch.testing.assert_close(seen.mean_of(conv.weight) + conv.bias, y.mean((0, 2, 3)))
    assert seen.count == y[:, 0].numel()


def test_the_steps_refuse_nothing_that_is_singular():
    zero = torch.zeros(3, 3, dtype=torch.float64)
    weight = torch.ones(2, 3, dtype=torch.float64)
    assert on_taps(weight, zero, torch.tensor([0])).isfinite().all()
    assert on_components(weight, torch.eye(3, dtype=torch.float64), zero).isfinite().all()
    assert principal(weight, zero, 1).shape == (2, 1)
    assert torch.equal(descended(weight, lambda x: 0 * x, weight), weight)


def test_shared_components_of_layers_with_other_inputs_are_found_where_they_exist():
    torch.manual_seed(0)
    shared, own = torch.randn(2, 8, dtype=torch.float64), torch.randn(3, 1, 8, dtype=torch.float64)
    problems = []
    for index in range(3):
        components = torch.cat([own[index], shared])
        spread = torch.randn(8, 8, dtype=torch.float64)
        problems.append((torch.randn(5, 3, dtype=torch.float64) @ components, spread @ spread.T))
    basis, uniques = fit_bases_to_outputs(problems, 2, 1)
    for (weight, metric), unique in zip(problems, uniques, strict=True):
        components = torch.cat([unique, basis])
        torch.testing.assert_close(components @ components.T, torch.eye(3, dtype=torch.float64))
        torch.testing.assert_close(on_components(weight, metric, components) @ components, weight)


def test_the_ridge_is_relative_and_positive():
    second = torch.diag_embed(torch.tensor([[2.0, 4.0], [0.0, 0.0]]))
    ridge = Moments(second, torch.zeros(2, 2), 1).ridge
    assert ridge.tolist() == pytest.approx([3e-11, 1.0])
