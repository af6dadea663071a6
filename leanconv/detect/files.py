"""Save and load detectors, with the plan of their backbone."""

from __future__ import annotations

import json
import math
import os
from pathlib import Path
from typing import Any

import torch
from safetensors import safe_open
from torch import nn

from leanconv.conversion.apply import plan_of
from leanconv.conversion.check import check
from leanconv.conversion.plan import Plan
from leanconv.core.errors import FileError, LeanconvError, SettingError
from leanconv.core.meta import built_on_meta, on_meta
from leanconv.core.modes import in_eval
from leanconv.core.reading import reading
from leanconv.detect.detector import describe_detector, described_detector
from leanconv.detect.maps import convert_pyramid_
from leanconv.files.bounds import bounded_settings
from leanconv.files.load import check_tensors, fill_weights, network_of, read_saved
from leanconv.files.save import METADATA_KEY, MODEL_FILE, description, refuse_bad_values, ties, write
from leanconv.files.values import warn_of_bad_values


def save_detector(detector: nn.Module, directory: str | os.PathLike[str]) -> Path:
    """Save `detector` in the format of `leanconv.save`: one safetensors file with each shared weight once, and no pickle.

    Args:
        detector: built by `create_detector`.
        directory: the folder to write to.

    Returns:
        The path of the file.

    Raises:
        SettingError: `create_detector` did not build the detector, or a setting cannot be written as JSON.
        TieError: layers of the backbone no longer share a weight that the plan shares.
    """
    try:
        note = json.loads(json.dumps(dict(describe_detector(detector)), allow_nan=False))
    except (TypeError, ValueError) as error:
        raise SettingError(
            f"a setting of this detector cannot be written as JSON ({error}); give plain values"
        ) from None
    network = detector.get_submodule("backbone.network")
    check(network)
    refuse_bad_values(detector, False)
    info = description(network) | {"ties": ties(detector), "detector": note}
    pyramid = detector.get_submodule("backbone.fpn")
    check(pyramid)
    if isinstance(plan := plan_of(pyramid), Plan):
        info["pyramid"] = plan.to_json()
    return write(detector, info, directory)


def load_detector(directory: str | os.PathLike[str], network: nn.Module | None = None) -> nn.Module:
    """Load a detector that `save_detector` wrote. It is in eval mode, on the CPU.

    Args:
        directory: the folder, or the safetensors file itself.
        network: the dense backbone, if it was not built by name.

    Raises:
        FileError: the file is missing, broken or not a detector, or its tensors do not fit.
    """
    with reading(directory):
        info, tensors, path = read_saved(directory)
        note = info.get("detector")
        if not isinstance(note, dict):
            raise FileError(f"{path.name} holds no detector; open a network with leanconv.load")
        bounded_settings(note, path.name)
        # shapes first, without memory
        bare = network_of(info, None if network is None else on_meta(network), path, len(tensors), built_on_meta)
        with torch.device("meta"):
            check_tensors(_build(info, bare, path), tensors, path)
        backbone = network_of(info, network, path, len(tensors))
        detector = _build(info, backbone, path)
        check_tensors(detector, tensors, path)
        fill_weights(detector, tensors)
        check(backbone)
        check(detector.get_submodule("backbone.fpn"))
    warn_of_bad_values(tensors, path.name)
    return in_eval(detector)


def holds_detector(target: str) -> bool:
    """Whether `target` is a folder in which a detector is saved."""
    path = Path(target).expanduser() / MODEL_FILE
    try:
        with safe_open(path, "pt") as file:
            return '"detector": {' in (file.metadata() or {}).get(METADATA_KEY, "")
    except Exception:  # it is no file of leanconv; opening it says why
        return False


def _build(info: dict[str, Any], network: nn.Module, path: Path) -> nn.Module:
    given = dict(info["detector"])
    if given.get("norm_head") is True and "norm_groups" not in given and isinstance(given.get("pyramid_channels"), int):
        given["norm_groups"] = math.gcd(32, given["pyramid_channels"])  # older files do not store it; this was the rule
    if not isinstance(settings := given.get("settings", {}), dict):
        raise FileError(f"{path.name}: the detector's settings are {settings!r}; save it again")
    try:
        detector = described_detector(given, network)
        if info.get("pyramid") is not None:
            convert_pyramid_(detector, Plan.from_json(info["pyramid"]))
        return detector
    except (LeanconvError, TypeError, ValueError, RuntimeError) as error:
        raise FileError(f"{path.name}: its detector cannot be built ({error}); save it again") from error
