"""last.ckpt: written whole with a checksum of each entry, and read back only as it was written."""

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
    """Write `checkpoint`, with the SHA-256 of each of its entries, atomically."""
    from torch.utils.serialization import config

    sealed = {**checkpoint, CHECKSUMS: {name: sha256_of(value) for name, value in checkpoint.items()}}
    # the zip's own sums are what tells a flipped bit before the file is taken apart
    with written(path), replacing(path) as temporary, config.patch("save.compute_crc32", True):  # type: ignore[attr-defined]
        torch.save(sealed, temporary)


@contextlib.contextmanager
def written(path: Path) -> Iterator[None]:
    """Within the block a file of a run is written; what keeps it from that ends the run, and no more than that.

    Raises:
        RunError: the disk is full, say.
    """
    try:
        yield
    except (OSError, RuntimeError) as error:  # torch.save says the second, without the reason
        if isinstance(error, LeanconvError):
            raise
        reason = getattr(error, "strerror", None) or "is the disk full?"
        kept = "what was written before is whole; make room, and continue with --resume (resume=True)"
        raise RunError(f"{path} cannot be written ({reason}); {kept}") from error


def read_checkpoint(path: Path) -> dict[str, Any]:
    """A checkpoint's tensors and plain values; a file that holds anything else, or not what was written, is refused.

    Those of versions that wrote no checksums are read too.

    Raises:
        FileError: it cannot be read, or its content is not what was written.
    """
    try:
        with zipfile.ZipFile(path) as file:
            damaged = file.testzip()
        if damaged is not None:
            raise FileError(f"{path}: not a readable checkpoint ({damaged} in it is damaged); {WAY_OUT}")
        checkpoint = torch.load(path, map_location="cpu", weights_only=True)
    except FileError:
        raise
    except Exception as error:  # what taking a damaged file apart raises is unbounded
        raise FileError(f"{path}: not a readable checkpoint; {WAY_OUT}") from error
    if not isinstance(checkpoint, dict) or not isinstance(checkpoint.get("progress"), dict):
        raise FileError(f"{path}: not a checkpoint of leanconv's; delete it to start again, or choose another folder")
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
    """The name of the first type in nested values that `read_checkpoint` would refuse; None where there is none.

    Sets are refused as well: their order is another one in each process, and so would be their checksum.
    """
    if type(value) in PLAIN:
        return None
    if type(value) in (dict, OrderedDict):
        value = [*value.keys(), *value.values()]
    elif type(value) not in (list, tuple):
        return f"{type(value).__module__}.{type(value).__qualname__}".removeprefix("builtins.")
    return next((found for inner in value if (found := object_in(inner))), None)


def weights_of(checkpoint: Mapping[str, Any]) -> dict[str, Tensor]:
    """The network's own state, averaged where the run averages."""
    return {name.removeprefix("model."): value for name, value in checkpoint["state_dict"].items()}


def ends_epoch(checkpoint: Mapping[str, Any]) -> bool:
    """Whether it was written after the last step of an epoch, its validation included."""
    return bool(checkpoint["loops"]["fit_loop"][BATCHES]["is_last_batch"])


def steps_per_epoch(checkpoint: Mapping[str, Any]) -> int | None:
    """Of the run that wrote it; None in the first epoch, which has more than the steps taken."""
    epochs, taken = len(checkpoint["progress"]["history"]), checkpoint["loops"]["fit_loop"][BATCHES]["current"]["ready"]
    if ends_epoch(checkpoint):
        return int(taken)
    return (checkpoint["global_step"] - taken) // epochs if epochs else None


def sha256_of(value: Any) -> str:
    """SHA-256 of nested plain values and tensors: of kinds, dtypes, shapes and every bit."""
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
