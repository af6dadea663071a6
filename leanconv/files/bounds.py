"""Limits on the network that a model file may ask leanconv to build."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from torch import nn
from torch.nn.modules.module import register_module_module_registration_hook

from leanconv.core.errors import FileError
from leanconv.core.reading import levels

LARGEST = 100_000  # the largest whole number in a setting; ImageNet-21k has 21,843 classes
MOST_VALUES = 10_000  # values in all settings of a network together, with their names
EACH, FREE = 30, 5_000  # at most EACH modules for each tensor, and FREE more; most networks have two or three for each


def bounded_settings(settings: Any, file: str) -> None:
    """Raise FileError if the settings hold a number over `LARGEST`, or more than `MOST_VALUES` values.

    >>> bounded_settings({"num_classes": 10}, "model.safetensors")
    """
    seen = 0
    for level in levels(settings):
        seen += len(level)
        if seen > MOST_VALUES:
            raise FileError(f"{file} asks for a network with over {MOST_VALUES:,} settings; save it again")
        large = next((node for node in level if isinstance(node, int | float) and abs(node) > LARGEST), None)
        if large is not None:
            raise FileError(
                f"{file} asks for a network with a setting of {large:.6g}; no network has one over {LARGEST:,}"
            )


@contextmanager
def no_more_modules_than(tensors: int, file: str) -> Iterator[None]:
    """Stop a build inside the block, in this thread, if it makes far more modules than `tensors` tensors could fill.

    Such a build would take very long, and its tensors would not fit at the end.

    Args:
        tensors: the number of tensors in the file.
        file: the name of the file, for the error.

    Raises:
        FileError: the build made more than ``FREE + EACH * tensors`` modules.
    """
    most, thread, made = FREE + EACH * tensors, threading.get_ident(), 0

    def count(parent: nn.Module, name: str, child: nn.Module | None) -> None:
        nonlocal made
        if threading.get_ident() == thread:
            made += 1
            if made > most:
                raise FileError(
                    f"{file} asks for a network of over {most:,} layers and holds {tensors} tensors; save it again"
                )

    hook = register_module_module_registration_hook(count)
    try:
        yield
    finally:
        hook.remove()
