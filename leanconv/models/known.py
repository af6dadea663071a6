"""What leanconv's own networks hold and do, counted once and kept beside them, so that a list of them is there at once."""

from __future__ import annotations

import json
from functools import cache
from importlib.resources import files
from typing import Any

import torch

from leanconv.core.count import count
from leanconv.core.notes import input_size_of
from leanconv.models.create import create_model, list_models

FILE = "counts.json"


@cache
def known_counts() -> dict[str, dict[str, Any]]:
    """{name: {"params", "macs", "input_size"}} of every network of `list_models` with its default settings."""
    known: dict[str, dict[str, Any]] = json.loads(files("leanconv.models").joinpath(FILE).read_text(encoding="utf-8"))
    return known


def counts_of(name: str) -> dict[str, Any]:
    """The same, counted now on a network without weights: what the file is written from, and held equal to by a test."""
    with torch.device("meta"):
        model = create_model(name)
    counted, size = count(model), input_size_of(model)
    return {"params": counted.params, "macs": counted.macs, "input_size": None if size is None else list(size)}


def all_counts() -> str:
    """The file's text, counted now."""
    lines = [f'  "{entry.name}": {json.dumps(counts_of(entry.name))}' for entry in list_models()]
    return "{\n" + ",\n".join(lines) + "\n}\n"
