"""Pascal VOC and Cityscapes as label tools write them."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from leanconv.core.errors import DataError
from leanconv.detect import open_detection
from leanconv.detect.data.voc import line_name, parse_xml

HEIGHT, WIDTH = 40, 60
XML = """<annotation><filename>{name}</filename><path>C:\\x\\0.jpg</path><size><width>{width}</width>
<height>{height}</height></size><object><name> cat </name>{difficult}<bndbox><xmin>6.0</xmin><ymin>6</ymin>
<xmax>25.0</xmax><ymax>25</ymax></bndbox></object></annotation>"""


def write_voc(root: Path, encoding: str = "utf-8", lines: str = "0\n", **values: str) -> Path:
    for name in ("Annotations", "JPEGImages", "ImageSets/Main"):
        (root / name).mkdir(parents=True)
    Image.fromarray(np.zeros((HEIGHT, WIDTH), np.uint8)).save(root / "JPEGImages" / "0.jpg")
    filled = {"name": "0.jpg", "width": "60", "height": "40", "difficult": "<difficult>0</difficult>"} | values
    (root / "Annotations" / "0.xml").write_bytes(XML.format(**filled).encode(encoding))
    (root / "ImageSets/Main/train.txt").write_bytes(lines.encode(encoding))
    (root / "ImageSets/Main/val.txt").write_bytes(b"")
    return root


VOC: dict[str, dict[str, str]] = {
    "byte order mark": {"encoding": "utf-8-sig"},
    "UTF-16": {"encoding": "utf-16"},
    "Windows' line ends": {"lines": "0\r\n\r\n"},
    "with an ending, and twice": {"lines": "0.jpg\n0\n"},
    "with a flag": {"lines": "0 -1\n"},
    "with a path": {"lines": "JPEGImages/0.jpg\n"},
    "no difficult": {"difficult": ""},
    "another machine's name": {"name": "C:\\photos\\0.jpg"},
    "a name of another file": {"name": "IMG_0001.jpg"},
    "a name outside": {"name": "../../0.jpg"},
    "no name": {"name": ""},
    "no size": {"width": "0", "height": "0"},
    "float size": {"width": "60.0", "height": "40.0"},
}


@pytest.mark.parametrize("kind", VOC)
def test_voc_of_other_tools(tmp_path: Path, kind: str) -> None:
    data = open_detection(write_voc(tmp_path / "d", **VOC[kind]))
    assert not data.problems.counts and len(data.train) == 1 and data.train[0].path.name == "0.jpg"
    (one,) = data.train[0].objects
    assert one.box == (5, 5, 25, 25) and data.classes[one.label - 1] == "cat"


def test_voc_takes_the_photo_of_the_annotations_name(tmp_path: Path) -> None:
    root = write_voc(tmp_path / "d", lines="0\n1\n2\n")
    for name, said, photos in (("1", "0.jpg", ("1.png",)), ("2", "2.png", ("2.jpg", "2.png"))):
        (root / "Annotations" / f"{name}.xml").write_text(XML.format(name=said, width=60, height=40, difficult=""))
        for photo in photos:
            Image.new("L", (WIDTH, HEIGHT)).save(root / "JPEGImages" / photo)
    data = open_detection(root, "refuse")
    assert [photo.path.name for photo in data.train] == ["0.jpg", "1.png", "2.png"]


def test_voc_outside_its_folder_is_not_read(tmp_path: Path) -> None:
    (tmp_path / "secret.xml").write_text(XML.format(name="0.jpg", width=60, height=40, difficult=""))
    data = open_detection(write_voc(tmp_path / "d", lines="0\n../../secret\n"))
    assert len(data.train) == 1 and data.problems.counts == {"xml file that cannot be read": 1}


@pytest.mark.parametrize(
    "data",
    [
        b"", b"<a>", b"<a/><b/>", b"<!DOCTYPE a [<!ENTITY b 'c'>]><a>&b;</a>", b"<?xml version='1.0' encoding='x'?><a/>",
        b"\xff\xfe<", b"<a>\0</a>", b"<?xml version='1.0' encoding='utf-7'?><a/>",
    ],
)  # fmt: skip
def test_what_is_no_xml_of_annotations(data: bytes) -> None:
    with pytest.raises(DataError, match=r"x\.xml: ") as caught:
        parse_xml(data, "x.xml")
    assert "\n" not in str(caught.value)


def test_lines_of_image_sets() -> None:
    there = {"a b", "c", "d.jpg"}.__contains__
    found = [
        line_name(line, there) for line in ("a b", "a b 1", "c.jpg", "d.jpg", "../c", "", "  ", "e 1", "..", "a\0b")
    ]
    assert found == ["a b", "a b", "c", "d.jpg", "c", "", "", "e", "..", "ab"]
    assert line_name("0001 -1", {"0001"}.__contains__) == "0001"


def write_cityscapes(root: Path, pixels: Image.Image) -> Path:
    for folder, name in (("leftImg8bit", "c_0_leftImg8bit.png"), ("gtFine", "c_0_gtFine_instanceIds.png")):
        (root / folder / "train" / "c").mkdir(parents=True)
        picture = Image.new("RGB", (WIDTH, HEIGHT)) if folder == "leftImg8bit" else pixels
        picture.save(root / folder / "train" / "c" / name)
    return root


def test_cityscapes_maps_of_another_kind_or_size_are_named(tmp_path: Path) -> None:
    numbers = np.full((HEIGHT, WIDTH), 26_001, dtype=np.uint16)
    good = write_cityscapes(tmp_path / "good", Image.fromarray(numbers))
    (good / "leftImg8bit/train/c/._c_0_leftImg8bit.png").write_bytes(b"\0\5")
    assert len(open_detection(good).train[0].objects) == 1
    for name, pixels, said in (
        ("colour", Image.new("RGB", (WIDTH, HEIGHT)), "annotation file that cannot be read"),
        ("small", Image.fromarray(numbers[:5, :5]), "annotation file of another size than its image"),
    ):
        with pytest.raises(DataError, match=said):
            open_detection(write_cityscapes(tmp_path / name, pixels))
