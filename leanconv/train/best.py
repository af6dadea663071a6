"""best.safetensors: the weights of a run's best epoch, with the number of this epoch."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from torch import Tensor, nn

from leanconv.core.atomic import replacing
from leanconv.core.errors import FileError
from leanconv.core.state import versioned
from leanconv.core.storage import memory_of
from leanconv.train.checkpoint import ends_epoch, sha256_of, weights_of, written
from leanconv.train.folder import RunFolder
from leanconv.train.resume import check_weights


def best_epoch(history: Sequence[Mapping[str, Any]]) -> int:
    """The first epoch with the highest validation accuracy, counted from 1.

    >>> best_epoch([{"val_top1_pct": 50.0}, {"val_top1_pct": 60.0}, {"val_top1_pct": 60.0}])
    2
    """
    return max(range(len(history)), key=lambda index: history[index]["val_top1_pct"]) + 1


def keep_best(folder: RunFolder, checkpoint: Mapping[str, Any]) -> None:
    """Write the weights of `checkpoint`, which is already on disk, if they are the weights of the best epoch so far.

    This function runs after the checkpoint is written, and again when it is read. So a kill between the two writes loses
    nothing, and the weights always belong to the history in the checkpoint.

    Args:
        folder: the run's folder.
        checkpoint: the content of last.ckpt.

    Raises:
        RunError: the file cannot be written.
    """
    history = checkpoint["progress"]["history"]
    if not ends_epoch(checkpoint) or best_epoch(history) != len(history):
        return
    from safetensors.torch import save_file

    tensors = {
        name: value.detach().cpu().contiguous().clone()
        for name, value in weights_of(checkpoint).items()
        if isinstance(value, Tensor)
    }
    with written(folder.best), replacing(folder.best) as temporary:
        save_file(tensors, temporary, {"epoch": str(len(history)), "checksum": _checksum(tensors)})


def load_best(model: nn.Module, folder: RunFolder, history: Sequence[Mapping[str, Any]]) -> None:
    """Load the weights of the best epoch into `model`.

    Args:
        model: the network; it is changed.
        folder: the run's folder.
        history: one record for each epoch.

    Raises:
        FileError: the file is missing, was changed, or belongs to another epoch or network.
    """
    from safetensors import SafetensorError, safe_open

    way_out = "restore a copy of the run's folder, or start again in another one"
    try:
        with safe_open(folder.best, "pt") as file:
            said = file.metadata() or {}
            tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
    except (OSError, SafetensorError) as error:
        raise FileError(f"{folder.best}: the weights of the best epoch cannot be read; {way_out}") from error
    if "checksum" not in said:  # of a version that wrote shared weights once
        tensors = _with_shared(model, tensors)
    elif said != {"epoch": str(best_epoch(history)), "checksum": _checksum(tensors)}:
        raise FileError(f"{folder.best}: not the weights that epoch {best_epoch(history)} wrote (checksum); {way_out}")
    check_weights(model, tensors, folder.best)
    model.load_state_dict(versioned(model, tensors), strict=False)


def _checksum(tensors: Mapping[str, Tensor]) -> str:
    return sha256_of({name: tensors[name] for name in sorted(tensors)})


def _with_shared(model: nn.Module, tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """A tensor for every name of the model's state; a name that shares its memory with a stored name gets this tensor."""
    state = {name: value for name, value in model.state_dict().items() if isinstance(value, Tensor)}
    written = {memory_of(state[name]): value for name, value in tensors.items() if name in state}
    return {
        **{name: written[memory_of(value)] for name, value in state.items() if memory_of(value) in written},
        **tensors,
    }
