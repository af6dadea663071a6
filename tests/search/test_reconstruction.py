"""Channels are removed whose absence the other weights repair: against least squares by brute force."""

from __future__ import annotations

import itertools

import pytest
import torch
from torch import nn
from torch.nn.functional import unfold

import leanconv as lc
from leanconv.conversion.channel_plan import ChannelPlan, Selection
from leanconv.core.errors import SettingError
from leanconv.core.moments import RIDGE
from leanconv.search.pruning import Work, removable_graph, widths_by_scores
from leanconv.search.reconstruction import reconstruction_scores, repaired

SIZE = (3, 9, 9)


def small():
    torch.manual_seed(0)
    return nn.Sequential(
        nn.Conv2d(3, 6, 3, padding=1), nn.ReLU(), nn.Conv2d(6, 8, 3, padding=1, bias=False), nn.BatchNorm2d(8), nn.ReLU(),
        nn.Conv2d(8, 8, 3, groups=2), nn.ReLU(), nn.AdaptiveAvgPool2d(2), nn.Flatten(), nn.Linear(32, 4),
    ).double().eval()  # fmt: skip


def images(count=12):
    return torch.randn(count, *SIZE, generator=torch.Generator().manual_seed(3), dtype=torch.float64)


def least_error(inputs, outputs, kept, weight):
    """The least relative squared error of a linear map of the kept inputs, with the ridge of `Moments`, by brute force."""
    ridge = RIDGE * inputs.square().mean() * len(inputs)
    rows = torch.cat([inputs, ridge.sqrt() * torch.eye(inputs.shape[1], dtype=torch.float64)])
    wanted = torch.cat([outputs, ridge.sqrt() * weight.T])
    found = torch.linalg.lstsq(rows[:, kept], wanted).solution
    return (rows[:, kept] @ found - wanted).square().sum() / outputs.square().sum(), found


def inputs_of(model, x, layer):
    """The unfolded inputs (positions, F) of a 3x3 convolution with padding 1."""
    seen = model[:layer](x)
    return unfold(seen, 3, padding=1).permute(0, 2, 1).flatten(0, 1)


def test_the_first_channel_to_go_has_the_least_error_after_the_other_weights_are_fitted():
    model, x = small(), images()
    graph = removable_graph(model, SIZE)
    scores = reconstruction_scores(model, [graph.of("0")], [x])["0"]
    u, weight = inputs_of(model, x, 2), model[2].weight.detach().flatten(1)
    errors = []
    for channel in range(6):
        kept = [column for column in range(54) if column // 9 != channel]
        errors.append(least_error(u, u @ weight.T, kept, weight)[0])
    first = int(scores.argmin())
    assert first == int(torch.stack(errors).argmin())
    assert torch.allclose(scores[first], errors[first], rtol=1e-6)


def test_the_scores_add_up_to_the_error_of_removing_several_channels():
    model, x = small(), images()
    scores = reconstruction_scores(model, [removable_graph(model, SIZE).of("0")], [x])["0"]
    u, weight = inputs_of(model, x, 2), model[2].weight.detach().flatten(1)
    for count in (2, 3, 4):
        gone = scores.argsort()[:count].tolist()
        kept = [column for column in range(54) if column // 9 not in gone]
        error = least_error(u, u @ weight.T, kept, weight)[0]
        assert scores[gone].sum() >= error * (1 - 1e-9)  # equal, unless an error fell from one round to the next
        assert torch.allclose(scores[gone].sum(), error, rtol=0.05)
    pairs = itertools.combinations(range(6), 2)
    best = min(least_error(u, u @ weight.T, [c for c in range(54) if c // 9 not in pair], weight)[0] for pair in pairs)
    assert scores.sort().values[:2].sum() <= 1.2 * best  # greedy, and near the best pair


def test_the_repaired_layer_is_the_least_squares_layer():
    model, x = small(), images()
    found = removable_graph(model, SIZE).of("0")
    lean = repaired(model, ChannelPlan((Selection(found, (0, 2, 3, 5)),)), [x])
    u, weight = inputs_of(model, x, 2), model[2].weight.detach().flatten(1)
    kept = [column for column in range(54) if column // 9 in (0, 2, 3, 5)]
    _, solution = least_error(u, u @ weight.T, kept, weight)
    assert torch.allclose(lean[2].weight.flatten(1), solution.T, atol=1e-8)
    assert lean[0].weight.shape[0] == 4 and torch.equal(lean[0].weight, model[0].weight[[0, 2, 3, 5]])


def test_a_sequential_repair_fits_each_layer_on_the_inputs_that_the_narrower_network_gives():
    model, x = small(), images(60)
    graph = removable_graph(model, SIZE)
    plan = ChannelPlan((Selection(graph.of("0"), (0, 2, 3, 5)), Selection(graph.of("5"), (0, 1, 2, 4, 5, 7))))
    lean, plain = (repaired(model, plan, [x], sequential=sequential) for sequential in (True, False))
    inputs, outputs = lean[:9](x), model(x)
    centred, wanted = inputs - inputs.mean(0), outputs - outputs.mean(0)
    solution = torch.linalg.lstsq(centred, wanted).solution
    best = (centred @ solution - wanted).square().sum()
    errors = [(net(x) - outputs).square().sum() for net in (lean, plain)]
    assert best * (1 - 1e-9) <= errors[0] <= 1.05 * best < errors[1]
    assert torch.allclose(lean(x).mean(0), outputs.mean(0), atol=1e-9)


def test_a_linear_layer_behind_a_flattening_is_fitted_with_its_bias():
    model, x = small(), images(200)
    found = removable_graph(model, SIZE).of("5")
    lean = repaired(model, ChannelPlan((Selection(found, (0, 1, 2, 4, 5, 7)),)), [x])
    inputs = model[:9](x)
    stay = [column for column in range(32) if column // 4 in (0, 1, 2, 4, 5, 7)]
    centred = inputs - inputs.mean(0)
    plain = apply_only(model, found)
    wanted = centred @ model[9].weight.T
    fitted, unfitted = (
        (centred[:, stay] @ net[9].weight.T - wanted).square().sum() / wanted.square().sum() for net in (lean, plain)
    )
    solution = torch.linalg.lstsq(centred[:, stay], wanted).solution
    best = (centred[:, stay] @ solution - wanted).square().sum() / wanted.square().sum()
    assert best * (1 - 1e-9) <= fitted <= 1.02 * best < unfitted
    assert torch.allclose(lean[9](inputs[:, stay]).mean(0), model[9](inputs).mean(0), atol=1e-9)


def apply_only(model, found):
    return lc.apply_channels_(
        lc.prune(model, 1.0, input_size=SIZE), ChannelPlan((Selection(found, (0, 1, 2, 4, 5, 7)),))
    )


def test_a_grouped_reader_keeps_its_weights_and_counts_the_plain_error():
    model, x = small(), images()
    found = removable_graph(model, SIZE).of("2")
    scores = reconstruction_scores(model, [found], [x])["2"]
    seen = model[:5](x)
    whole = model[5](seen) - model[5](torch.zeros_like(seen))
    for channel in range(8):
        without = seen.clone()
        without[:, channel] = 0
        error = (model[5](without) - model[5](seen)).square().sum() / whole.square().sum()
        if scores[channel].isfinite():
            assert scores[channel] >= error * (1 - 1e-6)
    assert torch.allclose(scores.min(), min_plain(model, seen, whole), rtol=1e-6)


def min_plain(model, seen, whole):
    errors = []
    for channel in range(8):
        without = seen.clone()
        without[:, channel] = 0
        errors.append((model[5](without) - model[5](seen)).square().sum() / whole.square().sum())
    return torch.stack(errors).min()


def test_channels_that_others_copy_go_without_an_error():
    model, x = small(), images()
    with torch.no_grad():
        model[0].weight[3:] = model[0].weight[:3]
        model[0].bias[3:] = model[0].bias[:3]
    half = lc.prune(model, ratios={"0": 0.5}, criterion="reconstruction", align=1, data=[x], input_size=SIZE)
    by_size = lc.prune(model, ratios={"0": 0.5}, criterion="magnitude", align=1, input_size=SIZE)
    assert half[0].weight.shape[0] == 3
    assert torch.allclose(half(x), model(x), atol=1e-3)  # the ridge leaves a little
    assert (by_size(x) - model(x)).abs().max() > 100 * (half(x) - model(x)).abs().max()


def test_widths_follow_the_scores_and_meet_the_share():
    model = small()
    graph = removable_graph(model, SIZE)
    sets = [found for found in graph.sets if found.whole is None]
    work = Work(model, graph)
    scores = {found.name: torch.full((found.size,), 1.0 if found.name == "0" else 100.0) for found in sets}
    widths = widths_by_scores(work.macs, sets, scores, {}, 0.6, 2)
    assert widths["0"] == 2 and work.macs(widths) <= 0.6 * work.dense  # the cheapest set went as far as it can
    assert all(width % 2 == 0 for width in widths.values())
    lean = lc.prune(model, 0.6, "reconstruction", align=2, allocate="scores", data=[images()], input_size=SIZE)
    assert lc.count(lean, SIZE).macs <= 0.6 * lc.count(model, SIZE).macs
    assert set(widths_by_scores(work.macs, sets, scores, {}, 0.001, 2).values()) == {2}
    with pytest.raises(SettingError, match="the least is"):
        lc.prune(model, 0.001, "activation", align=2, allocate="scores", data=[images()], input_size=SIZE)
    total = sum(p.numel() for name, p in model.named_parameters() if name.endswith("weight") and p.dim() > 1)
    assert work.weights({}) == total
    thin = lc.prune(model, ratios={"0": 0.5}, align=1, input_size=SIZE)
    left = sum(p.numel() for name, p in thin.named_parameters() if name.endswith("weight") and p.dim() > 1)
    assert work.weights({"0": 3}) == left


def test_scores_that_do_not_compare_between_sets_are_refused():
    with pytest.raises(SettingError, match="allocate='scores' needs scores that compare"):
        lc.prune(small(), 0.5, "magnitude", allocate="scores", input_size=SIZE)
    with pytest.raises(SettingError, match="needs data"):
        lc.prune(small(), 0.8, "reconstruction", align=2, input_size=SIZE)


def test_a_residual_network_keeps_its_function_better_than_by_magnitude():
    torch.manual_seed(0)
    model = lc.create_model("resnet8", num_classes=10, in_chans=3).eval()
    x = torch.randn(24, 3, 16, 16)
    with torch.no_grad():
        model.train()(x)
        model.eval()
        errors = {
            criterion: float(
                (lc.prune(model, 0.6, criterion, align=4, data=[x], input_size=(3, 16, 16))(x) - model(x))
                .square()
                .sum()
            )
            for criterion in ("magnitude", "reconstruction")
        }
    assert errors["reconstruction"] < errors["magnitude"]
