"""Whole networks of the releases, written from the equations in `tests.files.released`, loaded and compared by output."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from torch import Tensor, nn

import leanconv as lc
from leanconv.core.errors import FileError, SettingError
from leanconv.core.notes import get_base
from leanconv.models.bases import basis_bottleneck_resnet
from leanconv.models.resnet import pad_shortcuts
from tests.files import released, released_peers
from tests.ops.contract import unsettle_


def ready(network: nn.Module) -> nn.Module:
    torch.manual_seed(1)
    unsettle_(network)
    return network.eval()


def same(a: Tensor, b: Tensor) -> bool:
    return bool((a - b).norm() < 1e-4 * b.norm())


def stripped(network: nn.Module) -> dict[str, Tensor]:
    """A state dict without PyTorch's notes on the modules, as most files in the wild have it."""
    return dict(network.state_dict())


IMAGES = {"small": (2, 3, 32, 32), "imagenet": (2, 3, 64, 64)}
SLOW = {"ResNeXt-50", "DenseNet-121", "MobileNetV2 small", "MobileNetV2", "MobileNetV2, expand"}  # like another one
NETWORKS: dict[str, tuple[Callable[[], nn.Module], str, dict[str, object], str]] = {
    "three stages, bases single": (
        lambda: released.ThreeStages(5, "both", "fc", 4), "basis_resnet32", {"shared": 4}, "small",
    ),
    "three stages, bases double": (
        lambda: released.ThreeStages(5, "both", "fc", 4, 1, 2), "basis_resnet32", {"shared": 4, "bases": 2}, "small",
    ),
    "three stages, the widespread code": (lambda: released.ThreeStages(5, "both", "linear"), "resnet32", {}, "small"),
    "MobileNetV2 small": (lambda: released.MobileNetV2(True), "mobilenetv2_cifar", {}, "small"),
    "MobileNetV2 small, expand": (
        lambda: released.MobileNetV2(True, (1,)), "basis_mobilenetv2", {"places": "expand"}, "small",
    ),
    "MobileNetV2 small, expand + project": (
        lambda: released.MobileNetV2(True, (1, 3)), "basis_mobilenetv2", {}, "small",
    ),
    "MobileNetV2 small, expand + depthwise": (
        lambda: released.MobileNetV2(True, (1, 2)), "basis_mobilenetv2", {"places": "expand_depthwise"}, "small",
    ),
    "MobileNetV2": (lambda: released.MobileNetV2(False), "mobilenetv2_imagenet", {"num_classes": 100}, "imagenet"),
    "MobileNetV2, expand": (
        lambda: released.MobileNetV2(False, (1,)), "basis_mobilenetv2_imagenet", {"num_classes": 100, "places": "expand"},
        "imagenet",
    ),
    "MobileNetV2, expand + project": (
        lambda: released.MobileNetV2(False, (1, 3)), "basis_mobilenetv2_imagenet", {"num_classes": 100}, "imagenet",
    ),
    "ResNeXt-50": (released.ResNeXt50, "resnext50_cifar", {}, "small"),
    "ResNeXt-50, bases": (lambda: released.ResNeXt50(64, 4), "basis_resnext50", {}, "small"),
    "DenseNet-121": (released.DenseNet121, "densenet121_cifar", {}, "small"),
    "DenseNet-121, bases": (lambda: released.DenseNet121(16, 1), "basis_densenet121", {}, "small"),
    "SPConv": (released_peers.SplitResNet20, "spconv_resnet20", {}, "small"),
    "SWRN": (lambda: released_peers.SWRN(3, 2, 2), "soft_wide_resnet28_10", {"depth": 22, "widen": 2}, "small"),
    "Oct-ResNet": (
        lambda: released_peers.OctResNet((1, 2, 1, 1)), "oct_resnet50", {"depths": (1, 2, 1, 1), "num_classes": 10}, "imagenet",
    ),
}  # fmt: skip


@pytest.mark.parametrize(
    "what", [pytest.param(what, marks=[pytest.mark.slow] if what in SLOW else []) for what in NETWORKS]
)
def test_a_release_computes_what_it_computed_also_after_save_and_load(what: str, tmp_path: Path):
    make, name, settings, images = NETWORKS[what]
    network = ready(make())
    torch.save({"net_state_dict": stripped(network), "acc": 93.7, "epoch": 299}, tmp_path / "net.pth")
    loaded = lc.load_checkpoint(lc.create_model(name, **settings), tmp_path / "net.pth").eval()
    torch.manual_seed(2)
    x = torch.randn(IMAGES[images])
    with torch.no_grad():
        wanted = network(x)
        assert same(loaded(x), wanted)
        lc.save(loaded, tmp_path / "lean")
        assert same(lc.load(tmp_path / "lean")(x), wanted)


def test_tied_linear_layers_of_the_release(tmp_path: Path):
    network = ready(nn.Sequential(released_peers.TiedLinear(8, 6, 2)))
    torch.save(stripped(network), tmp_path / "net.pth")
    x = torch.randn(3, 8)
    assert same(
        lc.load_checkpoint(nn.Sequential(lc.TiedBlockLinear(8, 6, blocks=2)), tmp_path / "net.pth")(x), network(x)
    )


def test_whole_convolutions_that_are_shared(tmp_path: Path):
    """ResNet50-Shared, of fewer blocks; the form of the paper's text shares others and is refused."""
    network = ready(released.SharedResNet((3, 3, 3, 3)))
    torch.save(stripped(network), tmp_path / "net.pth")
    x = torch.randn(2, 3, 64, 64)
    code = lc.load_checkpoint(basis_bottleneck_resnet((3, 3, 3, 3), 10), tmp_path / "net.pth").eval()
    assert same(code(x), network(x))
    with pytest.raises(FileError, match=r"shared_basis_1\.weight"):
        lc.load_checkpoint(basis_bottleneck_resnet((3, 3, 3, 3), 10, places="text"), tmp_path / "net.pth")


def test_the_two_paddings_of_option_a_differ_and_both_are_built():
    x = torch.randn(2, 3, 32, 32)
    for padding, other in (("end", "both"), ("both", "end")):
        network = ready(released.ThreeStages(3, padding, "fc"))
        for setting in (padding, other):
            ours = lc.create_model("resnet20", shortcut="A", shortcut_padding=setting).eval()
            state = stripped(network)
            ours.load_state_dict(state)
            with torch.no_grad():
                assert same(ours(x), network(x)) == (setting == padding)
                assert setting == padding or (ours(x) - network(x)).norm() > 0.02 * network(x).norm()


def test_a_padding_that_nothing_tells_is_asked_for(tmp_path: Path):
    """The dense network of the filter bases' release has the very names of ours."""
    network = ready(released.ThreeStages(5, "both", "fc"))
    torch.save(stripped(network), tmp_path / "net.pth")
    with pytest.raises(
        FileError, match=r"does not tell how its option-A shortcuts pad .* give shortcut_padding='both' or 'end'"
    ):
        lc.load_checkpoint(lc.create_model("resnet32"), tmp_path / "net.pth")
    x = torch.randn(2, 3, 32, 32)
    asked = lc.load_checkpoint(lc.create_model("resnet32"), tmp_path / "net.pth", shortcut_padding="both").eval()
    built = lc.load_checkpoint(lc.create_model("resnet32", shortcut_padding="both"), tmp_path / "net.pth").eval()
    assert same(asked(x), network(x)) and same(built(x), network(x))
    with pytest.raises(SettingError, match="shortcut_padding='middle' must be 'end' or 'both'"):
        lc.load_checkpoint(lc.create_model("resnet32"), tmp_path / "net.pth", shortcut_padding="middle")
    with pytest.raises(SettingError, match="no option-A shortcut"):
        lc.load_checkpoint(lc.create_model("resnet20"), tmp_path / "net.pth", shortcut_padding="end")


def test_a_padding_that_was_asked_for_and_is_told_otherwise_is_refused(tmp_path: Path):
    network = ready(released.ThreeStages(5, "both", "fc", 4))
    torch.save(stripped(network), tmp_path / "net.pth")
    lean = lc.create_model("basis_resnet32", shared=4, shortcut_padding="end")
    with pytest.raises(FileError, match="pad at 'both', as its names show, and this network was built with"):
        lc.load_checkpoint(lean, tmp_path / "net.pth")
    assert {shortcut.padding for _, shortcut in pad_shortcuts(lean)} == {"end"}


@pytest.mark.parametrize("padding", ["end", "both"])
def test_our_own_state_dicts_tell_how_they_pad(padding: str, tmp_path: Path):
    ours = ready(lc.create_model("resnet32", shortcut_padding=padding))
    torch.save({"model": ours.state_dict()}, tmp_path / "net.pth")
    again = lc.load_checkpoint(lc.create_model("resnet32"), tmp_path / "net.pth").eval()
    x = torch.randn(2, 3, 32, 32)
    assert torch.equal(again(x), ours(x))
    other = lc.create_model("resnet32", shortcut_padding="both" if padding == "end" else "end")
    with pytest.raises(RuntimeError, match=f"build the network with shortcut_padding='{padding}'"):
        other.load_state_dict(ours.state_dict())


def test_files_saved_before_the_padding_was_a_setting_pad_at_the_end(tmp_path: Path):
    model = lc.create_model("basis_resnet32")
    assert "shortcut_padding" not in get_base(model)["kwargs"]
    lc.save(model, tmp_path)
    assert {shortcut.padding for _, shortcut in pad_shortcuts(lc.load(tmp_path))} == {"end"}


def test_a_file_does_not_load_into_a_network_that_pads_otherwise(tmp_path: Path):
    both = ready(lc.create_model("resnet32", shortcut_padding="both"))
    lc.save(both, tmp_path)
    x = torch.randn(2, 3, 32, 32)
    assert torch.equal(lc.load(tmp_path)(x), both(x))
    assert torch.equal(lc.load(tmp_path, model=lc.create_model("resnet32", shortcut_padding="both"))(x), both(x))
    with pytest.raises(FileError, match=r"network with \{'shortcut_padding': 'both'\} and this one has .*'end'"):
        lc.load(tmp_path, model=lc.create_model("resnet32"))


def test_templates_that_differ_between_the_layers_of_a_stage_are_refused(tmp_path: Path):
    state = stripped(ready(released_peers.SWRN(3, 1, 2)))
    state["stage_2.1.bank.templates"] = state["stage_2.1.bank.templates"] + 1
    torch.save(state, tmp_path / "net.pth")
    with pytest.raises(FileError, match="not shared as in this network"):
        lc.load_checkpoint(lc.create_model("soft_wide_resnet28_10", depth=22, widen=1), tmp_path / "net.pth")
