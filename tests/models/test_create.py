"""Networks by name: what is noted on them, and one clear line for everything that cannot be built."""

from __future__ import annotations

import json
from typing import Any

import pytest
import timm
import torch
import torchvision
from torch import nn

from leanconv.core.errors import FileError, SettingError
from leanconv.core.notes import IMAGENET_MEAN, IMAGENET_STD, get_base, get_task, input_size_of, set_base
from leanconv.core.task import Task
from leanconv.models import create_model, list_models
from leanconv.models.create import parse_target


@pytest.mark.parametrize(
    ("name", "settings"),
    [
        ("resnet20", {}),
        ("resnet20", {"num_classes": 7, "in_chans": 1, "width": 8, "shortcut": "A"}),
        ("vgg16", {"head": "512-512", "widths": (8, 8, 16, 16, 16), "conv_bias": False}),
        ("timm/resnet18", {"num_classes": 7, "in_chans": 1}),
        ("timm/resnet18.a1_in1k", {}),
        ("torchvision/resnet18", {"num_classes": 7}),
    ],
)
def test_a_model_says_how_to_build_it_again(name: str, settings: dict[str, Any]) -> None:
    model = create_model(name, **settings)
    base = get_base(model)
    assert base is not None and base["name"] == name
    again = create_model(base["name"], **json.loads(json.dumps(base["kwargs"])))
    shapes = {key: value.shape for key, value in model.state_dict().items()}
    assert shapes == {key: value.shape for key, value in again.state_dict().items()}
    again.load_state_dict(model.state_dict())
    size = input_size_of(model)
    assert size is not None and size[0] == settings.get("in_chans", 3)
    x = torch.randn(1, size[0], 64, 64)
    with torch.no_grad():
        assert torch.equal(model.eval()(x), again.eval()(x))


def test_builds_on_the_meta_device() -> None:
    with torch.device("meta"):
        assert all(p.is_meta for p in create_model("vgg16").parameters())


def test_every_entry_builds_what_it_says() -> None:
    names = [entry.name for entry in list_models()]
    assert len(set(names)) == len(names)
    for entry in list_models():
        assert entry.source
        with torch.device("meta"):
            assert input_size_of(create_model(entry.name)) == entry.input_size


def test_input_sizes() -> None:
    with torch.device("meta"):
        assert input_size_of(create_model("timm/resnet50", in_chans=1)) == (1, 224, 224)
        assert input_size_of(create_model("timm/efficientnet_b3")) == (3, 288, 288)
        assert input_size_of(create_model("torchvision/resnet18")) == (3, 224, 224)
        assert input_size_of(create_model("torchvision/vit_b_16", image_size=64)) == (3, 64, 64)
    assert input_size_of(nn.Conv2d(3, 4, 1)) is None
    assert get_base(nn.Identity()) is None


def test_a_setting_that_is_no_json_leaves_no_base() -> None:
    assert get_base(create_model("timm/resnet18", act_layer=nn.SiLU)) is None
    model = nn.Identity()
    set_base(model, "x", {"value": float("nan")})
    assert get_base(model) is None


@pytest.mark.parametrize(
    ("name", "settings", "says"),
    [
        ("resnet21", {}, "resnet20"),
        ("resnet50", {}, "did you mean timm/resnet50"),
        ("timm/resnet51", {}, "timm/resnet50"),
        ("timm/resnet18.zzz", {}, "zzz"),
        ("torchvision/resnet19", {}, "torchvision/resnet18"),
        ("torchvision/fcn_resnet50", {}, "unknown network"),
        ("elsewhere/resnet18", {}, "timm/<name>"),
        ("", {}, "unknown network"),
        ("resnet20", {"groups": 2}, "num_classes, in_chans, width, shortcut"),
        ("resnet20", {"pretrained": True}, "no pretrained weights"),
        ("resnet20", {"shortcut": "C"}, "'A' or 'B'"),
        ("resnet20", {"width": 0}, "width=0"),
        ("resnet20", {"in_chans": True}, "in_chans=True"),
        ("timm/resnet18", {"num_classes": -1}, "num_classes=-1"),
        ("timm/resnet18", {"nonsense": 1}, "nonsense"),
        ("torchvision/resnet18", {"nonsense": 1}, "nonsense"),
        ("torchvision/resnet18", {"in_chans": 1}, "timm/resnet18"),
        ("torchvision/resnet18", {"weights": "DEFAULT"}, "pretrained=True"),
        ("vgg16", {"head": "4096"}, "'512bn'"),
        ("vgg16", {"widths": (1, 2)}, "5 channel counts"),
        ("vgg16", {"widths": 64}, "5 channel counts"),
        ("vgg16", {"dropout": 1.0}, "dropout=1.0"),
    ],
)
def test_errors_are_one_line_with_a_way_out(name: str, settings: dict[str, Any], says: str) -> None:
    with pytest.raises(SettingError) as caught:
        create_model(name, **settings)
    assert says in str(caught.value)
    assert "\n" not in str(caught.value)


def test_published_weights_say_how_their_images_were_prepared(monkeypatch: pytest.MonkeyPatch) -> None:
    """No download: the builders give new weights in place of the published ones."""
    of_timm, of_torchvision = timm.create_model, torchvision.models.get_model
    monkeypatch.setattr(timm, "create_model", lambda name, pretrained, **more: of_timm(name, **more))
    monkeypatch.setattr(torchvision.models, "get_model", lambda name, weights, **more: of_torchvision(name, **more))
    half = (0.5, 0.5, 0.5)
    assert get_task(create_model("timm/test_resnet", pretrained=True)) == Task(half, half, (160, 160))
    assert get_task(create_model("timm/test_resnet", pretrained=True, num_classes=4)) == Task(half, half, (160, 160))
    found = get_task(create_model("torchvision/mobilenet_v2", pretrained=True))
    assert found == Task(IMAGENET_MEAN, IMAGENET_STD, (224, 224))
    for unknown in (
        create_model("timm/test_resnet"),
        create_model("timm/test_resnet", pretrained=True, in_chans=1),
        create_model("torchvision/mobilenet_v2"),
    ):
        assert get_task(unknown) is None


def test_torchvision_pretrained_gets_a_new_last_layer(monkeypatch: pytest.MonkeyPatch) -> None:
    """No download: the builder is replaced by one that fills weights in, as torchvision does."""
    real = torchvision.models.get_model

    def filled(name: str, weights: str | None, **kwargs: Any) -> nn.Module:
        assert "num_classes" not in kwargs
        model = real(name, weights=None, **kwargs)
        if weights == "DEFAULT":
            nn.init.constant_(model.get_parameter("features.0.0.weight"), 0.5)
        return model

    monkeypatch.setattr(torchvision.models, "get_model", filled)
    model = create_model("torchvision/mobilenet_v2", pretrained=True, num_classes=4)
    assert model.get_submodule("classifier.1").out_features == 4
    assert (model.get_parameter("features.0.0.weight") == 0.5).all()
    assert get_base(model) == {"name": "torchvision/mobilenet_v2", "kwargs": {"num_classes": 4}}
    monkeypatch.setattr(
        torchvision.models, "get_model", lambda name, weights, **kwargs: real(name, weights=None, **kwargs)
    )
    with pytest.raises(SettingError, match="no linear layer"):
        create_model("torchvision/squeezenet1_0", pretrained=True, num_classes=4)


def test_weights_out_of_reach_are_a_file_error(monkeypatch: pytest.MonkeyPatch) -> None:
    def offline(*_: Any, **__: Any) -> nn.Module:
        raise OSError("no route\nto host")

    monkeypatch.setattr(torchvision.models, "get_model", offline)
    with pytest.raises(FileError, match="no route to host; try again online"):
        create_model("torchvision/resnet18", pretrained=True)


@pytest.mark.parametrize("text", ["resnet20(width=8,num_classes=7)", "timm/resnet18(num_classes=7)"])
def test_settings_in_brackets_are_those_by_keyword(text: str) -> None:
    name, settings = parse_target(text)
    with torch.device("meta"):
        assert get_base(create_model(text)) == get_base(create_model(name, **settings))


def test_none_in_brackets_is_the_default() -> None:
    with torch.device("meta"):
        assert get_base(create_model("resnet20(num_classes=None)")) == get_base(create_model("resnet20"))


@pytest.mark.parametrize(
    ("text", "settings", "error"),
    [
        ("resnet20(width=8)", {"width": 8}, r"width is given twice: in 'resnet20\(width=8\)' and as an argument"),
        ("resnet20(num_classes=7)", {"num_classes": 7}, "num_classes is given twice"),
        ("timm/resnet18(pretrained=True)", {}, "give pretrained=True or --pretrained"),
        ("resnet20(name=3)", {}, "name is not a setting of resnet20"),
        ("resnet20(width=8", {}, "is not a network; write a name"),
        ({}, {}, "a network.s name is a dict; write a name"),
        ("resnet20(num_classes=0)", {}, "num_classes=0 must be a whole number"),
    ],
)
def test_settings_in_brackets_that_cannot_be(text: str, settings: dict[str, Any], error: str) -> None:
    with pytest.raises(SettingError, match=error):
        create_model(text, **settings)
