"""Batches: every image once, normalised, reproducible, and augmented as torchvision defines it."""

from __future__ import annotations

import itertools
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from torchvision.transforms.v2 import functional as F

from leanconv.core.errors import DataError, SettingError
from leanconv.data import AUGMENTS, FileImages, Loader, TensorImages, make_loader, open_data
from leanconv.data.own import as_images
from leanconv.data.seeds import generator
from leanconv.data.transforms import Crop, crop_flip, crop_padding, eval_transform, extra_transforms, random_crop_flip
from tests.experiment.conftest import Listed

MEAN, STD = (0.4, 0.5, 0.6), (0.2, 0.25, 0.3)


def sample(count: int = 23, size: tuple[int, int] = (32, 32), channels: int = 3) -> TensorImages:
    draw = torch.Generator().manual_seed(0)
    images = torch.randint(256, (count, channels, *size), dtype=torch.uint8, generator=draw)
    return TensorImages(images, torch.arange(count))  # the label is the row


def loader(images: Any = None, **settings: Any) -> Loader:
    base = {"mean": MEAN, "std": STD, "batch_size": 8, "train": True}
    return make_loader(sample() if images is None else images, **{**base, **settings})


def run(batches: Loader) -> tuple[torch.Tensor, torch.Tensor]:
    images, labels = zip(*batches, strict=True)
    return torch.cat(images), torch.cat(labels)


@pytest.fixture
def files(tmp_path: Path, build: SimpleNamespace) -> FileImages:
    build.class_set(tmp_path)
    build.write_images(tmp_path / "train" / "dog", 3, first=30, height=20, width=12)
    train = open_data(tmp_path).train
    assert isinstance(train, FileImages)
    return train


def normalised(images: torch.Tensor) -> torch.Tensor:
    return F.normalize(F.to_dtype(images, torch.float32, scale=True), list(MEAN), list(STD))


def test_evaluation_shows_each_image_once_in_order_and_normalised() -> None:
    images = sample()
    batches = loader(images, train=False, augment="crop_flip")
    shown, labels = run(batches)
    assert labels.tolist() == list(range(23)) and labels.dtype == torch.int64
    torch.testing.assert_close(shown, normalised(images.images))
    assert len(batches) == len(list(batches)) == 3


@pytest.mark.parametrize("augment", ["none", "crop_flip", "random_resized_crop"])
def test_raw_batches_are_bytes_until_they_are_finished(augment: str) -> None:
    settings = {"augment": augment, "seed": 3}
    raw = loader(raw=True, **settings)
    (expected, labels), (shown, again) = run(loader(**settings)), run(raw)
    assert shown.dtype == torch.uint8 and torch.equal(labels, again)
    assert torch.equal(raw.finish(shown), expected)


def test_training_shuffles_and_epochs_differ() -> None:
    batches = loader(augment="none")
    (first, order), (_, second) = run(batches), run(batches)
    assert sorted(order.tolist()) == sorted(second.tolist()) == list(range(23))
    assert order.tolist() != second.tolist() != list(range(23))
    torch.testing.assert_close(first, normalised(sample().images[order]))


@pytest.mark.parametrize("kind", ["memory", "items", "workers"])
def test_an_epoch_comes_again_from_seed_and_number(kind: str) -> None:
    augment = "crop_flip" if kind == "memory" else "random_resized_crop"
    settings = {"augment": augment, "workers": 2 if kind == "workers" else 0, "seed": 7}
    through = loader(**settings)
    epochs = [run(through) for _ in range(3)]
    torch.manual_seed(99)
    state = torch.get_rng_state()
    resumed = loader(**settings)
    resumed.set_epoch(2)
    assert torch.equal(run(resumed)[0], epochs[2][0])
    assert torch.equal(torch.get_rng_state(), state), "the global generator is left alone"
    assert not torch.equal(epochs[0][0].sort().values, epochs[1][0].sort().values)
    assert not torch.equal(run(loader(**{**settings, "seed": 8}))[0], epochs[0][0])


def test_the_number_of_workers_changes_nothing(files: FileImages) -> None:
    settings = {"augment": "crop_flip", "image_size": 16, "batch_size": 2}
    assert torch.equal(run(loader(files, **settings))[0], run(loader(files, workers=2, **settings))[0])


@pytest.mark.parametrize("size", [(32, 32), (8, 8), (28, 40)])
def test_batched_crop_and_flip_are_torchvisions(size: tuple[int, int]) -> None:
    images = sample(50, size).images
    high, wide = crop_padding(size)
    draw = torch.Generator().manual_seed(1)
    top = torch.randint(2 * high + 1, (50,), generator=draw)
    left = torch.randint(2 * wide + 1, (50,), generator=draw)
    mirror = torch.rand(50, generator=draw) < 0.5
    assert mirror.any() and not mirror.all()
    result = crop_flip(images, top, left, mirror)
    for i in range(50):
        expected = F.crop(F.pad(images[i], [wide, high]), int(top[i]), int(left[i]), *size)
        assert torch.equal(result[i], F.horizontal_flip(expected) if mirror[i] else expected)


def test_draws_cover_every_offset_evenly() -> None:
    """On one white pixel the crop's offset and the flip can be read off."""
    images = torch.zeros(20000, 1, 16, 16, dtype=torch.uint8)
    images[:, :, 7, 6] = 1
    for flip, columns in ((False, range(4, 9)), (True, (*range(4, 9), *(15 - c for c in range(4, 9))))):
        changed = random_crop_flip(images, generator(0), flip)
        assert (changed.sum(dim=(1, 2, 3)) == 1).all()
        _, _, row, column = changed.nonzero(as_tuple=True)
        for values, expected in ((row, range(5, 10)), (column, columns)):
            share = torch.bincount(values, minlength=16) / 20000
            wanted = torch.bincount(torch.tensor(list(expected)), minlength=16) / len(list(expected))
            torch.testing.assert_close(share, wanted, atol=0.02, rtol=0)


@pytest.mark.parametrize("mode", ["zeros", "reflect"])
def test_padding_of_two_pixels_is_torchvisions(mode: str) -> None:
    images, crop = sample(30).images, Crop(pad=2, pad_mode=mode)
    top, left = torch.arange(30) % 5, torch.arange(30) % 4
    result = crop_flip(images, top, left, torch.zeros(30, dtype=torch.bool), crop)
    for i in range(30):
        padded = F.pad(images[i], [2, 2], padding_mode=crop.torch_mode())
        assert torch.equal(result[i], F.crop(padded, int(top[i]), int(left[i]), 32, 32))


@pytest.mark.parametrize("in_memory", [True, False])
def test_an_alternating_flip_mirrors_each_image_in_every_second_epoch(in_memory: bool) -> None:
    images = sample(40, (8, 8))
    settings = {"crop": Crop(pad=0, flip="alternating"), "augment": "crop_flip"}
    if not in_memory:
        settings["image_size"] = 16
    batches = loader(images, **settings)
    shown = []
    for epoch in range(4):
        batches.set_epoch(epoch)
        pixels, rows = run(batches)
        shown.append(pixels[rows.argsort()])
    assert torch.equal(shown[0], shown[2]) and torch.equal(shown[1], shown[3])
    assert torch.equal(shown[0], shown[1].flip(3))
    plain = run(loader(images, **{**settings, "augment": "none"}, train=False))[0]
    share = (shown[0] == plain).flatten(1).all(dim=1).float().mean()
    assert 0.25 < share < 0.75


def test_a_border_that_cannot_be_reflected_is_one_line() -> None:
    with pytest.raises(SettingError, match="crop_pad=8 must be below the image's side 8"):
        loader(sample(8, (8, 8)), augment="crop", crop=Crop(pad=8, pad_mode="reflect"))


@pytest.mark.parametrize(("size", "padding"), [(32, 4), (64, 8), (8, 1), (28, 4), (4, 1)])
def test_padding_is_four_for_cifar_and_in_proportion(size: int, padding: int) -> None:
    assert crop_padding((size, size)) == (padding, padding)


@pytest.mark.parametrize("train", [True, False])
@pytest.mark.parametrize("augment", AUGMENTS)
@pytest.mark.parametrize("image_size", [None, 24, (48, 48)])
def test_every_augmentation_gives_the_asked_size(augment: str, image_size: Any, train: bool) -> None:
    shown, _ = run(loader(sample(9), augment=augment, image_size=image_size, train=train))
    size = {None: 32, 24: 24, (48, 48): 48}[image_size]
    assert shown.shape == (9, 3, size, size) and shown.dtype == torch.float32
    assert shown.isfinite().all()


@pytest.mark.parametrize("train", [True, False])
def test_files_of_varying_size(files: FileImages, train: bool) -> None:
    shown, labels = run(loader(files, image_size=16, train=train, batch_size=4))
    assert shown.shape == (9, 3, 16, 16)
    if not train:
        assert labels.tolist() == [0, 0, 0, 1, 1, 1, 1, 1, 1]
        expected = F.center_crop(F.resize(files[8][0], [18]), [16, 16])
        torch.testing.assert_close(shown[8], normalised(expected))


@pytest.mark.parametrize("settings", [{"train": False}, {"train": False, "ten_crop": True}, {"train": True}])
def test_an_image_of_the_asked_size_is_the_same_in_any_part(files: FileImages, settings: dict[str, Any]) -> None:
    """In the first part, other images have other sizes, and all are decoded one by one; in the second, none has."""
    of_files, labels = run(loader(files, image_size=8, augment="none", **settings))
    rows = torch.arange(len(files))[[files[row][0].shape[1:] == (8, 8) for row in range(len(files))]]
    alone = TensorImages(torch.stack([files[row][0] for row in rows.tolist()]), rows)
    expected, order = run(loader(alone, augment="none", **settings))
    assert len(rows) == 6 and of_files.shape[0] == 9
    if settings["train"]:  # the two orders differ
        pixels = {image.numpy().tobytes() for image in of_files}
        assert all(image.numpy().tobytes() in pixels for image in expected)
    else:
        torch.testing.assert_close(of_files[order], expected, rtol=0, atol=0)
        assert labels.tolist() == [0, 0, 0, 1, 1, 1, 1, 1, 1]


@pytest.mark.parametrize("kind", ["memory", "resized"])
def test_ten_crops(kind: str) -> None:
    images = sample(3)
    shown, _ = run(loader(images, train=False, ten_crop=True, image_size=None if kind == "memory" else 21))
    frame = F.pad(images.images, [4, 4]) if kind == "memory" else F.resize(images.images, [24])
    size = 32 if kind == "memory" else 21
    assert shown.shape == (3, 10, 3, size, size)
    torch.testing.assert_close(shown, normalised(torch.stack(F.ten_crop(frame, [size, size]), dim=1)))


@pytest.mark.parametrize("augment", ["crop", "crop_flip", "random_resized_crop"])
def test_prepared_floats_are_not_augmented(augment: str) -> None:
    """`fit` of `leanconv.train` and `recover` hand the settings on as they are; `lc.fit` switches augmentation off."""
    data = as_images((Listed(60), Listed(15)))
    extra = extra_transforms("none", 2, 9, 1.0, [0.0])
    batches = make_loader(
        data.train, mean=data.mean, std=data.std, batch_size=60, train=True, augment=augment, extra=extra,
        crop=Crop(flip="alternating"),
    )  # fmt: skip
    images, _ = next(iter(batches))
    assert torch.equal(images, torch.stack([data.train[row][0] for row in batches.sampling.order(0).tolist()]))


@pytest.mark.parametrize("augment", ["crop_flip", "random_resized_crop"])
def test_layout(augment: str) -> None:
    last, _ = next(iter(loader(augment=augment)))
    first, _ = next(iter(loader(augment=augment, channels_last=False)))
    assert last.is_contiguous(memory_format=torch.channels_last)
    assert first.is_contiguous() and torch.equal(first, last)


@pytest.mark.parametrize("augment", ["none", "random_resized_crop"])
def test_drop_last(augment: str) -> None:
    batches = loader(augment=augment, drop_last=True)
    assert [len(labels) for _, labels in batches] == [8, 8]
    assert len(batches) == 2


@pytest.mark.parametrize("augment", ["crop", "random_resized_crop"])
@pytest.mark.parametrize("train", [True, False])
def test_shares_of_several_processes(augment: str, train: bool) -> None:
    shares = [loader(augment=augment, train=train, rank=rank, world_size=4) for rank in range(4)]
    rows = [run(share)[1].tolist() for share in shares]
    together = sorted(itertools.chain(*rows))
    if train:  # 23 images, one shown twice, in four equal shares
        assert [len(share) for share in rows] == [6] * 4
        assert set(together) == set(range(23)) and len(together) == 24
    else:
        assert together == list(range(23))
    assert [len(share) for share in shares] == [-(-len(share) // 8) for share in rows]


@pytest.mark.parametrize("augment", ["crop_flip", "random_resized_crop"])
def test_each_image_has_its_own_draw(augment: str) -> None:
    same = TensorImages(sample(1).images.expand(16, -1, -1, -1), torch.arange(16))
    shown, _ = run(loader(same, augment=augment))
    assert len(shown.unique(dim=0)) > 10


def test_processes_augment_differently() -> None:
    same = TensorImages(sample(1).images.expand(16, -1, -1, -1), torch.arange(16))
    first, second = (run(loader(same, augment="crop_flip", rank=rank, world_size=2))[0] for rank in (0, 1))
    assert not torch.equal(first, second)


@pytest.mark.parametrize("workers", [0, 2])
def test_a_broken_file_is_one_line_even_from_a_worker(files: FileImages, workers: int) -> None:
    path = Path(files.encoded.name(7))
    path.write_bytes(path.read_bytes()[:60])
    with pytest.raises(DataError, match=r"031\.png: .*; replace or drop this image") as caught:
        run(loader(files, image_size=16, workers=workers))
    assert "\n" not in str(caught.value) and str(caught.value).startswith(str(path))


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"augment": "mixup"}, r"augment='mixup' must be one of none, crop, crop_flip, random_resized_crop"),
        ({"batch_size": 0}, r"batch_size=0 must be at least 1"),
        ({"batch_size": 24, "drop_last": True}, r"batch_size=24 leaves no batch of 23 images .*; lower it"),
        ({"workers": -1}, r"workers=-1 must not be negative; 0"),
        ({"rank": 2, "world_size": 2}, r"rank=2 must lie in 0\.\.1 \(world_size=2\)"),
        ({"mean": (0.5,)}, r"need one value per channel \(3\)"),
        ({"std": (0.0, 1.0, 1.0)}, r"std above 0"),
        ({"ten_crop": True}, r"ten_crop=True is an evaluation; use it with train=False"),
        ({"image_size": 0}, r"image_size=0 must be positive"),
        (
            {"image_size": (16, 24)},
            r"image_size=\(16, 24\) must be .* square where images are resized for training; 24 would do",
        ),
    ],
)
def test_settings_out_of_range(settings: dict[str, Any], message: str) -> None:
    with pytest.raises(SettingError, match=message):
        loader(**settings)


def test_varying_sizes_need_one(files: FileImages) -> None:
    with pytest.raises(
        SettingError, match=r"image_size=None needs images of one size, and these vary in size; give a size"
    ):
        loader(files)


def test_images_of_other_shapes_keep_their_own() -> None:
    assert run(loader(sample(4, (8, 12)), augment="crop_flip"))[0].shape == (4, 3, 8, 12)
    grey = loader(sample(4, (8, 8), channels=1), mean=(0.5,), std=(0.5,), augment="crop")
    assert run(grey)[0].shape == (4, 1, 8, 8)


@pytest.mark.parametrize("own", [(100, 100), (40, 90), (200, 30), (9, 300)])
@pytest.mark.parametrize("size", [(64, 128), (128, 64), (32, 32)])
def test_an_image_covers_the_whole_crop(own: tuple[int, int], size: tuple[int, int]) -> None:
    white = torch.full((3, *own), 255, dtype=torch.uint8)
    for view, shape in ((eval_transform(size), (3, *size)), (eval_transform(size, ten_crop=True), (10, 3, *size))):
        assert view(white).shape == shape and bool((view(white) == 255).all())
    image = torch.randint(256, (3, *own), dtype=torch.uint8)
    if size == (32, 32) and max(own) <= 16 * min(
        own
    ):  # a square is cropped as torchvision's Resize and CenterCrop do it
        assert torch.equal(
            eval_transform(size)(image), F.center_crop(F.resize(image, [round(32 * 256 / 224)]), [32, 32])
        )


def test_only_the_middle_of_a_long_image_is_enlarged(monkeypatch: pytest.MonkeyPatch) -> None:
    line = torch.arange(1501, dtype=torch.uint8).expand(3, 1, 1501)
    whole = F.center_crop(F.resize(line, [37]), [32, 32])
    made: list[tuple[int, ...]] = []
    resize = F.resize
    monkeypatch.setattr(
        F, "resize", lambda *args, **named: made.append(resize(*args, **named).shape) or resize(*args, **named)
    )
    assert torch.equal(eval_transform((32, 32))(line), whole) and made[0][-1] < 1000
