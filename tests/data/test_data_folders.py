"""Folders of images as people and their systems leave them, and files that are no photos at all."""

from __future__ import annotations

import os
import shutil
import socket
import subprocess
import sys
import unicodedata
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

from leanconv.core.errors import DataError, LeanconvWarning, SettingError
from leanconv.data import FileImages, TensorImages, open_data
from leanconv.data import encoded as encoding
from leanconv.data.encoded import Files, decode, decode_bytes, size_of

CLASSES = ("cat", "dog")


def litter(folder: Path, build: SimpleNamespace) -> None:
    """What macOS, Windows, Jupyter, a NAS, git and editors put into every folder."""
    for part in (folder, folder / "train", folder / "test"):
        for name in (".ipynb_checkpoints", "__MACOSX", "@eaDir", ".git", "$RECYCLE.BIN", "lost+found", ".hidden"):
            build.write_images(part / name, 1, first=300)
            build.write_images(part / name / "cat", 1, first=301)
        for name in (".DS_Store", "Thumbs.db", "desktop.ini", "notes.txt"):
            (part / name).write_bytes(b"\0\1")
    for place in (folder / "train" / "cat", folder / "test" / "dog"):
        for name in (
            "._000.png",
            ".DS_Store",
            "Thumbs.db",
            "desktop.ini",
            "000.png~",
            "~$000.png",
            ".000.jpg",
            "a.txt",
        ):
            (place / name).write_bytes(b"\0\5\x16\7")
        build.write_images(place / ".ipynb_checkpoints", 1, first=302)
        build.write_images(place / "__MACOSX", 1, first=303)


@pytest.mark.parametrize("part", ["train", "test"])
def test_an_image_beside_the_class_folders_is_named(tmp_path: Path, build: SimpleNamespace, part: str) -> None:
    folder = build.class_set(tmp_path / "d")
    before = open_data(folder)
    shutil.copy(folder / "train" / "cat" / "000.png", folder / part / "sorted_later.png")
    with pytest.warns(
        LeanconvWarning, match=rf"{part}: left out what lies beside the class folders \('sorted_later.png'\)"
    ):
        after = open_data(folder)
    assert len(after.train) == len(before.train) and len(after.test) == len(before.test)


def test_what_systems_leave_is_no_image_and_no_class(tmp_path: Path, build: SimpleNamespace) -> None:
    folder = build.class_set(tmp_path / "d")
    before = open_data(folder)
    litter(folder, build)
    after = open_data(folder)
    assert after.classes == CLASSES and not after.problems.counts
    assert isinstance(before.train, TensorImages) and isinstance(after.train, TensorImages)
    assert torch.equal(before.train.images, after.train.images) and len(after.test) == 4


@pytest.mark.parametrize(
    ("train", "test"),
    [("train", "valid"), ("training", "testing"), ("Train", "Test"), ("TRAIN", "VAL"), ("train", "Validation")],
)
def test_parts_by_their_usual_names(tmp_path: Path, build: SimpleNamespace, train: str, test: str) -> None:
    folder = build.class_set(tmp_path / "d", test=test)
    if train != "train":
        (folder / "train").rename(folder / train)
    data = open_data(folder)
    assert (len(data.train), len(data.test), data.classes) == (6, 4, CLASSES)


def test_images_by_any_ending_and_in_folders_below(tmp_path: Path, build: SimpleNamespace) -> None:
    folder = build.class_set(tmp_path / "d")
    for name in ("a.JPG", "b.Jpeg", "c.jfif", "d.webp", "below/e.BMP", "below/f.gif", "below/deeper/g.TIFF"):
        path = folder / "train" / "cat" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(build.encode(build.pixels(1)))
    assert open_data(folder).train.labels.tolist() == [0] * 10 + [1] * 3


def test_images_of_a_kind_that_is_not_read_are_said(tmp_path: Path, build: SimpleNamespace) -> None:
    folder = build.class_set(tmp_path / "d")
    (folder / "train" / "cat" / "a.HEIC").write_bytes(b"x")
    with pytest.raises(DataError, match=r"a\.HEIC: image of a kind that is not read; fix it, or .* --on-bad skip"):
        open_data(folder)
    assert open_data(folder, on_bad="skip").problems.counts == {"image of a kind that is not read": 1}


def test_links_are_followed_and_loops_are_not(tmp_path: Path, build: SimpleNamespace) -> None:
    folder = build.class_set(tmp_path / "d")
    elsewhere = build.write_images(tmp_path / "elsewhere", 2, first=60)
    (folder / "train" / "dog" / "more").symlink_to(elsewhere)
    (folder / "train" / "cat" / "loop").symlink_to(folder / "train" / "cat")
    (elsewhere / "back").symlink_to(folder / "train" / "dog")
    for place in (
        folder / "train",
        folder,
        tmp_path,
    ):  # each leads back to this class, with the other classes beside it
        (folder / "train" / "cat" / f"up{len(place.parts)}").symlink_to(place)
    assert open_data(folder).train.labels.tolist() == [0] * 3 + [1] * 5


def test_an_accent_is_one_name_however_it_is_encoded(tmp_path: Path, build: SimpleNamespace) -> None:
    composed, apart = (unicodedata.normalize(form, "café") for form in ("NFC", "NFD"))
    for part, name in (("train", composed), ("test", apart)):
        build.write_images(tmp_path / "d" / part / name, 2)
        build.write_images(tmp_path / "d" / part / "tea", 2)
    data = open_data(tmp_path / "d")
    assert data.classes == (composed, "tea") and data.test.labels.tolist() == [0, 0, 1, 1]
    build.write_images(tmp_path / "d" / "train" / apart, 1)
    with pytest.raises(DataError, match="two folders are called 'café'"):
        open_data(tmp_path / "d")


def test_a_test_class_in_another_case_is_named_with_the_one_that_is_meant(tmp_path: Path, build: Any) -> None:
    folder = build.class_set(tmp_path / "d")
    (folder / "test" / "dog").rename(folder / "test" / "Dog")
    with pytest.raises(DataError, match=r"test.Dog: no such class in train \(is it 'dog'\?\)"):
        open_data(folder)


@pytest.mark.parametrize("unlabelled", ["1.png", "unknown/1.png", "images/1.png", None])
def test_a_test_part_without_labels_leaves_the_val_part_to_test_on(
    tmp_path: Path, build: SimpleNamespace, unlabelled: str | None
) -> None:
    folder = build.class_set(tmp_path / "d", test="val")
    path = folder / "test" / (unlabelled or "")
    path.mkdir(parents=True) if unlabelled is None else build.write_images(path.parent, 1, first=90)
    assert len(open_data(folder).test) == 4


def test_a_test_part_without_labels_alone_is_refused_with_the_ways_out(tmp_path: Path, build: SimpleNamespace) -> None:
    folder = build.class_set(tmp_path / "d")
    shutil.rmtree(folder / "test")
    build.write_images(folder / "test", 2)
    with pytest.raises(DataError, match=r"test: its images have no labels; .* --test-split 0\.2"):
        open_data(folder)


def spoil(folder: Path) -> list[Path]:
    """Three bad files among six and four: no bytes, half a file, and text."""
    bad = [folder / "train/cat/000.png", folder / "train/dog/011.png", folder / "test/cat/001.png"]
    bad[0].write_bytes(b"")
    bad[1].write_bytes(bad[1].read_bytes()[:90])
    bad[2].write_text("no image")
    return bad


@pytest.mark.parametrize("sizes", ["one size", "sizes vary", "too many for memory"])
def test_bad_images_are_all_named_at_once_or_all_left_out(
    tmp_path: Path, build: SimpleNamespace, sizes: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = build.class_set(tmp_path / "d")
    if sizes == "sizes vary":
        for part in ("train", "test"):
            build.write_images(folder / part / "dog", 1, first=20, height=9)
            (folder / part / "dog" / "012.png").unlink(missing_ok=True)
    elif sizes == "too many for memory":
        monkeypatch.setattr(sys.modules["leanconv.data.gather"], "MEMORY_LIMIT", 10)
    bad = spoil(folder)
    with pytest.raises(DataError, match=r"3 x image that cannot be read: .*; fix it, or .* --on-bad skip") as caught:
        open_data(folder)
    assert all(str(path) in str(caught.value) for path in bad) and "\n" not in str(caught.value)
    data = open_data(folder, on_bad="skip")
    assert isinstance(data.train, TensorImages if sizes == "one size" else FileImages)
    assert data.problems.counts == {"image that cannot be read": 3}
    assert data.train.labels.tolist() == [0, 0, 1, 1] and len(data.test) == (3 if sizes != "sizes vary" else 4)
    assert all(data.train[row][0].shape[0] == 3 for row in range(4))
    assert torch.equal(data.train[0][0], decode(Files([str(folder / "train/cat/001.png")]), 0))


def test_bad_rows_of_parquet_are_left_out_or_named(tmp_path: Path, build: SimpleNamespace) -> None:
    folder = build.parquet_set(tmp_path)
    good = build.encode(build.pixels(3))
    build.write_parquet(folder / "test-00000-of-00001.parquet", [0, 1, 1], [b"x", good, None], ["cat", "dog"])
    with pytest.raises(DataError, match=r"2 x image that cannot be read: .*row 0.*row 2"):
        open_data(folder)
    assert open_data(folder, on_bad="skip").test.labels.tolist() == [1]


def test_a_long_list_of_bad_images_is_cut(tmp_path: Path, build: SimpleNamespace) -> None:
    folder = build.class_set(tmp_path / "d")
    for number in range(100, 140):
        (folder / "train" / "cat" / f"{number}.png").write_bytes(b"x")
    with pytest.raises(DataError, match=r"40 x image that cannot be read: ") as caught:
        open_data(folder)
    assert str(caught.value).count(".png") == 10 and ", ...; fix" in str(caught.value)


def test_nothing_but_bad_images_is_refused_either_way(tmp_path: Path, build: SimpleNamespace) -> None:
    folder = build.class_set(tmp_path / "d")
    for path in folder.glob("test/*/*"):
        path.write_bytes(b"x")
    for on_bad in ("skip", "refuse"):
        with pytest.raises(DataError, match=r"4 x image that cannot be read"):
            open_data(folder, on_bad=on_bad)
    with pytest.raises(SettingError, match="on_bad='drop' must be skip or refuse"):
        open_data(folder, on_bad="drop")  # type: ignore[arg-type]


def many(folder: Path, build: SimpleNamespace) -> Path:
    for number, name in enumerate(CLASSES):
        build.write_images(folder / name, 10, first=20 * number)
    return folder


@pytest.mark.parametrize("flat", [True, False])
def test_a_folder_without_a_test_part_is_divided_by_class_and_always_alike(
    tmp_path: Path, build: SimpleNamespace, flat: bool
) -> None:
    root = tmp_path / "d"
    many(root if flat else root / "train", build)
    with pytest.raises(DataError, match=r"--test-split 0\.2 \(test_split=0\.2\)"):
        open_data(root)
    data, again = open_data(root, test_split=0.2), open_data(root, test_split=0.2)
    assert data.test.labels.tolist() == [0, 0, 1, 1] and data.train.labels.tolist() == [0] * 8 + [1] * 8
    assert isinstance(data.test, TensorImages) and isinstance(again.test, TensorImages)
    assert torch.equal(data.test.images, again.test.images) and data.held_out == again.held_out
    both = torch.cat([data.test.images, data.train.images]).flatten(1)  # type: ignore[union-attr]
    assert len(both.unique(dim=0)) == 20
    moved = shutil.move(root, tmp_path / "moved")
    assert open_data(moved, test_split=0.2).held_out == data.held_out
    build.write_images(Path(moved) / "cat" if flat else Path(moved) / "train" / "cat", 1, first=70)
    assert open_data(moved, test_split=0.2).held_out != data.held_out
    with pytest.raises(SettingError, match=r"test_split=1\.5 must lie between 0 and 1"):
        open_data(moved, test_split=1.5)


def test_dividing_does_not_depend_on_bad_images(tmp_path: Path, build: SimpleNamespace) -> None:
    root = many(tmp_path / "d", build)
    whole = open_data(root, test_split=0.2)
    held = whole.test.images  # type: ignore[attr-defined]
    (root / "cat" / "003.png").write_bytes(b"x")
    left = open_data(root, test_split=0.2, on_bad="skip")
    assert left.held_out == whole.held_out and len(left.train) + len(left.test) == 19
    kept = left.test.images  # type: ignore[attr-defined]
    assert all(any(torch.equal(one, other) for other in held) for one in kept)


def test_parquet_without_a_test_part_is_divided(tmp_path: Path, build: SimpleNamespace) -> None:
    build.write_parquet(tmp_path / "train.parquet", [0, 1] * 10, names=CLASSES)
    with pytest.raises(DataError, match=r"no test part.*--test-split"):
        open_data(tmp_path)
    data = open_data(tmp_path, test_split=0.2)
    assert sorted(data.test.labels.tolist()) == [0, 0, 1, 1] and len(data.train) == 16
    seen = {tuple(data.train[row][0].flatten().tolist()) for row in range(16)}
    seen |= {tuple(data.test[row][0].flatten().tolist()) for row in range(4)}
    assert len(seen) == 20


def test_data_with_a_test_part_is_not_divided(tmp_path: Path, build: SimpleNamespace) -> None:
    sets = (build.class_set(tmp_path / "a"), build.parquet_set(tmp_path / "b"), build.tiny_set(tmp_path / "c"))
    for name in (*sets, "digits"):
        with pytest.raises(SettingError, match=r"test_split=0\.2 is for data without a test part"):
            open_data(name, test_split=0.2)


def test_a_folder_around_the_data_set_names_the_one_inside(tmp_path: Path, build: SimpleNamespace) -> None:
    build.class_set(tmp_path / "d" / "inner")
    with pytest.raises(DataError, match=r"but inner/ has one of them; give .*inner"):
        open_data(tmp_path / "d")
    shutil.move(tmp_path / "d" / "inner" / "test", tmp_path / "d" / "test")
    with pytest.raises(DataError, match=r"test/ and no train/|neither train"):
        open_data(tmp_path / "d", test_split=0.2)


EPS = b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 8 8\n%%EndComments\nshowpage\n%%EOF\n"


def test_a_format_that_starts_another_program_is_no_image(monkeypatch: pytest.MonkeyPatch) -> None:
    def started(*args: Any, **kwargs: Any) -> None:
        raise AssertionError("a program was started")

    monkeypatch.setattr(subprocess, "Popen", started)
    with pytest.raises(DataError, match=r"x\.jpg: no known image format"):
        decode_bytes(EPS, "x.jpg")


@pytest.mark.parametrize("kind", ["pipe", "device", "socket", "folder", "link to a device"])
def test_only_regular_files_are_read(tmp_path: Path, kind: str) -> None:
    path = tmp_path / "x.png"
    if kind == "pipe":
        os.mkfifo(path)
    elif kind == "socket":
        with socket.socket(socket.AF_UNIX) as listening:
            listening.bind(str(path))
    elif kind == "folder":
        path.mkdir()
    elif kind == "link to a device":
        path.symlink_to("/dev/zero")
    else:
        path = Path("/dev/zero")
    for look in (lambda: decode(Files([str(path)]), 0), lambda: size_of(path)):
        with pytest.raises(DataError, match=r"not a regular file|No such device"):
            look()


def test_an_image_of_too_many_pixels_is_refused_before_it_is_decoded(
    tmp_path: Path, build: SimpleNamespace, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = build.write_images(tmp_path, 1) / "000.png"
    monkeypatch.setattr(Image.Image, "load", None)  # decoding would call it
    with pytest.raises(DataError, match=r"000\.png: 8x8 pixels are more than 63; raise --max-pixels"):
        decode(Files([str(path)], 63), 0, 63)
    assert size_of(path, 64) == ((8, 8), (8, 8))


def test_the_limit_of_pixels_can_be_raised_beyond_pils(monkeypatch: pytest.MonkeyPatch, build: SimpleNamespace) -> None:
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 3)  # it warns of 4 and refuses 7
    assert decode_bytes(build.encode(build.pixels(0)), "x").shape == (3, 8, 8)
    assert encoding.MAX_PIXELS == 178_956_970


def test_max_pixels_holds_for_every_source(tmp_path: Path, build: SimpleNamespace) -> None:
    for folder in (build.class_set(tmp_path / "a"), build.parquet_set(tmp_path / "b"), build.tiny_set(tmp_path / "c")):
        assert open_data(folder, max_pixels=64).image_size == (8, 8)
        with pytest.raises(DataError, match="8x8 pixels are more than 63"):
            open_data(folder, max_pixels=63)
    with pytest.raises(SettingError, match="max_pixels=0 must be a whole number"):
        open_data("digits", max_pixels=0)


def test_a_broken_orientation_spoils_no_picture(build: SimpleNamespace) -> None:
    exif = Image.Exif()
    exif[0x0112] = 6
    whole = build.encode(build.pixels(0, 4, 8), "JPEG", exif=exif, quality=95)
    assert decode_bytes(whole, "x").shape == (3, 8, 4)
    assert decode_bytes(whole, "x", upright=False).shape == (3, 4, 8)
    broken = whole.replace(b"Exif\0\0", b"Exif\0\0\xff\xff\xff", 1)
    assert decode_bytes(broken, "x").shape[0] == 3


def test_of_several_frames_the_first_counts() -> None:
    import io

    frames = [Image.fromarray(np.full((4, 4), level, dtype=np.uint8)) for level in (10, 200)]
    for kind in ("GIF", "TIFF", "WEBP", "PNG"):
        buffer = io.BytesIO()
        frames[0].save(buffer, kind, save_all=True, append_images=frames[1:])
        assert abs(int(decode_bytes(buffer.getvalue(), kind)[0, 0, 0]) - 10) < 4


@pytest.mark.parametrize("kind", ["JPEG", "PNG", "WEBP", "TIFF"])
@pytest.mark.parametrize("turn", [1, 3, 6, 8])
def test_the_header_says_the_size_that_decoding_gives(
    tmp_path: Path, build: SimpleNamespace, kind: str, turn: int
) -> None:
    exif = Image.Exif()
    exif[0x0112] = turn
    path = tmp_path / "x"
    path.write_bytes(build.encode(build.pixels(0, 6, 9), kind, exif=exif))
    stored, upright = size_of(path)
    assert upright == tuple(decode(Files([str(path)]), 0).shape[1:]) == ((9, 6) if turn > 4 else (6, 9))
    assert stored == tuple(decode(Files([str(path)]), 0, upright=False).shape[1:])


def test_image_files_are_opened_in_one_place() -> None:
    package = Path(encoding.__file__).parents[1]
    found = {
        path.name
        for path in package.rglob("*.py")
        for word in ("Image.open", "read_image(path", "decode_image", "torchvision.io", "imread")
        if word in path.read_text(encoding="utf-8")
    }
    assert found <= {"encoded.py"}
