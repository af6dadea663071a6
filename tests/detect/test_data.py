"""Labelled photos in every format, whole and broken."""

from __future__ import annotations

import json
from pathlib import Path
from xml.etree import ElementTree

import numpy as np
import pytest
from PIL import Image

from leanconv.core.errors import DataError, SettingError
from leanconv.detect import occlusion, open_detection, write_shapes
from leanconv.detect.data.masks import as_coco_mask, encode, run_lengths
from leanconv.detect.feed import read_image, target_of

from .sample import change, write_coco


def test_coco(tmp_path: Path):
    data = open_detection(write_coco(tmp_path / "shapes"))
    assert (data.name, data.classes, data.category_ids, data.num_classes) == ("shapes", ("box", "disc"), (3, 7), 3)
    assert len(data.train) == 4 and len(data.val) == 2 and data.has_masks and not data.problems.counts
    photo = data.train[2]
    assert [instance.label for instance in photo.objects] == [1, 2, 1]
    for instance in photo.objects:
        x1, y1, x2, y2 = instance.box
        mask = instance.mask(photo.height, photo.width)
        rows, columns = np.flatnonzero(mask.any(1)), np.flatnonzero(mask.any(0))
        assert np.allclose((x1, y1, x2, y2), (columns[0], rows[0], columns[-1] + 1, rows[-1] + 1), atol=2)
        assert mask.sum() == pytest.approx(instance.area, rel=0.1)
    assert read_image(photo).shape == (3, 48, 64)
    target = target_of(photo, masks=True)
    assert target["boxes"].shape == (3, 4) and target["masks"].shape == (3, 48, 64)


@pytest.mark.parametrize(
    ("file", "images"),
    [
        ("annotations/instances_train2017.json", "train2017"),
        ("annotations/train.json", "images"),
        ("train/_annotations.coco.json", "train"),
    ],
)
def test_layouts_of_coco(tmp_path: Path, file: str, images: str):
    made = write_coco(tmp_path / "made")
    root = tmp_path / "other"
    (root / file).parent.mkdir(parents=True)
    (root / images).mkdir(exist_ok=True)
    (root / file).write_text((made / "annotations/instances_train.json").read_text())
    for path in (made / "train").iterdir():
        path.rename(root / images / path.name)
    data = open_detection(root)
    assert len(data.train) == 4 and data.val == ()
    with pytest.raises(DataError, match="its val part has no photo"):
        data.part("val")


def test_run_length_codes_of_every_kind():
    mask = np.zeros((6, 8), dtype=bool)
    mask[1:4, 2:7] = True
    compressed = encode(mask)
    flat, counts, value, run = mask.T.flatten(), [], False, 0
    for pixel in flat:
        if pixel != value:
            counts.append(run)
            value, run = pixel, 0
        run += 1
    plain = {"size": [6, 8], "counts": [*counts, run]}
    as_text = {"size": [6, 8], "counts": compressed["counts"].decode()}
    polygon = [[2, 1, 7, 1, 7, 4, 2, 4]]
    every = [run_lengths(as_coco_mask(s, 6, 8), 6, 8)["counts"] for s in (plain, as_text, polygon, compressed)]
    assert every == [compressed["counts"]] * 4
    for broken in ([[1, 2, 3]], [], {"size": [5, 8], "counts": "x"}, {"counts": [3]}, 7, [["a"] * 6]):
        with pytest.raises(DataError):
            as_coco_mask(broken, 6, 8)
    far = [[float("nan"), 1, 2, 3, 4, 5]], [[1e9, 1, 2, 3, 4, 5]]
    for broken in (*far, {"size": [6, 8], "counts": "garbage"}, {"size": [6, 8], "counts": ""}):
        with pytest.raises(DataError):
            as_coco_mask(broken, 6, 8)
    with pytest.raises(DataError, match="do not add up"):
        as_coco_mask({"size": [6, 8], "counts": [3]}, 6, 8)


BOX = {
    "image_id": 0,
    "category_id": 3,
    "bbox": [5, 5, 9, 9],
    "area": 81,
    "segmentation": [[5, 5, 14, 5, 14, 14, 5, 14]],
}
WRONG = {
    "unknown category": ({"category_id": 99}, 0),
    "unknown image": ({"image_id": 555}, 0),
    "box without an area in its image": ({"bbox": [200, 200, 5, 5]}, 0),
    "box that reaches beyond its image": ({"bbox": [60, 40, 50, 50]}, 1),
    "box that is not of finite numbers": ({"bbox": [float("nan"), 1, 2, 3]}, 0),
    "annotation without readable numbers": ({"bbox": "no"}, 0),
    "mask that is no polygon": ({"segmentation": [[1, 2]]}, 0),
}


@pytest.mark.parametrize("kind", WRONG)
def test_what_is_wrong_is_named_and_counted_or_refused(tmp_path: Path, kind: str):
    changes, kept = WRONG[kind]
    root = write_coco(tmp_path / "d")
    before = len(open_detection(root).train[0].instances)
    change(root, "train", annotations=[BOX | {"id": 900} | changes, BOX | {"id": 901} | changes])
    data = open_detection(root)
    (name, count), *others = data.problems.counts.items()
    assert kind in name and count == 2 and not others
    assert "annotation 900" in data.problems.lines()[0] and data.problems.to_json()[name]["count"] == 2
    assert len(data.train[0].instances) == before + 2 * kept
    if kept:
        assert data.train[0].instances[-1].box == (60, 40, 64, 48)
    with pytest.raises(DataError, match="--on-bad skip"):
        open_detection(root, "refuse")


def test_a_few_objects_without_a_mask_are_left_out(tmp_path: Path):
    root = write_coco(tmp_path / "d", train=8)
    before = sum(len(photo.objects) for photo in open_detection(root).train)
    change(root, "train", annotations=[BOX | {"id": 900, "segmentation": []}])
    data = open_detection(root)
    assert data.has_masks and sum(len(photo.objects) for photo in data.train) == before
    assert data.problems.counts == {"object without a mask, among others that have one": 1}
    without = {name: value for name, value in BOX.items() if name != "area"}
    change(root, "train", annotations=[without | {"id": 901, "segmentation": [[5, 5, 14, 5, 14, 14]]}])
    triangle = open_detection(root, parts=("train",))
    assert triangle.val == () and triangle.train[0].objects[-1].area == pytest.approx(40.5, abs=10)


def test_files_and_sizes_that_are_missing(tmp_path: Path):
    root = write_coco(tmp_path / "d")
    (root / "train" / "001.png").unlink()
    change(root, "train", images=[{"id": 50, "file_name": "x.png"}, {"id": 51, "height": 1, "width": 1}])
    data = open_detection(root)
    assert len(data.train) == 3
    assert data.problems.counts["image file that is not there"] == 1 and sum(data.problems.counts.values()) == 3


def test_crowds_are_kept_apart(tmp_path: Path):
    root = write_coco(tmp_path / "d")
    change(root, "train", annotations=[BOX | {"id": 900, "iscrowd": 1}])
    change(root, "train", annotations=[BOX | {"id": 901, "image_id": 1, "ignore": 1}])
    assert not open_detection(root).train[1].instances[-1].crowd, "COCO's ignore has no effect"
    photo = open_detection(root).train[0]
    assert [instance.crowd for instance in photo.instances] == [False, True] and len(photo.objects) == 1
    assert len(target_of(photo, masks=False)["boxes"]) == 1 and occlusion(photo) == 0


def test_not_a_data_set(tmp_path: Path):
    with pytest.raises(DataError, match="no such folder"):
        open_detection(tmp_path / "nothing")
    with pytest.raises(DataError, match="has none of the known layouts"):
        open_detection(tmp_path)
    root = write_coco(tmp_path / "d")
    with pytest.raises(SettingError, match="on_bad='maybe' must be skip or refuse"):
        open_detection(root, "maybe")
    file = root / "annotations/instances_train.json"
    whole = file.read_text()
    for text, words in ((whole[:-40], "not complete JSON"), ("{}", "not COCO's json"), ("[1]", "not COCO's json")):
        file.write_text(text)
        with pytest.raises(DataError, match=words):
            open_detection(root)
    file.write_text(whole.replace('"disc"', '"ring"'))
    with pytest.raises(DataError, match="train and val have different categories"):
        open_detection(root)
    file.write_text(whole.replace('"disc"', '"box"'))
    (root / "annotations/instances_val.json").unlink()
    with pytest.raises(DataError, match="classes holds 'box' twice"):
        open_detection(root)


def voc(root: Path, masks: bool) -> Path:
    for folder in ("Annotations", "JPEGImages", "ImageSets/Main", "ImageSets/Segmentation", "SegmentationObject"):
        if masks or "Segmentation" not in folder:
            (root / folder).mkdir(parents=True)
    for part, name in (("train", "a"), ("val", "b")):
        for kind in ("Main", "Segmentation") if masks else ("Main",):
            (root / "ImageSets" / kind / f"{part}.txt").write_text(f"{name}\n")
        Image.new("RGB", (30, 20)).save(root / "JPEGImages" / f"{name}.jpg")
        tree = ElementTree.fromstring("<annotation><size><width>30</width><height>20</height></size></annotation>")
        for label, corners, difficult in (("dog", (1, 1, 10, 10), 0), ("cat", (11, 5, 30, 20), 1)):
            node = ElementTree.SubElement(tree, "object")
            ElementTree.SubElement(node, "name").text = label
            ElementTree.SubElement(node, "difficult").text = str(difficult)
            box = ElementTree.SubElement(node, "bndbox")
            for side, value in zip(("xmin", "ymin", "xmax", "ymax"), corners, strict=True):
                ElementTree.SubElement(box, side).text = str(value)
        (root / "Annotations" / f"{name}.xml").write_bytes(ElementTree.tostring(tree))
        if masks:
            drawn = np.zeros((20, 30), dtype=np.uint8)
            drawn[0:10, 0:10], drawn[4:20, 10:30], drawn[9, :] = 1, 2, 255
            Image.fromarray(drawn).save(root / "SegmentationObject" / f"{name}.png")
    return root


@pytest.mark.parametrize("masks", [False, True])
def test_voc(tmp_path: Path, masks: bool):
    data = open_detection(voc(tmp_path / "voc", masks))
    assert len(data.classes) == 20 and data.has_masks == masks and not data.problems.counts
    dog, cat = data.train[0].instances
    assert dog.box == (0, 0, 10, 10) and data.classes[dog.label - 1] == "dog" and not dog.crowd
    assert cat.box == (10, 4, 30, 20) and cat.crowd
    assert dog.area == (90 if masks else 100)
    if masks:
        assert dog.mask(20, 30).sum() == 90


def test_voc_that_is_broken(tmp_path: Path):
    root = voc(tmp_path / "voc", masks=True)
    (root / "Annotations" / "a.xml").write_text("<annotation>")
    (root / "SegmentationObject" / "b.png").write_bytes(b"no image")
    data = open_detection(root)
    assert data.train == () and data.val[0].instances == ()
    kinds = {
        "xml file that cannot be read": 1,
        "mask file that cannot be read": 1,
        "object without a pixel in its mask": 2,
    }
    assert dict(data.problems.counts) == kinds
    (root / "ImageSets" / "Segmentation" / "val.txt").unlink()
    with pytest.raises(DataError, match="fetch it again"):
        open_detection(root)


def test_cityscapes(tmp_path: Path):
    for part in ("train", "val"):
        for folder in ("leftImg8bit", "gtFine"):
            (tmp_path / folder / part / "bonn").mkdir(parents=True)
        pixels = np.zeros((20, 40), dtype=np.uint16)
        pixels[2:6, 3:9], pixels[10:15, 20:30], pixels[0, :], pixels[16:, :5] = 26000, 24003, 7, 26
        Image.fromarray(pixels).save(tmp_path / "gtFine" / part / "bonn" / "bonn_1_gtFine_instanceIds.png")
        Image.new("RGB", (40, 20)).save(tmp_path / "leftImg8bit" / part / "bonn" / "bonn_1_leftImg8bit.png")
    Image.new("RGB", (40, 20)).save(tmp_path / "leftImg8bit" / "val" / "bonn" / "bonn_2_leftImg8bit.png")
    data = open_detection(tmp_path)
    assert len(data.classes) == 8 and data.has_masks and len(data.val) == 1
    assert data.problems.counts == {"annotation file that cannot be read": 1}
    found = {(data.classes[i.label - 1], i.box, i.area, i.crowd) for i in data.train[0].instances}
    assert found == {
        ("car", (3, 2, 9, 6), 24, False), ("person", (20, 10, 30, 15), 50, False), ("car", (0, 16, 5, 20), 20, True)
    }  # fmt: skip


def test_images_that_are_not_as_they_should_be(tmp_path: Path):
    """Grey, CMYK, 16 bits and palette are read; truncated, empty and of another size is refused in one line."""
    root = write_coco(tmp_path / "d")
    photo = open_detection(root).train[0]
    grey = (np.arange(48 * 64) % 256).astype(np.uint8).reshape(48, 64)
    for made in (
        Image.fromarray(grey),
        Image.fromarray(grey.astype(np.uint16) * 257),
        Image.fromarray(grey).convert("P"),
        Image.fromarray(grey).convert("LA"),
    ):
        made.save(photo.path)
        assert read_image(photo).shape == (3, 48, 64)
    jpeg = photo.path.with_suffix(".jpg")
    Image.fromarray(grey).convert("CMYK").save(jpeg)
    other = type(photo)(0, jpeg, 48, 64)
    assert read_image(other).shape == (3, 48, 64)
    jpeg.write_bytes(jpeg.read_bytes()[:300])
    for content, words in (
        (jpeg.read_bytes(), "(?i)truncated"),
        (b"", "the file is empty"),
        (b"text", "no known image"),
    ):
        jpeg.write_bytes(content)
        with pytest.raises(DataError, match=words) as error:
            read_image(other)
        assert len(str(error.value).splitlines()) == 1
    Image.new("RGB", (64, 40)).save(photo.path)
    with pytest.raises(DataError, match="64x40 pixels where the annotations say 64x48"):
        read_image(photo)


def test_cityscapes_masks_are_the_pixels(tmp_path: Path):
    draw = np.random.default_rng(0)
    pixels = draw.choice([0, 7, 26, 24001, 26002, 33003], (30, 17)).astype(np.uint16)
    pixels[:, 5:7] = 26002  # a run that goes on in the next column
    for folder, name in (("leftImg8bit", "leftImg8bit"), ("gtFine", "gtFine_instanceIds")):
        (tmp_path / folder / "val" / "bonn").mkdir(parents=True)
        shown = pixels if folder == "gtFine" else np.zeros((30, 17, 3), dtype=np.uint8)
        Image.fromarray(shown).save(tmp_path / folder / "val" / "bonn" / f"bonn_1_{name}.png")
    data = open_detection(tmp_path)
    assert not data.masks_overlap and len(data.val[0].instances) == 4
    numbers = {("car", True): 26, ("person", False): 24001, ("car", False): 26002, ("bicycle", False): 33003}
    for instance in data.val[0].instances:
        mask = pixels == numbers[data.classes[instance.label - 1], instance.crowd]
        assert np.array_equal(instance.mask(30, 17), mask) and instance.area == mask.sum()
        rows, columns = np.flatnonzero(mask.any(1)), np.flatnonzero(mask.any(0))
        assert instance.box == (columns[0], rows[0], columns[-1] + 1, rows[-1] + 1)


def test_json_without_masks(tmp_path: Path):
    data = open_detection(write_coco(tmp_path / "d", masks=False))
    assert not data.has_masks and json.dumps(data.problems.to_json()) == "{}"
    assert data.train[0].objects[0].mask(48, 64).sum() == pytest.approx(data.train[0].objects[0].area)


def test_shapes_to_try_things_on(tmp_path: Path):
    """The same seed draws the same photos; labels fit what is drawn; photos overlap from not at all to mostly."""
    data = open_detection(write_shapes(tmp_path / "a", 40, 5))
    again = open_detection(write_shapes(tmp_path / "b", 40, 5))
    assert data.classes == ("disc", "square", "triangle") and data.has_masks and not data.problems.counts
    assert [p.instances for p in data.train] == [p.instances for p in again.train]
    assert data.train[0].path.read_bytes() == again.train[0].path.read_bytes()
    ratios = [occlusion(photo) for photo in data.train]
    assert min(ratios) == 0 and max(ratios) > 0.5
    for photo in data.train:
        last = photo.objects[-1]  # nothing lies above it
        shown = read_image(photo)[:, last.mask(photo.height, photo.width)]
        one_colour = (shown == shown.median(1, keepdim=True).values).all(0)
        assert one_colour.float().mean() > 0.6, "one colour, and a dark outline"
        assert all(
            mask.sum() == pytest.approx(i.area, rel=0.25) for mask, i in zip(photo.masks(), photo.objects, strict=True)
        )
    with pytest.raises(SettingError, match="is not an empty folder"):
        write_shapes(tmp_path / "a")
    with pytest.raises(SettingError, match="train=0 must be"):
        write_shapes(tmp_path / "c", 0)
