"""What a model file may ask to be built: no more than it can hold."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from torch import nn
from torch.nn.modules.module import register_module_module_registration_hook

from leanconv.core.errors import FileError
from leanconv.core.reading import levels

LARGEST = 100_000  # of any setting that is a whole number; ImageNet-21k has 21,843 classes
MOST_VALUES = 10_000  # of all settings of a network together, their names included
EACH, FREE = 30, 5_000  # modules for each tensor of the file, and beyond; most networks have two or three


def bounded_settings(settings: Any, file: str) -> None:
    """Raise FileError where settings hold a number over `LARGEST` or more values than any network takes."""
    seen = 0
    for level in levels(settings):
        seen += len(level)
        if seen > MOST_VALUES:
            raise FileError(f"{file} asks for a network with over {MOST_VALUES:,} settings; save it again")
        large = next((node for node in level if isinstance(node, int | float) and abs(node) > LARGEST), None)
        if large is not None:
            raise FileError(f"{file} asks for a network with {large:.6g} of something; no network has over {LARGEST:,}")


@contextmanager
def no_more_modules_than(tensors: int, file: str) -> Iterator[None]:
    """End what is built inside the block, in this thread, when it has far more modules than a file of so many tensors.

    Raises:
        FileError: it has; building it would take for ever, though its tensors would not fit at the end.
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
