"""Every kind of source gives the images, labels and classes that are in it."""

from __future__ import annotations

import hashlib
import pickle
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

from leanconv.data import FileImages, ImageData, TensorImages, describe, open_data
from leanconv.data import gather as gathering


def images_of(part: Any) -> torch.Tensor:
    assert isinstance(part, TensorImages)
    return part.images


def as_tensor(array: np.ndarray) -> torch.Tensor:
    return torch.from_numpy(array).permute(2, 0, 1)


def test_digits_are_all_there_and_always_divided_alike() -> None:
    from sklearn.datasets import load_digits

    data, again = open_data("digits"), open_data("digits")
    assert describe(data) == {
        "name": "digits",
        "classes": [str(i) for i in range(10)],
        "train": 1442,
        "test": 355,
        "channels": 1,
        "image_size": [8, 8],
        "images_digest": again.fingerprint,
        "normalisation": {"mean": list(again.mean), "std": list(again.std)},
    }
    assert torch.equal(images_of(data.test), images_of(again.test))
    source = load_digits()
    both = torch.cat([images_of(data.train), images_of(data.test)]).flatten(1)
    expected = torch.from_numpy(np.round(source.images * 255 / 16)).flatten(1)
    assert sorted(both.tolist()) == sorted(expected.long().tolist())
    share = torch.bincount(data.test.labels) / torch.bincount(torch.from_numpy(source.target))
    assert ((share > 0.19) & (share <= 0.2)).all()


def test_parquet_files_are_read_in_order_with_their_names(tmp_path: Path, build: SimpleNamespace) -> None:
    data = open_data(build.parquet_set(tmp_path / "pets"))
    assert (data.name, data.classes, data.image_size, data.channels) == ("pets", ("cat", "dog"), (8, 8), 3)
    assert data.train.labels.tolist() == [0, 1, 0, 1, 1]
    assert data.test.labels.tolist() == [1, 0]
    expected = torch.stack([as_tensor(build.pixels(i)) for i in (0, 1, 2, 0, 1)])
    assert torch.equal(images_of(data.train), expected)
    values = expected.double() / 255
    assert data.mean == pytest.approx(values.mean(dim=(0, 2, 3)).tolist())
    assert data.std == pytest.approx(values.std(dim=(0, 2, 3), correction=0).tolist())


def test_parquet_without_names_numbers_its_classes_and_takes_validation_for_test(
    tmp_path: Path, build: SimpleNamespace
) -> None:
    build.write_parquet(tmp_path / "data" / "train.parquet", [2, 0, 1])
    build.write_parquet(tmp_path / "data" / "validation.parquet", [2])
    data = open_data(tmp_path)
    assert data.classes == ("0", "1", "2")
    assert data.test.labels.tolist() == [2]
    build.write_parquet(tmp_path / "data" / "test.parquet", [1, 1])
    assert open_data(tmp_path).test.labels.tolist() == [1, 1]


@pytest.mark.parametrize("test", ["test", "val"])
def test_class_folders(tmp_path: Path, build: SimpleNamespace, test: str) -> None:
    data = open_data(str(build.class_set(tmp_path, test)))
    assert data.classes == ("cat", "dog")
    assert data.train.labels.tolist() == [0, 0, 0, 1, 1, 1]
    assert data.test.labels.tolist() == [0, 0, 1, 1]
    assert torch.equal(images_of(data.train)[4], as_tensor(build.pixels(11)))


def test_tiny_imagenet_keeps_the_order_of_its_class_list(tmp_path: Path, build: SimpleNamespace) -> None:
    data = open_data(build.tiny_set(tmp_path))
    assert data.classes == ("n02", "n01")
    assert data.train.labels.tolist() == [1, 1, 0, 0]
    assert data.test.labels.tolist() == [1, 0, 0]
    assert torch.equal(
        images_of(data.train)[2], as_tensor(np.array(Image.open(tmp_path / "train/n02/images/010.JPEG")))
    )
    assert torch.equal(images_of(data.test)[1], as_tensor(np.array(Image.open(tmp_path / "val/images/051.JPEG"))))


@pytest.mark.parametrize("source", ["classes", "parquet"])
def test_varying_or_large_images_are_decoded_when_asked_for(
    tmp_path: Path, build: SimpleNamespace, source: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = build.class_set(tmp_path) if source == "classes" else build.parquet_set(tmp_path)
    monkeypatch.setattr(gathering, "MEMORY_LIMIT", 4 * 3 * 8 * 8)  # the test part fits at most
    data = open_data(folder)
    assert isinstance(data.train, FileImages) and isinstance(data.test, TensorImages)
    assert data.image_size is None
    assert torch.equal(data.train[1][0], as_tensor(build.pixels(1)))
    values = torch.stack([data.train[i][0] for i in range(len(data.train))]) / 255
    assert data.mean == pytest.approx(values.mean(dim=(0, 2, 3)).tolist(), abs=1e-6)

    monkeypatch.undo()
    if source == "classes":
        build.write_images(tmp_path / "train" / "dog", 1, first=20, height=9, width=5)
        data = open_data(folder)
        assert isinstance(data.train, FileImages)
        assert data.train[6][0].shape == (3, 9, 5)
        assert data.train[6][1] == 1


@pytest.fixture
def small_cifar(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Six images in torchvision's own CIFAR-10 layout, with their md5 sums in place of the published ones."""
    import torchvision

    folder = tmp_path / "cifar-10-batches-py"
    folder.mkdir()
    rows = np.random.default_rng(0).integers(0, 256, (6, 3072), dtype=np.uint8)
    content = {
        "data_batch_1": {"data": rows[:4], "labels": [0, 1, 0, 1]},
        "test_batch": {"data": rows[4:], "labels": [1, 0]},
        "batches.meta": {"label_names": ["airplane", "ship"]},
    }
    sums = {}
    for name, value in content.items():
        (folder / name).write_bytes(pickle.dumps(value))
        sums[name] = hashlib.md5((folder / name).read_bytes()).hexdigest()
    cifar = torchvision.datasets.CIFAR10
    monkeypatch.setattr(cifar, "train_list", [["data_batch_1", sums["data_batch_1"]]])
    monkeypatch.setattr(cifar, "test_list", [["test_batch", sums["test_batch"]]])
    meta = {"filename": "batches.meta", "key": "label_names", "md5": sums["batches.meta"]}
    monkeypatch.setattr(cifar, "meta", meta)
    return tmp_path


def test_cifar_as_torchvision_lays_it_out(small_cifar: Path) -> None:
    from torchvision.datasets import CIFAR10

    data: ImageData = open_data("cifar10", root=small_cifar)
    assert data.classes == ("airplane", "ship")
    assert data.train.labels.tolist() == [0, 1, 0, 1]
    assert data.test.labels.tolist() == [1, 0]
    expected = CIFAR10(small_cifar, train=False).data[1]
    assert torch.equal(images_of(data.test)[1], as_tensor(expected))


@pytest.mark.parametrize("damage", ["change", "remove"])
def test_cifar_files_that_are_not_the_published_ones_are_never_unpickled(small_cifar: Path, damage: str) -> None:
    from leanconv.core.errors import DataError

    file = small_cifar / "cifar-10-batches-py" / "test_batch"
    file.unlink() if damage == "remove" else file.write_bytes(file.read_bytes() + b".")
    with pytest.raises(DataError, match=r"cifar-10-batches-py: a file is missing or differs .* md5; .*--download"):
        open_data("cifar10", root=small_cifar)


def test_nothing_is_downloaded_unless_asked(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    import torchvision

    from leanconv.core.errors import DataError

    asked: list[str] = []

    def download(self: Any) -> None:
        asked.append(self.url)
        raise OSError("no route to host")

    monkeypatch.setattr(torchvision.datasets.CIFAR10, "download", download)
    for name in ("cifar10", "cifar100"):
        with pytest.raises(DataError, match=r"no such folder; add --download"):
            open_data(name, root=tmp_path)
    assert not asked
    with pytest.raises(DataError, match=r"the download failed \(no route to host\); try again"):
        open_data("cifar10", root=tmp_path, download=True)
    assert len(asked) == 1
