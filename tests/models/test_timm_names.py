"""timm builds leanconv's networks by name, as it builds its own."""

from __future__ import annotations

import subprocess
import sys

import pytest
import torch

import leanconv.models  # noqa: F401  registers the names


@pytest.mark.parametrize("name", ["resnet20", "vgg16"])
def test_timm_leaves_its_own_names_and_adds_ours(name):
    import timm

    own = timm.create_model(name)
    if name == "vgg16":  # timm has one, and keeps it
        assert type(own).__module__.startswith("timm.")
    else:
        assert type(own).__module__.startswith("leanconv.")


def test_timm_settings_reach_our_network():
    import timm

    model = timm.create_model("resnet20", num_classes=7, in_chans=1, width=8).eval()
    assert model(torch.zeros(1, 1, 32, 32)).shape == (1, 7)
    assert model.pretrained_cfg["input_size"] == (3, 32, 32)
    assert timm.create_model("resnet20", num_classes=0).eval()(torch.zeros(1, 3, 32, 32)).shape == (1, 64)
    overlaid = timm.create_model("resnet20", pretrained_cfg_overlay={"mean": (0.1, 0.2, 0.3)})
    assert overlaid.pretrained_cfg["mean"] == (0.1, 0.2, 0.3)


def test_timm_cuts_features():
    import timm

    model = timm.create_model("resnet20", features_only=True, out_indices=(0, 2)).eval()
    assert [tuple(y.shape) for y in model(torch.zeros(1, 3, 32, 32))] == [(1, 16, 32, 32), (1, 64, 8, 8)]
    assert model.feature_info.channels() == [16, 64]
    assert model.feature_info.reduction() == [1, 4]


def test_no_published_weights_is_said():
    import timm

    with pytest.raises(RuntimeError, match="pretrained"):
        timm.create_model("resnet20", pretrained=True)


def test_timm_is_imported_only_when_asked_for():
    code = (
        "import sys, leanconv.models; assert 'timm' not in sys.modules; import timm;"
        "assert timm.is_model('resnet20') and timm.__spec__.loader is not None; timm.create_model('resnet20')"
    )
    subprocess.run([sys.executable, "-c", code], check=True)


def test_who_asks_whether_timm_is_there_changes_nothing():
    code = (
        "import importlib.util, sys, leanconv.models; assert importlib.util.find_spec('timm'); import timm;"
        "assert timm.is_model('resnet20') and timm.__spec__.loader is not None"
    )
    subprocess.run([sys.executable, "-c", code], check=True)
