"""A plain layer that equals a lean one."""

from __future__ import annotations

from typing import TypeVar

import torch
from torch import Tensor, nn

from leanconv.core.errors import SettingError
from leanconv.core.sharing import parameters_in_use

Plain = TypeVar("Plain", nn.Conv2d, nn.Linear)


@torch.no_grad()
def filled(plain: Plain, lean: nn.Module, weight: Tensor, bias: Tensor | None) -> Plain:
    """`plain` with this weight and bias, in the mode of `lean`; trainable if a parameter of `lean` is.

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
    plain.requires_grad_(any(parameter.requires_grad for parameter in parameters_in_use([lean])))
    return plain.train(lean.training)
