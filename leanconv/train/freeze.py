"""Parameters that do not train during a run."""

from __future__ import annotations

import contextlib
import fnmatch
import warnings
from collections.abc import Iterator, Sequence

from torch import nn
from torch.nn.modules.batchnorm import _NormBase

from leanconv.conversion.globs import ParameterNames
from leanconv.core.errors import LeanconvWarning, SettingError


@contextlib.contextmanager
def frozen(model: nn.Module, globs: Sequence[str]) -> Iterator[None]:
    """Inside the block, parameters that one of `globs` matches do not train: ``requires_grad`` is False.

    A normalisation layer whose parameters are all frozen also keeps its running statistics, and normalises with them: it
    is in eval mode inside the block. A norm without parameters, or with a parameter that trains, is not changed.

    A weight that several layers share is a parameter of the layer that owns it. If a glob matches a layer that borrows the
    weight, and not the owner, a warning says that the weight still trains.

    Args:
        model: the network, in train mode.
        globs: globs over the names of parameters, such as ``"layer1.*"``; a shared parameter has several names.

    Raises:
        SettingError: a glob matches no parameter, or no parameter is left to train.

    >>> model = nn.Sequential(nn.Conv2d(1, 2, 3), nn.BatchNorm2d(2))
    >>> with frozen(model, ["1.*"]):
    ...     model[1].weight.requires_grad, model[1].training, model[0].weight.requires_grad
    (False, False, True)
    >>> model[1].weight.requires_grad, model[1].training
    (True, True)
    """
    names = ParameterNames(model)
    matched = {parameter for glob in globs for parameter in names.matching("freeze", glob)}
    _warn_of_borrowers(model, globs, matched)
    chosen = [parameter for parameter in matched if parameter.requires_grad]
    if chosen and len(chosen) == sum(parameter.requires_grad for parameter in names):
        raise SettingError(f"freeze={list(globs)} matches all parameters; leave some to train")
    norms = [
        norm for norm in model.modules() if isinstance(norm, _NormBase) and norm.training and _all_in(norm, matched)
    ]
    try:
        for parameter in chosen:
            parameter.requires_grad_(False)
        for norm in norms:
            norm.training = False  # eval() would also reach the activation or the dropout inside a norm of timm
        yield
    finally:
        for parameter in chosen:
            parameter.requires_grad_(True)
        for norm in norms:
            norm.training = True


def _warn_of_borrowers(model: nn.Module, globs: Sequence[str], matched: set[nn.Parameter]) -> None:
    names = {parameter: name for name, parameter in model.named_parameters()}
    still: dict[str, str] = {}
    for layer, module in model.named_modules():
        for attribute, bank in module.__dict__.items():
            for part, parameter in bank.named_parameters() if isinstance(bank, nn.Module) else ():
                if parameter not in matched and any(
                    fnmatch.fnmatchcase(f"{layer}.{attribute}.{part}", g) for g in globs
                ):
                    still[layer] = names.get(parameter, part)
    if still:
        layer, owned = next(iter(still.items()))
        more = f" and {len(still) - 1} more" if len(still) > 1 else ""
        warnings.warn(
            f"freeze={list(globs)} matches {layer!r}{more}, but not the shared weight {owned!r} that it uses, which still "
            f"trains; add {owned!r} to freeze it for all layers that share it",
            LeanconvWarning,
            stacklevel=3,
        )


def _all_in(norm: nn.Module, frozen: set[nn.Parameter]) -> bool:
    own = list(norm.parameters(recurse=False))
    return bool(own) and all(parameter in frozen for parameter in own)
