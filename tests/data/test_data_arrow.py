"""Folders of Hugging Face's datasets, and parquet files that datasets maps from the disk."""

from __future__ import annotations

import os
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch

from leanconv.core.errors import DataError, SettingError
from leanconv.data import FileImages, TensorImages, make_loader, open_data
from leanconv.data import gather as gathering

datasets = pytest.importorskip("datasets")


@pytest.fixture(autouse=True)
def quiet() -> Any:
    datasets.disable_progress_bars()
    yield
    datasets.enable_progress_bars()


def split(build: SimpleNamespace, rows: range, names: Any = ("cat", "dog"), **columns: Any) -> Any:
    images = [{"bytes": build.encode(build.pixels(i)), "path": None} for i in rows]
    label = datasets.ClassLabel(names=list(names)) if names else datasets.Value("int64")
    features = datasets.Features({"image": datasets.Image(), "label": label})
    return datasets.Dataset.from_dict({"image": images, "label": [i % 2 for i in rows]} | columns, features=features)


def saved(folder: Path, **parts: Any) -> Path:
    datasets.DatasetDict(parts).save_to_disk(folder)
    return folder


@pytest.mark.parametrize("test", ["test", "validation"])
def test_a_saved_data_set(tmp_path: Path, build: SimpleNamespace, test: str) -> None:
    shuffled = split(build, range(6)).select([5, 0, 3, 1])  # rows in another order than the file
    folder = saved(tmp_path / "pets", **{"train": shuffled, test: split(build, range(2))})
    data = open_data(folder)
    assert (data.name, data.names, data.train.labels.tolist()) == ("pets", ("cat", "dog"), [1, 0, 1, 1])
    assert isinstance(data.train, TensorImages)
    expected = torch.stack([torch.from_numpy(build.pixels(i)).permute(2, 0, 1) for i in (5, 0, 3, 1)])
    assert torch.equal(data.train.images, expected)


def test_one_split_and_classes_without_names(tmp_path: Path, build: SimpleNamespace) -> None:
    split(build, range(8), names=None).save_to_disk(tmp_path / "one")
    with pytest.raises(DataError, match=r"no test part; add a split named test or validation; --test-split"):
        open_data(tmp_path / "one")
    data = open_data(tmp_path / "one", test_split=0.25)
    assert data.classes == ("0", "1") and not data.named and (len(data.train), len(data.test)) == (6, 2)
    assert data.held_out is not None
    folder = saved(tmp_path / "two", train=split(build, range(4)), test=split(build, range(2)))
    with pytest.raises(SettingError, match="has test: leave it out"):
        open_data(folder, test_split=0.5)


def test_a_test_part_may_have_fewer_rows_than_classes(tmp_path: Path, build: SimpleNamespace) -> None:
    def opened(train: list[int], test: list[int]) -> Any:
        found = (split(build, range(len(labels)), names=None, label=labels) for labels in (train, test))
        folder = tmp_path / "-".join(map(str, train + test))
        return open_data(saved(folder, **dict(zip(("train", "test"), found, strict=True))))

    data = opened([0, 1, 2, 3, 4, 5], [5, 4])
    assert data.test.labels.tolist() == [5, 4] and len(data.classes) == 6
    with pytest.raises(DataError, match=r"test row 1: label 6 is not in 0\.\.5 \(6 classes\); fix the label"):
        opened([0, 1, 2, 3, 4, 5], [5, 6, 0, 0, 0, 0, 0, 0])
    with pytest.raises(DataError, match=r"train row 0: label 9 is not in 0, 1, 2, \.\.\.; fix the label"):
        opened([9, 1], [0])


def test_images_stay_on_the_disk_and_workers_read_them(
    tmp_path: Path, build: SimpleNamespace, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = saved(tmp_path / "pets", train=split(build, range(6)), test=split(build, range(2)))
    monkeypatch.setattr(gathering, "MEMORY_LIMIT", 0)
    data = open_data(folder)
    assert isinstance(data.train, FileImages)
    settings: dict[str, Any] = {"mean": data.mean, "std": data.std, "batch_size": 4, "image_size": 8, "train": True}
    alone, helped = (list(make_loader(data.train, workers=workers, **settings)) for workers in (0, 2))
    assert all(torch.equal(a[0], b[0]) and torch.equal(a[1], b[1]) for a, b in zip(alone, helped, strict=True))


def test_bad_rows_are_named(tmp_path: Path, build: SimpleNamespace) -> None:
    images = [{"bytes": data, "path": None} for data in (b"no", build.encode(build.pixels(1)))] + [None]
    features = datasets.Features({"image": datasets.Image(), "label": datasets.ClassLabel(names=["cat", "dog"])})
    bad = datasets.Dataset.from_dict({"image": [*images, images[1]], "label": [0, 1, 0, 0]}, features=features)
    folder = saved(tmp_path / "bad", train=bad, test=split(build, range(2)))
    with pytest.raises(
        DataError, match=r"2 x image that cannot be read: .*bad train row 0: .*row 2: there is no image"
    ):
        open_data(folder)
    assert open_data(folder, on_bad="skip").train.labels.tolist() == [1, 0]
    none = split(build, range(2), label=[None, 1])
    with pytest.raises(DataError, match="train row 0: the label is null"):
        open_data(saved(tmp_path / "null", train=none, test=split(build, range(2))))
    with pytest.raises(DataError, match="class names of test differ"):
        open_data(
            saved(tmp_path / "names", train=split(build, range(2)), test=split(build, range(2), names=("a", "b")))
        )
    text = datasets.Dataset.from_dict({"text": ["a"]})
    with pytest.raises(DataError, match=r"needs one column of images and one of class labels; it has text \(Value\)"):
        open_data(saved(tmp_path / "text", train=text, test=text))
    (folder / "train" / "state.json").write_text("{")
    with pytest.raises(DataError, match=r"bad: cannot be read \(.*\); write it again with save_to_disk"):
        open_data(folder)


def test_parquet_larger_than_the_memory_is_mapped_from_the_disk(
    tmp_path: Path, build: SimpleNamespace, monkeypatch: pytest.MonkeyPatch
) -> None:
    small = open_data(build.parquet_set(tmp_path / "pets"))
    monkeypatch.setattr("leanconv.data.parquet._memory", lambda: 10)
    monkeypatch.setattr("datasets.config.HF_DATASETS_CACHE", tmp_path / "cache")
    large = open_data(tmp_path / "pets")
    assert isinstance(small.train, TensorImages) and isinstance(large.train, TensorImages)
    assert large.classes == small.classes and torch.equal(large.train.labels, small.train.labels)
    assert torch.equal(large.train.images, small.train.images) and torch.equal(large.test.labels, small.test.labels)
    assert os.listdir(tmp_path / "cache")
