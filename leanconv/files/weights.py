"""Open a network with the weights of a checkpoint that leanconv did not write."""

from __future__ import annotations

import hashlib
import warnings
from dataclasses import dataclass
from pathlib import Path

from torch import nn

from leanconv.core.errors import LeanconvWarning, SettingError
from leanconv.core.settings import check_path
from leanconv.files.checkpoints import load_checkpoint
from leanconv.files.classifier import class_count
from leanconv.files.shards import checkpoint_file, files_of
from leanconv.files.target import open_target
from leanconv.models.create import parse_target


@dataclass(frozen=True)
class Weights:
    """A checkpoint as a start: its file, the part to load, and a hash of the file.

    Args:
        path: the file.
        state: the part of the file, as in `leanconv.load_checkpoint`.
        digest: the first digits of the file's SHA-256, with the parts of an index.
    """

    path: Path
    state: str | None
    digest: str

    @classmethod
    def open(cls, path: str | Path, state: str | None = None) -> Weights:
        """The checkpoint in a file.

        Raises:
            SettingError: there is no such file.
            FileError: a folder has no index of parts, or a part is missing.
        """
        path = check_path("weights", path)
        if not path.exists():
            raise SettingError(
                f"--weights (weights=) {path}: no such file; give a checkpoint, .safetensors or of torch.save"
            )
        total = hashlib.sha256()
        for each in files_of(checkpoint_file(path)):
            with open(each, "rb") as file:
                hashlib.file_digest(file, lambda: total)
        return cls(path, state, total.hexdigest()[:16])


def open_with_weights(
    target: str,
    weights: str | Path | None,
    *,
    state: str | None = None,
    pretrained: bool = False,
    num_classes: int | None = None,
    in_chans: int | None = None,
) -> nn.Module:
    """The network of `target`, filled from a checkpoint; it gets as many classes as the checkpoint has.

    Args:
        target: a name or a folder, as in `leanconv.files.target.open_target`.
        weights: the checkpoint; None opens `target` alone.
        state: the part of the checkpoint, as in `leanconv.load_checkpoint`.
        pretrained: load published weights; not together with `weights`.
        num_classes: the classes that are needed. If the checkpoint has another number, the last layer starts anew, and a
            warning says so. None takes the checkpoint's.
        in_chans: channels of the image.

    Raises:
        SettingError: the name or a setting is unknown, or two sources of weights are given.
        FileError: the checkpoint does not fit the network.

    >>> import torch
    >>> from leanconv.models import create_model
    >>> torch.save(create_model("resnet8", num_classes=7).state_dict(), "seven.pth")
    >>> open_with_weights("resnet8", "seven.pth").fc.out_features
    7
    """
    if weights is None:
        return open_target(target, pretrained=pretrained, num_classes=num_classes, in_chans=in_chans)
    if pretrained:
        raise SettingError("--pretrained and --weights are two sources of weights; leave one out")
    path = Weights.open(weights).path
    held = class_count(target, path, state)
    wanted = parse_target(target)[1].get("num_classes", num_classes) if "(" in target else num_classes
    fresh = None not in (held, wanted) and held != wanted
    if fresh:
        warnings.warn(
            f"{path.name} has {held} classes and {wanted} are needed: the last layer starts with new weights",
            LeanconvWarning,
            stacklevel=2,
        )
    model = open_target(target, num_classes=wanted or held, in_chans=in_chans)
    return load_checkpoint(model, path, state=state, fresh_classifier=fresh)
