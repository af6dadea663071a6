"""Find the state dicts in a checkpoint file, at any depth."""

from __future__ import annotations

import pickle
import re
import warnings
import zipfile
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from safetensors import safe_open
from torch import Tensor

from leanconv.core.errors import FileError
from leanconv.core.reading import reading
from leanconv.core.shown import first_names
from leanconv.files.inert import stand_ins, tensor_of
from leanconv.files.shards import checkpoint_file, is_index, parts_of

DEEPEST, MOST = 6, 1000  # searched levels of dicts, and dicts in all
INFLATED = 20  # a zip file may unpack to at most this many times its size; torch does not compress
WAY_OUT = "cannot be read without running its code, or at all; save the network's state dict alone with torch.save"
# Parts that wrappers add to names; no layer has such a name
WRAPPERS = ("_orig_mod", "_fsdp_wrapped_module", "_checkpoint_wrapped_module", "_forward_module")
# Counters that tools leave among the tensors: averaging counts steps, thop counts operations, PyTorch counts batches
COUNTERS = re.compile(r"(^|\.)(n_averaged|total_ops|total_params|num_batches_tracked)$")


@dataclass(frozen=True)
class State:
    """Tensors by name.

    Args:
        where: the keys that lead to the tensors in the file, with dots; "" at the file's root.
        tensors: the tensors by their names.
        metadata: PyTorch's notes on each module, by the module's name.
    """

    where: str
    tensors: dict[str, Tensor]
    metadata: Mapping[str, Any] = field(default_factory=dict)


def read_states(path: Path) -> list[State]:
    """All dicts of a checkpoint file that hold tensors by name; an index of several files is read as one dict.

    Raises:
        FileError: the file is missing, broken, or cannot be read without running code.
    """
    path = checkpoint_file(path)
    return [_joined(path)] if is_index(path) else _in_file(path)


def _joined(index: Path) -> State:
    """The tensors of all files that an index names."""
    tensors: dict[str, Tensor] = {}
    for part, names in parts_of(index).items():
        held = next((state.tensors for state in _in_file(part) if not state.where), {})
        missing = [name for name in names if name not in held]
        if missing:
            raise FileError(
                f"{part.name} has nothing for {first_names(missing)}, which {index.name} places there; fetch it again"
            )
        tensors |= {name: held[name] for name in names}
    return State("", tensors)


def _in_file(path: Path) -> list[State]:
    if path.suffix == ".safetensors":
        with reading(path, "fetch it again"):
            return [_safetensors(path)]
    with reading(path, "save the network's state dict alone with torch.save, or fetch it again"):
        if zipfile.is_zipfile(path):
            with zipfile.ZipFile(path) as archive:
                size = sum(entry.file_size for entry in archive.infolist())
            if size > INFLATED * path.stat().st_size + 2**20:
                raise FileError(
                    f"{path.name} unpacks to {size:,} bytes, which torch.save does not write; fetch it again"
                )
        with warnings.catch_warnings():  # torch warns of files of its older versions
            warnings.simplefilter("ignore")
            found: Any = _loaded(path)
        return list(_states(found))


def _loaded(path: Path) -> Any:
    try:
        with stand_ins():
            return torch.load(path, map_location="cpu", weights_only=True)
    except (pickle.UnpicklingError, RuntimeError) as error:
        if isinstance(error, RuntimeError) and "weights_only" not in str(error):
            raise
        # torch's message advises to run the file's code
        foreign = re.search(r"GLOBAL ([\w.]+)", str(error))
        what = f"holds {foreign[1]}" if foreign else "is cut short or foreign"
        raise FileError(f"{path.name} {what} and {WAY_OUT}") from error


def _safetensors(path: Path) -> State:
    with safe_open(path, framework="pt") as file:
        tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118  not a dict
        same = file.metadata() or {}  # save_model of safetensors notes here the names of tied tensors
    return State("", tensors | {name: tensors[first] for name, first in same.items() if first in tensors})


def _states(root: Any) -> Iterator[State]:
    """The states breadth first, so that a file's own state dict comes before deeper dicts."""
    level: list[tuple[str, Any]] = [("", root)]
    seen: set[int] = set()
    for _ in range(DEEPEST):
        below: list[tuple[str, Any]] = []
        for where, value in level:
            if not isinstance(value, Mapping) or id(value) in seen or len(seen) >= MOST:
                continue
            seen.add(id(value))
            named = {key: item for key, item in value.items() if isinstance(key, str)}
            tensors = {key: found for key, item in named.items() if (found := tensor_of(item)) is not None}
            if tensors:
                yield State(where, tensors, getattr(value, "_metadata", None) or {})
            below += [(f"{where}.{key}".strip("."), item) for key, item in named.items() if isinstance(item, Mapping)]
        level = below


def without(name: str, parts: tuple[str, ...]) -> str:
    """A dotted name without these parts.

    >>> without("_orig_mod.conv1.weight", WRAPPERS)
    'conv1.weight'
    """
    return ".".join(part for part in name.split(".") if part not in parts)
