"""Stand-ins for what tools save beside a network's tensors: numpy's numbers and arrays, a run's arguments, paths.

No code of a file runs. PyTorch's reader with ``weights_only=True`` calls its own functions for tensors and the classes below,
and refuses every other name. The classes keep values, and nothing else. numpy's own classes are not given to the
reader: a pickle can tell ``numpy.dtype`` that bytes of the file are addresses of objects.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.serialization import add_safe_globals, clear_safe_globals, get_safe_globals

NUMBERS = re.compile("[biufc][0-9]{1,2}")  # numpy's codes of plain numbers


class Left:
    """An object that no tensor needs."""

    def __init__(self, *_: object) -> None: ...

    def __setstate__(self, state: object) -> None: ...


class ArrayType:
    """The type of an array: numpy's code of a plain number with its byte order, or "" for all others."""

    def __init__(self, code: object = "", *_: object) -> None:
        self.code = code if isinstance(code, str) and NUMBERS.fullmatch(code) else ""

    def __setstate__(self, state: Any) -> None:
        if self.code and state[1] in ("<", ">"):
            self.code = state[1] + self.code


class Array:
    """An array of numpy: a tensor if it holds plain numbers, else None."""

    def __init__(self, *_: object) -> None:
        self.tensor: Tensor | None = None

    def __setstate__(self, state: Any) -> None:
        _, shape, kind, columns_first, data = state
        if isinstance(kind, ArrayType) and kind.code:
            found = np.frombuffer(data, kind.code).reshape(shape, order="F" if columns_first else "C")
            try:
                self.tensor = torch.from_numpy(found.astype(found.dtype.newbyteorder("=")))
            except TypeError:  # numbers that PyTorch does not have, such as float128
                self.tensor = None


STAND_INS: dict[str, type] = {
    "argparse.Namespace": Left,
    **{f"pathlib{part}.{name}Path": Left for part in ("", "._local") for name in ("Posix", "Windows")},
    "numpy.dtype": ArrayType,
    "numpy.ndarray": Left,  # the class that the next function makes
    **{f"numpy.{core}.multiarray._reconstruct": Array for core in ("core", "_core")},
    **{f"numpy.{core}.multiarray.scalar": Left for core in ("core", "_core")},
}


@contextmanager
def stand_ins() -> Iterator[None]:
    """In the block, torch.load(weights_only=True) reads these names as their stand-ins, beside what the caller allowed it."""
    before = get_safe_globals()
    others = [entry for entry in before if _name(entry) not in STAND_INS]
    clear_safe_globals()
    add_safe_globals([*others, *((made, name) for name, made in STAND_INS.items())])
    try:
        yield
    finally:
        clear_safe_globals()
        add_safe_globals(before)


def _name(entry: Any) -> str:
    return entry[1] if isinstance(entry, tuple) else f"{entry.__module__}.{entry.__qualname__}"


def tensor_of(value: object) -> Tensor | None:
    """The tensor that a value of a checkpoint is or stands for, or None."""
    return value.tensor if isinstance(value, Array) else value if isinstance(value, Tensor) else None
