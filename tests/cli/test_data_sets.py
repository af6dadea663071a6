"""eval, train, predict and their kind on folders: classes by name, bad images, large ones, and no test part."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

import leanconv as lc
from leanconv.core.notes import get_task
from leanconv.core.task import Task

from .conftest import TINY, one_line

LEVELS = {"cat": 40, "dog": 200, "ant": 120}


def folders(
    root: Path, *classes: str, parts: tuple[str, ...] = ("train", "test"), count: int = 6, **named: str
) -> Path:
    """Images whose brightness tells their class; `named` calls a folder otherwise."""
    draw = np.random.default_rng(0)
    for part in parts:
        for name in classes:
            place = root / part / named.get(name, name)
            place.mkdir(parents=True)
            for number in range(count):
                pixels = draw.integers(-30, 30, (8, 8, 3)) + LEVELS[name]
                Image.fromarray(pixels.astype(np.uint8)).save(place / f"{number}.png")
    return root


@pytest.fixture
def trained(tmp_path: Path, call: Callable) -> Path:
    """A network that tells cats from dogs."""
    folder = tmp_path / "run"
    data = folders(tmp_path / "data", "cat", "dog", count=24)
    answer = call(
        "train", "resnet8(width=4)", "--data", data, "-o", folder, "--epochs", 20, "--batch-size", 8, "--threads", 1,
        "--validation", 0, "--augment", "none",
    )  # fmt: skip
    assert answer.code == 0, answer.err
    assert json.loads((folder / "summary.json").read_text())["test"]["top1_pct"] == 100
    return folder


def top1(answer: object) -> float:
    return json.loads(answer.out)["top1_pct"]  # type: ignore[attr-defined]


@pytest.mark.slow
def test_eval_goes_by_names_and_not_by_numbers(trained: Path, tmp_path: Path, call: Callable) -> None:
    swapped = folders(tmp_path / "swapped", "cat", "dog", cat="dog", dog="cat")
    assert top1(call("eval", trained, "--data", swapped, "--json")) == 0  # what is called a dog there is a cat
    some = folders(tmp_path / "some", "dog")
    assert top1(call("eval", trained, "--data", some, "--json")) == 100
    other = folders(tmp_path / "other", "ant", "cat")
    renamed = folders(tmp_path / "renamed", "cat", "dog", cat="z_cat")
    for verb, data in (("eval", other), ("eval", renamed), ("prune", other), ("quantize", other), ("train", other)):
        more = {"prune": ("--fraction", 0.5), "train": TINY}.get(verb, ())
        out = () if verb == "eval" else ("-o", tmp_path / f"{verb}-out")
        answer = call(verb, trained, "--data", data, *more, *out)
        assert answer.code == 2 and (verb == "prune" or one_line(answer, "'cat', 'dog'", "different classes")), (
            answer.err
        )


@pytest.mark.slow
def test_training_on_keeps_the_order_of_the_network(trained: Path, tmp_path: Path, call: Callable) -> None:
    network = lc.load(trained)
    task = get_task(network)
    assert task is not None and task.classes == ("cat", "dog")
    with torch.no_grad():  # the same network with its outputs, and their names, in the other order
        last = [m for m in network.modules() if isinstance(m, torch.nn.Linear)][-1]
        last.weight.copy_(last.weight.flip(0))
        last.bias.copy_(last.bias.flip(0))
    lc.set_task(network, Task(task.mean, task.std, task.image_size, ("dog", "cat")))
    lc.save(network, tmp_path / "flipped")
    data = tmp_path / "data"
    assert top1(call("eval", tmp_path / "flipped", "--data", data, "--json")) == 100
    settings = ("--lr", 1e-6, "--validation", 0, "--augment", "none")
    answer = call("train", tmp_path / "flipped", "--data", data, "-o", tmp_path / "on", *TINY, *settings, "--json")
    assert json.loads(answer.out)["test"]["top1_pct"] == 100
    again = get_task(lc.load(tmp_path / "on"))
    assert again is not None and again.classes == ("dog", "cat")


def test_a_run_is_not_continued_or_read_back_for_renamed_folders(tmp_path: Path, call: Callable) -> None:
    data = folders(tmp_path / "data", "cat", "dog")
    command = ("train", "resnet8(width=4)", "--data", data, "-o", tmp_path / "run", *TINY, "--batch-size", 4)
    assert call(*command).code == 0
    for part in ("train", "test"):
        (data / part / "cat").rename(data / part / "zebra")
    for more in ((), ("--resume",)):
        assert one_line(call(*command, *more), "['cat', 'dog'] there and ['dog', 'zebra'] here")
    run = json.loads((tmp_path / "run" / "run.json").read_text())
    del run["data"]["class_names"], run["data"]["images_digest"]  # a run from before they were noted
    (tmp_path / "run" / "run.json").write_text(json.dumps(run))
    assert call(*command, "--resume").code == 0


def test_labels_of_a_file_in_another_order_are_refused(tmp_path: Path, call: Callable) -> None:
    network = lc.create_model("resnet8", num_classes=2)
    lc.set_task(network, Task((0.5,) * 3, (0.25,) * 3, (16, 16), ("cat", "dog")))
    lc.save(network, tmp_path / "net")
    Image.new("RGB", (16, 16)).save(tmp_path / "i.png")
    (tmp_path / "l.txt").write_bytes("\ufeffKatze\r\nHund\r\n".encode("utf-16-le"))
    command = ("predict", tmp_path / "net", tmp_path / "i.png", "--labels", tmp_path / "l.txt", "--json")
    answer = call(*command)
    assert sorted(json.loads(answer.out)["images"][0]["labels"]) == ["Hund", "Katze"]
    (tmp_path / "l.txt").write_text("dog\ncat\n")
    assert one_line(call(*command), "'cat', 'dog'; the file's: 'dog', 'cat'")
    answer = call(*command[:3], "--max-pixels", 255, "--json")
    assert answer.code == 1 and "16x16 pixels are more than 255" in json.loads(answer.out)["images"][0]["error"]


def test_bad_images_are_named_or_left_out(tmp_path: Path, call: Callable) -> None:
    data = folders(tmp_path / "data", "cat", "dog")
    bad = [data / "train" / "cat" / "0.png", data / "test" / "dog" / "5.png"]
    for path in bad:
        path.write_bytes(path.read_bytes()[:80])
    command = ("train", "resnet8(width=4)", "--data", data, "-o", tmp_path / "run", *TINY, "--batch-size", 4)
    assert one_line(call(*command), *map(str, bad), "--on-bad skip")
    answer = call(*command, "--on-bad", "skip", "--json")
    assert answer.code == 0 and "left out: 2 x image that cannot be read" in answer.err
    assert json.loads(answer.out)["problems"]["image that cannot be read"]["count"] == 2
    assert json.loads(answer.out)["test"]["n"] == 11
    assert one_line(call("eval", tmp_path / "run", "--data", data, "--on-bad", "skip", "--max-pixels", 9), "8x8 pixels")


@pytest.mark.parametrize("flat", [True, False])
def test_eval_tests_on_what_the_run_held_out(tmp_path: Path, call: Callable, flat: bool) -> None:
    data = folders(tmp_path / "data", "cat", "dog", parts=("" if flat else "train",), count=10)
    command = ("train", "resnet8(width=4)", "--data", data, "-o", tmp_path / "run", *TINY, "--batch-size", 4)
    assert one_line(call(*command), "--test-split 0.2")
    answer = call(*command, "--test-split", 0.3, "--precision", "fp32", "--json")
    assert answer.code == 0, answer.err
    test = json.loads(answer.out)["test"]
    assert test["n"] == 6
    assert json.loads((tmp_path / "run" / "run.json").read_text())["data"]["held_out"]["fraction"] == 0.3
    evaluate = ("eval", tmp_path / "run", "--data", data)
    found = json.loads(call(*evaluate, "--json").out)
    assert found["n"] == 6 and found["top1_pct"] == test["top1_pct"] and found["loss"] == pytest.approx(test["loss"])
    assert one_line(call(*evaluate, "--test-split", 0.5), "held out 0.3", "test on those: --test-split 0.3")
    place = data / ("" if flat else "train") / "cat"
    Image.new("RGB", (8, 8)).save(place / "new.png")
    assert one_line(call(*evaluate), "its images are not those that the run")
