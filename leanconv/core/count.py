"""One honest count: parameters, multiply-adds and bytes of any network."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.utils.flop_counter import FlopCounterMode

from leanconv.core.base import input_size_of
from leanconv.core.errors import SettingError
from leanconv.core.meta import InputSize, example_input, on_meta, quiet_failure


@dataclass(frozen=True, slots=True)
class Count:
    """What a network holds and does.

    Args:
        params: parameters, each tensor once.
        stored: parameters under every name of the state dict; more than `params` where one tensor has two names.
        macs: multiply-adds of convolutions and matrix products for one image (1 MAC = one multiply-add); norms,
            activations and pooling add none. None when no input size is known.
        bytes: weights and buffers, each tensor once, in their present dtype.
    """

    params: int
    stored: int
    macs: int | None
    bytes: int


def unique(tensors: list[Tensor]) -> list[Tensor]:
    """`tensors` without repetitions of one object."""
    return list({id(tensor): tensor for tensor in tensors}.values())


def count_macs(model: nn.Module, input_size: InputSize) -> int:
    """Multiply-adds for one image, by torch's own counter on a copy without weights.

    Raises:
        SettingError: the model does not run on such an input.
    """
    twin = on_meta(model)
    counter = FlopCounterMode(display=False)
    with quiet_failure(model, input_size), torch.no_grad(), counter:
        twin(example_input(twin, input_size))
    return counter.get_total_flops() // 2


def count(model: nn.Module, input_size: InputSize | None = None) -> Count:
    """Parameters (unique and stored), MACs for one image and bytes of `model`.

    Args:
        input_size: (channels, height, width); default: the one the model was made for, where it says so.
    """
    parameters = [p for _, p in model.named_parameters(remove_duplicate=False)]
    buffers = [b for _, b in model.named_buffers(remove_duplicate=False)]
    size = input_size or input_size_of(model)
    if size is not None and len(size) != 3:
        raise SettingError(f"input_size={size!r} must be (channels, height, width)")
    return Count(
        params=sum(p.numel() for p in unique(list(parameters))),
        stored=sum(p.numel() for p in parameters),
        macs=None if size is None else count_macs(model, size),
        bytes=sum(t.numel() * t.element_size() for t in unique([*parameters, *buffers])),
    )
