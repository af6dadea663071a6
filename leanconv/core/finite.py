"""Weights that are numbers: one NaN in a dense layer would be in every weight that is fitted to it."""

from __future__ import annotations

from collections.abc import Sequence

from torch import nn

from leanconv.core.errors import SettingError


def check_finite(convs: Sequence[nn.Module], names: Sequence[str]) -> None:
    """Raise where a weight or a bias that others are to be fitted to holds NaN or infinity.

    Raises:
        SettingError: it names the layer.
    """
    for conv, name in zip(convs, names, strict=True):
        for kind, tensor in conv.named_parameters(recurse=False):
            wrong = tensor.numel() - int(tensor.isfinite().sum())
            if wrong:
                where = f"{name}.{kind}" if name else kind
                raise SettingError(
                    f"{wrong} of the {tensor.numel()} values of {where!r} are NaN or infinite, and nothing can be fitted to "
                    "them; load weights that are whole, or convert with init='fresh'"
                )
