"""Tensors with many zeros, stored as their other values and one bit for each entry."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from leanconv.core import settings
from leanconv.core.errors import FileError
from leanconv.core.record import get_record, set_record
from leanconv.core.wrappers import unwrapped

MOST_SIDES = 8  # the largest number of dimensions of a tensor
VALUES, MASK = ".nonzero", ".mask"  # follow a tensor's name


def set_sparse(model: nn.Module, names: tuple[str, ...]) -> None:
    """Record that these state dict entries of `model` are stored without their zeros.

    Raises:
        SettingError: `names` is a text and not a sequence of names.
    """
    names = settings.check_names("names", names)
    model = unwrapped(model)
    set_record(model, replace(get_record(model), sparse=names))


def get_sparse(model: nn.Module) -> tuple[str, ...]:
    """The names that `set_sparse` recorded."""
    return get_record(unwrapped(model)).sparse


def pack(tensors: Mapping[str, Tensor], names: tuple[str, ...]) -> tuple[dict[str, Tensor], dict[str, list[int]]]:
    """The tensors, and the shapes of the packed tensors; the tensors of `names` are packed into values and a mask.

    >>> out, shapes = pack({"weight": torch.tensor([0.0, 3.0])}, ("weight",))
    >>> out["weight.nonzero"].tolist(), shapes
    ([3.0], {'weight': [2]})
    >>> unpack(out, shapes, "model.safetensors")["weight"].tolist()
    [0.0, 3.0]
    """
    out = {name: tensor for name, tensor in tensors.items() if name not in names}
    shapes = {}
    for name in names:
        tensor = tensors[name].detach().cpu().contiguous()
        mask = tensor != 0
        out[name + VALUES] = tensor[mask].clone()
        out[name + MASK] = torch.from_numpy(np.packbits(mask.flatten().numpy()))
        shapes[name] = list(tensor.shape)
    return out, shapes


def unpack(tensors: Mapping[str, Tensor], shapes: Any, file: str) -> dict[str, Tensor]:
    """The tensors before `pack`.

    Args:
        tensors: the packed tensors.
        shapes: the shapes that `pack` returned.
        file: the name of the file, for errors.

    Raises:
        FileError: a part is missing, or the parts do not fit each other.
    """
    if not isinstance(shapes, dict):
        raise FileError(f"{file}: its sparse tensors are {shapes!r}, not shapes by name; save it again")
    out = dict(tensors)
    for name, shape in shapes.items():
        values, bits = out.pop(name + VALUES, None), out.pop(name + MASK, None)
        whole = isinstance(shape, list) and len(shape) <= MOST_SIDES
        whole = whole and all(type(side) is int and 0 < side < 2**40 for side in shape)
        if values is None or bits is None or not whole:
            raise FileError(f"{file}: the sparse tensor {name!r} is not whole; save it again")
        count = int(np.prod(shape, dtype=object))
        if bits.dtype != torch.uint8 or bits.numel() != -(-count // 8):
            raise FileError(f"{file}: the mask of {name!r} has {bits.numel()} bytes for {count} entries; save it again")
        mask = torch.from_numpy(np.unpackbits(bits.flatten().numpy(), count=count).astype(bool))
        if int(mask.sum()) != values.numel():
            raise FileError(f"{file}: {name!r} has {values.numel()} values for {int(mask.sum())} places; save it again")
        if name in out:
            raise FileError(f"{file}: {name!r} is stored twice, with and without its zeros; save it again")
        tensor = values.new_zeros(count)
        tensor[mask] = values.flatten()
        out[name] = tensor.reshape(shape)
    return out
