"""What the fuzz of the readers is made of: changes to valid contents, and bounds on what a reader may take and do."""

from __future__ import annotations

import copy
import json
import os
import resource
import struct
import sys
import time
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from hypothesis import strategies as st

from leanconv.core.errors import LeanconvError

SECONDS, BYTES = 10.0, 700 * 2**20  # of one reader's call, with room for a busy machine; of memory beyond the start
FORBIDDEN = {"os.system", "subprocess.Popen", "pickle.find_class", "socket.connect", "os.exec", "os.posix_spawn"}
JUNK: tuple[Any, ...] = (
    None, True, False, -1, 0, 1, 3, 7, 10**6, 10**9, 2**80, -(2**63), 1.5, 1e308, -0.0, float("inf"), float("nan"), "", "x",
    "a\nb",
    "../../etc/passwd", "__import__('os').system('false')", "\x00", "ü" * 300, "A" * 20_000, [], {}, [[]], {"a": 1}, [0] * 3_000,
    ["layer1.0.conv1"], "timm/resnet18", "tied_block", "layer1.0.conv1", [10**9, 10**9], [1e400], {"name": "x", "kwargs": {}},
    json.loads("[" * 90 + "]" * 90), "9" * 5_000, "NaN", 10**30,
)  # fmt: skip
RAW = ("[" * 60_000, '{"a":' * 30_000, "1" * 10_000, "1e999", "NaN", "-Infinity", '"\\ud800"', "}", ",", "\x00")


@dataclass(frozen=True)
class Change:
    """One change: where (a share of what there is), what kind, and what with."""

    where: float
    kind: str
    junk: Any


def _changes(kinds: tuple[str, ...], junk: st.SearchStrategy[Any]) -> st.SearchStrategy[list[Change]]:
    one = st.builds(Change, st.floats(0, 1, exclude_max=True), st.sampled_from(kinds), junk)
    return st.lists(one, min_size=1, max_size=3)


values = st.one_of(
    st.sampled_from(JUNK),
    st.integers(),
    st.floats(),
    st.text(max_size=8),
    st.recursive(
        st.none() | st.integers(-3, 300) | st.text(max_size=4), lambda inner: st.lists(inner, max_size=4), max_leaves=8
    ),
)
of_trees = _changes(("replace", "replace", "replace", "drop", "double", "swap"), values)
of_bytes = _changes(("flip", "put", "drop", "cut", "double"), st.binary(min_size=1, max_size=6))
of_text = _changes(("put", "drop", "cut", "double"), st.sampled_from(RAW) | st.text(max_size=6))


def changed_tree(tree: Any, changes: list[Change]) -> Any:
    """A copy of a tree of dicts and lists with nodes replaced, removed, repeated or exchanged."""
    tree = copy.deepcopy(tree)
    for change in changes:
        places = list(_places(tree))
        if not places:
            return copy.deepcopy(change.junk)
        holder, key = places[int(change.where * len(places))]
        if change.kind == "replace":
            holder[key] = copy.deepcopy(change.junk)
        elif change.kind == "drop":
            del holder[key]
        elif change.kind == "double" and isinstance(holder, list):
            holder.append(holder[key])
        elif change.kind == "double":
            holder[str(change.junk)[:50]] = holder[key]
        else:
            other, at = places[int(change.where * 7919) % len(places)]
            if not isinstance(other[at], dict | list):
                holder[key] = other[at]
    return tree


def _places(tree: Any) -> Iterator[tuple[Any, Any]]:
    if isinstance(tree, dict | list):
        for key, child in list(tree.items() if isinstance(tree, dict) else enumerate(tree)):
            yield tree, key
            yield from _places(child)


def changed_bytes(data: bytes, changes: list[Change], within: int | None = None) -> bytes:
    """`data` with bytes flipped, replaced, removed, repeated or cut off; its first `within` bytes, if given."""
    for change in changes:
        if not data:
            return change.junk if isinstance(change.junk, bytes) else change.junk.encode("utf-8", "replace")
        junk = change.junk if isinstance(change.junk, bytes) else change.junk.encode("utf-8", "replace")
        at = int(change.where * min(len(data), within or len(data)))
        middle = {"flip": bytes([data[at] ^ (1 << (junk[0] % 8 if junk else 0))]), "put": junk, "drop": b""}
        if change.kind == "cut":
            data = data[:at]
        elif change.kind == "double":
            data = data[: at + 50] + data[at:]
        else:
            data = data[:at] + middle[change.kind] + data[at + 1 :]
    return data


def safetensors_parts(data: bytes) -> tuple[dict[str, Any], bytes]:
    """The header of a safetensors file, and what follows it."""
    (length,) = struct.unpack("<Q", data[:8])
    return json.loads(data[8 : 8 + length]), data[8 + length :]


def safetensors_whole(header: Any, rest: bytes) -> bytes:
    """The file of these parts."""
    text = json.dumps(header).encode()
    return struct.pack("<Q", len(text)) + text + rest


class Watch:
    """Notes what runs code, connects or writes while it is on."""

    def __init__(self) -> None:
        self.on, self.seen = False, list[str]()
        sys.addaudithook(self._note)  # it cannot be taken off; it is idle outside of a call

    def _note(self, event: str, arguments: tuple[Any, ...]) -> None:
        if self.on and (event in FORBIDDEN or (event == "open" and _writes(arguments))):
            self.seen.append(f"{event} {arguments!r}"[:200])


def _writes(arguments: tuple[Any, ...]) -> bool:
    path, mode, flags = arguments
    if str(path).startswith(("/proc/", "/dev/")):
        return False
    return any(letter in mode for letter in "wax+") if isinstance(mode, str) else bool((flags or 0) & 3)


WATCH = Watch()


def call(read: Callable[[], object]) -> str | None:
    """Run a reader on hostile contents: None for a result, else the text of leanconv's own error.

    Fails where it raises anything else, takes over `SECONDS` of the processor's time, or starts or writes something.
    """
    start = time.process_time()
    WATCH.on, said = True, None
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            read()
    except LeanconvError as error:
        said = str(error)
    finally:
        WATCH.on = False
    seconds = time.process_time() - start
    assert seconds < SECONDS, f"it took {seconds:.1f} s"
    assert not WATCH.seen, WATCH.seen
    if said is not None:
        assert "\n" not in said and 10 < len(said) < 2_000, f"not one line: {said[:300]!r}"
    return said


@contextmanager
def bounded_memory() -> Iterator[None]:
    """Fail where the block's peak is over `BYTES` beyond its start; at far more, allocations fail, not the machine."""
    before = _memory("VmRSS")
    old = resource.getrlimit(resource.RLIMIT_AS)
    if before:
        Path("/proc/self/clear_refs").write_text("5")  # resets the peak
        resource.setrlimit(resource.RLIMIT_AS, (_memory("VmSize") + 8 * BYTES, old[1]))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_AS, old)
    grown = _memory("VmHWM") - before
    assert grown < BYTES, f"it took {grown / 2**20:.0f} MB"


def _memory(field: str) -> int:
    """Bytes of this process by Linux's field; 0 elsewhere."""
    try:
        lines = Path("/proc/self/status").read_text().splitlines()
    except OSError:
        return 0
    return next(int(line.split()[1]) * 1024 for line in lines if line.startswith(f"{field}:"))


FACTOR = float(os.environ.get("LEANCONV_FUZZ", "1"))  # times as many cases, drawn anew; 100 runs for half an hour
