"""WebDataset shards: what the library writes is read, in its order, and every kind of damage is named."""

from __future__ import annotations

import gc
import io
import tarfile
import time
import warnings
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch

from leanconv.core.errors import DataError, LeanconvWarning, SettingError
from leanconv.data import FileImages, TensorImages, make_loader, open_data
from leanconv.data import gather as gathering
from leanconv.data.shards import _fetched, expanded
from leanconv.data.tar_index import index_of


@pytest.fixture(autouse=True)
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    return tmp_path / "cache"


def write(path: Path, members: Sequence[tuple[str, bytes]], format: int = tarfile.USTAR_FORMAT) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    with tarfile.open(path, "w", format=format) as tar:
        for name, content in members:
            info = tarfile.TarInfo(name)
            info.size = len(content)
            tar.addfile(info, io.BytesIO(content))
    return path


@pytest.fixture
def shards(tmp_path: Path, build: SimpleNamespace) -> Path:
    """train-00.tar to train-02.tar with five images of two classes, and val-0.tar with two."""
    folder = tmp_path / "pets"
    for number, rows in enumerate(((0, 1), (2, 3), (4,))):
        members = [(f"a/{i:04}{end}", data) for i in rows for end, data in one(build, i)]
        write(folder / f"train-{number:02}.tar", members)
    write(folder / "val-0.tar", [(f"v{i}{end}", data) for i in (0, 1) for end, data in one(build, i)])
    return folder


def one(build: SimpleNamespace, i: int) -> list[tuple[str, bytes]]:
    return [(".cls", str(i % 2).encode()), (".png", build.encode(build.pixels(i))), (".json", b"{}")]


def pixels_of(build: SimpleNamespace, rows: Sequence[int]) -> torch.Tensor:
    return torch.stack([torch.from_numpy(build.pixels(i)).permute(2, 0, 1) for i in rows])


@pytest.mark.parametrize("pattern", ["", "train-{00..02}.tar", "{train-{00..02},val-0}.tar", "*.tar"])
def test_a_folder_or_a_pattern(shards: Path, build: SimpleNamespace, pattern: str) -> None:
    data = open_data(f"{shards}/{pattern}" if pattern else shards)
    assert (data.name, data.classes, data.named, data.image_size) == ("pets", ("0", "1"), False, (8, 8))
    assert isinstance(data.train, TensorImages) and isinstance(data.test, TensorImages)
    assert data.train.labels.tolist() == [0, 1, 0, 1, 0] and data.test.labels.tolist() == [0, 1]
    assert torch.equal(data.train.images, pixels_of(build, range(5)))
    assert data.origin is not None and Path(data.origin["data"]).is_absolute()


def test_the_library_reads_and_writes_the_same(tmp_path: Path, build: SimpleNamespace) -> None:
    """webdataset's writer adds a header of times to each member; its reader gives the images in the order of the index."""
    wds = pytest.importorskip("webdataset")
    for part, count in (("train", 7), ("test", 2)):
        (tmp_path / "w").mkdir(exist_ok=True)
        with wds.ShardWriter(str(tmp_path / "w" / f"{part}-%03d.tar"), maxcount=4, verbose=0) as writer:
            for i in range(count):
                writer.write({"__key__": f"{part}/{i:05}", "png": build.encode(build.pixels(i)), "cls": i % 2})
    data = open_data(str(tmp_path / "w" / "train-{000..001}.tar"))
    with warnings.catch_warnings():  # the library leaves its files open
        warnings.simplefilter("ignore", ResourceWarning)
        pattern = str(tmp_path / "w" / "train-{000..001}.tar")
        theirs = list(wds.WebDataset(pattern, shardshuffle=False).decode("rgb8"))
        gc.collect()
    assert [sample["cls"] for sample in theirs] == data.train.labels.tolist()
    assert isinstance(data.train, TensorImages)
    for sample, image in zip(theirs, data.train.images, strict=True):
        assert np.array_equal(sample["png"], image.permute(1, 2, 0).numpy())


@pytest.mark.parametrize("format", [tarfile.USTAR_FORMAT, tarfile.GNU_FORMAT, tarfile.PAX_FORMAT])
def test_the_index_agrees_with_tarfile(tmp_path: Path, format: int) -> None:
    long = "/".join(["folder" * 8] * (2 if format == tarfile.USTAR_FORMAT else 6))
    names = ["b.png", f"{long}/c.tar.PNG", "d.png" if format == tarfile.USTAR_FORMAT else "chien-é.png"]
    path = write(tmp_path / "x.tar", [(name, name.encode()) for name in names] + [("b.cls", b" 07\n")], format)
    with tarfile.open(path, "a", format=format) as tar:
        tar.addfile(tarfile.TarInfo("link.png"), None)
        link = tarfile.TarInfo("other.png")
        link.type, link.linkname = tarfile.SYMTYPE, "b.png"
        tar.addfile(link)
    index = index_of(path)
    with tarfile.open(path) as tar:
        found = [member for member in tar if member.isreg() and member.name.lower().endswith("png")]
    assert index.offsets.tolist() == [member.offset_data for member in found]
    assert index.sizes.tolist() == [member.size for member in found]
    assert index.headers.tolist() == [member.offset for member in found]
    assert index.codes.tolist() == [0, -1, -1, -1] and index.labels.tolist() == ["7"] and not str(index.damage)


def test_names_of_classes(shards: Path, build: SimpleNamespace, tmp_path: Path) -> None:
    (shards / "classes.txt").write_text("cat\ndog\n")
    assert open_data(shards).names == ("cat", "dog")
    (shards / "classes.txt").write_text("cat\n")
    with pytest.raises(DataError, match=r"classes\.txt: 1 names, and label 1 in the shards; add the missing names"):
        open_data(shards)
    for part in ("train", "test"):
        members = [
            (f"{i}{end}", data) for i in (0, 1) for end, data in ((".cls", b"dog" if i else b"ant"), one(build, i)[1])
        ]
        write(tmp_path / "named" / f"{part}.tar", members)
    data = open_data(tmp_path / "named")
    assert data.names == ("ant", "dog") and data.train.labels.tolist() == [0, 1]


def test_a_test_part_may_be_held_out(shards: Path) -> None:
    with pytest.raises(SettingError, match=r"has val-0\.tar: leave it out"):
        open_data(shards, test_split=0.5)
    (shards / "val-0.tar").unlink()
    with pytest.raises(DataError, match=r"no test part; add test-\*\.tar or val-\*\.tar; --test-split 0\.2"):
        open_data(shards)
    data, moved = open_data(shards, test_split=0.4), open_data(shards.rename(shards.with_name("else")), test_split=0.4)
    assert (len(data.train), len(data.test)) == (3, 2)
    assert data.held_out == moved.held_out and torch.equal(data.test.labels, moved.test.labels)


def test_damage_is_named(shards: Path, build: SimpleNamespace) -> None:
    def attempt(**options: Any) -> str:
        with pytest.raises(DataError) as caught:
            open_data(shards, **options)
        assert "\n" not in str(caught.value)
        return str(caught.value)

    whole = (shards / "train-01.tar").read_bytes()
    second = whole[:BLOCKS_OF_ONE] + b"?" * 512 + whole[BLOCKS_OF_ONE + 512 :]
    for content, said in (
        (whole[: BLOCKS_OF_ONE + 700], "ends within a member|ends without the mark"),
        (whole[:BLOCKS_OF_ONE], "ends without the mark of its end"),
        (second, "a header in it is damaged|invalid header|bad checksum"),
    ):
        (shards / "train-01.tar").write_bytes(content)
        assert "train-01.tar: shard that is damaged (" in attempt()
        assert any(text in attempt() for text in said.split("|"))
        data = open_data(shards, on_bad="skip")
        assert data.train.labels.tolist() == [0, 1, 0, 0], "images before the damage are used"
        assert sum(data.problems.counts.values()) >= 1
    (shards / "train-01.tar").write_bytes(b"no tar")
    assert "train-01.tar: not a readable tar file" in attempt()
    assert len(open_data(shards, on_bad="skip").train) == 3
    write(shards / "train-01.tar", [("x.png", build.encode(build.pixels(2))), ("y.png", b"no"), ("y.cls", b"1")])
    assert "image without a label: " in attempt() and "train-01.tar member x.png" in attempt()
    assert "train-01.tar member y.png: no known image format" in attempt()
    assert len(open_data(shards, on_bad="skip").train) == 3
    (shards / "train-01.tar").unlink()
    with pytest.raises(DataError, match=r"train-01\.tar: No such file"):
        open_data(f"{shards}/train-{{00..02}}.tar")


BLOCKS_OF_ONE = 512 * 6  # three members of less than a block each


def test_labels_that_do_not_go_together(shards: Path, build: SimpleNamespace) -> None:
    write(shards / "val-0.tar", [("v.png", build.encode(build.pixels(0))), ("v.cls", b"2")])
    with pytest.raises(DataError, match=r"val-0\.tar member v\.png: label '2' is no class of the train part"):
        open_data(shards)
    write(shards / "train-02.tar", [("v.png", build.encode(build.pixels(0))), ("v.cls", b"5")])
    with pytest.raises(DataError, match=r"label 5 and 3 classes; number the classes 0, 1, 2"):
        open_data(shards)
    with pytest.raises(SettingError, match="a brace has no partner"):
        open_data(f"{shards}/train-{{00..02.tar")
    with pytest.raises(DataError, match="no such file; give the shards"):
        open_data(f"{shards}/none-*.tar")


def test_of_several_images_of_a_name_the_plain_one_is_read(build: SimpleNamespace, tmp_path: Path) -> None:
    """webdataset's keys are all that follows the first dot: "depth.png" and "png" are two things."""

    def members(ends: Sequence[str], label: int) -> list[tuple[str, bytes]]:
        images = [(f"{label}{end}", build.encode(build.pixels(10 * label + i))) for i, end in enumerate(ends)]
        return [(f"{label}.cls", str(label).encode()), *images]

    second = members([".png", ".depth.png"], 1)
    for part, first in (("train", [".depth.png", ".PNG", ".seg.png"]), ("test", [".left.png", ".right.png"])):
        write(tmp_path / "depth" / f"{part}.tar", members(first, 0) + second)
    with pytest.warns(LeanconvWarning) as said:
        data = open_data(tmp_path / "depth")
    assert torch.equal(data.train.images, pixels_of(build, [1, 10])) and data.train.labels.tolist() == [0, 1]
    assert torch.equal(data.test.images, pixels_of(build, [0, 10]))  # two that are not plain: the first one
    texts = [str(warning.message) for warning in said]
    assert "train.tar: further images in these shards are not read, with the ends '.depth.png', '.seg.png';" in texts[0]
    assert "test.tar" in texts[1] and "'.depth.png', '.right.png'" in texts[1]


def test_the_index_is_kept_until_the_shard_changes(shards: Path, cache: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    first = open_data(shards).train.labels
    kept = sorted((cache / "leanconv" / "shards").glob("*.npz"))
    assert len(kept) == 4
    monkeypatch.setattr("leanconv.data.tar_index.members", None)  # nothing may be read again
    assert torch.equal(open_data(shards).train.labels, first)
    monkeypatch.undo()
    monkeypatch.setenv("XDG_CACHE_HOME", str(cache))
    kept[0].write_bytes(b"broken")
    assert torch.equal(open_data(shards).train.labels, first)
    write(shards / "train-02.tar", [("a.cls", b"1"), ("a.png", b"x")])
    with pytest.raises(DataError, match=r"member a\.png"):
        open_data(shards)


def test_shards_at_an_address_are_fetched_once(shards: Path, cache: Path) -> None:
    import fsspec

    memory = fsspec.filesystem("memory")
    for path in shards.glob("*.tar"):
        memory.pipe(f"/pets/{path.name}", path.read_bytes())
    pattern = "memory://pets/{train-{00..02},val-0}.tar"
    data = open_data(pattern)
    assert data.train.labels.tolist() == [0, 1, 0, 1, 0] and data.name == "pets"
    kept = [path for path in (cache / "leanconv" / "shards" / "fetched").rglob("*") if len(path.name) == 64]
    assert len(kept) == 4
    assert expanded(pattern)[-1] == "memory://pets/val-0.tar"
    memory.rm("/pets", recursive=True)
    with pytest.raises(DataError, match=r"memory://pets/more-0\.tar: cannot be fetched"):
        open_data("memory://pets/more-{0..0}.tar", test_split=0.5)


def test_two_processes_that_fetch_one_address_wait_for_each_other(
    shards: Path, cache: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Threads stand for the processes: the locks are those of files."""
    import fsspec

    memory = fsspec.filesystem("memory")
    memory.pipe("/pets/train-00.tar", (shards / "train-00.tar").read_bytes())
    whole, fetched = (shards / "train-00.tar").read_bytes(), []

    def slowly(self: Any, source: str, target: str, **options: Any) -> None:
        fetched.append(source)
        Path(target).write_bytes(whole[:100])
        time.sleep(0.1)
        Path(target).write_bytes(whole)

    monkeypatch.setattr(type(memory), "get_file", slowly)
    with ThreadPoolExecutor(4) as pool:
        found = list(pool.map(lambda _: Path(_fetched("memory://pets/train-00.tar")).read_bytes(), range(4)))
    assert fetched == ["/pets/train-00.tar"] and found == [whole] * 4
    memory.pipe("/pets/train-01.tar", b"longer" + whole)
    with pytest.raises(DataError, match=r"train-01\.tar: cannot be fetched \(.* of .* bytes arrived"):
        _fetched("memory://pets/train-01.tar")
    memory.rm("/pets", recursive=True)


def test_a_damaged_index_is_read_again(shards: Path, tmp_path: Path) -> None:
    cached = tmp_path / "indices"
    first = index_of(shards / "train-00.tar", cached)
    (kept,) = cached.iterdir()
    whole = kept.read_bytes()
    for damaged in (b"", whole[: len(whole) // 2], b"hello"):
        kept.write_bytes(damaged)
        assert index_of(shards / "train-00.tar", cached).offsets.tolist() == first.offsets.tolist()
        assert kept.read_bytes() == whole
    (tmp_path / "file").touch()  # a cache that cannot be a folder
    assert len(index_of(shards / "train-00.tar", tmp_path / "file")) == 2


def test_an_epoch_continues_within_it_without_reading_its_beginning(
    shards: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(gathering, "MEMORY_LIMIT", 0)
    data = open_data(shards)
    assert isinstance(data.train, FileImages)
    settings: dict[str, Any] = {"mean": data.mean, "std": data.std, "batch_size": 2, "image_size": 8, "train": True}
    whole = make_loader(data.train, augment="crop_flip", **settings)
    whole.set_epoch(3)
    batches = list(whole)
    read: list[int] = []
    own = data.train.encoded.read
    monkeypatch.setattr(data.train.encoded, "read", lambda index: read.append(index) or own(index), raising=False)
    for workers in (0, 2):
        rest = make_loader(data.train, augment="crop_flip", workers=workers, **settings)
        rest.set_epoch(3, first=1)
        for (images, labels), (expected, expected_labels) in zip(rest, batches[1:], strict=True):
            assert torch.equal(images, expected) and torch.equal(labels, expected_labels)
        assert len(list(rest)) == 3, "the next epoch is whole"
    assert len(read) == 3 + 5, "in this process, without workers"
