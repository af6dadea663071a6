"""Analyses with known answers."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

import leanconv as lc
from leanconv import analyse
from leanconv.analyse import similarity as similarity_module
from leanconv.analyse.guided import Guided
from leanconv.core.errors import SettingError
from leanconv.data import open_data
from leanconv.train import TrainConfig, fit


class TwoLayers(nn.Module):
    def __init__(self, kind: str = "module") -> None:
        super().__init__()
        torch.manual_seed(0)
        self.conv1, self.conv2 = nn.Conv2d(2, 4, 3, bias=False), nn.Conv2d(4, 6, 3, bias=False)
        self.relu = nn.ReLU(inplace=kind == "in place")
        self.kind = kind

    def activate(self, x: Tensor) -> Tensor:
        kinds = {
            "function": F.relu, "method": lambda x: x.relu(), "torch": torch.relu, "clamp": lambda x: x.clamp(min=0),
            "function in place": lambda x: F.relu(x, inplace=True), "method in place": lambda x: x.relu_(),
        }  # fmt: skip
        if self.kind == "ignored result":
            x.relu_()
            return x
        return kinds.get(self.kind, self.relu)(x)

    def forward(self, x: Tensor) -> Tensor:
        return self.activate(self.conv2(self.activate(self.conv1(x)))).mean((2, 3))


KINDS = [
    "module",
    "in place",
    "function",
    "function in place",
    "method",
    "method in place",
    "torch",
    "clamp",
    "ignored result",
]


@pytest.mark.parametrize("kind", KINDS)
def test_guided_back_propagation_by_hand(kind: str):
    net = TwoLayers(kind)
    torch.manual_seed(1)
    x = torch.randn(3, 2, 8, 8)
    w1, w2 = net.conv1.weight, net.conv2.weight
    h1 = F.conv2d(x, w1)
    h2 = F.conv2d(h1.relu(), w2)
    dy = torch.randn(3, 6)
    top = (dy[:, :, None, None] / (4 * 4)).expand_as(h2)
    d2 = top.clamp(min=0) * (h2 > 0)
    back = F.conv_transpose2d(d2, w2)
    d1 = back.clamp(min=0) * (h1 > 0)
    wanted = F.conv_transpose2d(d1, w1)
    x.requires_grad_()
    with Guided():
        out = net(x)
    torch.testing.assert_close(torch.autograd.grad(out, x, dy)[0], wanted)
    plain = torch.autograd.grad(net(x), x, dy)[0]
    assert not torch.allclose(plain, wanted), "outside the block gradients are the ordinary ones"


@pytest.mark.parametrize(
    "activation", [nn.ReLU6(), nn.SiLU(), nn.GELU(), nn.Hardswish(), nn.LeakyReLU(), nn.Hardtanh(), nn.PReLU()]
)
def test_other_rectifiers_by_their_own_derivative(activation: nn.Module):
    x = torch.randn(50, requires_grad=True)
    dy = torch.randn(50)
    with Guided():
        y = activation(x)
    slope = torch.autograd.grad(activation(x).sum(), x)[0]
    torch.testing.assert_close(torch.autograd.grad(y, x, dy)[0], slope * dy.clamp(min=0))


def test_what_has_no_rule_is_refused_by_name():
    net = nn.Sequential(nn.Conv2d(1, 2, 3), nn.Softplus())
    with pytest.raises(SettingError, match="no rule for softplus"):
        analyse.filter_similarity(nn.Sequential(net, nn.Conv2d(2, 2, 1)), torch.randn(1, 1, 6, 6), "1")


def test_duplicated_filters_are_alike():
    net = TwoLayers("function")
    with torch.no_grad():
        net.conv2.weight[3] = 2.5 * net.conv2.weight[1]
        net.conv2.weight[5] = 0
    net.train()
    found = analyse.filter_similarity(net, torch.randn(4, 2, 9, 9), "conv2")
    assert found.matrix[1, 3] == pytest.approx(1) and found.filters == tuple(range(6)) and found.images == 4
    assert np.allclose(found.matrix, found.matrix.T, equal_nan=True) and np.isnan(found.matrix[5]).all()
    assert len(found.pairs()) == 10 and net.training
    edges, density = found.histogram(20)
    assert (density * np.diff(edges)).sum() == pytest.approx(1)
    weights = analyse.weight_similarity(net, "conv2")
    rows = net.conv2.weight.detach().flatten(1).double()
    assert weights.matrix[0, 2] == pytest.approx(float(F.cosine_similarity(rows[0], rows[2], dim=0)))
    assert len(analyse.filter_similarity(net, torch.randn(1, 2, 9, 9), "conv2", filters=3).filters) == 3


@pytest.mark.parametrize("at_once", [1, 2**19])
def test_patterns_of_each_image_are_its_own(at_once, monkeypatch):
    """Passes of many filters give what one pass for each filter gives; patterns are averaged, or cosines."""
    monkeypatch.setattr(similarity_module, "PIXELS_AT_ONCE", at_once)
    net, images = TwoLayers("function").eval(), torch.randn(2, 2, 9, 9)
    found = analyse.filter_similarity(net, images, "conv2", average="cosines").matrix
    cosines, patterns = [], []
    for image in images:
        rows = []
        for index in range(6):
            x = image[None].clone().requires_grad_()
            with Guided():
                maps = net.conv2(net.activate(net.conv1(x)))
            rows.append(torch.autograd.grad(maps[0, index].sum(), x)[0].flatten())
        unit = F.normalize(torch.stack(rows), dim=1)
        cosines.append(unit @ unit.T)
        patterns.append(torch.stack(rows))
    np.testing.assert_allclose(found, torch.stack(cosines).mean(0).numpy(), atol=1e-5)
    unit = F.normalize(torch.stack(patterns).mean(0), dim=1)
    default = analyse.filter_similarity(net, images, "conv2")
    np.testing.assert_allclose(default.matrix, (unit @ unit.T).numpy(), atol=1e-5)
    assert default.average == default.to_json()["average"] == "patterns" and not np.allclose(default.matrix, found)
    with pytest.raises(SettingError, match="average='means' must be"):
        analyse.filter_similarity(net, images, "conv2", average="means")


def test_grad_cam_is_its_definition():
    net = TwoLayers("function").train()
    images = torch.randn(3, 2, 10, 10)
    found = analyse.grad_cam(net, images, "conv1", classes=[0, 4, 2])
    maps = net.conv1(images).detach().requires_grad_()
    scores = net.activate(net.conv2(net.activate(maps))).mean((2, 3))
    scores[torch.arange(3), [0, 4, 2]].sum().backward()
    weights = maps.grad.mean((2, 3), keepdim=True)
    wanted = (weights * maps).sum(1).relu()
    np.testing.assert_allclose(found.maps, wanted.detach().numpy(), atol=1e-6)
    assert found.heat.shape == (3, 10, 10) and found.heat.max() == pytest.approx(1) and net.training
    assert analyse.grad_cam(net, images).layer == "conv2"
    for settings, match in (({"classes": [9, 0, 0]}, "must be one of 0 to 5"), ({"layer": "conv9"}, "valid are.*conv")):
        with pytest.raises(SettingError, match=match):
            analyse.grad_cam(net, images, **settings)


class Twice(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.conv = nn.Conv2d(3, 3, 3, padding=1)

    def forward(self, x: Tensor) -> Tensor:
        return self.conv(self.conv(x).relu()).mean((2, 3))


def test_each_use_of_a_shared_layer():
    net, images = Twice(), torch.randn(2, 3, 6, 6)
    first, last = (analyse.grad_cam(net, images, "conv", use=use) for use in (0, 1))
    assert not np.allclose(first.maps, last.maps)
    np.testing.assert_array_equal(analyse.grad_cam(net, images, "conv").maps, last.maps)
    with pytest.raises(SettingError, match="is used 2 times, so that use= goes from 0 to 1"):
        analyse.grad_cam(net, images, "conv", use=2)
    dense = lc.create_model("resnet8")
    lean = lc.convert(dense, lc.plan(dense, lc.DepthShared(), where="layer*.conv?")).eval()
    names = [name for name in analyse.conv_layers(lean) if name.endswith("conv2")]
    assert len(names) == 3, "a shared convolution is a layer at each of its uses"
    assert all(analyse.grad_cam(lean, torch.randn(1, 3, 32, 32), name).maps.shape[1] > 1 for name in names)


def test_near_duplicates_and_the_ratio_they_suggest():
    net = nn.Sequential(nn.Conv2d(1, 8, 1, bias=False), nn.Conv2d(8, 4, 3))
    with torch.no_grad():
        net[0].weight.copy_(torch.tensor([1.0, 2, -3, 0.5, 0, 1, 1, 1]).view(8, 1, 1, 1))
    found = analyse.redundancy(net, torch.randn(2, 1, 5, 5), "1")
    assert found.representatives == (0,) and found.of == (0, 0, 0, 0, -1, 0, 0, 0)
    assert found.share == 7 / 8 and found.ratio == 1 / 8
    assert [r.layer for r in analyse.redundancies(lc.create_model("resnet8"), torch.randn(2, 3, 32, 32))] == [
        f"layer{stage}.0.conv{number}" for stage in (1, 2, 3) for number in (1, 2)
    ]
    wide = nn.Sequential(nn.Conv2d(8, 8, 1, bias=False))
    none = analyse.redundancy(wide, torch.randn(4, 8, 9, 9), "0")
    assert none.share == 0 and none.ratio == 1 and len(none.plot().axes) == 8
    with pytest.raises(SettingError, match="threshold=0 must be"):
        analyse.redundancy(net, torch.randn(1, 1, 5, 5), "0", threshold=0)


def test_spectrum_of_known_rank():
    torch.manual_seed(0)
    a, b = nn.Conv2d(8, 16, 3, bias=False), nn.Conv2d(8, 16, 3, bias=False)
    basis = torch.randn(3, 8 * 9)
    with torch.no_grad():
        a.weight.copy_((torch.randn(16, 3) @ basis).view_as(a.weight))
        b.weight.copy_((torch.randn(16, 3) @ basis).view_as(b.weight))
    net = nn.ModuleDict({"a": a, "b": b, "c": nn.Conv2d(4, 4, 1)})
    for layers in ("a", ["a", "b"]):
        found = analyse.spectrum(net, layers)
        assert found.rank(1 - 1e-9) == 3 and found.shape[1] == 72 and found.to_json()["rank_99"] <= 3
    values = np.linalg.svd(a.weight.detach().flatten(1).double().numpy(), compute_uv=False)
    np.testing.assert_allclose(analyse.spectrum(net, "a").values, values, atol=1e-9)
    with pytest.raises(SettingError, match="differ in shape"):
        analyse.spectrum(net, ["a", "c"])


def test_bases_and_coefficients():
    dense = lc.create_model("resnet20")
    lean = lc.convert(dense, lc.plan(dense, lc.SharedBasis(4, 1), where="layer1*.conv?")).eval()
    (found,) = analyse.basis_similarity(lean)
    assert found.shared == 4 and found.components.shape == (4 + 6, 4 + 6) and found.coefficients.shape == (96, 96)
    assert found.mean("shared") < 1e-5, "they start orthogonal"
    module = lean.get_submodule(found.layers[2])
    with torch.no_grad():
        module.coefficients[1] = -3 * module.coefficients[0]
    (found,) = analyse.basis_similarity(lean)
    assert found.coefficients[2 * 16, 2 * 16 + 1] == pytest.approx(1)
    with pytest.raises(SettingError, match="has no shared basis"):
        analyse.basis_similarity(dense)


def shard() -> nn.Module:
    torch.manual_seed(0)
    return lc.create_model("shard_vgg16", width=16).eval()


def test_blending_extremes():
    net = shard()
    with torch.no_grad():
        net.block1.blend.weight.normal_()
        net.block1.blend.weight[:, 5] = 0
    found = analyse.blending_extremes(net, 4)
    assert found[0].lowest.shape == (16, 2) and len(found) == 4 and found[0].layer == "block1.blend.weight"
    assert found[0].unused()[5] == 1 and (found[0].lowest == 5).any(1).all()
    row = net.block1.blend.weight[3].flatten().abs()
    assert found[0].highest[3, 0] == row.argmax() and found[0].lowest[3, 0] == row.argmin()
    with pytest.raises(SettingError, match="has no blending layer"):
        analyse.blending_extremes(lc.create_model("resnet8"))


def test_small_weights_that_do_not_matter_prune_without_loss(tmp_path: Path):
    """Half of the blending weights are too small to change anything: the curve is flat until they are gone."""
    net = shard()
    weights = analyse.blending_weights(net)
    with torch.no_grad():
        for weight in weights.values():
            weight.normal_()
            mask = torch.arange(weight.numel()).view_as(weight) % 2 == 0
            weight[mask] *= 1e-12
    x = torch.randn(4, 3, 32, 32)
    wanted = net(x)
    curve = analyse.pruning_curve(
        net, lambda pruned: 100.0 * torch.allclose(pruned(x), wanted, rtol=1e-3, atol=1e-4), (0, 0.25, 0.5, 0.75, 1)
    )
    assert [point.top1_pct for point in curve.points] == [100, 100, 100, 0, 0] and curve.prunable() == 0.5
    total = sum(p.numel() for p in net.parameters())
    assert curve.points[2].blending == 512 and curve.points[2].params == total - 512
    assert curve.points[2].factor == pytest.approx(total / (total - 512))
    assert all((weight != 0).all() for weight in weights.values()), "the network itself stays"
    pruned = analyse.prune_blending(net, 0.5)
    sizes = []
    for name, model in (("whole", net), ("pruned", pruned)):
        lc.save(model, tmp_path / name)
        sizes.append((tmp_path / name / "model.safetensors").stat().st_size)
        loaded = lc.load(tmp_path / name)
        assert all(
            torch.equal(a, b) for a, b in zip(loaded.state_dict().values(), model.state_dict().values(), strict=True)
        )
    assert sizes[1] < sizes[0] - 512 * 4 + 2 * 1024 / 8 + 1200, "half the values, a bit for each, and names"
    lc.save(lc.load(tmp_path / "pruned"), tmp_path / "again")
    assert (tmp_path / "again" / "model.safetensors").stat().st_size == sizes[1]
    for fraction in (-0.1, 1.1, True):
        with pytest.raises(SettingError, match="must be a number from 0 to 1"):
            analyse.prune_blending(net, fraction)


def test_gradients_of_shared_weights_are_recorded(tmp_path: Path):
    dense = lc.create_model("resnet8", in_chans=1)
    lean = lc.convert(dense, lc.plan(dense, lc.SharedBasis(4), where="layer*.conv?"))
    config = TrainConfig(epochs=2, batch_size=64, validation=0.1, augment="none", record_gradients=True)
    fit(lean, open_data("digits"), config, tmp_path, progress=False)
    flow = analyse.read_gradients(tmp_path)
    assert list(flow.steps) == [0, 10, 20, 30] and len(flow.tensors) == 1
    assert all(name.endswith("basis.weight") for name in flow.tensors)
    assert (flow.largest > flow.mean).all() and (flow.mean > 0).all()
    figure = __import__("leanconv.analyse.gradients", fromlist=["x"]).plot_gradients({"run": flow})
    assert analyse.save_figure(figure, tmp_path / "flow.svg").read_text().startswith("<?xml")
    (tmp_path / "gradients.jsonl").write_text("{}\n")
    with pytest.raises(lc.LeanconvError, match="is not a valid record of gradients"):
        analyse.read_gradients(tmp_path)
    with pytest.raises(lc.LeanconvError, match="with --record-gradients"):
        analyse.read_gradients(tmp_path / "none")


def test_the_first_recorded_gradient_is_the_gradient(tmp_path: Path):
    torch.manual_seed(0)
    dense = lc.create_model("resnet8", in_chans=1)
    lean = lc.convert(dense, lc.plan(dense, lc.DepthShared(), where="layer*.conv?"))
    import copy

    twin = copy.deepcopy(lean).train()
    data = open_data("digits")
    config = TrainConfig(
        epochs=1, batch_size=2000, validation=0, augment="none", record_gradients=True, label_smoothing=0.0
    )
    fit(lean, data, config, tmp_path, progress=False)
    mean, std = data.mean[0], data.std[0]
    images = (data.train.images.float() / 255 - mean) / std
    F.cross_entropy(twin(images), data.train.labels).backward()
    flow = analyse.read_gradients(tmp_path)
    for index, name in enumerate(flow.tensors):
        gradient = twin.get_parameter(name).grad.abs()
        assert flow.largest[0, index] == pytest.approx(float(gradient.max()), rel=1e-3)
        assert flow.mean[0, index] == pytest.approx(float(gradient.mean()), rel=1e-3)


def test_every_figure_is_drawn(tmp_path: Path):
    net, images = TwoLayers("function"), torch.randn(2, 2, 9, 9)
    similarity = analyse.filter_similarity(net, images, "conv2")
    cam = analyse.grad_cam(net, images)
    dense = lc.create_model("resnet8")
    lean = lc.convert(dense, lc.plan(dense, lc.SharedBasis(4), where="layer*.conv?"))
    shard_net = shard()
    figures = {
        "matrix": similarity.plot().figure,
        "histograms": analyse.plot_histograms({"a": [similarity], "b": [similarity]}),
        "cams": analyse.plot_cams(np.zeros((2, 9, 9, 3)), {"a": cam, "b": cam}),
        "bases": analyse.plot_bases({"on": analyse.basis_similarity(lean), "off": analyse.basis_similarity(lean)}),
        "blending": analyse.plot_extremes(analyse.blending_extremes(shard_net, 4)),
        "pruning": analyse.pruning_curve(shard_net, lambda pruned: 50.0, (0, 0.5)).plot().figure,
        "spectrum": analyse.spectrum(net, "conv2").plot().figure,
        "maps": analyse.redundancy(net, images, "conv2").plot(),
    }
    for name, figure in figures.items():
        path = analyse.save_figure(figure, tmp_path / f"{name}.png")
        assert path.read_bytes().startswith(b"\x89PNG") and path.stat().st_size > 3000


def test_an_activation_in_place_changes_nothing_that_was_kept():
    found = []
    for inplace in (False, True):
        torch.manual_seed(0)
        net = nn.Sequential(
            nn.Conv2d(3, 6, 3), nn.ReLU(inplace), nn.Conv2d(6, 8, 3), nn.ReLU(inplace), nn.AdaptiveAvgPool2d(1),
            nn.Flatten(), nn.Linear(8, 4),
        )  # fmt: skip
        images = torch.randn(2, 3, 12, 12)
        found.append((analyse.grad_cam(net, images, "2").maps, analyse.filter_similarity(net, images, "2").matrix))
    np.testing.assert_allclose(found[0][0], found[1][0])
    np.testing.assert_allclose(found[0][1], found[1][1])


def test_pruned_networks_in_wrappers_and_made_dense(tmp_path: Path):
    from torch.optim.swa_utils import AveragedModel

    dense = lc.create_model("resnet8")
    lean = lc.convert(dense, lc.plan(dense, lc.DepthShared(blend=True), where="layer*.conv?"))
    lc.save(analyse.prune_blending(AveragedModel(lean), 0.5), tmp_path / "a")
    lc.save(lc.to_dense(analyse.prune_blending(lean, 0.5).eval()), tmp_path / "b")
    assert any((w == 0).any() for w in analyse.blending_weights(lc.load(tmp_path / "a")).values())


def test_blending_layers_are_known_by_what_they_are_and_not_by_their_name():
    class Named(nn.Module):
        def __init__(self):
            super().__init__()
            self.blended_head = nn.Conv2d(8, 8, 3, padding=1)
            self.blend = nn.Conv2d(8, 8, 1)

    with pytest.raises(SettingError, match="has no blending layer"):
        analyse.prune_blending(Named(), 0.5)
    both = nn.ModuleDict({"plain": Named(), "shard": lc.create_model("shard_vgg16", width=16)})
    assert list(analyse.blending_weights(both)) == [f"shard.block{i}.blend.weight" for i in range(1, 5)]
    pruned = analyse.prune_blending(both, 0.5)
    assert torch.equal(pruned["plain"].blended_head.weight, both["plain"].blended_head.weight)
    assert torch.equal(pruned["plain"].blend.weight, both["plain"].blend.weight)
    residual = lc.create_model("shard_resnet", width=16)
    assert list(analyse.blending_weights(residual)) == ["blend1.weight", "blend2.weight"]
    with pytest.raises(
        SettingError, match="has no blending layer"
    ):  # its 1x1s widen, between convolutions that share nothing
        analyse.blending_weights(lc.create_model("shard_resnet_e"))
    mixing = nn.Sequential(nn.Conv2d(8, 8, 3, padding=1), nn.Conv2d(8, 8, 3, padding=1))
    lean = lc.convert(mixing, lc.plan(mixing, lc.DepthShared(blend=True), input_size=(8, 8, 8)))
    assert list(analyse.blending_weights(lean)) == ["1.blend"]
