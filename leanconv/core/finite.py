"""A check that weights are finite: one NaN in a dense layer would make all weights that are fitted to the layer NaN."""

from __future__ import annotations

from collections.abc import Sequence

from torch import nn

from leanconv.core.errors import SettingError


def check_finite(convs: Sequence[nn.Module], names: Sequence[str]) -> None:
    """Raise an error if a weight or a bias of `convs` holds NaN or infinity, because nothing can be fitted to it.

    Args:
        names: the name of each layer in the network, for the error.

    Raises:
        SettingError: a weight or a bias is not finite; the error names the layer.
    """
    for conv, name in zip(convs, names, strict=True):
        for kind, tensor in conv.named_parameters(recurse=False):
            wrong = tensor.numel() - int(tensor.isfinite().sum())
            if wrong:
                where = f"{name}.{kind}" if name else kind
                raise SettingError(
                    f"{wrong} of the {tensor.numel()} values of {where!r} are NaN or infinite, and nothing can be fitted to "
                    "them; load finite weights, or convert with init='fresh'"
                )
