"""Files that were changed at random: loaded, or one clear error; nothing runs, nothing is written."""

from __future__ import annotations

import json
import random
import struct
import sys
import time
from pathlib import Path
from typing import Any

import pytest

import leanconv as lc
from leanconv.core.errors import FileError
from leanconv.files.save import METADATA_KEY, MODEL_FILE

MUTATIONS = 2400
JUNK: tuple[Any, ...] = (
    None, True, -1, 0, 3, 10**9, 2**80, 1.5, "", "x", "../../etc/passwd", "__import__('os').system('false')", [], {}, [[]],
    {"a": 1}, ["layer1.0.conv1"], "timm/resnet18", "tied_block", "\x00", "ü" * 300,
)  # fmt: skip
FORBIDDEN = {"os.system", "subprocess.Popen", "pickle.find_class", "socket.connect", "os.exec", "os.posix_spawn"}


def parts(data: bytes) -> tuple[dict[str, Any], bytes]:
    """The header of a safetensors file, and what follows it."""
    (length,) = struct.unpack("<Q", data[:8])
    return json.loads(data[8 : 8 + length]), data[8 + length :]


def whole(header: object, rest: bytes) -> bytes:
    text = json.dumps(header).encode()
    return struct.pack("<Q", len(text)) + text + rest


def change_(tree: Any, rng: random.Random) -> None:
    """Replace, remove, or add one node somewhere in a tree of JSON."""
    nodes: list[Any] = []

    def visit(node: Any) -> None:
        if isinstance(node, dict | list) and node:
            nodes.append(node)
            for child in node.values() if isinstance(node, dict) else node:
                visit(child)

    visit(tree)
    node = rng.choice(nodes)
    key = rng.choice(list(node) if isinstance(node, dict) else range(len(node)))
    kind = rng.random()
    if kind < 0.7:
        node[key] = rng.choice(JUNK)
    elif kind < 0.85:
        del node[key]
    elif isinstance(node, dict):
        node[str(rng.choice(JUNK))] = node[key]
    else:
        node.append(node[key])


def mutated(data: bytes, rng: random.Random) -> bytes:
    """The description, the header or the raw bytes, changed in one to three places."""
    header, rest = parts(data)
    kind = rng.random()
    for _ in range(rng.randint(1, 3)):
        if kind < 0.6:
            info = json.loads(header["__metadata__"][METADATA_KEY])
            change_(info, rng)
            header["__metadata__"][METADATA_KEY] = json.dumps(info)
        elif kind < 0.8:
            change_(header, rng)
            if not isinstance(header.get("__metadata__"), dict):
                break
        else:
            at = rng.randrange(min(len(data), 20_000))
            data = data[:at] + (bytes([rng.randrange(256)]) if rng.random() < 0.8 else b"") + data[at + 1 :]
            if rng.random() < 0.1:
                data = data[: rng.randrange(len(data))]
    return data if kind >= 0.8 else whole(header, rest)


@pytest.mark.timeout(300)
def test_changed_files(tmp_path: Path):
    model = lc.create_model("resnet8", width=4)
    folder = tmp_path / "net"
    lc.save(lc.convert(model, lc.plan(model, lc.SharedBasis(2), exclude="conv1")), folder)
    file = folder / MODEL_FILE
    data = file.read_bytes()
    lc.load(folder)  # everything is imported
    seen: list[str] = []
    watching = False

    def watch(event: str, arguments: tuple[Any, ...]) -> None:
        if watching and (event in FORBIDDEN or (event == "open" and _writes(arguments))):
            seen.append(f"{event} {arguments!r}"[:200])

    sys.addaudithook(watch)  # it cannot be taken off; it is idle outside this test
    rng = random.Random(0)
    slowest, loaded = 0.0, 0
    said: list[str] = []
    for _ in range(MUTATIONS):
        file.write_bytes(mutated(data, rng))
        start, watching = time.perf_counter(), True
        try:
            lc.load(folder)
            loaded += 1
        except FileError as error:
            said.append(str(error))
        finally:
            watching = False
        slowest = max(slowest, time.perf_counter() - start)
    assert not seen
    assert not [text for text in said if "\n" in text or len(text) > 2000], "one line each"
    assert len(said) > MUTATIONS / 2 and loaded > 0, "most changes matter; one in a comment or a weight does not"
    assert slowest < 10, "no file keeps the loader busy"
    assert {path.name for path in tmp_path.iterdir()} == {"net"}
    assert {path.name for path in folder.iterdir()} == {MODEL_FILE, "plan.json"}


def _writes(arguments: tuple[Any, ...]) -> bool:
    _, mode, flags = arguments
    return any(letter in mode for letter in "wax+") if isinstance(mode, str) else bool((flags or 0) & 3)
