"""Every reader of files, on thousands of changed ones: a result or one of leanconv's errors, in bounded time and memory.

A longer run by hand: ``LEANCONV_FUZZ=50 python -m pytest tests/files/test_fuzz.py --timeout 0``. A reader is added as a line
of `READERS`: how many cases, what they are made from, and how contents are read.
"""

from __future__ import annotations

import io
import json
import pickle
from collections.abc import Callable
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml
from hypothesis import HealthCheck, Phase, given, settings
from hypothesis import strategies as st
from PIL import Image
from safetensors.torch import save as to_safetensors
from torch import nn

import leanconv as lc
from leanconv.core.errors import LeanconvError
from leanconv.core.reading import parse_json, parse_yaml, reading
from leanconv.data.encoded import decode_bytes
from leanconv.data.parquet import names_in
from leanconv.data.problems import Problems
from leanconv.data.text import label_names
from leanconv.detect import create_detector, load_detector, save_detector
from leanconv.detect.data.coco import categories_of, parse_coco, photos_of
from leanconv.detect.data.find import Finder
from leanconv.detect.data.voc import read_voc
from leanconv.files.save import CHECKSUM_KEY, METADATA_KEY, MODEL_FILE
from leanconv.train.config import TrainConfig
from leanconv.train.folder import RunFolder, read_checkpoint
from leanconv.train.once import read_json
from tests.files.fuzzing import (
    FACTOR,
    Change,
    bounded_memory,
    call,
    changed_bytes,
    changed_tree,
    of_bytes,
    of_text,
    of_trees,
    safetensors_parts,
    safetensors_whole,
)  # fmt: skip


def own() -> nn.Module:
    return nn.Sequential(nn.Conv2d(4, 4, 3, padding=1), nn.BatchNorm2d(4), nn.Conv2d(4, 4, 3, padding=1), nn.Flatten())


@cache
def saved(kind: str) -> bytes:
    """A valid model file: of a network by name, of one's own, or of a detector."""
    import tempfile

    torch.manual_seed(0)
    with tempfile.TemporaryDirectory() as folder:
        if kind == "detector":
            save_detector(create_detector("retinanet", "timm/test_resnet", 2, pyramid_channels=8), folder)
        else:
            model = lc.create_model("resnet8", width=4) if kind == "named" else own()
            method = lc.SharedBasis(2) if kind == "named" else lc.TiedBlock(2)
            lean = lc.convert(
                model, lc.plan(model, method, stages={"*": 0}, exclude="conv1" if kind == "named" else ())
            )
            lc.set_task(lean, lc.Task((0.5,) * 3, (0.2,) * 3, (32, 32), ("cat", "dog", "frog")))
            lc.save(lean, folder)
        return (Path(folder) / MODEL_FILE).read_bytes()


def described(data: bytes, changes: list[Change]) -> bytes:
    """A model file whose description was changed, without its checksum."""
    header, rest = safetensors_parts(data)
    header["__metadata__"].pop(CHECKSUM_KEY)
    info = changed_tree(json.loads(header["__metadata__"][METADATA_KEY]), changes)
    header["__metadata__"][METADATA_KEY] = json.dumps(info)
    return safetensors_whole(header, rest)


def spelled(data: bytes, changes: list[Change]) -> bytes:
    """A model file the text of whose description was changed."""
    header, rest = safetensors_parts(data)
    header["__metadata__"].pop(CHECKSUM_KEY)
    text = header["__metadata__"][METADATA_KEY].encode()
    header["__metadata__"][METADATA_KEY] = changed_bytes(text, changes).decode("utf-8", "replace")
    return safetensors_whole(header, rest)


def headed(data: bytes, changes: list[Change]) -> bytes:
    """A model file whose header was changed: names, kinds, shapes and places of tensors."""
    header, rest = safetensors_parts(data)
    header["__metadata__"].pop(CHECKSUM_KEY)
    return safetensors_whole(changed_tree(header, changes), rest)


def raw(data: bytes, changes: list[Change]) -> bytes:
    header, rest = safetensors_parts(data)
    header["__metadata__"].pop(CHECKSUM_KEY)
    return changed_bytes(safetensors_whole(header, rest), changes, within=20_000)


def states() -> dict[str, Any]:
    torch.manual_seed(0)
    model = own()
    return {"model": dict(model.state_dict()), "epoch": 3, "args": {"lr": 0.1}, "model_ema": dict(model.state_dict())}


def torch_saved(found: Any) -> bytes:
    file = io.BytesIO()
    try:
        torch.save(found, file)
    except (RuntimeError, pickle.PicklingError, RecursionError, ValueError):
        return b""
    return file.getvalue()


PLAN = lc.plan(own(), lc.TiedBlock(2)).to_json()
TASK = lc.Task((0.5,) * 3, (0.2,) * 3, (32, 32), ("cat", "dog")).to_json()
CONFIG = {"data": "digits", "epochs": 3, "lr": 0.1, "schedule": {"kind": "cosine"}, "method": ["a", "b"], "seed": 0}
PROGRESS = {"progress": {"epoch": 2}, "state_dict": dict(own().state_dict()), "optimizer_states": [{"lr": 0.1}]}


def json_bytes(tree: Any) -> bytes:
    return json.dumps(tree).encode()


def of_json(read: Callable[[Any], object]) -> Callable[[Path], object]:
    """A reader of what JSON holds, as a reader of the file."""

    def read_file(file: Path) -> object:
        with reading(file):
            return read(parse_json(file.read_text(encoding="utf-8")))

    return read_file


@dataclass(frozen=True)
class Reader:
    """How one is fuzzed.

    Args:
        cases: in a run of the tests.
        file: the name of its file, below a folder.
        changes: what is drawn.
        contents: the file's bytes, from what was drawn.
        read: of the file.
        images: names of images that stand beside it.
    """

    cases: int
    file: str
    changes: st.SearchStrategy[list[Change]]
    contents: Callable[[list[Change]], bytes]
    read: Callable[[Path], object]
    images: tuple[str, ...] = ()


def load_own(file: Path) -> object:
    return lc.load(file, model=own())


def load_into_own(file: Path) -> object:
    return lc.load_checkpoint(own(), file)


def check_config(file: Path) -> object:
    return RunFolder(file.parent)._check_same(CONFIG | TrainConfig().added(), TrainConfig())


COCO = {
    "images": [{"id": n, "file_name": f"{n}.jpg", "height": 8, "width": 8} for n in (1, 2)],
    "categories": [{"id": 1, "name": "cat"}, {"id": 7, "name": "dog"}],
    "annotations": [
        {
            "id": n,
            "image_id": n,
            "category_id": 7,
            "bbox": [1, 1, 4, 4],
            "area": 16,
            "segmentation": [[1, 1, 5, 1, 5, 5]],
        }
        for n in (1, 2)
    ],
}
VOC = (
    b"<annotation><filename>a.jpg</filename><size><width>8</width><height>8</height></size><object><name>cat</name>"
    b"<difficult>0</difficult><bndbox><xmin>1</xmin><ymin>1</ymin><xmax>4</xmax><ymax>5</ymax></bndbox></object></annotation>"
)
HUGGINGFACE = {
    "info": {"features": {"image": {"_type": "Image"}, "label": {"names": ["cat", "dog"], "_type": "ClassLabel"}}}
}


def coco(file: Path) -> object:
    found = parse_coco(file.read_bytes(), file.name)
    return photos_of(found, categories_of([found]), Finder([file.parent]), Problems())


def voc(file: Path) -> object:
    return read_voc(file.parent.parent, ["a"], ("cat", "dog"), Problems(), masks=False)


@cache
def picture(kind: str) -> bytes:
    out = io.BytesIO()
    Image.effect_noise((16, 12), 60).convert("RGB").save(out, kind)
    return out.getvalue()


def changed_states(changes: list[Change]) -> bytes:
    header, rest = safetensors_parts(to_safetensors(states()["model"]))
    return safetensors_whole(changed_tree(header, changes), rest)


MODEL = MODEL_FILE
READERS: dict[str, Reader] = {
    "load, its description": Reader(700, MODEL, of_trees, lambda c: described(saved("named"), c), lc.load),
    "load, its text": Reader(200, MODEL, of_text, lambda c: spelled(saved("named"), c), lc.load),
    "load, its header": Reader(300, MODEL, of_trees, lambda c: headed(saved("named"), c), lc.load),
    "load, its bytes": Reader(300, MODEL, of_bytes, lambda c: raw(saved("named"), c), lc.load),
    "load with a network, its description": Reader(700, MODEL, of_trees, lambda c: described(saved("own"), c), load_own),
    "load with a network, its header": Reader(200, MODEL, of_trees, lambda c: headed(saved("own"), c), load_own),
    "from_pretrained": Reader(
        100, MODEL, of_trees, lambda c: described(saved("named"), c), lambda file: lc.from_pretrained(file.parent)
    ),
    "load_detector": Reader(100, MODEL, of_trees, lambda c: described(saved("detector"), c), load_detector),
    "load_checkpoint, its bytes": Reader(
        400, "net.pth", of_bytes, lambda c: changed_bytes(torch_saved(states()), c), load_into_own
    ),
    "load_checkpoint, its values": Reader(
        300, "net.pth", of_trees, lambda c: torch_saved(changed_tree(states(), c)), load_into_own
    ),
    "load_checkpoint of safetensors": Reader(200, "net.safetensors", of_trees, changed_states, load_into_own),
    "Plan.from_json": Reader(
        1500, "plan.json", of_trees, lambda c: json_bytes(changed_tree(PLAN, c)), of_json(lc.Plan.from_json)
    ),
    "Task.from_json": Reader(
        500, "task.json", of_trees, lambda c: json_bytes(changed_tree(TASK, c)), of_json(lc.Task.from_json)
    ),
    "config.yaml, its values": Reader(
        200, "config.yaml", of_trees, lambda c: yaml.safe_dump(changed_tree(CONFIG, c)).encode("utf-8", "replace"), check_config
    ),
    "config.yaml, its text": Reader(
        200, "config.yaml", of_text, lambda c: changed_bytes(yaml.safe_dump(CONFIG).encode(), c), check_config
    ),
    "summary.json": Reader(300, "summary.json", of_text, lambda c: changed_bytes(json_bytes(CONFIG), c), read_json),
    "COCO's annotations": Reader(
        300, "instances.json", of_trees, lambda c: json_bytes(changed_tree(COCO, c)), coco, ("1.jpg", "2.jpg")
    ),
    "COCO's annotations, their text": Reader(
        100, "instances.json", of_text, lambda c: changed_bytes(json_bytes(COCO), c), coco, ("1.jpg", "2.jpg")
    ),
    "VOC's annotations": Reader(200, "Annotations/a.xml", of_bytes, lambda c: changed_bytes(VOC, c), voc, ("JPEGImages/a.jpg",)),
    "classes in a parquet file": Reader(
        300, "metadata.json", of_trees, lambda c: json_bytes(changed_tree(HUGGINGFACE, c)),
        lambda file: names_in(file, {b"huggingface": file.read_bytes()}),
    ),
    "a PNG image": Reader(
        200, "a.png", of_bytes, lambda c: changed_bytes(picture("PNG"), c), lambda f: decode_bytes(f.read_bytes(), f.name)
    ),
    "a JPEG image": Reader(
        200, "a.jpg", of_bytes, lambda c: changed_bytes(picture("JPEG"), c), lambda f: decode_bytes(f.read_bytes(), f.name)
    ),
    "labels.txt": Reader(
        200, "labels.txt", of_bytes, lambda c: changed_bytes(b"cat\r\ndog\n", c), lambda f: label_names(f.read_bytes(), f.name)
    ),
    "last.ckpt": Reader(200, "last.ckpt", of_bytes, lambda c: changed_bytes(torch_saved(PROGRESS), c), read_checkpoint),
}  # fmt: skip
FEWEST = 5_000  # cases of all readers together


def test_the_readers_have_cases_enough():
    assert sum(reader.cases for reader in READERS.values()) >= FEWEST


@pytest.mark.timeout(300 * max(1, FACTOR))
@pytest.mark.parametrize("name", [*READERS])
def test_changed_contents_give_a_result_or_one_of_leanconvs_errors(name: str, tmp_path: Path):
    reader = READERS[name]
    said: list[str | None] = []
    file = tmp_path / reader.file
    for image in reader.images:
        (tmp_path / image).parent.mkdir(exist_ok=True)
        Image.new("RGB", (8, 8)).save(tmp_path / image)
    file.parent.mkdir(exist_ok=True)
    file.write_bytes(reader.contents([]))
    assert call(lambda: reader.read(file)) is None, "what is changed was valid, and everything is imported"

    @settings(
        max_examples=max(1, int(reader.cases * FACTOR)), deadline=None, derandomize=FACTOR == 1, database=None,
        suppress_health_check=list(HealthCheck), report_multiple_bugs=False, phases=[Phase.generate],
    )  # fmt: skip
    @given(reader.changes)
    def one(changes: list[Change]) -> None:
        file.write_bytes(reader.contents(changes))
        said.append(call(lambda: reader.read(file)))

    with bounded_memory():
        one()
    print(f"{name}: {len(said)} cases, {sum(text is None for text in said)} read")
    left = {path.relative_to(tmp_path).as_posix() for path in tmp_path.rglob("*") if path.is_file()}
    assert left == {reader.file, *reader.images}, "a reader leaves nothing behind"
    assert len(said) >= reader.cases * min(1, FACTOR), "hypothesis drew as many as were asked for"
    assert reader.images or sum(text is not None for text in said) > len(said) / 20, "some changes matter"


LAUGHS = "a: &a [x,x,x,x,x,x,x,x,x]\n" + "".join(
    f"{chr(98 + n)}: &{chr(98 + n)} [{','.join(f'*{chr(97 + n)}' for _ in range(9))}]\n" for n in range(9)
)


@pytest.mark.parametrize(
    "text",
    [
        LAUGHS,
        "[" * 5_000 + "]" * 5_000,
        "- " * 3_000,
        "!!python/object/apply:os.system ['false']",
        "a: *b",
        "a: [",
        "\x00",
    ],
)
def test_yaml_that_is_more_than_plain_values_is_refused(text: str, tmp_path: Path):
    with pytest.raises(ValueError, match=r".+"):
        parse_yaml(text)
    assert parse_yaml("a: [1, 2.5, x, null]") == {"a": [1, 2.5, "x", None]}
    (tmp_path / "config.yaml").write_text(text)
    with pytest.raises(LeanconvError):
        RunFolder(tmp_path)._check_same(CONFIG | TrainConfig().added(), TrainConfig())
