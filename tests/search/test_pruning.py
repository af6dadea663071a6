from __future__ import annotations

import pytest
import torch
from torch import nn

import leanconv as lc
from leanconv.conversion.channel_plan import Selection
from leanconv.conversion.channels import channel_graph
from leanconv.core.errors import DataError, SettingError
from leanconv.search.controls import residual_blocks
from leanconv.search.importance import channel_scores
from leanconv.search.pruning import Work, best, plan_channels, removable_graph, width_of

SIZE = (3, 12, 12)


def small():
    torch.manual_seed(0)
    return nn.Sequential(
        nn.Conv2d(3, 8, 3, padding=1), nn.ReLU(), nn.Conv2d(8, 16, 3, padding=1, stride=2, groups=2), nn.ReLU(),
        nn.Conv2d(16, 6, 3), nn.ReLU(), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(6, 4),
    ).double().eval()  # fmt: skip


def test_the_removed_channels_are_gone_and_nothing_else():
    """A channel whose output is zero may go without a change of the result."""
    model = small()
    dead = [1, 3, 4, 6]
    with torch.no_grad():
        model[0].weight[dead] = 0
        model[0].bias[dead] = 0
    plan = plan_channels(model, ratios={"0": 0.5}, criterion="activation", align=2, data=[image(4)], input_size=SIZE)
    assert [(item.set.name, item.index) for item in plan.selections] == [("0", (0, 2, 5, 7))]
    x = image(2)
    thin = lc.apply_channels_(lc.prune(model, 1.0, input_size=SIZE), plan)
    assert torch.allclose(thin(x), model(x), atol=1e-12)
    assert thin[2].weight.shape == (16, 2, 3, 3)


def image(n):
    return torch.randn(n, *SIZE, generator=torch.Generator().manual_seed(5), dtype=torch.float64)


def test_the_activation_score_is_the_error_of_the_layer_behind():
    model, x = small(), image(3)
    graph = channel_graph(model, SIZE)
    scores = channel_scores(model, graph.sets, "activation", [x[:2], (x[2:], None)])
    for name, reader in {"0": 2, "2": 4, "4": 8}.items():
        seen = model[:reader](x)
        whole = model[reader](seen) - model[reader](torch.zeros_like(seen))
        for channel in range(graph.of(name).size):
            without = seen.clone()
            without[:, channel] = 0
            error = (model[reader](without) - model[reader](seen)).square().sum() / whole.square().sum()
            assert torch.allclose(scores[name][channel], error, atol=1e-12)


def test_the_taylor_score_is_the_square_of_the_change_that_the_gradient_predicts():
    model, x, y = small(), image(3), torch.tensor([0, 1, 3])
    graph = channel_graph(model, SIZE)
    scores = channel_scores(model, graph.sets, "taylor", [(x, y)])
    loss = nn.functional.cross_entropy(model(x), y)
    (gradient,) = torch.autograd.grad(loss, [model[2].weight])
    assert torch.allclose(scores["2"], (gradient * model[2].weight).sum((1, 2, 3)).square())
    assert all(parameter.grad is None for parameter in model.parameters())


def test_the_taylor_score_needs_no_gradients_around_it():
    model, data = small(), [(image(4), torch.tensor([0, 1, 2, 3]))]
    sets = channel_graph(model, SIZE).sets
    wanted = channel_scores(model, sets, "taylor", data)
    with torch.no_grad():
        found = channel_scores(model, sets, "taylor", data)
    assert all(torch.equal(found[name], wanted[name]) for name in wanted)


def test_the_magnitude_score_sums_over_all_weights_that_make_or_read_a_channel():
    model = small()
    scores = channel_scores(model, channel_graph(model, SIZE).sets, "magnitude")
    made = model[0].weight.square().sum((1, 2, 3))
    read = torch.stack([model[2].weight[8 * (c // 4) : 8 * (c // 4 + 1), c % 4].square().sum() for c in range(8)])
    assert torch.allclose(scores["0"], (made + read).sqrt())


def test_random_scores_repeat_and_unknown_ones_are_refused():
    model = small()
    sets = channel_graph(model, SIZE).sets
    first, again = (channel_scores(model, sets, "random", seed=3)["0"] for _ in range(2))
    assert torch.equal(first, again)
    with pytest.raises(SettingError, match="criterion='l2' must be"):
        channel_scores(model, sets, "l2")
    with pytest.raises(SettingError, match="needs data"):
        channel_scores(model, sets, "taylor")


@pytest.mark.parametrize("name", ["resnet20", "timm/mobilenetv3_small_050"])
def test_predicted_macs_are_counted_macs(name):
    model, size = lc.create_model(name), (3, 32, 32)
    graph = removable_graph(model, size)
    assert all(found.whole is None for found in graph.sets)
    widths = {found.name: width_of(found, 0.3 + 0.1 * (i % 5), 2) for i, found in enumerate(graph.sets)}
    kept = [Selection(found, best(found, widths[found.name], torch.rand(found.size))) for found in graph.sets]
    thin = lc.apply_channels_(lc.prune(model, 1.0, input_size=size), lc.ChannelPlan(tuple(kept)))
    assert Work(model, graph).macs(widths) == lc.count(thin, size).macs


def test_a_budget_is_met_in_whole_vectors_or_the_nearest_is_named():
    dense = lc.create_model("resnet20")
    half = lc.prune(dense, 0.5, align=8)
    assert lc.count(half).macs <= 0.5 * lc.count(dense).macs < lc.count(dense).macs
    assert {module.out_channels % 8 for module in half.modules() if isinstance(module, nn.Conv2d)} == {0}
    assert lc.count(dense).params == 272474  # the network itself is unchanged
    with pytest.raises(
        SettingError, match=r"macs=0\.01 cannot be met by removing channels; the least is 0\.\d+ with align=8"
    ):
        lc.prune(dense, 0.01)
    with pytest.raises(SettingError, match="macs=2 must be a share"):
        lc.prune(dense, 2)
    with pytest.raises(SettingError, match=r"'layer9\*' matches no set"):
        lc.prune(dense, ratios={"layer9*": 0.5})
    with pytest.raises(SettingError, match="give macs="):
        lc.prune(dense)


def test_ratios_name_sets_and_the_rest_meets_the_budget():
    dense = lc.create_model("resnet20")
    thin = lc.prune(dense, 0.6, ratios={"layer3.*.conv1": 0.25})
    assert [block.conv1.out_channels for block in thin.layer3] == [16, 16, 16]
    assert lc.count(thin).macs <= 0.6 * lc.count(dense).macs


def test_a_narrower_network_has_the_shapes_of_the_pruned_one_and_new_weights():
    dense = lc.create_model("resnet20")
    torch.manual_seed(1)
    thin, pruned = lc.narrower(dense, 0.5), lc.prune(dense, 0.5)
    assert {n: p.shape for n, p in thin.named_parameters()} == {n: p.shape for n, p in pruned.named_parameters()}
    wide = dense.layer3[2].conv1.weight
    assert 0.9 < thin.layer3[2].conv1.weight.std() / wide.std() * (thin.layer3[2].conv1.in_channels / 64) ** 0.5 < 1.1
    own = lc.narrower(small().float(), ratios={"4": 0.5}, align=3, input_size=SIZE)
    assert own[4].out_channels == 3 and own[4].weight.abs().max() <= (1 / (16 * 9)) ** 0.5
    other = nn.Sequential(nn.Conv2d(3, 8, 1), Scale(), nn.Conv2d(8, 2, 1))
    with pytest.raises(SettingError, match="'1' is a Scale with weights and no reset_parameters"):
        lc.narrower(other, 0.5, align=1, input_size=SIZE)


class Scale(nn.Module):
    def __init__(self):
        super().__init__()
        self.gamma = nn.Parameter(torch.ones(8, 1, 1))

    def forward(self, x):
        return x * self.gamma


def test_a_raw_parameter_is_cut_too():
    model = nn.Sequential(nn.Conv2d(3, 8, 1), Scale(), nn.Conv2d(8, 2, 1))
    thin = lc.prune(model, ratios={"0": 0.5}, align=1, input_size=SIZE)
    assert thin[1].gamma.shape == (4, 1, 1) and thin(torch.randn(1, *SIZE)).shape == (1, 2, 12, 12)


def test_residual_blocks_are_those_without_which_the_network_runs():
    model = lc.create_model("timm/mobilenetv3_small_050")
    skipping = [name for name, module in model.named_modules() if getattr(module, "has_skip", False)]
    assert len(skipping) == 7 and "blocks.3.0" in skipping
    assert [block.name for block in residual_blocks(model, (3, 32, 32))] == skipping


def test_a_shallower_network_meets_its_budget_with_the_fewest_blocks():
    dense = lc.create_model("resnet20")
    thin = lc.shallower(dense, 0.7)
    (plan,) = lc.channel_plans(thin)
    assert len(plan.removed) == 3 and lc.count(thin).macs <= 0.7 * lc.count(dense).macs
    fewer = lc.ChannelPlan(removed=plan.removed[:-1])
    assert lc.count(lc.apply_channels_(lc.create_model("resnet20"), fewer)).macs > 0.7 * lc.count(dense).macs
    with pytest.raises(SettingError, match=r"without all 7 it is 0\.191"):
        lc.shallower(dense, 0.1)


def test_a_narrower_network_has_no_filters_of_zeros():
    """The first filters of fast_vgg are the identity; some of their channels are gone."""
    thin = lc.narrower(lc.create_model("fast_vgg"), 0.36)
    assert thin.whiten.out_channels < 24
    for name, module in thin.named_modules():
        if isinstance(module, nn.Conv2d) and name != "whiten":
            assert module.weight.flatten(1).abs().sum(1).min() > 0, name


class Functional(nn.Module):
    """Weights of no layer: a convolution and two matrix products by torch's functions."""

    def __init__(self):
        super().__init__()
        self.conv = nn.Conv2d(3, 16, 3)
        self.kernel = nn.Parameter(torch.randn(16, 16, 3, 3))
        self.up, self.down = nn.Parameter(torch.randn(16, 32)), nn.Parameter(torch.randn(32, 16))
        self.fc = nn.Linear(16, 4)

    def forward(self, x):
        x = nn.functional.conv2d(self.conv(x).relu(), self.kernel).relu().flatten(2).transpose(1, 2)
        return self.fc(torch.matmul((x @ self.up).relu(), self.down).mean(1))


def test_calls_of_torchs_functions_count_as_layers():
    model = Functional()
    graph = removable_graph(model, SIZE)
    assert sorted(found.name for found in graph.sets) == ["conv", "down", "kernel", "up"]
    for share in (0.8, 0.5, 0.3):
        plan = plan_channels(model, share, align=2, input_size=SIZE)
        thin = lc.apply_channels_(lc.prune(model, 1.0, input_size=SIZE), plan)
        widths = {item.set.name: len(item.index) for item in plan.selections}
        counted = lc.count(thin, SIZE).macs
        assert Work(model, graph).macs(widths) == counted
        assert 0.7 * share < counted / lc.count(model, SIZE).macs <= share


class Two(nn.Module):
    def __init__(self):
        super().__init__()
        self.body, self.heads = small().float(), nn.ModuleList([nn.Linear(4, 3), nn.Linear(4, 2)])

    def forward(self, x):
        x = self.body(x)
        return {"a": self.heads[0](x), "b": self.heads[1](x)}


def test_networks_without_values_or_without_removable_channels_are_refused():
    with pytest.raises(SettingError, match=r"'0\.weight' is on the meta device, which holds no values"):
        lc.prune(small().to("meta"), 0.5, align=1, input_size=SIZE)
    assert lc.prune(small().to("meta"), 0.5, "first", align=1, input_size=SIZE)[0].weight.is_meta
    with pytest.raises(
        SettingError, match=r"no channel of this network can be removed \('0': the network gives it out\)"
    ):
        lc.prune(nn.Sequential(nn.Conv2d(3, 8, 3)), ratios={"*": 0.5}, input_size=SIZE)


class Says(nn.Module):
    """A network whose code says a number of channels, in a tensor of its own or in an assertion."""

    def __init__(self, written: bool) -> None:
        super().__init__()
        self.first, self.last, self.written = nn.Conv2d(3, 8, 1), nn.Conv2d(8, 2, 1), written

    def forward(self, x):
        y = self.first(x)
        if self.written:
            held = torch.zeros(len(x), 8, *x.shape[2:], dtype=x.dtype, device=x.device)
            held[:] = y
            return self.last(held)
        assert y.shape[1] == 8, "takes 8 channels"
        return self.last(y)


def test_a_network_that_says_its_number_of_channels_is_not_pruned_into_one_that_does_not_run():
    assert removable_graph(Says(written=True), SIZE).of("first").whole is not None
    with pytest.raises(SettingError, match=r"fewer channels \(takes 8 channels\); .* keep these whole by ratios="):
        lc.prune(Says(written=False), 0.5, align=1, input_size=SIZE)


class Auxiliary(nn.Module):
    """A network with a second head that runs only in training mode; with `labels`, that mode takes more than images.

    With `says`, its code says the number of channels in that mode.
    """

    def __init__(self, labels: bool, says: bool = False) -> None:
        super().__init__()
        self.first, self.last, self.aux = nn.Conv2d(3, 8, 1), nn.Conv2d(8, 2, 1), nn.Conv2d(8, 2, 1)
        self.labels, self.says = labels, says

    def forward(self, x, labels=None):
        y = self.first(x)
        if not self.training:
            return self.last(y)
        if self.labels and labels is None:
            raise ValueError("training needs labels")
        if self.says and y.shape[1] != 8:
            raise ValueError("takes 8 channels")
        return self.last(y), self.aux(y)


def test_a_network_that_does_not_train_with_fewer_channels_is_refused():
    with pytest.raises(
        SettingError, match=r"in training mode, the network does not run .* need all channels: keep these"
    ):
        lc.prune(Auxiliary(labels=False, says=True), 0.5, align=1, input_size=SIZE)
    thin = lc.prune(Auxiliary(labels=False), 0.5, align=1, input_size=SIZE)
    assert thin.aux.in_channels == 4 and thin.train()(image(2).float())[1].shape[1] == 2
    assert lc.prune(Auxiliary(labels=True), 0.5, align=1, input_size=SIZE).first.out_channels == 4


@pytest.mark.filterwarnings("ignore:.*torch.jit.*")
def test_what_cannot_be_scored_or_seen_is_refused():
    data = [(image(2).float(), torch.zeros(2, dtype=torch.long))]
    with pytest.raises(SettingError, match=r"needs one tensor of class scores, .* and the network gives a dict"):
        lc.prune(Two(), 0.5, "taylor", align=2, data=data, input_size=SIZE)
    assert lc.prune(Two(), 0.5, "activation", align=2, data=data, input_size=SIZE)(image(1).float())["b"].shape == (
        1,
        2,
    )
    for batch in (image(2), {"image": image(2)}, [image(2)]):
        with pytest.raises(
            DataError, match=r"'taylor' needs labels, and a batch is .*'reconstruction', which need images alone"
        ):
            lc.prune(small(), 0.5, "taylor", align=2, data=[batch], input_size=SIZE)
    with pytest.raises(DataError, match=r"labels of torch\.float32 \(2,\) do not fit outputs of torch"):
        lc.prune(small(), 0.5, "taylor", align=2, data=[(image(2), torch.zeros(2))], input_size=SIZE)
    with pytest.raises(SettingError, match=r"needs data: batches of images, or of \(images, labels\)"):
        lc.prune(small(), 0.5, "reconstruction", align=2, input_size=SIZE)
    scripted = torch.jit.trace(small(), image(1))
    with pytest.raises(SettingError, match="Sequential is scripted, which hides its layers; change the network first"):
        lc.prune(scripted, 0.5, input_size=SIZE)
    with pytest.raises(SettingError, match=r"is scripted, .*; optimize the network first"):
        lc.optimize(scripted, image(1), measured=False)
