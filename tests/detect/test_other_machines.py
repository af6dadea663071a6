"""Detection data as other machines and tools write it, and as nobody means it: used, or named in one line."""

from __future__ import annotations

import json
import math
import os
import unicodedata
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from leanconv.core.errors import DataError
from leanconv.detect import DetectionData, open_detection
from leanconv.detect.data.coco import parse_coco
from leanconv.detect.data.masks import _runs, as_coco_mask, encode, run_lengths
from leanconv.detect.feed import read_image, target_of

HEIGHT, WIDTH = 40, 60
Content = dict[str, Any]


def content() -> Content:
    """Three photos with an object each."""
    return {
        "images": [{"id": i + 1, "file_name": f"{i}.png", "width": WIDTH, "height": HEIGHT} for i in range(3)],
        "annotations": [
            {
                "id": i + 1, "image_id": i + 1, "category_id": 1, "bbox": [5, 5, 20, 20], "area": 400, "iscrowd": 0,
                "segmentation": [[5, 5, 25, 5, 25, 25, 5, 25]],
            }
            for i in range(3)
        ],
        "categories": [{"id": 1, "name": "cat"}, {"id": 2, "name": "dog"}],
    }  # fmt: skip


def write(root: Path, change: Callable[[Content], Any] = lambda c: None, raw: Callable[[bytes], bytes] = bytes) -> Path:
    """A train part alone, in Roboflow's layout; each photo has its own grey level."""
    (root / "train").mkdir(parents=True, exist_ok=True)
    for i in range(3):
        Image.fromarray(np.full((HEIGHT, WIDTH), 50 * i, dtype=np.uint8)).save(root / "train" / f"{i}.png")
    made = content()
    change(made)
    (root / "train" / "_annotations.coco.json").write_bytes(raw(json.dumps(made).encode()))
    return root


def images(**values: Any) -> Callable[[Content], None]:
    """Every image with these values; None takes the key away."""

    def change(made: Content) -> None:
        for place, image in enumerate(made["images"]):
            for key, value in values.items():
                image.pop(key, None)
                if value is not None:
                    image[key] = value(place) if callable(value) else value

    return change


def first(**values: Any) -> Callable[[Content], None]:
    return lambda made: made["annotations"][0].update(values)


def levels(data: DetectionData) -> list[int]:
    """Which photo each one is."""
    return [round(float(read_image(photo)[0, 0, 0]) * 255 / 50) for photo in data.train]


NAMES: dict[str, Callable[[int], str]] = {
    "Windows": lambda i: f"images\\train\\{i}.png",
    "a drive": lambda i: f"D:\\data\\{i}.png",
    "a share": lambda i: f"\\\\server\\share\\{i}.png",
    "an absolute path": lambda i: f"/elsewhere/train/{i}.png",
    "upwards": lambda i: f"../../images/{i}.png",
    "a URL": lambda i: f"https://host/bucket/{i}.png",
    "the folder too": lambda i: f"train/{i}.png",
    "dots": lambda i: f"./{i}.png",
    "another case": lambda i: f"{i}.PNG",
    "spaces": lambda i: f" {i}.png ",
}


@pytest.mark.parametrize("kind", NAMES)
def test_names_of_other_machines_are_found_inside_the_data_set(tmp_path: Path, kind: str) -> None:
    data = open_detection(write(tmp_path / "d", images(file_name=NAMES[kind])))
    assert levels(data) == [0, 1, 2] and not data.problems.counts


def test_encoded_names_and_accents_are_found(tmp_path: Path) -> None:
    root = write(tmp_path / "d", images(file_name=lambda i: f"caf%C3%A9%20{i}.png"))
    for i in range(3):
        os.rename(root / "train" / f"{i}.png", root / "train" / unicodedata.normalize("NFD", f"café {i}.png"))
    assert levels(open_detection(root)) == [0, 1, 2]


@pytest.mark.parametrize(
    "outside", ["/etc/hostname", "../secret.png", "..\\secret.png", "train/../../secret.png", "%2e%2e/secret.png"]
)
def test_nothing_outside_the_data_set_is_read(tmp_path: Path, outside: str) -> None:
    Image.fromarray(np.zeros((HEIGHT, WIDTH), np.uint8)).save(tmp_path / "secret.png")
    data = open_detection(write(tmp_path / "d", lambda made: made["images"][0].update(file_name=outside)))
    assert levels(data) == [1, 2] and data.problems.counts == {"image file that is not there": 1}


def test_one_file_is_not_two_photos_of_other_folders(tmp_path: Path) -> None:
    root = write(tmp_path / "d", images(file_name=lambda i: f"/cam{i}/0.png"))
    with pytest.raises(DataError, match="3 x image file that several images mean by its name alone"):
        open_detection(root)


def test_one_file_is_not_two_photos(tmp_path: Path) -> None:
    """A file listed under two ids, each with a part of its objects."""
    root = write(tmp_path / "d", lambda made: made["images"][1].update(file_name="0.png"))
    data = open_detection(root)
    assert levels(data) == [2] and data.problems.counts == {"image file that several images name": 2}
    with pytest.raises(DataError, match=r"2 x image file that several images name: .*image 1: 0\.png, .*image 2: 0"):
        open_detection(root, "refuse")
    # the image that has the file's whole name keeps it
    data = open_detection(write(root, lambda made: made["images"][1].update(file_name="C:\\cam\\0.png")))
    assert levels(data) == [0, 2] and [photo.id for photo in data.train] == [1, 3]


@pytest.mark.parametrize("mark", [b"\xef\xbb\xbf", "utf-16", "utf-32"])
def test_json_with_a_byte_order_mark(tmp_path: Path, mark: Any) -> None:
    raw = (lambda b: mark + b) if isinstance(mark, bytes) else (lambda b: b.decode().encode(mark))
    assert len(open_detection(write(tmp_path / "d", raw=raw)).train) == 3


SIZES: dict[str, tuple[dict[str, Any], int, str | None]] = {
    "none": ({"width": None, "height": None}, 3, None),
    "zero": ({"width": 0, "height": 0}, 3, None),
    "texts": ({"width": "60", "height": "40"}, 3, None),
    "whole floats": ({"width": 60.0, "height": 40.0}, 3, None),
    "exchanged": ({"width": 40, "height": 60}, 0, "image of another size than its annotations say"),
    "too large": ({"width": 10**9, "height": 10**9}, 0, "image of another size than its annotations say"),
    "half pixels": ({"width": 60.5, "height": 40}, 0, "image without a readable height and width"),
    "infinite": ({"width": math.inf, "height": 40}, 0, "image without a readable height and width"),
    "not a number": ({"width": math.nan, "height": 40}, 0, "image without a readable height and width"),
    "negative": ({"width": -60, "height": 40}, 0, "image without a readable height and width"),
    "true": ({"width": True, "height": True}, 0, "image without a readable height and width"),
    "huge": ({"width": 10**400, "height": 40}, 0, "image without a readable height and width"),
    "a list": ({"width": [60], "height": 40}, 0, "image without a readable height and width"),
}


@pytest.mark.parametrize("kind", SIZES)
def test_sizes_are_the_images_own_or_named(tmp_path: Path, kind: str) -> None:
    values, left, problem = SIZES[kind]
    root = write(tmp_path / "d", images(**values))
    if problem is None:
        data = open_detection(root)
        assert [(photo.height, photo.width) for photo in data.train] == [(HEIGHT, WIDTH)] * left
        assert sum(len(photo.objects) for photo in data.train) == 3 and not data.problems.counts
    else:
        with pytest.raises(DataError, match=f"3 x {problem}"):
            open_detection(root)


@pytest.mark.parametrize("said", ["stored", "upright", "none"])
def test_boxes_of_a_turned_photo_lie_as_its_size_says(tmp_path: Path, said: str) -> None:
    size = {"stored": (HEIGHT, WIDTH), "upright": (WIDTH, HEIGHT), "none": (None, None)}[said]
    root = write(tmp_path / "d", images(height=size[0], width=size[1]))
    exif = Image.Exif()
    exif[0x0112] = 6
    for i in range(3):
        pixels = np.zeros((HEIGHT, WIDTH), np.uint8)
        pixels[0, 0] = 255
        Image.fromarray(pixels).save(root / "train" / f"{i}.png", exif=exif)
    photo = open_detection(root).train[0]
    image = read_image(photo)
    assert image.shape[1:] == ((HEIGHT, WIDTH) if said == "stored" else (WIDTH, HEIGHT)) == (photo.height, photo.width)
    assert image[0, 0, 0 if said == "stored" else -1] == 1  # turned by a quarter to the right


IDS: dict[str, Callable[[Content], Any]] = {
    "texts of numbers": lambda c: [a.update(image_id=str(a["image_id"]), category_id="1") for a in c["annotations"]],
    "floats": lambda c: [a.update(image_id=float(a["image_id"]), category_id=1.0) for a in c["annotations"]],
    "names": lambda c: (
        [i.update(id=f"a{i['id']}") for i in c["images"]],
        [a.update(image_id=f"a{a['image_id']}") for a in c["annotations"]],
    ),
    "from zero, with gaps": lambda c: (
        [i.update(id=10 * (i["id"] - 1)) for i in c["images"]],
        [a.update(image_id=10 * (a["image_id"] - 1)) for a in c["annotations"]],
    ),
    "the same image twice": lambda c: c["images"].append(dict(c["images"][0])),
    "no area, no crowd": lambda c: [(a.pop("area"), a.pop("iscrowd"), a.pop("id")) for a in c["annotations"]],
    "nulls": lambda c: [a.update(area=None, iscrowd=None) for a in c["annotations"]],
    "boxes as texts": lambda c: [a.update(bbox=["5", "5", "20", "20"], iscrowd="0") for a in c["annotations"]],
    "a polygon without its list": lambda c: [a.update(segmentation=a["segmentation"][0]) for a in c["annotations"]],
}


@pytest.mark.parametrize("kind", IDS)
def test_other_ways_to_write_the_same(tmp_path: Path, kind: str) -> None:
    data = open_detection(write(tmp_path / "d", IDS[kind]))
    assert levels(data) == [0, 1, 2] and [photo.instances[0].box for photo in data.train] == [(5, 5, 25, 25)] * 3
    assert all(len(photo.objects) == 1 and photo.objects[0].area == pytest.approx(400, rel=0.1) for photo in data.train)
    assert data.has_masks and not data.problems.counts and len({photo.id for photo in data.train}) == 3


WRONG: dict[str, tuple[Callable[[Content], Any], str]] = {
    "box of four letters": (first(bbox="1234"), "without readable numbers in its bbox"),
    "box of truths": (first(bbox=[True] * 4), "without readable numbers in its bbox"),
    "box of three": (first(bbox=[1, 2, 3]), "without readable numbers in its bbox"),
    "box of nothing": (first(bbox=None), "without readable numbers in its bbox"),
    "box of infinity": (first(bbox=[0, 0, math.inf, 5]), "box that is not of finite numbers"),
    "box of a huge number": (first(bbox=[0, 0, 10**400, 5]), "without readable numbers in its bbox"),
    "box of negative sides": (first(bbox=[20, 20, -5, -5]), "box without an area in its image"),
    "box of no side": (first(bbox=[20, 20, 0, 5]), "box without an area in its image"),
    "category of a half": (first(category_id=1.5), "annotation without a readable category_id"),
    "category of infinity": (first(category_id=math.inf), "annotation without a readable category_id"),
    "image of nothing": (first(image_id=None), "annotation without a readable image_id"),
    "image of a list": (first(image_id=[1]), "annotation without a readable image_id"),
    "image that is not there": (first(image_id=77), "annotation of an unknown image"),
    "crowd of two": (first(iscrowd=2), "annotation without a readable iscrowd"),
    "no object": (lambda c: c["annotations"].__setitem__(0, None), "annotation that is no object"),
    "mask of another size": (first(segmentation={"size": [99, 99], "counts": [9801]}), "mask that is no polygon"),
    "mask of a huge size": (first(segmentation={"size": [10**6] * 2, "counts": [10**12]}), "mask that is no polygon"),
    "mask of infinity": (first(segmentation={"size": [math.inf, 60], "counts": "a"}), "mask that is no polygon"),
    "mask of negative runs": (first(segmentation={"size": [40, 60], "counts": [-9, 2409]}), "mask that is no polygon"),
    "mask of odd numbers": (first(segmentation=[[1, 1, 9, 9, 1, 9, 5]]), "mask that is no polygon"),
    "mask of letters": (first(segmentation=[["1"] * 6]), "mask that is no polygon"),
    "mask far away": (first(segmentation=[[1, 1, 9, 9, 1, 1e6]]), "mask that is no polygon"),
    "mask of endless lines": (first(segmentation=[[-399, -399, 599, 599] * 50_000]), "mask that is no polygon"),
    "mask of text": (first(segmentation="1 1 9 9"), "mask that is no polygon"),
    "area of infinity": (first(area=math.inf), "area that is none of its image"),
    "area of a huge number": (first(area=10**400), "area that is none of its image"),
    "area beyond the image": (first(area=2401 + 60), "area that is none of its image"),
    "negative area": (first(area=-4), "area that is none of its image"),
    "two images of one id": (lambda c: c["images"][0].update(id=2), "image whose id another one has too"),
    "image without a name": (lambda c: c["images"][0].update(file_name=None), "image without a readable file_name"),
    "image without an id": (lambda c: c["images"][0].update(id=None), "image without a readable id"),
    "image that is none": (lambda c: c["images"].append(7), "image without a readable id"),
    "name of zero bytes": (lambda c: c["images"][0].update(file_name="a\0b"), "image file that is not there"),
    "endless name": (lambda c: c["images"][0].update(file_name="x" * 5000), "image file that is not there"),
}


@pytest.mark.parametrize("kind", WRONG)
def test_what_is_wrong_is_left_out_and_counted_or_refused_in_one_line(tmp_path: Path, kind: str) -> None:
    change, problem = WRONG[kind]
    root = write(tmp_path / "d", change)
    data = open_detection(root)
    assert any(problem in name for name in data.problems.counts)
    json.dumps(data.problems.to_json(), allow_nan=False)
    assert len(levels(data)) >= 1
    for photo in data.train:
        assert target_of(photo, masks=data.has_masks)["boxes"].shape[1] == 4
        assert all(0 < instance.area <= HEIGHT * WIDTH for instance in photo.instances)
    with pytest.raises(DataError, match="--on-bad skip") as caught:
        open_detection(root, "refuse")
    assert problem in str(caught.value) and "\n" not in str(caught.value) and len(str(caught.value)) < 2000


def test_all_that_is_wrong_is_named_at_once(tmp_path: Path) -> None:
    def change(made: Content) -> None:
        made["annotations"][0]["bbox"], made["annotations"][1]["category_id"] = None, 9
        made["images"][2]["file_name"] = "none.png"

    with pytest.raises(DataError) as caught:
        open_detection(write(tmp_path / "d", change), "refuse")
    for said in ("annotation 1", "annotation 2", "none.png", "bbox", "unknown category", "not there"):
        assert said in str(caught.value)


FILES: list[tuple[Callable[[Content], Any], str]] = [
    (lambda c: c.update(annotations=None), "without a list of annotations but None"),
    (lambda c: c.pop("annotations"), "without a readable annotations"),
    (lambda c: c.update(images={"a": 1}), "without a list of images"),
    (lambda c: c["categories"][0].pop("name"), "needs a whole number as id and a name"),
    (lambda c: c["categories"][0].update(id="x"), "needs a whole number as id and a name"),
    (lambda c: c["categories"][0].update(id=math.inf), "needs a whole number as id and a name"),
    (lambda c: c["categories"].append(5), "needs a whole number as id and a name"),
    (lambda c: c["categories"][0].update(id=2), "have the id 2; give each its own"),
    (lambda c: c["categories"][0].update(name="dog"), "classes holds 'dog' twice"),
    (lambda c: c.update(categories=[]), "no category; name at least one"),
]  # fmt: skip


@pytest.mark.parametrize(("change", "message"), FILES)
def test_what_is_not_cocos_json(tmp_path: Path, change: Callable[[Content], Any], message: str) -> None:
    with pytest.raises(DataError, match=message):
        open_detection(write(tmp_path / "d", change))


@pytest.mark.parametrize("data", [b"[]", b"7", b"null", b'"x"', b"[" * 99_999, b"\xff\xfe\xff", b"{}"])
def test_bytes_that_are_not_cocos_json(data: bytes) -> None:
    with pytest.raises(DataError, match=r"x\.json: "):
        parse_coco(data, "x.json")


def test_a_group_of_categories_is_no_class(tmp_path: Path) -> None:
    named = [{"id": 1, "name": "cat", "supercategory": "g"}, {"id": 2, "name": "dog", "supercategory": "g"}]
    group = {"id": 0, "name": "g", "supercategory": "none"}
    assert open_detection(write(tmp_path / "a", lambda c: c.update(categories=[group, *named]))).classes == (
        "cat",
        "dog",
    )

    def used(made: Content) -> None:
        made["categories"] = [group, *named]
        made["annotations"][0]["category_id"] = 0

    data = open_detection(write(tmp_path / "b", used))
    assert data.classes == ("g", "cat", "dog") and data.train[0].instances[0].label == 1
    own = [{"id": 1, "name": "cat", "supercategory": "cat"}, {"id": 2, "name": "dog", "supercategory": None}]
    assert open_detection(write(tmp_path / "c", lambda c: c.update(categories=own))).classes == ("cat", "dog")


def test_a_group_that_one_part_uses_is_a_class_of_both(tmp_path: Path) -> None:
    root = write(tmp_path / "d")
    categories = [{"id": 0, "name": "g", "supercategory": "none"}, {"id": 1, "name": "cat", "supercategory": "g"}]
    for part, used in (("train", 1), ("valid", 0)):
        made = content() | {"categories": categories}
        made["annotations"][0]["category_id"] = used
        (root / part).mkdir(exist_ok=True)
        (root / part / "_annotations.coco.json").write_text(json.dumps(made))
    assert open_detection(root).classes == ("g", "cat")


def test_the_limit_of_pixels_leaves_large_photos_out(tmp_path: Path) -> None:
    root = write(tmp_path / "d")
    assert len(open_detection(root, max_pixels=HEIGHT * WIDTH).train) == 3
    with pytest.raises(DataError, match="60x40 pixels are more than 2,399"):
        open_detection(root, max_pixels=HEIGHT * WIDTH - 1)


def test_a_pipe_in_place_of_a_photo_is_not_waited_for(tmp_path: Path) -> None:
    root = write(tmp_path / "d")
    (root / "train" / "0.png").unlink()
    os.mkfifo(root / "train" / "0.png")
    assert levels(open_detection(root)) == [1, 2]
    (root / "train" / "_annotations.coco.json").unlink()
    os.mkfifo(root / "train" / "_annotations.coco.json")
    with pytest.raises(DataError, match="a pipe and not a regular file"):
        open_detection(root)


@pytest.mark.parametrize("seed", range(8))
def test_run_length_codes_are_read_as_pycocotools_writes_them(seed: int) -> None:
    draw = np.random.default_rng(seed)
    mask = draw.random((draw.integers(1, 200), draw.integers(1, 200))) < draw.choice([0.001, 0.1, 0.5, 0.9])
    code = encode(mask)
    runs = _runs(code["counts"])
    flat = np.repeat(np.arange(len(runs)) % 2, runs)
    assert (flat == mask.T.flatten()).all()
    again = as_coco_mask({"size": list(mask.shape), "counts": code["counts"].decode()}, *mask.shape)
    assert again["counts"] == code["counts"]


@pytest.mark.parametrize("counts", ["oooooooooooo", "P", "\u20ac", "~", " ", "0" * 5000, b"\xff", "`0", [0] * 3])
def test_codes_that_would_crash_pycocotools(counts: Any) -> None:
    with pytest.raises(DataError):
        run_lengths(as_coco_mask({"size": [4, 5], "counts": counts}, 4, 5), 4, 5)
