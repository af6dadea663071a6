"""One call for every analysis, and what a new one must touch."""

from __future__ import annotations

import copy
import doctest
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

import leanconv as lc
from leanconv.analyse import converted
from leanconv.analyse.kinds import KINDS
from leanconv.core.errors import SettingError
from leanconv.data import open_data


@pytest.fixture(scope="module")
def model() -> torch.nn.Module:
    torch.manual_seed(0)
    return lc.create_model("resnet8", in_chans=1).eval()


def test_a_data_set_a_tensor_and_a_figure(model: torch.nn.Module, tmp_path: Path) -> None:
    data = open_data("digits")
    found = lc.analyse.look("filters", {"a": model}, data, layers=["conv1"], count=4)
    assert found.to_json()["what"] == "filters" and list(found.to_json()["networks"]) == ["a"]
    assert found.rows[0]["Layer"] == "conv1" and "conv1" in str(found)
    assert found.save(tmp_path / "a.svg").exists() and found.report(tmp_path / "a.html").exists()
    images = torch.randn(2, 1, 8, 8)
    assert len(lc.analyse.look("cam", model, images).to_json()["networks"]["CifarResNet"]["classes"]) == 2


@pytest.mark.parametrize("dtype", [torch.float64, torch.bfloat16])
@pytest.mark.parametrize("what", ["cam", "filters", "maps"])
def test_networks_in_any_precision(what: str, dtype: torch.dtype, model: torch.nn.Module) -> None:
    other, images = copy.deepcopy(model).to(dtype), torch.randn(2, 1, 8, 8)
    exact = copy.deepcopy(other).float()
    assert lc.analyse.look(what, {"a": other}, images).rows == lc.analyse.look(what, {"a": exact}, images).rows
    assert next(other.parameters()).dtype == dtype


def test_each_network_gets_its_own_images_and_names(tmp_path: Path) -> None:
    """Two networks of one function: the second takes half the values, twice the size, and has its classes turned."""
    for place in range(2):
        Image.effect_noise((80, 80), 90).save(tmp_path / f"{place}.png")
    first = lc.create_model("resnet8", num_classes=2, in_chans=1).eval()
    second = copy.deepcopy(first)
    with torch.no_grad():
        for tensor in (second.fc.weight, second.fc.bias):
            tensor.copy_(tensor.flip(0))
    lc.set_task(first, lc.Task((0.5,), (0.25,), (32, 32), ("cat", "dog")))
    lc.set_task(second, lc.Task((0.5,), (0.25,), (32, 32), ("dog", "cat")))
    rows = lc.analyse.look("cam", {"a": first, "b": second}, tmp_path).rows
    assert rows[0]["Classes"] == rows[1]["Classes"]
    lc.set_task(second, lc.Task((0.0,), (1.0,), (64, 64), ("dog", "cat")))
    alone = [lc.analyse.look("cam", {label: one}, tmp_path) for label, one in (("a", first), ("b", second))]
    both = lc.analyse.look("cam", {"a": first, "b": second}, tmp_path)
    assert both.to_json()["networks"] == {**alone[0].to_json()["networks"], **alone[1].to_json()["networks"]}
    drawn = [axes.get_images()[0].get_array().shape for axes in both.figure.axes]
    assert drawn == [(32, 32)] * 4 + [(64, 64)] * 2, "the images, and each network's own below its heat"


def test_a_histogram_names_the_layer_of_each_network() -> None:
    def of(*layers: str) -> list[lc.analyse.FilterSimilarity]:
        return [lc.analyse.FilterSimilarity(layer, (0, 1), np.eye(2), 1) for layer in layers]

    drawn = lc.analyse.plot_histograms({"a": of("conv1", "last"), "b": of("conv1", "end"), "c": of("conv1")})
    assert [axes.get_title() for axes in drawn.axes] == ["conv1", "a: last\nb: end"]


def test_grad_cam_takes_scores_of_classes(model: torch.nn.Module) -> None:
    maps = torch.nn.Sequential(torch.nn.Conv2d(1, 4, 3))
    with pytest.raises(SettingError, match=r"returns shape \(2, 4, 6, 6\); give one that returns a single"):
        lc.analyse.grad_cam(maps, torch.randn(2, 1, 8, 8), "0")


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        (("wavelets", {}), "must be one of bases"),
        (("filters", {}), "models must be"),
        (("pruning", {"images": torch.zeros(1, 1, 8, 8)}), "needs labelled images"),
        (("gradients", {}), "give the folder of the run"),
    ],
)
def test_mistakes(model: torch.nn.Module, arguments: tuple[str, dict[str, object]], says: str) -> None:
    what, settings = arguments
    models = [model] if what == "filters" else model
    with pytest.raises(SettingError, match=says):
        lc.analyse.look(what, models, **settings)


@pytest.mark.parametrize(
    ("images", "settings", "says"),
    [
        (torch.zeros(1, 8, 8), {}, r"images is a tensor \(1, 8, 8\) and must be \(N, C, H, W\); images\[None\]"),
        (torch.zeros(0, 1, 8, 8), {}, "holds no image"),
        (
            torch.zeros(1, 1, 8, 8, dtype=torch.uint8),
            {},
            r"a tensor of uint8; give what the networks take: \(images / 255",
        ),
        (torch.zeros(1, 1, 8, 8), {"classes": ("cat",)}, r"\(classes\)='cat' must be a whole number of at least 0"),
        (torch.zeros(1, 1, 8, 8), {"count": 0}, "count=0 must be a whole number of at least 1"),
    ],
)
def test_images_and_classes_that_are_none(
    model: torch.nn.Module, images: torch.Tensor, settings: dict[str, object], says: str
) -> None:
    with pytest.raises(SettingError, match=says):
        lc.analyse.look("cam", model, images, **settings)


def test_a_tensor_says_its_size_for_a_network_that_does_not() -> None:
    own = torch.nn.Sequential(torch.nn.Conv2d(3, 4, 3), torch.nn.ReLU(), torch.nn.Conv2d(4, 4, 3))
    assert lc.analyse.look("filters", own, torch.randn(2, 3, 16, 16)).rows


def test_networks_in_half_precision_without_images() -> None:
    network = lc.create_model("shard_vgg16(width=8)").eval()
    for what in ("blending", "weights"):
        found = lc.analyse.look(what, copy.deepcopy(network).bfloat16())
        assert found.rows == lc.analyse.look(what, copy.deepcopy(network).bfloat16().float()).rows


def test_every_analysis_says_what_it_shows_and_none_loads_torch() -> None:
    assert len(KINDS) == 11 and all(kind.says for kind in KINDS.values())
    code = "import sys, leanconv.analyse.kinds; sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code]).returncode == 0


def test_inspect_shows_what_converts_and_measures_nothing() -> None:
    assert doctest.testmod(converted).failed == 0
    found = lc.inspect(lc.create_model("resnet8"), lc.Split(), exclude="conv1", name="net")
    assert [row["name"] for row in found.rows if row["kept_because"] == "excluded"] == ["conv1"]
    assert found.plan is not None and "6 of 9 convolutions convert" in str(found)
    lean = lc.convert(lc.create_model("resnet8"), found.plan)
    with pytest.raises(SettingError, match="net is lean already"):
        lc.inspect(lean, lc.Split(), name="net")
