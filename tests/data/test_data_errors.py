"""Whatever is wrong with the data is said in one line that names the place, the rule and the way out."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch

from leanconv.core.errors import DataError
from leanconv.data import ImageData, TensorImages, open_data

Damage = Callable[[Path, SimpleNamespace], object]
TRAIN, TEST = "train-00001-of-00002.parquet", "test-00000-of-00001.parquet"


def columns(folder: Path, **arrays: object) -> None:
    import pyarrow as pa
    import pyarrow.parquet as pq

    pq.write_table(pa.table(arrays), folder / TEST)


def cut(path: Path) -> None:
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])


def scramble(path: Path) -> None:
    """Leave the footer whole and spoil the pages."""
    data = bytearray(path.read_bytes())
    data[4 : len(data) // 2] = b"\xff" * (len(data) // 2 - 4)
    path.write_bytes(data)


def empty(folder: Path) -> None:
    shutil.rmtree(folder)
    folder.mkdir()


PARQUET: dict[str, tuple[Damage, str]] = {
    "part missing": (lambda f, b: (f / TEST).unlink(), r"no test part; add test-\*\.parquet or validation"),
    "train missing": (lambda f, b: [p.unlink() for p in f.glob("train*")], r"no train-\*\.parquet among .*; rename"),
    "file of a set missing": (lambda f, b: (f / TRAIN).unlink(), rf"{TRAIN}: missing, one of 2 files; restore"),
    "no bytes": (lambda f, b: (f / TRAIN).write_bytes(b""), rf"{TRAIN}: not a readable parquet file .*; fetch"),
    "half the file": (lambda f, b: cut(f / TRAIN), rf"{TRAIN}: not a readable parquet file .*; fetch"),
    "pages spoilt": (lambda f, b: scramble(f / TRAIN), rf"{TRAIN}: not a readable parquet file .*; fetch"),
    "text": (lambda f, b: (f / TRAIN).write_text("hello " * 9), rf"{TRAIN}: not a readable parquet file .*; fetch"),
    "a folder for a file": (lambda f, b: ((f / TRAIN).unlink(), (f / TRAIN).mkdir()), rf"{TRAIN}: .*; "),
    "no rows": (lambda f, b: b.write_parquet(f / TEST, []), rf"{TEST}: no rows; a part needs"),
    "other columns": (lambda f, b: columns(f, img=[1]), rf"{TEST}: needs the columns image .* label .*; it has img"),
    "image no struct": (lambda f, b: columns(f, image=[1], label=[1]), r"it has image \(int64\), label \(int64\)"),
    "label text": (lambda f, b: columns(f, image=[{"bytes": b""}], label=["cat"]), r"needs .*label \(string\)"),
    "label float": (lambda f, b: columns(f, image=[{"bytes": b""}], label=[1.0]), r"needs .*label \(double\)"),
    "label null": (lambda f, b: b.write_parquet(f / TEST, [0, None]), rf"{TEST} row 1: label is null; give"),
    "label negative": (
        lambda f, b: b.write_parquet(f / TRAIN, [0, 1, -1], names=["cat", "dog"]),
        rf"{TRAIN} row 2: label -1 is out of range 0\.\.1 \(2 classes\); fix",
    ),
    "label too high": (
        lambda f, b: b.write_parquet(f / TRAIN, [2], names=["cat", "dog"]),
        rf"{TRAIN} row 0: label 2 is out of range 0\.\.1 \(2 classes\); fix",
    ),
    "label too high, no names there": (
        lambda f, b: b.write_parquet(f / TEST, [0, 7]),
        rf"{TEST} row 1: label 7 is out of range 0\.\.1 \(2 classes\); fix",
    ),
    "names differ between parts": (
        lambda f, b: b.write_parquet(f / TEST, [0, 1], names=["dog", "cat"]),
        rf"{TEST}: its class names differ from those of train-00000-of-00002\.parquet; make",
    ),
    "names differ between files": (
        lambda f, b: b.write_parquet(f / TRAIN, [0, 1], names=["cat", "cow"]),
        r"train-00000-of-00002\.parquet: its class names differ .*; make",
    ),
    "metadata no JSON": (
        lambda f, b: b.write_parquet(f / TEST, [0], metadata={b"huggingface": b"{"}),
        rf"{TEST}: its huggingface metadata does not describe label; write",
    ),
    "metadata without label": (
        lambda f, b: b.write_parquet(f / TEST, [0], metadata={b"huggingface": json.dumps({"info": {}}).encode()}),
        rf"{TEST}: its huggingface metadata does not describe label; write",
    ),
    "class missing in train": (
        lambda f, b: [b.write_parquet(p, [1, 1], names=["cat", "dog"]) for p in f.glob("train*")],
        r"class 'cat' has no image in train; add",
    ),
    "image null": (lambda f, b: b.write_parquet(f / TEST, [0, 1], [b.encode(b.pixels(0)), None]), r"row 1: .* is null"),
    "image of no bytes": (lambda f, b: b.write_parquet(f / TEST, [0], [b""]), rf"{TEST} row 0: the file is empty; rep"),
    "image no image": (
        lambda f, b: b.write_parquet(f / TEST, [0], [b"GIF?"]),
        r"row 0: no known image format; replace",
    ),
    "image truncated": (
        lambda f, b: b.write_parquet(f / TEST, [0, 1], [(x := b.encode(b.pixels(0))), x[: len(x) // 2]]),
        rf"{TEST} row 1: .*; replace or drop this image",
    ),
}

FOLDERS: dict[str, tuple[Damage, str]] = {
    "missing": (
        lambda f, b: shutil.rmtree(f),
        r"no such folder, and no data set of that name \(digits, cifar10, cifar100\)",
    ),
    "empty": (lambda f, b: empty(f), r"neither train-\*\.parquet nor train/CLASS/ in it; give"),
    "a file": (
        lambda f, b: (shutil.rmtree(f), f.write_text("x")),
        r"is a file; give the folder that contains the data",
    ),
    "no train": (lambda f, b: shutil.rmtree(f / "train"), r"neither train-\*\.parquet nor train/CLASS/ in it; give"),
    "train empty": (lambda f, b: empty(f / "train"), r"train: no class folders; put"),
    "no test": (lambda f, b: shutil.rmtree(f / "test"), r"no test part; add test/CLASS/ or val/CLASS/"),
    "test empty": (lambda f, b: empty(f / "test"), r"test: no image in its class folders; put"),
    "no image in any class": (
        lambda f, b: [empty(f / "train" / c) for c in ("cat", "dog")],
        r"train: no image in its cl",
    ),
    "class without image": (lambda f, b: empty(f / "train" / "dog"), r"class 'dog' has no image in train; add"),
    "classes without image": (
        lambda f, b: [(f / "train" / c).mkdir() for c in ("ant", "bee")],
        r"class 'ant' \(and 1 more\) has no image in train; add",
    ),
    "class only in test": (
        lambda f, b: b.write_images(f / "test" / "cow", 1),
        r"test.cow: no such class in train; add",
    ),
    "image empty": (lambda f, b: (f / "train/cat/000.png").write_bytes(b""), r"000\.png: the file is empty; replace"),
    "image truncated": (lambda f, b: cut(f / "train/cat/001.png"), r"001\.png: .*; replace or drop this image"),
    "image text": (lambda f, b: (f / "test/dog/010.png").write_text("x"), r"010\.png: no known image format; replace"),
    "image a broken link": (
        lambda f, b: (f / "test/dog/099.png").symlink_to(f / "nowhere"),
        r"099\.png: No such file or directory; restore",
    ),
}

TINY: dict[str, tuple[Damage, str]] = {
    "no class list": (lambda f, b: (f / "wnids.txt").write_text("\n"), r"wnids\.txt: no class; fetch"),
    "class list binary": (
        lambda f, b: (f / "wnids.txt").write_bytes(b"\xff\xfe"),
        r"wnids\.txt: not a text file; fetch",
    ),
    "class twice": (lambda f, b: (f / "wnids.txt").write_text("n01\nn02\nn01"), r"wnids\.txt: a class is listed twice"),
    "class missing in train": (lambda f, b: shutil.rmtree(f / "train/n01"), r"class 'n01' has no image in train; add"),
    "train empty": (lambda f, b: empty(f / "train"), r"train: no image in its class folders; put"),
    "no annotations": (
        lambda f, b: (f / "val/val_annotations.txt").unlink(),
        r"val_annotations\.txt: No such file or directory; fetch",
    ),
    "annotations empty": (
        lambda f, b: (f / "val/val_annotations.txt").write_text(""),
        r"txt: no image is listed; fetch",
    ),
    "annotations malformed": (
        lambda f, b: (f / "val/val_annotations.txt").write_text("050.JPEG\tn01\n051.JPEG n01\n"),
        r"val_annotations\.txt line 2: '051\.JPEG n01' is not a file and a class .*; fix",
    ),
    "annotations of an unknown class": (
        lambda f, b: (f / "val/val_annotations.txt").write_text("050.JPEG\tn77\n"),
        r"val_annotations\.txt line 1: .* is not a file and a class of wnids\.txt .*; fix",
    ),
    "listed image missing": (lambda f, b: (f / "val/images/051.JPEG").unlink(), r"051\.JPEG: No such file .*; restore"),
}

CASES = [
    pytest.param(layout, damage, message, id=f"{layout}: {name}")
    for layout, table in (("parquet_set", PARQUET), ("class_set", FOLDERS), ("tiny_set", TINY))
    for name, (damage, message) in table.items()
]


@pytest.mark.parametrize(("layout", "damage", "message"), CASES)
def test_damaged_data(tmp_path: Path, build: SimpleNamespace, layout: str, damage: Damage, message: str) -> None:
    folder = getattr(build, layout)(tmp_path / "set")
    open_data(folder)  # whole before it is damaged
    damage(folder, build)
    with pytest.raises(DataError, match=message) as caught:
        open_data(folder)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("labels", [[1, 2, 2], [0, 5]])
def test_unnamed_classes_are_numbered_from_zero(tmp_path: Path, build: SimpleNamespace, labels: list[int]) -> None:
    build.write_parquet(tmp_path / "train.parquet", labels)
    build.write_parquet(tmp_path / "test.parquet", [1])
    with pytest.raises(DataError, match=r"class '0' has no image in train|label 5 among 2 images leaves .*; number"):
        open_data(tmp_path)
    build.write_parquet(tmp_path / "train.parquet", [0, -3])
    with pytest.raises(DataError, match=r"train\.parquet row 1: label -3 must not be negative; fix"):
        open_data(tmp_path)


def test_parquet_too_large_for_memory(tmp_path: Path, build: SimpleNamespace, monkeypatch: pytest.MonkeyPatch) -> None:
    import os

    folder = build.parquet_set(tmp_path)
    monkeypatch.setattr(os, "sysconf", lambda name: 10)
    monkeypatch.setattr("leanconv.data.parquet.find_spec", lambda name: None)
    way_out = r"pip install 'leanconv\[datasets\]' reads them from the disk, or unpack them as train/CLASS/"
    with pytest.raises(DataError, match=f"too much for 0 GiB of memory; {way_out}"):
        open_data(folder)


def test_folder_that_may_not_be_read(tmp_path: Path, build: SimpleNamespace, monkeypatch: pytest.MonkeyPatch) -> None:
    folder = build.class_set(tmp_path)

    def refuse(path: Path) -> None:
        raise PermissionError(13, "Permission denied", str(path))

    monkeypatch.setattr(Path, "iterdir", refuse)  # file modes do not bind root, who may run this
    with pytest.raises(DataError, match=r"train: Permission denied; check the path and its permissions"):
        open_data(folder)


def part(labels: list[int], channels: int = 3) -> TensorImages:
    return TensorImages(torch.zeros(len(labels), channels, 4, 4, dtype=torch.uint8), torch.tensor(labels))


@pytest.mark.parametrize(
    ("train", "test", "stats", "message"),
    [
        (part([0, 1]), part([0], channels=1), (0.5,) * 3, r"train has 3 channels, test 1; make them equal"),
        (part([0, 1]), part([2]), (0.5,) * 3, r"label 2 in test is out of range 0\.\.1 \(2 classes\); fix"),
        (part([0, -1]), part([0]), (0.5,) * 3, r"label -1 in train is out of range 0\.\.1 \(2 classes\); fix"),
        (part([0, 0]), part([1]), (0.5,) * 3, r"class 'b' has no image in train; add"),
        (part([0, 1]), part([0]).subset(torch.arange(0)), (0.5,) * 3, r"the test part has no image; add"),
        (part([0, 1]), part([0]), (0.5,), r"mean=\(0\.5,\) needs one value per channel \(3\)"),
    ],
)
def test_parts_that_do_not_fit(train: TensorImages, test: TensorImages, stats: tuple[float, ...], message: str) -> None:
    with pytest.raises(DataError, match=message):
        ImageData("x", ("a", "b"), train, test, stats, stats)


@pytest.mark.parametrize(
    ("images", "labels", "message"),
    [
        (torch.zeros(2, 3, 4, 4), torch.zeros(2, dtype=torch.int64), r"give uint8 \(N, C, H, W\)"),
        (torch.zeros(2, 4, 4, dtype=torch.uint8), torch.zeros(2, dtype=torch.int64), r"give uint8 \(N, C, H, W\)"),
        *(
            (
                torch.zeros(2, 32, 24, channels, dtype=torch.uint8),
                torch.tensor([0, 1]),
                rf"\(2, 32, 24, {channels}\), .* 32 channels of 24x{channels} pixels: .*images\.permute\(0, 3, 1, 2\)",
            )
            for channels in (1, 3, 4)
        ),
        (torch.zeros(2, 3, 4, 4, dtype=torch.uint8), torch.zeros(3, dtype=torch.int64), r"each of 2 images"),
        (torch.zeros(2, 3, 4, 4, dtype=torch.uint8), torch.zeros(2), r"give one integer for each"),
    ],
)
def test_tensors_that_are_no_images(images: torch.Tensor, labels: torch.Tensor, message: str) -> None:
    with pytest.raises(DataError, match=message):
        TensorImages(images, labels)


@pytest.mark.parametrize("shape", [(2, 16, 4, 4), (2, 3, 32, 4), (2, 1, 32, 3), (2, 4, 8, 1), (2, 12, 8, 8)])
def test_small_images_and_many_channels_are_read(shape: tuple[int, ...]) -> None:
    assert TensorImages(torch.zeros(shape, dtype=torch.uint8), torch.tensor([0, 1])).image_size == shape[2:]
