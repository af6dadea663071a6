"""Data sets and tensors that a user hands in."""

from __future__ import annotations

import random
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from torch import Tensor
from torch.utils.data import DataLoader, IterableDataset, Subset, TensorDataset, random_split

from leanconv.core.errors import DataError, SettingError
from leanconv.data import describe, make_loader, open_data
from leanconv.data.own import DatasetImages, as_images, labels_of
from tests.experiment.conftest import Listed, striped


def test_what_is_open_stays_as_it_is() -> None:
    data = open_data("digits")
    assert as_images(data) is data
    assert as_images("digits").origin == {"data": "digits"}
    parts = as_images((data.train, data.test))
    assert (parts.classes, parts.named, len(parts.test)) == (data.classes, True, 355)


def test_names_of_classes_come_from_the_data_set() -> None:
    data = as_images((Listed(60), Listed(15)))
    assert (data.name, data.classes, data.named) == ("Listed", ("rows", "columns", "none"), True)
    numbers = as_images((striped(60), striped(15)))
    assert (numbers.name, numbers.classes, numbers.named) == ("images", ("0", "1", "2"), False)
    assert as_images((Subset(Listed(60), range(30)), Listed(15))).classes == data.classes


def as_listed(classes: list[str], labels: list[int]) -> Listed:
    part = Listed(len(labels))
    part.classes, part.targets = classes, torch.tensor(labels)
    return part


def test_the_test_part_gets_the_order_of_the_classes_of_the_train_part() -> None:
    train = as_listed(["ant", "bee", "cat"], [0, 1, 2])
    data = as_images((train, as_listed(["ant", "cat"], [1, 1, 0])))
    assert data.test.labels.tolist() == [2, 2, 0] and data.test[1][1] == 2 and data.classes == ("ant", "bee", "cat")
    assert as_images((train, Subset(as_listed(["cat", "bee"], [0, 1]), [1, 0]))).test.labels.tolist() == [1, 2]
    decomposed, whole = as_listed(["bee", "e\u0301"], [0, 1]), as_listed(["\u00e9", "bee"], [0, 1])
    assert as_images((whole, decomposed)).test.labels.tolist() == [1, 0]
    digits = open_data("digits")
    turned = as_images((digits.train, digits.for_classes(digits.classes[::-1]).test))
    assert torch.equal(turned.test.labels, digits.test.labels)
    with pytest.raises(DataError, match=r"the test part has the class 'Bee', which .* not have \(is it 'bee'\?\)"):
        as_images((train, as_listed(["ant", "Bee"], [0, 1])))
    with pytest.raises(DataError, match="the test part has label 2 and 2 classes"):
        as_images((train, as_listed(["ant", "cat"], [0, 2])))


def test_labels_that_a_data_set_lists_are_not_read_one_by_one() -> None:
    listed = Listed(60)
    assert labels_of(listed).tolist() == listed.targets.tolist() and listed.read == 18  # two first ones of a class more
    part = Subset(listed, range(40, 10, -1))
    assert labels_of(part).tolist() == listed.targets[list(part.indices)].tolist() and listed.read <= 18 + 19
    train, _ = random_split(Listed(60), [40, 20], torch.Generator().manual_seed(0))
    assert labels_of(train).tolist() == [int(train[index][1]) for index in range(40)]


def test_labels_that_the_items_contradict_are_read() -> None:
    class Shifted(Listed):
        def __getitem__(self, index: int) -> tuple[Any, int]:
            image, label = super().__getitem__(index)
            return image, (label + 1) % 3

    assert labels_of(Shifted(30)).tolist() == ((Listed(30).targets + 1) % 3).tolist()

    class Merged(Listed):
        """The first of 100 classes also stands for the second."""

        def __init__(self) -> None:
            super().__init__(200)
            self.targets = torch.arange(200) % 100

        def __getitem__(self, index: int) -> tuple[Any, int]:
            image, label = super().__getitem__(index)
            return image, 0 if label == 1 else label

    assert labels_of(Merged())[:3].tolist() == [0, 0, 2]
    assert labels_of(TensorDataset(torch.zeros(4, 1, 8, 8), torch.tensor([0, 1, 1, 0]))).tolist() == [0, 1, 1, 0]


def test_floats_go_through_untouched_and_bytes_are_normalised() -> None:
    data = as_images((Listed(60), Listed(15)))
    assert data.prepared and data.image_size == (8, 8)
    batch, _ = next(iter(make_loader(data.test, mean=data.mean, std=data.std, batch_size=15, train=False)))
    assert torch.equal(batch, torch.stack([Listed(15)[index][0] for index in range(15)]))
    bytes_ = as_images((Listed(60, "uint8"), Listed(15, "uint8")))
    same = as_images((striped(60), striped(15)))
    assert not bytes_.prepared and (bytes_.mean, bytes_.std) == (same.mean, same.std)


def test_parts_keep_their_images_and_labels() -> None:
    data = as_images((Listed(60, "pil"), Listed(15, "pil")))
    train, validation = data.split(0.2)
    assert len(train) + len(validation) == 60 and isinstance(validation, DatasetImages)
    whole = striped(60)
    for part in (train, validation):
        for index, row in enumerate(part.rows.tolist()):  # type: ignore[attr-defined]
            image, label = part[index]
            assert torch.equal(image, whole[0][row]) and label == int(whole[1][row])


@pytest.mark.parametrize("draw", [lambda: torch.rand(()).item(), random.random, np.random.rand])
def test_draws_of_a_data_set_repeat_with_the_seed(draw: Callable[[], float]) -> None:
    class Noisy(Listed):
        def __getitem__(self, index: int) -> tuple[Any, int]:
            image, label = super().__getitem__(index)
            return (image + draw() if self.kind == "float" else (image * draw()).byte()), label

    data = as_images((Noisy(30), Noisy(15)))
    pixels = [as_images((Noisy(30, "uint8"), Noisy(15, "uint8"))) for _ in range(2)]
    assert (pixels[0].mean, pixels[0].std) == (pixels[1].mean, pixels[1].std)

    def epoch(seed: int) -> torch.Tensor:
        loader = make_loader(data.train, mean=data.mean, std=data.std, batch_size=30, train=True, seed=seed)
        return next(iter(loader))[0]

    assert torch.equal(epoch(3), epoch(3)) and not torch.equal(epoch(3), epoch(4))
    again = make_loader(data.test, mean=data.mean, std=data.std, batch_size=15, train=False)
    assert torch.equal(next(iter(again))[0], next(iter(again))[0]), "a resumed run validates as it would have done"


def test_other_images_have_another_digest() -> None:
    images, labels = striped(60)
    found = [
        describe(as_images(((pixels, labels), striped(15))))["digest"]
        for pixels in (images, images.clone(), 255 - images)
    ]
    assert found[0] == found[1] != found[2]
    assert "digest" not in describe(open_data("digits"))


class Stream(IterableDataset[Any]):
    def __iter__(self) -> Any:
        return iter(())


class Grows(Listed):
    def __getitem__(self, index: int) -> tuple[Any, int]:
        side = 9 if index == 14 else 8
        return torch.zeros(1, side, side), int(self.targets[index])


class Items(Listed):
    """Items as a function of image and label makes them; it lists its labels all the same."""

    def __init__(self, count: int, make: Callable[[Tensor, int], Any]) -> None:
        super().__init__(count)
        self.make = make

    def __getitem__(self, index: int) -> Any:
        return self.make(*super().__getitem__(index))


def items(make: Callable[[Tensor, int], Any] | None = None, label: Callable[[int], Any] = int) -> tuple[Items, Items]:
    chosen = make or (lambda image, number: (image, label(number)))
    return Items(9, chosen), Items(6, chosen)


NO_LABELS: list[tuple[Callable[[int], Any], str]] = [
    (
        lambda label: label + 0.7,
        "the label of item 0 of the data set is 0.7, no whole number: give the number of its class",
    ),
    (lambda label: "abc"[label], "is 'a', no whole number"),
    (lambda label: None, "is None, no whole number"),
    (lambda label: 1e300, "is 1e+300, no whole number"),
    (lambda label: float("nan"), "is nan, no whole number"),
    (
        lambda label: torch.eye(3)[label],
        "is torch.float32 (3,), no whole number: give the number of its class, label.argmax()",
    ),
]
LABELS: list[Callable[[int], Any]] = [
    float, np.int64, np.float32, np.array, torch.tensor, lambda label: torch.tensor([label]),
    lambda label: torch.tensor(label).byte(),
]  # fmt: skip


@pytest.mark.parametrize("label", LABELS)
def test_a_label_may_be_any_whole_number(label: Callable[[int], Any]) -> None:
    for train in (items(label=label)[0], Subset(TensorDataset(torch.zeros(3, 1, 8, 8), torch.arange(3.0)), [0, 1, 2])):
        assert labels_of(train).tolist() == [index % 3 for index in range(len(train))]


@pytest.mark.parametrize("mode", ["P", "1", "CMYK"])
def test_pil_images_of_other_modes_become_rgb(mode: str) -> None:
    shown = Image.new("RGB", (8, 6), (255, 0, 0)).convert(mode)
    data = as_images(items(lambda image, label: (shown, label)))
    assert torch.equal(data.train[0][0], torch.from_numpy(np.array(shown.convert("RGB"))).permute(2, 0, 1))


def test_arrays_of_numpy_are_images() -> None:
    pixels = np.random.default_rng(0).integers(0, 255, (8, 6, 3), dtype=np.uint8)
    train, test = items(lambda image, label: (pixels, label))
    data = as_images((train, test))
    assert torch.equal(data.train[2][0], torch.from_numpy(pixels).permute(2, 0, 1)) and not data.prepared


@pytest.mark.parametrize(
    ("data", "words"),
    [
        (Listed(9), "data is a Listed: give a name, a folder, or (train, test)"),
        ((Listed(9),), "data is a tuple"),
        ((DataLoader(Listed(9)), Listed(9)), "loader.dataset"),
        ((Stream(), Listed(9)), "the train part is a Stream"),
        ((Listed(9), Listed(0)), "the test part has no image"),
        ((Listed(9), Listed(9, "pil")), "one part gives float tensors and the other does not"),
        (
            (TensorDataset(torch.zeros(4, 1, 8, 8)), Listed(9)),
            "item 0 of the data set is a tuple of 1: give (image, label)",
        ),
        ((TensorDataset(torch.zeros(4, 8), torch.zeros(4)), Listed(9)), "torch.float32 (8,)"),
        ((TensorDataset(torch.zeros(4, 1, 8, 8), torch.zeros(4, 2)), Listed(9)), "torch.float32 (2,), no whole number"),
        *((items(label=label), words) for label, words in NO_LABELS),
        (
            items(lambda image, label: {"image": image, "label": label}),
            "item 0 of the data set is a dict of 'image', 'label': give",
        ),
        (items(lambda image, label: (image, label, 7)), "item 0 of the data set is a tuple of 3: give (image, label)"),
        (items(lambda image, label: image), "item 0 of the data set is torch.float32 (1, 8, 8): give (image, label)"),
        (
            items(lambda image, label: (image.numpy(), label)),
            "the image of item 0 of the data set is numpy.float32 (1, 8, 8)",
        ),
        (((torch.zeros(4, 1, 8, 8), torch.zeros(4).long()), striped(9)), "give uint8"),
    ],
    ids=lambda value: value if isinstance(value, str) else "",
)
def test_what_cannot_be_used_is_one_line(data: Any, words: str) -> None:
    with pytest.raises(DataError) as caught:
        as_images(data)
    assert words in str(caught.value) and "\n" not in str(caught.value)


def test_an_image_of_another_size_is_named() -> None:
    data = as_images((Grows(40), Listed(9)))
    with pytest.raises(DataError, match=r"item 14 of the data set is \(1, 9, 9\) and others are \(1, 8, 8\)"):
        list(make_loader(data.train, mean=data.mean, std=data.std, batch_size=9, train=False))


def test_sizes_that_vary_are_not_known() -> None:
    class Vary(Listed):
        def __getitem__(self, index: int) -> tuple[Any, int]:
            return Image.new("RGB", (8 + index, 8)), int(self.targets[index])

    data = as_images((Vary(9), Vary(6)))
    assert data.image_size is None and data.channels == 3


def test_a_test_part_is_held_out_of_one_pair_of_tensors_alone() -> None:
    assert [len(as_images(striped(60)).test), len(as_images(striped(60), test_split=0.5).test)] == [12, 30]
    with pytest.raises(SettingError, match="is for data without a test part"):
        as_images((Listed(9), Listed(9)), test_split=0.5)
