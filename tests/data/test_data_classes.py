"""A class is its name: its number in a data set and its place in a network may differ."""

from __future__ import annotations

import re
from collections.abc import Sequence
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from torch import nn

from leanconv.core.errors import DataError, SettingError
from leanconv.core.notes import set_task
from leanconv.core.task import Task
from leanconv.data import ImageData, TensorImages, open_data
from leanconv.data.classes import check_labels, class_indices, class_names, closest_name
from leanconv.deploy.int8 import held_for_check
from leanconv.train import TrainConfig, evaluate, fit
from leanconv.train.prepared import labelled_batches, scores_of, task_on

ANIMALS = ("ant", "cat", "dog")


class Brightness(nn.Module):
    """Output i for images of brightness i."""

    def __init__(self, names: Sequence[str] = (), outputs: int = 3) -> None:
        super().__init__()
        self.outputs, self.scale = outputs, nn.Parameter(torch.ones(()))
        if names:
            set_task(self, Task((0.0,), (1.0,), (4, 4), tuple(names)))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        seen = (x.mean((1, 2, 3)) * 255 / 50)[:, None]
        return -((seen - torch.arange(self.outputs)) ** 2) * self.scale


def shown(classes: Sequence[str], brightness: dict[str, int], named: bool = True) -> ImageData:
    """Two images a class, of the brightness of its name."""
    labels = torch.arange(len(classes)).repeat(2)
    levels = torch.tensor([brightness[classes[label]] * 50 for label in labels], dtype=torch.uint8)
    images = levels[:, None, None, None].expand(-1, 1, 4, 4).contiguous()
    parts = (TensorImages(images, labels), TensorImages(images, labels))
    return ImageData("animals", tuple(classes), *parts, (0.0,), (1.0,), named=named)


IS = {name: place for place, name in enumerate(ANIMALS)}


@pytest.mark.parametrize("classes", [ANIMALS, ("dog", "ant", "cat"), ("dog",), ("dog", "cat")])
def test_labels_count_by_name_in_any_order_and_of_some_classes(classes: tuple[str, ...]) -> None:
    data, model = shown(classes, IS), Brightness(ANIMALS)
    assert evaluate(model, data.test, mean=(0.0,), std=(1.0,)).top1_pct == 100
    assert scores_of(model, data, task_on(model, data)).top1_pct == 100
    assert evaluate(model, data.test.subset(torch.tensor([0])), mean=(0.0,), std=(1.0,)).top1_pct == 100


@pytest.mark.parametrize("classes", [ANIMALS, ("dog", "ant", "cat"), ("dog", "cat")])
def test_labels_of_batches_are_outputs_of_the_network(classes: tuple[str, ...]) -> None:
    """For the gradients of `prune`, and for the accuracy that `quantize` keeps."""
    data, model = shown(classes, IS), Brightness(ANIMALS)
    task = task_on(model, data)
    for batches in (labelled_batches(data, task, 6), held_for_check(data, task, 3, 1)):
        for images, labels in batches:
            assert torch.equal(model(images).argmax(1), labels)


def test_other_classes_are_refused_with_both_lists() -> None:
    data = shown(("ant", "bee"), {"ant": 0, "bee": 1})
    with pytest.raises(
        SettingError, match=r"'bee', which the network does not have.*network's: 'cat', 'ant'; .*'ant', 'bee'"
    ):
        evaluate(Brightness(("cat", "ant"), 2), data.test, mean=(0.0,), std=(1.0,))


def test_a_name_that_is_nearly_one_of_the_networks_is_said() -> None:
    for found in ("Cat", "cat ", "cat_", "c\u0041t".lower() + "\u00a0"):
        with pytest.raises(SettingError, match=r"is it 'cat'\?"):
            class_indices(("cat", "dog"), (found, "dog"), "the network", "the data")
    assert class_indices(("cafe\u0301", "tea"), ("tea", "caf\u00e9"), "the network", "the data") == (1, 0)
    assert closest_name("cafe\u0301", ("caf\u00e9", "tea")) == "caf\u00e9"


@pytest.mark.parametrize(("outputs", "names", "named"), [(3, (), True), (3, ANIMALS, False), (3, (), False)])
def test_without_names_on_one_side_the_count_must_fit(outputs: int, names: tuple[str, ...], named: bool) -> None:
    model = Brightness(names, outputs)
    numbers = {str(i): i for i in range(3)}
    data = shown(tuple(numbers), numbers, named=named) if not named else shown(ANIMALS, IS)
    assert evaluate(model, data.test, mean=(0.0,), std=(1.0,)).top1_pct == 100
    fewer = shown(("0", "1"), numbers, named=False)
    with pytest.raises(SettingError, match="take the data it was trained on"):
        evaluate(model, fewer.test, mean=(0.0,), std=(1.0,))


def test_images_of_no_data_set_may_show_some_outputs_only_but_none_beyond_them() -> None:
    images = shown(ANIMALS, IS).test
    assert isinstance(images, TensorImages)
    loose = TensorImages(images.images, images.labels)
    assert evaluate(Brightness((), 5), loose, mean=(0.0,), std=(1.0,)).top1_pct == 100
    with pytest.raises(SettingError, match="data of 3 classes and has 2 outputs"):
        evaluate(Brightness((), 2), loose, mean=(0.0,), std=(1.0,))


def test_a_task_that_names_more_classes_than_outputs_is_refused() -> None:
    with pytest.raises(SettingError, match="names 3 classes and has 2 outputs"):
        evaluate(Brightness(ANIMALS, 2), shown(ANIMALS, IS).test, mean=(0.0,), std=(1.0,))


CONFIG = TrainConfig(
    epochs=1, batch_size=2, lr=1e-6, augment="none", validation=0, threads=1, nesterov=False, momentum=0,
    weight_decay=0, schedule="constant",
)  # fmt: skip


def test_training_goes_on_in_the_networks_order(tmp_path: Path) -> None:
    model, data = Brightness(ANIMALS), shown(("dog", "ant", "cat"), IS)
    result = fit(model, data, CONFIG, tmp_path / "run", progress=False)
    assert result.history[0]["train_top1_pct"] == 100
    assert evaluate(model, data.test, mean=(0.0,), std=(1.0,)).top1_pct == 100
    with pytest.raises(SettingError, match=r"no 'cat'.*'ant', 'cat', 'dog'; the data's: 'ant', 'dog'"):
        fit(model, shown(("ant", "dog"), IS), CONFIG, tmp_path / "other", progress=False)
    with pytest.raises(SettingError, match="'bee', which the network does not have"):
        fit(model, shown(("ant", "bee", "dog"), IS | {"bee": 1}), CONFIG, tmp_path / "other", progress=False)


def test_a_run_is_not_continued_on_renamed_classes(tmp_path: Path) -> None:
    fit(Brightness(), shown(ANIMALS, IS), CONFIG, tmp_path / "run", progress=False)
    with pytest.raises(SettingError, match=r"classes=\['dog', 'cat', 'ant'\] differs from .*\['ant', 'cat', 'dog'\]"):
        fit(Brightness(), shown(ANIMALS[::-1], IS), CONFIG, tmp_path / "run", resume=True, progress=False)


def test_a_run_from_before_classes_were_noted_goes_on(tmp_path: Path) -> None:
    fit(Brightness(), shown(ANIMALS, IS), CONFIG, tmp_path / "run", progress=False)
    config = tmp_path / "run" / "config.yaml"
    config.write_text(re.sub(r"classes:\n(- .*\n)+", "", config.read_text()))
    assert "classes" not in config.read_text()
    assert fit(Brightness(), shown(ANIMALS, IS), CONFIG, tmp_path / "run", resume=True, progress=False).epochs == 1


WRONG: list[tuple[Any, str]] = [
    ("cat", "must be a sequence of names"), (["cat", "cat"], "'cat' twice"), (["a", 1], "must be a sequence of names"),
    (["a", " "], "holds an empty name"), (None, "must be a sequence of names"), ({"a", "b"}, "must be a sequence of names"),
]  # fmt: skip


@pytest.mark.parametrize(("names", "message"), WRONG)
def test_class_names_are_different_strings(names: Any, message: str) -> None:
    with pytest.raises(DataError, match=message):
        class_names(names, "data")
    data = shown(("a", "b"), {"a": 0, "b": 1})
    with pytest.raises(DataError, match=message):
        ImageData("data", names, data.train, data.test, (0.0,), (1.0,))


def test_parquet_names_are_different_strings(tmp_path: Path, build: SimpleNamespace) -> None:
    for names, message in ((["cat", "cat"], "'cat' twice"), (["cat", ""], "holds an empty name")):
        for part in ("train", "test"):
            build.write_parquet(tmp_path / f"{part}.parquet", [0, 1], names=names)
        with pytest.raises(DataError, match=message):
            open_data(tmp_path)
    for part in ("train", "test"):
        features = b'{"info": {"features": {"label": {"names": "cat"}}}}'
        build.write_parquet(tmp_path / f"{part}.parquet", [0, 1], metadata={b"huggingface": features})
    with pytest.raises(DataError, match="classes='cat' must be a sequence"):
        open_data(tmp_path)


def test_parquet_without_names_has_none(tmp_path: Path, build: SimpleNamespace) -> None:
    for part in ("train", "test"):
        build.write_parquet(tmp_path / f"{part}.parquet", [0, 1])
    data = open_data(tmp_path)
    assert data.classes == ("0", "1") and data.names == () and not data.test.named


def test_a_file_of_labels_may_translate_but_not_contradict() -> None:
    check_labels(("katze", "hund"), ("cat", "dog"), "l.txt")
    check_labels(("x", "x"), (), "l.txt")
    check_labels(("cat", "hund"), ("cat", "dog"), "l.txt")
    with pytest.raises(SettingError, match=r"'dog' in another place.*'cat', 'dog'; the file's: 'dog', 'cat'"):
        check_labels(("dog", "cat"), ("cat", "dog"), "l.txt")
    with pytest.raises(SettingError, match="1 class names for 2 outputs"):
        check_labels(("cat",), ("cat", "dog"), "l.txt")
