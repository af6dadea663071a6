"""Find networks by name: leanconv's, timm's and torchvision's, with their counts if few match."""

from __future__ import annotations

from fnmatch import fnmatchcase
from typing import Any

from leanconv.core.count import count
from leanconv.core.errors import LeanconvError
from leanconv.core.notes import input_size_of
from leanconv.files.target import open_without_weights
from leanconv.models.create import list_models
from leanconv.models.known import known_counts

COUNTED = 25  # building a network to count it takes up to a second


def find_models(pattern: str | None = None) -> list[dict[str, Any]]:
    """List networks by name: leanconv's own, and with a pattern also timm's and torchvision's.

    Args:
        pattern: a name, a part of one, or a glob: ``timm/resnet*``.

    Returns:
        a dict for each network with its name, source, params, macs and input_size. A value is None if it is not known, for
        example for networks of timm when more than `COUNTED` match.
    >>> [row["name"] for row in find_models("*/resnet18")]
    ['timm/resnet18', 'torchvision/resnet18']
    """
    found = _matching(pattern)
    return [_row(name, source, len(found) <= COUNTED) for name, source in found]


def _matching(pattern: str | None) -> list[tuple[str, str]]:
    """(name, source) of the networks that match."""
    own = [(entry.name, entry.source) for entry in list_models()]
    if pattern is None:
        return own
    import timm
    from torchvision import models as torchvision_models

    others = [(f"timm/{name}", "timm") for name in timm.list_models()]
    vision = torchvision_models.list_models(module=torchvision_models)
    others += [(f"torchvision/{name}", "torchvision") for name in vision]
    glob = pattern if any(character in pattern for character in "*?[") else f"*{pattern}*"
    return [(name, source) for name, source in own + others if fnmatchcase(name, glob)]


def _row(name: str, source: str, counted: bool) -> dict[str, Any]:
    row: dict[str, Any] = {"name": name, "source": source, "params": None, "macs": None, "input_size": None}
    if name in known_counts():
        return row | known_counts()[name]
    if not counted:
        return row
    try:
        model = open_without_weights(name)
        counts = count(model)
    except LeanconvError:  # list the name of a network that cannot be built or run alone, without its counts
        return row
    size = input_size_of(model)
    found = {"params": counts.params, "macs": counts.macs, "input_size": list(size) if size else None}
    return row | found | ({"uncounted": list(counts.uncounted)} if counts.uncounted else {})
