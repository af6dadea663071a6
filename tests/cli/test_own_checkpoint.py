"""A checkpoint of the user: its classes are counted, and what it does not hold is told by flags."""

from __future__ import annotations

import json
import shlex
import subprocess
import sys
import warnings
from collections.abc import Callable
from pathlib import Path

import pytest
import torch

import leanconv as lc
from leanconv.core.errors import LeanconvWarning, SettingError
from leanconv.core.task_settings import TaskSettings
from leanconv.data import ImageData, open_data
from leanconv.files.classifier import class_count
from tests.gates.tree import ROOT

from .conftest import one_line

NAMES = ("ant", "bee", "cat", "dog", "elk, the moose", "fox", "gnu")


@pytest.fixture(scope="module")
def seven(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A timm network for seven classes, as timm's training writes it, and the names in a file."""
    import timm

    folder = tmp_path_factory.mktemp("seven")
    torch.manual_seed(0)
    state = timm.create_model("test_resnet", num_classes=7).state_dict()
    torch.save(
        {"epoch": 3, "state_dict": {f"module.{name}": value for name, value in state.items()}}, folder / "my.pth"
    )
    (folder / "names.txt").write_text("\n".join(NAMES) + "\n")
    return folder


def test_convert_counts_the_classes_and_keeps_the_task(call: Callable, seven: Path, tmp_path: Path) -> None:
    out = tmp_path / "dense"
    named = ("--classes", seven / "names.txt", "--like", "timm")
    answer = call("convert", "timm/test_resnet", "-m", "dense", "--weights", seven / "my.pth", *named, "-o", out)
    assert answer.code == 0, answer.err
    model = lc.load(out)
    config = model.pretrained_cfg
    assert lc.get_task(model) == lc.Task(config["mean"], config["std"], tuple(config["input_size"][1:]), NAMES)
    held = torch.load(seven / "my.pth", weights_only=True)["state_dict"]
    assert torch.equal(model.get_classifier().weight, held[f"module.{model.pretrained_cfg['classifier']}.weight"])


@pytest.mark.parametrize(
    ("flags", "words"),
    [
        (("--classes", "a,b"), ("how the images were normalised", "--like timm")),
        (("--classes", "a,b", "--like", "timm"), ("2 names", "7 outputs")),
        (("--like", "torchvision"), ("not one of torchvision", "--mean")),
        (("--mean", "0.5,0.5,0.5"), ("belong together",)),
        (("--mean", "123,116,103", "--std", "58,57,57"), ("divide mean and std by 255",)),
        (("--mean", "0.5", "--std", "0.5"), ("1 values", "3 channels")),
        (("--state", "ema"), ("nothing called 'ema'",)),
        (("--pretrained",), ("two sources of weights",)),
    ],
)
def test_what_does_not_fit_is_named(
    call: Callable, seven: Path, tmp_path: Path, flags: tuple[str, ...], words: tuple[str, ...]
) -> None:
    target = ("timm/test_resnet", "-m", "dense", "--weights", seven / "my.pth", "-o", tmp_path / "x")
    answer = call("convert", *target, *flags)
    assert answer.code == 2 and one_line(answer, *words)
    assert not (tmp_path / "x").exists()


def test_a_task_of_torchvision_and_of_numbers() -> None:
    model = lc.create_model("torchvision/resnet18", num_classes=2)
    task = lc.note_task(model, classes=("cat", "dog"), like="torchvision")
    assert (
        task == lc.get_task(model) == lc.Task((0.485, 0.456, 0.406), (0.229, 0.224, 0.225), (224, 224), ("cat", "dog"))
    )
    assert lc.note_task(model, image_size=160).image_size == (160, 160)
    assert lc.note_task(model, mean=(0.5,) * 3, std=(0.5,) * 3).classes == ("cat", "dog")
    with pytest.raises(SettingError, match="classe"):
        lc.note_task(model, classe=("cat", "dog"))


def test_the_count_is_not_guessed(tmp_path: Path) -> None:
    """Two networks of other classes in one file, a layer that is only called like the classifier, a stated number."""
    two = {str(n): lc.create_model("resnet8", num_classes=n).state_dict() for n in (3, 5)}
    torch.save(two, tmp_path / "two.pth")
    assert class_count("resnet8", tmp_path / "two.pth") is None
    assert class_count("resnet8", tmp_path / "two.pth", "5") == 5
    assert class_count("resnet8(num_classes=4)", tmp_path / "two.pth", "5") is None
    torch.save(two["3"] | {"other.fc.weight": torch.zeros(9, 4)}, tmp_path / "one.pth")
    assert class_count("resnet8", tmp_path / "one.pth") == 3


def test_train_eval_and_export_take_a_checkpoint(call: Callable, tmp_path: Path) -> None:
    """Digits with the outputs in another order: only with the names is the accuracy that of the network."""
    data = open_data("digits")
    order = data.classes[::-1]
    model = lc.create_model("resnet8", num_classes=10, in_chans=1, width=4)
    torch.save(model.state_dict(), tmp_path / "my.pth")
    target = ("resnet8(in_chans=1, width=4)", "--weights", tmp_path / "my.pth")
    told = ("--classes", ",".join(order), "--mean", "0.3", "--std", "0.4")
    answer = call("train", *target, *told, "-o", tmp_path / "run", "--epochs", 2, "--threads", 1, "--precision", "fp32")
    assert answer.code == 0, answer.err
    assert "images in float32;" in answer.out
    trained = lc.load(tmp_path / "run")
    assert lc.get_task(trained) == lc.Task((0.3,), (0.4,), (8, 8), order)
    again = call("train", "--config", tmp_path / "run" / "config.yaml", target[0], "-o", tmp_path / "run")
    assert again.code == 0 and "test top-1" in again.out, again.err

    torch.save(trained.state_dict(), tmp_path / "trained.pth")
    target = ("resnet8(in_chans=1, width=4)", "--weights", tmp_path / "trained.pth")
    noted = json.loads(call("eval", tmp_path / "run", "--json").out)["top1_pct"]
    shown = call("eval", *target, *told, "--image-size", 8)
    assert shown.code == 0 and f"top-1 {noted:.2f} %" in shown.out and "images in float32" in shown.out, shown.err
    lc.save(trained.double(), tmp_path / "wide")
    assert "images in float64" in call("eval", tmp_path / "wide").out
    swapped = json.loads(call("eval", *target, "--mean", 0.3, "--std", 0.4, "--image-size", 8, "--json").out)
    assert swapped["top1_pct"] < noted - 20

    answer = call("export", *target, *told, "--image-size", 8, "--to", "pt2", "-o", tmp_path / "files")
    assert answer.code == 0 and "holds no task" not in answer.err
    extra = {"task": ""}
    (path,) = (tmp_path / "files").glob("*.pt2")
    torch.export.load(path, extra_files=extra)
    assert json.loads(extra["task"])["classes"] == list(order)


def test_other_classes_start_a_new_last_layer(call: Callable, tmp_path: Path) -> None:
    torch.save(lc.create_model("resnet8", num_classes=3, in_chans=1).state_dict(), tmp_path / "three.pth")
    with pytest.warns(LeanconvWarning, match="has 3 classes and 10 are needed"):
        found = lc.fit("resnet8", "digits", weights=tmp_path / "three.pth", epochs=1, threads=1, progress=False)
    assert found.network.fc.out_features == 10


QUICK = {"methods": ["tied_block"], "images": 16, "points": 2, "narrowed": 0, "controls": (), "threads": 1}
QUICK_FLAGS = shlex.split("--methods tied_block --images 16 --points 2 --narrowed 0 --controls none --threads 1")


@pytest.fixture
def untrained(tmp_path: Path) -> Path:
    path = tmp_path / "my.pth"
    torch.save(lc.create_model("resnet8", num_classes=10, in_chans=1, width=8).state_dict(), path)
    return path


def test_lean_takes_a_checkpoint(call: Callable, untrained: Path, tmp_path: Path) -> None:
    order = open_data("digits").classes[::-1]
    target = ("resnet8(in_chans=1, width=8)", "--weights", untrained, "--image-size", 8, "-o", tmp_path / "lean")
    asked = ("--budget", "macs=0.8", "--recovery-epochs", 0, *QUICK_FLAGS)
    answer = call("lean", *target, *asked, "--classes", ",".join(order))
    assert answer.code == 2 and one_line(answer, "how the images were normalised", "--like timm")
    answer = call("lean", *target, *asked, "--classes", ",".join(order), "--mean", 0.3, "--std", 0.4)
    assert answer.code == 0, answer.err
    assert lc.get_task(lc.load(tmp_path / "lean")) == lc.Task((0.3,), (0.4,), (8, 8), order)
    summary = json.loads((tmp_path / "lean" / "summary.json").read_text())
    assert summary["settings"]["target"] == target[0] and summary["settings"]["normalised"] == [[0.3], [0.4]]


def test_a_lean_network_recovers_on_images_prepared_as_in_its_training(untrained: Path) -> None:
    seen = []

    def recover(student: object, teacher: object, data: ImageData, *more: object, progress: bool) -> None:
        seen.append((data.mean, data.std, data.classes))

    model = lc.load_checkpoint(lc.create_model("resnet8", num_classes=10, in_chans=1, width=8), untrained)
    task = TaskSettings(classes=open_data("digits").classes[::-1], mean=(0.3,), std=(0.4,), image_size=8)
    lc.lean(model, "digits", "macs=0.8", task=task, recovery_epochs=1, recover=recover, progress=False, **QUICK)
    assert seen == [((0.3,), (0.4,), task.classes)]
    with pytest.raises(SettingError, match="weights= is for networks by name"):
        lc.lean(model, "digits", "macs=0.8", weights=untrained, progress=False, **QUICK)


def test_a_file_without_a_task_is_named_by_export_and_by_the_server(
    call: Callable, seven: Path, tmp_path: Path
) -> None:
    pytest.importorskip("onnxruntime")
    with warnings.catch_warnings():
        warnings.simplefilter("always")
        answer = call("export", "timm/test_resnet", "--weights", seven / "my.pth", "-o", tmp_path)
    assert answer.code == 0 and one_line(answer, "warning: the file holds no task", "--classes and --like")
    (path,) = tmp_path.glob("*.onnx")
    script = ROOT / "examples" / "serve_onnx.py"
    found = subprocess.run([sys.executable, script, path, "0"], capture_output=True, text=True, timeout=60)
    assert found.returncode == 1 and "holds no task" in found.stderr and "--classes cat,dog" in found.stderr
