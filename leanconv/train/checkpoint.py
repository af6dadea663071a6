"""last.ckpt: written atomically with a checksum of each entry; a changed file is refused."""

from __future__ import annotations

import contextlib
import hashlib
import zipfile
from collections import OrderedDict
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from leanconv.core.atomic import replacing
from leanconv.core.errors import FileError, LeanconvError, RunError

CHECKSUMS = "checksums"
PLAIN = (type(None), bool, int, float, str, bytes, Tensor, nn.Parameter)  # what torch.load(weights_only=True) reads
BATCHES = "epoch_loop.batch_progress"  # where Lightning counts the steps of an epoch
WAY_OUT = "delete it to start again, or restore a copy"


def write_checkpoint(checkpoint: dict[str, Any], path: Path) -> None:
    """Write `checkpoint` atomically, with the SHA-256 of each of its entries.

    Args:
        checkpoint: tensors and plain values.
        path: the file.

    Raises:
        RunError: the file cannot be written.

    >>> write_checkpoint({"progress": {"history": []}}, Path("last.ckpt"))
    >>> read_checkpoint(Path("last.ckpt"))
    {'progress': {'history': []}}
    """
    from torch.utils.serialization import config

    sealed = {**checkpoint, CHECKSUMS: {name: sha256_of(value) for name, value in checkpoint.items()}}
    # The zip file's own checksums detect a flipped bit before the file is parsed
    with written(path), replacing(path) as temporary, config.patch("save.compute_crc32", True):  # type: ignore[attr-defined]
        torch.save(sealed, temporary)


@contextlib.contextmanager
def written(path: Path) -> Iterator[None]:
    """Turn an error while a file of a run is written into one line that ends the run.

    Args:
        path: the file that is written.

    Raises:
        RunError: the file cannot be written, for example because the disk is full.
    """
    try:
        yield
    except (OSError, RuntimeError) as error:  # torch.save raises a RuntimeError, without the reason
        if isinstance(error, LeanconvError):
            raise
        reason = getattr(error, "strerror", None) or "is the disk full?"
        kept = "earlier files are complete; make room, and continue with --resume (resume=True)"
        raise RunError(f"{path} cannot be written ({reason}); {kept}") from error


def read_checkpoint(path: Path) -> dict[str, Any]:
    """A checkpoint's tensors and plain values; a file with any other content, or a changed file, is refused.

    Files of earlier versions, which wrote no checksums, are read too.

    Args:
        path: the file.

    Raises:
        FileError: the file cannot be read, or its content was changed.
    """
    try:
        with zipfile.ZipFile(path) as file:
            damaged = file.testzip()
        if damaged is not None:
            raise FileError(f"{path}: not a readable checkpoint ({damaged} in it is damaged); {WAY_OUT}")
        checkpoint = torch.load(path, map_location="cpu", weights_only=True)
    except FileError:
        raise
    except Exception as error:  # parsing a damaged file may raise anything
        raise FileError(f"{path}: not a readable checkpoint; {WAY_OUT}") from error
    if not isinstance(checkpoint, dict) or not isinstance(checkpoint.get("progress"), dict):
        raise FileError(f"{path}: not a checkpoint of leanconv; delete it to start again, or choose another folder")
    sums = checkpoint.pop(CHECKSUMS, None)
    if sums is not None:
        _verify(checkpoint, sums, path)
    return checkpoint


def _verify(checkpoint: Mapping[str, Any], sums: Any, path: Path) -> None:
    if not isinstance(sums, dict):
        raise FileError(f"{path}: its checksums are damaged; {WAY_OUT}")
    for name in {**sums, **checkpoint}:
        if name not in checkpoint or sha256_of(checkpoint[name]) != sums.get(name):
            raise FileError(f"{path}: {name} is not what the run wrote there (checksum); {WAY_OUT}")


def object_in(value: Any) -> str | None:
    """The name of the first type in nested values that `read_checkpoint` would refuse; None if there is none.

    Sets are refused as well: their order differs between processes, and so would their checksum.

    >>> object_in({"a": [1, 2.0]}), object_in({"a": {1, 2}})
    (None, 'set')
    """
    if type(value) in PLAIN:
        return None
    if type(value) in (dict, OrderedDict):
        value = [*value.keys(), *value.values()]
    elif type(value) not in (list, tuple):
        return f"{type(value).__module__}.{type(value).__qualname__}".removeprefix("builtins.")
    return next((found for inner in value if (found := object_in(inner))), None)


def weights_of(checkpoint: Mapping[str, Any]) -> dict[str, Tensor]:
    """The state of the network in a checkpoint; its averaged weights if the run averages.

    >>> weights_of({"state_dict": {"model.fc.weight": 1}})
    {'fc.weight': 1}
    """
    return {name.removeprefix("model."): value for name, value in checkpoint["state_dict"].items()}


def ends_epoch(checkpoint: Mapping[str, Any]) -> bool:
    """Whether the checkpoint was written after the last step of an epoch and its validation."""
    return bool(checkpoint["loops"]["fit_loop"][BATCHES]["is_last_batch"])


def steps_per_epoch(checkpoint: Mapping[str, Any]) -> int | None:
    """Steps in an epoch of the run that wrote the checkpoint; None within its first epoch, whose length is not known."""
    epochs, taken = len(checkpoint["progress"]["history"]), checkpoint["loops"]["fit_loop"][BATCHES]["current"]["ready"]
    if ends_epoch(checkpoint):
        return int(taken)
    return (checkpoint["global_step"] - taken) // epochs if epochs else None


def sha256_of(value: Any) -> str:
    """SHA-256 of nested plain values and tensors: of their types, dtypes, shapes and every bit.

    >>> sha256_of([1, 2]) == sha256_of((1, 2))
    False
    """
    total = hashlib.sha256()
    for part in _parts(value):
        total.update(part)
    return total.hexdigest()


def _parts(value: Any) -> Iterator[Any]:
    if isinstance(value, Tensor):
        yield f"tensor {value.dtype} {tuple(value.shape)};".encode()
        if value.numel():
            yield value.detach().cpu().contiguous().reshape(-1).view(torch.uint8).numpy()
    elif isinstance(value, Mapping):
        yield f"dict {len(value)};".encode()
        for key, inner in value.items():
            yield from _parts(key)
            yield from _parts(inner)
    elif isinstance(value, list | tuple):
        yield f"{'list' if isinstance(value, list) else 'tuple'} {len(value)};".encode()
        for inner in value:
            yield from _parts(inner)
    else:
        text = f"{type(value).__name__} {value!r}".encode("utf-8", "surrogatepass")
        yield f"{len(text)} ".encode() + text
