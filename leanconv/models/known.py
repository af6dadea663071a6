"""Parameters and MACs of leanconv's own networks, counted once and stored in a file, so that listing them takes no time."""

from __future__ import annotations

import json
from functools import cache
from importlib.resources import files
from typing import Any

from leanconv.core.count import count
from leanconv.core.meta import built_on_meta
from leanconv.core.notes import input_size_of
from leanconv.models.create import create_model, list_models

FILE = "counts.json"


@cache
def known_counts() -> dict[str, dict[str, Any]]:
    """The stored counts of every network of `list_models` with its default settings: {name: {"params", "macs", "input_size"}}.

    >>> known_counts()["resnet20"]["params"]
    272474
    """
    known: dict[str, dict[str, Any]] = json.loads(files("leanconv.models").joinpath(FILE).read_text(encoding="utf-8"))
    return known


def counts_of(name: str) -> dict[str, Any]:
    """The counts of one network, computed now. The file is written from these counts, and a test compares the file with them.

    >>> counts_of("resnet20") == known_counts()["resnet20"]
    True
    """
    model = built_on_meta(lambda: create_model(name))
    counted, size = count(model), input_size_of(model)
    return {"params": counted.params, "macs": counted.macs, "input_size": None if size is None else list(size)}


def all_counts() -> str:
    """The text of the file with the counts of all networks, computed now."""
    lines = [f'  "{entry.name}": {json.dumps(counts_of(entry.name))}' for entry in list_models()]
    return "{\n" + ",\n".join(lines) + "\n}\n"
