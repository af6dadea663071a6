"""Read Pascal VOC: one XML file for each image."""

from __future__ import annotations

import re
from collections.abc import Callable
from pathlib import Path
from xml.etree import ElementTree

import numpy as np

from leanconv.core.errors import DataError
from leanconv.data.encoded import MAX_PIXELS, SUFFIXES, decode_values, is_image_name
from leanconv.data.problems import Problems
from leanconv.data.text import read_bytes, read_lines
from leanconv.detect.data.find import Finder, find_images
from leanconv.detect.data.masks import encode
from leanconv.detect.data.records import Instance, Photo, checked
from leanconv.detect.data.records import number as number_of

CLASSES = (
    "aeroplane", "bicycle", "bird", "boat", "bottle", "bus", "car", "cat", "chair", "cow", "diningtable", "dog", "horse",
    "motorbike", "person", "pottedplant", "sheep", "sofa", "train", "tvmonitor",
)  # fmt: skip
WAY_OUT = "fetch or write it again"
VOID = 255  # value of the object borders in SegmentationObject


def names_of(root: Path, part: str, masks: bool) -> list[str]:
    """The images that ImageSets lists for a part, each once, as file names in Annotations without the suffix.

    Args:
        root: the folder with ImageSets.
        part: "train" or "val".
        masks: read ImageSets/Segmentation instead of ImageSets/Main.
    """
    file = root / "ImageSets" / ("Segmentation" if masks else "Main") / f"{part}.txt"
    names = [line_name(line, lambda name: _xml(root, name).is_file()) for line in read_lines(file, "fetch it again")]
    return list(dict.fromkeys(name for name in names if name))


def line_name(line: str, is_there: Callable[[str], bool]) -> str:
    """The image that a line of ImageSets names; "" if the line is empty.

    The name may contain spaces, may have a suffix, and may be followed by a number that says whether the image shows a class.

    >>> line_name("my photo.jpg 1", lambda name: name == "my photo")
    'my photo'

    Args:
        line: of a file in ImageSets.
        is_there: whether an annotation of this name exists.
    """
    line = line.strip()
    first = line.split()[0] if line else ""
    for name in (line, line.removesuffix(first if first == line else line.split()[-1]).strip() if line else "", first):
        base = name.replace("\\", "/").rsplit("/", 1)[-1]
        for written in (base, base[: base.rfind(".")] if is_image_name(base) else base):
            if written not in ("", ".", "..") and "\0" not in written and is_there(written):
                return written
    base = first.replace("\\", "/").rsplit("/", 1)[-1]
    return base.replace("\0", "")


def classes_of(root: Path, names: list[str]) -> tuple[str, ...]:
    """VOC's twenty classes if all objects belong to them; else the names of the objects' classes, sorted."""
    found: set[str] = set()
    for name in names:
        try:
            found |= {_name(node) for node in parse_xml(read_bytes(_xml(root, name), WAY_OUT), name).iterfind("object")}
        except DataError:
            continue  # reading the file later adds a note
    found.discard("")
    return CLASSES if found <= set(CLASSES) else tuple(sorted(found))


def parse_xml(data: bytes, name: str) -> ElementTree.Element:
    """The root element of an annotation. XML that defines entities is refused, because entities can expand without limit.

    Raises:
        DataError: the bytes are not such XML.
    """
    try:
        if b"<!" in data and re.search(rb"<!\s*(DOCTYPE|ENTITY)", data):
            raise DataError(f"{name}: it defines a document type, which annotations do not need; remove it")
        return ElementTree.fromstring(data)
    except (ElementTree.ParseError, ValueError, LookupError, RecursionError) as error:
        raise DataError(f"{name}: not readable XML ({' '.join(str(error).split())[:60]}); {WAY_OUT}") from None


def read_voc(
    root: Path, names: list[str], classes: tuple[str, ...], problems: Problems, masks: bool,
    max_pixels: int = MAX_PIXELS,
) -> tuple[Photo, ...]:  # fmt: skip
    """The photos with these names. A "difficult" object counts as a crowd: it is not used for training or counted as missed.

    VOC counts pixels from 1, and both corners belong to the object: its left edge is x1 - 1, and its right edge is x2.

    Args:
        root: the folder with Annotations and JPEGImages.
        names: see `names_of`.
        classes: see `classes_of`.
        problems: collects what is wrong.
        masks: read the masks in SegmentationObject.
        max_pixels: an image with more pixels is left out.
    """
    finder = Finder([root / "JPEGImages"])
    trees: list[tuple[int, str, ElementTree.Element]] = []
    wanted = []
    for number, name in enumerate(names, start=1):
        file = _xml(root, name)
        try:
            tree = parse_xml(read_bytes(file, WAY_OUT), file.name)
        except DataError as error:
            problems.add("xml file that cannot be read", str(error).rsplit("; ", 1)[0])
            continue
        image = _image_of(finder, name, (tree.findtext("filename") or "").strip())
        trees.append((number, name, tree))
        wanted.append((image, tree.findtext("size/height"), tree.findtext("size/width"), file.name))
    photos = []
    wanted = [(image, _side(width), _side(height), where) for image, width, height, where in wanted]
    for (number, name, tree), found in zip(trees, find_images(wanted, finder, problems, max_pixels), strict=True):
        if found is not None:
            drawn = _drawn(root, name, found.size, problems) if masks else None
            instances = objects_of(tree, classes, found.size, _xml(root, name).name, problems, drawn)
            photos.append(Photo(number, found.path, *found.size, instances))
    return tuple(photos)


def objects_of(
    tree: ElementTree.Element, classes: tuple[str, ...], size: tuple[int, int], name: str, problems: Problems,
    drawn: np.ndarray | None = None,
) -> tuple[Instance, ...]:  # fmt: skip
    """The objects of an annotation.

    Args:
        tree: the root element.
        classes: of the data set.
        size: height and width of the image.
        name: what a note calls the annotation.
        problems: collects what is wrong.
        drawn: the object of each pixel (H, W): 1 for the first object of the file, and so on; None without masks.
    """
    labels = {name: label for label, name in enumerate(classes, start=1)}
    instances: list[Instance] = []
    for place, node in enumerate(tree.iterfind("object"), start=1):
        where = f"{name}, object {place}"
        label = labels.get(_name(node))
        if label is None:
            problems.add("annotation of an unknown category", where)
            continue
        corners = [number_of(node.findtext(f"bndbox/{side}")) for side in ("xmin", "ymin", "xmax", "ymax")]
        if any(corner is None for corner in corners):
            problems.add("box that is not of numbers", where)
            continue
        x1, y1, x2, y2 = (corner for corner in corners if corner is not None)
        mask = None if drawn is None else drawn == place
        if mask is not None and not mask.any():
            problems.add("object without a pixel in its mask", where)
            continue
        instances += checked(
            (x1 - 1, y1 - 1, x2, y2), label, *size, problems, where,
            area=None if mask is None else float(mask.sum()), segmentation=None if mask is None else encode(mask),
            crowd=(node.findtext("difficult") or "").strip().lower() in ("1", "true", "yes"),
        )  # fmt: skip
    return tuple(instances)


def _xml(root: Path, name: str) -> Path:
    return root / "Annotations" / f"{name}.xml"


def _name(node: ElementTree.Element) -> str:
    return (node.findtext("name") or "").strip()


def _image_of(finder: Finder, name: str, said: str) -> str:
    """The image with the name of its annotation; the one that the annotation says only where there is no such image.

    What it says may be the path of another machine, or the name of another photo, if the annotation was copied.

    Args:
        finder: finds the images.
        name: of the annotation.
        said: its <filename>; "" if it has none.
    """
    own = [f"{name}{suffix}" for suffix in SUFFIXES]
    names = [said, *own] if Path(said).stem == name else own
    return next((image for image in names if image and finder(image)[1]), said or f"{name}.jpg")


def _side(text: str | None) -> str | None:
    """The text of a height or width; None if a tool left it out or wrote 0."""
    stripped = (text or "").strip()
    return None if number_of(stripped or None) == 0 else stripped or None


def _drawn(root: Path, name: str, size: tuple[int, int], problems: Problems) -> np.ndarray:
    """The object of each pixel (H, W): 1 for the first object of the XML file, and so on; 0 for none."""
    file = root / "SegmentationObject" / f"{name}.png"
    try:
        pixels = decode_values(read_bytes(file, "restore or drop it"), file.name, size[0] * size[1])
    except DataError as error:
        problems.add("mask file that cannot be read", str(error).rsplit("; ", 1)[0])
        return np.zeros(size, dtype=np.uint8)
    if pixels.shape != size:
        problems.add("mask file of another size than its image", file.name)
        return np.zeros(size, dtype=np.uint8)
    return np.where(pixels == VOID, 0, pixels)
