"""Read a lean network back: no pickle, none of the training code, all or nothing."""

from __future__ import annotations

import json
import os
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from safetensors import SafetensorError, safe_open
from torch import Tensor, nn

from leanconv.conversion.apply import ATTRIBUTE, convert, plan_of
from leanconv.conversion.check import check
from leanconv.conversion.plan import Plan
from leanconv.core.base import unwrapped
from leanconv.core.errors import FileError, LeanconvError
from leanconv.core.meta import built_on_meta
from leanconv.core.state import versioned
from leanconv.core.task import Task, set_task
from leanconv.files.save import FORMAT, METADATA_KEY, MODEL_FILE
from leanconv.files.sparse import set_sparse, unpack
from leanconv.models.create import create_model

# Keywords that would make a builder read or fetch files; a file must not be able to ask for that.
FORBIDDEN = {"pretrained", "weights", "checkpoint_path", "pretrained_cfg", "pretrained_cfg_overlay", "cache_dir"}
# From each older format to the next one
MIGRATIONS: dict[int, Callable[[dict[str, Any]], dict[str, Any]]] = {
    1: lambda info: info | {"task": None, "sparse": {}}
}
LARGEST = 100_000  # of any setting that is a whole number; ImageNet-21k has 21,843 classes


def load(directory: str | os.PathLike[str], model: nn.Module | None = None) -> nn.Module:
    """The network that `save` wrote, in eval mode, on the CPU.

    Args:
        directory: the folder, or the safetensors file itself.
        model: the dense network, for one that is not built by name: ``load(dir, model=MyNet())``.

    Raises:
        FileError: the file is missing, broken, foreign or of a newer version, or its tensors do not fit the network.
    """
    info, tensors, path = opened(directory)
    if "detector" in info:
        raise FileError(f"{path.name} holds a detector; open it with leanconv.detect.load_detector")
    if model is None:  # shapes first, without memory: a file must not be able to ask for a network it does not hold
        compare(network_of(info, None, path, built_on_meta), tensors, path)
    lean = network_of(info, model, path)
    compare(lean, tensors, path)
    fill(lean, tensors)
    try:
        check(lean)
        set_sparse(lean, tuple(info.get("sparse", {})))
        set_task(lean, None if info.get("task") is None else Task.from_json(info["task"]))
    except LeanconvError as error:
        raise FileError(f"{path.name}: {error}") from error
    return lean.eval()


def opened(directory: str | os.PathLike[str]) -> tuple[dict[str, Any], dict[str, Tensor], Path]:
    """The description and all tensors, tied ones under each of their names, of a saved network, and its file."""
    path = Path(directory)
    if path.is_dir() or not path.suffix:
        path = path / MODEL_FILE
    info, tensors = read(path)
    tensors = unpack(tensors, info.get("sparse", {}), path.name)
    ties = info.get("ties") or {}
    if not isinstance(ties, dict) or not all(isinstance(source, str) for source in ties.values()):
        raise FileError(f"{path.name}: its ties are {ties!r} and not names to names; save it again")
    for name, source in ties.items():
        if source in tensors:
            tensors[name] = tensors[source]
    return info, tensors, path


def fill(model: nn.Module, tensors: dict[str, Tensor]) -> None:
    """Put the tensors, which `compare` found to fit, into `model`."""
    for name, tensor in model.state_dict(keep_vars=True).items():
        tensor.data = tensor.data.to(tensors[name].dtype)  # saved in half or double precision, or in a mixture
    model.load_state_dict(versioned(model, tensors), strict=True)


def network_of(
    info: dict[str, Any],
    model: nn.Module | None,
    path: Path,
    how: Callable[[Callable[[], nn.Module]], nn.Module] = lambda build: build(),
) -> nn.Module:
    """The network of the description, with the weights it starts with; `how` says in what way its builder is called."""
    try:
        plan = None if info.get("plan") is None else Plan.from_json(info["plan"])
        base = unwrapped(model) if model is not None else how(lambda: _build(info.get("base"), path))
        if plan is not None and not plan.groups:  # of older files; it kept everything
            setattr(base, ATTRIBUTE, plan)
        # A paper's network is built lean and carries the plan already
        return base if plan is None or plan_of(base) == plan else convert(base, plan)
    except FileError:
        raise
    except LeanconvError as error:
        raise FileError(f"{path.name}: {error}") from error


def read(path: Path) -> tuple[dict[str, Any], dict[str, Tensor]]:
    """leanconv's description and the tensors of a safetensors file."""
    if not path.is_file():
        raise FileError(f"no {path.name} in {path.parent}; save one with lc.save(model, dir) or `leanconv train`")
    try:
        with safe_open(path, framework="pt") as file:
            metadata = file.metadata() or {}
            tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118  not a dict
    except (SafetensorError, OSError, ValueError) as error:
        raise FileError(f"{path.name} is not a whole safetensors file ({error}); save or copy it again") from error
    if METADATA_KEY not in metadata:
        raise FileError(
            f"{path.name} was not saved by leanconv; load it with safetensors, and convert the network again"
        )
    try:
        info = json.loads(metadata[METADATA_KEY])
        version = info["version"]
    except (ValueError, TypeError, KeyError) as error:
        raise FileError(f"{path.name}: its leanconv metadata cannot be read ({error}); save it again") from error
    if not isinstance(version, int) or version < 1 or version > FORMAT:
        raise FileError(f"{path.name} has format {version!r}; this leanconv reads up to {FORMAT}: install a newer one")
    for older in range(version, FORMAT):
        info = MIGRATIONS[older](info)
    return info, tensors


def _build(base: Any, path: Path) -> nn.Module:
    if not isinstance(base, dict) or not isinstance(base.get("name"), str) or not isinstance(base.get("kwargs"), dict):
        raise FileError(f"{path.name} does not say how to build its network; hand it in: load(dir, model=MyNet())")
    large = [value for value in _whole_numbers(base["kwargs"]) if abs(value) > LARGEST]
    if large:
        raise FileError(f"{path.name} asks for a network with {large[0]} of something; no network has over {LARGEST:,}")
    refused = FORBIDDEN & set(base["kwargs"])
    if refused:
        raise FileError(
            f"{path.name} asks for {', '.join(sorted(refused))}, which a model file may not; it is not loaded"
        )
    try:
        return create_model(base["name"], **base["kwargs"])
    except LeanconvError:
        raise
    except Exception as error:  # builders of other libraries raise anything for a setting they do not know
        raise FileError(f"{path.name}: {base['name']!r} cannot be built with {base['kwargs']} ({error})") from error


def _whole_numbers(value: Any) -> Iterator[int]:
    if isinstance(value, dict):
        value = list(value.values())
    if isinstance(value, list):
        for item in value:
            yield from _whole_numbers(item)
    elif isinstance(value, int):
        yield value


def compare(lean: nn.Module, tensors: dict[str, Tensor], path: Path) -> None:
    """Raise where the file's tensors are not those of the network."""
    wanted = lean.state_dict()
    missing, extra = sorted(wanted.keys() - tensors.keys()), sorted(tensors.keys() - wanted.keys())
    shapes = [n for n in wanted if n in tensors and wanted[n].shape != tensors[n].shape]
    for what, names in (("lacks", missing), ("has unknown", extra)):
        if names:
            raise FileError(f"{path.name} {what} {some(names)}; it belongs to another network")
    kinds = [n for n in wanted if n in tensors and wanted[n].is_floating_point() != tensors[n].is_floating_point()]
    if kinds:
        raise FileError(
            f"{path.name}: {kinds[0]!r} is {tensors[kinds[0]].dtype}, which this weight cannot be; save it again"
        )
    if shapes:
        name = shapes[0]
        raise FileError(
            f"{path.name}: {name!r} has shape {tuple(tensors[name].shape)} where the network has "
            f"{tuple(wanted[name].shape)}; it belongs to another network"
        )


def some(names: list[str]) -> str:
    """The first three of these names, quoted, and how many more there are."""
    return ", ".join(map(repr, names[:3])) + (f" and {len(names) - 3} more" if len(names) > 3 else "")
