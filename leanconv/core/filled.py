"""A plain layer that equals a lean one."""

from __future__ import annotations

from typing import TypeVar

import torch
from torch import Tensor, nn

from leanconv.core.errors import SettingError
from leanconv.core.layout import is_channels_last, to_channels_last
from leanconv.core.sharing import borrowed, parameters_in_use

Plain = TypeVar("Plain", nn.Conv2d, nn.Linear)


@torch.no_grad()
def filled(plain: Plain, lean: nn.Module, weight: Tensor, bias: Tensor | None) -> Plain:
    """`plain` with this weight and bias, in the mode and memory layout of `lean`.

    The weight is trainable if a parameter of `lean` other than a bias is, and the bias if a bias of `lean` is.

    Raises:
        SettingError: the weight or the bias holds NaN or infinity.
    """
    if not weight.is_meta and not all(bool(part.isfinite().all()) for part in (weight, bias) if part is not None):
        kind = "convolution" if isinstance(plain, nn.Conv2d) else "layer"
        raise SettingError(
            f"{type(lean).__name__}({lean.extra_repr()}) equals a {kind} whose weight holds NaN or infinity: a parameter "
            "holds it, or a norm has a negative running variance; load finite weights"
        )
    plain.weight.copy_(weight)
    if bias is not None:
        assert plain.bias is not None
        plain.bias.copy_(bias)
    trained: dict[bool, list[bool]] = {False: [], True: []}
    for module in (lean, *(bank for part in lean.modules() for bank in borrowed(part))):
        for name, parameter in module.named_parameters():
            trained[name.rpartition(".")[2] == "bias"].append(parameter.requires_grad)
    plain.weight.requires_grad_(any(trained[False]))
    if plain.bias is not None:
        plain.bias.requires_grad_(any(trained[True] or trained[False]))
    if any(is_channels_last(held) and not held.is_contiguous() for held in parameters_in_use([lean])):
        to_channels_last(plain)
    return plain.train(lean.training)
