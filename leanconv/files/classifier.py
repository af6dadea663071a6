"""The last layer of a classifier: its tensors, and its number of outputs in a checkpoint."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path

from torch import nn

from leanconv.core.meta import built_on_meta
from leanconv.files.releases import places
from leanconv.files.states import COUNTERS, WRAPPERS, State, read_states, without
from leanconv.files.target import is_saved, open_target
from leanconv.models.create import parse_target

Aliases = tuple[str, ...]  # the names that one tensor may have in a checkpoint


def classifier_tensors(model: nn.Module) -> frozenset[str]:
    """The names of the last layer's tensors; empty if the network ends in no layer that is known as its classifier.

    >>> sorted(classifier_tensors(nn.Sequential(nn.Linear(4, 8), nn.Linear(8, 2))))
    ['1.bias', '1.weight']
    """
    get = getattr(model, "get_classifier", None)
    last = get() if callable(get) else None
    if not isinstance(last, nn.Module):
        last = next((m for m in reversed(list(model.modules())) if isinstance(m, nn.Linear)), None)
    name = next((name for name, module in model.named_modules() if module is last), None)
    if last is None or name is None:
        return frozenset()
    return frozenset(f"{name}.{key}" if name else key for key in last.state_dict())


def class_count(target: str, path: Path, state: str | None = None) -> int | None:
    """The number of classes of a checkpoint: the outputs of the layer that is the classifier of `target`.

    Args:
        target: the network, by name.
        path: the checkpoint.
        state: the part of the checkpoint, as in `leanconv.load_checkpoint`.

    Returns:
        None if `target` is a folder or states its own num_classes, or if the checkpoint shows no or several numbers.

    Raises:
        FileError: the checkpoint cannot be read without running code.

    >>> import torch
    >>> from leanconv.models import create_model
    >>> torch.save({"model": create_model("resnet8", num_classes=7).state_dict()}, "seven.pth")
    >>> class_count("resnet8", Path("seven.pth"))
    7
    """
    if is_saved(target) or "num_classes" in parse_target(target)[1]:
        return None
    model = built_on_meta(lambda: open_target(target))
    last = {name for name in classifier_tensors(model) if name.endswith("weight")}
    known = places(model)
    body = [place.theirs for place in known if place.ours not in last and not COUNTERS.search(place.ours)]
    probes = [body[0], body[len(body) // 2], body[-1]] if body else []
    states = read_states(path)
    chosen = [found for found in states if state is not None and state in found.where.split(".")] or states
    wanted = [place.theirs for place in known if place.ours in last]
    counts = {count for found in chosen for count in _counts(found, wanted, probes)}
    return counts.pop() if len(counts) == 1 else None


def _counts(state: State, wanted: Sequence[Aliases], probes: Sequence[Aliases]) -> Iterator[int]:
    """The rows of the tensors that have the classifier's name, under each prefix that has the network's other names too."""
    names = {without(name, WRAPPERS): tensor for name, tensor in state.tensors.items()}
    aliases = probes[0] if probes else ("",)
    prefixes = {
        name[: -len(alias)] for name in names for alias in aliases if name == alias or name.endswith(f".{alias}")
    }
    for prefix in prefixes:
        if all(any(prefix + alias in names for alias in probe) for probe in probes):
            for theirs in wanted:
                found = next((names[prefix + alias] for alias in theirs if prefix + alias in names), None)
                if found is not None and found.ndim >= 2:
                    yield found.shape[0]
