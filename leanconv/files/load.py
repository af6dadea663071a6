"""Load a lean network from its file: without pickle, without the training code, and completely or not at all."""

from __future__ import annotations

import os
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from safetensors import safe_open
from torch import Tensor, nn

from leanconv.conversion.apply import convert, plan_of, set_plan
from leanconv.conversion.channel_plan import ChannelPlan, apply_channels_, channel_plans
from leanconv.conversion.check import check
from leanconv.conversion.plan import Plan
from leanconv.core.copying import copied, refuse_meta
from leanconv.core.errors import FileError, LeanconvError, LeanconvWarning
from leanconv.core.meta import built_on_meta, on_meta
from leanconv.core.modes import in_eval
from leanconv.core.notes import set_task
from leanconv.core.reading import one_line, parse_json, reading
from leanconv.core.settings import check_path
from leanconv.core.shown import first_names
from leanconv.core.state import versioned
from leanconv.core.storage import Converted
from leanconv.core.task import Task
from leanconv.core.wrappers import unwrapped
from leanconv.files.bounds import bounded_settings, no_more_modules_than
from leanconv.files.layers import other_layer
from leanconv.files.origin import hidden_settings
from leanconv.files.save import CHECKSUM_KEY, FORMAT, METADATA_KEY, MODEL_FILE, crc32_of
from leanconv.files.sparse import set_sparse, unpack
from leanconv.files.values import warn_of_bad_values
from leanconv.models.create import create_model

# Keywords with which a builder would read or download files; a model file must not be able to ask for that.
FORBIDDEN = {
    "pretrained", "weights", "checkpoint_path", "pretrained_cfg", "pretrained_cfg_overlay", "cache_dir",
    "weights_backbone", "pretrained_backbone", "default_cfg",
}  # fmt: skip
FLOATS = {torch.float16, torch.bfloat16, torch.float32, torch.float64}  # the types with which layers compute


def _octaves_with_strides(info: dict[str, Any]) -> dict[str, Any]:
    """Name the form of an octave network that was saved when strides were its default."""
    base = info.get("base")
    if not isinstance(base, dict) or base.get("name") != "oct_resnet50" or not isinstance(base.get("kwargs"), dict):
        return info
    return info | {"base": base | {"kwargs": {"down": "stride"} | base["kwargs"]}}


# The function that turns each older format into the next format
MIGRATIONS: dict[int, Callable[[dict[str, Any]], dict[str, Any]]] = {
    1: lambda info: info | {"task": None, "sparse": {}},
    2: lambda info: info | {"channels": []},
    3: _octaves_with_strides,
}


def load(directory: str | os.PathLike[str], model: nn.Module | None = None) -> nn.Module:
    """The network that `save` wrote, in eval mode, on the CPU.

    A warning names the first layer that has another class or other settings than in the network that was saved.

    Args:
        directory: the folder, or the safetensors file itself.
        model: the dense network, if it is not built by name: ``load(dir, model=MyNet())``. A copy of it is filled; the network
            itself stays as it is.

    Raises:
        FileError: the file is missing, damaged, changed, not leanconv's or of a newer version, or its tensors do not fit the
            network.
        SettingError: `directory` is no path, or `model` is no network.

    >>> import leanconv as lc
    >>> folder = lc.save(lc.create_model("resnet20"), "plain")
    >>> lc.load(folder).training
    False
    """
    path = _file(directory)
    if model is not None:
        unwrapped(model)
    with reading(path):
        info, tensors, path = read_saved(path)
        if "detector" in info:
            raise FileError(f"{path.name} holds a detector; open it with leanconv.detect.load_detector")
        # Compare the shapes first, without memory: a file must not be able to ask for a network that it does not hold
        if model is None:
            check_tensors(network_of(info, None, path, len(tensors), built_on_meta), tensors, path)
        elif info.get("plan") is not None or info["channels"]:
            check_tensors(network_of(info, on_meta(model), path, len(tensors)), tensors, path)
        lean = network_of(info, None if model is None else copied(unwrapped(model)), path, len(tensors))
        check_tensors(lean, tensors, path)
        fill_weights(lean, tensors)
        check(lean)
        set_sparse(lean, tuple(info.get("sparse", {})))
        set_task(lean, None if info.get("task") is None else Task.from_json(info["task"]))
        layers = info.get("layers")  # older files have none
        changed = other_layer(lean, layers) if isinstance(layers, str) else None
    if changed is not None:
        warnings.warn(
            f"{path.name} was saved from a network with other layers: here {changed}. The tensors fit, but the network may "
            "compute something else; hand in the one that was saved, or install the versions of its packages",
            LeanconvWarning,
            stacklevel=2,
        )
    warn_of_bad_values(tensors, path.name)
    return in_eval(lean)


def _file(directory: str | os.PathLike[str]) -> Path:
    path = check_path("directory", directory)
    return path / MODEL_FILE if path.is_dir() or not path.suffix else path


def read_saved(directory: str | os.PathLike[str]) -> tuple[dict[str, Any], dict[str, Tensor], Path]:
    """The description of a saved network, all its tensors (a tied tensor under each of its names), and the file.

    Raises:
        FileError: as `load`, for everything that the file alone shows.
    """
    path = _file(directory)
    info, tensors = read_file(path)
    tensors = unpack(tensors, info.get("sparse", {}), path.name)
    ties = info.get("ties") or {}
    if not isinstance(ties, dict) or not all(isinstance(source, str) for source in ties.values()):
        raise FileError(f"{path.name}: its ties are {ties!r} and not names to names; save it again")
    for name, source in ties.items():
        if name in tensors:
            raise FileError(f"{path.name}: {name!r} is stored and tied to {source!r} too; save it again")
        if source not in tensors:
            raise FileError(f"{path.name}: {name!r} is tied to {source!r}, which it lacks; save it again")
    return info, tensors | {name: tensors[source] for name, source in ties.items()}, path


def fill_weights(model: nn.Module, tensors: dict[str, Tensor]) -> None:
    """Copy the tensors, which `check_tensors` accepted, into `model`.

    Raises:
        SettingError: `model` is on the meta device.
    """
    refuse_meta(model, "build the network on the CPU, then load")
    converted = Converted()
    for name, tensor in model.state_dict(keep_vars=True).items():
        tensor.data = converted.to(tensor, tensors[name].dtype)  # saved in half or double precision, or in a mixture
    model.load_state_dict(versioned(model, tensors), strict=True)


def network_of(
    info: dict[str, Any],
    model: nn.Module | None,
    path: Path,
    tensors: int,
    how: Callable[[Callable[[], nn.Module]], nn.Module] = lambda build: build(),
) -> nn.Module:
    """The network that the description defines, with its initial weights.

    Args:
        info: the description in the file.
        model: the dense network, if the description does not name its builder.
        path: the file, for errors.
        tensors: the number of tensors in the file; the build stops if it makes far more layers.
        how: calls the builder, for example on the meta device.

    Raises:
        FileError: the network cannot be built, or computes something else than the saved network.
    """
    try:
        plan = None if info.get("plan") is None else Plan.from_json(info["plan"])
        with no_more_modules_than(tensors, path.name):
            base = unwrapped(model) if model is not None else how(lambda: _build(info.get("base"), path))
            base = _narrowed(base, info["channels"], path)
            if plan is not None and not plan.groups:  # in older files; such a plan keeps all layers
                set_plan(base, plan)
            # A paper's network is built lean and carries the plan already
            lean = base if plan is None or plan_of(base) == plan else convert(base, plan)
        forms = info.get("forms")  # older files give this only by the builder's settings
        if forms is not None and forms != hidden_settings(lean):
            raise FileError(
                one_line(
                    f"{path.name} holds a network with {forms} and this one has {hidden_settings(lean)}: the same tensors "
                    "compute something else in it; build it with these settings"
                )
            )
        return lean
    except FileError:
        raise
    except LeanconvError as error:
        raise FileError(one_line(f"{path.name}: {error}")) from error


def _narrowed(base: nn.Module, plans: Any, path: Path) -> nn.Module:
    """`base` with the channels of the file: a copy, unless it has them already."""
    if not isinstance(plans, list):
        raise FileError(f"{path.name}: its channels are no list of plans; save it again")
    found = [ChannelPlan.from_json(plan) for plan in plans]
    applied = [plan.to_json() for plan in channel_plans(base)]
    if applied == [plan.to_json() for plan in found[: len(applied)]]:  # the given network may be narrower already
        found = found[len(applied) :]
    if not found:
        return base
    base = copied(base)
    for plan in found:
        apply_channels_(base, plan)
    return base


def read_file(path: Path) -> tuple[dict[str, Any], dict[str, Tensor]]:
    """leanconv's description and the tensors of a safetensors file.

    Raises:
        FileError: the file is missing, damaged, changed after it was saved, not leanconv's, or of a newer format.
    """
    if not path.is_file():
        raise FileError(f"no {path.name} in {path.parent}; save one with lc.save(model, dir) or `leanconv train`")
    try:
        with safe_open(path, framework="pt") as file:
            metadata = file.metadata() or {}
            tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118  not a dict
    except Exception as error:  # safetensors and torch may raise anything for a changed header
        raise FileError(
            one_line(f"{path.name} is not a whole safetensors file ({error}); save or copy it again")
        ) from error
    if METADATA_KEY not in metadata:
        raise FileError(
            f"{path.name} was not saved by leanconv; load it into the network it belongs to with lc.load_checkpoint"
        )
    noted = metadata.get(CHECKSUM_KEY)  # older files have none
    if noted is not None and noted != crc32_of(metadata[METADATA_KEY], tensors):
        raise FileError(
            f"{path.name} was changed after it was saved: its checksum is another; copy it again, or, if you changed it on "
            "purpose, load its tensors with safetensors into the network and save that with lc.save"
        )
    try:
        info = parse_json(metadata[METADATA_KEY])
        version = info["version"]
    except (ValueError, TypeError, KeyError) as error:
        raise FileError(
            one_line(f"{path.name}: its leanconv metadata cannot be read ({error}); save it again")
        ) from error
    if type(version) is not int or version < 1 or version > FORMAT:
        raise FileError(f"{path.name} has format {version!r}; this leanconv reads up to {FORMAT}: install a newer one")
    for older in range(version, FORMAT):
        info = MIGRATIONS[older](info)
    return info, tensors


def _build(base: Any, path: Path) -> nn.Module:
    if not isinstance(base, dict) or not isinstance(base.get("name"), str) or not isinstance(base.get("kwargs"), dict):
        raise FileError(f"{path.name} does not say how to build its network; hand it in: load(dir, model=MyNet())")
    if "(" in base["name"]:  # settings in brackets would escape the checks below
        raise FileError(f"{path.name} asks for a network with settings in its name; save it again")
    bounded_settings(base["kwargs"], path.name)
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
        raise FileError(
            one_line(f"{path.name}: {base['name']!r} cannot be built with {base['kwargs']} ({error}); save it again")
        ) from error


def check_tensors(lean: nn.Module, tensors: dict[str, Tensor], path: Path) -> None:
    """Raise FileError if the file's tensors do not have the names, kinds and shapes of the network's tensors."""
    wanted = lean.state_dict()
    missing, extra = sorted(wanted.keys() - tensors.keys()), sorted(tensors.keys() - wanted.keys())
    shapes = [n for n in wanted if n in tensors and wanted[n].shape != tensors[n].shape]
    for what, names in (("lacks", missing), ("has unknown", extra)):
        if names:
            raise FileError(f"{path.name} {what} {first_names(names)}; it belongs to another network")
    kinds = [n for n in wanted if n in tensors and not _same_kind(wanted[n], tensors[n])]
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


def _same_kind(wanted: Tensor, found: Tensor) -> bool:
    """Whether a tensor can fill an entry: real numbers may differ in precision, other types must be equal."""
    return found.dtype == wanted.dtype or (wanted.dtype in FLOATS and found.dtype in FLOATS)
